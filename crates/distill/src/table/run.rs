//! Running a table: for every seed, teacher → distillation → evaluation before and after, and the controls.

use std::time::Instant;

use fd_model::Checkpoint;

use super::result::{Row, TableResult};
use super::stages::{Encoder, Reporter, Stages};
use crate::Error;

/// Names of the rows: a pair that differs by `+ FD` is compared.
const ROWS: [(&str, bool); 4] = [
    ("supervised teacher", false),
    ("supervised teacher + FD", false),
    ("random weights, student architecture", true),
    ("raw pixels", true),
];

/// What a run of a table is given and tells.
pub struct Run<'a> {
    /// A teacher's weights in place of those that the table would train.
    pub teacher: Option<&'a Checkpoint>,
    /// Hears of every optimiser step.
    pub report: &'a mut Reporter<'a>,
    /// Gets every encoder: `teacher` or `student`, seed, weights.
    pub save: &'a mut dyn FnMut(&str, u64, &Checkpoint) -> Result<(), Error>,
}

/// Runs a table. Weights that are given should have passed [`Stages::check_teacher`].
pub fn run(stages: &Stages, run: Run) -> Result<TableResult, Error> {
    let start = Instant::now();
    let (Run { teacher: given, report, save }, config) = (run, stages.config());
    let (data, test_images) = stages.data();
    let named = |name: &str| if given.is_some() { name.replace("supervised", "given") } else { name.to_string() };
    let row = |(name, control): (&str, bool)| Row { name: named(name), control, fine_tune: vec![], probe: vec![] };
    let mut rows = ROWS.map(row);
    for &seed in &config.seeds {
        let [teacher, student, random, raw] = &mut rows;
        let before = match given {
            Some(weights) => Encoder { config: config.teacher.clone(), weights: weights.clone() },
            None => stages.pretrain(seed, report)?,
        };
        save("teacher", seed, &before.weights)?;
        let after = stages.distil(&before, seed, report)?;
        save("student", seed, &after.weights)?;
        let untrained = stages.random(&config.student, seed)?;
        for (row, encoder, stage) in [
            (teacher, &before, "fine-tune teacher"),
            (student, &after, "fine-tune student"),
            (random, &untrained, "fine-tune random start"),
        ] {
            row.probe.push(stages.probe(encoder, seed)?.accuracy());
            row.fine_tune.push(stages.fine_tune(stage, encoder, seed, report)?.accuracy());
        }
        raw.probe.push(stages.probe_pixels(seed)?.accuracy());
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(TableResult { name: config.name.clone(), data, test_images, seeds: config.seeds.clone(), rows: rows.into(), seconds })
}

/// Optimiser steps of the whole table, with or without the teacher's training.
pub fn total_steps(stages: &Stages, given_teacher: bool) -> usize {
    let [pretrain, distil, fine_tune] = stages.steps();
    let pretrain = if given_teacher { 0 } else { pretrain };
    stages.config().seeds.len() * (pretrain + distil + 3 * fine_tune)
}
