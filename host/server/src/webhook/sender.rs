//! Sends messages: bounded in number, time and size of the answer, never along a redirect.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use dormouse_runtime::Event as Told;
use tokio::{sync::Semaphore, task::spawn_blocking};
use ureq::{
    Agent,
    unversioned::{resolver::DefaultResolver, transport::DefaultConnector},
};

use super::{Event, Webhook, address::PublicOnly, body, message_id, signature::Secret};
use crate::{
    config,
    http::Dialect,
    prediction::{Cursor, Item, Record, Status},
    store::{ChangeError, Documents, Expect, Kind, Predictions, Store},
};

/// Key of the secret among the node's own documents.
const SECRET_KEY: &str = "webhook-secret";

/// What sends; cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Webhooks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    agent: Agent,
    secret: Secret,
    /// Messages that may still be under way.
    places: Semaphore,
    log_interval: Duration,
    pub(super) store: Predictions,
}

/// How a message was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Receipt {
    Taken,
    /// It may be taken later; says why it was not.
    Later(String),
    /// It will never be taken; says why.
    Never(String),
}

impl Webhooks {
    /// Reads the secret, or makes one at the first start. Blocks; for within a tokio runtime.
    pub(crate) async fn open(
        store: &Store,
        predictions: Predictions,
        config: &config::Webhook,
    ) -> Result<Self, ChangeError> {
        let fresh = Secret::random();
        let secret = match store.put(Kind::Node, SECRET_KEY, &fresh.text(), Expect::Absent).await? {
            Some(_) => fresh,
            None => {
                let known = store.get::<String>(Kind::Node, SECRET_KEY).await?;
                let known = known.and_then(|known| Secret::parse(&known.value));
                known.ok_or_else(|| ChangeError::Conflict("the webhook secret can't be read".to_owned()))?
            }
        };
        Ok(Self {
            shared: Arc::new(Shared {
                agent: agent(config),
                secret,
                places: Semaphore::new(config.running_max.max(1)),
                log_interval: config.interval,
                store: predictions,
            }),
        })
    }

    /// What receivers check signatures with.
    pub(crate) fn secret(&self) -> &Secret {
        &self.shared.secret
    }

    pub(super) fn store(&self) -> &Predictions {
        &self.shared.store
    }

    /// Sends a prediction that ended without running; what fails is tried again later.
    pub(crate) fn completed(&self, record: &Arc<Record>) {
        if super::is_owed(record) {
            let (this, record) = (self.clone(), record.clone());
            tokio::spawn(async move { this.pay(&record, 0).await });
        }
    }

    /// Tries to deliver a prediction's end, and writes down how that went.
    pub(super) async fn pay(&self, record: &Record, attempts: u32) {
        let Some(webhook) = &record.webhook else { return };
        let id = message_id(record, Event::Completed, 0);
        let receipt = self.send(webhook, id, body(record, webhook)).await;
        if let Receipt::Later(reason) | Receipt::Never(reason) = &receipt {
            tracing::warn!(prediction = %record.id, reason, attempts, "a webhook was not taken");
        }
        let settled = match receipt {
            Receipt::Taken | Receipt::Never(_) => self.store().forgive(&record.id).await,
            Receipt::Later(_) => self.store().postpone(&record.id, attempts + 1, SystemTime::now()).await,
        };
        if let Err(error) = settled {
            tracing::warn!(%error, "can't write how a webhook went; it may come twice");
        }
    }

    /// Sends one message and waits for its receipt.
    async fn send(&self, webhook: &Webhook, id: String, body: Vec<u8>) -> Receipt {
        let _place = self.shared.places.acquire().await.expect("the semaphore is never closed");
        let (this, webhook) = (self.clone(), webhook.clone());
        let sent = spawn_blocking(move || {
            let signed = this.shared.secret.sign(&id, SystemTime::now(), &body);
            let mut request = this.shared.agent.post(&webhook.url).content_type("application/json");
            for (name, value) in signed {
                request = request.header(name, value);
            }
            for (name, value) in &webhook.headers {
                request = request.header(name, value);
            }
            receipt(request.send(&body[..]).map(|response| response.status().as_u16()))
        });
        sent.await.unwrap_or_else(|lost| Receipt::Later(lost.to_string()))
    }
}

fn receipt(answer: Result<u16, ureq::Error>) -> Receipt {
    match answer {
        Ok(200..=299) => Receipt::Taken,
        Ok(status @ (408 | 425 | 429 | 500..)) => Receipt::Later(format!("status {status}")),
        Ok(status) => Receipt::Never(format!("status {status}")),
        Err(error @ (ureq::Error::BadUri(_) | ureq::Error::Http(_))) => Receipt::Never(error.to_string()),
        Err(error) => Receipt::Later(error.to_string()),
    }
}

fn agent(config: &config::Webhook) -> Agent {
    let settings = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .timeout_global(Some(config.timeout))
        .user_agent(concat!("dormouse/", env!("CARGO_PKG_VERSION")))
        .build();
    match config.allow_private {
        true => Agent::new_with_config(settings),
        false => {
            Agent::with_parts(settings, DefaultConnector::default(), PublicOnly(DefaultResolver::default()))
        }
    }
}

/// Tells a receiver about a prediction that runs.
pub(super) struct Follower {
    webhooks: Webhooks,
    webhook: Webhook,
    /// The prediction as far as it has come.
    record: Record,
    sent: usize,
    last: Option<Instant>,
}

impl Follower {
    pub(super) fn new(webhooks: Webhooks, webhook: Webhook, record: Arc<Record>) -> Self {
        Self { webhooks, webhook, record: Record::clone(&record), sent: 0, last: None }
    }

    pub(super) async fn run(mut self, mut cursor: Cursor) {
        let mut next = None;
        loop {
            let item = match next.take() {
                Some(item) => item,
                None => cursor.next().await,
            };
            match item {
                Item::Started => {
                    self.record.status = Status::Running;
                    self.record.started_at = Some(SystemTime::now());
                    self.record.events.clear();
                    self.tell(Event::Start).await;
                }
                Item::Event(event) => {
                    let mut kinds = vec![kind(&event)];
                    self.record.events.push(event);
                    // What has piled up while the last message was under way goes in one.
                    while let Some(item) = futures_util::FutureExt::now_or_never(cursor.next()) {
                        match item {
                            Item::Event(event) => {
                                kinds.push(kind(&event));
                                self.record.events.push(event);
                            }
                            other => {
                                next = Some(other);
                                break;
                            }
                        }
                    }
                    let first = [Event::Output, Event::Logs]
                        .into_iter()
                        .find(|event| kinds.contains(&Some(*event)) && self.webhook.wants(*event));
                    if let Some(event) = first {
                        self.tell(event).await;
                    }
                }
                Item::Ended(record) => {
                    if self.webhook.wants(Event::Completed) {
                        self.webhooks.pay(&record, 0).await;
                    }
                    return;
                }
            }
        }
    }

    /// Sends what is known now, once; a message that is lost is followed by others.
    async fn tell(&mut self, event: Event) {
        let is_early = self.last.is_some_and(|last| last.elapsed() < self.webhooks.shared.log_interval);
        if !self.webhook.wants(event) || (is_early && self.is_throttled(event)) {
            return;
        }
        self.sent += 1;
        let id = message_id(&self.record, event, self.sent);
        let receipt = self.webhooks.send(&self.webhook, id, body(&self.record, &self.webhook)).await;
        self.last = Some(Instant::now());
        if receipt != Receipt::Taken {
            tracing::debug!(id = %self.record.id, ?receipt, "a webhook was not taken");
        }
    }

    /// Cog sends every output at once; Replicate, and this service, take their time.
    fn is_throttled(&self, event: Event) -> bool {
        match event {
            Event::Start | Event::Completed => false,
            Event::Logs => true,
            Event::Output => self.webhook.dialect != Dialect::Cog,
        }
    }
}

fn kind(event: &Told) -> Option<Event> {
    match event {
        Told::Output(_) => Some(Event::Output),
        Told::Log(_) => Some(Event::Logs),
        Told::Progress { .. } | Told::Wake(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_receiver_says_decides_whether_it_is_asked_again() {
        assert_eq!(receipt(Ok(204)), Receipt::Taken);
        for later in [408, 429, 500, 503] {
            assert!(matches!(receipt(Ok(later)), Receipt::Later(_)), "{later}");
        }
        // A redirect is not followed: it could lead anywhere.
        for never in [301, 307, 400, 404, 410] {
            assert!(matches!(receipt(Ok(never)), Receipt::Never(_)), "{never}");
        }
        assert!(matches!(receipt(Err(ureq::Error::HostNotFound)), Receipt::Later(_)));
    }
}
