//! What a model says before anybody uses it, to the bit: a few greedy tokens and their likelihoods, or a
//! vector of a model that embeds.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{Generation, Job, Queue, Resident, Work};
use crate::{Caller, Chunk, Completion, Error, Prompt, Request, Tier, models};

/// Tokens that are read, spread over the vocabulary. With those that are said they are less than a block,
/// so that nothing of it stays in a cache.
const PROMPT_TOKENS: u32 = 6;
/// Tokens that are said.
const SAID_TOKENS: usize = 8;
/// Likelihoods of each.
const ALTERNATIVES: u8 = 20;

/// Runs a model that nobody else has yet.
pub(crate) fn probe(resident: &mut Resident) -> Result<Vec<u32>, Error> {
    let info = &resident.facts().info;
    let step = info.vocabulary as u32 / (PROMPT_TOKENS + 1);
    let prompt: Vec<u32> = (1..=PROMPT_TOKENS).map(|index| index * step).collect();
    match models::generates(&info.architecture) {
        true => said(resident, prompt),
        false => embedded(resident, prompt),
    }
}

fn said(resident: &mut Resident, prompt: Vec<u32>) -> Result<Vec<u32>, Error> {
    let request =
        Request { logprobs: Some(ALTERNATIVES), ..Request::new(Prompt::Tokens(Vec::new()), SAID_TOKENS) };
    let (writer, mut completion) = Completion::new();
    let generation = Generation::new(request, prompt.len(), None, (Tier::Awake, Duration::ZERO), writer);
    run(resident, prompt, Work::Generate(Box::new(generation)))?;
    let unread = pin!(completion.next()).poll(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(chunk) = unread else { return Err(Error::Failed("a probe did not end".into())) };
    let Chunk { tokens, logprobs, .. } = chunk?.unwrap_or_default();
    let likelihoods = logprobs.iter().flat_map(|one| {
        let top = one.top.iter().flat_map(|(token, logprob)| [*token, logprob.to_bits()]);
        [one.token, one.logprob.to_bits()].into_iter().chain(top)
    });
    Ok(tokens.into_iter().chain(likelihoods).collect())
}

fn embedded(resident: &mut Resident, prompt: Vec<u32>) -> Result<Vec<u32>, Error> {
    let (reply, mut vector) = oneshot::channel();
    run(resident, prompt, Work::Embed { pooling: None, reply })?;
    let vector = vector.try_recv().map_err(|_| Error::Failed("a probe did not end".into()))??;
    Ok(vector.into_iter().map(f32::to_bits).collect())
}

fn run(resident: &mut Resident, prompt: Vec<u32>, work: Work) -> Result<(), Error> {
    let (caller, place, arrived) = (Caller::default(), Queue::new(1).enter()?, Instant::now());
    resident.submit(Job { caller, prompt, work, place, arrived, lease: None });
    while resident.is_busy() {
        resident.step()?;
    }
    Ok(())
}
