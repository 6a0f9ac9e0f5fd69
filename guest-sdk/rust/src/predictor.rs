//! The trait an author implements, and how the component's exports run it.

use std::{
    cell::OnceCell,
    io::{Write, stderr, stdout},
};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::{Answer, Input, report};

/// The interface whose manifest [`describe`] writes.
const INTERFACE: &str = "dormouse:predictor@0.1.0";

/// A function that answers predictions.
///
/// `setup` runs once, when the predictor is deployed. Every prediction runs in a fresh instance that begins where `setup`
/// ended, and nothing stays behind.
pub trait Predictor: Sized + 'static {
    /// What a prediction takes: a struct that derives [`Input`].
    type Input: Input;
    /// What it answers: text, a number, a type that derives [`Output`](crate::Output), a list of
    /// these; or a [`Stream`](crate::Stream) of them, when it answers piece by piece.
    type Output: Answer;

    /// Written by `#[predictor]`.
    #[doc(hidden)]
    const ABOUT: About;

    /// Prepares what predictions start from, such as an open model. When it is left out,
    /// `#[predictor]` writes one that calls `Default::default`.
    fn setup() -> Result<Self>;

    /// Answers one prediction. The input was checked against its schema.
    fn predict(&self, input: Self::Input) -> Result<Self::Output>;
}

/// What `#[predictor]` knows about a predictor.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// Name of the predictor.
    pub name: &'static str,
    /// What it is for, in a sentence.
    pub description: &'static str,
    /// Models it may open.
    pub models: &'static [&'static str],
    /// Wall-clock time it wishes for a prediction.
    pub timeout_ms: Option<u64>,
    /// Linear memory it wishes for.
    pub memory_bytes: Option<u64>,
}

/// The manifest: everything the host knows of a predictor without running it.
pub fn describe<P: Predictor>() -> Value {
    let about = P::ABOUT;
    let limits: Map<String, Value> = [("timeout_ms", about.timeout_ms), ("memory_bytes", about.memory_bytes)]
        .into_iter()
        .filter_map(|(name, limit)| Some((name.to_owned(), limit?.into())))
        .collect();
    json!({
        "interface": INTERFACE,
        "name": about.name,
        "description": about.description,
        "input": P::Input::schema(),
        "output": P::Output::answer_schema(),
        "streaming": P::Output::STREAMING,
        "models": about.models,
        "limits": limits,
    })
}

/// The export `setup`: fills `predictor`.
pub fn setup<P: Predictor>(predictor: &OnceCell<P>) -> Result<(), String> {
    report::install_logger();
    let made = flushed(P::setup())?;
    // A second setup of the same instance changes nothing.
    let _ = predictor.set(made);
    Ok(())
}

/// The export `predict`: input and output are JSON.
pub fn predict<P: Predictor>(predictor: &OnceCell<P>, input: &str) -> Result<String, String> {
    let predictor = predictor.get().ok_or("predict was called before setup")?;
    flushed(answer(predictor, input))
}

fn answer<P: Predictor>(predictor: &P, input: &str) -> Result<String> {
    let input = parse(input).context("input does not fit the predictor's type")?;
    predictor.predict(input)?.into_json()
}

/// Reads `text` as a `T`. JSON Schema counts `3.0` as an integer and Rust's integers don't, so
/// whole numbers are tried as such before giving up.
fn parse<T: Input>(text: &str) -> serde_json::Result<T> {
    serde_json::from_str(text).or_else(|error| {
        let mut value = serde_json::from_str(text)?;
        make_whole(&mut value);
        serde_json::from_value(value).map_err(|_| error)
    })
}

/// Turns every float without a fraction into an integer, where that loses nothing.
fn make_whole(value: &mut Value) {
    const EXACT_MAX: f64 = (1_u64 << 53) as f64;
    match value {
        Value::Number(number) => {
            let float = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() <= EXACT_MAX);
            if let Some(float) = float.filter(|_| number.is_f64()) {
                *value = Value::from(float as i64);
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(make_whole),
        Value::Object(members) => members.values_mut().for_each(make_whole),
        _ => {}
    }
}

/// Sends what was printed without a line end, and writes an error with its causes on one line.
fn flushed<T>(result: Result<T>) -> Result<T, String> {
    // Without a reader of the logs there is nobody to tell.
    let _ = stdout().flush();
    let _ = stderr().flush();
    result.map_err(|error| format!("{error:#}"))
}
