//! What both derives read of a type, and how names become JSON and titles.

use syn::{
    Data, DeriveInput, Error, Field, Fields, FieldsNamed, Ident, Result, ext::IdentExt, spanned::Spanned,
};

use crate::attributes;

/// The types that have a schema.
pub(crate) enum Shape<'a> {
    /// A struct with named fields: a JSON object.
    Object(&'a FieldsNamed),
    /// An enum without fields: one of these strings.
    Choices(Vec<Choice<'a>>),
}

/// One variant of an enum.
pub(crate) struct Choice<'a> {
    /// The variant.
    pub(crate) ident: &'a Ident,
    /// Its spelling in JSON.
    pub(crate) spelling: String,
}

impl<'a> Shape<'a> {
    /// Reads `item`, or says what a `trait_name` can be derived for.
    pub(crate) fn of(item: &'a DeriveInput, trait_name: &str) -> Result<Self> {
        if !item.generics.params.is_empty() {
            return Err(Error::new(item.generics.span(), format!("{trait_name} can't be generic")));
        }
        attributes::refuse_options(&item.attrs, "the type itself")?;
        match &item.data {
            Data::Struct(data) => match &data.fields {
                Fields::Named(fields) => Ok(Self::Object(fields)),
                _ => Err(Error::new(item.ident.span(), format!("{trait_name} needs named fields"))),
            },
            Data::Enum(data) if data.variants.is_empty() => {
                Err(Error::new(item.ident.span(), format!("{trait_name} needs at least one variant")))
            }
            Data::Enum(data) => data.variants.iter().map(choice).collect::<Result<_>>().map(Self::Choices),
            Data::Union(_) => {
                Err(Error::new(item.ident.span(), format!("{trait_name} can't be derived for a union")))
            }
        }
    }
}

fn choice(variant: &syn::Variant) -> Result<Choice<'_>> {
    attributes::refuse_options(&variant.attrs, "a variant")?;
    match variant.fields {
        Fields::Unit => Ok(Choice { ident: &variant.ident, spelling: snake_case(&variant.ident) }),
        _ => Err(Error::new(variant.span(), "a choice can't hold fields; use a struct with an enum in it")),
    }
}

/// A field's identifier and its key in JSON.
pub(crate) fn key(field: &Field) -> (&Ident, String) {
    let ident = field.ident.as_ref().expect("fields of an object are named");
    (ident, ident.unraw().to_string())
}

/// `max_tokens` as `Max Tokens`.
pub(crate) fn title(key: &str) -> String {
    key.split('_').filter(|word| !word.is_empty()).map(capitalised).collect::<Vec<_>>().join(" ")
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// `VeryFormal` as `very_formal`.
fn snake_case(ident: &Ident) -> String {
    let mut text = String::new();
    for letter in ident.unraw().to_string().chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_capitalise_each_word() {
        assert_eq!(title("max_tokens"), "Max Tokens");
        assert_eq!(title("_x"), "X");
    }

    #[test]
    fn variants_are_spelled_in_snake_case() {
        assert_eq!(snake_case(&syn::parse_quote!(VeryFormal)), "very_formal");
        assert_eq!(snake_case(&syn::parse_quote!(Plain)), "plain");
    }
}
