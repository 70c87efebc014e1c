//! Where a step's time goes: every operation's time, and how near it is to what this machine does at most, measured in the same run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use fd_compute::cuda::{measure_copy, measure_product};
use fd_compute::{DType, Device, Mat, MatMut, Operands, Product, StepCost};
use rayon::prelude::*;
use serde::Serialize;

use super::roofline::{Group, grouped, optimiser, pass_name};
use super::step::FdStep;
use super::{BenchOptions, rounded};
use crate::Error;

/// What a machine does at most.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Peaks {
    /// Bytes copied a second, read and written, in GB/s.
    pub copy_gb_s: f64,
    /// A large matrix product in the models' type, in GFLOP/s.
    pub product_gflop_s: f64,
}

/// A step, operation by operation.
#[derive(Clone, Debug, Serialize)]
pub struct Profiled {
    preset: &'static str,
    batch: usize,
    device: String,
    dtype: &'static str,
    threads: usize,
    peaks: Peaks,
    /// The longest first.
    groups: Vec<Group>,
    products: Vec<Products>,
}

/// The linear layers of one shape, in one pass.
#[derive(Clone, Debug, Serialize)]
pub struct Products {
    pass: &'static str,
    /// Rows and columns of the output.
    rows: usize,
    cols: usize,
    /// Columns of the input; backwards there are two products of this size, or one where the input has no gradient.
    inputs: usize,
    steps: usize,
    gflop_s: f64,
}

/// The linear layers by shape, the most time first.
fn products(costs: &[StepCost], seconds: &[f64]) -> Vec<Products> {
    let mut found: BTreeMap<_, (usize, f64)> = BTreeMap::new();
    for (cost, seconds) in costs.iter().zip(seconds).filter(|(c, _)| c.op == "linear") {
        let (steps, total) = found.entry((pass_name(cost.pass), cost.shape.rows(), cost.shape.cols(), cost.flops)).or_default();
        (*steps, *total) = (*steps + 1, *total + seconds);
    }
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    let mut rows_of = vec![];
    for ((pass, rows, cols, flops), (steps, seconds)) in found {
        let products = if pass == "backward" { 2 } else { 1 };
        let (inputs, gflop_s) = (flops as usize / (2 * products * rows * cols), (steps as u64 * flops) as f64 / seconds / 1e9);
        rows_of.push(Products { pass, rows, cols, inputs, steps, gflop_s });
    }
    rows_of
}

/// Best of several: what else the machine does only takes away.
const REPEATS: usize = 5;
/// Bytes that no cache holds.
const COPY: usize = 256 << 20;

impl Peaks {
    /// Measures them.
    ///
    /// # Errors
    /// A device that fails.
    pub fn measure(device: &Device) -> Result<Peaks, Error> {
        if device.cuda_ordinal().is_some() {
            let (bytes, n) = (8 * COPY, 8192);
            let copy_gb_s = 2.0 * bytes as f64 / measure_copy(device, bytes, REPEATS)?.least / 1e9;
            let product_gflop_s = 2.0 * (n as f64).powi(3) / measure_product(device, n, REPEATS)?.least / 1e9;
            return Ok(Peaks { copy_gb_s, product_gflop_s });
        }
        let (from, mut to) = (vec![1u8; COPY], vec![0u8; COPY]);
        let copy = best(|| to.par_chunks_mut(1 << 20).zip(from.par_chunks(1 << 20)).for_each(|(to, from)| to.copy_from_slice(from)));
        let n = 1536;
        let (a, b, mut c) = (vec![0.5f32; n * n], vec![0.25f32; n * n], vec![0f32; n * n]);
        let operands = if device.dtype() == DType::Bf16 { Operands::Bf16 } else { Operands::Exact };
        let product = best(|| Product::all(operands, false).run(Mat::new(&a, n, n), Mat::new(&b, n, n).t(), MatMut::new(&mut c, n, n)));
        Ok(Peaks { copy_gb_s: 2.0 * COPY as f64 / copy / 1e9, product_gflop_s: 2.0 * (n as f64).powi(3) / product / 1e9 })
    }
}

/// The least seconds of several runs, after one that is not counted.
fn best(mut run: impl FnMut()) -> f64 {
    run();
    let timed = (0..REPEATS).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    });
    timed.fold(f64::INFINITY, f64::min)
}

/// Profiles a step: medians over `options.steps` of them. Call it from a rayon pool of the wanted size.
///
/// # Errors
/// A batch or steps of none; those of the device.
pub fn profile(options: &BenchOptions) -> Result<Profiled, Error> {
    let (student, teacher, batch) = options.preset.models()?;
    let batch = options.batch.unwrap_or(batch);
    if batch == 0 || options.steps == 0 {
        return Err(Error::Usage("bench: --batch and --steps must be at least 1".into()));
    }
    let peaks = Peaks::measure(&options.device)?;
    let mut step = FdStep::new(&student, &teacher, batch, options.recompute, options.device)?;
    let profiles = (0..options.warmup + options.steps).map(|i| step.profile(i)).collect::<Result<Vec<_>, Error>>()?;
    let profiles = &profiles[options.warmup..];
    let dtype = options.device.dtype();
    let costs = step.plan().step_costs(options.device.activations());
    let seconds: Vec<f64> = (0..costs.len()).map(|i| median(profiles.iter().map(|p| p.steps[i]))).collect();
    let by_optimiser = median(profiles.iter().map(|p| p.optimiser));
    let groups = grouped(&costs, &seconds, (optimiser(step.trained(), options.device.activations()), by_optimiser));
    let (preset, device) = (options.preset.name(), options.device.to_string());
    let (threads, products) = (rayon::current_num_threads(), products(&costs, &seconds));
    Ok(Profiled { preset, batch, device, dtype: dtype.name(), threads, peaks, groups, products })
}

/// The middle of several numbers.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Profiled {
    /// One line of JSON.
    ///
    /// # Errors
    /// None that occurs.
    pub fn json(&self) -> Result<String, Error> {
        serde_json::to_string(self).map_err(|e| Error::Usage(e.to_string()))
    }

    /// A table in Markdown. What an operation's bytes and operations would take at the peaks, over what it took, is how near it is.
    pub fn markdown(&self) -> String {
        let Profiled { preset, batch, device, dtype, threads, peaks, groups, products } = self;
        let Peaks { copy_gb_s, product_gflop_s } = *peaks;
        let mut text = format!(
            "`{preset}`, batch {batch}, {dtype} on {device}, {threads} threads; peaks: a copy {copy_gb_s:.1} GB/s, a product {product_gflop_s:.0} \
             GFLOP/s\n\n| operation | pass | steps | ms | share | GFLOP/s | GB/s | of the nearer peak |\n|:--|:--|--:|--:|--:|--:|--:|--:|\n"
        );
        let total: f64 = groups.iter().map(|g| g.seconds).sum();
        let nearer = |g: &Group| (g.flops / product_gflop_s).max(g.bytes / copy_gb_s) / 1e9 / g.seconds;
        let mut row = |op: &str, pass: &str, g: &Group| {
            let (share, gflop_s, gb_s) = (100.0 * g.seconds / total, g.flops / g.seconds / 1e9, g.bytes / g.seconds / 1e9);
            let (steps, ms, near) = (g.steps, g.seconds * 1e3, 100.0 * nearer(g));
            let _ = writeln!(text, "| {op} | {pass} | {steps} | {ms:.3} | {share:.1} % | {gflop_s:.1} | {gb_s:.1} | {near:.0} % |");
        };
        groups.iter().for_each(|g| row(&g.op, &g.pass, g));
        let all = groups.iter().fold(Group::default(), |mut all, g| {
            (all.steps, all.flops, all.bytes) = (all.steps + g.steps, all.flops + g.flops, all.bytes + g.bytes);
            all.seconds += g.seconds;
            all
        });
        row("all", "", &all);
        let _ = writeln!(
            text,
            "\n{} images/s\n\n| linear layers | output | inputs | steps | GFLOP/s | of the peak |\n|:--|:--|--:|--:|--:|--:|",
            rounded(*batch as f64 / total)
        );
        for Products { pass, rows, cols, inputs, steps, gflop_s } in products {
            let near = 100.0 * gflop_s / product_gflop_s;
            let _ = writeln!(text, "| {pass} | {rows} x {cols} | {inputs} | {steps} | {gflop_s:.0} | {near:.0} % |");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Preset;

    #[test]
    fn every_operation_has_its_time() {
        let options = BenchOptions { preset: Preset::Mini, batch: Some(2), steps: 1, warmup: 0, recompute: false, device: Device::CPU };
        let profile = profile(&options).unwrap();
        assert!(profile.peaks.copy_gb_s > 0.0 && profile.peaks.product_gflop_s > 0.0);
        assert!(profile.groups.iter().all(|g| g.seconds > 0.0 && g.seconds.is_finite()), "{profile:?}");
        let text = profile.markdown();
        let rows: Vec<&str> = text.lines().filter(|l| l.starts_with('|')).collect();
        let (nine, seven) = (rows.iter().filter(|r| r.matches('|').count() == 9), rows.iter().filter(|r| r.matches('|').count() == 7));
        assert_eq!((nine.count(), seven.count()), (profile.groups.len() + 3, profile.products.len() + 2), "{text}");
        // Mini's layers: from 96 to 288, 96 and 384, from 384 to 96, and from 48 pixels.
        assert!([96, 384, 48].iter().all(|i| profile.products.iter().any(|p| p.inputs == *i && p.pass == "forward")), "{text}");
        assert!(text.contains("| linear | forward |") && text.contains("| adamw | step |"));
        let json: serde_json::Value = serde_json::from_str(&profile.json().unwrap()).unwrap();
        assert_eq!(json["groups"].as_array().unwrap().len(), profile.groups.len());
        assert!(super::profile(&BenchOptions { steps: 0, ..options }).is_err());
    }
}
