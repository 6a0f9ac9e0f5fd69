//! What becomes of a model whose step fails, and of the others.

use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use super::*;
use crate::{
    Completion, Finish, ModelInfo, Prompt, Request,
    backend::{Batch, BlockId},
    gguf::Gguf,
    loader::Loaded,
    models::{Capacity, Network},
    testing,
    tokenizer::Tokenizer,
};

/// A device that always finds the same token likeliest, or breaks.
enum Device {
    Sound,
    Panics,
    Fails,
}

/// The test model's vocabulary, of which this is an ordinary token.
const VOCABULARY: usize = 49_152;
const TOKEN: u32 = 1000;

struct Fake {
    device: Device,
    logits: Vec<f32>,
}

impl Network for Fake {
    fn forward(&mut self, _batch: Batch<'_>) {
        assert!(!matches!(self.device, Device::Panics), "the kernel divided by zero");
    }

    fn logits(&mut self, rows: &[u32]) -> Result<&[f32], Error> {
        match self.device {
            Device::Fails => Err(Error::Failed("device lost".into())),
            _ => Ok(&self.logits[..rows.len() * VOCABULARY]),
        }
    }

    fn hidden(&mut self, _rows: usize) -> Result<&[f32], Error> {
        Ok(&[])
    }

    fn prepare(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn release(&mut self) {}

    fn cache_layout(&self) -> Option<String> {
        None
    }

    fn block_bytes(&self) -> usize {
        0
    }

    fn read_block(&mut self, _: BlockId, _: &mut [u8]) -> Result<(), Error> {
        Ok(())
    }

    fn write_block(&mut self, _: BlockId, _: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    fn matrices(&self) -> Vec<(String, Vec<crate::ready::Part>)> {
        Vec::new()
    }

    fn width(&self) -> usize {
        4
    }

    fn vocabulary(&self) -> usize {
        VOCABULARY
    }
}

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
        let worker = Worker::new(commands_in, watch::channel(Stats::default()).0, move |id| {
            noted.lock().unwrap().push(id);
        });
        let mut world = Self { worker, commands, lost, queue: Queue::new(10), models: Vec::new() };
        devices.into_iter().for_each(|device| world.install(device));
        world
    }

    fn install(&mut self, device: Device) {
        let name = format!("model-{}", self.models.len());
        let gguf = Gguf::open(testing::model()).unwrap();
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        let info = ModelInfo {
            name: name.clone(),
            architecture: "fake".into(),
            quantization: "F32".into(),
            digest: format!("sha256:{name}"),
            context_length: 64,
            dimension: 4,
            vocabulary: VOCABULARY,
            weights_bytes: 0,
        };
        let id = ModelId::new(self.models.len() as u64);
        let loaded = Arc::new(Loaded::new(id, info, tokenizer, None));
        let mut logits = vec![0.0; 4 * VOCABULARY];
        logits.chunks_mut(VOCABULARY).for_each(|row| row[TOKEN as usize] = 1.0);
        let capacity = Capacity { batch_tokens_max: 16, logits_rows_max: 4, blocks: 16, context_tokens: 64 };
        let resident =
            Resident::new(loaded.clone(), Box::new(Fake { device, logits }), capacity, Cached::default(), 4);
        self.models.push(loaded);
        let (reply, _) = mpsc::sync_channel(1);
        self.commands.send(Command::Install { resident: Box::new(resident), reply }).unwrap();
    }

    fn generate(&self, model: usize) -> Completion {
        let (writer, completion) = Completion::new();
        let request = Request::new(Prompt::Tokens(vec![5]), 3);
        let work = Work::Generate(Box::new(Generation::new(request, 1, None, Duration::ZERO, writer)));
        let place = self.queue.enter().unwrap();
        let job = Job { prompt: vec![5], work, place, arrived: std::time::Instant::now(), lease: None };
        self.commands.send(Command::Submit { model: self.models[model].id, job }).unwrap();
        completion
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
async fn a_shutdown_cancels_what_waits() {
    let world = World::new([Device::Sound]);
    let completion = world.generate(0);
    let (left, residents) = mpsc::channel();
    world.commands.send(Command::Shutdown { left }).unwrap();
    world.run();
    assert!(matches!(end(completion).await, Err(Error::Cancelled)));
    assert_eq!(residents.iter().count(), 1);
}
