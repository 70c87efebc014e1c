//! Training curves of a run as a figure, from the `metrics.csv` of its stages.

mod draw;

use std::path::Path;

use crate::Error;
use crate::figure;
use crate::stage_log::Metrics;
use crate::status::{PlannedStage, RunPlan};

/// Points of a line beyond which several lines of the CSV become one point.
const MOST_POINTS: usize = 80;

/// A figure's panel: one quantity, or two alike, of one kind of stage over epochs.
#[derive(Debug, PartialEq)]
struct Panel {
    title: String,
    quantity: &'static str,
    series: Vec<Series>,
    /// Lines of the CSV that one point is the mean of, at most.
    averaged: usize,
}

/// Lines of one colour: a stage with each of its seeds.
#[derive(Debug, PartialEq)]
struct Series {
    label: String,
    /// Epoch and value.
    lines: Vec<Vec<(f64, f64)>>,
}

/// Draws `curves.svg` and `curves.png` into a run's directory: a panel for each kind of stage (the first word of their titles) with the loss
/// over epochs, on a logarithmic axis where it spans more than a factor of ten, and one with entropy and KL divergence where those were
/// logged. Seeds of a stage share a colour. Stages without metrics are left out.
///
/// # Errors
/// [`Error::File`] when metrics cannot be read or the figures not be written.
pub fn curves(run: &Path, plan: &RunPlan) -> Result<(), Error> {
    let panels = panels(run, plan)?;
    ["curves.svg", "curves.png"].iter().try_for_each(|name| figure::save(&run.join(name), || draw::Figure::new(&plan.name, &panels)))
}

fn panels(run: &Path, plan: &RunPlan) -> Result<Vec<Panel>, Error> {
    let mut panels = vec![];
    for stage in plan.stages.iter().filter(|s| s.steps > 0) {
        let rows = Metrics::read(&plan.stage_dir(run, stage))?;
        let label = label(stage);
        add(&mut panels, stage.kind(), "loss", &label, &rows, |m| m.loss);
        let mut sign = |name: &str, value: fn(&Metrics) -> Option<f64>| {
            add(&mut panels, stage.kind(), "entropy and KL divergence (nats)", &format!("{label}, {name}"), &rows, value);
        };
        sign("entropy", |m| m.entropy);
        sign("entropy of single targets", |m| m.target_entropy);
        sign("KL", |m| m.kl);
    }
    Ok(panels)
}

/// Adds a line to its panel and series, which are made if need be; nothing without values.
fn add(
    panels: &mut Vec<Panel>,
    kind: &str,
    quantity: &'static str,
    label: &str,
    rows: &[Metrics],
    value: impl Fn(&Metrics) -> Option<f64>,
) {
    let points: Vec<(f64, f64)> = rows.iter().filter_map(|m| Some((m.epoch, value(m)?))).collect();
    if points.is_empty() {
        return;
    }
    let panel = find_or_push(
        panels,
        |p| p.title == kind && p.quantity == quantity,
        || Panel { title: kind.to_string(), quantity, series: vec![], averaged: 1 },
    );
    let every = points.len().div_ceil(MOST_POINTS);
    panel.averaged = panel.averaged.max(every);
    let series = find_or_push(&mut panel.series, |s| s.label == label, || Series { label: label.to_string(), lines: vec![] });
    series.lines.push(points.chunks(every).map(mean).collect());
}

fn find_or_push<T>(all: &mut Vec<T>, wanted: impl Fn(&T) -> bool, new: impl FnOnce() -> T) -> &mut T {
    let at = all.iter().position(wanted).unwrap_or_else(|| {
        all.push(new());
        all.len() - 1
    });
    &mut all[at]
}

/// The mean of points that follow each other.
fn mean(points: &[(f64, f64)]) -> (f64, f64) {
    let n = points.len() as f64;
    (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n)
}

/// A stage's title without its kind and seed; the kind where nothing else is left.
fn label(stage: &PlannedStage) -> String {
    let parts = stage.title.split(", ").filter(|part| part.strip_prefix("seed ").is_none_or(|n| n.parse::<u64>().is_err()));
    let title = parts.collect::<Vec<_>>().join(", ");
    let rest = title.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim());
    if rest.is_empty() { stage.kind().to_string() } else { rest.to_string() }
}

#[cfg(test)]
mod tests;
