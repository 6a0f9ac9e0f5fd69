//! Models on graphics processors: what sleeps leaves nothing there, and what doesn't fit goes elsewhere or nowhere.

use std::{os::unix::fs::MetadataExt, path::Path, sync::Arc, time::Duration};

use dormouse_engine::{
    Catalog, Config, Device, DeviceGauge, Engine, Error, ModelResidency, Request, Sampling, Tier,
    catalog::Digest,
};

use crate::support::{GPU, LONG, continue_text, model_path, run};

const NAME: &str = "model";
const PROMPT: &str = "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is";

/// An engine on some devices, and its folder, whose catalogue has the test model.
fn engine(devices: &[Device], change: impl FnOnce(&mut Config)) -> (Engine, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(folder.path()).unwrap();
    let file = catalog.tmp().join(NAME);
    std::fs::copy(model_path(), &file).unwrap();
    catalog.add(NAME, "file", &file, &Digest::of_file(&file).unwrap()).unwrap();
    let mut config = Config { devices: devices.to_vec(), ..Config::new(folder.path()) };
    config.residency.residence_min = Duration::ZERO;
    // The processor that stands in for a device may have much else to do.
    (config.residency.device_wait_max, config.residency.wake_wait_max) = (LONG, LONG);
    change(&mut config);
    (Engine::start(config).unwrap(), folder)
}

async fn sleep(engine: &Engine) {
    engine.sleep(NAME, Tier::Disk).await.unwrap();
    let mut models = engine.watch_residency();
    let is_asleep =
        |models: &Arc<[ModelResidency]>| models[0].tier == Tier::Disk && models[0].moving.is_none();
    models.wait_for(is_asleep).await.unwrap();
}

fn gauge(engine: &Engine) -> DeviceGauge {
    engine.devices()[0].gauge.expect("a graphics processor counts its memory")
}

/// The ready images of a folder, by the numbers of their files: one that is written again has another.
fn images(folder: &Path) -> Vec<u64> {
    let files = std::fs::read_dir(folder.join("ready")).unwrap().map(Result::unwrap);
    let images = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "image"));
    images.map(|file| file.metadata().unwrap().ino()).collect()
}

#[tokio::test]
async fn a_model_sleeps_without_a_trace_and_wakes_the_same_from_its_image() {
    let _alone = GPU.lock().await;
    let (engine, folder) = engine(&[Device::Gpu(0)], |_| ());
    let (empty, mut said, mut written) = (gauge(&engine), None, Vec::new());
    for cycle in 0..3 {
        let model = engine.open(NAME).await.unwrap();
        assert_eq!(model.woken_from(), if cycle == 0 { Tier::Cold } else { Tier::Disk });
        let answer = run(&model, Request { logprobs: Some(20), ..continue_text(PROMPT, 2) }).await.chunk;
        assert_eq!(*said.get_or_insert(answer.clone()), answer, "cycle {cycle}");
        assert!(gauge(&engine).used_bytes > empty.used_bytes + model.info().weights_bytes);
        drop(model);
        sleep(&engine).await;
        let asleep = gauge(&engine);
        assert_eq!(asleep.used_bytes, empty.used_bytes, "cycle {cycle}");
        // The runtime keeps what it reads through.
        assert!(asleep.reserved_bytes < empty.reserved_bytes + (64 << 20), "cycle {cycle}: {asleep:?}");
        if cycle == 0 {
            written = images(folder.path());
        }
        assert_eq!(written.len(), 1);
        assert_eq!(images(folder.path()), written, "cycle {cycle} wrote its image again");
    }
}

/// Tokens that were found on the device are those that are found in all logits.
#[tokio::test]
async fn what_is_drawn_on_the_device_is_what_would_be_drawn_from_all_logits() {
    let _alone = GPU.lock().await;
    let (engine, _folder) = engine(&[Device::Gpu(0)], |_| ());
    let model = engine.open(NAME).await.unwrap();
    let hot = Sampling { temperature: 0.9, top_k: 20, seed: Some(7), ..Sampling::default() };
    for sampling in [Sampling::default(), hot] {
        let request = Request { sampling: sampling.clone(), ..continue_text(PROMPT, 4) };
        let drawn = run(&model, request.clone()).await.chunk;
        // Whoever wants likelihoods reads them all.
        let read = run(&model, Request { logprobs: Some(1), ..request }).await.chunk;
        assert_eq!(drawn.tokens, read.tokens, "{sampling:?}");
        assert!(drawn.logprobs.is_empty() && read.logprobs.len() == 4);
    }
}

#[tokio::test]
async fn what_does_not_fit_on_a_gpu_goes_to_the_processor_or_is_refused() {
    let _alone = GPU.lock().await;
    let small = |config: &mut Config| config.residency.device_memory_bytes_max = Some(200 << 20);
    let (both, _folder) = engine(&[Device::Gpu(0), Device::Cpu], small);
    let model = both.open(NAME).await.unwrap();
    assert_eq!(both.residency()[0].device.as_deref(), Some("cpu"));
    assert_eq!(both.devices().iter().map(|device| &*device.device).collect::<Vec<_>>(), ["gpu:0", "cpu"]);
    assert_eq!(both.devices()[0].models_bytes, 0);
    run(&model, continue_text(PROMPT, 1)).await;
    // A step's time is told after its tokens.
    let mut stats = both.watch_stats();
    let stats = stats.wait_for(|stats| !stats.devices[1].busy.is_zero()).await.unwrap();
    assert!(stats.devices[0].busy.is_zero(), "{stats:?}");

    let (alone, _folder) = engine(&[Device::Gpu(0)], small);
    let error = alone.open(NAME).await.unwrap_err();
    assert!(matches!(error, Error::NoMemory(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.ends_with("gpu:0 has 200 for models (device_memory_bytes_max)"), "{text}");
}

#[tokio::test]
async fn a_model_that_fits_on_a_gpu_goes_there_whatever_the_order() {
    let _alone = GPU.lock().await;
    let (engine, _folder) = engine(&[Device::Cpu, Device::Gpu(0)], |_| ());
    let _model = engine.open(NAME).await.unwrap();
    assert_eq!(engine.residency()[0].device.as_deref(), Some("gpu:0"));
}

#[tokio::test]
async fn a_device_that_takes_longer_than_it_may_fails_what_runs_on_it() {
    let _alone = GPU.lock().await;
    let (engine, _folder) =
        engine(&[Device::Gpu(0)], |config| config.residency.device_wait_max = Duration::from_millis(1));
    let text = engine.open(NAME).await.unwrap_err().to_string();
    assert!(text.contains("no answer within 1ms (device_wait_max)"), "{text}");
}

#[test]
fn devices_must_be_there_and_differ() {
    let start = |devices: &[Device]| {
        let folder = tempfile::tempdir().unwrap();
        Engine::start(Config { devices: devices.to_vec(), ..Config::new(folder.path()) })
            .unwrap_err()
            .to_string()
    };
    assert_eq!(start(&[]), "devices is empty: models compute on nothing");
    assert_eq!(start(&[Device::Cpu, Device::Cpu]), "devices has Cpu twice");
    assert!(start(&[Device::Gpu(99)]).starts_with("gpu:99 is not there, this machine has "));
}
