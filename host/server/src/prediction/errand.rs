//! Work of the queue that is the node's own and no predictor's. It has a lane of its own, under a name that
//! no function can have; else it is queued, run again, canceled and recorded as a prediction is.

use crate::{Config, function::FunctionName};

/// The lane of batches.
const BATCHES: &str = "batches.";

/// What the node does itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Errand {
    /// The requests of a file, answered one by one.
    Batch,
}

impl Errand {
    /// What a lane is for, if it is no function's.
    pub(crate) fn of(lane: &FunctionName) -> Option<Self> {
        (lane.as_str() == BATCHES).then_some(Self::Batch)
    }

    pub(crate) fn lane(self) -> FunctionName {
        let Self::Batch = self;
        FunctionName::lane(BATCHES).expect("the name is a lane's")
    }

    /// How many run at once.
    pub(crate) fn running_max(self, config: &Config) -> usize {
        let Self::Batch = self;
        config.batch.running_max.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_function_can_have_an_errands_lane() {
        let lane = Errand::Batch.lane();
        assert_eq!(Errand::of(&lane), Some(Errand::Batch));
        assert!(FunctionName::parse(lane.as_str()).is_err());
        assert_eq!(Errand::of(&FunctionName::parse("batches").unwrap()), None);
    }
}
