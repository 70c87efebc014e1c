//! Images that are only counted.

use fd_data::{DataError, Image8, Source};

/// A data set of which nothing is known but its size: what a table would cost is asked before the images are there.
#[derive(Clone, Debug)]
pub struct Imagined {
    images: usize,
    channels: usize,
    classes: Vec<String>,
}

impl Imagined {
    /// So many images of so many classes, in equal parts.
    pub fn new(images: usize, classes: usize, channels: usize) -> Imagined {
        Imagined { images, channels, classes: (0..classes).map(|class| class.to_string()).collect() }
    }
}

impl Source for Imagined {
    fn len(&self) -> usize {
        self.images
    }

    fn image(&self, index: usize) -> fd_data::Result<Image8<'_>> {
        // There are no pixels of any of them.
        Err(DataError::Index { file: self.name().into(), expected: 0, found: index })
    }

    fn label(&self, index: usize) -> Option<u32> {
        (index < self.images).then(|| (index % self.classes.len().max(1)) as u32)
    }

    fn channels(&self) -> usize {
        self.channels
    }

    fn name(&self) -> &str {
        "imagined images"
    }

    fn class_names(&self) -> &[String] {
        &self.classes
    }
}
