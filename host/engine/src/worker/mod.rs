//! An engine thread: owns the state of every model on a device, takes commands, and steps whoever has work. There
//! is one for each device.
//!
//! It ends when it is told to, or when all handles are gone and the last sequence is done. Work
//! that fails or panics costs the model that it belongs to: its sequences end with the error, its
//! state is dropped, and the next `open` loads it again.

mod batch;
#[cfg(test)]
pub(crate) mod fake;
mod generation;
mod job;
mod lookup;
mod probe;
mod resident;
#[cfg(test)]
mod tests;

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, SyncSender, TryRecvError, TrySendError},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    Error, Stats,
    loader::{Loaded, ModelId},
    ready::Prefixes,
    residency::DeviceId,
};

pub(crate) use generation::Generation;
pub(crate) use job::{Job, Queue, Reply, Score, Work};
pub(crate) use probe::probe;
pub(crate) use resident::{Cached, Copied, Parts, Resident};

/// What the engine thread is asked to do.
pub(crate) enum Command {
    /// Take a model over from the loader thread, and say so once it shows.
    Install { resident: Box<Resident>, reply: SyncSender<()> },
    /// Give back a model that has nothing to do, to the loader thread; `None` when it failed before.
    Remove { model: ModelId, reply: SyncSender<Option<Box<Resident>>> },
    /// Copy the blocks that prompts begin with for the loader thread, as far as they are in a model's cache
    /// and not on disk; `None` when it failed before.
    Copy { model: ModelId, prompts: Vec<Vec<u32>>, reply: SyncSender<Option<Result<Copied, Error>>> },
    /// Take what is on disk of a model's cache now.
    Adopt { model: ModelId, prefixes: Prefixes },
    /// Run a sequence of a model.
    Submit { model: ModelId, job: Job },
    /// Cancel everything, give back every model to the loader thread, and end.
    Shutdown { left: Sender<Box<Resident>> },
}

/// The engine threads, by device.
#[derive(Clone, Debug)]
pub(crate) struct Workers(Arc<[SyncSender<Command>]>);

impl Workers {
    pub(crate) fn new(commands: impl IntoIterator<Item = SyncSender<Command>>) -> Self {
        Self(commands.into_iter().collect())
    }

    /// Waits for a place in the queue of a device's thread; [`Error::Cancelled`] if that has ended.
    pub(crate) fn send(&self, device: DeviceId, command: Command) -> Result<(), Error> {
        self.0[device.0].send(command).map_err(|_| Error::Cancelled)
    }

    /// Hands over a job without waiting; one that has no place comes back.
    pub(crate) fn submit(&self, model: &Loaded, job: Job) -> Result<(), Box<TrySendError<Command>>> {
        self.0[model.device.0].try_send(Command::Submit { model: model.id, job }).map_err(Box::new)
    }

    /// Ends all of them; their models go to `left`.
    pub(crate) fn shut_down(&self, left: &Sender<Box<Resident>>) {
        for commands in self.0.iter() {
            // An error means that it has ended already.
            drop(commands.send(Command::Shutdown { left: left.clone() }));
        }
    }
}

/// What comes after the commands.
enum Receive {
    /// A step.
    Go,
    /// Nothing; models that are left go this way.
    End(Option<Sender<Box<Resident>>>),
}

/// An engine thread's state.
pub(crate) struct Worker {
    device: DeviceId,
    commands: Receiver<Command>,
    residents: Vec<Resident>,
    /// Tells that a model is gone.
    lost: Box<dyn Fn(ModelId) + Send>,
    /// All threads' numbers.
    stats: Arc<watch::Sender<Stats>>,
    /// Time in steps since the thread started.
    busy: Duration,
}

impl Worker {
    pub(crate) fn new(
        device: DeviceId,
        commands: Receiver<Command>,
        stats: Arc<watch::Sender<Stats>>,
        lost: impl Fn(ModelId) + Send + 'static,
    ) -> Self {
        Self { device, commands, residents: Vec::new(), lost: Box::new(lost), stats, busy: Duration::ZERO }
    }

    /// The thread's body. Sequences that are left when it returns end as cancelled.
    pub(crate) fn run(mut self) {
        loop {
            match self.receive() {
                Receive::Go => {
                    self.step_all();
                    self.publish();
                }
                Receive::End(left) => return self.end(left),
            }
        }
    }

    fn end(self, left: Option<Sender<Box<Resident>>>) {
        for mut resident in self.residents {
            resident.cancel();
            // An error means that the loader thread has ended; then nothing of it is kept.
            left.as_ref().map(|left| left.send(Box::new(resident)));
        }
    }

    /// Takes the commands that are there, and waits for one while there is nothing to compute.
    fn receive(&mut self) -> Receive {
        loop {
            let received = match self.is_busy() {
                true => self.commands.try_recv(),
                false => self.commands.recv().map_err(|_| TryRecvError::Disconnected),
            };
            match received {
                Ok(Command::Install { resident, reply }) => {
                    self.residents.push(*resident);
                    self.publish();
                    // Whoever is gone doesn't wait for it.
                    let _ = reply.send(());
                }
                Ok(Command::Remove { model, reply }) => {
                    // Whoever is gone lets it go.
                    drop(reply.send(self.remove(model).map(Box::new)));
                }
                Ok(Command::Copy { model, prompts, reply }) => {
                    // Whoever is gone doesn't keep it.
                    drop(reply.send(self.copy(model, &prompts)));
                }
                Ok(Command::Adopt { model, prefixes }) => {
                    if let Some(index) = self.find(model) {
                        self.residents[index].adopt(prefixes);
                    }
                }
                Ok(Command::Submit { model, job }) => self.submit(model, job),
                Ok(Command::Shutdown { left }) => return Receive::End(Some(left)),
                Err(TryRecvError::Empty) => return Receive::Go,
                Err(TryRecvError::Disconnected) if self.is_busy() => return Receive::Go,
                Err(TryRecvError::Disconnected) => return Receive::End(None),
            }
            self.publish();
        }
    }

    fn remove(&mut self, model: ModelId) -> Option<Resident> {
        let index = self.find(model)?;
        let check = |resident: &mut Resident| {
            assert!(!resident.is_busy(), "whoever runs keeps the model awake");
            Ok(())
        };
        self.guard(index, check).then(|| self.residents.swap_remove(index))
    }

    fn copy(&mut self, model: ModelId, prompts: &[Vec<u32>]) -> Option<Result<Copied, Error>> {
        let index = self.find(model)?;
        let mut copied = None;
        self.guard(index, |resident| {
            copied = Some(resident.copy(prompts));
            Ok(())
        });
        copied
    }

    fn submit(&mut self, model: ModelId, job: Job) {
        match self.find(model) {
            Some(index) => {
                self.guard(index, |resident| {
                    resident.submit(job);
                    Ok(())
                });
            }
            None => job.refuse(Error::Failed("the model failed earlier; open it again".into())),
        }
    }

    /// One step of each model that has work, in turn.
    fn step_all(&mut self) {
        let mut index = 0;
        while index < self.residents.len() {
            let began = Instant::now();
            let is_well = self.guard(index, Resident::step);
            self.busy += began.elapsed();
            if is_well {
                index += 1;
            }
        }
    }

    fn find(&self, model: ModelId) -> Option<usize> {
        self.residents.iter().position(|resident| resident.facts().id == model)
    }

    /// Has a model do something. False when that failed or panicked: then the model is gone, and what was
    /// left half done with it.
    fn guard(&mut self, index: usize, work: impl FnOnce(&mut Resident) -> Result<(), Error>) -> bool {
        let resident = &mut self.residents[index];
        let done = catch_unwind(AssertUnwindSafe(|| work(resident)));
        let done = done.unwrap_or_else(|panic| Err(Error::Failed(panic_text(&*panic))));
        if let Err(error) = &done {
            self.drop_failed(index, error);
            self.drop_lost(error);
        }
        done.is_ok()
    }

    /// A device that is lost takes those along that did nothing.
    fn drop_lost(&mut self, error: &Error) {
        while let Some(index) = self.residents.iter().position(Resident::is_lost) {
            self.drop_failed(index, error);
        }
    }

    fn drop_failed(&mut self, index: usize, error: &Error) {
        let resident = self.residents.swap_remove(index);
        let name = &resident.facts().info.name;
        tracing::error!(model = name, %error, "the model failed and is unloaded");
        let id = resident.facts().id;
        resident.fail(error, || (self.lost)(id));
    }

    fn is_busy(&self) -> bool {
        self.residents.iter().any(Resident::is_busy)
    }

    fn publish(&self) {
        let own = self.residents.iter().map(|resident| resident.stats(self.device));
        self.stats.send_modify(|stats| {
            stats.models.retain(|model| model.device != self.device.0);
            stats.models.extend(own);
            stats.devices[self.device.0].busy = self.busy;
        });
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("without a message"))
}
