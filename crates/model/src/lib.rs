//! Vision transformers described on `fd-compute`'s planner, and their checkpoints.
//!
//! Open [`mod@reference`] first: it is the same transformer in its most readable form.

mod checkpoint;
mod config;
mod error;
pub mod goldens;
mod init;
mod positions;
pub mod reference;
mod vit;

pub use checkpoint::{Checkpoint, Tensor};
pub use config::{Activation, Head, Position, QkvBias, VitConfig};
pub use error::ModelError;
pub use init::{Init, initialise};
pub use positions::{bicubic, bicubic_scaled, bilinear, geometric_positions, relative_index, remap_relative_table, sin_cos};
pub use vit::{Features, Taps, Vit};
