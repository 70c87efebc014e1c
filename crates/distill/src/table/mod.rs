//! The main job: teachers, distillation and evaluation, as one table.

mod build;
mod chain;
mod config;
mod context;
mod controls;
mod given;
mod lessons;
pub mod paper;
mod plan;
mod prepare;
pub(crate) mod render;
mod result;
mod work;

pub use build::{Builder, StageKind};
pub use chain::OwnData;
pub use config::{Data, Distil, FineTune, KNN, PROBE_AVG, PROBE_CLS, TableConfig, Teacher};
pub use context::{Context, Encoder, Sources, fits_memory};
pub use controls::Controls;
pub use given::Given;
pub use lessons::{Ensemble, Gains, Member};
pub use plan::{MODELS, MadeModel, TablePlan, cell};
pub use render::thousands;
pub use result::{Cell, Certainty, Column, Comparison, GainDifference, Kind, PaperFigure, Row, TableResult};
pub use work::{Cost, Job, PREDICTIONS, PROJECTOR, TableWork, WEIGHTS};

use crate::config::Source;

/// Tables that come with the binary, beside the rows of [`paper`].
pub const EMBEDDED: [&str; 3] = ["main", "smoke", "small"];

/// A table's configuration that comes with the binary: one of [`EMBEDDED`], or `paper/` and a row of [`paper::ROWS`].
pub fn embedded(name: &str) -> Option<Source> {
    let (name, text) = match name {
        "smoke" => ("experiments/tables/smoke.toml", include_str!("../../../../experiments/tables/smoke.toml")),
        "main" => ("experiments/tables/main.toml", include_str!("../../../../experiments/tables/main.toml")),
        "small" => ("experiments/tables/small.toml", include_str!("../../../../experiments/tables/small.toml")),
        _ => return paper::source(name.strip_prefix("paper/")?),
    };
    Some(Source::Embedded { name, text })
}
