//! What becomes of a model whose step fails, and of the others.

use std::{
    sync::{Arc, Mutex, mpsc},
    task::{Context, Waker},
    time::Duration,
};

use super::{
    batch::BatchArrays,
    fake::{self, Device},
    *,
};
use crate::{
    Caller, Completion, Config, Finish, Prompt, Request, Tier,
    backend::cpu::Cpu,
    gguf::Gguf,
    loader::Loaded,
    models,
    scheduler::{Limits, NewSequence, Plan, Scheduler},
    testing,
};

/// A worker with one model for each device, and all that it is told by.
struct World {
    worker: Worker,
    commands: SyncSender<Command>,
    lost: Arc<Mutex<Vec<ModelId>>>,
    queue: Arc<Queue>,
    models: Vec<Arc<Loaded>>,
}

impl World {
    fn new(devices: impl IntoIterator<Item = Device>) -> Self {
        let (commands, commands_in) = mpsc::sync_channel(100);
        let lost = Arc::<Mutex<Vec<ModelId>>>::default();
        let noted = lost.clone();
        let worker = Worker::new(DeviceId(0), commands_in, fake::stats(), move |id| {
            noted.lock().unwrap().push(id);
        });
        let mut world = Self { worker, commands, lost, queue: Queue::new(10), models: Vec::new() };
        devices.into_iter().for_each(|device| world.install(device));
        world
    }

    fn install(&mut self, device: Device) {
        let resident = fake::resident(self.models.len() as u64, device);
        self.models.push(resident.facts().clone());
        let (reply, _) = mpsc::sync_channel(1);
        self.commands.send(Command::Install { resident: Box::new(resident), reply }).unwrap();
    }

    fn generate(&self, model: usize) -> Completion {
        self.continue_tokens(model, vec![5])
    }

    fn continue_tokens(&self, model: usize, prompt: Vec<u32>) -> Completion {
        let (job, completion) = self.job(prompt);
        self.commands.send(Command::Submit { model: self.models[model].id, job }).unwrap();
        completion
    }

    fn job(&self, prompt: Vec<u32>) -> (Job, Completion) {
        let (writer, completion) = Completion::new();
        let request = Request::new(Prompt::Tokens(prompt.clone()), 3);
        let woken = (Tier::Awake, Duration::ZERO);
        let work = Work::Generate(Box::new(Generation::new(request, 1, None, woken, writer)));
        let place = self.queue.enter().unwrap();
        let job =
            Job { caller: Caller::default(), prompt, work, place, arrived: Instant::now(), lease: None };
        (job, completion)
    }

    /// Runs until nothing is left to do.
    fn run(self) {
        drop(self.commands);
        self.worker.run();
    }
}

async fn end(mut completion: Completion) -> Result<(usize, Option<Finish>), Error> {
    let mut tokens = 0;
    while let Some(chunk) = completion.next().await? {
        tokens += chunk.tokens.len();
    }
    Ok((tokens, completion.finish()))
}

#[tokio::test]
async fn a_panic_in_a_step_fails_its_model_and_no_other() {
    let world = World::new([Device::Panics, Device::Sound]);
    let (broken, also_broken, sound) = (world.generate(0), world.generate(0), world.generate(1));
    let (lost, queue, id) = (world.lost.clone(), world.queue.clone(), world.models[0].id);
    world.run();
    let error = end(broken).await.unwrap_err();
    assert_eq!(error.to_string(), "engine failed: panic: the kernel divided by zero");
    assert!(matches!(end(also_broken).await, Err(Error::Failed(_))));
    assert_eq!(end(sound).await.unwrap(), (3, Some(Finish::Length)));
    // It is gone, so that the next one who opens it loads it again.
    assert_eq!(*lost.lock().unwrap(), [id]);
    let places: Vec<_> = (0..10).map(|_| queue.enter()).collect();
    assert!(places.iter().all(Result::is_ok), "queue places leaked");
}

#[tokio::test]
async fn a_device_that_is_lost_takes_its_idle_models_along() {
    let world = World::new([Device::Fails, Device::Lost, Device::Sound]);
    let (broken, sound) = (world.generate(0), world.generate(2));
    let lost = world.lost.clone();
    let ids: Vec<_> = world.models[..2].iter().map(|model| model.id).collect();
    world.run();
    assert!(matches!(end(broken).await, Err(Error::Failed(_))));
    assert_eq!(end(sound).await.unwrap(), (3, Some(Finish::Length)));
    assert_eq!(*lost.lock().unwrap(), ids[..]);
}

#[tokio::test]
async fn a_failed_model_is_gone_before_its_callers_hear_of_it() {
    let world = World::new([]);
    let mut resident = fake::resident(0, Device::Sound);
    let (job, mut completion) = world.job(vec![5]);
    resident.submit(job);
    let mut is_told = false;
    resident.fail(&Error::Failed("device lost".into()), || {
        let next = std::pin::pin!(completion.next());
        is_told = next.poll(&mut Context::from_waker(Waker::noop())).is_pending();
    });
    assert!(is_told);
    assert!(matches!(end(completion).await, Err(Error::Failed(_))));
}

#[tokio::test]
async fn an_error_of_the_device_fails_its_model() {
    let mut world = World::new([Device::Fails]);
    let completion = world.generate(0);
    assert!(matches!(world.worker.receive(), Receive::Go));
    world.worker.step_all();
    assert_eq!(end(completion).await.unwrap_err().to_string(), "engine failed: device lost");
    let late = world.generate(0);
    world.run();
    let error = end(late).await.unwrap_err();
    assert_eq!(error.to_string(), "engine failed: the model failed earlier; open it again");
}

#[tokio::test]
async fn a_panic_as_a_job_is_queued_fails_its_model_and_no_other() {
    let world = World::new([Device::Sound, Device::Sound]);
    let (running, sound) = (world.generate(0), world.generate(1));
    // A promise of its callers: a prompt has a token.
    let broken = world.continue_tokens(0, vec![]);
    world.run();
    let error = end(running).await.unwrap_err();
    assert_eq!(error.to_string(), "engine failed: panic: a sequence starts with a token");
    assert!(end(broken).await.is_err());
    assert_eq!(end(sound).await.unwrap(), (3, Some(Finish::Length)));
}

#[tokio::test]
async fn a_shutdown_cancels_what_waits() {
    let world = World::new([Device::Sound]);
    let completion = world.generate(0);
    let (left, residents) = mpsc::channel();
    world.commands.send(Command::Shutdown { left }).unwrap();
    world.run();
    assert!(matches!(end(completion).await, Err(Error::Cancelled)));
    assert_eq!(residents.iter().count(), 1);
}

/// Text is handed to the reader in strings of its own; all before that finds its memory made.
#[test]
fn a_decode_step_allocates_nothing() {
    let gguf = Gguf::open(testing::model()).unwrap();
    let config = Config { sequences_max: 4, ..Config::new("") };
    // One thread, whose allocations are counted.
    let (mut network, capacity) = models::load(&Cpu::new(1), &gguf, None, &config).unwrap();
    network.prepare().unwrap();
    let limits = Limits {
        sequences_max: 4,
        batch_tokens_max: capacity.batch_tokens_max,
        blocks: capacity.blocks,
        guess_rows_max: 0,
        share_generated: false,
        whole_prompts: false,
    };
    let mut scheduler = Scheduler::new(limits, "test");
    for prompt in [vec![1; 40], vec![2; 300], vec![3; 5]] {
        scheduler.add(NewSequence { prompt, tokens_max: 100, caller: Caller::default(), reuse: true });
    }
    let (mut plan, mut arrays, mut rows) = (Plan::default(), BatchArrays::default(), Vec::new());
    let mut before = 0;
    for step in 0..40 {
        // Prompts are done, and every buffer was used.
        if step == 4 {
            before = testing::allocations();
        }
        scheduler.plan(&mut plan);
        arrays.fill(&plan, &scheduler);
        network.forward(arrays.view());
        scheduler.commit(&plan);
        rows.clear();
        rows.extend((0..plan.tokens as u32).filter(|_| step >= 2));
        if !rows.is_empty() {
            network.logits(&rows).unwrap();
        }
        for entry in plan.entries.iter().filter(|entry| entry.is_last) {
            scheduler.push(entry.id, 7 + step);
        }
    }
    assert_eq!(plan.entries.len(), 3);
    assert_eq!(testing::allocations() - before, 0);
}
