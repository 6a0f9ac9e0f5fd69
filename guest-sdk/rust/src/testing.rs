//! Runs a predictor in its author's own tests, without a host.
//!
//! ```
//! use dormouse_guest::{prelude::*, testing};
//! # #[derive(Input)]
//! # struct Input { count: u32 }
//! # #[derive(Default)]
//! # struct Count;
//! # #[predictor]
//! # impl Predictor for Count {
//! #     type Input = Input;
//! #     type Output = Stream<u32>;
//! #     fn predict(&self, input: Input) -> Result<Stream<u32>> {
//! #         let mut out = Stream::new();
//! #         out.emit_all((1..=input.count).map(Ok::<_, Error>))?;
//! #         Ok(out)
//! #     }
//! # }
//!
//! let prediction = testing::predict::<Count>(r#"{"count": 2}"#).unwrap();
//! assert_eq!(prediction.emitted, [1, 2]);
//! ```
//!
//! There are no models here: opening one fails. A predictor that needs them is tested by deploying it.

use std::cell::{OnceCell, RefCell};

use serde_json::Value;

use crate::{Predictor, predictor};

/// What a prediction did.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Prediction {
    /// What it returned; null when it streamed.
    pub output: Value,
    /// What it emitted, in order.
    pub emitted: Vec<Value>,
    /// What it logged through the `log` crate.
    pub logs: Vec<(log::Level, String)>,
    /// Its progress reports.
    pub progress: Vec<(f32, String)>,
    /// The metrics it recorded, in order.
    pub metrics: Vec<(String, f64)>,
}

thread_local! {
    static RECORD: RefCell<Prediction> = RefCell::default();
}

/// The manifest that the host would read.
pub fn describe<P: Predictor>() -> Value {
    predictor::describe::<P>()
}

/// Sets `P` up and gives it `input`, which is JSON and is *not* checked against the schema, as the
/// host would. Fails with the text that the caller would see.
pub fn predict<P: Predictor>(input: &str) -> Result<Prediction, String> {
    RECORD.take();
    let instance = OnceCell::new();
    predictor::setup::<P>(&instance)?;
    let json = predictor::predict(&instance, input)?;
    let output = serde_json::from_str(&json).map_err(|error| error.to_string())?;
    Ok(Prediction { output, ..RECORD.take() })
}

pub(crate) fn emit(json: &str) -> Result<(), String> {
    let element = serde_json::from_str(json).map_err(|error| error.to_string())?;
    RECORD.with_borrow_mut(|record| record.emitted.push(element));
    Ok(())
}

pub(crate) fn log(level: log::Level, message: &str) {
    RECORD.with_borrow_mut(|record| record.logs.push((level, message.to_owned())));
}

pub(crate) fn metric(name: &str, value: f64) {
    RECORD.with_borrow_mut(|record| match record.metrics.iter_mut().find(|(other, _)| other == name) {
        Some((_, last)) => *last = value,
        None => record.metrics.push((name.to_owned(), value)),
    });
}

pub(crate) fn progress(fraction: f32, note: &str) {
    RECORD.with_borrow_mut(|record| record.progress.push((fraction, note.to_owned())));
}
