//! The main job: teachers, distillation and evaluation, as one table.

mod config;
mod render;
mod result;
mod run;
mod stages;

pub use config::{Data, Distil, TableConfig};
pub use result::{Row, TableResult};
pub use run::{Run, run, total_steps};
pub use stages::{Encoder, Reporter, Stages};
