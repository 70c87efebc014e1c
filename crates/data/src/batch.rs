//! Batches, and the buffers they give back.

use std::mem::take;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// One batch. Dropping it gives its buffers back to its loader; to keep one of them, `std::mem::take` it.
#[derive(Debug)]
pub struct Batch {
    /// Normalised values: the groups of views, one after the other, each `[views, batch, channels, height, width]`, contiguous.
    pub images: Vec<f32>,
    /// Class of each sample, `[batch]`; empty if the source is unlabelled.
    pub labels: Vec<u32>,
    /// Index of each sample in the source, `[batch]`.
    pub indices: Vec<usize>,
    /// `[views, batch, channels, height, width]` of the first group; the last batch of an epoch may have fewer samples.
    pub shape: [usize; 5],
    /// The number of this batch in its epoch, from 0.
    pub batch: usize,
    /// The epoch.
    pub epoch: u64,
    /// Position of the first sample in the epoch's order: what mixing is keyed by.
    pub first: usize,
    shapes: Vec<[usize; 5]>,
    home: Arc<Pool>,
}

impl Batch {
    /// A batch without groups or samples, with buffers from `home`.
    pub(crate) fn from_pool(home: &Arc<Pool>, epoch: u64, batch: usize) -> Self {
        let Buffers { images, mut labels, mut indices, mut shapes } = home.lend();
        labels.clear();
        indices.clear();
        shapes.clear();
        Self { images, labels, indices, shape: [0; 5], batch, epoch, first: 0, shapes, home: home.clone() }
    }

    /// Makes place for groups of these shapes. Values that were there are overwritten later, not now.
    pub(crate) fn set_groups(&mut self, shapes: impl Iterator<Item = [usize; 5]>) {
        self.shapes.extend(shapes);
        self.shape = self.group_shape(0);
        self.images.resize(self.shapes.iter().map(len).sum(), 0.0);
    }

    /// The number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether it has no sample (no loader makes such a batch).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The number of groups: the loader's crops.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.shapes.len()
    }

    /// `[views, batch, channels, height, width]` of a group; zeros past the last.
    #[must_use]
    pub fn group_shape(&self, group: usize) -> [usize; 5] {
        self.shapes.get(group).copied().unwrap_or_default()
    }

    /// All views of a group, of shape [`Batch::group_shape`]; empty past the last.
    #[must_use]
    pub fn group(&self, group: usize) -> &[f32] {
        let start: usize = self.shapes.iter().take(group).map(len).sum();
        self.images.get(start..start + len(&self.group_shape(group))).unwrap_or_default()
    }

    /// One view, `[batch, channels, height, width]`, counted over all groups; empty past the last.
    #[must_use]
    pub fn view(&self, view: usize) -> &[f32] {
        self.images.get(self.view_range(view)).unwrap_or_default()
    }

    /// As [`Batch::view`], to be changed (by [`crate::Mix`], say).
    #[must_use]
    pub fn view_mut(&mut self, view: usize) -> &mut [f32] {
        let range = self.view_range(view);
        self.images.get_mut(range).unwrap_or_default()
    }

    /// Where a view is in `images`; nowhere past the last.
    fn view_range(&self, mut view: usize) -> Range<usize> {
        let mut start = 0;
        for &[views, ref image @ ..] in &self.shapes {
            let len: usize = image.iter().product();
            if view < views {
                return start + view * len..start + (view + 1) * len;
            }
            view -= views;
            start += views * len;
        }
        0..0
    }
}

/// The number of values in a group.
fn len(shape: &[usize; 5]) -> usize {
    shape.iter().product()
}

impl Drop for Batch {
    fn drop(&mut self) {
        let (images, labels) = (take(&mut self.images), take(&mut self.labels));
        self.home.give_back(Buffers { images, labels, indices: take(&mut self.indices), shapes: take(&mut self.shapes) });
    }
}

#[derive(Debug, Default)]
struct Buffers {
    images: Vec<f32>,
    labels: Vec<u32>,
    indices: Vec<usize>,
    shapes: Vec<[usize; 5]>,
}

/// Buffers of batches that were dropped, at most `limit` of them.
#[derive(Debug)]
pub(crate) struct Pool {
    free: Mutex<Vec<Buffers>>,
    limit: usize,
}

impl Pool {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::default(), limit })
    }

    fn lend(&self) -> Buffers {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give_back(&self, buffers: Buffers) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.images.capacity() > 0 && free.len() < self.limit {
            free.push(buffers);
        }
    }
}
