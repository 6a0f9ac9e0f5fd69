//! What models compute on: `--device`, or the setting `engine.device`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What was asked for: one or several of `auto`, `cpu`, `gpu` and `gpu:INDEX`, as `dormouse devices` counts them, with
/// commas between them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Devices(Vec<Device>);

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Device {
    /// Every graphics processor, and the processor for what fits on none of them.
    Auto,
    /// The processor.
    Cpu,
    /// Every graphics processor.
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
    NotBuilt(String),
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

impl Devices {
    /// Looks for them on this machine; one that is meant twice counts once. Blocks.
    pub(crate) fn resolve(&self) -> Result<Vec<dormouse_engine::Device>, Error> {
        let mut found = Vec::new();
        for device in &self.0 {
            for one in device.resolve()? {
                if !found.contains(&one) {
                    found.push(one);
                }
            }
        }
        Ok(found)
    }
}

impl Device {
    #[cfg(feature = "gpu")]
    fn resolve(self) -> Result<Vec<dormouse_engine::Device>, Error> {
        use dormouse_engine::{Adapter, AdapterKind, Device as Found};
        if self == Self::Cpu || self == Self::Auto && !may_have_gpu() {
            return Ok(vec![Found::Cpu]);
        }
        let adapters = dormouse_engine::adapters();
        let is_gpu = |adapter: &&Adapter| adapter.kind != AdapterKind::Software;
        let mut found: Vec<_> =
            adapters.iter().filter(is_gpu).map(|adapter| Found::Gpu(adapter.index)).collect();
        match self {
            Self::Adapter(index) if index >= adapters.len() => {
                Err(Error::NoAdapter { index, count: adapters.len() })
            }
            Self::Adapter(index) => Ok(vec![Found::Gpu(index)]),
            Self::Gpu if found.is_empty() => {
                let software = adapters.first().map(|adapter| {
                    format!("; gpu:{} is {}, whose work the processor does", adapter.index, adapter.name)
                });
                Err(Error::NoGpu(software.unwrap_or_default()))
            }
            Self::Gpu => Ok(found),
            Self::Auto | Self::Cpu => {
                found.push(Found::Cpu);
                Ok(found)
            }
        }
    }

    /// The processor is all there is.
    #[cfg(not(feature = "gpu"))]
    fn resolve(self) -> Result<Vec<dormouse_engine::Device>, Error> {
        match self {
            Self::Auto | Self::Cpu => Ok(vec![dormouse_engine::Device::Cpu]),
            Self::Gpu | Self::Adapter(_) => Err(Error::NotBuilt(self.to_string())),
        }
    }
}

/// Whether the system has a file for a graphics processor: loading drivers for nothing takes time at every start.
#[cfg(feature = "gpu")]
fn may_have_gpu() -> bool {
    const FILES: [&str; 3] = ["/dev/dri", "/dev/nvidiactl", "/dev/dxg"];
    !cfg!(target_os = "linux") || FILES.into_iter().any(|file| std::path::Path::new(file).exists())
}

impl Default for Devices {
    fn default() -> Self {
        Self(vec![Device::Auto])
    }
}

impl FromStr for Devices {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.split(',').map(|one| one.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
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

impl TryFrom<String> for Devices {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Devices> for String {
    fn from(devices: Devices) -> Self {
        devices.to_string()
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, device) in self.0.iter().enumerate() {
            write!(f, "{}{device}", if index > 0 { "," } else { "" })?;
        }
        Ok(())
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
    fn devices_are_read_as_they_are_written() {
        for text in ["auto", "cpu", "gpu", "gpu:3", "gpu:0,gpu:2,cpu"] {
            assert_eq!(text.parse::<Devices>().unwrap().to_string(), text);
        }
        assert_eq!("gpu:1, cpu".parse::<Devices>().unwrap().to_string(), "gpu:1,cpu");
        for (text, wrong) in
            [("", ""), ("gpu:", "gpu:"), ("cpu,gpu:x", "gpu:x"), ("gpu:-1", "gpu:-1"), ("cpu,", "")]
        {
            let error = text.parse::<Devices>().unwrap_err();
            assert!(error.to_string().contains(&format!("\"{wrong}\"")), "{error}");
        }
    }

    #[test]
    fn the_processor_needs_no_driver_and_counts_once() {
        let found = "cpu,cpu".parse::<Devices>().unwrap().resolve().unwrap();
        assert_eq!(found, [dormouse_engine::Device::Cpu]);
    }

    #[cfg(feature = "gpu")]
    #[test]
    fn an_adapter_that_is_not_there_is_refused_by_its_number() {
        let error = "cpu,gpu:99".parse::<Devices>().unwrap().resolve().unwrap_err().to_string();
        assert!(error.starts_with("device gpu:99: this machine has "), "{error}");
    }
}
