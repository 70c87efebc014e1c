//! Running a table: for every seed, teacher → distillation → evaluation before and after, and the controls.

use std::time::Instant;

use fd_compute::Device;

use super::config::TableConfig;
use super::result::{Row, TableResult};
use super::stages::{Reporter, Stages};
use crate::Error;

/// Names of the rows: a pair that differs by `+ FD` is compared.
const ROWS: [(&str, bool); 4] = [
    ("supervised teacher", false),
    ("supervised teacher + FD", false),
    ("random weights, student architecture", true),
    ("raw pixels", true),
];

/// Runs a table. `report` hears of every optimiser step.
pub fn run(config: &TableConfig, device: Device, report: &mut Reporter) -> Result<TableResult, Error> {
    let start = Instant::now();
    let stages = Stages::new(config, device)?;
    let (data, test_images) = stages.data();
    let row = |(name, control): (&str, bool)| Row { name: name.into(), control, fine_tune: vec![], probe: vec![] };
    let mut rows = ROWS.map(row);
    for &seed in &config.seeds {
        let [teacher, student, random, raw] = &mut rows;
        let before = stages.pretrain(seed, report)?;
        let after = stages.distil(&before, seed, report)?;
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

/// Optimiser steps of the whole table.
pub fn total_steps(config: &TableConfig, device: Device) -> Result<usize, Error> {
    let [pretrain, distil, fine_tune] = Stages::new(config, device)?.steps();
    Ok(config.seeds.len() * (pretrain + distil + 3 * fine_tune))
}
