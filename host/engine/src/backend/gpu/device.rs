//! A graphics processor that is opened.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use cubecl_core::{
    MemoryScope,
    client::{Client, ProfileWindow},
    environment::{bytes::Bytes, future::block_on, stream::StreamId},
    prelude::Scalar,
    profile::TimingMethod,
    server::Handle,
};
use cubecl_runtime::runtime::Runtime;
use cubecl_wgpu::{AutoCompiler, RuntimeOptions, WgpuRuntime, WgpuSetup, wgpu};

use super::{
    adapter::{self, Adapter, AdapterKind},
    memory::{Buffer, Vector},
    weights::Load,
};
use crate::Error;

/// The queue that all threads put their work in: what one uploads, another reads.
const STREAM: StreamId = StreamId { value: 1 };

/// Bytes that are uploaded at once: steps of other models come in between.
const UPLOAD_BYTES: usize = 8 << 20;
/// Bytes that may be on their way: a driver that runs out of room for these gives the device up.
const UPLOADING_BYTES_MAX: usize = 8 * UPLOAD_BYTES;

/// Bytes copied to measure how fast a device reads and writes its memory, and how often.
const COPY_BYTES: usize = 64 << 20;
const COPIES: u32 = 8;

/// How often whoever waits for a device looks whether it is still there.
const LOOK: Duration = Duration::from_millis(100);

/// Time that a device may take where nobody says otherwise.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(120);

/// What wgpu says that it was doing when bytes go up.
const WRITING: &str = "Queue::write_buffer";

/// Of a device's memory, what models may have: the rest is for what is uploaded and read, and for other programs.
const MEMORY_SHARE: (u64, u64) = (9, 10);

/// How fast an adapter copies from its memory to its memory: bytes read and written a second, the best of a few
/// copies of 64 MiB.
pub fn copy_bandwidth(index: usize) -> Result<f64, Error> {
    let device = Device::open(index, WAIT_MAX)?;
    let len = COPY_BYTES / size_of::<f32>();
    let [from, to] = [1.0, 0.0].map(|value| device.vector(&vec![value; len]));
    let mut best = Duration::MAX;
    for _ in 0..COPIES {
        device.sync()?;
        let began = Instant::now();
        super::elementwise::copy(&device, &from, &to);
        device.sync()?;
        best = best.min(began.elapsed());
    }
    Ok(2.0 * COPY_BYTES as f64 / best.as_secs_f64())
}

/// Where a device is that may be lost and opened again.
pub(crate) struct Slot {
    index: usize,
    wait_max: Duration,
    current: Mutex<Arc<Device>>,
}

impl Slot {
    /// Opens the adapter of this index, which may take so long for a step.
    pub(crate) fn open(index: usize, wait_max: Duration) -> Result<Self, Error> {
        let device = Arc::new(Device::open(index, wait_max)?);
        Ok(Self { index, wait_max, current: Mutex::new(device) })
    }

    /// A device that is open.
    pub(crate) fn holding(device: Arc<Device>) -> Self {
        Self { index: device.adapter.index, wait_max: device.wait_max, current: Mutex::new(device) }
    }

    /// The device, lost or not.
    pub(crate) fn current(&self) -> Arc<Device> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The device, opened again if it was lost. What was made with the lost one stays lost.
    pub(super) fn recover(&self) -> Result<Arc<Device>, Error> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.is_lost() {
            let index = self.index_of(&current.adapter)?;
            let name = &current.adapter.name;
            tracing::warn!(name, index, "the device was lost and is opened again");
            let again =
                Device::open(index, self.wait_max).map_err(|error| current.failed(&error.to_string()))?;
            *current = Arc::new(again);
        }
        Ok(current.clone())
    }

    /// Where an adapter is now: the list changes when a driver lets go of one.
    fn index_of(&self, adapter: &Adapter) -> Result<usize, Error> {
        let all = adapter::adapters();
        let is_it = |other: &&Adapter| (&other.name, &other.api) == (&adapter.name, &adapter.api);
        let there = all.get(self.index).filter(is_it).or_else(|| all.iter().find(is_it));
        there.map(|there| there.index).ok_or_else(|| failed(adapter, &"it is not there any more"))
    }

    /// Bytes that models may have: most of its own memory, or what the machine has for them where it has none or
    /// doesn't tell.
    pub(crate) fn budget_bytes(&self, machine_bytes: u64) -> u64 {
        let device = self.current();
        let (part, whole) = MEMORY_SHARE;
        match (device.adapter.kind, device.adapter.memory_bytes) {
            (AdapterKind::Discrete | AdapterKind::Virtual, Some(bytes)) => bytes / whole * part,
            (_, Some(bytes)) => machine_bytes.min(bytes),
            (_, None) => machine_bytes,
        }
    }
}

/// Something that takes as long as the device does.
type Wait = Box<dyn FnOnce(&Client) + Send>;

/// An adapter in use.
pub(crate) struct Device {
    adapter: Adapter,
    client: Client,
    units: Units,
    dispatches: AtomicU64,
    /// Bytes that went up since the last were waited for.
    uploading: AtomicUsize,
    wait_max: Duration,
    is_lost: AtomicBool,
    faults: Arc<Mutex<Faults>>,
    /// Does what is waited for, on a thread that may be given up.
    waits: Sender<Wait>,
    wgpu: wgpu::Device,
}

/// What a device reports besides the results that it fails to give.
#[derive(Debug, Default)]
struct Faults {
    /// For whoever asked for memory.
    is_out_of_memory: bool,
    /// The first of others, for whoever waits next: what comes after it mostly follows from it.
    other: Option<String>,
}

/// How kernels share their work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Units {
    /// Units along a row of weights.
    pub(super) lanes: usize,
    /// Units across rows of weights.
    pub(super) across: usize,
    /// How weights are loaded.
    pub(super) load: Load,
    /// Whether the units of a cube run in step, and load an activation each and tell the others.
    pub(super) shares: bool,
    /// What a unit has of a single row, of a few, and of more.
    pub(super) single: Tile,
    pub(super) few: Tile,
    pub(super) prompt: Tile,
    /// Positions that attention takes at once.
    pub(super) positions: usize,
    /// Whether a cube normalises the rows that it multiplies; otherwise that is a dispatch before.
    pub(super) fuses_norms: bool,
    /// Whether a single row of a sequence is rotated, stored and attended in one dispatch.
    pub(super) fuses_rope: bool,
}

/// What a unit multiplies at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    /// Rows of activations.
    pub(super) rows: usize,
    /// Rows of weights, an even number.
    pub(super) weights: usize,
}

impl Units {
    /// Drivers that compute on the processor run eight units in step, load each word for each of them alone, and make
    /// coroutines of kernels whose units wait for each other.
    pub(crate) const SOFTWARE: Self = Self {
        lanes: 1,
        across: 8,
        load: Load::Long,
        shares: true,
        single: Tile { rows: 1, weights: 4 },
        few: Tile { rows: 4, weights: 8 },
        prompt: Tile { rows: 8, weights: 8 },
        positions: 16,
        fuses_norms: false,
        fuses_rope: true,
    };
    /// A graphics processor loads what neighbours ask for together.
    pub(crate) const GRAPHICS: Self = Self {
        lanes: 16,
        across: 4,
        load: Load::Quad,
        shares: false,
        single: Tile { rows: 1, weights: 2 },
        few: Tile { rows: 4, weights: 2 },
        prompt: Tile { rows: 8, weights: 4 },
        positions: 32,
        fuses_norms: true,
        fuses_rope: true,
    };

    fn of(kind: AdapterKind) -> Self {
        match kind {
            AdapterKind::Software => Self::SOFTWARE,
            _ => Self::GRAPHICS,
        }
    }

    /// The same without what an adapter doesn't have.
    fn supported(self, adapter: &Adapter, client: &Client) -> Self {
        let has_long = client.properties().supports_type(u64::elem_type_native());
        let in_step = adapter.subgroup.map_or(0, |(least, _)| least as usize);
        Self {
            load: if has_long { self.load } else { Load::Quad },
            shares: self.shares && in_step >= self.across,
            ..self
        }
    }
}

impl Device {
    /// Opens the adapter of this index, which may take so long for a step.
    pub(crate) fn open(index: usize, wait_max: Duration) -> Result<Self, Error> {
        let mut found = adapter::found();
        if index >= found.len() {
            let count = found.len();
            return Err(Error::Invalid(format!(
                "gpu:{index} is not there, this machine has {count} adapters"
            )));
        }
        let (adapter, handle) = found.swap_remove(index);
        let (wgpu, queue) = block_on(handle.request_device(&descriptor(&handle)))
            .map_err(|error| failed(&adapter, &error))?;
        let setup = WgpuSetup {
            instance: adapter::instance(),
            backend: handle.get_info().backend,
            adapter: handle,
            device: wgpu.clone(),
            queue,
        };
        let opened = cubecl_wgpu::try_init_device(setup, RuntimeOptions::default());
        let opened = opened.map_err(|error| failed(&adapter, &error))?;
        let faults: Arc<Mutex<Faults>> = Arc::default();
        let noted = Arc::clone(&faults);
        wgpu.on_uncaptured_error(Arc::new(move |error| note(&noted, &error)));
        let noted = Arc::clone(&faults);
        wgpu.set_device_lost_callback(move |_, message| {
            note_fault(&noted, format!("it was lost: {message}"))
        });
        let mut client = WgpuRuntime::<AutoCompiler>::client(&opened);
        let units = Units::of(adapter.kind).supported(&adapter, &client);
        // SAFETY: every handle of this client is made and used in this one stream.
        unsafe { client.set_stream(STREAM) };
        tracing::info!(name = adapter.name, api = adapter.api, driver = adapter.driver, "gpu backend");
        Ok(Self {
            waits: waiter(client.clone())?,
            adapter,
            client,
            units,
            dispatches: AtomicU64::new(0),
            uploading: AtomicUsize::new(0),
            wait_max,
            is_lost: AtomicBool::new(false),
            faults,
            wgpu,
        })
    }

    /// The same with other units, whatever is best for the adapter.
    pub(crate) fn with_units(self, units: Units) -> Self {
        Self { units: units.supported(&self.adapter, &self.client), ..self }
    }

    /// The same, as if it took no larger bindings.
    #[cfg(test)]
    pub(super) fn with_binding_bytes_max(mut self, bytes: u64) -> Self {
        self.adapter.binding_bytes_max = bytes;
        self
    }

    pub(crate) fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn units(&self) -> Units {
        self.units
    }

    /// Notes a dispatch.
    pub(super) fn count(&self) {
        self.dispatches.fetch_add(1, Ordering::Relaxed);
    }

    /// Kernels launched so far.
    pub(crate) fn dispatches(&self) -> u64 {
        self.dispatches.load(Ordering::Relaxed)
    }

    /// Whether nothing can be computed on it any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    /// Waits until everything has run.
    ///
    /// # Errors
    /// [`Error::Failed`] with what failed of it; then, and when it takes longer than the device may, the device is lost.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.wait(|client| block_on(client.sync()).map_err(|error| error.to_string()))
    }

    /// [`Error::OutOfMemory`] if there was no memory for something that was made since this was last asked.
    pub(super) fn check_memory(&self) -> Result<(), Error> {
        // What was asked for before has been made by then.
        let synced = self.sync();
        if !std::mem::take(&mut self.faults().is_out_of_memory) {
            return synced;
        }
        let (name, used) = (&self.adapter.name, self.memory().0);
        Err(Error::OutOfMemory(format!("{name} has no more memory beside the {} MiB in use", used >> 20)))
    }

    /// [`Device::check_memory`] if the device has said by now that there was none, without asking it.
    pub(super) fn glance_at_memory(&self) -> Result<(), Error> {
        let is_out = self.faults().is_out_of_memory;
        if is_out { self.check_memory() } else { Ok(()) }
    }

    /// The bytes of buffers, once everything before has run; errors as [`Device::sync`]'s.
    pub(super) fn read(&self, handles: Vec<Handle>) -> Result<Vec<Bytes>, Error> {
        self.wait(move |client| client.read(handles).map_err(|error| error.to_string()))
    }

    /// Begins to measure what is launched from now on by the device's own clock. `None` where it has none, or must be
    /// idle to read it.
    pub(super) fn start_clock(&self) -> Option<ProfileWindow> {
        let is_cheap = self.client.properties().timing_method == TimingMethod::Device
            && matches!(self.adapter.api.as_str(), "vulkan" | "dx12")
            && !self.is_lost();
        is_cheap.then(|| self.client.profile_start().ok()).flatten()
    }

    /// Waits as [`Device::sync`] and [`Device::read`] do, and tells what the device took since its clock was started.
    pub(super) fn stop_clock(
        &self,
        window: ProfileWindow,
        handles: Vec<Handle>,
    ) -> Result<(Vec<Bytes>, Option<Duration>), Error> {
        self.wait(move |client| {
            let measured = client.profile_end(window);
            let bytes = match handles.is_empty() {
                true => block_on(client.sync()).map(|()| Vec::new()).map_err(|error| error.to_string()),
                false => client.read(handles).map_err(|error| error.to_string()),
            }?;
            // Who has no time goes by our own clock.
            let ticks = measured.ok().and_then(|measured| block_on(measured.resolve()));
            Ok((bytes, ticks.map(|ticks| ticks.duration())))
        })
    }

    fn wait<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Client) -> Result<T, String> + Send + 'static,
    ) -> Result<T, Error> {
        if self.is_lost() {
            return Err(self.failed("it was lost"));
        }
        let (done, result) = sync_channel(1);
        // Whoever has given up doesn't miss the result.
        let sent = self.waits.send(Box::new(move |client| drop(done.send(work(client)))));
        let result = match sent {
            Ok(()) => self.wait_for(&result),
            Err(_) => Err(RecvTimeoutError::Disconnected),
        };
        let result = match result {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => {
                Err(format!("no answer within {:?} (device_wait_max)", self.wait_max))
            }
            Err(RecvTimeoutError::Disconnected) => Err("its thread has ended".into()),
        };
        let fault = self.faults().other.take();
        match (fault, result) {
            (None, Ok(value)) => Ok(value),
            (Some(reason), _) | (None, Err(reason)) => Err(self.lost(&reason)),
        }
    }

    /// What is sent, unless it takes too long or the device says that there will be nothing.
    fn wait_for<T>(&self, result: &Receiver<T>) -> Result<T, RecvTimeoutError> {
        let began = Instant::now();
        loop {
            let left = self.wait_max.saturating_sub(began.elapsed());
            match result.recv_timeout(LOOK.min(left)) {
                Err(RecvTimeoutError::Timeout) if left > LOOK && self.faults().other.is_none() => {}
                ended => return ended,
            }
        }
    }

    /// As if it had been unplugged.
    #[cfg(test)]
    pub(crate) fn lose(&self) {
        self.wgpu.destroy();
    }

    /// As if the driver had said so.
    #[cfg(test)]
    pub(super) fn report(&self, error: wgpu::Error) {
        note(&self.faults, &error);
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the device up, with all that lies there.
    fn lost(&self, reason: &str) -> Error {
        if !self.is_lost.swap(true, Ordering::Relaxed) {
            tracing::error!(name = self.adapter.name, reason, "the device is given up");
            let wgpu = self.wgpu.clone();
            // The driver may take as long for this as for what it failed to do.
            let end = move || {
                wgpu.destroy();
                drop(wgpu.poll(wgpu::PollType::wait_indefinitely()));
            };
            drop(thread::Builder::new().name("gpu-end".into()).spawn(end));
        }
        self.failed(reason)
    }

    fn failed(&self, reason: &str) -> Error {
        failed(&self.adapter, &reason)
    }

    /// Gives back what nobody holds any more.
    pub(super) fn trim(&self) {
        if self.is_lost() {
            return;
        }
        let trimmed = self.wait(|client| client.memory_cleanup().map_err(|error| error.to_string()));
        if let Err(error) = trimmed {
            tracing::warn!(%error, "can't give device memory back");
        }
    }

    /// Bytes of the device's memory in use and reserved; none of one that is lost.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let report = self.wait(|client| Ok(client.memory_report(MemoryScope::Device)));
        report.map_or((0, 0), |report| {
            let usage = report.usage();
            (usage.bytes_in_use, usage.bytes_reserved)
        })
    }

    pub(super) fn buffer(&self, rows: usize, columns: usize) -> Buffer {
        let zeros = vec![0.0f32; rows * columns];
        Buffer { handle: self.client.create(Bytes::from_elems(zeros)), rows, columns }
    }

    /// Bytes on the device, piece by piece; a number of them that four divides. Errors as [`Device::sync`]'s.
    pub(super) fn upload(&self, bytes: &[u8]) -> Result<Handle, Error> {
        let handle = self.client.empty(bytes.len());
        for (at, piece) in (0..).step_by(UPLOAD_BYTES).zip(bytes.chunks(UPLOAD_BYTES)) {
            if self.uploading.fetch_add(piece.len(), Ordering::Relaxed) > UPLOADING_BYTES_MAX {
                self.uploading.store(piece.len(), Ordering::Relaxed);
                self.sync()?;
            }
            let rest = (bytes.len() - at - piece.len()) as u64;
            let place = handle.clone().offset_start(at as u64).offset_end(rest);
            self.client.write(&place, Bytes::from_bytes_vec(piece.to_vec()));
        }
        Ok(handle)
    }

    pub(super) fn vector(&self, values: &[f32]) -> Vector {
        Vector { handle: self.client.create(Bytes::from_elems(values.to_vec())), len: values.len() }
    }

    /// `len` words of whatever.
    pub(super) fn uninitialized(&self, len: usize) -> Vector {
        Vector { handle: self.client.empty(4 * len), len }
    }

    pub(super) fn words(&self, words: Vec<u32>) -> Vector {
        let len = words.len();
        Vector { handle: self.client.create(Bytes::from_elems(words)), len }
    }
}

/// A failure of the device as ours.
pub(super) fn failed(adapter: &Adapter, error: &impl ToString) -> Error {
    let text = error.to_string();
    // What follows is a trace of the library's own calls.
    let text = text.split("Backtrace").next().unwrap_or_default().trim();
    Error::Failed(format!("{} ({}): {text}", adapter.name, adapter.api))
}

/// All that an adapter can, but for what wgpu calls an experiment.
fn descriptor(adapter: &wgpu::Adapter) -> wgpu::DeviceDescriptor<'static> {
    let left_out = wgpu::Features::MAPPABLE_PRIMARY_BUFFERS | wgpu::Features::all_experimental_mask();
    wgpu::DeviceDescriptor {
        required_features: adapter.features().difference(left_out),
        required_limits: adapter.limits(),
        // The runtime has pools of its own.
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..wgpu::DeviceDescriptor::default()
    }
}

/// Keeps what a device reports for those whom it concerns.
fn note(faults: &Mutex<Faults>, error: &wgpu::Error) {
    tracing::warn!(%error, "the device reports");
    if let wgpu::Error::OutOfMemory { .. } = error {
        faults.lock().unwrap_or_else(PoisonError::into_inner).is_out_of_memory = true;
        return;
    }
    let text = error.to_string();
    let is_out_of_memory = faults.lock().unwrap_or_else(PoisonError::into_inner).is_out_of_memory;
    // What there is no memory for can't be written to either. What computes with it computes nothing.
    if !(is_out_of_memory && text.contains(WRITING)) {
        note_fault(faults, text);
    }
}

fn note_fault(faults: &Mutex<Faults>, reason: String) {
    faults.lock().unwrap_or_else(PoisonError::into_inner).other.get_or_insert(reason);
}

/// The thread that waits for a device. One that waits forever is left behind with the device.
fn waiter(client: Client) -> Result<Sender<Wait>, Error> {
    let (waits, waits_in) = channel::<Wait>();
    let body = move || waits_in.into_iter().for_each(|wait| wait(&client));
    let spawned = thread::Builder::new().name("gpu-wait".into()).spawn(body);
    spawned.map_err(|error| Error::Failed(format!("can't start thread \"gpu-wait\": {error}")))?;
    Ok(waits)
}
