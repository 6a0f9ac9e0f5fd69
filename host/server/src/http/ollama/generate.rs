//! `POST /api/generate` and `POST /api/chat`; without a prompt they wake a model or have it sleep.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use dormouse_engine::{Finish, KeepAlive, Message, Model, Prompt, Tier};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    super::openai::{
        adapt,
        answerer::{Answerer, Named, Target, named},
        generation::{self, Ask},
        request as openai_request, stream,
        tools::{Sieve, Tools},
    },
    super::{guard, timing::Timing},
    Refusal,
    lines::{self, Answer, Kind},
    plain_name,
    request::Common,
};
use crate::service::Service;

/// How long an answer waits for a model that is to sleep; one that is in use sleeps later.
const SLEEP_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug, Deserialize)]
struct Generate {
    #[serde(default)]
    prompt: String,
    suffix: Option<String>,
    system: Option<String>,
    template: Option<String>,
    context: Option<Vec<u32>>,
    #[serde(default)]
    raw: bool,
    images: Option<Vec<Value>>,
}

#[derive(Debug, Deserialize)]
struct Chat {
    #[serde(default)]
    messages: Vec<Turn>,
    tools: Option<Vec<Value>>,
}

#[derive(Debug, Deserialize)]
struct Turn {
    role: String,
    #[serde(default)]
    content: Option<String>,
    images: Option<Vec<Value>>,
    tool_calls: Option<Value>,
    tool_name: Option<String>,
}

/// What is asked, once it is read.
struct Question {
    common: Common,
    kind: Kind,
    /// As OpenAI has them.
    turns: Vec<Value>,
    /// A text that no template is to be put around.
    raw: Option<String>,
    tools: Vec<Value>,
    bytes: usize,
    began: Instant,
}

/// `POST /api/generate`.
pub(super) async fn generate(State(service): State<Arc<Service>>, body: Body) -> Result<Response, Refusal> {
    let began = Instant::now();
    let bytes = openai_request::read(body, &service.config.http).await?;
    let common: Common = openai_request::parse(&bytes)?;
    let generate: Generate = openai_request::parse(&bytes)?;
    let (turns, raw) = generate.turns()?;
    let (kind, bytes) = (Kind::Generate, bytes.len());
    let question = Question { common, kind, turns, raw, tools: Vec::new(), bytes, began };
    question.answer(&service).await
}

/// `POST /api/chat`.
pub(super) async fn chat(State(service): State<Arc<Service>>, body: Body) -> Result<Response, Refusal> {
    let began = Instant::now();
    let bytes = openai_request::read(body, &service.config.http).await?;
    let common: Common = openai_request::parse(&bytes)?;
    let chat: Chat = openai_request::parse(&bytes)?;
    let turns = chat.messages.into_iter().map(Turn::json).collect::<Result<_, _>>()?;
    let (tools, bytes) = (chat.tools.unwrap_or_default(), bytes.len());
    Question { common, kind: Kind::Chat, turns, raw: None, tools, bytes, began }.answer(&service).await
}

impl Generate {
    /// The turns, none without a prompt; or the text as it is.
    fn turns(self) -> Result<(Vec<Value>, Option<String>), Refusal> {
        let refused = [
            ("suffix", self.suffix.is_some_and(|suffix| !suffix.is_empty())),
            ("template", self.template.is_some_and(|template| !template.is_empty())),
            ("context", self.context.is_some_and(|context| !context.is_empty())),
            ("images", self.images.is_some_and(|images| !images.is_empty())),
        ];
        if let Some((field, _)) = refused.into_iter().find(|(_, is_asked)| *is_asked) {
            return Err(Refusal::unsupported(field));
        }
        if self.prompt.is_empty() {
            return Ok((Vec::new(), None));
        }
        let system = self.system.filter(|system| !system.is_empty());
        let system = system.map(|content| json!({"role": "system", "content": content}));
        let user = json!({"role": "user", "content": self.prompt});
        let turns = system.into_iter().chain([user]).collect();
        Ok((turns, self.raw.then_some(self.prompt)))
    }
}

impl Turn {
    fn json(self) -> Result<Value, Refusal> {
        if self.images.is_some_and(|images| !images.is_empty()) {
            return Err(Refusal::unsupported("images"));
        }
        let mut turn = json!({"role": self.role, "content": self.content.unwrap_or_default()});
        if let Some(calls) = self.tool_calls {
            turn["tool_calls"] = calls;
        }
        if let Some(name) = self.tool_name {
            turn["name"] = json!(name);
        }
        Ok(turn)
    }
}

impl Question {
    async fn answer(self, service: &Arc<Service>) -> Result<Response, Refusal> {
        self.common.check()?;
        let name = plain_name(service, &self.common.model).await?;
        let is_empty = self.turns.is_empty();
        if is_empty && self.common.keep_alive()? == Some(KeepAlive::Exactly(Duration::ZERO)) {
            sleep(service, &name).await?;
            return Ok(Json(self.writer(Sieve::new(None), Duration::ZERO).moved("unload")).into_response());
        }
        let open = self.common.open()?;
        let answerer = Answerer::open(service, &name, open).await?;
        let load = match &answerer {
            Answerer::Model(model) => model.wake(),
            Answerer::Function(_) => Duration::ZERO,
        };
        if is_empty {
            let moved = Json(self.writer(Sieve::new(None), load).moved("load"));
            let timing = match &answerer {
                Answerer::Model(model) => Timing::of_model(model),
                Answerer::Function(_) => Timing::default(),
            };
            return Ok(timing.tell(moved.into_response()));
        }
        let (running, sieve) = match &answerer {
            Answerer::Model(model) => {
                let tools = Tools::new(&self.tools, None)?;
                let ask = self.ask(model, tools.as_ref())?;
                (generation::start(service, model, ask).await?, Sieve::new(tools))
            }
            Answerer::Function(target) => {
                let input = self.input(target)?;
                (
                    vec![generation::call(service, target, input, self.bytes, open.keep_alive).await?],
                    Sieve::new(None),
                )
            }
        };
        let mut writer = self.writer(sieve, load);
        if self.common.stream {
            let timing = generation::timing(&running);
            return Ok(timing.tell(lines::response(stream::events(running, writer))));
        }
        let whole = generation::wholes(running).await?.pop().expect("one was asked for");
        let timing = whole.timing.clone();
        writer.finish = whole.finish;
        Ok(timing.tell(Json(writer.whole(whole)).into_response()))
    }

    fn ask(&self, model: &Model, tools: Option<&Tools>) -> Result<Ask, Refusal> {
        let turns = self.turns.iter().cloned();
        let prompt = match (&self.raw, tools) {
            (Some(raw), _) => Prompt::Rendered(raw.clone()),
            (None, Some(tools)) => Prompt::Rendered(tools.render(model, turns.collect())?),
            (None, None) => Prompt::Messages(turns.map(message).collect()),
        };
        Ok(Ask {
            prompts: vec![prompt],
            n: 1,
            max_tokens: self.common.max_tokens(),
            sampling: self.common.sampling(),
            stop: self.common.stops(),
            format: self.common.schema()?,
            logprobs: None,
            guess_tokens: self.common.guess_tokens(),
        })
    }

    fn input(&self, target: &Target) -> Result<Value, Refusal> {
        let mut fields = self.common.fields()?;
        if !self.tools.is_empty() {
            fields.insert("tools".to_owned(), json!(self.tools));
        }
        Ok(adapt::chat(target, &self.turns, &fields)?)
    }

    fn writer(&self, sieve: Sieve, load: Duration) -> Answer {
        let (kind, model, began) = (self.kind, self.common.model.clone(), self.began);
        Answer { kind, model, sieve, began, load, finish: Finish::Stop }
    }
}

fn message(turn: Value) -> Message {
    let text = |name: &str| turn[name].as_str().unwrap_or_default().to_owned();
    Message { role: text("role"), content: text("content") }
}

/// Has a model sleep, and waits a while until it does. A function has nothing to put to sleep.
async fn sleep(service: &Service, name: &str) -> Result<(), Refusal> {
    if let Named::Function(_) = named(service, name).await? {
        return Ok(());
    }
    guard::allow_all("models")?;
    let mut models = service.engine.watch_residency();
    service.engine.sleep(name, Tier::Disk).await?;
    let arrives = models.wait_for(|models| {
        models.iter().filter(|model| model.name == name).all(|model| model.tier >= Tier::Memory)
    });
    // One that is in use sleeps when it is done.
    let _ = timeout(SLEEP_WAIT, arrives).await;
    Ok(())
}
