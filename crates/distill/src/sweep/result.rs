//! What a sweep says: accuracies of every point, differences to the reference, and how the paper's order fares.

use serde::{Deserialize, Serialize};

use super::config::{Label, Order, SweepConfig, TEACHER_AXIS};
use super::expand::{Point, named, pairs, reference};
use crate::statistics::{Interval, paired_bootstrap};
use crate::table::{Cell, Column};

/// Every interval's resamples are drawn from it.
const BOOTSTRAP_SEED: u64 = 0;

/// A finished sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweepResult {
    /// Its name, such as `target`.
    pub name: String,
    /// What it asks.
    pub question: String,
    /// What the paper says, in words.
    pub claim: Option<String>,
    /// The data in words.
    pub data: String,
    /// Test images.
    pub test_images: usize,
    /// The seeds, in the order of the accuracies.
    pub seeds: Vec<u64>,
    /// The teachers; several are the first axis.
    pub teachers: Vec<String>,
    /// Names of the axes.
    pub axes: Vec<String>,
    /// The measures.
    pub columns: Vec<Column>,
    /// The points, in grid order.
    pub points: Vec<PointResult>,
    /// What the paper orders.
    pub comparisons: Vec<Comparison>,
}

/// A point of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PointResult {
    /// Its label on every axis.
    pub labels: Vec<String>,
    /// Is it the reference (of its teacher)?
    pub reference: bool,
    /// Its accuracies, one cell a column; none: not measured.
    pub cells: Vec<Option<Cell>>,
    /// This point minus the reference of the same teacher, one a column, in points of percent; none for the reference itself.
    pub differences: Vec<Option<Interval>>,
}

/// One label of an axis against another, where the paper says which is better.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The axis.
    pub axis: String,
    /// The label that should win.
    pub better: String,
    /// The label that should lose.
    pub worse: String,
    /// The labels of other axes that it is restricted to, in words.
    pub when: Option<String>,
    /// Better minus worse, one a column, in points of percent. Pairs of points that differ in nothing else are pooled: every pair and
    /// seed counts as a seed.
    pub differences: Vec<Option<Interval>>,
    /// Pairs of points that it pools.
    pub pairs: usize,
}

/// What an interval says of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It lies above zero.
    Holds,
    /// It contains zero.
    NotShown,
    /// It lies below zero.
    Reversed,
}

impl Verdict {
    /// Of the interval of (better - worse).
    pub fn of(difference: &Interval) -> Verdict {
        match difference {
            d if d.low > 0.0 => Verdict::Holds,
            d if d.high < 0.0 => Verdict::Reversed,
            _ => Verdict::NotShown,
        }
    }
}

impl SweepResult {
    /// Gathers what was measured and compares it. `points` are those of [`expand`](super::expand()); `cell(t, p, c)` is what the t-th
    /// teacher of the configuration reached at the p-th point in the c-th of `columns`, none where that was not measured.
    pub fn new(
        config: &SweepConfig,
        points: &[Point],
        columns: Vec<Column>,
        (data, test_images): (String, usize),
        cell: impl Fn(usize, usize, usize) -> Option<Cell>,
    ) -> SweepResult {
        let of_point = |t: usize, p: usize| (0..columns.len()).map(|c| cell(t, p, c)).collect();
        let cells = (0..config.teachers.len()).map(|t| (0..points.len()).map(|p| of_point(t, p)).collect()).collect();
        let measured = Measured { config, points, columns: columns.len(), cells };
        let teacher_axis = measured.several_teachers().then(|| TEACHER_AXIS.to_string());
        SweepResult {
            name: config.name.clone(),
            question: config.question.clone(),
            claim: config.claim.clone(),
            data,
            test_images,
            seeds: config.seeds.clone(),
            teachers: config.teachers.clone(),
            axes: teacher_axis.into_iter().chain(config.axes.iter().map(|a| a.name.clone())).collect(),
            points: measured.points(),
            comparisons: config.order.iter().flat_map(|order| measured.comparisons(order)).collect(),
            columns,
        }
    }
}

/// All cells, by teacher, point and column.
struct Measured<'a> {
    config: &'a SweepConfig,
    points: &'a [Point],
    columns: usize,
    cells: Vec<Vec<Vec<Option<Cell>>>>,
}

impl Measured<'_> {
    fn several_teachers(&self) -> bool {
        self.config.teachers.len() > 1
    }

    /// The points of every teacher, each against the reference of the same teacher.
    fn points(&self) -> Vec<PointResult> {
        let reference = reference(self.config, self.points);
        let point = |t: usize, p: usize| {
            let teacher = self.several_teachers().then(|| self.config.teachers[t].clone());
            let pair = reference.filter(|r| *r != p).map(|r| (r, p));
            PointResult {
                labels: teacher.into_iter().chain(self.points[p].labels.iter().cloned()).collect(),
                reference: reference == Some(p),
                cells: self.cells[t][p].clone(),
                differences: self.differences(pair.as_slice(), &[t]),
            }
        };
        (0..self.cells.len()).flat_map(|t| (0..self.points.len()).map(move |p| (t, p))).map(|(t, p)| point(t, p)).collect()
    }

    fn comparisons(&self, order: &Order) -> Vec<Comparison> {
        let teachers: Vec<usize> = (0..self.cells.len()).collect();
        let labels: Vec<String> = order.when.values().map(|label| label.0.clone()).collect();
        let comparison = |worse: &Label| {
            let pairs = pairs(self.config, order, &worse.0, self.points);
            Comparison {
                axis: order.axis.clone(),
                better: order.better.0.clone(),
                worse: worse.0.clone(),
                when: (!labels.is_empty()).then(|| named(order.when.keys(), &labels)),
                differences: self.differences(&pairs, &teachers),
                pairs: pairs.len() * teachers.len(),
            }
        };
        order.worse.iter().map(comparison).collect()
    }

    /// Second minus first of pairs of points, one a column, pooled over these teachers.
    fn differences(&self, pairs: &[(usize, usize)], teachers: &[usize]) -> Vec<Option<Interval>> {
        let both = |t: usize, c: usize, from: usize, to: usize| Some((self.cells[t][from][c].as_ref()?, self.cells[t][to][c].as_ref()?));
        let column = |c| difference(teachers.iter().flat_map(|&t| pairs.iter().filter_map(move |&(from, to)| both(t, c, from, to))));
        (0..self.columns).map(column).collect()
    }
}

/// Second minus first of all pairs, over their seeds and the test images.
fn difference<'a>(pairs: impl Iterator<Item = (&'a Cell, &'a Cell)>) -> Option<Interval> {
    let seeds = pairs.flat_map(|(from, to)| from.hits.iter().zip(&to.hits)).map(|(from, to)| (&**from, &**to));
    let (before, after): (Vec<&[bool]>, Vec<&[bool]>) = seeds.unzip();
    paired_bootstrap(&before, &after, BOOTSTRAP_SEED)
}
