//! Vision transformers described on `fd-compute`'s planner, and their checkpoints.
//!
//! Open [`mod@reference`] first: it is the same transformer in its most readable form.

mod block;
mod checkpoint;
mod config;
mod describe;
mod error;
mod export;
mod features;
pub mod goldens;
mod import;
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
pub use describe::{Statistics, differences, summary};
pub use error::ModelError;
pub use export::{Export, export};
pub use features::{Features, Taps};
pub use import::{Allow, Fit, Found, Health, Import, Row};
pub use init::{Init, initialise};
pub use mae::{Mae, MaeConfig, MaePass, Mask, random_mask};
pub use model::{Model, ModelConfig};
pub use positions::{bicubic, bicubic_scaled, bilinear, geometric_positions, relative_index, remap_relative_table, sin_cos};
pub use presets::{PRESETS, preset};
pub use resize::Resized;
pub use swin::{BiasOutput, Coordinates, Swin, SwinAttention, SwinConfig, SwinPosition, SwinVersion, relative_coordinates};
pub use text::{TextConfig, TextEncoder};
pub use vit::Vit;
