//! Speed: a whole training step (teacher forward, student forward and backward, clipping, AdamW) on random images, and attention alone.

mod attention;

use std::time::Instant;

use fd_compute::optim::{AdamW, Rate, clip_factor, grad_norm};
use fd_compute::{Arena, Cx, DType, Device, Grads, Params, StepKey, Stream};
use fd_model::{Init, ModelConfig, VitConfig, initialise, preset};
use serde::Serialize;

pub use attention::attention;

use crate::distillation::{Distillation, Engine, Projector};
use crate::{Error, Objective};

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
    fn models(self) -> Result<(ModelConfig, ModelConfig, usize), Error> {
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
    let fd = Distillation::new(&student, &teacher, Projector::Linear {}, Objective::PAPER)?.with_recompute(options.recompute);
    let step = fd.plan(batch, Engine::Fused)?;
    let (mut trained, mut frozen) = (Params::new(&fd.trained, DType::F32), Params::new(&fd.frozen[0], DType::F32));
    initialise(&mut trained, "encoder.", &student, Init::Official, 0);
    initialise(&mut trained, "decoder.", &student, Init::Official, 1);
    initialise(&mut frozen, "", &teacher, Init::Official, 2);
    let mut grads = Grads::new(&fd.trained, DType::F32);
    let mut arena = Arena::new(&step.plan, DType::F32);
    let mut random = Stream::new(&[9]);
    arena.value_mut::<f32>(step.images).iter_mut().for_each(|x| *x = random.normal() as f32);
    let mut adam = AdamW::new(&fd.trained, DType::F32, (0.9, 0.999), 1e-8);
    let rates: Vec<Rate> = fd.trained.iter().map(|param| Rate { param, lr: 1e-4, weight_decay: 0.05 }).collect();
    let (mut times, mut loss) = (vec![], 0.0);
    for i in 0..options.warmup + options.steps {
        let start = Instant::now();
        let sets = [&trained, &frozen];
        let mut cx = Cx::new(&options.device, &sets, &mut arena, StepKey { step: i as u64, ..StepKey::default() });
        step.plan.forward(&mut cx)?;
        (loss, _) = step.loss.value(&step.plan, &mut cx)?;
        grads.reset();
        step.plan.backward(&mut cx, &mut grads)?;
        let clip = clip_factor(grad_norm(&grads), Some(3.0));
        adam.step(&mut trained, &grads, &rates, clip)?;
        if i >= options.warmup {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let cost = step.plan.cost();
    let line = Line {
        bench: "fd-step",
        engine: format!("fd-{}", env!("CARGO_PKG_VERSION")),
        preset: options.preset.name(),
        device: options.device.to_string(),
        dtype: "f32",
        attention: "fused",
        compiled: None,
        batch,
        threads: rayon::current_num_threads(),
        images_per_second: rounded(batch as f64 / median),
        step_ms: rounded(median * 1e3),
        step_ms_min: rounded(times[0] * 1e3),
        loss: (loss * 1e5).round() / 1e5,
        peak_rss_mb: peak_rss_mb(),
        peak_device_mb: 0,
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
