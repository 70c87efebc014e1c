//! Speed: a whole training step (teacher forward, student forward and backward, clipping, AdamW) on random images, and attention alone.

mod attention;
mod profile;
mod roofline;
mod step;

use std::time::Instant;

use fd_compute::Device;
use fd_compute::cuda::{memory_peak, reset_memory_peak};
use fd_model::{ModelConfig, VitConfig, preset};
use serde::Serialize;

pub use attention::attention;
pub use profile::{Peaks, Profiled, median, profile};
pub use roofline::{Group, Roofline, RooflineOptions, grouped, optimiser, roofline};
pub use step::{FdStep, Profile};

use crate::Error;

/// Sizes of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// 28 px, patch 4, width 96, 4 blocks, 3 heads, batch 128.
    Mini,
    /// 32 px, patch 4, width 192, 12 blocks, 3 heads, batch 64.
    Tiny,
    /// ViT-B/16 at 224 px, batch 8.
    VitB,
    /// ViT-L/14 at 224 px, batch 8.
    VitL,
    /// Swin-T (teacher) to Swin v2-T (student) at 224 px with windows of 7, batch 8.
    SwinT,
}

impl Preset {
    /// All of them.
    pub const ALL: [Preset; 5] = [Preset::Mini, Preset::Tiny, Preset::VitB, Preset::VitL, Preset::SwinT];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Mini => "mini",
            Preset::Tiny => "tiny",
            Preset::VitB => "vitb",
            Preset::VitL => "vitl",
            Preset::SwinT => "swint",
        }
    }

    /// Student, teacher and batch.
    ///
    /// # Errors
    /// None for the presets there are.
    pub fn models(self) -> Result<(ModelConfig, ModelConfig, usize), Error> {
        let (side, patch, dim, depth, heads, batch) = match self {
            Preset::Mini => (28, 4, 96, 4, 3, 128),
            Preset::Tiny => (32, 4, 192, 12, 3, 64),
            Preset::VitB => (224, 16, 768, 12, 12, 8),
            Preset::VitL => (224, 14, 1024, 24, 16, 8),
            Preset::SwinT => return Ok((preset("swinv2-t")?.with_drop_path(0.1), preset("swin-t")?, 8)),
        };
        let teacher =
            VitConfig { img_size: (side, side), patch_size: patch, embed_dim: dim, depth, num_heads: heads, ..VitConfig::default() };
        let teacher = ModelConfig::from(teacher);
        Ok((teacher.student().with_drop_path(0.1), teacher, batch))
    }
}

impl std::str::FromStr for Preset {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let names = Preset::ALL.map(Preset::name).join(", ");
        let unknown = || Error::Usage(format!("unknown bench preset `{s}`: there are {names}"));
        Preset::ALL.into_iter().find(|p| p.name() == s).ok_or_else(unknown)
    }
}

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct BenchOptions {
    /// Sizes.
    pub preset: Preset,
    /// Images a step; none: the preset's.
    pub batch: Option<usize>,
    /// Steps that are measured.
    pub steps: usize,
    /// Steps before them.
    pub warmup: usize,
    /// Compute the student's blocks again in the backward pass.
    pub recompute: bool,
    /// Where.
    pub device: Device,
}

/// One line of JSON, with the keys of the PyTorch side of the comparison.
#[derive(Serialize)]
struct Line {
    bench: &'static str,
    engine: String,
    preset: &'static str,
    device: String,
    dtype: &'static str,
    attention: &'static str,
    compiled: Option<&'static str>,
    batch: usize,
    threads: usize,
    images_per_second: f64,
    step_ms: f64,
    step_ms_min: f64,
    loss: f64,
    peak_rss_mb: u64,
    peak_device_mb: u64,
    simd: &'static str,
    gflops: f64,
    recompute: bool,
}

/// Runs the benchmark; the result is one line of JSON. Call it from a rayon pool of the wanted size.
pub fn fd_step(options: &BenchOptions) -> Result<String, Error> {
    let (student, teacher, batch) = options.preset.models()?;
    let batch = options.batch.unwrap_or(batch);
    if batch == 0 || options.steps == 0 {
        return Err(Error::Usage("bench: --batch and --steps must be at least 1".into()));
    }
    reset_memory_peak(&options.device);
    let mut step = FdStep::new(&student, &teacher, batch, options.recompute, options.device)?;
    let (mut times, mut loss) = (vec![], 0.0);
    for i in 0..options.warmup + options.steps {
        let start = Instant::now();
        loss = step.run(i)?;
        if i >= options.warmup {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let cost = step.plan().cost();
    let line = Line {
        bench: "fd-step",
        engine: format!("fd-{}", env!("CARGO_PKG_VERSION")),
        preset: options.preset.name(),
        device: options.device.to_string(),
        dtype: options.device.dtype().name(),
        attention: "fused",
        compiled: None,
        batch,
        threads: rayon::current_num_threads(),
        images_per_second: rounded(batch as f64 / median),
        step_ms: rounded(median * 1e3),
        step_ms_min: rounded(times[0] * 1e3),
        loss: (loss * 1e5).round() / 1e5,
        peak_rss_mb: peak_rss_mb(),
        peak_device_mb: memory_peak(&options.device) >> 20,
        simd: fd_compute::simd::level().name(),
        gflops: rounded((cost.forward_flops + cost.backward_flops) as f64 / median / 1e9),
        recompute: options.recompute,
    };
    serde_json::to_string(&line).map_err(|e| Error::Usage(e.to_string()))
}

/// Three decimals.
fn rounded(x: f64) -> f64 {
    (x * 1e3).round() / 1e3
}

/// The process's peak resident memory in MiB; 0 where the system does not say.
pub fn peak_rss_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
