//! Completions of a request, side by side.

use std::sync::Arc;

use dormouse_engine::{Chunk, Completion, Finish, Model, Prompt, Request, Sampling, Usage};
use futures_util::{Stream, future::try_join_all, stream};
use tokio::task::spawn_blocking;

use super::{super::Error, Failure};
use crate::service::Service;

/// What is asked of a model.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    /// One prompt, or more.
    pub(super) prompts: Vec<Prompt>,
    /// Completions of each prompt.
    pub(super) n: usize,
    /// Of each completion; as many as the context holds when not said.
    pub(super) max_tokens: Option<usize>,
    pub(super) sampling: Sampling,
    pub(super) stop: Vec<String>,
    /// A JSON Schema that the text must match.
    pub(super) format: Option<String>,
    /// Alternatives to report for each token.
    pub(super) logprobs: Option<u8>,
}

/// A completion that runs; dropping it ends it, and counts what it cost.
pub(super) struct Running {
    service: Arc<Service>,
    completion: Completion,
}

/// What a completion gives.
#[derive(Debug, Clone)]
pub(super) enum Piece {
    Chunk(Chunk),
    /// The last.
    End(Finish, Usage),
}

/// A piece of the choice of this number.
pub(super) type OfChoice = (usize, Result<Piece, Failure>);

/// A completion that has ended.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) chunk: Chunk,
    pub(super) finish: Finish,
    pub(super) usage: Usage,
}

/// The model of this name, woken if need be.
pub(super) async fn open(service: &Service, name: &str) -> Result<Model, Failure> {
    Ok(service.engine.open(name).await?)
}

/// Starts all completions of all prompts, prompt by prompt.
pub(super) async fn start(service: &Arc<Service>, model: &Model, ask: Ask) -> Result<Vec<Running>, Failure> {
    let (service, model) = (service.clone(), model.clone());
    // Tokenizing a long prompt and compiling a format take their time.
    let started = spawn_blocking(move || {
        let mut running = Vec::with_capacity(ask.prompts.len() * ask.n);
        for prompt in &ask.prompts {
            let prompt = model.prompt_tokens(prompt)?;
            for choice in 0..ask.n {
                let completion = model.generate(ask.request(&model, prompt.clone(), choice))?;
                running.push(Running { service: service.clone(), completion });
            }
        }
        Ok(running)
    });
    started.await.map_err(|error| Failure::from(Error::internal(error)))?
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
            ..Request::new(Prompt::Tokens(prompt), self.max_tokens.unwrap_or(room))
        }
    }
}

/// The pieces of all completions, each with its number, as they come. Ends after the first failure.
pub(super) fn pieces(running: Vec<Running>) -> impl Stream<Item = OfChoice> + Send {
    let streams = running.into_iter().enumerate().map(|(index, running)| {
        Box::pin(stream::unfold(Some(running), move |running| async move {
            let mut running = running?;
            let piece = running.next().await;
            let goes_on = matches!(piece, Ok(Piece::Chunk(_)));
            Some(((index, piece), goes_on.then_some(running)))
        }))
    });
    stream::select_all(streams)
}

/// All completions at their end.
pub(super) async fn wholes(running: Vec<Running>) -> Result<Vec<Whole>, Failure> {
    try_join_all(running.into_iter().map(Running::whole)).await
}

impl Running {
    async fn next(&mut self) -> Result<Piece, Failure> {
        let chunk = tokio::select! {
            chunk = self.completion.next() => chunk?,
            () = self.service.stopping() => return Err(Error::draining().into()),
        };
        match (chunk, self.completion.finish()) {
            (Some(chunk), _) => Ok(Piece::Chunk(chunk)),
            (None, Some(finish)) => Ok(Piece::End(finish, self.completion.usage())),
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
                Piece::End(finish, usage) => return Ok(Whole { chunk: all, finish, usage }),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Usage { prompt_tokens, cached_tokens, completion_tokens, .. } = self.completion.usage();
        self.service.metrics.tokens(prompt_tokens.into(), cached_tokens.into(), completion_tokens.into());
    }
}
