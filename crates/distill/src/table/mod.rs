//! The main job: teachers, distillation and evaluation, as one table.

mod build;
mod config;
mod context;
mod given;
mod lessons;
mod plan;
mod prepare;
pub(crate) mod render;
mod result;
mod work;

pub use build::{Builder, StageKind};
pub use config::{Data, Distil, FineTune, KNN, PROBE_AVG, PROBE_CLS, Paper, TableConfig, Teacher};
pub use context::{Context, Encoder, Sources};
pub use given::Given;
pub use lessons::{Ensemble, Gains, Member};
pub use plan::{MODELS, MadeModel, TablePlan, cell};
pub use render::thousands;
pub use result::{Cell, Certainty, Column, Comparison, GainDifference, Kind, PaperFigure, Row, TableResult};
pub use work::{Cost, Job, PREDICTIONS, PROJECTOR, TableWork, WEIGHTS};

use crate::config::Source;

/// A table's configuration that comes with the binary.
pub fn embedded(name: &str) -> Option<Source> {
    let (name, text) = match name {
        "smoke" => ("experiments/tables/smoke.toml", include_str!("../../../../experiments/tables/smoke.toml")),
        "main" => ("experiments/tables/main.toml", include_str!("../../../../experiments/tables/main.toml")),
        "small" => ("experiments/tables/small.toml", include_str!("../../../../experiments/tables/small.toml")),
        _ => return None,
    };
    Some(Source::Embedded { name, text })
}
