//! What becomes of a model that breaks on its way down, and of who waits for it.

use std::{
    sync::mpsc::{channel, sync_channel},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::*;
use crate::{
    backend::cpu::Cpu,
    residency::{Ask, Bounds, Budget, Footprint, Found, Policy, Wish},
    testing,
    worker::{
        Worker,
        fake::{self, Device},
    },
};

#[test]
fn a_model_that_panics_going_to_sleep_is_asleep_and_wakes_for_who_waits() {
    let (tasks, tasks_in) = channel();
    let (orders, _orders_in) = sync_channel(10);
    let bounds = Bounds {
        devices: vec![Budget { memory_bytes_max: 1 << 40, is_fallback: false }],
        waiters_max: 10,
        residence_min: Duration::ZERO,
        backoff: (Duration::ZERO, Duration::ZERO),
    };
    let keeper = Keeper::new(bounds, ["cpu".to_owned()].into(), orders, tasks);
    let (commands, commands_in) = sync_channel(10);
    let worker = Worker::new(DeviceId(0), commands_in, fake::stats(), |_| ());
    let worker = thread::spawn(move || worker.run());

    // A model of another device is awake.
    let (source, path) = (Source::File(testing::model()), testing::model());
    let footprints = vec![Footprint { awake_bytes: 2, memory_bytes: 1 }];
    let (digest, policy) = (Digest::from_bytes(&[7; 32]), Policy { idle: [None; 3] });
    let found = Found { source, path, digest, footprints, policy, tier: Tier::Cold };
    let key = keeper.add(found).unwrap();
    keeper.answer(key, Ask::Wake).unwrap();
    assert!(matches!(tasks_in.recv().unwrap(), Task::Do(Action::Wake { .. })));
    let resident = Box::new(fake::resident(0, Device::PanicsAsleep));
    let loaded = resident.facts().clone();
    let (reply, installed) = sync_channel(1);
    commands.send(Command::Install { resident, reply }).unwrap();
    installed.recv().unwrap();
    keeper.woke(key, Tier::Cold, Ok(loaded), Duration::ZERO);

    keeper.answer(key, Ask::Sleep(Tier::Memory)).unwrap();
    let (reply, opened) = oneshot::channel();
    let wish = Wish { deadline: Instant::now() + Duration::from_secs(3600), keep_alive: None };
    keeper.want(key, wish, reply);
    assert_eq!(keeper.residency()[0].waiting, 1);

    let folder = tempfile::tempdir().unwrap();
    let config = Config { kv_bytes_max: 16 << 20, ..Config::new(folder.path()) };
    let store = Store::open(&config.residency.ready_dir, config.residency.ready_bytes_max).unwrap();
    let (makers, workers): (Vec<Box<dyn Maker>>, _) = (vec![Box::new(Cpu::new(1))], Workers::new([commands]));
    let loader = Loader::new(tasks_in, Arc::downgrade(&keeper), makers, config, workers, store);
    let loader = thread::spawn(move || loader.run());
    let opened = opened.blocking_recv().expect("who waits is answered").unwrap();
    // Nothing was left of it in memory.
    assert_eq!(opened.from, Tier::Cold);
    assert_eq!(opened.loaded.info.architecture, "llama");

    drop((opened, keeper));
    loader.join().unwrap();
    worker.join().unwrap();
}
