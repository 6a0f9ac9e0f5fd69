//! Finds, while the predictor is being compiled, options that contradict each other.

use syn::{Error, Expr, Result, spanned::Spanned};

use crate::{attributes::FieldOptions, literal};

/// Checks literals against each other; what isn't a literal is left to the schema's validator.
pub(crate) fn check(options: &FieldOptions) -> Result<()> {
    ordered(&options.ge, &options.le, "ge", "le")?;
    ordered(&options.min_length, &options.max_length, "min_length", "max_length")?;
    if let Some(choices) = options.choices.as_ref().filter(|choices| choices.elems.is_empty()) {
        return Err(Error::new(choices.span(), "no choices: nothing could be given"));
    }
    match &options.default {
        Some(default) => check_default(default, options),
        None => Ok(()),
    }
}

fn ordered(low: &Option<Expr>, high: &Option<Expr>, low_name: &str, high_name: &str) -> Result<()> {
    let (Some(low), Some(high)) = (low, high) else { return Ok(()) };
    match (literal::number(low), literal::number(high)) {
        (Some(l), Some(h)) if l > h => {
            Err(Error::new(low.span(), format!("{low_name} = {l} is above {high_name} = {h}")))
        }
        _ => Ok(()),
    }
}

fn check_default(default: &Expr, options: &FieldOptions) -> Result<()> {
    let fail = |message| Err(Error::new(default.span(), message));
    let bound = |bound: &Option<Expr>| bound.as_ref().and_then(literal::number);
    if let Some(value) = literal::number(default) {
        match (bound(&options.ge), bound(&options.le)) {
            (Some(ge), _) if value < ge => return fail(format!("default {value} is below ge = {ge}")),
            (_, Some(le)) if value > le => return fail(format!("default {value} is above le = {le}")),
            _ => {}
        }
    }
    if let Some(length) = literal::text(default).map(|text| text.chars().count() as f64) {
        match (bound(&options.min_length), bound(&options.max_length)) {
            (Some(min), _) if length < min => {
                return fail(format!("default has {length} characters, min_length is {min}"));
            }
            (_, Some(max)) if length > max => {
                return fail(format!("default has {length} characters, max_length is {max}"));
            }
            _ => {}
        }
    }
    match options.choices.as_ref().map(|choices| (&choices.elems, literal::text(default))) {
        Some((choices, Some(text)))
            if choices.iter().all(|choice| literal::text(choice).is_some_and(|other| other != text)) =>
        {
            fail(format!("default {text:?} is none of the choices"))
        }
        _ => Ok(()),
    }
}
