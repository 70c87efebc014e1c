//! Vision transformers described on `fd-compute`'s planner, and their checkpoints.
//!
//! Open [`mod@reference`] first: it is the same transformer in its most readable form.

mod block;
mod checkpoint;
mod config;
mod error;
mod features;
pub mod goldens;
mod init;
mod mae;
mod model;
pub mod names;
mod positions;
mod presets;
pub mod reference;
mod resize;
mod schema;
mod swin;
mod text;
mod vit;

pub use block::WideBlock;
pub use checkpoint::{Checkpoint, Tensor};
pub use config::{Activation, Head, Position, QkvBias, VitConfig};
pub use error::ModelError;
pub use features::{Features, Taps};
pub use init::{Init, initialise};
pub use mae::{Mae, MaeConfig, MaePass, Mask, random_mask};
pub use model::{Model, ModelConfig};
pub use positions::{bicubic, bicubic_scaled, bilinear, geometric_positions, relative_index, remap_relative_table, sin_cos};
pub use presets::{PRESETS, preset};
pub use resize::Resized;
pub use swin::{BiasOutput, Coordinates, Swin, SwinAttention, SwinConfig, SwinPosition, SwinVersion, relative_coordinates};
pub use text::{TextConfig, TextEncoder};
pub use vit::Vit;
