//! What a table asks of its stages, and the table they give once they are done.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::context::Context;
use super::result::{Cell, Column, Kind, Row, TableResult};
use super::work::PREDICTIONS;
use crate::Error;
use crate::graph::{Graph, NodeId, Store};
use crate::teachers::{Shipped, slug};

/// What a table asks of a graph: for every row, column and seed, the stage that predicts the test images.
pub struct TablePlan {
    context: Arc<Context>,
    pub(super) rows: Vec<PlannedRow>,
    /// Teachers and the stages that hand out their weights.
    pub teachers: Vec<(String, NodeId)>,
    /// Teachers that the binary has, with the stage that stands for them.
    pub shipped: Vec<(String, Shipped, NodeId)>,
    /// Encoders worth a copy under a plain name, and the stages that hand them out.
    pub(super) encoders: Vec<(MadeModel, NodeId)>,
}

/// A model that a table has made: a line of its run's `models.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MadeModel {
    /// Its weights, below the run directory.
    pub file: String,
    /// The row of the table that it belongs to.
    pub row: String,
    /// What that row is.
    pub kind: Kind,
    /// The teacher that it is or descends from.
    pub teacher: Option<String>,
    /// Its seed; none for a teacher, which all seeds share.
    pub seed: Option<u64>,
    /// The column that it was fine-tuned for; none for an encoder.
    pub column: Option<String>,
}

/// The file in a run directory that lists the models.
pub const MODELS: &str = "models.json";

impl MadeModel {
    /// An encoder, of a row and perhaps a seed.
    pub(super) fn encoder(name: &str, (row, kind): (&str, Kind), teacher: Option<&str>, seed: Option<u64>) -> Self {
        let seeded = seed.map_or(String::new(), |seed| format!("-seed{seed}"));
        let file = format!("weights/{name}{seeded}.safetensors");
        MadeModel { file, row: row.into(), kind, teacher: teacher.map(String::from), seed, column: None }
    }
}

pub(super) struct PlannedRow {
    pub name: String,
    pub kind: Kind,
    pub teacher: Option<String>,
    /// By column, then by seed.
    pub cells: Vec<Option<Vec<NodeId>>>,
}

impl TablePlan {
    pub(super) fn new(context: &Arc<Context>) -> Self {
        TablePlan { context: context.clone(), rows: vec![], teachers: vec![], shipped: vec![], encoders: vec![] }
    }

    /// The stages that the table is read from.
    pub fn targets(&self) -> Vec<NodeId> {
        let cells = self.rows.iter().flat_map(|r| r.cells.iter().flatten().flatten().copied());
        cells.chain(self.encoders.iter().map(|(_, id)| *id)).collect()
    }

    /// By row and column: the stages that predict, one a seed.
    pub fn cells(&self) -> impl Iterator<Item = impl Iterator<Item = &[NodeId]>> {
        self.rows.iter().map(|row| row.cells.iter().map(|stages| stages.as_deref().unwrap_or_default()))
    }

    /// The models that it makes, and the stages that hand them out.
    pub fn models(&self) -> Vec<(MadeModel, NodeId)> {
        let c = &self.context.config;
        let mut models = self.encoders.clone();
        for row in &self.rows {
            let tuned = c.columns.iter().zip(&row.cells).filter(|(column, _)| c.fine_tuning(column).is_some());
            for (column, (seed, id)) in tuned.flat_map(|(column, ids)| c.seeds.iter().zip(ids.iter().flatten()).map(move |at| (column, at)))
            {
                let encoder = MadeModel::encoder(
                    &slug(&format!("{} {column}", row.name)),
                    (&row.name, row.kind),
                    row.teacher.as_deref(),
                    Some(*seed),
                );
                models.push((MadeModel { column: Some(column.clone()), ..encoder }, *id));
            }
        }
        models
    }

    /// The table, once its stages are done.
    ///
    /// # Errors
    /// A stage's file that cannot be read.
    pub fn result(&self, graph: &Graph, store: &Store) -> Result<TableResult, Error> {
        let c = &self.context.config;
        let rows = self.rows.iter().map(|row| self.finished_row(row, graph, store)).collect::<Result<Vec<_>, Error>>()?;
        let mut result = TableResult {
            name: c.name.clone(),
            data: self.context.data(),
            test_images: self.context.test.len(),
            seeds: c.seeds.clone(),
            columns: c.columns.iter().map(|key| Column { key: key.clone(), title: c.title(key) }).collect(),
            rows,
            comparisons: vec![],
            gains: vec![],
            paper: vec![],
        };
        for teacher in &c.teachers {
            let find = |kind| self.rows.iter().position(|r| r.kind == kind && r.teacher.as_ref() == Some(&teacher.name));
            let (before, on, after) = (find(Kind::Before), find(Kind::TrainedOn), find(Kind::After));
            for (label, from, to) in [("FD", before, after), ("training on", before, on), ("FD against training on", on, after)] {
                if let (Some(from), Some(to)) = (from, to) {
                    result.compare(format!("{}: {label}", teacher.name), from, to);
                }
            }
        }
        for ensemble in &c.ensembles {
            let row = |name: &str| self.rows.iter().position(|r| r.name == format!("{name} + FD"));
            for member in &ensemble.members {
                if let (Some(from), Some(to)) = (row(&member.teacher), row(&ensemble.name)) {
                    result.compare(format!("{}: against FD from {} alone", ensemble.name, member.teacher), from, to);
                }
            }
        }
        c.gains.iter().for_each(|gain| result.compare_gains(&gain.of, &gain.against));
        let named = |row: &str| self.rows.iter().any(|r| r.name == row);
        result.paper = c.paper.iter().filter(|p| named(&p.row)).cloned().collect();
        Ok(result)
    }

    fn finished_row(&self, row: &PlannedRow, graph: &Graph, store: &Store) -> Result<Row, Error> {
        let c = &self.context.config;
        let mut cells = vec![];
        for (column, stages) in c.columns.iter().zip(&row.cells) {
            cells.push(stages.as_ref().map(|stages| cell(stages, column, graph, store)).transpose()?);
        }
        Ok(Row { name: row.name.clone(), teacher: row.teacher.clone(), kind: row.kind, cells })
    }
}

/// The accuracies and hits of one measure, one a seed.
pub fn cell(stages: &[NodeId], column: &str, graph: &Graph, store: &Store) -> Result<Cell, Error> {
    let mut cell = Cell { accuracy: vec![], hits: vec![] };
    for &id in stages {
        let node = graph.node(id);
        let text = store.read(node, PREDICTIONS)?;
        let damaged = || Error::File { path: store.dir(node).join(PREDICTIONS), why: format!("holds no predictions of `{column}`") };
        let text = String::from_utf8(text).map_err(|_| damaged())?;
        let mut lines = text.lines();
        let at = lines.next().and_then(|header| header.split(',').skip(1).position(|name| name == column)).ok_or_else(damaged)?;
        let hit = |line: &str| {
            let mut fields = line.split(',');
            let label = fields.next()?;
            Some(fields.nth(at)? == label)
        };
        let hits: Vec<bool> = lines.map(|line| hit(line).ok_or_else(damaged)).collect::<Result<_, _>>()?;
        cell.accuracy.push(100.0 * hits.iter().filter(|h| **h).count() as f64 / hits.len().max(1) as f64);
        cell.hits.push(hits.into());
    }
    Ok(cell)
}
