//! What a step would take at least: bytes and operations counted from the plan, over what a device can do. Nothing runs, no GPU is needed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use fd_compute::{DType, Pass, Plan, StepCost};
use serde::{Deserialize, Serialize};

use super::Preset;
use crate::distillation::{Distillation, Engine, Projector};
use crate::{Error, Objective};

/// What is counted, and on what device it would run.
#[derive(Clone, Copy, Debug)]
pub struct RooflineOptions {
    /// Sizes.
    pub preset: Preset,
    /// Images a step; none: the preset's.
    pub batch: Option<usize>,
    /// Element type of the models.
    pub dtype: DType,
    /// Memory's ceiling, read and written, in TB/s.
    pub tbps: f64,
    /// Arithmetic's ceiling in TFLOP/s.
    pub tflops: f64,
}

/// All steps of a kind: counted, and (elsewhere) measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The operation.
    pub op: String,
    /// `forward`, `again` (computed once more for the backward pass), `backward` or `step` (the optimiser).
    pub pass: String,
    /// How many steps.
    pub steps: usize,
    /// Floating-point operations; a multiply-add is two.
    pub flops: f64,
    /// Bytes that have to be read and written.
    pub bytes: f64,
    /// Seconds: at the ceilings, or measured.
    pub seconds: f64,
}

/// A step at the ceilings.
#[derive(Clone, Debug)]
pub struct Roofline {
    /// The subject.
    pub options: RooflineOptions,
    /// Images a step.
    pub batch: usize,
    /// By time, the longest first.
    pub groups: Vec<Group>,
}

/// The name of a pass.
pub fn pass_name(pass: Pass) -> &'static str {
    match pass {
        Pass::Forward => "forward",
        Pass::Again => "again",
        Pass::Backward => "backward",
    }
}

/// Clipping and AdamW on so many numbers: the gradient is read for its norm, then with values and moments, which are written; where
/// models are bf16, so is a second copy of the values.
pub fn optimiser(trained: usize, dtype: DType) -> (f64, f64) {
    let bytes = 4 + 28 + if dtype == DType::Bf16 { 2 } else { 0 };
    (16.0 * trained as f64, (bytes * trained) as f64)
}

/// Sums a plan's steps, each with its seconds, by operation and pass; the optimiser goes beside them. The longest first.
pub fn grouped(costs: &[StepCost], seconds: &[f64], optimiser: ((f64, f64), f64)) -> Vec<Group> {
    let mut groups: BTreeMap<(&str, &str), Group> = BTreeMap::new();
    let ((flops, bytes), time) = optimiser;
    let steps = costs.iter().zip(seconds).map(|(c, s)| ((c.op, pass_name(c.pass)), (c.flops as f64, c.bytes as f64, *s)));
    for ((op, pass), (flops, bytes, seconds)) in steps.chain([(("adamw", "step"), (flops, bytes, time))]) {
        let group = groups.entry((op, pass)).or_insert_with(|| Group { op: op.into(), pass: pass.into(), ..Group::default() });
        group.steps += 1;
        group.flops += flops;
        group.bytes += bytes;
        group.seconds += seconds;
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    groups
}

/// Counts a step.
///
/// # Errors
/// A batch of none; ceilings that are not above zero.
pub fn roofline(options: &RooflineOptions) -> Result<Roofline, Error> {
    let (student, teacher, batch) = options.preset.models()?;
    let batch = options.batch.unwrap_or(batch);
    let above_zero = |x: f64| x > 0.0 && x.is_finite();
    if batch == 0 || !above_zero(options.tbps) || !above_zero(options.tflops) {
        return Err(Error::Usage("bench: --batch, --tbps and --tflops must be above 0".into()));
    }
    let fd = Distillation::new(&student, &teacher, Projector::Linear {}, Objective::PAPER)?;
    let plan: Plan = fd.plan(batch, Engine::Fused)?.plan;
    let least = |flops: f64, bytes: f64| (flops / options.tflops).max(bytes / options.tbps) / 1e12;
    let costs = plan.step_costs(options.dtype);
    let seconds: Vec<f64> = costs.iter().map(|c| least(c.flops as f64, c.bytes as f64)).collect();
    let trained = fd.trained.iter().map(|p| fd.trained.shape(p).iter().product::<usize>()).sum();
    let (flops, bytes) = optimiser(trained, options.dtype);
    let groups = grouped(&costs, &seconds, ((flops, bytes), least(flops, bytes)));
    Ok(Roofline { options: *options, batch, groups })
}

impl Roofline {
    /// Seconds of the whole step.
    pub fn seconds(&self) -> f64 {
        self.groups.iter().map(|g| g.seconds).sum()
    }

    /// A table in Markdown, and what it says in one line.
    pub fn markdown(&self) -> String {
        let RooflineOptions { preset, dtype, tbps, tflops, .. } = self.options;
        let mut text = format!(
            "`{}`, batch {}, {}: counted from the plan, at {tbps} TB/s and {tflops} TFLOP/s\n\n\
             | operation | pass | steps | GFLOP | GB | ms for memory | ms for arithmetic | ms | bound by | share |\n\
             |:--|:--|--:|--:|--:|--:|--:|--:|:--|--:|\n",
            preset.name(),
            self.batch,
            dtype.name()
        );
        let total = self.seconds();
        for g in &self.groups {
            let (memory, arithmetic) = (g.bytes / tbps / 1e9, g.flops / tflops / 1e9);
            let bound = if memory > arithmetic { "memory" } else { "arithmetic" };
            let (gflop, gb) = (g.flops / 1e9, g.bytes / 1e9);
            let _ = writeln!(
                text,
                "| {} | {} | {} | {gflop:.1} | {gb:.3} | {memory:.3} | {arithmetic:.3} | {:.3} | {bound} | {:.1} % |",
                g.op,
                g.pass,
                g.steps,
                g.seconds * 1e3,
                100.0 * g.seconds / total
            );
        }
        let sum = |of: fn(&Group) -> f64| self.groups.iter().map(of).sum::<f64>();
        let (flops, bytes) = (sum(|g| g.flops), sum(|g| g.bytes));
        let _ = writeln!(
            text,
            "| all | | {} | {:.1} | {:.3} | {:.3} | {:.3} | {:.3} | | 100.0 % |\n\n\
             {:.0} images/s at most; {:.0} if memory cost nothing, {:.0} if every operand were touched once and arithmetic cost nothing",
            self.groups.iter().map(|g| g.steps).sum::<usize>(),
            flops / 1e9,
            bytes / 1e9,
            bytes / tbps / 1e9,
            flops / tflops / 1e9,
            total * 1e3,
            self.batch as f64 / total,
            self.batch as f64 * tflops * 1e12 / flops,
            self.batch as f64 * tbps * 1e12 / bytes,
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_takes_what_its_sums_take_where_one_ceiling_is_out_of_reach() {
        let options = RooflineOptions { preset: Preset::Mini, batch: Some(2), dtype: DType::F32, tbps: 1e-3, tflops: 1e9 };
        let by_memory = roofline(&options).unwrap();
        let bytes: f64 = by_memory.groups.iter().map(|g| g.bytes).sum();
        assert!((by_memory.seconds() - bytes / 1e9).abs() < 1e-9 * bytes);
        let by_arithmetic = roofline(&RooflineOptions { tbps: 1e9, tflops: 1e-3, ..options }).unwrap();
        let flops: f64 = by_arithmetic.groups.iter().map(|g| g.flops).sum();
        assert!((by_arithmetic.seconds() - flops / 1e9).abs() < 1e-9 * flops);
        assert!(by_memory.groups.windows(2).all(|pair| pair[0].seconds >= pair[1].seconds), "the longest first");
    }

    #[test]
    fn linear_layers_are_counted_as_their_products() {
        // ViT-B/16: 12 blocks of 12 C² weights, patches and projector, forwards for the teacher; forwards and twice backwards for the student.
        let options = RooflineOptions { preset: Preset::VitB, batch: Some(4), dtype: DType::Bf16, tbps: 4.3, tflops: 780.0 };
        let groups = roofline(&options).unwrap().groups;
        let linear: f64 = groups.iter().filter(|g| g.op == "linear").map(|g| g.flops).sum();
        let (c, rows, patches) = (768.0, 4.0 * 197.0, 4.0 * 196.0);
        let blocks = 2.0 * rows * 12.0 * 12.0 * c * c;
        let expected = blocks * 4.0 + 2.0 * patches * c * c * (1.0 + 2.0) + 2.0 * rows * c * c * 3.0;
        assert!((linear / expected - 1.0).abs() < 1e-9, "{linear:e}, by hand {expected:e}");
    }

    #[test]
    fn the_table_is_whole() {
        let options = RooflineOptions { preset: Preset::SwinT, batch: None, dtype: DType::Bf16, tbps: 4.3, tflops: 780.0 };
        let text = roofline(&options).unwrap().markdown();
        let rows: Vec<&str> = text.lines().filter(|l| l.starts_with('|')).collect();
        assert!(rows.len() > 10 && rows.iter().all(|r| r.matches('|').count() == 11), "{text}");
        assert!(roofline(&RooflineOptions { tbps: 0.0, ..options }).is_err());
    }
}
