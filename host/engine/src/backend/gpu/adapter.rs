//! The graphics processors of a machine.

use std::sync::LazyLock;

use cubecl_core::environment::future::block_on;
use cubecl_wgpu::wgpu;

/// What parts of a buffer begin at in the runtime's pages.
const ALIGNMENT: u64 = 256;

/// For the life of the process: Vulkan's loader doesn't take instances that come and go on several threads.
static INSTANCE: LazyLock<wgpu::Instance> = LazyLock::new(|| {
    wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: backends(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    })
});

fn backends() -> wgpu::Backends {
    wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12
}

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
    /// Bytes of its own memory, or of what it may take of the machine's, where the driver tells.
    pub memory_bytes: Option<u64>,
    /// Bytes of the largest buffer.
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

/// The adapters of this machine with what opens them, the best first.
pub(super) fn found() -> Vec<(Adapter, wgpu::Adapter)> {
    let mut adapters = block_on(INSTANCE.enumerate_adapters(backends()));
    let infos: Vec<_> = adapters.iter().map(wgpu::Adapter::get_info).collect();
    adapters.retain(|adapter| !is_another_way(&adapter.get_info(), &infos));
    let mut found: Vec<_> = adapters.into_iter().map(|adapter| (described(&adapter), adapter)).collect();
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

/// Whether DX12 reaches what Vulkan reaches too: one card is one device.
fn is_another_way(info: &wgpu::AdapterInfo, all: &[wgpu::AdapterInfo]) -> bool {
    let is_same = |other: &wgpu::AdapterInfo| {
        other.backend == wgpu::Backend::Vulkan && (other.vendor, other.device) == (info.vendor, info.device)
    };
    info.backend == wgpu::Backend::Dx12 && all.iter().any(is_same)
}

/// What `found` looked through.
pub(super) fn instance() -> wgpu::Instance {
    INSTANCE.clone()
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

fn described(adapter: &wgpu::Adapter) -> Adapter {
    let info = adapter.get_info();
    let (limits, features) = (adapter.limits(), adapter.features());
    let subgroup = (info.subgroup_min_size, info.subgroup_max_size);
    Adapter {
        index: 0,
        name: info.name.clone(),
        kind: kind(info.device_type),
        api: info.backend.to_string(),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        memory_bytes: memory_bytes(adapter),
        buffer_bytes_max: limits.max_buffer_size,
        binding_bytes_max: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size) / ALIGNMENT
            * ALIGNMENT,
        shared_bytes: limits.max_compute_workgroup_storage_size,
        subgroup: features.contains(wgpu::Features::SUBGROUP).then_some(subgroup),
        has_f16: features.contains(wgpu::Features::SHADER_F16),
        has_cooperative_matrix: features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
    }
}

/// Bytes of the largest heap of the device's own.
#[cfg(any(target_os = "linux", target_os = "windows"))]
fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    /// `VK_MEMORY_HEAP_DEVICE_LOCAL_BIT`.
    const DEVICE_LOCAL: u32 = 1;
    // SAFETY: the adapter is only asked, and stays.
    let vulkan = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let instance = vulkan.shared_instance().raw_instance();
    // SAFETY: the physical device is the instance's.
    let properties = unsafe { instance.get_physical_device_memory_properties(vulkan.raw_physical_device()) };
    let heaps = properties.memory_heaps_as_slice().iter();
    heaps.filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0).map(|heap| heap.size).max()
}

#[cfg(not(any(target_os = "linux", target_os = "windows")))]
fn memory_bytes(_adapter: &wgpu::Adapter) -> Option<u64> {
    None
}
