//! `#[derive(Input)]`: JSON to the type, the type to its schema, and back to JSON for defaults.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::{DeriveInput, Field, FieldsNamed, Ident, Result, spanned::Spanned};

use crate::{
    attributes::{FieldOptions, docs},
    bounds, literal,
    shape::{self, Choice, Shape},
};

pub(crate) fn expand(item: &DeriveInput) -> Result<TokenStream> {
    let description = docs(&item.attrs);
    match Shape::of(item, "Input")? {
        Shape::Object(fields) => object(&item.ident, &description, fields),
        Shape::Choices(choices) => Ok(enumeration(&item.ident, &description, &choices)),
    }
}

fn object(ident: &Ident, description: &str, fields: &FieldsNamed) -> Result<TokenStream> {
    let parts = fields.named.iter().map(InputField::new).collect::<Result<Vec<_>>>()?;
    let names: Vec<_> = parts.iter().map(|part| part.ident).collect();
    let keys = parts.iter().map(|part| &part.key);
    let members = parts.iter().map(InputField::member);
    let defaults = parts.iter().filter_map(InputField::default_function);
    let properties = parts.iter().map(InputField::property);
    let title = ident.to_string();
    Ok(quote! {
        #[allow(non_snake_case, clippy::all)]
        const _: () = {
            use ::dormouse_guest::__private as __sdk;

            #(#defaults)*

            #[derive(__sdk::serde::Deserialize)]
            #[serde(crate = "::dormouse_guest::__private::serde", deny_unknown_fields)]
            struct __Fields { #(#members),* }

            impl<'de> __sdk::serde::Deserialize<'de> for #ident {
                fn deserialize<D: __sdk::serde::Deserializer<'de>>(
                    deserializer: D,
                ) -> ::core::result::Result<Self, D::Error> {
                    let fields = <__Fields as __sdk::serde::Deserialize>::deserialize(deserializer)?;
                    ::core::result::Result::Ok(Self { #(#names: fields.#names),* })
                }
            }

            impl ::dormouse_guest::Input for #ident {
                fn schema() -> __sdk::Value {
                    __sdk::object(#title, #description, ::std::vec![#(#properties),*])
                }

                fn to_json(&self) -> __sdk::Value {
                    __sdk::Value::Object(::core::iter::FromIterator::from_iter([
                        #((::std::string::String::from(#keys),
                            ::dormouse_guest::Input::to_json(&self.#names))),*
                    ] as [(::std::string::String, __sdk::Value); _]))
                }
            }
        };
    })
}

fn enumeration(ident: &Ident, description: &str, choices: &[Choice]) -> TokenStream {
    let variants: Vec<_> = choices.iter().map(|choice| choice.ident).collect();
    let spellings: Vec<_> = choices.iter().map(|choice| &choice.spelling).collect();
    let title = ident.to_string();
    quote! {
        const _: () = {
            use ::dormouse_guest::__private as __sdk;

            #[derive(__sdk::serde::Deserialize)]
            #[serde(crate = "::dormouse_guest::__private::serde")]
            enum __Choice { #(#[serde(rename = #spellings)] #variants),* }

            impl<'de> __sdk::serde::Deserialize<'de> for #ident {
                fn deserialize<D: __sdk::serde::Deserializer<'de>>(
                    deserializer: D,
                ) -> ::core::result::Result<Self, D::Error> {
                    ::core::result::Result::Ok(
                        match <__Choice as __sdk::serde::Deserialize>::deserialize(deserializer)? {
                            #(__Choice::#variants => Self::#variants),*
                        },
                    )
                }
            }

            impl ::dormouse_guest::Input for #ident {
                fn schema() -> __sdk::Value {
                    __sdk::enumeration(#title, #description, &[#(#spellings),*])
                }

                fn to_json(&self) -> __sdk::Value {
                    __sdk::Value::from(match self { #(Self::#variants => #spellings),* })
                }
            }
        };
    }
}

/// One field with its options.
struct InputField<'a> {
    field: &'a Field,
    ident: &'a Ident,
    key: String,
    options: FieldOptions,
}

impl<'a> InputField<'a> {
    fn new(field: &'a Field) -> Result<Self> {
        let (ident, key) = shape::key(field);
        let options = FieldOptions::parse(&field.attrs)?;
        bounds::check(&options)?;
        Ok(Self { field, ident, key, options })
    }

    /// The field as `serde` deserialises it.
    fn member(&self) -> TokenStream {
        let (ident, ty) = (self.ident, &self.field.ty);
        let default = self.options.default.as_ref().map(|_| {
            let path = self.default_name().to_string();
            quote!(#[serde(default = #path)])
        });
        quote!(#default #ident: #ty)
    }

    fn default_name(&self) -> Ident {
        format_ident!("__default_{}", self.key)
    }

    fn default_function(&self) -> Option<TokenStream> {
        let (name, ty) = (self.default_name(), &self.field.ty);
        let value = literal::adapt(self.options.default.as_ref()?, ty);
        Some(quote!(fn #name() -> #ty { #value }))
    }

    /// The field as the schema describes it. Spans are the type's, so that a bound which the type
    /// can't have is reported at the field.
    fn property(&self) -> TokenStream {
        let ty = &self.field.ty;
        let span = ty.span();
        let (key, title, description) = (&self.key, shape::title(&self.key), docs(&self.field.attrs));
        let mut calls = Vec::new();
        if self.options.default.is_some() {
            let name = self.default_name();
            calls.push(quote!(.default(#name())));
        }
        let inner = literal::without_option(ty);
        for (method, bound) in [("minimum", &self.options.ge), ("maximum", &self.options.le)] {
            let method = Ident::new(method, span);
            if let Some(value) = bound.as_ref().map(|bound| literal::adapt(bound, inner)) {
                calls.push(quote_spanned!(span=> .#method::<#ty>(#value)));
            }
        }
        let lengths = [("min_length", &self.options.min_length), ("max_length", &self.options.max_length)];
        for (method, bound) in lengths {
            let method = Ident::new(method, span);
            if let Some(value) = bound {
                calls.push(quote_spanned!(span=> .#method::<#ty>(#value)));
            }
        }
        if let Some(regex) = &self.options.regex {
            calls.push(quote_spanned!(span=> .regex::<#ty>(#regex)));
        }
        if let Some(choices) = &self.options.choices {
            let values = choices.elems.iter().map(|choice| literal::adapt(choice, inner));
            calls.push(quote!(.choices::<#inner>(&[#(#values),*])));
        }
        quote_spanned!(span=> __sdk::Property::input::<#ty>(#key, #title, #description) #(#calls)*)
    }
}
