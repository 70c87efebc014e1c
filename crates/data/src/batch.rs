//! Batches, and the buffers they give back.

use std::mem::take;
use std::sync::{Arc, Mutex, PoisonError};

/// One batch. Dropping it gives its buffers back to its loader; to keep one of them, `std::mem::take` it.
#[derive(Debug)]
pub struct Batch {
    /// Normalised values, `[views, batch, channels, height, width]`, contiguous.
    pub images: Vec<f32>,
    /// Class of each sample, `[batch]`; empty if the source is unlabelled.
    pub labels: Vec<u32>,
    /// Index of each sample in the source, `[batch]`.
    pub indices: Vec<usize>,
    /// `[views, batch, channels, height, width]`; the last batch of an epoch may have fewer samples.
    pub shape: [usize; 5],
    /// The number of this batch in its epoch, from 0.
    pub batch: usize,
    /// The epoch.
    pub epoch: u64,
    /// Position of the first sample in the epoch's order: what mixing is keyed by.
    pub first: usize,
    home: Arc<Pool>,
}

impl Batch {
    /// An empty batch with buffers from `home`.
    pub(crate) fn from_pool(home: &Arc<Pool>, epoch: u64, batch: usize) -> Self {
        let Buffers { images, labels, indices } = home.lend();
        Self { images, labels, indices, shape: [0; 5], batch, epoch, first: 0, home: home.clone() }
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

    /// One view, `[batch, channels, height, width]`; empty past the last.
    #[must_use]
    pub fn view(&self, view: usize) -> &[f32] {
        self.images.chunks_exact(self.view_len()).nth(view).unwrap_or_default()
    }

    /// As [`Batch::view`], to be changed (by [`crate::Mix`], say).
    #[must_use]
    pub fn view_mut(&mut self, view: usize) -> &mut [f32] {
        let len = self.view_len();
        self.images.chunks_exact_mut(len).nth(view).unwrap_or_default()
    }

    fn view_len(&self) -> usize {
        self.shape[1..].iter().product::<usize>().max(1)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let buffers = Buffers { images: take(&mut self.images), labels: take(&mut self.labels), indices: take(&mut self.indices) };
        self.home.give_back(buffers);
    }
}

#[derive(Debug, Default)]
struct Buffers {
    images: Vec<f32>,
    labels: Vec<u32>,
    indices: Vec<usize>,
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
