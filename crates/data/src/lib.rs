//! Image sources, augmentation and a prefetching, reproducible loader.
//!
//! ```text
//! Source (idx, folder, embedded Fashion-MNIST, Subset) -> Image8 -> Augment, one or several -> Batch of f32 -> Mix
//! ```
//!
//! Three promises hold everywhere. A sample's pixels depend on (seed, epoch, index, view) and on nothing else, so neither the number of
//! threads nor a restart changes a batch. Resizing equals Pillow 13's bit for bit, so that a pretrained model sees what it would see
//! in torchvision. Nothing that comes from outside, be it a file or a setting, makes the crate panic: it returns a [`DataError`] of
//! one line.
//!
//! ```
//! use fd_data::{Augment, AugmentConfig, DataSpec, Geometry, Interpolation, Loader, LoaderConfig, Normalisation, Photometric, Split, open};
//!
//! # fn main() -> fd_data::Result<()> {
//! let source = open(&DataSpec::FashionMnist { split: Split::Train })?;
//! let augment = Augment::new(AugmentConfig {
//!     geometry: Geometry::RandomResizedCrop {
//!         size: [28, 28],
//!         scale: [0.3, 1.0],
//!         ratio: fd_data::DEFAULT_RATIO,
//!         interpolation: Interpolation::Bilinear,
//!     },
//!     flip: 0.5,
//!     rand_augment: None,
//!     photometric: Photometric::default(),
//!     erase: 0.0,
//!     normalise: Normalisation::fashion_mnist(),
//! })?;
//! let config = LoaderConfig { batch: 64, shuffle: true, drop_last: true, seed: 0, prefetch: 2, workers: 1 };
//! let loader = Loader::new(source, augment, config)?;
//! for batch in loader.epoch(0, 0).take(3) {
//!     let batch = batch?;
//!     assert_eq!(batch.shape, [1, 64, 1, 28, 28]);
//!     assert_eq!((batch.images.len(), batch.labels.len()), (64 * 28 * 28, 64));
//! }
//! # Ok(())
//! # }
//! ```

mod affine;
mod augment;
mod batch;
mod blur;
mod colour;
mod epoch;
mod error;
mod fashion;
mod fingerprint;
mod folder;
mod idx;
mod levels;
mod loader;
mod mix;
mod photometric;
mod rand_augment;
mod random;
mod resize;
pub mod schema;
mod source;
mod spec;
mod subset;

pub use augment::{Augment, AugmentConfig, DEFAULT_RATIO, Geometry, Normalisation, Scratch};
pub use batch::Batch;
pub use epoch::Epoch;
pub use error::{DataError, Result};
pub use fashion::{FASHION_MNIST_CLASSES, FashionMnist};
pub use folder::{Folder, decode};
pub use idx::Idx;
pub use loader::{Crop, Loader, LoaderConfig};
pub use mix::{Mix, MixConfig, MixKey, Mixed};
pub use photometric::{Blur, Jitter, Photometric, Solarise};
pub use rand_augment::RandAugment;
pub use random::SampleKey;
pub use resize::{Interpolation, Region, Resample, Resizer, resample, resize};
pub use source::{Image8, Source};
pub use spec::{DataSpec, Split, open};
pub use subset::Subset;
