//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use dormouse_engine::{Finish, Message, Model, Prompt, Usage};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    super::sse,
    Failure,
    answer::{self, Head},
    generation::{self, Ask, Piece, Whole},
    request::{self, Content, Drawing, Format},
    stream::{self, Writer},
    tools::{ToolChoice, Tools},
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
    let (mut chat, drawing) = (request::parse::<Chat>(&bytes)?, request::parse::<Drawing>(&bytes)?);
    let (name, is_stream) = (chat.model.clone(), chat.stream == Some(true));
    let tells_usage = chat.stream_options.as_ref().is_some_and(|options| options.include_usage);
    let model = generation::open(&service, &name).await?;
    let tools = Tools::new(chat.tools.as_deref().unwrap_or_default(), chat.tool_choice.take())?;
    let ask = chat.ask(&model, tools.as_ref(), &drawing)?;
    let held = vec![Held::default(); ask.n];
    let running = generation::start(&service, &model, ask).await?;
    if is_stream {
        let head = Head::new("chatcmpl-", "chat.completion.chunk", &model);
        let writer = Chunks { head, model, tools, held, tells_usage };
        return Ok(sse::response(stream::events(running, writer), service.config.http.keep_alive));
    }
    let wholes = generation::wholes(running).await?;
    Ok(Json(whole(&model, tools.as_ref(), wholes)).into_response())
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
        })
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

fn whole(model: &Model, tools: Option<&Tools>, wholes: Vec<Whole>) -> impl Serialize {
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
            .then(|| json!({"content": answer::likelihoods(model, &chunk.logprobs), "refusal": null}));
        let (message, reason) = said(tools, chunk.text, true, finish);
        json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason})
    };
    Completion {
        head: Head::new("chatcmpl-", "chat.completion", model),
        choices: wholes.into_iter().enumerate().map(choice).collect(),
        usage: answer::usage(&usages, 1),
    }
}

/// The assistant's turn, or its rest, and why it ended.
fn said(tools: Option<&Tools>, text: String, is_start: bool, finish: Finish) -> (Value, &'static str) {
    let (text, calls) = match tools {
        Some(tools) => tools.parse(&text, is_start),
        None => (text, Vec::new()),
    };
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
    model: Model,
    tools: Option<Tools>,
    /// Of each choice.
    held: Vec<Held>,
    tells_usage: bool,
}

/// Text that may become a call.
#[derive(Debug, Clone, Default)]
struct Held {
    text: String,
    /// Whether any text was let go.
    has_flowed: bool,
}

impl Chunks {
    /// What of a choice's text may be written now.
    fn flow(&mut self, choice: usize, text: String) -> String {
        let Some(tools) = &self.tools else { return text };
        let held = &mut self.held[choice];
        held.text.push_str(&text);
        let plain = tools.plain(&held.text, !held.has_flowed);
        held.has_flowed |= plain > 0;
        held.text.drain(..plain).collect()
    }

    /// What was held back, as text or calls, and the end.
    fn last(&mut self, choice: usize, finish: Finish) -> Vec<String> {
        let Held { text, has_flowed } = std::mem::take(&mut self.held[choice]);
        let (message, reason) = said(self.tools.as_ref(), text, !has_flowed, finish);
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
        (0..self.held.len()).map(|choice| self.chunk(choice, role.clone(), Value::Null, None)).collect()
    }

    fn piece(&mut self, choice: usize, piece: Piece) -> Vec<String> {
        match piece {
            Piece::Chunk(chunk) => {
                let text = self.flow(choice, chunk.text);
                if text.is_empty() && chunk.logprobs.is_empty() {
                    return Vec::new();
                }
                let logprobs = match chunk.logprobs.as_slice() {
                    [] => Value::Null,
                    some => json!({"content": answer::likelihoods(&self.model, some), "refusal": null}),
                };
                vec![self.chunk(choice, json!({"content": text}), logprobs, None)]
            }
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
