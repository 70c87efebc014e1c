//! A table, stage by stage.

use std::collections::HashMap;
use std::sync::Arc;

use fd_compute::Device;
use fd_data::DataSpec;
use serde::Serialize;

use super::fleet::Fleet;
use super::imagined::{Imagined, published};
use crate::Error;
use crate::graph::Graph;
use crate::table::{Builder, Context, OwnData, StageKind, TableConfig};

/// Stages that cost the same: of several seeds, or from several weights.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TableStage {
    /// What they do.
    pub stage: String,
    /// To what: teachers, rows of the table.
    pub of: Vec<String>,
    /// How many there are.
    pub stages: usize,
    /// Optimiser steps of each.
    pub steps: usize,
    /// Floating-point operations of a step, all its micro-batches; a multiply-add is two.
    pub flops_per_step: f64,
    /// Floating-point operations of one stage.
    pub flops: f64,
    /// Bytes of memory while it runs, in f32.
    pub bytes: u64,
    /// Days of one stage, if a rate is known.
    pub days: Option<f64>,
}

/// What a table costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TablePrice {
    /// Its name.
    pub name: String,
    /// Training images.
    pub images: usize,
    /// Their classes.
    pub classes: usize,
    /// The element type that memory is priced in.
    pub dtype: &'static str,
    /// On what it runs.
    pub fleet: Fleet,
    /// Every kind of stage that trains; pretraining also of teachers that the binary has.
    pub stages: Vec<TableStage>,
    /// Floating-point operations of all stages together.
    pub flops: f64,
    /// Days of all stages one after the other, if a rate is known.
    pub days: Option<f64>,
}

impl TablePrice {
    /// Prices every stage of a table, of its own images or of so many imagined ones. What does not train (probes, neighbours, the
    /// evaluations) is not counted.
    ///
    /// # Errors
    /// As [`Context::new`] and [`Builder::table`], but for memory.
    pub fn of(config: TableConfig, imagined: Option<(usize, usize)>, fleet: Fleet) -> Result<TablePrice, Error> {
        let context = match imagined {
            Some(train) => imagine(config, |key, spec| Ok(if key == "data.train" { train } else { published(spec).unwrap_or(train) }))?,
            None => Context::new(config, Device::CPU)?,
        };
        TablePrice::within(&Arc::new(context), fleet)
    }

    /// Prices every stage of a table whose data need not be there: a folder that is not is taken to be of its published size
    /// ([`published`]), one that is there is counted.
    ///
    /// # Errors
    /// As [`TablePrice::of`]; a folder that is neither there nor known.
    pub fn of_published(config: TableConfig, fleet: Fleet) -> Result<TablePrice, Error> {
        let context = imagine(config, |key, spec| match spec {
            DataSpec::Folder { path, .. } if !path.is_dir() => {
                let unknown = || Error::Usage(format!("{key}: {} is not there, and its size is not known", path.display()));
                published(spec).ok_or_else(unknown)
            }
            spec => {
                let source = fd_data::open(spec).map_err(|e| Error::Usage(format!("{key}: {e}")))?;
                Ok((source.len(), source.num_classes()))
            }
        })?;
        TablePrice::within(&Arc::new(context), fleet)
    }

    fn within(context: &Arc<Context>, fleet: Fleet) -> Result<TablePrice, Error> {
        let mut graph = Graph::default();
        let mut builder = Builder::priced(&mut graph);
        builder.table(context)?;
        let mut trained: Vec<&StageKind> = builder.kinds().iter().filter(|kind| kind.cost.steps > 0).collect();
        // What does the same stands together, in the order of the first of them.
        let order: Vec<String> = trained.iter().map(|kind| kind.what.clone()).collect();
        trained.sort_by_key(|kind| order.iter().position(|what| *what == kind.what));
        let stages: Vec<TableStage> = trained
            .into_iter()
            .map(|kind| TableStage {
                stage: kind.what.clone(),
                of: kind.of.clone(),
                stages: kind.stages,
                steps: kind.cost.steps,
                flops_per_step: kind.cost.flops / kind.cost.steps as f64,
                flops: kind.cost.flops,
                bytes: kind.cost.bytes,
                days: fleet.days(1.0, kind.cost.flops),
            })
            .collect();
        let flops = stages.iter().map(|s| s.flops * s.stages as f64).sum();
        Ok(TablePrice {
            name: context.config.name.clone(),
            images: context.train.len(),
            classes: context.classes,
            dtype: "f32",
            fleet,
            stages,
            flops,
            days: fleet.days(1.0, flops),
        })
    }
}

/// A table's context with images of which only the numbers are known; `size` says how many images and classes a data set has.
fn imagine(config: TableConfig, size: impl Fn(&str, &DataSpec) -> Result<(usize, usize), Error>) -> Result<Context, Error> {
    let (images, classes) = size("data.train", &config.data.train)?;
    config.check(images, classes)?;
    let source = |images, classes| Arc::new(Imagined::new(images, classes, config.student.in_chans()));
    let mut own = HashMap::new();
    for column in &config.fine_tune {
        let Some(spec) = &column.data else { continue };
        let (n, of) = size(&format!("fine_tune.{}.data", column.name), spec)?;
        let data = OwnData { train: source(n, of), fingerprint: format!("imagined {}", column.name), same_classes: of == classes };
        data.check(&config, column)?;
        own.insert(column.name.clone(), data);
    }
    let (train, fingerprints) = (source(images, classes), ["imagined".into(), "imagined".into()]);
    Ok(Context { config, device: Device::CPU, train: train.clone(), test: train, classes, fingerprints, own })
}
