//! Feature distillation: objectives, training, evaluation, tables.

pub mod bench;
pub mod distillation;
mod error;
mod objective;
pub mod table;

pub use error::Error;
pub use objective::{FeatureDistance, Normalisation, Objective, Target, WHITEN_EPS};
