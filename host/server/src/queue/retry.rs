//! What becomes of a prediction whose run failed: the decision.

use std::time::Duration;

use crate::{
    http::Code,
    prediction::{Failure, Order},
};

/// How runs are repeated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Backoff {
    /// Before the second run; it doubles with every further one.
    pub(crate) first: Duration,
    pub(crate) max: Duration,
}

/// What becomes of a prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It has failed.
    Fail,
    /// It has failed for want of attempts; someone should look at it.
    Bury,
    /// It runs again after this time.
    Retry(Duration),
}

impl Backoff {
    /// What becomes of a prediction that failed in the attempt that `order` counts. `jitter`, in
    /// [0, 1), spreads those that failed together.
    pub(crate) fn decide(&self, order: &Order, failure: &Failure, jitter: f64) -> Verdict {
        let is_tried_again = match failure.code.whose_fault() {
            Fault::Node => true,
            Fault::Predictor => order.retries_failures,
            Fault::Caller => false,
        };
        if !is_tried_again {
            return Verdict::Fail;
        }
        if order.attempt >= order.attempts_max {
            return match order.attempts_max {
                // Nobody asked for another attempt.
                0 | 1 => Verdict::Fail,
                _ => Verdict::Bury,
            };
        }
        Verdict::Retry(self.after(order.attempt, jitter))
    }

    /// Time between an attempt, counted from 1, and the next.
    fn after(&self, attempt: u32, jitter: f64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        let full = self.first.saturating_mul(1 << doublings).min(self.max);
        full / 2 + full.mul_f64(jitter / 2.0)
    }
}

/// Who can do something about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Caller,
    Predictor,
    Node,
}

impl Code {
    fn whose_fault(self) -> Fault {
        match self {
            Self::Overloaded | Self::Internal | Self::Draining | Self::ModelUnavailable => Fault::Node,
            Self::PredictorFailed
            | Self::PredictorTrapped
            | Self::PredictorOutOfMemory
            | Self::PredictorStackOverflow
            | Self::PredictorExited
            | Self::PredictorBadOutput
            | Self::OutputTooLarge
            | Self::Timeout => Fault::Predictor,
            Self::InvalidRequest
            | Self::Unauthorized
            | Self::Forbidden
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::NotAcceptable
            | Self::RequestTimeout
            | Self::Conflict
            | Self::PreconditionFailed
            | Self::TooLarge
            | Self::UnsupportedMediaType
            | Self::InvalidInput
            | Self::InvalidComponent
            | Self::UnknownModel
            | Self::Cancelled => Fault::Caller,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, prediction::Submission};

    const BACKOFF: Backoff = Backoff { first: Duration::from_secs(2), max: Duration::from_secs(60) };

    #[track_caller]
    fn check(code: Code, attempt: u32, attempts_max: u32, retries_failures: bool, expected: Verdict) {
        let submission = Submission { retries_failures, ..Submission::default() };
        let order =
            Order { attempt, attempts_max, ..Order::new(&submission, None, &config::Queue::default()) };
        let failure = Failure { code, message: String::new() };
        assert_eq!(BACKOFF.decide(&order, &failure, 0.5), expected);
    }

    fn retry(millis: u64) -> Verdict {
        Verdict::Retry(Duration::from_millis(millis))
    }

    #[test]
    fn the_nodes_faults_are_tried_again_until_attempts_run_out() {
        check(Code::Internal, 1, 3, false, retry(1500));
        check(Code::ModelUnavailable, 2, 3, false, retry(3000));
        check(Code::Internal, 3, 3, false, Verdict::Bury);
        check(Code::Internal, 1, 1, false, Verdict::Fail);
    }

    #[test]
    fn the_predictors_faults_are_tried_again_when_asked_for() {
        check(Code::PredictorFailed, 1, 3, false, Verdict::Fail);
        check(Code::PredictorTrapped, 1, 3, true, retry(1500));
        check(Code::Timeout, 3, 3, true, Verdict::Bury);
    }

    #[test]
    fn the_callers_faults_never_are() {
        check(Code::InvalidInput, 1, 3, true, Verdict::Fail);
        check(Code::Cancelled, 1, 3, true, Verdict::Fail);
    }

    #[test]
    fn the_time_between_attempts_has_a_bound() {
        check(Code::Internal, 40, 100, false, retry(45_000));
        assert_eq!(BACKOFF.after(100, 0.0), Duration::from_secs(30));
    }
}
