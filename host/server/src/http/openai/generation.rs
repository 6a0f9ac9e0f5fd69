//! Completions of a request, side by side: a model's, or what a function says in their place.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dormouse_engine::{Chunk, Completion, Finish, KeepAlive, Model, Prompt, Request, Sampling, Usage};
use dormouse_runtime::{Event, Wake};
use futures_util::{Stream, future::try_join_all, stream};
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::{
    super::{Error, timing::Timing},
    Failure, adapt,
    answerer::Target,
};
use crate::{
    prediction::{Call, Held, Input, Item, Prediction, Record},
    service::Service,
};

/// What is asked of a model.
#[derive(Debug, Clone)]
pub(in crate::http) struct Ask {
    /// One prompt, or more.
    pub(in crate::http) prompts: Vec<Prompt>,
    /// Completions of each prompt.
    pub(in crate::http) n: usize,
    /// Of each completion; as many as the context holds when not said.
    pub(in crate::http) max_tokens: Option<usize>,
    pub(in crate::http) sampling: Sampling,
    pub(in crate::http) stop: Vec<String>,
    /// A JSON Schema that the text must match.
    pub(in crate::http) format: Option<String>,
    /// Alternatives to report for each token.
    pub(in crate::http) logprobs: Option<u8>,
    /// Tokens that a step may guess; the engine refuses too many.
    pub(in crate::http) guess_tokens: Option<usize>,
}

/// A completion that runs; dropping it ends it, and counts what it cost.
pub(in crate::http) struct Running {
    service: Arc<Service>,
    source: Source,
    /// As far as it is known when it begins.
    timing: Timing,
}

enum Source {
    Completion(Completion),
    Prediction(Box<Told>),
}

/// A function's prediction as it is read.
struct Told {
    held: Held,
    /// Whether it has emitted anything.
    has_said: bool,
    end: Option<Arc<Record>>,
}

/// What a completion gives.
#[derive(Debug, Clone)]
pub(in crate::http) enum Piece {
    Chunk(Chunk),
    /// It waits for a model.
    Wake(Wake),
    /// The last.
    End(Finish, Usage),
}

/// A piece of the choice of this number.
pub(in crate::http) type OfChoice = (usize, Result<Piece, Failure>);

/// A completion that has ended.
#[derive(Debug)]
pub(in crate::http) struct Whole {
    pub(in crate::http) chunk: Chunk,
    pub(in crate::http) finish: Finish,
    pub(in crate::http) usage: Usage,
    pub(in crate::http) timing: Timing,
}

/// Starts all completions of all prompts, prompt by prompt.
pub(in crate::http) async fn start(
    service: &Arc<Service>,
    model: &Model,
    ask: Ask,
) -> Result<Vec<Running>, Failure> {
    let (service, model) = (service.clone(), model.clone());
    // Tokenizing a long prompt and compiling a format take their time.
    let started = spawn_blocking(move || {
        let mut running = Vec::with_capacity(ask.prompts.len() * ask.n);
        for prompt in &ask.prompts {
            let prompt = model.prompt_tokens(prompt)?;
            for choice in 0..ask.n {
                let completion = model.generate(ask.request(&model, prompt.clone(), choice))?;
                let (service, timing) = (service.clone(), Timing::of_model(&model));
                running.push(Running { service, source: Source::Completion(completion), timing });
            }
        }
        Ok(running)
    });
    started.await.map_err(|error| Failure::from(Error::internal(error)))?
}

/// Starts a function's prediction on an input of so many bytes.
pub(in crate::http) async fn call(
    service: &Arc<Service>,
    target: &Target,
    input: Value,
    bytes: usize,
    keep_alive: Option<KeepAlive>,
) -> Result<Running, Failure> {
    let prediction = prepare(service, target, input, bytes, keep_alive).await?;
    let timing = Timing::of_start(&prediction);
    let told = Told { held: prediction.spawn(), has_said: false, end: None };
    Ok(Running { service: service.clone(), source: Source::Prediction(Box::new(told)), timing })
}

/// A function's output for an input of so many bytes, and what it cost and took.
pub(in crate::http) async fn output(
    service: &Arc<Service>,
    target: &Target,
    input: Value,
    bytes: usize,
    keep_alive: Option<KeepAlive>,
) -> Result<(Value, Usage, Timing), Failure> {
    let record = prepare(service, target, input, bytes, keep_alive).await?.run().await;
    match &record.failure {
        Some(failure) => Err(Error::from(failure.clone()).into()),
        None => {
            let output = record.output().map_or(Value::Null, |output| output.to_value());
            Ok((output, usage(&record), Timing::of_record(&record)))
        }
    }
}

async fn prepare(
    service: &Arc<Service>,
    target: &Target,
    input: Value,
    bytes: usize,
    keep_alive: Option<KeepAlive>,
) -> Result<Prediction, Failure> {
    let call = Call {
        function: target.function.clone(),
        revision: target.revision.clone(),
        input: Input::Value(input, bytes),
        id: None,
        webhook: None,
        memo: Value::Null,
        keep_alive,
        arrived: Instant::now(),
    };
    Ok(Prediction::prepare(service, call).await?)
}

/// What a function's models cost it.
fn usage(record: &Record) -> Usage {
    let Some(metrics) = &record.metrics else { return Usage::default() };
    let count = |tokens: u64| u32::try_from(tokens).unwrap_or(u32::MAX);
    let time = |millis: f64| Duration::try_from_secs_f64(millis / 1e3).unwrap_or_default();
    Usage {
        prompt_tokens: count(metrics.prompt_tokens),
        cached_tokens: count(metrics.cached_tokens),
        completion_tokens: count(metrics.completion_tokens),
        wake: time(metrics.wake_ms),
        woken_from: metrics.tier.unwrap_or_default(),
        queue: time(metrics.queue_ms),
        device: time(metrics.device_ms),
        ..Usage::default()
    }
}

impl Ask {
    fn request(&self, model: &Model, prompt: Vec<u32>, choice: usize) -> Request {
        let room = model.info().context_length.saturating_sub(prompt.len()).max(1);
        // The same seed would give the same choice again.
        let seed = self.sampling.seed.map(|seed| seed.wrapping_add(choice as u64));
        Request {
            sampling: Sampling { seed, ..self.sampling.clone() },
            stop: self.stop.clone(),
            format: self.format.clone(),
            logprobs: self.logprobs,
            guess_tokens: self.guess_tokens,
            ..Request::new(Prompt::Tokens(prompt), self.max_tokens.unwrap_or(room))
        }
    }
}

/// The pieces of all completions, each with its number, as they come. Ends after the first failure.
pub(in crate::http) fn pieces(running: Vec<Running>) -> impl Stream<Item = OfChoice> + Send {
    let streams = running.into_iter().enumerate().map(|(index, running)| {
        Box::pin(stream::unfold(Some(running), move |running| async move {
            let mut running = running?;
            let piece = running.next().await;
            let goes_on = matches!(piece, Ok(Piece::Chunk(_) | Piece::Wake(_)));
            Some(((index, piece), goes_on.then_some(running)))
        }))
    });
    stream::select_all(streams)
}

/// All completions at their end.
pub(in crate::http) async fn wholes(running: Vec<Running>) -> Result<Vec<Whole>, Failure> {
    try_join_all(running.into_iter().map(Running::whole)).await
}

/// What the header of a stream of these tells.
pub(in crate::http) fn timing(running: &[Running]) -> Timing {
    running.first().map(|running| running.timing.clone()).unwrap_or_default()
}

impl Running {
    async fn next(&mut self) -> Result<Piece, Failure> {
        let completion = match &mut self.source {
            Source::Completion(completion) => completion,
            Source::Prediction(told) => return told.next().await,
        };
        let chunk = tokio::select! {
            chunk = completion.next() => chunk?,
            () = self.service.stopping() => return Err(Error::draining().into()),
        };
        match (chunk, completion.finish()) {
            (Some(chunk), _) => Ok(Piece::Chunk(chunk)),
            (None, Some(finish)) => Ok(Piece::End(finish, completion.usage())),
            (None, None) => Err(Error::internal("a completion ended without a reason").into()),
        }
    }

    async fn whole(mut self) -> Result<Whole, Failure> {
        let mut all = Chunk::default();
        loop {
            match self.next().await? {
                Piece::Chunk(chunk) => {
                    all.text += &chunk.text;
                    all.tokens.extend(chunk.tokens);
                    all.logprobs.extend(chunk.logprobs);
                }
                Piece::Wake(_) => {}
                Piece::End(finish, usage) => {
                    let timing = match &self.source {
                        Source::Completion(_) => Timing::of_usage(&usage),
                        Source::Prediction(told) => {
                            told.end.as_deref().map(Timing::of_record).unwrap_or_default()
                        }
                    };
                    return Ok(Whole { chunk: all, finish, usage, timing });
                }
            }
        }
    }
}

impl Told {
    /// What it emits, or else what it returned, and then its end.
    async fn next(&mut self) -> Result<Piece, Failure> {
        loop {
            if let Some(record) = &self.end {
                return Ok(Piece::End(Finish::Stop, usage(record)));
            }
            match self.held.next().await {
                Item::Started => self.has_said = false,
                Item::Event(event) => match &*event {
                    Event::Output(json) => {
                        self.has_said = true;
                        return Ok(said(&serde_json::from_str(json).map_err(Error::internal)?));
                    }
                    Event::Wake(wake) => return Ok(Piece::Wake(wake.clone())),
                    Event::Log(_) | Event::Progress { .. } => {}
                },
                Item::Ended(record) => {
                    if let Some(failure) = &record.failure {
                        return Err(Error::from(failure.clone()).into());
                    }
                    self.end = Some(record.clone());
                    if let (false, Some(output)) = (self.has_said, record.output()) {
                        return Ok(said(&output.to_value()));
                    }
                }
            }
        }
    }
}

fn said(output: &Value) -> Piece {
    Piece::Chunk(Chunk { text: adapt::told(output), ..Chunk::default() })
}

impl Drop for Running {
    fn drop(&mut self) {
        // A prediction counts its tokens itself.
        if let Source::Completion(completion) = &self.source {
            let Usage { prompt_tokens, cached_tokens, completion_tokens, .. } = completion.usage();
            self.service.metrics.tokens(prompt_tokens.into(), cached_tokens.into(), completion_tokens.into());
        }
    }
}
