//! A completion under way: a mailbox between the engine thread and one reader.
//!
//! The engine thread never waits for a reader: what is not yet read is one chunk that grows, bounded
//! by the completion's `max_tokens`.

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

use crate::{Chunk, Error, Finish, Usage};

/// The reading end of a completion. Dropping it cancels the completion at the next step and frees
/// its KV blocks.
#[derive(Debug)]
pub struct Completion {
    mailbox: Arc<Mailbox>,
}

/// The engine thread's end. Dropping it before [`Writer::finish`] ends the completion with
/// [`Error::Cancelled`].
#[derive(Debug)]
pub(crate) struct Writer {
    mailbox: Arc<Mailbox>,
}

#[derive(Debug, Default)]
struct Mailbox {
    state: Mutex<State>,
    /// Holds one permit while there may be news.
    news: Notify,
    is_reader_gone: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// What was generated since the last read; its tokens tell whether anything was.
    unread: Chunk,
    usage: Usage,
    end: Option<Result<Finish, Error>>,
}

impl Completion {
    /// Both ends of a completion.
    pub(crate) fn new() -> (Writer, Self) {
        let mailbox = Arc::<Mailbox>::default();
        (Writer { mailbox: mailbox.clone() }, Self { mailbox })
    }

    /// The next piece: everything since the last call, at least a token or some text. `None` at the
    /// end. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Failed`] when the model failed, [`Error::Cancelled`] when the engine shut down; the
    /// same again on every further call.
    pub async fn next(&mut self) -> Result<Option<Chunk>, Error> {
        loop {
            {
                let mut state = self.mailbox.lock();
                if state.has_unread() {
                    return Ok(Some(std::mem::take(&mut state.unread)));
                }
                match &state.end {
                    Some(Ok(_)) => return Ok(None),
                    Some(Err(error)) => return Err(error.clone()),
                    None => {}
                }
            }
            self.mailbox.news.notified().await;
        }
    }

    /// Why it ended; `None` while it runs or a piece is unread.
    pub fn finish(&self) -> Option<Finish> {
        let state = self.mailbox.lock();
        match &state.end {
            Some(Ok(finish)) if !state.has_unread() => Some(*finish),
            Some(Err(Error::Cancelled)) => Some(Finish::Cancelled),
            _ => None,
        }
    }

    /// What it has cost so far.
    pub fn usage(&self) -> Usage {
        self.mailbox.lock().usage
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.mailbox.is_reader_gone.store(true, Ordering::Relaxed);
    }
}

impl Writer {
    /// Whether no one will read any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.mailbox.is_reader_gone.load(Ordering::Relaxed)
    }

    /// Adds to what is unread, and replaces the usage.
    pub(crate) fn put(&self, chunk: Chunk, usage: Usage) {
        let mut state = self.mailbox.lock();
        state.unread.text += &chunk.text;
        state.unread.tokens.extend(chunk.tokens);
        state.unread.logprobs.extend(chunk.logprobs);
        state.usage = usage;
        drop(state);
        self.mailbox.news.notify_one();
    }

    /// Ends the completion.
    pub(crate) fn finish(self, end: Result<Finish, Error>) {
        self.mailbox.end(end);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.mailbox.end(Err(Error::Cancelled));
    }
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while the mailbox is locked")
    }

    /// The first end stays.
    fn end(&self, end: Result<Finish, Error>) {
        self.lock().end.get_or_insert(end);
        self.news.notify_one();
    }
}

impl State {
    fn has_unread(&self) -> bool {
        !self.unread.tokens.is_empty() || !self.unread.text.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(text: &str, token: u32) -> Chunk {
        Chunk { text: text.into(), tokens: vec![token], logprobs: vec![] }
    }

    #[tokio::test]
    async fn unread_chunks_are_joined_and_read_before_the_end() {
        let (writer, mut completion) = Completion::new();
        writer.put(chunk("a", 1), Usage::default());
        writer.put(chunk("b", 2), Usage { completion_tokens: 2, ..Usage::default() });
        writer.finish(Ok(Finish::Stop));
        assert_eq!(completion.finish(), None);
        let read = completion.next().await.unwrap().unwrap();
        assert_eq!((read.text.as_str(), read.tokens), ("ab", vec![1, 2]));
        assert_eq!(completion.finish(), Some(Finish::Stop));
        assert_eq!(completion.next().await.unwrap(), None);
        assert_eq!(completion.usage().completion_tokens, 2);
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken() {
        let (writer, mut completion) = Completion::new();
        let reader = tokio::spawn(async move { completion.next().await });
        tokio::task::yield_now().await;
        writer.put(chunk("a", 1), Usage::default());
        assert_eq!(reader.await.unwrap().unwrap().unwrap().text, "a");
    }

    #[tokio::test]
    async fn a_writer_that_is_dropped_cancels_and_a_reader_that_is_dropped_is_noticed() {
        let (writer, mut completion) = Completion::new();
        drop(writer);
        assert!(matches!(completion.next().await, Err(Error::Cancelled)));
        assert_eq!(completion.finish(), Some(Finish::Cancelled));
        let (writer, completion) = Completion::new();
        assert!(!writer.is_abandoned());
        drop(completion);
        assert!(writer.is_abandoned());
    }
}
