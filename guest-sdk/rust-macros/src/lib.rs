//! The macros of `dormouse-guest`: [`Input`] and [`Output`] turn types into JSON Schema, and
//! [`macro@predictor`] turns an `impl Predictor` into a component's exports.
//!
//! Use them through `dormouse_guest::prelude`, where the traits of the same names live.

#![warn(missing_docs)]
#![deny(unsafe_code)]

mod attributes;
mod bounds;
mod input;
mod literal;
mod output;
mod predictor;
mod shape;
#[cfg(test)]
mod tests;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Makes a struct what a predictor takes, or an enum one of its fields' choices.
///
/// Doc comments become descriptions. A field is required unless it has a default or is an `Option`.
/// `#[input(..)]` on a field takes
///
/// - `default = EXPR`: the value when the caller gives none;
/// - `ge = N`, `le = N`: inclusive bounds of a number;
/// - `min_length = N`, `max_length = N`: of a string in characters, of a list in elements;
/// - `regex = "..."`: what a string must match;
/// - `choices = [A, B]`: the only values allowed.
///
/// Enums without fields are strings: `enum Tone { VeryFormal }` is spelled `"very_formal"`.
#[proc_macro_derive(Input, attributes(input))]
pub fn derive_input(item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as DeriveInput);
    input::expand(&item).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Makes a struct or an enum without fields what a predictor may answer or emit.
///
/// Doc comments become descriptions in the output schema. Enums are spelled as [`Input`] spells them.
#[proc_macro_derive(Output)]
pub fn derive_output(item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as DeriveInput);
    output::expand(&item).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Exports an `impl Predictor` as a component.
///
/// Options, all of them optional: `models = ["name"]` (models it may open), `name = "..."` (default:
/// the crate's), `description = "..."` (default: the impl's doc comment, else the crate's),
/// `timeout_ms = N` and `memory_bytes = N` (what it wishes for; a deployment's settings win).
/// Without a `setup`, the predictor is made by `Default`.
#[proc_macro_attribute]
pub fn predictor(options: TokenStream, item: TokenStream) -> TokenStream {
    predictor::expand(options.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}
