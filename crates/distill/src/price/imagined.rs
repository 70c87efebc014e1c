//! Images that are only counted.

use std::path::Component;

use fd_data::{DataError, DataSpec, Image8, Source};

/// Training images and classes of data sets that a folder's path may begin with.
const PUBLISHED: [(&str, usize, usize); 2] = [("imagenet", 1_281_167, 1000), ("imagenet22k", 14_197_122, 21_841)];

/// How many training images and classes a folder below `imagenet/` or `imagenet22k/` has, as published.
pub fn published(spec: &DataSpec) -> Option<(usize, usize)> {
    let DataSpec::Folder { path, .. } = spec else { return None };
    let Component::Normal(first) = path.components().next()? else { return None };
    PUBLISHED.iter().find(|(name, ..)| first == *name).map(|(_, images, classes)| (*images, *classes))
}

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
