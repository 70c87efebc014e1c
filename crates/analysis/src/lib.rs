//! Analyses of trained transformers, and the figures that show them.
//!
//! An analysis computes numbers and returns plain structs (`serde`); a figure ([`figures`]) and a page ([`report`]) show plain structs and
//! do not know where they come from.

pub mod attention;
mod error;
pub mod figures;
pub mod images;
pub mod landscape;
pub mod models;
pub mod plots;
pub mod report;
pub mod similarity;

pub use error::Error;
