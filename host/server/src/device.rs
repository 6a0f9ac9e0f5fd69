//! What models compute on: `--device`, or the setting `engine.device`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What was asked for: `auto`, `cpu`, `gpu` or `gpu:INDEX`, as `dormouse devices` counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The first graphics processor, or else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The first graphics processor.
    Gpu,
    /// The adapter of this index, though it be the processor behind a graphics driver.
    Adapter(usize),
}

/// Why models can't compute on a device.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No device is called that.
    #[error("device \"{0}\" is none of auto, cpu, gpu and gpu:INDEX")]
    Unknown(String),
    /// This binary was built without kernels for it.
    #[error("device {0}: this build has no GPU support; build it with the feature \"gpu\"")]
    NotBuilt(Device),
    /// Nothing but drivers that compute on the processor, or nothing at all.
    #[error("device gpu: this machine has no graphics processor with a driver{0}")]
    NoGpu(String),
    /// No adapter has this index.
    #[error("device gpu:{index}: this machine has {count} adapters, see `dormouse devices`")]
    NoAdapter {
        /// What was asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
}

impl Device {
    /// Looks for it on this machine. Blocks.
    #[cfg(feature = "gpu")]
    pub(crate) fn resolve(self) -> Result<dormouse_engine::Device, Error> {
        use dormouse_engine::{AdapterKind, Device as Found};
        if self == Self::Cpu || self == Self::Auto && !may_have_gpu() {
            return Ok(Found::Cpu);
        }
        let adapters = dormouse_engine::adapters();
        let gpu = adapters.iter().find(|adapter| adapter.kind != AdapterKind::Software);
        match (self, gpu) {
            (Self::Adapter(index), _) if index >= adapters.len() => {
                Err(Error::NoAdapter { index, count: adapters.len() })
            }
            (Self::Adapter(index), _) => Ok(Found::Gpu(index)),
            (_, Some(gpu)) => Ok(Found::Gpu(gpu.index)),
            (Self::Gpu, None) => {
                let software = adapters.first().map(|adapter| {
                    format!("; gpu:{} is {}, whose work the processor does", adapter.index, adapter.name)
                });
                Err(Error::NoGpu(software.unwrap_or_default()))
            }
            (_, None) => Ok(Found::Cpu),
        }
    }

    /// The processor is all there is.
    #[cfg(not(feature = "gpu"))]
    pub(crate) fn resolve(self) -> Result<dormouse_engine::Device, Error> {
        match self {
            Self::Auto | Self::Cpu => Ok(dormouse_engine::Device::Cpu),
            Self::Gpu | Self::Adapter(_) => Err(Error::NotBuilt(self)),
        }
    }
}

/// Whether the system has a file for a graphics processor: loading drivers for nothing takes time at every start.
#[cfg(feature = "gpu")]
fn may_have_gpu() -> bool {
    const FILES: [&str; 3] = ["/dev/dri", "/dev/nvidiactl", "/dev/dxg"];
    !cfg!(target_os = "linux") || FILES.into_iter().any(|file| std::path::Path::new(file).exists())
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "gpu" => Ok(Self::Gpu),
            other => {
                let index = other.strip_prefix("gpu:").and_then(|index| index.parse().ok());
                index.map(Self::Adapter).ok_or_else(|| Error::Unknown(other.to_owned()))
            }
        }
    }
}

impl TryFrom<String> for Device {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Gpu => f.write_str("gpu"),
            Self::Adapter(index) => write!(f, "gpu:{index}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_read_as_it_is_written() {
        for device in [Device::Auto, Device::Cpu, Device::Gpu, Device::Adapter(3)] {
            assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
        }
        for text in ["", "gpu:", "gpu:x", "gpu:-1", "cuda"] {
            let error = text.parse::<Device>().unwrap_err();
            assert!(error.to_string().contains(&format!("\"{text}\"")), "{error}");
        }
    }

    #[test]
    fn the_processor_needs_no_driver() {
        assert!(matches!(Device::Cpu.resolve(), Ok(dormouse_engine::Device::Cpu)));
    }

    #[cfg(feature = "gpu")]
    #[test]
    fn an_adapter_that_is_not_there_is_refused_by_its_number() {
        let error = Device::Adapter(99).resolve().unwrap_err().to_string();
        assert!(error.starts_with("device gpu:99: this machine has "), "{error}");
    }
}
