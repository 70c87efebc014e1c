//! Feature distillation: objectives, training, evaluation, tables.

pub mod bench;
mod checksum;
pub mod config;
pub mod curves;
pub mod dino;
pub mod distillation;
mod error;
pub mod evaluate;
mod figure;
pub mod graph;
pub mod groups;
pub mod in_dfdx;
pub mod interrupt;
pub mod keys;
pub mod lock;
mod objective;
pub mod parity;
pub mod pretrain;
pub mod price;
pub mod probe;
pub mod progress;
pub mod recipe;
pub mod run_dir;
pub mod schedule;
pub mod snapshot;
pub mod stage_log;
pub mod statistics;
pub mod status;
pub mod sweep;
pub mod table;
pub mod teachers;
pub mod tensorboard;
pub mod train;

pub use checksum::sha256_hex;
pub use error::Error;
pub use objective::{FeatureDistance, Normalisation, Objective, Target, WHITEN_EPS};
