//! The one task that drives the queue: claims what may run, prolongs claims, looks after what is overdue.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::Notify,
    task::{Id, JoinError, JoinSet},
    time::{MissedTickBehavior, interval, sleep},
};

use super::{Bounds, Full, Lanes, Queue};
use crate::{
    config,
    function::FunctionName,
    http::{self, Code},
    prediction::{After, Errand, Failure, PAST_DEADLINE, run_job},
    service::{Phase, Service},
};

/// Times that a look removes old records before it goes on with other work.
const SWEEPS_MAX: usize = 20;
/// Claims are prolonged so many times before they run out.
const EXTENSIONS: u32 = 3;
/// Without anything to wait for, the task sleeps until it is told or the next tick comes.
const LONG: Duration = Duration::from_secs(3600);

/// What others tell the task.
#[derive(Debug)]
pub(crate) struct Worker {
    lanes: Mutex<Lanes>,
    news: Notify,
}

impl Worker {
    pub(crate) fn new(config: &config::Queue) -> Self {
        let bounds = Bounds {
            waiting_max: config.waiting_max,
            lane_waiting_max: config.function_waiting_max,
            running_max: config.running_max.max(1),
        };
        Self { lanes: Mutex::new(Lanes::new(bounds)), news: Notify::new() }
    }

    /// Makes room for one more prediction.
    pub(crate) fn admit(&self, lane: &FunctionName) -> Result<Place<'_>, Full> {
        self.lock().admit(lane)?;
        Ok(Place { worker: self, lane: lane.clone(), is_stored: false })
    }

    /// One that waited has been canceled.
    pub(crate) fn left(&self, lane: &FunctionName) {
        self.lock().withdraw(lane);
    }

    /// Takes over how many wait.
    pub(crate) fn recount(&self, waiting: &[(FunctionName, usize)]) {
        self.lock().recount(waiting);
        self.news.notify_one();
    }

    /// Predictions that wait and run.
    pub(crate) fn load(&self) -> (usize, usize) {
        self.lock().load()
    }

    /// Predictions of a function that wait.
    pub(crate) fn waiting_of(&self, lane: &FunctionName) -> usize {
        self.lock().waiting_of(lane)
    }

    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().expect("no panic holds this lock")
    }
}

/// Room for a prediction that is on its way to the disk; given up when dropped before it is there.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    worker: &'a Worker,
    lane: FunctionName,
    is_stored: bool,
}

impl Place<'_> {
    /// It is on disk.
    pub(crate) fn stored(mut self) {
        self.is_stored = true;
        self.worker.lock().stored(&self.lane);
        self.worker.news.notify_one();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.is_stored {
            self.worker.left(&self.lane);
        }
    }
}

/// Runs the queue until the service drains and what was claimed has ended.
pub(crate) async fn work(service: Arc<Service>) {
    let worker = &service.predictions.worker;
    let mut tick = interval(service.config.queue.tick.max(Duration::from_millis(1)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut jobs = Jobs::default();
    let mut upkeep = Upkeep { extended: Instant::now(), is_first: true };
    while service.phase() == Phase::Serving || !jobs.is_empty() {
        let wake = worker
            .lock()
            .next_at()
            .map_or(LONG, |at| at.duration_since(SystemTime::now()).unwrap_or_default());
        tokio::select! {
            _ = tick.tick() => upkeep.look(&service).await,
            () = sleep(wake) => {}
            () = worker.news.notified() => {}
            () = service.left(Phase::Serving), if service.phase() == Phase::Serving => {}
            Some((lane, after)) = jobs.next() => {
                let mut lanes = worker.lock();
                match after {
                    After::Ended => lanes.ended(&lane),
                    After::Requeued(at) => lanes.requeued(&lane, at),
                }
            }
        }
        if service.phase() == Phase::Serving {
            claim(&service, &mut jobs).await;
        }
    }
}

/// Predictions that run, each in a task.
#[derive(Default)]
struct Jobs {
    tasks: JoinSet<After>,
    lanes: HashMap<Id, FunctionName>,
}

impl Jobs {
    fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Waits for the next that ends. Cancel safe.
    async fn next(&mut self) -> Option<(FunctionName, After)> {
        let ended = self.tasks.join_next_with_id().await?;
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let lane = self.lanes.remove(&id).expect("every task has a lane");
        // What a lost task left behind is put back when its lease runs out.
        Some((lane, ended.map_or(After::Ended, |(_, after)| after)))
    }
}

/// Claims and starts what may run.
async fn claim(service: &Arc<Service>, jobs: &mut Jobs) {
    let (worker, lease) = (&service.predictions.worker, service.config.queue.lease);
    let limit = |name: &FunctionName| {
        if let Some(errand) = Errand::of(name) {
            return errand.running_max(&service.config);
        }
        let function = service.store.registry.find(name.as_str());
        // Those of a function that is gone are claimed to be told so.
        function.map_or(1, |function| function.live().effective.concurrency)
    };
    loop {
        let now = SystemTime::now();
        let (wants, room) = {
            let mut lanes = worker.lock();
            (lanes.wants(now, limit), lanes.room())
        };
        if wants.is_empty() {
            return;
        }
        let claimed = match service.predictions.store.claim(wants, room, now, now + lease).await {
            Ok(claimed) => claimed,
            Err(error) => {
                // The next tick tries again.
                tracing::error!(%error, "can't claim predictions");
                return;
            }
        };
        let mut lanes = worker.lock();
        claimed.got.iter().for_each(|got| lanes.claimed(got));
        drop(lanes);
        for job in claimed.jobs {
            let lane = job.record.function.clone();
            let span = tracing::info_span!("prediction", id = %job.record.id, function = %lane);
            let task = tracing::Instrument::instrument(run_job(service.clone(), job), span);
            let id = jobs.tasks.spawn(task).id();
            jobs.lanes.insert(id, lane);
        }
    }
}

/// What has to be done from time to time.
struct Upkeep {
    extended: Instant,
    is_first: bool,
}

impl Upkeep {
    async fn look(&mut self, service: &Arc<Service>) {
        if let Err(error) = self.try_look(service).await {
            tracing::error!(%error, "can't look after the queue");
        }
    }

    async fn try_look(&mut self, service: &Arc<Service>) -> Result<(), crate::store::ChangeError> {
        let (store, config) = (&service.predictions.store, &service.config.queue);
        if self.extended.elapsed() >= config.lease / EXTENSIONS {
            store.extend(SystemTime::now() + config.lease).await?;
            self.extended = Instant::now();
        }
        let now = SystemTime::now();
        let recovered = store.recover(now, lost(), late()).await?;
        for record in &recovered.ended {
            http::ended(service, record).await;
            service.predictions.tell(record);
            service.ended(record);
        }
        if self.is_first || recovered.requeued > 0 || !recovered.ended.is_empty() {
            service.predictions.worker.recount(&store.depths().await?);
            self.is_first = false;
        }
        for _ in 0..SWEEPS_MAX {
            if store.sweep(now).await? == 0 {
                break;
            }
        }
        Ok(())
    }
}

/// What is said of a prediction whose node ended, each time it ran.
fn lost() -> Failure {
    Failure { code: Code::Internal, message: "the node ended while it ran, at every attempt".to_owned() }
}

fn late() -> Failure {
    Failure { code: Code::Timeout, message: PAST_DEADLINE.to_owned() }
}
