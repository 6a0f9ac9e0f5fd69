//! Masks beside the forward pass: a text's next mask is computed on the `masks` thread as soon as its last
//! token is known, while the engine thread computes the step whose logits it is for.
//!
//! Whoever has the lock of a [`Course`] works on it. So the engine thread waits for a mask that is under
//! way, and computes one that nobody has begun; it never waits for others' masks. A text that has ended is
//! skipped: the thread holds it weakly.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use llguidance::{Matcher, toktrie::SimpleVob};

use super::failed;
use crate::Error;

/// Texts that wait for the thread. Beyond it, the engine thread computes a mask when it needs it.
const WAITING_MAX: usize = 64;

/// How far a text has come, and which tokens may come next.
pub(super) struct Course {
    matcher: Matcher,
    /// The next mask, once it is computed.
    next: Option<Result<SimpleVob, Error>>,
    /// Time of masks that were computed since it was last asked for.
    computing: Duration,
}

/// A text's course, shared with the thread that computes its masks.
pub(super) struct Ahead {
    course: Arc<Mutex<Course>>,
    thread: Masks,
}

/// The thread; it ends when no one can ask for masks any more.
#[derive(Clone)]
pub(super) struct Masks {
    asked: SyncSender<Weak<Mutex<Course>>>,
}

impl Masks {
    /// Starts it.
    pub(super) fn start() -> Result<Self, Error> {
        let (asked, waiting) = sync_channel(WAITING_MAX);
        let spawned = thread::Builder::new().name("masks".into()).spawn(move || run(&waiting));
        spawned.map_err(|error| Error::Failed(format!("can't start thread \"masks\": {error}")))?;
        Ok(Self { asked })
    }
}

fn run(waiting: &Receiver<Weak<Mutex<Course>>>) {
    while let Ok(course) = waiting.recv() {
        let Some(course) = course.upgrade() else { continue };
        // A panic leaves the lock poisoned, which the engine thread sees; other texts go on.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            if let Ok(mut course) = course.lock() {
                course.compute();
            }
        }));
        if done.is_err() {
            tracing::error!("a mask panicked");
        }
    }
}

impl Ahead {
    /// A text that has not begun; its first mask is asked for.
    pub(super) fn new(matcher: Matcher, thread: Masks) -> Self {
        let course = Course { matcher, next: None, computing: Duration::ZERO };
        let ahead = Self { course: Arc::new(Mutex::new(course)), thread };
        ahead.ask();
        ahead
    }

    /// Has the next mask computed, if there is a place in line.
    pub(super) fn ask(&self) {
        drop(self.thread.asked.try_send(Arc::downgrade(&self.course)));
    }

    /// The next mask. Waits for it, or computes it.
    pub(super) fn take(&self) -> Result<SimpleVob, Error> {
        let mut course = self.lock()?;
        course.compute();
        course.next.take().expect("it was just computed")
    }

    /// Goes on by a token. True when nothing can follow.
    pub(super) fn push(&self, token: u32) -> Result<bool, Error> {
        let mut course = self.lock()?;
        course.next = None;
        course.matcher.consume_token(token).map_err(failed)?;
        Ok(course.matcher.is_stopped())
    }

    /// Time of masks that were computed since the last call, on whichever thread.
    pub(super) fn computing(&self) -> Duration {
        self.lock().map_or(Duration::ZERO, |mut course| std::mem::take(&mut course.computing))
    }

    fn lock(&self) -> Result<MutexGuard<'_, Course>, Error> {
        self.course.lock().map_err(|_| Error::Failed("format: a mask panicked".into()))
    }
}

impl Course {
    /// Computes the next mask, unless that is done.
    fn compute(&mut self) {
        if self.next.is_none() {
            let began = Instant::now();
            self.next = Some(self.matcher.compute_mask_or_eos().map_err(failed));
            self.computing += began.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        format::{Formats, tests::SCHEMA},
        gguf::Gguf,
        testing,
        tokenizer::Tokenizer,
    };

    fn formats() -> (Tokenizer, Formats) {
        let tokenizer = Tokenizer::from_gguf(&Gguf::open(testing::model()).unwrap()).unwrap();
        let formats = Formats::new(&tokenizer).unwrap();
        (tokenizer, formats)
    }

    /// A thread that computes nothing: every mask is left to who needs it.
    fn idle() -> (Masks, Receiver<Weak<Mutex<Course>>>) {
        let (asked, waiting) = sync_channel(WAITING_MAX);
        (Masks { asked }, waiting)
    }

    fn is_computed(ahead: &Ahead) -> bool {
        ahead.course.lock().unwrap().next.is_some()
    }

    #[test]
    fn masks_are_computed_ahead_and_are_those_computed_when_needed() {
        let (tokenizer, formats) = formats();
        let (idle, _waiting) = idle();
        let ahead = Ahead::new(formats.matcher(SCHEMA).unwrap(), formats.masks.clone());
        let late = Ahead::new(formats.matcher(SCHEMA).unwrap(), idle);
        for token in tokenizer.encode(r#"{"a": 12}"#, false).unwrap() {
            while !is_computed(&ahead) {
                thread::yield_now();
            }
            assert!(!is_computed(&late));
            let (mask, expected) = (ahead.take().unwrap(), late.take().unwrap());
            assert!(mask == expected && mask.get(token as usize));
            assert!(ahead.computing() > Duration::ZERO && late.computing() > Duration::ZERO);
            assert_eq!(ahead.push(token).unwrap(), late.push(token).unwrap());
            ahead.ask();
        }
    }

    #[test]
    fn a_text_that_has_ended_is_skipped_and_a_full_line_is_done_without() {
        let (_, formats) = formats();
        let (thread, waiting) = idle();
        drop(Ahead::new(formats.matcher(SCHEMA).unwrap(), thread.clone()));
        assert!(waiting.recv().unwrap().upgrade().is_none());
        let texts: Vec<_> = (0..WAITING_MAX + 1)
            .map(|_| Ahead::new(formats.matcher(SCHEMA).unwrap(), thread.clone()))
            .collect();
        drop(thread);
        assert!(texts.last().unwrap().take().is_ok());
        assert_eq!(waiting.try_iter().count(), WAITING_MAX);
    }

    #[test]
    fn what_goes_wrong_with_a_mask_reaches_who_needs_it() {
        let (tokenizer, formats) = formats();
        let ahead = Ahead::new(formats.matcher(SCHEMA).unwrap(), formats.masks.clone());
        let other = tokenizer.encode("Sure", false).unwrap()[0];
        assert!(matches!(ahead.push(other), Err(Error::Invalid(_))));
        ahead.ask();
        assert!(matches!(ahead.take(), Err(Error::Invalid(_))));

        let ahead = Ahead::new(formats.matcher(SCHEMA).unwrap(), idle().0);
        let course = ahead.course.clone();
        let panicked = thread::spawn(move || {
            let _course = course.lock().unwrap();
            panic!("a bug of the matcher");
        });
        assert!(panicked.join().is_err());
        assert_eq!(ahead.take().unwrap_err().to_string(), "engine failed: format: a mask panicked");
    }
}
