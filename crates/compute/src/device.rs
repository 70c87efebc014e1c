//! Where and in what type a plan runs.

use crate::Error;

/// An element type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single.
    #[default]
    F32,
    /// IEEE double: for proofs, CPU only.
    F64,
    /// bfloat16 operands with f32 sums, statistics and losses, and f32 masters of all parameters.
    Bf16,
}

impl DType {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F64 => 8,
            DType::Bf16 => 2,
        }
    }

    /// The name used in configurations and logs.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::Bf16 => "bf16",
        }
    }

    /// The type of parameters, their gradients and the optimiser's state where plans run in this one.
    pub fn master(self) -> DType {
        if self == DType::F64 { DType::F64 } else { DType::F32 }
    }
}

impl std::str::FromStr for DType {
    type Err = Error;

    /// `f32` or `bf16`.
    fn from_str(s: &str) -> Result<Self, Error> {
        match s {
            "f32" => Ok(DType::F32),
            "bf16" => Ok(DType::Bf16),
            _ => Err(Error::Argument { op: "dtype", why: format!("`{s}`: expected `f32` or `bf16`") }),
        }
    }
}

/// Where a plan runs, and in what type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    cuda: Option<usize>,
    dtype: DType,
}

impl Device {
    /// The processor, all threads of the current rayon pool, in f32.
    pub const CPU: Device = Device { cuda: None, dtype: DType::F32 };

    /// The processor in f32, or with products of operands rounded to bf16 (activations, sums and all else stay f32).
    pub const fn cpu(dtype: DType) -> Device {
        Device { cuda: None, dtype }
    }

    /// A CUDA device by ordinal. It is opened when something is placed on it.
    pub const fn cuda(ordinal: usize, dtype: DType) -> Device {
        Device { cuda: Some(ordinal), dtype }
    }

    /// The element type of plans.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Which CUDA device it is, if it is one.
    pub fn cuda_ordinal(&self) -> Option<usize> {
        self.cuda
    }

    /// Refuses a device that cannot be used: no driver, no such device, a library that is missing. Opens it: some devices refuse only
    /// then, as those that another process has for itself.
    ///
    /// # Errors
    /// One line that says what is missing.
    pub fn check(&self) -> Result<(), Error> {
        self.cuda.map_or(Ok(()), |ordinal| crate::cuda::Gpu::open(ordinal).map(drop))
    }

    /// The element type of activations: on the processor that of sums, whatever products round.
    pub fn activations(&self) -> DType {
        if self.cuda.is_some() { self.dtype } else { self.dtype.master() }
    }

    /// Is bf16 what this is asked for and what the processor's instructions do not have? It is then rounded by hand: right, and slower than f32.
    pub fn emulates_bf16(&self) -> bool {
        self.cuda.is_none() && self.dtype == DType::Bf16 && !crate::gemm::has_bf16()
    }

    /// What results depend on beside the inputs: the SIMD level, or that it is a CUDA device, and the type.
    pub fn arithmetic(&self) -> String {
        let level = crate::simd::level().name();
        match (self.cuda, self.dtype) {
            (Some(_), dtype) => format!("cuda-{}", dtype.name()),
            (None, DType::Bf16) if self.emulates_bf16() => format!("{level}-bf16-emulated"),
            (None, DType::Bf16) => format!("{level}-bf16"),
            (None, _) => level.into(),
        }
    }
}

/// `auto`, `cpu` or `cuda:N`, as it is asked for: which device that is depends on the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device if it can be used, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device by ordinal.
    Cuda(usize),
}

impl DeviceChoice {
    /// The device, and with `auto` on a CPU why it is not a CUDA device. Without a type: bf16 on CUDA, f32 on the CPU.
    ///
    /// # Errors
    /// A CUDA device that was asked for by name and cannot be used.
    pub fn resolve(self, dtype: Option<DType>) -> Result<(Device, Option<Error>), Error> {
        let cuda = |ordinal| Device::cuda(ordinal, dtype.unwrap_or(DType::Bf16));
        let cpu = Device::cpu(dtype.unwrap_or(DType::F32));
        let (device, why) = match self {
            DeviceChoice::Cpu => (cpu, None),
            DeviceChoice::Cuda(ordinal) => (cuda(ordinal), None),
            DeviceChoice::Auto => match cuda(0).check() {
                Ok(()) => (cuda(0), None),
                Err(why) => (cpu, Some(why)),
            },
        };
        device.check()?;
        Ok((device, why))
    }
}

impl std::str::FromStr for DeviceChoice {
    type Err = Error;

    /// `auto`, `cpu` or `cuda:N`.
    fn from_str(s: &str) -> Result<Self, Error> {
        let unknown = || Error::Device { device: s.to_string(), why: "expected `auto`, `cpu` or `cuda:N`".into() };
        match s {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            _ => s.strip_prefix("cuda:").and_then(|n| n.parse().ok()).map(DeviceChoice::Cuda).ok_or_else(unknown),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.cuda {
            None => f.write_str("cpu"),
            Some(n) => write!(f, "cuda:{n}"),
        }
    }
}
