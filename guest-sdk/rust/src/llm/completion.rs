//! A completion under way.

use super::{Chunk, Error, Finish, Usage};
use crate::bindings::dormouse::predictor::llm as host;

/// A completion under way: an iterator over its text as it is generated. Dropping it cancels it.
#[derive(Debug)]
pub struct Completion {
    handle: host::Completion,
    is_over: bool,
}

impl Completion {
    pub(super) fn new(handle: host::Completion) -> Self {
        Self { handle, is_over: false }
    }

    /// Waits for the next piece with its tokens, and log-probabilities if they were asked for;
    /// `None` at the end. Its text is empty while a stop string or a character is incomplete.
    pub fn chunk(&mut self) -> Result<Option<Chunk>, Error> {
        if self.is_over {
            return Ok(None);
        }
        let next = self.handle.next();
        self.is_over = !matches!(next, Ok(Some(_)));
        Ok(next?)
    }

    /// Waits for the end and returns the text that has not been read.
    pub fn text(self) -> Result<String, Error> {
        self.collect()
    }

    /// Why it ended; `None` while it runs.
    pub fn finish(&self) -> Option<Finish> {
        self.handle.finish()
    }

    /// What it has cost so far.
    pub fn usage(&self) -> Usage {
        self.handle.usage()
    }
}

impl Iterator for Completion {
    type Item = Result<String, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.chunk() {
                Ok(Some(chunk)) if chunk.text.is_empty() => {}
                Ok(Some(chunk)) => return Some(Ok(chunk.text)),
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Waits for several completions, which run side by side, and returns their texts in order. The first
/// error, of starting or of running, cancels the rest.
pub fn join(completions: impl IntoIterator<Item = Result<Completion, Error>>) -> Result<Vec<String>, Error> {
    let running = completions.into_iter().collect::<Result<Vec<_>, _>>()?;
    running.into_iter().map(Completion::text).collect()
}
