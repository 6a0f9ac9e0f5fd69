//! A model that computes nothing, or breaks.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    Config, DeviceStats, Error, KvType, ModelInfo, Pooling, Stats,
    backend::Batch,
    gguf::Gguf,
    loader::{Loaded, ModelId},
    models::{Capacity, Network},
    residency::DeviceId,
    testing,
    tokenizer::Tokenizer,
};

use super::{Cached, Resident};

/// Where a worker tells what it does.
pub(crate) fn stats() -> Arc<watch::Sender<Stats>> {
    let devices = vec![DeviceStats { name: "cpu".into(), busy: Duration::ZERO }];
    Arc::new(watch::Sender::new(Stats { models: Vec::new(), devices }))
}

/// What a model's device does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    /// It always finds [`TOKEN`] likeliest.
    Sound,
    /// A step panics.
    Panics,
    /// A step fails.
    Fails,
    /// It is gone.
    Lost,
    /// Its working memory can't be given back.
    PanicsAsleep,
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

    fn release(&mut self) {
        assert_ne!(self.device, Device::PanicsAsleep, "the device is gone");
    }

    fn matrices(&self) -> Vec<(String, Vec<crate::ready::Part>)> {
        Vec::new()
    }

    fn is_lost(&self) -> bool {
        self.device == Device::Lost
    }

    fn pooling(&self) -> Pooling {
        Pooling::Mean
    }

    fn width(&self) -> usize {
        4
    }

    fn vocabulary(&self) -> usize {
        VOCABULARY
    }
}

/// A model with the test model's tokens, as the engine thread has it.
pub(crate) fn resident(id: u64, device: Device) -> Resident {
    let name = format!("model-{id}");
    let tokenizer = Tokenizer::from_gguf(&Gguf::open(testing::model()).unwrap()).unwrap();
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
    let loaded = Arc::new(Loaded::new(ModelId::new(id), DeviceId(0), info, tokenizer, None));
    let mut logits = vec![0.0; 4 * VOCABULARY];
    logits.chunks_mut(VOCABULARY).for_each(|row| row[TOKEN as usize] = 1.0);
    let config = Config { sequences_max: 4, ..Config::new("") };
    let capacity = Capacity {
        batch_tokens_max: 16,
        logits_rows_max: 4,
        blocks: 16,
        context_tokens: 64,
        kv_type: KvType::Bf16,
        whole_sequences: false,
    };
    Resident::new(loaded, Box::new(Fake { device, logits }), capacity, Cached::default(), &config)
}
