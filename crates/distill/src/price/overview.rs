//! Every architecture in one line.

use fd_model::{PRESETS, preset};
use serde::Serialize;

use super::fleet::Fleet;
use super::pair::{Pair, Schedule, Side};
use super::step::{Split, StepPrice, forward_flops};
use crate::Error;

/// An architecture.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OverviewRow {
    /// The architecture as it was published.
    pub architecture: Side,
    /// Floating-point operations of its forward pass, for an image.
    pub forward_flops_per_image: f64,
    /// The student of [`Pair::new`].
    pub student: String,
    /// Its teacher.
    pub teacher: String,
    /// Floating-point operations of distilling that pair, for an image, activations kept.
    pub distillation_flops_per_image: f64,
    /// And of a step.
    pub distillation_flops_per_step: f64,
    /// Bytes of memory that distilling takes with one image a step, activations kept, in f32.
    pub bytes_at_batch_1: u64,
    /// Days of the whole distillation, if a rate is known.
    pub days: Option<f64>,
}

/// All architectures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overview {
    /// Images a step.
    pub batch: usize,
    /// How long.
    pub schedule: Schedule,
    /// On what.
    pub fleet: Fleet,
    /// In the order of [`PRESETS`].
    pub architectures: Vec<OverviewRow>,
}

/// Prices every architecture, each distilled as [`Pair::new`] says, with steps of `batch` images.
///
/// # Errors
/// None that a reader can bring about.
pub fn overview(batch: usize, schedule: Schedule, fleet: Fleet) -> Result<Overview, Error> {
    let row = |name: &&str| -> Result<OverviewRow, Error> {
        let model = preset(name)?;
        let pair = Pair::new(name, None, None)?;
        let fd = pair.distillation()?;
        let priced = |micro_batch| StepPrice::of(&fd, Split { recompute: false, accumulate: 1, micro_batch });
        let (step, one) = (priced(batch)?, priced(1)?);
        let forward = forward_flops(&model, batch)?;
        Ok(OverviewRow {
            architecture: Side::new("architecture", name, model)?,
            forward_flops_per_image: forward as f64 / batch as f64,
            student: pair.student.name,
            teacher: pair.teacher.name,
            distillation_flops_per_image: step.flops_per_image.total,
            distillation_flops_per_step: step.flops_per_step,
            bytes_at_batch_1: one.bytes.total,
            days: fleet.days(schedule.images as f64 * schedule.epochs as f64, step.flops_per_image.total),
        })
    };
    Ok(Overview { batch, schedule, fleet, architectures: PRESETS.iter().map(row).collect::<Result<_, _>>()? })
}
