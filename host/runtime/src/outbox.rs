//! What a guest has said and the caller has not yet taken, in the order it was said.
//!
//! Host functions that may wait hand over at once. Standard output and error can't wait inside a write,
//! so their lines gather here until the stream is next asked whether it is ready; the log limit bounds
//! them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::mpsc;

use crate::{EVENT_BYTES, Event, Level, Limits, LogLine, LogSource, Wake, fault::Stop};

/// The way from a guest to its caller; cloning shares it.
#[derive(Clone)]
pub(crate) struct Outbox {
    events: mpsc::Sender<Event>,
    queue: Arc<Mutex<Queue>>,
}

/// Lines and elements that wait, and what may still be added.
struct Queue {
    waiting: VecDeque<Event>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    line_bytes_max: usize,
    log_bytes_max: usize,
    log_bytes_left: usize,
    log_bytes_dropped: u64,
}

impl Outbox {
    pub(crate) fn new(events: mpsc::Sender<Event>, limits: &Limits) -> Self {
        let queue = Queue {
            waiting: VecDeque::new(),
            stdout: Vec::new(),
            stderr: Vec::new(),
            line_bytes_max: limits.log_line_bytes.max(1),
            log_bytes_max: limits.log_bytes,
            log_bytes_left: limits.log_bytes,
            log_bytes_dropped: 0,
        };
        Self { events, queue: Arc::new(Mutex::new(queue)) }
    }

    /// Sends an output element after everything that waits; the caller has charged for it.
    pub(crate) async fn send(&self, json: String) -> Result<(), Stop> {
        self.queue().waiting.push_back(Event::Output(json));
        self.flush().await
    }

    /// Adds a message of `output.log`, split where it is longer than a line may be.
    pub(crate) fn log(&self, level: Level, message: &str) {
        self.queue().split(LogSource::Log, level, message);
    }

    /// Adds a progress report, charged as a log line; one beyond the log limit is dropped.
    pub(crate) fn progress(&self, fraction: f32, note: String) {
        let mut queue = self.queue();
        if queue.charge(note.len()) {
            queue.waiting.push_back(Event::Progress { fraction, note });
        }
    }

    /// Adds how far a wake is, charged as a log line.
    pub(crate) fn wake(&self, wake: Wake) {
        let mut queue = self.queue();
        if queue.charge(wake.model.len()) {
            queue.waiting.push_back(Event::Wake(wake));
        }
    }

    /// Adds bytes that the guest wrote; whole lines become log lines.
    pub(crate) fn write(&self, source: LogSource, bytes: &[u8]) {
        self.queue().write(source, bytes);
    }

    /// Ends unfinished lines and tells of dropped ones.
    pub(crate) fn finish(&self) {
        self.queue().finish();
    }

    /// Log bytes dropped so far.
    pub(crate) fn log_bytes_dropped(&self) -> u64 {
        self.queue().log_bytes_dropped
    }

    /// Waits until the caller has room for all that waits. Loses nothing when its future is dropped.
    pub(crate) async fn flush(&self) -> Result<(), Stop> {
        while !self.queue().waiting.is_empty() {
            let room = self.events.reserve().await.map_err(|_| Stop::Cancelled)?;
            if let Some(event) = self.queue().waiting.pop_front() {
                room.send(event);
            }
        }
        Ok(())
    }

    /// Hands over what the caller has room for now; tells whether that was all.
    pub(crate) fn try_flush(&self) -> Result<bool, Stop> {
        let mut queue = self.queue();
        while !queue.waiting.is_empty() {
            match self.events.try_reserve() {
                Ok(room) => room.send(queue.waiting.pop_front().expect("checked above, under the lock")),
                Err(mpsc::error::TrySendError::Full(())) => return Ok(false),
                Err(mpsc::error::TrySendError::Closed(())) => return Err(Stop::Cancelled),
            }
        }
        Ok(true)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no one panics while holding the queue")
    }
}

impl Queue {
    fn write(&mut self, source: LogSource, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            for piece in piece.chunks(self.line_bytes_max) {
                self.partial(source).extend_from_slice(piece);
                if piece.ends_with(b"\n") || self.partial(source).len() >= self.line_bytes_max {
                    self.end_line(source);
                }
            }
        }
    }

    /// Makes a log line of the unfinished one. Where a long line splits inside a character, the
    /// character's first bytes stay for the next.
    fn end_line(&mut self, source: LogSource) {
        let mut line = std::mem::take(self.partial(source));
        if line.ends_with(b"\n") {
            line.pop();
            line.pop_if(|byte| *byte == b'\r');
        } else if let Err(error) = std::str::from_utf8(&line)
            && error.error_len().is_none()
            && error.valid_up_to() > 0
        {
            *self.partial(source) = line.split_off(error.valid_up_to());
        }
        let level = if source == LogSource::Stderr { Level::Warn } else { Level::Info };
        self.split(source, level, &String::from_utf8_lossy(&line));
    }

    /// Adds a message as lines of at most `line_bytes_max` each.
    fn split(&mut self, source: LogSource, level: Level, message: &str) {
        let mut rest = message.strip_suffix('\n').unwrap_or(message);
        loop {
            let (line, more) = rest.split_at(prefix(rest, self.line_bytes_max));
            if self.charge(line.len()) {
                let message = line.to_owned();
                self.waiting.push_back(Event::Log(LogLine { source, level, message }));
            }
            rest = more;
            if rest.is_empty() {
                return;
            }
        }
    }

    /// Takes a line's cost from the log budget. The first that does not fit ends the logs, so that what
    /// is kept is all there was up to a point.
    fn charge(&mut self, text_bytes: usize) -> bool {
        match self.log_bytes_left.checked_sub(text_bytes + EVENT_BYTES) {
            Some(left) if self.log_bytes_dropped == 0 => {
                self.log_bytes_left = left;
                true
            }
            _ => {
                // At least one, so that dropped empty lines are told of too.
                self.log_bytes_dropped += text_bytes.max(1) as u64;
                false
            }
        }
    }

    fn finish(&mut self) {
        for source in [LogSource::Stdout, LogSource::Stderr] {
            // Twice at most: a character cut short stays after the first.
            while !self.partial(source).is_empty() {
                self.end_line(source);
            }
        }
        if self.log_bytes_dropped > 0 {
            let (dropped, max) = (self.log_bytes_dropped, self.log_bytes_max);
            let message = format!("{dropped} bytes of logs were dropped, the limit is {max}");
            self.waiting.push_back(Event::Log(LogLine {
                source: LogSource::Log,
                level: Level::Warn,
                message,
            }));
        }
    }

    fn partial(&mut self, source: LogSource) -> &mut Vec<u8> {
        if source == LogSource::Stderr { &mut self.stderr } else { &mut self.stdout }
    }
}

/// Length of the longest prefix of at most `bytes_max` bytes that ends between characters, or of the
/// first character where that is longer.
pub(crate) fn prefix(text: &str, bytes_max: usize) -> usize {
    match text.floor_char_boundary(bytes_max) {
        0 => text.chars().next().map_or(0, char::len_utf8),
        bytes => bytes,
    }
}
