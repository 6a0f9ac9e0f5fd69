//! A completion's course on the engine thread: logits in, text out.

use std::time::{Duration, Instant};

use crate::{
    Chunk, Error, Finish, Request, Tier, Usage,
    completion::Writer,
    format::{Format, MaskTimes},
    sampler::{self, Sampler},
    stream::StopFilter,
    tokenizer::{Detokenizer, Tokenizer},
};

use super::lookup::Lookup;

/// A sequence that generates.
#[derive(Debug)]
pub(crate) struct Generation {
    sampler: Sampler,
    format: Option<Format>,
    detokenizer: Detokenizer,
    stops: StopFilter,
    max_tokens: usize,
    logprobs: Option<u8>,
    lookup: Option<Lookup>,
    writer: Writer,
    usage: Usage,
    prefill_began: Option<Instant>,
    first_token: Option<Instant>,
}

/// What a step says of the token that comes next.
#[derive(Debug, Clone, Copy)]
pub(super) enum Row<'a> {
    /// All logits.
    Logits(&'a [f32]),
    /// The largest of them, as [`Generation::decisive`] wants them.
    Top(&'a [(u32, f32)]),
}

/// How a sequence goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// With this token.
    Token(u32),
    /// Not at all.
    End(Finish),
}

impl Generation {
    /// A generation that answers `request`, which is within its bounds, to `writer`. It guesses no token
    /// unless the request says so. Its model was woken from a tier, which took so long.
    pub(crate) fn new(
        request: Request,
        prompt_tokens: usize,
        format: Option<Format>,
        (woken_from, wake): (Tier, Duration),
        writer: Writer,
    ) -> Self {
        Self {
            sampler: Sampler::new(request.sampling),
            format,
            detokenizer: Detokenizer::new(),
            stops: StopFilter::new(request.stop),
            max_tokens: request.max_tokens,
            logprobs: request.logprobs,
            lookup: request.guess_tokens.filter(|tokens| *tokens > 0).map(Lookup::new),
            writer,
            usage: Usage { prompt_tokens: prompt_tokens as u32, wake, woken_from, ..Usage::default() },
            prefill_began: None,
            first_token: None,
        }
    }

    /// The most tokens that may still follow.
    pub(super) fn tokens_left(&self) -> usize {
        self.max_tokens - self.usage.completion_tokens as usize
    }

    /// What may follow the sequence's tokens.
    pub(super) fn guess<'a>(&self, tokens: &'a [u32]) -> &'a [u32] {
        let guess = self.lookup.as_ref().map_or(&[][..], |lookup| lookup.guess(tokens));
        // The token that follows the last guess counts, too.
        &guess[..guess.len().min(self.tokens_left() - 1)]
    }

    /// Takes note of how many guessed tokens were right.
    pub(super) fn learn(&mut self, guessed: usize, right: usize) {
        if let Some(lookup) = &mut self.lookup {
            lookup.learn(guessed, right);
        }
    }

    /// Gets ready for the next token while the step runs that it is of.
    pub(super) fn look_ahead(&self) {
        self.format.iter().for_each(Format::look_ahead);
    }

    /// What masks took since the last call.
    pub(super) fn mask_times(&mut self) -> MaskTimes {
        self.format.as_mut().map(Format::times).unwrap_or_default()
    }

    /// Whether no one reads it any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.writer.is_abandoned()
    }

    /// Tokens generated so far.
    pub(super) fn completion_tokens(&self) -> u32 {
        self.usage.completion_tokens
    }

    /// Notes the start of its first step.
    pub(super) fn start(&mut self, waited: Duration, cached_tokens: usize, now: Instant) {
        self.usage.queue = waited;
        self.usage.cached_tokens = cached_tokens as u32;
        self.prefill_began = Some(now);
    }

    /// Adds its share of a step.
    pub(super) fn charge(&mut self, share: Duration) {
        self.usage.device += share;
    }

    /// How many of the largest logits are enough for the next token; `None` if it wants all of them.
    pub(super) fn decisive(&self) -> Option<usize> {
        let wants_all = self.format.is_some() || self.logprobs.is_some();
        self.sampler.decisive().filter(|_| !wants_all)
    }

    /// Draws the next token from a row, which was ready at `now`, and sends what it completes.
    /// `recent` are the last tokens of the sequence.
    pub(super) fn advance(
        &mut self,
        row: Row<'_>,
        recent: &[u32],
        tokenizer: &Tokenizer,
        now: Instant,
    ) -> Result<Next, Error> {
        let token = self.draw(row, recent)?;
        self.note_time(now);
        if tokenizer.is_end(token) {
            self.send_rest();
            return Ok(Next::End(Finish::Stop));
        }
        self.usage.completion_tokens += 1;
        let released = self.stops.push(&self.detokenizer.push(tokenizer, token));
        let logprobs = self.logprobs.map(|top| match row {
            Row::Logits(logits) => sampler::logprobs(logits, token, usize::from(top)),
            Row::Top(_) => unreachable!("whoever wants likelihoods wants all logits"),
        });
        let chunk = Chunk { text: released.text, tokens: vec![token], logprobs: Vec::from_iter(logprobs) };
        self.writer.put(chunk, self.usage);
        let is_complete = match &mut self.format {
            Some(format) => format.push(token)?,
            None => false,
        };
        if released.is_stopped {
            return Ok(Next::End(Finish::Stop));
        }
        let is_long = self.usage.completion_tokens as usize == self.max_tokens;
        if is_complete || is_long {
            self.send_rest();
            return Ok(Next::End(if is_complete { Finish::Stop } else { Finish::Length }));
        }
        Ok(Next::Token(token))
    }

    /// Tells the reader how it ended.
    pub(super) fn finish(self, end: Result<Finish, Error>) {
        self.writer.finish(end);
    }

    fn draw(&mut self, row: Row<'_>, recent: &[u32]) -> Result<u32, Error> {
        let mut masked = Ok(());
        let token = match row {
            Row::Top(top) => self.sampler.sample_top(top),
            Row::Logits(logits) => self.sampler.sample(logits, recent, |logits| {
                if let Some(format) = &mut self.format {
                    masked = format.mask(logits);
                }
            }),
        };
        masked?;
        token.ok_or_else(|| Error::Failed("no token has a finite logit".into()))
    }

    fn note_time(&mut self, now: Instant) {
        let first = *self.first_token.get_or_insert(now);
        let began = self.prefill_began.expect("a step precedes its logits");
        self.usage.prefill = first - began;
        self.usage.decode = now - first;
    }

    /// Text that was held back as it might have become a stop string or a longer character.
    fn send_rest(&mut self) {
        let released = self.stops.push(&self.detokenizer.finish());
        let text = released.text + &self.stops.finish();
        self.writer.put(Chunk { text, ..Chunk::default() }, self.usage);
    }
}
