//! `#[predictor]`: completes an `impl Predictor` and exports it from the component.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{
    Error, ImplItem, ItemImpl, LitInt, LitStr, Result, Token, bracketed, meta::ParseNestedMeta,
    parse::Parser, parse_quote, punctuated::Punctuated, spanned::Spanned,
};

use crate::attributes::{docs, set};

pub(crate) fn expand(options: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let options = Options::parse(options)?;
    let mut item: ItemImpl = syn::parse2(item)
        .map_err(|error| Error::new(error.span(), "#[predictor] stands on `impl Predictor for YourType`"))?;
    if !implements_predictor(&item) {
        return Err(Error::new(item.self_ty.span(), "#[predictor] stands on `impl Predictor for YourType`"));
    }
    if !item.generics.params.is_empty() {
        return Err(Error::new(item.generics.span(), "a predictor can't be generic"));
    }
    let about = options.about(&docs(&item.attrs));
    item.items.push(parse_quote!(const ABOUT: ::dormouse_guest::About = #about;));
    if !item.items.iter().any(|part| matches!(part, ImplItem::Fn(function) if function.sig.ident == "setup"))
    {
        item.items.push(default_setup(&item));
    }
    let exports = exports(&item);
    Ok(quote!(#item #exports))
}

fn implements_predictor(item: &ItemImpl) -> bool {
    let name = item.trait_.as_ref().and_then(|(_, path, _)| path.segments.last());
    name.is_some_and(|name| name.ident == "Predictor")
}

/// `setup` by `Default`; the span is the type's, so that a missing `Default` is reported there.
fn default_setup(item: &ItemImpl) -> ImplItem {
    let make = quote::quote_spanned!(item.self_ty.span()=>
        <Self as ::core::default::Default>::default());
    parse_quote! {
        fn setup() -> ::dormouse_guest::Result<Self> {
            ::core::result::Result::Ok(#make)
        }
    }
}

/// The component's three exports. What `setup` made waits in a thread-local, which needs no `Sync`;
/// a component has one thread.
fn exports(item: &ItemImpl) -> TokenStream {
    let ty = &item.self_ty;
    quote! {
        #[cfg(target_family = "wasm")]
        const _: () = {
            use ::dormouse_guest::__private as __sdk;

            ::std::thread_local! {
                static PREDICTOR: ::core::cell::OnceCell<#ty> = const { ::core::cell::OnceCell::new() };
            }

            struct __Exports;

            impl __sdk::bindings::Guest for __Exports {
                fn describe() -> ::std::string::String {
                    __sdk::describe::<#ty>().to_string()
                }

                fn setup() -> ::core::result::Result<(), ::std::string::String> {
                    PREDICTOR.with(__sdk::setup)
                }

                fn predict(
                    input: ::std::string::String,
                ) -> ::core::result::Result<::std::string::String, ::std::string::String> {
                    PREDICTOR.with(|predictor| __sdk::predict(predictor, &input))
                }
            }

            __sdk::bindings::export_predictor!(__Exports with_types_in ::dormouse_guest::__private::bindings);
        };

        // Native builds export nothing, yet the predictor is no dead code there.
        #[cfg(not(target_family = "wasm"))]
        const _: fn() = || {
            let _ = ::dormouse_guest::__private::predict::<#ty>;
            let _ = <#ty as ::dormouse_guest::Predictor>::setup;
        };
    }
}

/// What stands in the attribute's parentheses.
#[derive(Default)]
struct Options {
    name: Option<LitStr>,
    description: Option<LitStr>,
    models: Vec<LitStr>,
    timeout_ms: Option<LitInt>,
    memory_bytes: Option<LitInt>,
}

impl Options {
    fn parse(tokens: TokenStream) -> Result<Self> {
        let mut options = Self::default();
        syn::meta::parser(|meta| options.parse_one(&meta)).parse2(tokens)?;
        Ok(options)
    }

    fn parse_one(&mut self, meta: &ParseNestedMeta) -> Result<()> {
        let key = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
        match key.as_str() {
            "name" => set(&mut self.name, meta),
            "description" => set(&mut self.description, meta),
            "timeout_ms" => set(&mut self.timeout_ms, meta),
            "memory_bytes" => set(&mut self.memory_bytes, meta),
            "models" => {
                let value = meta.value()?;
                let names;
                bracketed!(names in value);
                self.models.extend(Punctuated::<LitStr, Token![,]>::parse_terminated(&names)?);
                Ok(())
            }
            _ => Err(meta
                .error("unknown option; there are models, name, description, timeout_ms and memory_bytes")),
        }
    }

    /// The constant that the manifest is made from.
    fn about(&self, docs: &str) -> TokenStream {
        let name = match &self.name {
            Some(name) => quote!(#name),
            None => quote!(::core::env!("CARGO_PKG_NAME")),
        };
        let description = match &self.description {
            Some(description) => quote!(#description),
            None if !docs.is_empty() => quote!(#docs),
            None => quote!(::core::env!("CARGO_PKG_DESCRIPTION")),
        };
        let models = &self.models;
        let (timeout_ms, memory_bytes) = (option(&self.timeout_ms), option(&self.memory_bytes));
        quote! {
            ::dormouse_guest::About {
                name: #name,
                description: #description,
                models: &[#(#models),*],
                timeout_ms: #timeout_ms,
                memory_bytes: #memory_bytes,
            }
        }
    }
}

fn option(value: &Option<LitInt>) -> TokenStream {
    match value {
        Some(value) => quote!(::core::option::Option::Some(#value)),
        None => quote!(::core::option::Option::None),
    }
}
