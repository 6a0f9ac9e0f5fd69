//! The devices of an engine, opened.

use std::fmt;
#[cfg(feature = "gpu")]
use std::sync::Arc;

#[cfg(feature = "gpu")]
use crate::backend::gpu::{self, Gpu};
use crate::{
    Config, Device, DeviceGauge, Error,
    backend::{cpu::Cpu, reference::Reference},
    models::Maker,
};

/// A device as the engine's threads take it over.
pub(crate) struct Opened {
    pub(crate) known: Known,
    /// Bytes that models may have there.
    pub(crate) memory_bytes_max: u64,
    /// For the `residency` and for the `loader` thread.
    pub(crate) makers: [Box<dyn Maker>; 2],
}

/// What those who look on know of a device.
#[derive(Debug)]
pub(crate) struct Known {
    /// `cpu`, or `gpu:` and its index.
    pub(crate) device: String,
    pub(crate) name: Option<String>,
    pub(crate) gauge: Gauge,
}

/// Looks at the memory of a device that has its own.
pub(crate) struct Gauge(#[cfg(feature = "gpu")] Option<Arc<gpu::Slot>>);

impl Opened {
    /// Opens a device. One that is not there is [`Error::Invalid`], one that doesn't start [`Error::Failed`].
    pub(crate) fn open(device: Device, config: &Config) -> Result<Self, Error> {
        let memory_bytes_max = config.residency.memory_bytes_max;
        match device {
            Device::Cpu => {
                let backend = Cpu::new(config.threads);
                Ok(Self::on_cpu("cpu", memory_bytes_max, [Box::new(backend.clone()), Box::new(backend)]))
            }
            Device::Reference => {
                Ok(Self::on_cpu("reference", memory_bytes_max, [Box::new(Reference), Box::new(Reference)]))
            }
            #[cfg(feature = "gpu")]
            Device::Gpu(index) => {
                let slot = Arc::new(gpu::Slot::open(index, config.residency.device_wait_max)?);
                let bound = config.residency.device_memory_bytes_max;
                let memory_bytes_max = bound.unwrap_or_else(|| slot.budget_bytes(memory_bytes_max));
                let known = Known {
                    device: format!("gpu:{index}"),
                    name: Some(slot.current().adapter().name.clone()),
                    gauge: Gauge(Some(slot.clone())),
                };
                let makers: [Box<dyn Maker>; 2] = [Box::new(Gpu::on(slot.clone())), Box::new(Gpu::on(slot))];
                Ok(Self { known, memory_bytes_max, makers })
            }
        }
    }

    fn on_cpu(device: &str, memory_bytes_max: u64, makers: [Box<dyn Maker>; 2]) -> Self {
        let known = Known { device: device.to_owned(), name: None, gauge: Gauge::NONE };
        Self { known, memory_bytes_max, makers }
    }
}

#[cfg(feature = "gpu")]
impl Gauge {
    const NONE: Self = Self(None);

    pub(crate) fn has_memory_of_its_own(&self) -> bool {
        self.0.is_some()
    }

    #[cfg(test)]
    pub(crate) fn slot(&self) -> &gpu::Slot {
        self.0.as_ref().expect("it is a graphics processor's")
    }

    pub(crate) fn read(&self) -> Option<DeviceGauge> {
        let (used_bytes, reserved_bytes) = self.0.as_ref()?.current().memory();
        Some(DeviceGauge { used_bytes, reserved_bytes })
    }
}

#[cfg(not(feature = "gpu"))]
impl Gauge {
    const NONE: Self = Self();

    pub(crate) fn has_memory_of_its_own(&self) -> bool {
        false
    }

    pub(crate) fn read(&self) -> Option<DeviceGauge> {
        None
    }
}

impl fmt::Debug for Gauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauge")
    }
}
