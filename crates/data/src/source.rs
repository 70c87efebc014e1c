//! What every data set looks like to the rest of the toolkit: numbered 8-bit images, with or without labels.

use std::borrow::Cow;

use crate::error::{DataError, Result, check_length};
use crate::fingerprint::Fingerprint;

/// An 8-bit image, rows from the top, interleaved channels (HWC), owned or borrowed from its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image8<'a> {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Values a pixel: 1 (grey) or 3 (RGB) from the sources of this crate.
    pub channels: usize,
    /// `height * width * channels` values.
    pub data: Cow<'a, [u8]>,
}

impl<'a> Image8<'a> {
    /// An image of the given shape.
    ///
    /// # Errors
    /// [`DataError::Shape`] unless `data` holds `height * width * channels` values, at least one.
    pub fn new(height: usize, width: usize, channels: usize, data: impl Into<Cow<'a, [u8]>>) -> Result<Self> {
        let image = Self { height, width, channels, data: data.into() };
        image.check()?;
        Ok(image)
    }

    /// Whether `data` has the length the other fields say (they are public, so it may not).
    pub(crate) fn check(&self) -> Result<()> {
        let expected = self.height.checked_mul(self.width).and_then(|n| n.checked_mul(self.channels)).unwrap_or(usize::MAX);
        check_length("image values (height x width x channels, not 0)", expected.max(1), self.data.len())
    }
}

/// A finite, indexable data set. All of it is read-only, so that loader threads can share one.
pub trait Source: Send + Sync {
    /// The number of samples.
    fn len(&self) -> usize;

    /// Whether there is no sample at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sample `index`, decoded. Its channel count is [`Source::channels`]; height and width may differ from sample to sample.
    ///
    /// # Errors
    /// An index past the end, or a file that cannot be read or decoded.
    fn image(&self, index: usize) -> Result<Image8<'_>>;

    /// The class of sample `index`: `None` without labels or past the end.
    fn label(&self, index: usize) -> Option<u32>;

    /// The number of classes; 0 means unlabelled.
    fn num_classes(&self) -> usize {
        self.class_names().len()
    }

    /// Values a pixel of every image.
    fn channels(&self) -> usize;

    /// A short name for messages: a path, or the data set's own name.
    fn name(&self) -> &str;

    /// The names of the classes in label order; empty when unlabelled.
    fn class_names(&self) -> &[String];

    /// SHA-256 that names the data, for caches of what was computed from them: equal for equal data wherever they lie. This one goes
    /// over the extents, pixels and label of every sample; a source on disk may answer from less.
    ///
    /// # Errors
    /// Those of [`Source::image`].
    fn fingerprint(&self) -> Result<[u8; 32]> {
        let mut fingerprint = Fingerprint::new("images", self.channels());
        fingerprint.number(self.len());
        for index in 0..self.len() {
            let image = self.image(index)?;
            fingerprint.number(image.height);
            fingerprint.number(image.width);
            fingerprint.bytes(&image.data);
            fingerprint.label(self.label(index));
        }
        Ok(fingerprint.finish())
    }
}

/// Refuses an index past the end of `source`.
pub(crate) fn check_index(source: &dyn Source, index: usize) -> Result<()> {
    if index < source.len() {
        Ok(())
    } else {
        Err(DataError::Index { file: source.name().to_owned(), expected: source.len(), found: index })
    }
}
