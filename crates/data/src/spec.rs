//! Data sets as configuration names them.

use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::fashion::FashionMnist;
use crate::folder::Folder;
use crate::idx::Idx;
use crate::source::Source;

/// Which data set to open. Relative paths are relative to the working directory. In TOML, for example:
///
/// ```toml
/// data = { kind = "fashion-mnist", split = "train" }
/// data = { kind = "idx", images = "a-images.gz", labels = "a-labels.gz" }
/// data = { kind = "folder", path = "imagenet/train", channels = 3 }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DataSpec {
    /// The embedded Fashion-MNIST.
    FashionMnist {
        /// Which half.
        split: Split,
    },
    /// IDX files, raw or gzip.
    Idx {
        /// The image file.
        images: PathBuf,
        /// The label file; none means unlabelled.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(!skip_serializing_if)]
        labels: Option<PathBuf>,
        /// The number of classes; none means the largest label plus one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(!skip_serializing_if)]
        classes: Option<usize>,
    },
    /// A folder of png and jpeg images: flat (unlabelled), or one sub-folder a class.
    Folder {
        /// The folder.
        path: PathBuf,
        /// Values a pixel to convert to: 1 (grey) or 3 (RGB).
        #[schemars(extend("enum" = [1, 3]))]
        channels: usize,
    },
}

/// The two halves of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// For training.
    Train,
    /// For testing.
    Test,
}

/// Opens a data set. IDX data are read into memory; a folder's images stay on disk until they are asked for.
///
/// # Errors
/// Those of [`Idx::open`] and [`Folder::open`].
pub fn open(spec: &DataSpec) -> Result<Arc<dyn Source>> {
    Ok(match spec {
        DataSpec::FashionMnist { split: Split::Train } => Arc::new(FashionMnist::train()?),
        DataSpec::FashionMnist { split: Split::Test } => Arc::new(FashionMnist::test()?),
        DataSpec::Idx { images, labels, classes } => Arc::new(Idx::open(images, labels.as_deref(), *classes)?),
        DataSpec::Folder { path, channels } => Arc::new(Folder::open(path, *channels)?),
    })
}
