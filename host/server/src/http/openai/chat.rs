//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use dormouse_engine::{Finish, Message, Model, Prompt, Usage};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    super::{sse, timing},
    Failure, adapt,
    answer::{self, Head},
    answerer::{Answerer, Target},
    generation::{self, Ask, Piece, Whole},
    request::{self, Content, Drawing, Format},
    stream::{self, Writer},
    tools::{Call, Sieve, ToolChoice, Tools},
    waking,
};
use crate::service::Service;

/// Why a turn with calls ended.
const CALLED: &str = "tool_calls";
/// Ends a stream.
pub(super) const DONE: &str = "data: [DONE]\n\n";

/// The body, as far as it isn't [`Drawing`].
#[derive(Debug, Deserialize)]
struct Chat {
    model: String,
    messages: Vec<Turn>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    n: Option<usize>,
    response_format: Option<Format>,
    logprobs: Option<bool>,
    top_logprobs: Option<u8>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<ToolChoice>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
}

#[derive(Debug, Deserialize)]
pub(super) struct StreamOptions {
    #[serde(default)]
    pub(super) include_usage: bool,
}

#[derive(Debug, Deserialize)]
struct Turn {
    role: String,
    content: Option<Content>,
    /// Calls that the assistant made in this turn.
    tool_calls: Option<Value>,
    /// The call whose result this is.
    tool_call_id: Option<String>,
    /// The tool whose result this is.
    name: Option<String>,
}

/// Answers a chat.
pub(super) async fn create(State(service): State<Arc<Service>>, body: Body) -> Result<Response, Failure> {
    let bytes = request::read(body, &service.config.http).await?;
    let (chat, drawing) = (request::parse::<Chat>(&bytes)?, request::parse::<Drawing>(&bytes)?);
    let (name, is_stream) = (chat.model.clone(), chat.stream == Some(true));
    let answer = answer(service.clone(), bytes, chat, drawing);
    match is_stream {
        true => waking::tell(service, name, answer).await,
        false => answer.await,
    }
}

async fn answer(
    service: Arc<Service>,
    bytes: Bytes,
    mut chat: Chat,
    drawing: Drawing,
) -> Result<Response, Failure> {
    let is_stream = chat.stream == Some(true);
    let tells_usage = chat.stream_options.as_ref().is_some_and(|options| options.include_usage);
    let open = request::open(&bytes)?;
    let answerer = Answerer::open(&service, &chat.model, open).await?;
    let (running, sieve) = match &answerer {
        Answerer::Model(model) => {
            let tools = Tools::new(chat.tools.as_deref().unwrap_or_default(), chat.tool_choice.take())?;
            let ask = chat.ask(model, tools.as_ref(), &drawing)?;
            (generation::start(&service, model, ask).await?, Sieve::new(tools))
        }
        Answerer::Function(target) => {
            let input = chat.input(target, &request::parse(&bytes)?)?;
            (
                vec![generation::call(&service, target, input, bytes.len(), open.keep_alive).await?],
                Sieve::new(None),
            )
        }
    };
    if is_stream {
        let head = Head::new("chatcmpl-", "chat.completion.chunk", &answerer);
        let sieves = vec![sieve; running.len()];
        let writer = Chunks { head, answerer, sieves, tells_usage };
        let timing = generation::timing(&running);
        return Ok(
            timing.tell(sse::response(stream::events(running, writer), service.config.http.keep_alive))
        );
    }
    let wholes = generation::wholes(running).await?;
    let timing = wholes[0].timing.clone();
    Ok(timing.tell(Json(whole(&answerer, &sieve, wholes)).into_response()))
}

impl Chat {
    fn ask(self, model: &Model, tools: Option<&Tools>, drawing: &Drawing) -> Result<Ask, Failure> {
        if self.messages.is_empty() {
            return Err(Failure::invalid("messages", "there are none"));
        }
        let turns = self.messages.into_iter().enumerate();
        let prompt = match tools {
            None => Prompt::Messages(turns.map(|(at, turn)| turn.message(at)).collect::<Result<_, _>>()?),
            Some(tools) => {
                let turns = turns.map(|(at, turn)| turn.json(at)).collect::<Result<_, _>>()?;
                Prompt::Rendered(tools.render(model, turns)?)
            }
        };
        let logprobs = match (self.logprobs == Some(true), self.top_logprobs) {
            (true, top) => Some(top.unwrap_or(0)),
            (false, Some(_)) => return Err(Failure::invalid("top_logprobs", "wants logprobs to be true")),
            (false, None) => None,
        };
        let format = self.response_format.map(|format| format.schema("response_format")).transpose()?;
        // A call that is required is all that is said.
        let format = tools.and_then(Tools::schema).or(format.flatten());
        Ok(Ask {
            prompts: vec![prompt],
            n: request::choices(self.n)?,
            max_tokens: self.max_completion_tokens.or(self.max_tokens),
            sampling: drawing.sampling()?,
            stop: drawing.stops(),
            format,
            logprobs,
            guess_tokens: drawing.guess_tokens,
        })
    }

    /// The input of a function that is asked so.
    fn input(self, target: &Target, fields: &Map<String, Value>) -> Result<Value, Failure> {
        if self.messages.is_empty() {
            return Err(Failure::invalid("messages", "there are none"));
        }
        if request::choices(self.n)? != 1 {
            return Err(Failure::unsupported("n", "other than 1 is not offered by a function"));
        }
        if self.logprobs == Some(true) {
            return Err(Failure::unsupported("logprobs", "are not offered by a function"));
        }
        let turns = self.messages.into_iter().enumerate();
        let turns = turns.map(|(at, turn)| turn.json(at)).collect::<Result<Vec<_>, _>>()?;
        adapt::chat(target, &turns, fields)
    }
}

impl Turn {
    /// The turn with what belongs to tools.
    fn json(mut self, at: usize) -> Result<Value, Failure> {
        let extra = [
            ("tool_calls", self.tool_calls.take()),
            ("tool_call_id", self.tool_call_id.take().map(Value::from)),
            ("name", self.name.take().map(Value::from)),
        ];
        let Message { role, content } = self.message(at)?;
        let mut turn = json!({"role": role, "content": content});
        for (name, value) in extra.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            turn[name] = value;
        }
        Ok(turn)
    }

    fn message(self, at: usize) -> Result<Message, Failure> {
        let content = match self.content {
            Some(content) => content.text(&format!("messages[{at}].content"))?,
            None => String::new(),
        };
        // The name that newer clients have for the system's turn.
        let role = if self.role == "developer" { "system".to_owned() } else { self.role };
        Ok(Message { role, content })
    }
}

fn whole(answerer: &Answerer, sieve: &Sieve, wholes: Vec<Whole>) -> impl Serialize {
    #[derive(Serialize)]
    struct Completion {
        #[serde(flatten)]
        head: Head,
        choices: Vec<Value>,
        usage: Value,
    }
    let usages: Vec<Usage> = wholes.iter().map(|whole| whole.usage).collect();
    let choice = |(index, Whole { chunk, finish, .. }): (usize, Whole)| {
        let logprobs = (!chunk.logprobs.is_empty())
            .then(|| json!({"content": answer::likelihoods(answerer, &chunk.logprobs), "refusal": null}));
        let (text, calls) = sieve.part(chunk.text);
        let (message, reason) = said(text, calls, finish);
        json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason})
    };
    Completion {
        head: Head::new("chatcmpl-", "chat.completion", answerer),
        choices: wholes.into_iter().enumerate().map(choice).collect(),
        usage: answer::usage(&usages, 1),
    }
}

/// The assistant's turn, or its rest, and why it ended.
fn said(text: String, calls: Vec<Call>, finish: Finish) -> (Value, &'static str) {
    let mut message = json!({"role": "assistant", "content": text, "refusal": null});
    if calls.is_empty() {
        return (message, answer::finish_reason(finish));
    }
    if text.is_empty() {
        message["content"] = Value::Null;
    }
    message["tool_calls"] = json!(calls);
    (message, CALLED)
}

/// Writes a stream's chunks.
struct Chunks {
    head: Head,
    answerer: Answerer,
    /// Of each choice.
    sieves: Vec<Sieve>,
    tells_usage: bool,
}

impl Chunks {
    /// What was held back, as text or calls, and the end.
    fn last(&mut self, choice: usize, finish: Finish) -> Vec<String> {
        let (text, calls) = self.sieves[choice].end();
        let (message, reason) = said(text, calls, finish);
        let mut chunks = Vec::new();
        if message["content"].as_str().is_some_and(|text| !text.is_empty()) {
            chunks.push(self.chunk(choice, json!({"content": message["content"]}), Value::Null, None));
        }
        for (index, call) in message["tool_calls"].as_array().into_iter().flatten().enumerate() {
            let mut call = call.clone();
            call["index"] = json!(index);
            chunks.push(self.chunk(choice, json!({"tool_calls": [call]}), Value::Null, None));
        }
        chunks.push(self.chunk(choice, json!({}), Value::Null, Some(reason)));
        chunks
    }

    fn chunk(&self, choice: usize, delta: Value, logprobs: Value, finish_reason: Option<&str>) -> String {
        let choice =
            json!({"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason});
        self.write(vec![choice], None)
    }

    fn write(&self, choices: Vec<Value>, usage: Option<Value>) -> String {
        #[derive(Serialize)]
        struct Chunk<'a> {
            #[serde(flatten)]
            head: &'a Head,
            choices: Vec<Value>,
            /// Absent unless asked for; then `null` in all chunks but the last.
            #[serde(skip_serializing_if = "Option::is_none")]
            usage: Option<Option<Value>>,
        }
        sse::data(&Chunk { head: &self.head, choices, usage: self.tells_usage.then_some(usage) })
    }
}

impl Writer for Chunks {
    fn begin(&mut self) -> Vec<String> {
        let role = json!({"role": "assistant", "content": ""});
        (0..self.sieves.len()).map(|choice| self.chunk(choice, role.clone(), Value::Null, None)).collect()
    }

    fn piece(&mut self, choice: usize, piece: Piece) -> Vec<String> {
        match piece {
            Piece::Chunk(chunk) => {
                let text = self.sieves[choice].flow(chunk.text);
                if text.is_empty() && chunk.logprobs.is_empty() {
                    return Vec::new();
                }
                let logprobs = match chunk.logprobs.as_slice() {
                    [] => Value::Null,
                    some => json!({"content": answer::likelihoods(&self.answerer, some), "refusal": null}),
                };
                vec![self.chunk(choice, json!({"content": text}), logprobs, None)]
            }
            Piece::Wake(wake) => vec![timing::comment(&wake)],
            Piece::End(finish, _) => self.last(choice, finish),
        }
    }

    fn end(&mut self, usages: &[Usage]) -> Vec<String> {
        let usage = self.tells_usage.then(|| self.write(Vec::new(), Some(answer::usage(usages, 1))));
        usage.into_iter().chain([DONE.to_owned()]).collect()
    }

    fn failed(&mut self, failure: &Failure) -> Vec<String> {
        vec![sse::data(&failure.event())]
    }
}
