//! Telling a prediction's caller by HTTP what becomes of it.
//!
//! While a prediction runs, a follower sends its start, output and logs: one message at a time, each
//! with all that is known by then, tried once. Its end is owed: it is on disk with the prediction's
//! record until a receiver has taken it or all attempts have failed.

mod address;
mod debts;
mod sender;
mod signature;

use std::sync::Arc;

use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

pub(crate) use debts::{Debt, collect, pause};
pub(crate) use sender::Webhooks;

use crate::{config, http::Dialect, prediction::Record};

/// Whom to tell what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Webhook {
    pub(crate) url: String,
    pub(crate) events: Vec<Event>,
    /// How the prediction is written.
    pub(crate) dialect: Dialect,
    /// What stands before the paths of this service's URLs in it.
    pub(crate) base: String,
    /// Headers of the request that are passed on, such as `traceparent`.
    pub(crate) headers: Vec<(String, String)>,
}

/// What a receiver may want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Event {
    Start,
    Output,
    Logs,
    Completed,
}

impl Event {
    pub(crate) const ALL: [Self; 4] = [Self::Start, Self::Output, Self::Logs, Self::Completed];
}

impl Webhook {
    pub(crate) fn wants(&self, event: Event) -> bool {
        self.events.contains(&event)
    }

    /// What is wrong with a URL for webhooks.
    pub(crate) fn check(url: &str, config: &config::Webhook) -> Result<(), String> {
        let parsed = Url::parse(url).map_err(|error| format!("\"{}\" is no URL: {error}", shortened(url)))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(format!("has scheme \"{}\", http and https are taken", parsed.scheme()));
        }
        let address = match parsed.host() {
            Some(Host::Ipv4(address)) => Some(address.into()),
            Some(Host::Ipv6(address)) => Some(address.into()),
            _ => None,
        };
        match address {
            Some(address) if !config.allow_private && !address::is_public(address) => {
                Err(format!("{address} is a private address, this node sends to public ones"))
            }
            _ => Ok(()),
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

/// Headers of a request that its webhooks pass on: <https://www.w3.org/TR/trace-context/>.
pub(crate) fn trace_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let header = |name: &str| Some((name.to_owned(), headers.get(name)?.to_str().ok()?.to_owned()));
    ["traceparent", "tracestate"].into_iter().filter_map(header).collect()
}

/// Whether a prediction's end is owed to someone.
pub(crate) fn is_owed(record: &Record) -> bool {
    record.webhook.as_ref().is_some_and(|webhook| webhook.wants(Event::Completed))
}

/// A message's body.
fn body(record: &Record, webhook: &Webhook) -> Vec<u8> {
    crate::http::prediction_body(record, webhook.dialect, &webhook.base)
}

/// A message's id: the same for every attempt at it.
fn message_id(record: &Record, event: Event, number: usize) -> String {
    let event = match event {
        Event::Start => "start",
        Event::Output => "output",
        Event::Logs => "logs",
        Event::Completed => "completed",
    };
    match number {
        0 => format!("msg_{}_{event}", record.id),
        number => format!("msg_{}_{event}_{number}", record.id),
    }
}

/// Follows a prediction that is about to run and tells whom it may concern.
pub(crate) fn follow(webhooks: &Webhooks, cursor: crate::prediction::Cursor, record: &Arc<Record>) {
    let Some(webhook) = record.webhook.clone() else { return };
    let follower = sender::Follower::new(webhooks.clone(), *webhook, record.clone());
    tokio::spawn(tracing::Instrument::in_current_span(follower.run(cursor)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, allow_private: bool, expected: Result<(), &str>) {
        let config = config::Webhook { allow_private, ..config::Webhook::default() };
        match (Webhook::check(url, &config), expected) {
            (Ok(()), Ok(())) => {}
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            (found, expected) => panic!("{url}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn a_url_leads_to_a_public_place_by_http() {
        check("https://example.com/hook?a=b", false, Ok(()));
        check("http://93.184.216.34/", false, Ok(()));
        check("ftp://example.com/", false, Err("scheme \"ftp\""));
        check("hook", false, Err("is no URL"));
        for private in ["http://127.0.0.1:1/", "http://[::1]/", "http://2130706433/", "http://0x7f.1/"] {
            check(private, false, Err("is a private address"));
            check(private, true, Ok(()));
        }
    }
}
