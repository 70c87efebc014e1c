//! Where and in what type a plan runs.

use crate::Error;

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single.
    F32,
    /// IEEE double: for proofs, CPU only.
    F64,
}

impl DType {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F64 => 8,
        }
    }

    /// The name used in configurations and logs.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
        }
    }
}

/// The device a plan runs on, chosen at run time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The processor, all threads of the current rayon pool.
    #[default]
    Cpu,
    /// A CUDA device by ordinal. Its kernels are not part of this version: choosing it is an ordinary error.
    Cuda(usize),
}

impl Device {
    /// Refuses a device on which this version cannot run.
    pub fn check(self) -> Result<(), Error> {
        match self {
            Device::Cpu => Ok(()),
            Device::Cuda(n) => Err(Error::Device { device: format!("cuda:{n}"), why: "this version has no CUDA kernels yet".into() }),
        }
    }
}

impl std::str::FromStr for Device {
    type Err = Error;

    /// `auto`, `cpu` or `cuda:N`.
    fn from_str(s: &str) -> Result<Self, Error> {
        let unknown = || Error::Device { device: s.to_string(), why: "expected `auto`, `cpu` or `cuda:N`".into() };
        match s {
            "auto" | "cpu" => Ok(Device::Cpu),
            _ => s.strip_prefix("cuda:").and_then(|n| n.parse().ok()).map(Device::Cuda).ok_or_else(unknown),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}
