//! The graphics processors of a machine, and one that is opened.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cubecl_core::{
    MemoryScope,
    client::Client,
    environment::{bytes::Bytes, future::block_on, stream::StreamId},
    prelude::Scalar,
};
use cubecl_runtime::runtime::Runtime;
use cubecl_wgpu::{AutoCompiler, WgpuBackend, WgpuDevice, WgpuDeviceKind, WgpuRuntime, wgpu};

use super::{
    memory::{Buffer, Vector},
    weights::Load,
};
use crate::Error;

/// The queue that all threads put their work in: what one uploads, another reads.
const STREAM: StreamId = StreamId { value: 1 };

/// Bytes copied to measure how fast a device reads and writes its memory, and how often.
const COPY_BYTES: usize = 64 << 20;
const COPIES: u32 = 8;

/// Instances come and go one at a time: Vulkan's loader takes no more.
static LISTING: Mutex<()> = Mutex::new(());

/// A graphics processor, or a driver that stands in for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// Its place in the list: what `gpu:INDEX` means.
    pub index: usize,
    /// As the driver says it.
    pub name: String,
    /// What it is.
    pub kind: AdapterKind,
    /// `vulkan`, `metal` or `dx12`.
    pub api: String,
    /// Name and version of the driver.
    pub driver: String,
    /// Bytes of the largest buffer; the system tells no more of its memory.
    pub buffer_bytes_max: u64,
    /// Bytes that a kernel sees of one buffer.
    pub binding_bytes_max: u64,
    /// Bytes of memory that the units of a cube share.
    pub shared_bytes: u32,
    /// Units that run in step, at least and at most; `None` where they can't exchange values.
    pub subgroup: Option<(u32, u32)>,
    /// Whether kernels compute in 16 bits.
    pub has_f16: bool,
    /// Whether it multiplies small matrices in one instruction.
    pub has_cooperative_matrix: bool,
}

/// What an adapter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdapterKind {
    /// With memory of its own.
    Discrete,
    /// With the processor's memory.
    Integrated,
    /// A part of one, in a virtual machine.
    Virtual,
    /// No graphics processor: its work is done by the processor.
    Software,
    /// Not known.
    Other,
}

impl AdapterKind {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Discrete => "discrete",
            Self::Integrated => "integrated",
            Self::Virtual => "virtual",
            Self::Software => "software",
            Self::Other => "other",
        }
    }
}

/// What [`Adapter`]s there are, the best first.
pub fn adapters() -> Vec<Adapter> {
    found().into_iter().map(|(adapter, _)| adapter).collect()
}

/// How fast an adapter copies from its memory to its memory: bytes read and written a second, the best of a few
/// copies of 64 MiB.
pub fn copy_bandwidth(index: usize) -> Result<f64, Error> {
    let device = Device::open(index)?;
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

fn found() -> Vec<(Adapter, WgpuDevice)> {
    let _one = LISTING.lock().unwrap_or_else(PoisonError::into_inner);
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let descriptor =
        wgpu::InstanceDescriptor { backends, ..wgpu::InstanceDescriptor::new_without_display_handle() };
    let instance = wgpu::Instance::new(descriptor);
    let adapters = block_on(instance.enumerate_adapters(backends));
    // Each API counts the adapters of a kind on its own.
    let mut counts: Vec<(wgpu::Backend, AdapterKind, usize)> = Vec::new();
    let mut found: Vec<_> = adapters
        .iter()
        .map(|adapter| {
            let info = adapter.get_info();
            let kind = kind(info.device_type);
            let same = |(api, other, _): &&mut (_, _, _)| *api == info.backend && *other == kind;
            let number = match counts.iter_mut().find(same) {
                Some((_, _, count)) => std::mem::replace(count, *count + 1),
                None => {
                    counts.push((info.backend, kind, 1));
                    0
                }
            };
            (described(adapter, &info, kind), selected(&info, kind, number))
        })
        .collect();
    found.sort_by_key(|(adapter, _)| match adapter.kind {
        AdapterKind::Discrete => 0,
        AdapterKind::Integrated => 1,
        AdapterKind::Virtual => 2,
        AdapterKind::Other => 3,
        AdapterKind::Software => 4,
    });
    found.iter_mut().enumerate().for_each(|(index, (adapter, _))| adapter.index = index);
    found
}

fn kind(device_type: wgpu::DeviceType) -> AdapterKind {
    match device_type {
        wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
        wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
        wgpu::DeviceType::VirtualGpu => AdapterKind::Virtual,
        wgpu::DeviceType::Cpu => AdapterKind::Software,
        wgpu::DeviceType::Other => AdapterKind::Other,
    }
}

fn described(adapter: &wgpu::Adapter, info: &wgpu::AdapterInfo, kind: AdapterKind) -> Adapter {
    let (limits, features) = (adapter.limits(), adapter.features());
    let subgroup = (info.subgroup_min_size, info.subgroup_max_size);
    Adapter {
        index: 0,
        name: info.name.clone(),
        kind,
        api: info.backend.to_string(),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        buffer_bytes_max: limits.max_buffer_size,
        binding_bytes_max: limits.max_storage_buffer_binding_size,
        shared_bytes: limits.max_compute_workgroup_storage_size,
        subgroup: features.contains(wgpu::Features::SUBGROUP).then_some(subgroup),
        has_f16: features.contains(wgpu::Features::SHADER_F16),
        has_cooperative_matrix: features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
    }
}

fn selected(info: &wgpu::AdapterInfo, kind: AdapterKind, number: usize) -> WgpuDevice {
    let kind = match kind {
        AdapterKind::Discrete => WgpuDeviceKind::DiscreteGpu(number),
        AdapterKind::Integrated => WgpuDeviceKind::IntegratedGpu(number),
        AdapterKind::Virtual => WgpuDeviceKind::VirtualGpu(number),
        AdapterKind::Software => WgpuDeviceKind::Cpu,
        AdapterKind::Other => WgpuDeviceKind::Other(number),
    };
    WgpuDevice::new(kind).on(match info.backend {
        wgpu::Backend::Metal => WgpuBackend::Metal,
        wgpu::Backend::Dx12 => WgpuBackend::Dx12,
        _ => WgpuBackend::Vulkan,
    })
}

/// An adapter in use.
pub(crate) struct Device {
    adapter: Adapter,
    client: Client,
    units: Units,
    dispatches: AtomicU64,
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
    /// Opens the adapter of this index.
    pub(crate) fn open(index: usize) -> Result<Self, Error> {
        let mut found = found();
        if index >= found.len() {
            let count = found.len();
            return Err(Error::Invalid(format!(
                "gpu:{index} is not there, this machine has {count} adapters"
            )));
        }
        let (adapter, selected) = found.swap_remove(index);
        let mut client = WgpuRuntime::<AutoCompiler>::client(&selected);
        let units = Units::of(adapter.kind).supported(&adapter, &client);
        // SAFETY: every handle of this client is made and used in this one stream.
        unsafe { client.set_stream(STREAM) };
        tracing::info!(name = adapter.name, api = adapter.api, driver = adapter.driver, "gpu backend");
        Ok(Self { adapter, client, units, dispatches: AtomicU64::new(0) })
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

    /// Waits until everything has run.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        block_on(self.client.sync()).map_err(|error| failed(&self.adapter, &error))
    }

    /// Gives back what nobody holds any more.
    pub(super) fn trim(&self) {
        if let Err(error) = self.client.memory_cleanup() {
            tracing::warn!(name = self.adapter.name, %error, "can't give device memory back");
        }
    }

    /// Bytes of the device's memory in use and reserved.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let report = self.client.memory_report(MemoryScope::Device);
        let usage = report.usage();
        (usage.bytes_in_use, usage.bytes_reserved)
    }

    pub(super) fn buffer(&self, rows: usize, columns: usize) -> Buffer {
        let zeros = vec![0.0f32; rows * columns];
        Buffer { handle: self.client.create(Bytes::from_elems(zeros)), rows, columns }
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
