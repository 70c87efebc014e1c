//! Vision transformers described on `fd-compute`'s planner, and their checkpoints.
//!
//! Open [`reference`] first: it is the same transformer in its most readable form.

mod config;
mod error;
pub mod goldens;
pub mod reference;

pub use config::{Activation, Head, Position, QkvBias, VitConfig};
pub use error::ModelError;
