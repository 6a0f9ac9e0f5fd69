//! `POST /v1/responses`: what newer clients use in place of chats. Nothing is stored, so a response can't
//! go on from an earlier one.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use dormouse_engine::{Finish, Message, Prompt, Usage};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    super::{sse, timing},
    Failure, adapt, answer,
    answerer::{Answerer, Target},
    generation::{self, Ask, Piece},
    request::{self, Content, Drawing, Format},
    stream::{self, Writer},
    waking,
};
use crate::{prediction::new_id, service::Service};

/// The body, as far as it isn't [`Drawing`].
#[derive(Debug, Deserialize)]
struct Respond {
    model: String,
    input: Input,
    instructions: Option<String>,
    max_output_tokens: Option<usize>,
    text: Option<TextOptions>,
    previous_response_id: Option<String>,
    background: Option<bool>,
    stream: Option<bool>,
    metadata: Option<Map<String, Value>>,
    tools: Option<Vec<Value>>,
    temperature: Option<f32>,
    top_p: Option<f32>,
}

#[derive(Debug, Deserialize)]
struct TextOptions {
    format: Option<Format>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Items(Vec<Item>),
}

#[derive(Debug, Deserialize)]
struct Item {
    r#type: Option<String>,
    role: Option<String>,
    content: Option<Content>,
}

/// Answers an input.
pub(super) async fn create(State(service): State<Arc<Service>>, body: Body) -> Result<Response, Failure> {
    let bytes = request::read(body, &service.config.http).await?;
    let (respond, drawing) = (request::parse::<Respond>(&bytes)?, request::parse::<Drawing>(&bytes)?);
    let (name, is_stream) = (respond.model.clone(), respond.stream == Some(true));
    let answer = answer(service.clone(), bytes, respond, drawing);
    match is_stream {
        true => waking::tell(service, name, answer).await,
        false => answer.await,
    }
}

async fn answer(
    service: Arc<Service>,
    bytes: Bytes,
    respond: Respond,
    drawing: Drawing,
) -> Result<Response, Failure> {
    let is_stream = respond.stream == Some(true);
    let facts = respond.facts();
    let (name, ask) = (respond.model.clone(), respond.ask(&drawing)?);
    let open = request::open(&bytes)?;
    let answerer = Answerer::open(&service, &name, open).await?;
    let running = match &answerer {
        Answerer::Model(model) => generation::start(&service, model, ask).await?,
        Answerer::Function(target) => {
            let input = input(target, ask, request::parse(&bytes)?)?;
            vec![generation::call(&service, target, input, bytes.len(), open.keep_alive).await?]
        }
    };
    let mut object = ResponseObject::new(&answerer, facts);
    let mut timing = generation::timing(&running);
    if is_stream {
        let events =
            stream::events(running, Events { object, text: String::new(), finish: Finish::Stop, next: 0 });
        return Ok(timing.tell(sse::response(events, service.config.http.keep_alive)));
    }
    for whole in generation::wholes(running).await? {
        object.end(&whole.chunk.text, whole.finish, &whole.usage);
        timing = whole.timing;
    }
    Ok(timing.tell(Json(object).into_response()))
}

/// The input of a function that is asked so.
fn input(target: &Target, ask: Ask, mut fields: Map<String, Value>) -> Result<Value, Failure> {
    if let Some(format) = fields.get("text").and_then(|text| text.get("format")).cloned() {
        fields.insert("response_format".to_owned(), format);
    }
    let turn = |message: Message| json!({"role": message.role, "content": message.content});
    let turns: Vec<_> = ask
        .prompts
        .into_iter()
        .flat_map(|prompt| match prompt {
            Prompt::Messages(messages) => messages,
            _ => Vec::new(),
        })
        .map(turn)
        .collect();
    adapt::chat(target, &turns, &fields)
}

impl Respond {
    /// What the answer repeats.
    fn facts(&self) -> Facts {
        Facts {
            instructions: self.instructions.clone(),
            max_output_tokens: self.max_output_tokens,
            metadata: self.metadata.clone().unwrap_or_default(),
            temperature: self.temperature.unwrap_or(1.0),
            top_p: self.top_p.unwrap_or(1.0),
        }
    }

    fn ask(self, drawing: &Drawing) -> Result<Ask, Failure> {
        if self.previous_response_id.is_some() {
            return Err(Failure::unsupported(
                "previous_response_id",
                "is not offered: responses are not stored",
            ));
        }
        if self.background == Some(true) {
            return Err(Failure::unsupported("background", "is not offered: responses are not stored"));
        }
        if self.tools.is_some_and(|tools| !tools.is_empty()) {
            return Err(Failure::unsupported("tools", "are not offered here; /v1/chat/completions has them"));
        }
        let mut messages = Vec::new();
        if let Some(content) = self.instructions {
            messages.push(Message { role: "system".to_owned(), content });
        }
        match self.input {
            Input::Text(content) => messages.push(Message { role: "user".to_owned(), content }),
            Input::Items(items) => {
                for (at, item) in items.into_iter().enumerate() {
                    messages.push(item.message(at)?);
                }
            }
        }
        let format = self.text.and_then(|text| text.format);
        let format = format.map(|format| format.schema("text.format")).transpose()?;
        Ok(Ask {
            prompts: vec![Prompt::Messages(messages)],
            n: 1,
            max_tokens: self.max_output_tokens,
            sampling: drawing.sampling()?,
            stop: drawing.stops(),
            format: format.flatten(),
            logprobs: None,
            guess_tokens: drawing.guess_tokens,
        })
    }
}

impl Item {
    fn message(self, at: usize) -> Result<Message, Failure> {
        let kind = self.r#type.as_deref().unwrap_or("message");
        let (Some(role), Some(content), "message") = (self.role, self.content, kind) else {
            let message = format!("an item of type \"{kind}\" is not a message with role and content");
            return Err(Failure::invalid(format!("input[{at}]"), message));
        };
        let role = if role == "developer" { "system".to_owned() } else { role };
        Ok(Message { role, content: content.text(&format!("input[{at}].content"))? })
    }
}

/// What a response repeats of its request.
#[derive(Debug, Clone, Serialize)]
struct Facts {
    instructions: Option<String>,
    max_output_tokens: Option<usize>,
    metadata: Map<String, Value>,
    temperature: f32,
    top_p: f32,
}

/// A response, as far as it has come.
#[derive(Debug, Clone, Serialize)]
struct ResponseObject {
    id: String,
    object: &'static str,
    created_at: u64,
    status: &'static str,
    error: Option<Value>,
    incomplete_details: Option<Value>,
    model: String,
    output: Vec<Value>,
    usage: Option<Value>,
    parallel_tool_calls: bool,
    tool_choice: &'static str,
    tools: [Value; 0],
    store: bool,
    text: Value,
    #[serde(flatten)]
    facts: Facts,
    /// Of the one message.
    #[serde(skip)]
    item_id: String,
}

impl ResponseObject {
    fn new(answerer: &Answerer, facts: Facts) -> Self {
        Self {
            id: format!("resp_{}", new_id()),
            object: "response",
            created_at: answer::now(),
            status: "in_progress",
            error: None,
            incomplete_details: None,
            model: answerer.name().to_owned(),
            output: Vec::new(),
            usage: None,
            parallel_tool_calls: false,
            tool_choice: "none",
            tools: [],
            store: false,
            text: json!({"format": {"type": "text"}}),
            facts,
            item_id: format!("msg_{}", new_id()),
        }
    }

    fn end(&mut self, text: &str, finish: Finish, usage: &Usage) {
        self.status = status(finish);
        if finish == Finish::Length {
            self.incomplete_details = Some(json!({"reason": "max_output_tokens"}));
        }
        self.output = vec![self.item(Some(text), self.status)];
        self.usage = Some(json!({
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }));
    }

    /// The message, without a text before it begins.
    fn item(&self, text: Option<&str>, status: &str) -> Value {
        let content: Vec<Value> = text.map(part).into_iter().collect();
        json!({
            "type": "message", "id": self.item_id, "status": status, "role": "assistant", "content": content,
        })
    }
}

fn status(finish: Finish) -> &'static str {
    if finish == Finish::Length { "incomplete" } else { "completed" }
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

/// Writes a stream's events, numbered from 0.
struct Events {
    object: ResponseObject,
    text: String,
    finish: Finish,
    next: u64,
}

impl Events {
    /// An event whose data repeats its name; `fields` is an object.
    fn event(&mut self, name: &str, fields: Value) -> String {
        let mut data = json!({"type": name, "sequence_number": self.next});
        self.next += 1;
        if let (Some(data), Value::Object(fields)) = (data.as_object_mut(), fields) {
            data.extend(fields);
        }
        sse::event(name, None, &sse::json(&data))
    }

    /// An event about the one part of the one message.
    fn part_event(&mut self, name: &str, fields: Value) -> String {
        let mut place = json!({"item_id": self.object.item_id, "output_index": 0, "content_index": 0});
        if let (Some(place), Value::Object(fields)) = (place.as_object_mut(), fields) {
            place.extend(fields);
        }
        self.event(name, place)
    }

    fn object_event(&mut self, name: &str) -> String {
        let object = json!({"response": self.object});
        self.event(name, object)
    }
}

impl Writer for Events {
    fn begin(&mut self) -> Vec<String> {
        let item = self.object.item(None, "in_progress");
        vec![
            self.object_event("response.created"),
            self.object_event("response.in_progress"),
            self.event("response.output_item.added", json!({"output_index": 0, "item": item})),
            self.part_event("response.content_part.added", json!({"part": part("")})),
        ]
    }

    fn piece(&mut self, _: usize, piece: Piece) -> Vec<String> {
        match piece {
            Piece::Wake(wake) => vec![timing::comment(&wake)],
            Piece::Chunk(chunk) if chunk.text.is_empty() => Vec::new(),
            Piece::Chunk(chunk) => {
                self.text += &chunk.text;
                vec![
                    self.part_event(
                        "response.output_text.delta",
                        json!({"delta": chunk.text, "logprobs": []}),
                    ),
                ]
            }
            Piece::End(finish, _) => {
                self.finish = finish;
                Vec::new()
            }
        }
    }

    fn end(&mut self, usages: &[Usage]) -> Vec<String> {
        let (text, finish) = (std::mem::take(&mut self.text), self.finish);
        self.object.end(&text, finish, &usages[0]);
        let (item, name) = (self.object.output[0].clone(), format!("response.{}", status(finish)));
        vec![
            self.part_event("response.output_text.done", json!({"text": text, "logprobs": []})),
            self.part_event("response.content_part.done", json!({"part": part(&text)})),
            self.event("response.output_item.done", json!({"output_index": 0, "item": item})),
            self.object_event(&name),
        ]
    }

    fn failed(&mut self, failure: &Failure) -> Vec<String> {
        self.object.status = "failed";
        self.object.error = Some(json!(failure.summary()));
        vec![self.object_event("response.failed")]
    }
}
