//! `distill gpu-check` and `distill bench roofline`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use fd_compute::{DType, DeviceChoice};
use fd_distill::Error;
use fd_distill::arguments::{MachineArgs, at_most};
use fd_distill::bench::{Preset, RooflineOptions};
use fd_distill::gpu_check::{GpuCheckOptions, Part, Section};

/// `distill gpu-check`.
#[derive(Debug, Args)]
pub struct GpuCheckArgs {
    /// Where gpu-check.json and gpu-check.md go
    #[arg(long, value_name = "DIR", default_value = "runs/gpu-check")]
    out: PathBuf,
    /// Small shapes: a minute on an emulated device
    #[arg(long)]
    quick: bool,
    /// Only a section: ops, repeat, goldens, trajectory, ceilings, kernels, steps (the last two measure ceilings, too); may be given several times
    #[arg(long, value_name = "SECTION")]
    only: Vec<Section>,
    /// PyTorch's side, tools/torch_fd_step.py: its variants run beside ours with `python3`
    #[arg(long, value_name = "SCRIPT")]
    torch: Option<PathBuf>,
    /// Time for all of it; what would take longer is left out
    #[arg(long, value_name = "MINUTES", default_value = "8", value_parser = minutes)]
    minutes: Duration,
    /// A factor on every tolerance, to see the check itself fail
    #[arg(long, value_name = "FACTOR", default_value = "1", hide = true)]
    tolerance_scale: f64,
    /// Where one of the check's own processes leaves its findings
    #[arg(long, value_name = "FILE", hide = true)]
    part: Option<PathBuf>,
    /// The operation that it checks
    #[arg(long, value_name = "NAME", hide = true, requires = "part")]
    operation: Option<String>,
}

impl GpuCheckArgs {
    /// What the check needs.
    ///
    /// # Errors
    /// A device or a type that is not to be checked.
    pub fn options(&self, machine: &MachineArgs) -> Result<GpuCheckOptions, Error> {
        let ordinal = match machine.device {
            DeviceChoice::Auto => 0,
            DeviceChoice::Cuda(ordinal) => ordinal,
            DeviceChoice::Cpu => return Err(Error::Usage("gpu-check checks a CUDA device: --device cuda:N".into())),
        };
        if machine.dtype()?.is_some() {
            return Err(Error::Usage("gpu-check checks f32 and bf16: --dtype goes with other commands".into()));
        }
        if let Some(script) = self.torch.as_ref().filter(|s| !s.is_file()) {
            return Err(Error::File { path: script.clone(), why: "no such script".into() });
        }
        let GpuCheckArgs { out, quick, only, torch, minutes, tolerance_scale, part, operation } = self;
        let part = part.as_ref().map(|file| Part { file: file.clone(), op: operation.clone() });
        let (out, only, torch) = (out.clone(), only.clone(), torch.clone());
        Ok(GpuCheckOptions { ordinal, out, quick: *quick, only, torch, limit: *minutes, tolerance_scale: *tolerance_scale, part })
    }
}

/// `distill bench roofline`.
#[derive(Debug, Args)]
pub struct RooflineArgs {
    /// Sizes: mini, tiny, vitb, vitl or swint
    #[arg(long, default_value = "vitb")]
    preset: Preset,
    /// Images a step
    #[arg(long, default_value = "128", value_parser = at_most::<65536>)]
    batch: usize,
    /// Memory's ceiling in TB/s, read and written
    #[arg(long, value_name = "TB/S", default_value = "4.3")]
    tbps: f64,
    /// Arithmetic's ceiling in TFLOP/s
    #[arg(long, value_name = "TFLOP/S", default_value = "780")]
    tflops: f64,
}

impl RooflineArgs {
    /// What is counted: in bf16, unless another type is asked for.
    ///
    /// # Errors
    /// A type in which no model runs.
    pub fn options(&self, machine: &MachineArgs) -> Result<RooflineOptions, Error> {
        let RooflineArgs { preset, batch, tbps, tflops } = *self;
        Ok(RooflineOptions { preset, batch: Some(batch), dtype: machine.dtype()?.unwrap_or(DType::Bf16), tbps, tflops })
    }
}

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: Option<f64> = text.parse().ok();
    minutes.and_then(|m| Duration::try_from_secs_f64(60.0 * m).ok()).ok_or_else(|| "expected a number of minutes".into())
}
