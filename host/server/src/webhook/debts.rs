//! Ends of predictions that are owed to a receiver: tried again, ever more rarely, until it takes them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::sleep;

use super::Webhooks;
use crate::{
    prediction::Record,
    service::{Phase, Service},
};

/// Messages looked for at once.
const BATCH: usize = 32;

/// A prediction's end that a receiver has not taken yet.
#[derive(Debug, Clone)]
pub(crate) struct Debt {
    pub(crate) record: Arc<Record>,
    /// Attempts so far.
    pub(crate) attempts: u32,
}

/// Time between an attempt, counted from 1, and the next.
pub(crate) fn pause(attempts: u32, first: Duration, max: Duration) -> Duration {
    first.saturating_mul(1 << attempts.saturating_sub(1).min(31)).min(max)
}

/// Delivers what is owed until the service drains.
pub(crate) async fn collect(service: Arc<Service>) {
    let webhooks: &Webhooks = &service.predictions.webhooks;
    if let Err(error) = webhooks.store().take_over_debts(SystemTime::now()).await {
        tracing::error!(%error, "can't take over webhooks that are owed; they come after their grace");
    }
    while service.phase() == Phase::Serving {
        match webhooks.store().debts(SystemTime::now(), BATCH).await {
            Ok(debts) if !debts.is_empty() => {
                let pay = debts.iter().map(|debt| webhooks.pay(&debt.record, debt.attempts));
                futures_util::future::join_all(pay).await;
                continue;
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "can't look for webhooks that are owed"),
        }
        tokio::select! {
            () = sleep(service.config.webhook.tick) => {}
            () = service.left(Phase::Serving) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_ever_more_rarely_but_not_never() {
        let pause = |attempts| pause(attempts, Duration::from_secs(2), Duration::from_secs(60)).as_secs();
        assert_eq!([1, 2, 3, 5, 6, 100].map(pause), [2, 4, 8, 32, 60, 60]);
    }
}
