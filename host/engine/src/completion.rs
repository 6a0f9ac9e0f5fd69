//! A completion under way.

use crate::{Chunk, Error, Finish, Usage};

/// The reading end of a completion. Dropping it cancels the completion at the next step and frees
/// its KV blocks.
#[derive(Debug)]
pub struct Completion {}

impl Completion {
    /// The next piece; `None` at the end. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Chunk>, Error> {
        todo!()
    }

    /// Why it ended; `None` while it runs.
    pub fn finish(&self) -> Option<Finish> {
        todo!()
    }

    /// What it has cost so far.
    pub fn usage(&self) -> Usage {
        todo!()
    }
}
