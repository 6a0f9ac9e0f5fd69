//! AWS Lambda's HTTP API: <https://docs.aws.amazon.com/lambda/latest/api/>. A function is a Lambda function,
//! its code a component, as it is or in a zip file; its live revision is `$LATEST`.
//!
//! What Lambda has and a function hasn't (role, runtime, handler, tags, numbered versions, …) is kept in a
//! [`state::State`] beside it, so that a function that was deployed otherwise can be used here too.
//! A request is signed ([`sigv4`]) or brings a token.

mod aliases;
mod code;
mod configuration;
mod destinations;
mod events;
mod extras;
mod failure;
mod frames;
mod functions;
mod invoke;
mod limits;
mod name;
mod sigv4;
mod state;

use std::sync::Arc;

use axum::{
    Router,
    routing::{get, post, put},
};

use crate::service::Service;

pub(super) use destinations::ended;
pub(super) use failure::Refusal;
pub(crate) use limits::{map_provisioned, provisioned_models};
pub(super) use sigv4::{is_signed, verify};
pub(crate) use state::States;

/// The dialect's routes; the dates are the versions of the API that brought them.
pub(super) fn routes() -> Router<Arc<Service>> {
    let function = get(functions::show).delete(functions::remove);
    let configuration = get(functions::configuration).put(functions::configure);
    let alias = get(aliases::show).put(aliases::update).delete(aliases::remove);
    let provisioned =
        get(limits::provisioned).put(limits::set_provisioned).delete(limits::remove_provisioned);
    let url = get(extras::url).post(extras::create_url).put(extras::update_url).delete(extras::remove_url);
    let events = get(events::show).put(events::put).post(events::update).delete(events::remove);
    let tags = get(extras::tags).post(extras::tag).delete(extras::untag);
    Router::new()
        .route("/2015-03-31/functions", get(functions::list).post(functions::create))
        .route("/2015-03-31/functions/", get(functions::list).post(functions::create))
        .route("/2015-03-31/functions/{f}", function)
        .route("/2015-03-31/functions/{f}/configuration", configuration)
        .route("/2015-03-31/functions/{f}/code", put(functions::update_code))
        .route("/2015-03-31/functions/{f}/invocations", post(invoke::invoke))
        .route("/2015-03-31/functions/{f}/versions", get(aliases::versions).post(aliases::publish))
        .route("/2015-03-31/functions/{f}/aliases", get(aliases::list).post(aliases::create))
        .route("/2015-03-31/functions/{f}/aliases/{alias}", alias)
        .route("/2016-08-19/account-settings", get(extras::account))
        .route("/2016-08-19/account-settings/", get(extras::account))
        .route("/2017-03-31/tags/{arn}", tags)
        .route("/2017-10-31/functions/{f}/concurrency", put(limits::reserve).delete(limits::release))
        .route("/2019-09-30/functions/{f}/concurrency", get(limits::reserved))
        .route("/2019-09-30/functions/{f}/provisioned-concurrency", provisioned)
        .route("/2019-09-25/functions/{f}/event-invoke-config", events)
        .route("/2019-09-25/functions/{f}/event-invoke-config/list", get(events::list))
        .route("/2021-10-31/functions/{f}/url", url)
        .route("/2021-10-31/functions/{f}/urls", get(extras::urls))
        .route("/2021-11-15/functions/{f}/response-streaming-invocations", post(invoke::stream))
}

/// Whether a path is one of the dialect's: it begins with a date.
pub(super) fn is_route(path: &str) -> bool {
    let date = path.strip_prefix('/').and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let is_digit = |at: &usize| date.as_bytes()[*at].is_ascii_digit();
    date.len() == 10
        && date.is_ascii()
        && [0, 1, 2, 3, 5, 6, 8, 9].iter().all(is_digit)
        && date.as_bytes()[4] == b'-'
        && date.as_bytes()[7] == b'-'
}
