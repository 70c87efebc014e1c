//! What the device can do at most, and where the time of a step goes.

use std::io::Write;

use fd_compute::DType;
use fd_compute::cuda::{measure_copy, measure_launch, measure_product};

use super::Job;
use super::record::Record;
use super::report::{Ceilings, Kernels};
use crate::Error;
use crate::bench::{FdStep, Preset, grouped, median, optimiser};

/// Measures the ceilings.
pub(super) fn ceilings(job: &Job, record: &mut Record<impl Write>) -> Result<(), Error> {
    let measured = measure(job);
    match measured {
        Ok(c) => record.ceilings(c),
        Err(e) => record.holds("ceilings", "measured", DType::F32, Err(e.to_string())),
    }
}

fn measure(job: &Job) -> Result<Ceilings, Error> {
    let (bytes, bf16, f32, repeats) = if job.quick() { (4 << 20, 96, 64, 3) } else { (2 << 30, 8192, 4096, 15) };
    let device = job.device(DType::F32);
    let tflop_s = |n: usize, seconds: f64| 2.0 * (n as f64).powi(3) / seconds / 1e12;
    Ok(Ceilings {
        copy_gb_s: 2.0 * bytes as f64 / measure_copy(&device, bytes, repeats)?.median / 1e9,
        product_bf16_tflop_s: tflop_s(bf16, measure_product(&job.device(DType::Bf16), bf16, repeats)?.median),
        product_bf16_side: bf16,
        product_f32_tflop_s: tflop_s(f32, measure_product(&device, f32, repeats)?.median),
        product_f32_side: f32,
        launch_us: measure_launch(&device, repeats)?.median * 1e6,
    })
}

/// Profiles steps of several presets in bf16.
pub(super) fn run(job: &Job, record: &mut Record<impl Write>) -> Result<(), Error> {
    let profiled: &[(Preset, usize)] =
        if job.quick() { &[(Preset::Mini, 2)] } else { &[(Preset::VitB, 128), (Preset::SwinT, 128), (Preset::Mini, 128)] };
    for &(preset, batch) in profiled {
        let what = format!("{} batch {batch}", preset.name());
        if job.left() < super::LEAST {
            record.skip(&what, "the time is over")?;
            continue;
        }
        match profile(job, preset, batch) {
            Ok(kernels) => record.kernels(kernels)?,
            Err(e) => record.holds(preset.name(), &format!("batch {batch}"), DType::Bf16, Err(e.to_string()))?,
        }
    }
    Ok(())
}

fn profile(job: &Job, preset: Preset, batch: usize) -> Result<Kernels, Error> {
    let (student, teacher, _) = preset.models()?;
    let (warmup, repeats) = if job.quick() { (0, 1) } else { (3, 7) };
    let mut step = FdStep::new(&student, &teacher, batch, false, job.device(DType::Bf16))?;
    let profiles = (0..warmup + repeats).map(|i| step.profile(i)).collect::<Result<Vec<_>, Error>>()?;
    let profiles = &profiles[warmup..];
    let costs = step.plan().step_costs(DType::Bf16);
    let seconds: Vec<f64> = (0..costs.len()).map(|i| median(profiles.iter().map(|p| p.steps[i]))).collect();
    let by_optimiser = median(profiles.iter().map(|p| p.optimiser));
    let groups = grouped(&costs, &seconds, (optimiser(step.trained(), DType::Bf16), by_optimiser));
    Ok(Kernels { preset: preset.name().into(), batch, dtype: DType::Bf16.name().into(), groups })
}
