//! What the command lines of the binaries share: where to compute, which model of a file, how images get its size; and how a mistake is
//! told.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use fd_compute::simd::{self, Level};
use fd_compute::{DType, Device, DeviceChoice};
use fd_model::{Allow, Statistics};

use crate::Error;
use crate::asked::Asked;
use crate::features::Fitting;

/// Where to compute, and how much to say.
#[derive(Debug, Args)]
pub struct MachineArgs {
    /// Where to compute: auto (a CUDA device if there is one that can be used), cpu or cuda:N
    #[arg(long, global = true, default_value = "auto")]
    pub device: DeviceChoice,
    /// Element type of models: f32, or bf16 with f32 sums and masters (on the CPU: of the operands of products); default: bf16 on CUDA, f32 on
    /// the CPU
    #[arg(long, global = true, value_enum)]
    dtype: Option<Elements>,
    /// Threads; default: one a core
    #[arg(long, global = true, value_parser = at_most::<1024>)]
    pub threads: Option<usize>,
    /// Instruction set: scalar, avx2 or avx512; default: the best there is. Results repeat bit for bit at one level only
    #[arg(long, global = true, value_parser = level)]
    pub simd: Option<Level>,
    /// More messages; twice for still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// Element types, as options say them: where models run, and (`convert`) what weight files hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Elements {
    /// IEEE single.
    F32,
    /// bfloat16, where models run.
    Bf16,
    /// IEEE half, in weight files.
    F16,
}

impl MachineArgs {
    /// The element type asked for, if one is.
    ///
    /// # Errors
    /// One in which no model runs.
    pub fn dtype(&self) -> Result<Option<DType>, Error> {
        match self.dtype {
            None => Ok(None),
            Some(Elements::F32) => Ok(Some(DType::F32)),
            Some(Elements::Bf16) => Ok(Some(DType::Bf16)),
            Some(Elements::F16) => Err(Error::Usage("--dtype f16: models run in f32 or bf16".into())),
        }
    }

    /// Opens the device asked for, or says why `auto` is the CPU. Not for what computes nothing: opening takes a device's memory.
    ///
    /// # Errors
    /// A device that cannot be used.
    pub fn device(&self) -> Result<Device, Error> {
        let (device, why) = self.device.resolve(self.dtype()?)?;
        match why {
            Some(why) => tracing::info!("computing on the CPU: {why}"),
            None => tracing::info!("computing on {device} in {}", device.dtype().name()),
        }
        if device.emulates_bf16() {
            tracing::warn!(
                "--dtype bf16: this processor has no bf16 instructions in force, so operands are rounded in software: slower than f32"
            );
        }
        Ok(device)
    }

    /// Sets the process up as asked: messages, instruction set, threads. Once a process.
    ///
    /// # Errors
    /// An instruction set that is not there.
    pub fn set_up(&self) -> Result<(), Error> {
        log(self.verbose);
        if let Some(level) = self.simd
            && !simd::force(level)
        {
            let here: Vec<&str> = Level::available().into_iter().map(Level::name).collect();
            return Err(Error::Usage(format!("--simd {}: this machine has {}", level.name(), here.join(", "))));
        }
        let mut pool = rayon::ThreadPoolBuilder::new();
        if let Some(threads) = self.threads {
            pool = pool.num_threads(threads);
        }
        pool.build_global().map_err(|e| Error::Usage(format!("--threads: the thread pool cannot be made: {e}")))
    }

    /// The device, where f32 is what is compared, unless another type was asked for by name.
    pub fn in_f32(&self, device: Device) -> Device {
        match (device.cuda_ordinal(), &self.dtype) {
            (Some(ordinal), None) => Device::cuda(ordinal, DType::F32),
            _ => device,
        }
    }
}

/// Messages go to standard error: warnings, more with `-v`, or what `RUST_LOG` says.
fn log(verbose: u8) {
    let level = ["warn", "info", "debug", "trace"][usize::from(verbose.min(3))];
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into());
    let _ = tracing_subscriber::fmt().log_internal_errors(false).with_writer(std::io::stderr).with_env_filter(filter).try_init();
}

/// Which model of a file, and what may differ.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// The model in a file that holds several: a part of its path, such as teacher
    #[arg(long, value_name = "PATH")]
    key: Option<String>,
    /// The architecture that it has to be (vit-base, clip-vit-b-16, …); default: what it is recognised as
    #[arg(long, value_name = "PRESET")]
    model: Option<String>,
    /// A key of the model, for what files do not say, such as num_heads=6
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Height and width of the images, if not the model's: positions are interpolated
    #[arg(long, value_name = "N|H,W", value_parser = size)]
    img_size: Option<(usize, usize)>,
    /// A tensor that may be missing, left over, of another shape or not finite; NAME* stands for all that begin so
    #[arg(long, value_name = "NAME")]
    allow: Vec<String>,
    /// Interpolate positions of another grid or window
    #[arg(long)]
    interpolate: bool,
    /// Means of the channels, 0 to 1; default: the file's, or ImageNet's (CLIP's for CLIP)
    #[arg(long, value_name = "R,G,B", value_delimiter = ',', requires = "std")]
    mean: Option<Vec<f32>>,
    /// Standard deviations of the channels
    #[arg(long, value_name = "R,G,B", value_delimiter = ',', requires = "mean")]
    std: Option<Vec<f32>>,
}

impl ModelArgs {
    /// The model of a file.
    pub fn asked(&self, file: &Path) -> Asked {
        let normalise = self.mean.clone().zip(self.std.clone()).map(|(mean, std)| Statistics { mean, std });
        Asked {
            file: file.to_path_buf(),
            key: self.key.clone(),
            model: self.model.clone(),
            sets: self.sets.clone(),
            img_size: self.img_size,
            allow: Allow { names: self.allow.clone(), interpolate: self.interpolate },
            normalise,
        }
    }
}

/// How images get the model's size.
#[derive(Debug, Args)]
pub struct ViewArgs {
    /// Share of the short side that the crop in the middle keeps
    #[arg(long, value_name = "SHARE", default_value = "0.875")]
    crop: f64,
    /// Resize the whole image instead, whatever its aspect ratio
    #[arg(long, conflicts_with = "crop")]
    stretch: bool,
}

impl ViewArgs {
    /// As the library has it.
    pub fn fitting(&self) -> Fitting {
        if self.stretch { Fitting::Stretch } else { Fitting::Crop(self.crop) }
    }
}

/// A number in 1..=MAX.
///
/// # Errors
/// What was expected.
pub fn at_most<const MAX: usize>(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=MAX).contains(n)).ok_or_else(|| format!("expected a number from 1 to {MAX}"))
}

fn level(text: &str) -> Result<Level, String> {
    let levels = [Level::Scalar, Level::Avx2, Level::Avx512];
    levels.into_iter().find(|l| l.name() == text).ok_or_else(|| "expected scalar, avx2 or avx512".into())
}

/// `N` or `H,W`.
fn size(text: &str) -> Result<(usize, usize), String> {
    let side = |text: &str| at_most::<8192>(text.trim());
    match text.split_once(',') {
        Some((h, w)) => Ok((side(h)?, side(w)?)),
        None => side(text).map(|n| (n, n)),
    }
}

/// Clap's message without its usage block, in one line.
pub fn one_line(e: &clap::Error) -> String {
    let text = e.to_string();
    let told = text.lines().take_while(|l| !l.starts_with("Usage:") && !l.starts_with("For more information"));
    told.map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Ends a process: says why, in one line on standard error.
pub fn end(message: &str, code: u8) -> ExitCode {
    let line: Vec<&str> = message.split(char::is_control).map(str::trim).filter(|s| !s.is_empty()).collect();
    let _ = writeln!(std::io::stderr(), "{}", line.join(" "));
    ExitCode::from(code)
}
