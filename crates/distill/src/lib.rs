//! Feature distillation: objectives, training, evaluation, tables.

pub mod bench;
pub mod config;
pub mod distillation;
mod error;
pub mod evaluate;
pub mod groups;
pub mod in_dfdx;
mod objective;
pub mod parity;
pub mod probe;
pub mod progress;
pub mod recipe;
pub mod run_dir;
pub mod schedule;
pub mod table;
pub mod train;

pub use error::Error;
pub use objective::{FeatureDistance, Normalisation, Objective, Target, WHITEN_EPS};
