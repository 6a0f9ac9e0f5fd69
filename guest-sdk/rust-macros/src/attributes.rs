//! What `#[input(..)]` on a field says, and doc comments.

use syn::{
    Attribute, Error, Expr, ExprArray, ExprLit, Lit, LitStr, Meta, Result, meta::ParseNestedMeta,
    spanned::Spanned,
};

/// The options of one field, as written.
#[derive(Default)]
pub(crate) struct FieldOptions {
    pub(crate) default: Option<Expr>,
    pub(crate) ge: Option<Expr>,
    pub(crate) le: Option<Expr>,
    pub(crate) min_length: Option<Expr>,
    pub(crate) max_length: Option<Expr>,
    pub(crate) regex: Option<LitStr>,
    pub(crate) choices: Option<ExprArray>,
}

impl FieldOptions {
    /// Reads every `#[input(..)]` among `attributes`.
    pub(crate) fn parse(attributes: &[Attribute]) -> Result<Self> {
        let mut options = Self::default();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("input")) {
            attribute.parse_nested_meta(|meta| options.parse_one(&meta))?;
        }
        Ok(options)
    }

    fn parse_one(&mut self, meta: &ParseNestedMeta) -> Result<()> {
        let key = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
        match key.as_str() {
            "default" => set(&mut self.default, meta),
            "ge" => set(&mut self.ge, meta),
            "le" => set(&mut self.le, meta),
            "min_length" => set(&mut self.min_length, meta),
            "max_length" => set(&mut self.max_length, meta),
            "regex" => set(&mut self.regex, meta),
            "choices" => set(&mut self.choices, meta),
            _ => Err(meta.error(
                "unknown option; there are default, ge, le, min_length, max_length, regex and choices",
            )),
        }
    }
}

/// Parses `= value` into `slot`, once.
pub(crate) fn set<T: syn::parse::Parse>(slot: &mut Option<T>, meta: &ParseNestedMeta) -> Result<()> {
    if slot.is_some() {
        return Err(meta.error("given twice"));
    }
    *slot = Some(meta.value()?.parse()?);
    Ok(())
}

/// The doc comment: its lines trimmed and joined by spaces, an empty line starting a new one.
pub(crate) fn docs(attributes: &[Attribute]) -> String {
    let mut text = String::new();
    for line in attributes.iter().filter_map(doc_line) {
        let line = line.trim();
        if line.is_empty() {
            text.push('\n');
        } else {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push(' ');
            }
            text.push_str(line);
        }
    }
    text.trim().to_owned()
}

fn doc_line(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(meta) = &attribute.meta else { return None };
    match &meta.value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) if meta.path.is_ident("doc") => Some(text.value()),
        _ => None,
    }
}

/// Refuses `#[input(..)]` where it would mean nothing.
pub(crate) fn refuse_options(attributes: &[Attribute], place: &str) -> Result<()> {
    match attributes.iter().find(|attribute| attribute.path().is_ident("input")) {
        Some(attribute) => Err(Error::new(attribute.span(), format!("{place} takes no input options"))),
        None => Ok(()),
    }
}
