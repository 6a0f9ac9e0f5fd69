//! Lets authors write `default = "world"` for a `String`, `1` for an `f32`, and a bare value for an
//! `Option`, so that attributes read like JSON while types are still checked by the compiler.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote_spanned};
use syn::{
    Expr, ExprArray, ExprLit, ExprUnary, GenericArgument, Lit, LitFloat, PathArguments, Type, UnOp,
    spanned::Spanned,
};

/// `expr` as a value of type `ty`. Only literals, and lists of them, change; everything else is left
/// to the compiler, which then names the mismatch at the author's own words.
pub(crate) fn adapt(expr: &Expr, ty: &Type) -> TokenStream {
    let span = expr.span();
    if let Some(inner) = argument(ty, "Option") {
        if is_option(expr) {
            return expr.to_token_stream();
        }
        let value = adapt(expr, inner);
        return quote_spanned!(span=> ::core::option::Option::Some(#value));
    }
    match expr {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) if is(ty, "String") => {
            quote_spanned!(span=> ::std::string::String::from(#text))
        }
        Expr::Lit(ExprLit { lit: Lit::Int(digits), .. }) if is_float(ty) && digits.suffix().is_empty() => {
            LitFloat::new(&format!("{}.0", digits.base10_digits()), span).into_token_stream()
        }
        Expr::Unary(ExprUnary { op: UnOp::Neg(_), expr, .. }) if is_float(ty) => {
            let value = adapt(expr, ty);
            quote_spanned!(span=> -#value)
        }
        Expr::Array(ExprArray { elems, .. }) => match argument(ty, "Vec") {
            Some(inner) => {
                let elements = elems.iter().map(|element| adapt(element, inner));
                quote_spanned!(span=> ::std::vec![#(#elements),*])
            }
            None => expr.to_token_stream(),
        },
        _ => expr.to_token_stream(),
    }
}

/// `ty` without an `Option` around it.
pub(crate) fn without_option(ty: &Type) -> &Type {
    argument(ty, "Option").unwrap_or(ty)
}

/// The number that a literal spells.
pub(crate) fn number(expr: &Expr) -> Option<f64> {
    match expr {
        Expr::Lit(ExprLit { lit: Lit::Int(digits), .. }) => digits.base10_parse().ok(),
        Expr::Lit(ExprLit { lit: Lit::Float(digits), .. }) => digits.base10_parse().ok(),
        Expr::Unary(ExprUnary { op: UnOp::Neg(_), expr, .. }) => number(expr).map(|value| -value),
        _ => None,
    }
}

/// The text that a literal spells.
pub(crate) fn text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
        _ => None,
    }
}

fn is_float(ty: &Type) -> bool {
    is(ty, "f32") || is(ty, "f64")
}

fn is(ty: &Type, name: &str) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == name))
}

/// `T` of `name<T>`.
fn argument<'a>(ty: &'a Type, name: &str) -> Option<&'a Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last().filter(|last| last.ident == name)?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first() {
        Some(GenericArgument::Type(inner)) => Some(inner),
        _ => None,
    }
}

fn is_option(expr: &Expr) -> bool {
    let path = match expr {
        Expr::Call(call) => &*call.func,
        other => other,
    };
    matches!(path, Expr::Path(path) if path.path.segments.last()
        .is_some_and(|last| last.ident == "None" || last.ident == "Some"))
}
