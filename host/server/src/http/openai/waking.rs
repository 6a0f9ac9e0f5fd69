//! Streams that begin while their model wakes.
//!
//! Clients of the dialect read every event as a chunk of the answer, so progress is told in comments.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::{Body, BodyDataStream},
    response::Response,
};
use bytes::Bytes;
use dormouse_engine::{ModelResidency, Phase};
use dormouse_runtime::Wake;
use futures_util::{Stream, StreamExt, stream};
use tokio::{sync::watch, time::timeout};

use super::{
    super::{guard, sse, timing},
    Failure,
    chat::DONE,
};
use crate::service::Service;

/// Least time between two tellings of a wake's progress.
const INTERVAL: Duration = Duration::from_millis(100);

type Answer = Pin<Box<dyn Future<Output = Result<Response, Failure>> + Send>>;

/// Gives an answer that is a stream of events. If a model has to wake for it first, the stream begins
/// with that; what fails then is an event instead of a status.
pub(super) async fn tell(
    service: Arc<Service>,
    model: String,
    answer: impl Future<Output = Result<Response, Failure>> + Send + 'static,
) -> Result<Response, Failure> {
    let mut answer: Answer = Box::pin(guard::carried(answer));
    let mut residency = service.engine.watch_residency();
    let first = loop {
        tokio::select! {
            biased;
            done = &mut answer => return done,
            Ok(()) = residency.changed() => {}
        }
        if let Some(wake) = Wake::of(&residency.borrow_and_update(), &model) {
            break wake;
        }
    };
    let keep_alive = service.config.http.keep_alive;
    let waiting = Waiting { answer, residency, model, told: (first.phase, Instant::now()), keep_alive };
    let events = stream::once(std::future::ready(comment(&first)));
    let mut response = sse::response(stream::empty(), keep_alive);
    let chunks = events.chain(follow(waiting)).map(Ok::<_, Infallible>);
    *response.body_mut() = Body::from_stream(chunks);
    Ok(response)
}

struct Waiting {
    answer: Answer,
    residency: watch::Receiver<Arc<[ModelResidency]>>,
    model: String,
    /// What was told last, and when.
    told: (Phase, Instant),
    keep_alive: Duration,
}

enum State {
    Waiting(Waiting),
    Answering(BodyDataStream),
}

/// Tells of the wake until the answer begins, then passes it on.
fn follow(waiting: Waiting) -> impl Stream<Item = Bytes> + Send {
    stream::unfold(Some(State::Waiting(waiting)), |state| async move {
        match state? {
            State::Waiting(mut waiting) => match waiting.next().await {
                Told::Comment(text) => Some((text, Some(State::Waiting(waiting)))),
                Told::Answer(Ok(response)) => {
                    let mut body = response.into_body().into_data_stream();
                    let first = body.next().await?.ok()?;
                    Some((first, Some(State::Answering(body))))
                }
                Told::Answer(Err(failure)) => Some((Bytes::from(sse::data(&failure.event()) + DONE), None)),
            },
            State::Answering(mut body) => {
                let chunk = body.next().await?.ok()?;
                Some((chunk, Some(State::Answering(body))))
            }
        }
    })
}

enum Told {
    Comment(Bytes),
    Answer(Result<Response, Failure>),
}

impl Waiting {
    async fn next(&mut self) -> Told {
        loop {
            let news = timeout(self.keep_alive, async {
                tokio::select! {
                    biased;
                    done = &mut self.answer => Some(done),
                    Ok(()) = self.residency.changed() => None,
                }
            });
            match news.await {
                Ok(Some(done)) => return Told::Answer(done),
                Ok(None) => {}
                Err(_) => return Told::Comment(Bytes::from_static(b": keep-alive\n\n")),
            }
            let Some(wake) = Wake::of(&self.residency.borrow_and_update(), &self.model) else { continue };
            if wake.phase != self.told.0 || self.told.1.elapsed() >= INTERVAL {
                self.told = (wake.phase, Instant::now());
                return Told::Comment(comment(&wake));
            }
        }
    }
}

fn comment(wake: &Wake) -> Bytes {
    Bytes::from(timing::comment(wake))
}
