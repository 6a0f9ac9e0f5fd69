//! What can go wrong with a component or an invocation, by whose fault it is.

use std::time::Duration;

/// Any failure of the runtime. Everything but [`Error::Host`] is the guest's doing or the caller's.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The bytes are not a component of world `dormouse:predictor/predictor`: names what is missing
    /// or what it imports that the host does not have.
    #[error("not a predictor component: {0}")]
    NotAPredictor(String),
    /// The predictor returned an error of its own.
    #[error("{0}")]
    Failed(String),
    /// `setup` returned an error.
    #[error("setup failed: {0}")]
    Setup(String),
    /// The guest trapped (unreachable, out-of-bounds, division by zero…). Names the export that ran and
    /// the innermost wasm functions.
    #[error("predictor trapped: {0}")]
    Trap(String),
    /// The guest's call stack overflowed.
    #[error("predictor overflowed its stack of {stack_bytes} bytes")]
    StackOverflow {
        /// The limit.
        stack_bytes: usize,
    },
    /// The guest wanted more memory than it may have.
    #[error("predictor wanted {wanted_bytes} bytes of memory, its limit is {limit_bytes}")]
    OutOfMemory {
        /// Size the guest asked to grow to.
        wanted_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// The invocation ran into its time limit.
    #[error("prediction took longer than its limit of {limit:?}")]
    Timeout {
        /// The limit.
        limit: Duration,
    },
    /// The guest left by `exit` instead of returning.
    #[error("predictor exited with status {0} instead of returning")]
    Exit(i32),
    /// The result and emitted output exceed the limit.
    #[error("output has at least {bytes} bytes, the limit is {limit_bytes}")]
    OutputTooLarge {
        /// Bytes seen, the element that was too much included.
        bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// `predict` returned, or `describe` gave, something that is not the JSON it promised.
    #[error("predictor answered with bad JSON: {0}")]
    BadJson(String),
    /// Every instance slot of this node is in use.
    #[error("all {instances_max} instances of this node are busy")]
    Busy {
        /// The bound.
        instances_max: usize,
    },
    /// Whoever wanted the events went away, so the guest was ended.
    #[error("cancelled: the caller went away")]
    Cancelled,
    /// The host's own fault; for the log.
    #[error("host failed: {0}")]
    Host(String),
}
