//! Predictions, from a request to an answer and beyond.
//!
//! Every dialect of HTTP makes a [`Call`] and comes here with it, in one of two ways:
//!
//! ```text
//! prepare + run    the caller holds a connection open; leaving it ends the prediction
//! submit           acknowledged when it is on disk; the queue runs it
//!
//! both             component at hand, input checked      422 before anything waits
//!                  a place, waited for in order          429
//!                  a fresh instance; what it tells goes to its EventLog, which anybody may follow
//!                  a Record of how it ended, kept for a while
//! ```

mod dispatcher;
mod errand;
mod events;
mod held;
mod id;
mod job;
mod live;
mod record;
mod recorder;
mod run;

pub(crate) use dispatcher::{Dispatcher, Submission, Submitted};
pub(crate) use errand::Errand;
pub(crate) use events::Item;
pub(crate) use held::{Held, Prediction};
pub(crate) use id::{PredictionId, new_id};
pub(crate) use job::{After, PAST_DEADLINE, run as run_job};
pub(crate) use live::{Cursor, Live};
#[cfg(test)]
pub(crate) use record::tests::queued as queued_record;
pub(crate) use record::{Failure, Json, Metrics, Order, Record, Status, millis, output};
pub(crate) use run::{Call, Input};
