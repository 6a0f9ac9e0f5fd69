//! `POST /v1/completions`: text that goes on.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use dormouse_engine::{Model, Prompt, TokenLogprob, Usage};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    super::{sse, timing},
    Failure, adapt,
    answer::{self, Head, Likelihood},
    answerer::{Answerer, Target},
    chat::{DONE, StreamOptions},
    generation::{self, Ask, Piece, Whole},
    request::{self, Drawing},
    stream::{self, Writer},
    waking,
};
use crate::service::Service;

/// Tokens of a completion that doesn't say.
const MAX_TOKENS_DEFAULT: usize = 16;
/// The most prompts of a request.
const PROMPTS_MAX: usize = 64;

/// The body, as far as it isn't [`Drawing`].
#[derive(Debug, Deserialize)]
struct Complete {
    model: String,
    prompt: Prompts,
    max_tokens: Option<usize>,
    n: Option<usize>,
    best_of: Option<usize>,
    suffix: Option<String>,
    echo: Option<bool>,
    logprobs: Option<u8>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
}

/// Texts or token ids.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Prompts {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    ManyTokens(Vec<Vec<u32>>),
}

impl Prompts {
    pub(super) fn list(self) -> Vec<Prompt> {
        match self {
            Self::Text(text) => vec![Prompt::Text(text)],
            Self::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
            Self::Tokens(tokens) => vec![Prompt::Tokens(tokens)],
            Self::ManyTokens(many) => many.into_iter().map(Prompt::Tokens).collect(),
        }
    }
}

/// Completes texts.
pub(super) async fn create(State(service): State<Arc<Service>>, body: Body) -> Result<Response, Failure> {
    let bytes = request::read(body, &service.config.http).await?;
    let (complete, drawing) = (request::parse::<Complete>(&bytes)?, request::parse::<Drawing>(&bytes)?);
    let (name, is_stream) = (complete.model.clone(), complete.stream == Some(true));
    let answer = answer(service.clone(), bytes, complete, drawing);
    match is_stream {
        true => waking::tell(service, name, answer).await,
        false => answer.await,
    }
}

async fn answer(
    service: Arc<Service>,
    bytes: Bytes,
    complete: Complete,
    drawing: Drawing,
) -> Result<Response, Failure> {
    let is_stream = complete.stream == Some(true);
    let tells_usage = complete.stream_options.as_ref().is_some_and(|options| options.include_usage);
    let is_echo = complete.echo == Some(true);
    let (name, ask) = (complete.model.clone(), complete.ask(&drawing)?);
    let open = request::open(&bytes)?;
    let answerer = Answerer::open(&service, &name, open).await?;
    let (prompts, n) = (ask.prompts.len(), ask.n);
    let (running, echoes) = match &answerer {
        Answerer::Model(model) => {
            let echoes = if is_echo { echoes(model, &ask)? } else { vec![String::new(); prompts] };
            (generation::start(&service, model, ask).await?, echoes)
        }
        Answerer::Function(target) => {
            let texts = texts(target, &ask)?;
            let fields = request::parse(&bytes)?;
            let mut running = Vec::with_capacity(prompts);
            for text in &texts {
                let input = adapt::text(target, text, &fields)?;
                running.push(generation::call(&service, target, input, bytes.len(), open.keep_alive).await?);
            }
            (running, if is_echo { texts } else { vec![String::new(); prompts] })
        }
    };
    let head = Head::new("cmpl-", "text_completion", &answerer);
    let answer = Texts { head, answerer, echoes, n, tells_usage };
    if is_stream {
        let timing = generation::timing(&running);
        return Ok(
            timing.tell(sse::response(stream::events(running, answer), service.config.http.keep_alive))
        );
    }
    let wholes = generation::wholes(running).await?;
    let timing = wholes[0].timing.clone();
    Ok(timing.tell(Json(answer.whole(wholes)).into_response()))
}

/// The prompts as text.
fn echoes(model: &Model, ask: &Ask) -> Result<Vec<String>, Failure> {
    let text = |prompt: &Prompt| match prompt {
        Prompt::Text(text) | Prompt::Rendered(text) => Ok(text.clone()),
        Prompt::Tokens(tokens) => Ok(model.detokenize(tokens)?),
        Prompt::Messages(messages) => Ok(model.render(messages)?),
    };
    ask.prompts.iter().map(text).collect()
}

/// What a function is asked: texts, one choice each.
fn texts(target: &Target, ask: &Ask) -> Result<Vec<String>, Failure> {
    if ask.n != 1 {
        return Err(Failure::unsupported("n", "other than 1 is not offered by a function"));
    }
    if ask.logprobs.is_some() {
        return Err(Failure::unsupported("logprobs", "are not offered by a function"));
    }
    let text = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => Ok(text.clone()),
        _ => {
            let message = format!("function \"{}\" takes text, not tokens", target.name);
            Err(Failure::invalid("prompt", message))
        }
    };
    ask.prompts.iter().map(text).collect()
}

impl Complete {
    fn ask(self, drawing: &Drawing) -> Result<Ask, Failure> {
        let (n, prompts) = (request::choices(self.n)?, self.prompt.list());
        if !(1..=PROMPTS_MAX).contains(&prompts.len()) {
            let message = format!("{} prompts are not 1 to {PROMPTS_MAX}", prompts.len());
            return Err(Failure::invalid("prompt", message));
        }
        if self.best_of.is_some_and(|best_of| best_of != n) {
            return Err(Failure::unsupported("best_of", "other than n is not offered"));
        }
        if self.suffix.is_some_and(|suffix| !suffix.is_empty()) {
            return Err(Failure::unsupported("suffix", "is not offered"));
        }
        if self.echo == Some(true) && self.logprobs.is_some() {
            return Err(Failure::unsupported("echo", "with logprobs is not offered"));
        }
        Ok(Ask {
            prompts,
            n,
            max_tokens: Some(self.max_tokens.unwrap_or(MAX_TOKENS_DEFAULT)),
            sampling: drawing.sampling()?,
            stop: drawing.stops(),
            format: None,
            logprobs: self.logprobs,
            guess_tokens: drawing.guess_tokens,
        })
    }
}

/// Writes the answer, whole or as chunks; both have the same shape.
struct Texts {
    head: Head,
    answerer: Answerer,
    /// What each prompt's choices begin with.
    echoes: Vec<String>,
    /// Choices of each prompt.
    n: usize,
    tells_usage: bool,
}

impl Texts {
    fn whole(&self, wholes: Vec<Whole>) -> impl Serialize + use<'_> {
        let usages: Vec<Usage> = wholes.iter().map(|whole| whole.usage).collect();
        let choice = |(index, Whole { chunk, finish, .. }): (usize, Whole)| {
            let text = format!("{}{}", self.echoes[index / self.n], chunk.text);
            self.choice(index, &text, &chunk.logprobs, Some(answer::finish_reason(finish)))
        };
        let choices = wholes.into_iter().enumerate().map(choice).collect();
        self.object(choices, Some(answer::usage(&usages, self.echoes.len())))
    }

    fn choice(&self, index: usize, text: &str, logprobs: &[TokenLogprob], finish: Option<&str>) -> Value {
        let logprobs = (!logprobs.is_empty()).then(|| legacy_logprobs(&self.answerer, logprobs));
        json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish})
    }

    fn object(&self, choices: Vec<Value>, usage: Option<Value>) -> impl Serialize + use<'_> {
        #[derive(Serialize)]
        struct Object<'a> {
            #[serde(flatten)]
            head: &'a Head,
            choices: Vec<Value>,
            #[serde(skip_serializing_if = "Option::is_none")]
            usage: Option<Value>,
        }
        Object { head: &self.head, choices, usage }
    }

    fn chunk(&self, index: usize, text: &str, logprobs: &[TokenLogprob], finish: Option<&str>) -> String {
        sse::data(&self.object(vec![self.choice(index, text, logprobs, finish)], None))
    }
}

impl Writer for Texts {
    fn begin(&mut self) -> Vec<String> {
        let echoes = self.echoes.iter().flat_map(|echo| std::iter::repeat_n(echo, self.n)).enumerate();
        echoes
            .filter(|(_, echo)| !echo.is_empty())
            .map(|(at, echo)| self.chunk(at, echo, &[], None))
            .collect()
    }

    fn piece(&mut self, choice: usize, piece: Piece) -> Vec<String> {
        match piece {
            Piece::Chunk(chunk) if chunk.text.is_empty() && chunk.logprobs.is_empty() => Vec::new(),
            Piece::Chunk(chunk) => vec![self.chunk(choice, &chunk.text, &chunk.logprobs, None)],
            Piece::Wake(wake) => vec![timing::comment(&wake)],
            Piece::End(finish, _) => vec![self.chunk(choice, "", &[], Some(answer::finish_reason(finish)))],
        }
    }

    fn end(&mut self, usages: &[Usage]) -> Vec<String> {
        let usage = || answer::usage(usages, self.echoes.len());
        let last = self.tells_usage.then(|| sse::data(&self.object(Vec::new(), Some(usage()))));
        last.into_iter().chain([DONE.to_owned()]).collect()
    }

    fn failed(&mut self, failure: &Failure) -> Vec<String> {
        vec![sse::data(&failure.event())]
    }
}

/// Log-probabilities as this older endpoint has them. Offsets count characters from the first token.
fn legacy_logprobs(answerer: &Answerer, logprobs: &[TokenLogprob]) -> Value {
    let (mut tokens, mut token_logprobs) = (Vec::new(), Vec::new());
    let (mut top_logprobs, mut text_offset, mut offset) = (Vec::new(), Vec::new(), 0);
    for logprob in logprobs {
        let token = Likelihood::new(answerer, logprob.token, logprob.logprob).token;
        text_offset.push(offset);
        offset += token.chars().count();
        tokens.push(token);
        token_logprobs.push(logprob.logprob);
        let top = logprob.top.iter().map(|(id, value)| Likelihood::new(answerer, *id, *value));
        top_logprobs.push(top.map(|top| (top.token, json!(top.logprob))).collect::<Map<_, _>>());
    }
    json!({
        "tokens": tokens, "token_logprobs": token_logprobs,
        "top_logprobs": top_logprobs, "text_offset": text_offset,
    })
}
