//! Output that goes out while the predictor runs.

use std::marker::PhantomData;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{Answer, Output, host, schema};

/// A streamed answer: elements reach the caller when they are emitted, not when `predict` returns.
///
/// ```
/// # use dormouse_guest::prelude::*;
/// # fn predict() -> Result<Stream<u32>> {
/// let mut out = Stream::new();
/// for count in 1..=3 {
///     out.emit(count)?;
/// }
/// Ok(out)
/// # }
/// # predict().unwrap();
/// ```
#[derive(Debug)]
#[must_use = "return the stream from `predict`"]
pub struct Stream<T> {
    elements: PhantomData<fn(T)>,
}

impl<T: Output> Stream<T> {
    /// A stream nothing was emitted to.
    #[expect(clippy::new_without_default, reason = "an empty stream is no useful default answer")]
    pub fn new() -> Self {
        Self { elements: PhantomData }
    }

    /// Sends one element to the caller; waits while the caller is slow. Fails when the output limit
    /// is reached.
    pub fn emit(&mut self, element: T) -> Result<()> {
        let json = serde_json::to_string(&element).context("element can't be written as JSON")?;
        host::emit(&json).map_err(anyhow::Error::msg)
    }

    /// Emits every element of `elements` as it comes; the first error ends it. A
    /// [`Completion`](crate::llm::Completion) is such an iterator of text.
    pub fn emit_all<E>(&mut self, elements: impl IntoIterator<Item = Result<T, E>>) -> Result<()>
    where
        anyhow::Error: From<E>,
    {
        elements.into_iter().try_for_each(|element| self.emit(element?))
    }
}

impl<T: Output> Answer for Stream<T> {
    const STREAMING: bool = true;

    fn answer_schema() -> Value {
        schema::iterator(T::schema())
    }

    fn into_json(self) -> Result<String> {
        // The elements are out already; null says there is no other answer.
        Ok("null".to_owned())
    }
}
