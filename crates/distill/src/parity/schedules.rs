//! Learning rates of whole runs.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Stop;
use super::checks::{Checks, EXACT};
use super::kind::{self, case_options, cosine};

case_options! {
    /// A list of schedules.
    Options {
        #[serde(rename = "formula")]
        _formula: Option<IgnoredAny>,
        #[serde(rename = "timm_scheduler")]
        _timm: Option<IgnoredAny>,
        schedules: Vec<Schedule>,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Schedule {
    name: String,
    base_lr: f64,
    warmup_lr: f64,
    min_lr: f64,
    epochs: f64,
    warmup_epochs: f64,
    n_iter_per_epoch: usize,
    batch: usize,
    world: usize,
    accumulation_steps: usize,
    group_scales: Vec<f64>,
    lr_used_at_step: Vec<Vec<f64>>,
}

pub(super) fn run(checks: &mut Checks) -> Result<(), Stop> {
    let options: Options = kind::options(&checks.golden().json)?;
    for s in &options.schedules {
        let samples = s.batch * s.world * s.accumulation_steps.max(1);
        let schedule =
            cosine((s.base_lr, s.warmup_lr, s.min_lr), s.epochs, s.warmup_epochs, s.n_iter_per_epoch).scaled(samples as f64 / 512.0);
        for (step, expected) in s.lr_used_at_step.iter().enumerate() {
            let found: Vec<f64> = s.group_scales.iter().map(|&scale| schedule.at(step, scale)).collect();
            checks.compare_numbers(&format!("schedules.{}", s.name), &found, expected, |_| EXACT);
        }
    }
    Ok(())
}
