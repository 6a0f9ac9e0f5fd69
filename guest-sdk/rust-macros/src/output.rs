//! `#[derive(Output)]`: the type to JSON, and to its schema.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{DeriveInput, FieldsNamed, Ident, Result, spanned::Spanned};

use crate::{
    attributes::docs,
    shape::{self, Choice, Shape},
};

pub(crate) fn expand(item: &DeriveInput) -> Result<TokenStream> {
    let description = docs(&item.attrs);
    Ok(match Shape::of(item, "Output")? {
        Shape::Object(fields) => object(&item.ident, &description, fields),
        Shape::Choices(choices) => enumeration(&item.ident, &description, &choices),
    })
}

fn object(ident: &Ident, description: &str, fields: &FieldsNamed) -> TokenStream {
    let names: Vec<_> = fields.named.iter().map(|field| shape::key(field).0).collect();
    let types: Vec<_> = fields.named.iter().map(|field| &field.ty).collect();
    let properties = fields.named.iter().map(|field| {
        let (ty, (_, key)) = (&field.ty, shape::key(field));
        let (title, description) = (shape::title(&key), docs(&field.attrs));
        quote_spanned!(ty.span()=> __sdk::Property::output::<#ty>(#key, #title, #description))
    });
    let title = ident.to_string();
    quote! {
        const _: () = {
            use ::dormouse_guest::__private as __sdk;

            #[derive(__sdk::serde::Serialize)]
            #[serde(crate = "::dormouse_guest::__private::serde", rename = #title)]
            struct __Fields<'a> {
                #(#names: &'a #types,)*
                #[serde(skip)]
                __lifetime: ::core::marker::PhantomData<&'a ()>,
            }

            impl __sdk::serde::Serialize for #ident {
                fn serialize<S: __sdk::serde::Serializer>(
                    &self,
                    serializer: S,
                ) -> ::core::result::Result<S::Ok, S::Error> {
                    let fields =
                        __Fields { #(#names: &self.#names,)* __lifetime: ::core::marker::PhantomData };
                    __sdk::serde::Serialize::serialize(&fields, serializer)
                }
            }

            impl ::dormouse_guest::Output for #ident {
                fn schema() -> __sdk::Value {
                    __sdk::object(#title, #description, ::std::vec![#(#properties),*])
                }
            }
        };
    }
}

fn enumeration(ident: &Ident, description: &str, choices: &[Choice]) -> TokenStream {
    let variants = choices.iter().map(|choice| choice.ident);
    let spellings: Vec<_> = choices.iter().map(|choice| &choice.spelling).collect();
    let title = ident.to_string();
    quote! {
        const _: () = {
            use ::dormouse_guest::__private as __sdk;

            impl __sdk::serde::Serialize for #ident {
                fn serialize<S: __sdk::serde::Serializer>(
                    &self,
                    serializer: S,
                ) -> ::core::result::Result<S::Ok, S::Error> {
                    serializer.serialize_str(match self { #(Self::#variants => #spellings),* })
                }
            }

            impl ::dormouse_guest::Output for #ident {
                fn schema() -> __sdk::Value {
                    __sdk::enumeration(#title, #description, &[#(#spellings),*])
                }
            }
        };
    }
}
