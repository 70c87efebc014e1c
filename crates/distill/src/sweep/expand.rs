//! From axes to points.

use super::config::{Order, Selection, SweepConfig};
use crate::Error;
use crate::config::Override;

/// Most points of a sweep's grid.
pub const MOST_POINTS: usize = 1000;

/// A point of the grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// Its label on every axis.
    pub labels: Vec<String>,
    /// Its overrides, axis by axis.
    pub sets: Vec<Override>,
}

impl Point {
    /// What it is called in messages: `target: GAP, epochs: 6`.
    pub fn title(&self, config: &SweepConfig) -> String {
        named(config.axes.iter().map(|a| &a.name), &self.labels)
    }
}

/// Every axis with its label.
pub(super) fn named<'a>(axes: impl Iterator<Item = &'a String>, labels: &[String]) -> String {
    axes.zip(labels).map(|(axis, label)| format!("{axis}: {label}")).collect::<Vec<_>>().join(", ")
}

/// The points of a sweep: the grid over its axes, the last axis fastest, without those that are skipped.
///
/// # Errors
/// [`Error::Config`] when there are more than [`MOST_POINTS`] before any is skipped, when the reference is skipped, and when an order
/// compares nothing.
pub fn expand(config: &SweepConfig) -> Result<Vec<Point>, Error> {
    let size = config.axes.iter().try_fold(1usize, |n, axis| n.checked_mul(axis.points.len()));
    if size.is_none_or(|n| n > MOST_POINTS) {
        return Err(config.refuse(format!("key `axes`: more than {MOST_POINTS} points")));
    }
    let mut points = vec![Point { labels: vec![], sets: vec![] }];
    for axis in &config.axes {
        let by = format!("{}: axis `{}`:", config.file.display(), axis.name);
        let longer = |point: &Point| {
            let longer = axis.points.iter().map(|at| {
                let mut point = point.clone();
                point.labels.push(at.label.0.clone());
                point.sets.extend(at.set.iter().map(|set| Override { by: by.clone(), set: set.clone() }));
                point
            });
            longer.collect::<Vec<_>>()
        };
        points = points.iter().flat_map(longer).collect();
    }
    points.retain(|point| !config.skip.iter().any(|skip| selected(config, &skip.when, &point.labels)));
    if reference(config, &points).is_none() {
        return Err(config.refuse("key `skip`: leaves out the reference".into()));
    }
    for order in &config.order {
        if let Some(worse) = order.worse.iter().find(|worse| pairs(config, order, &worse.0, &points).is_empty()) {
            let why = format!("key `order`: no points to compare `{}` with `{worse}` of axis `{}`", order.better, order.axis);
            return Err(config.refuse(why));
        }
    }
    Ok(points)
}

/// Does a point have all of these labels?
fn selected(config: &SweepConfig, selection: &Selection, labels: &[String]) -> bool {
    let label = |name: &String| config.axes.iter().position(|axis| axis.name == *name).and_then(|i| labels.get(i));
    selection.iter().all(|(name, wanted)| label(name) == Some(&wanted.0))
}

/// The point that every other is compared with.
pub(super) fn reference(config: &SweepConfig, points: &[Point]) -> Option<usize> {
    points.iter().position(|point| selected(config, &config.reference, &point.labels))
}

/// Points (worse, better) that an order compares: they differ on its axis alone.
pub(super) fn pairs(config: &SweepConfig, order: &Order, worse: &str, points: &[Point]) -> Vec<(usize, usize)> {
    let Some(axis) = config.axes.iter().position(|axis| axis.name == order.axis) else { return vec![] };
    let better = points.iter().enumerate().filter(|(_, p)| p.labels[axis] == order.better.0 && selected(config, &order.when, &p.labels));
    let pair = |(i, point): (usize, &Point)| {
        let mut labels = point.labels.clone();
        labels[axis] = worse.to_string();
        Some((points.iter().position(|p| p.labels == labels)?, i))
    };
    better.filter_map(pair).collect()
}
