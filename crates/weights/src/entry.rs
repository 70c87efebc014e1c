//! One tensor of a file: what it is, where its elements lie, and reading them row by row.

use crate::bytes::Bytes;
use crate::dtype::Dtype;
use crate::error::Result;

/// Dimensions of a tensor at most.
pub(crate) const MAX_RANK: usize = 16;
/// Elements that a tensor may always have; beyond them as many as the file has bytes.
const FREE_ELEMENTS: u64 = 65_536;
/// Bytes that are read or handed on at a time.
const CHUNK: usize = 1 << 18;

/// What a file says of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Whether the elements lie one after the other in row-major order.
    pub contiguous: bool,
    /// Whether another entry lies in the same storage.
    pub shared: bool,
    /// Where the first element is in the file.
    start: u64,
    /// From one element to the next along each dimension, in elements. Empty for a contiguous tensor.
    strides: Vec<usize>,
    /// Which storage of the file it lies in.
    pub(crate) storage: usize,
}

/// A tensor that its storage cannot hold; the text says why.
pub(crate) type Misfit = String;

/// Where elements lie: extents and strides, in elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
}

impl Layout {
    /// Row-major.
    pub(crate) fn packed(shape: Vec<usize>) -> Self {
        let mut strides = vec![1usize; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i].saturating_mul(shape[i]);
        }
        Layout { shape, strides }
    }

    /// The number of elements and the length of the stretch of storage they lie in, if they fit `available` elements of storage and
    /// the tensor is no bigger than a file of `file` bytes may make it.
    pub(crate) fn measure(&self, offset: u64, available: u64, file: u64) -> std::result::Result<(u64, u64), Misfit> {
        if self.shape.len() > MAX_RANK {
            return Err(format!("{} dimensions, at most {MAX_RANK} are read", self.shape.len()));
        }
        if self.shape.contains(&0) {
            return Ok((0, 0));
        }
        let too_many = || format!("shape {:?} has more elements than the file has bytes", self.shape);
        let mut elements = 1u64;
        let mut last = 0u64;
        for (&extent, &stride) in self.shape.iter().zip(&self.strides) {
            elements = elements.checked_mul(extent as u64).ok_or_else(too_many)?;
            last = (extent as u64 - 1).checked_mul(stride as u64).and_then(|far| last.checked_add(far)).ok_or_else(too_many)?;
        }
        if elements > file.max(FREE_ELEMENTS) {
            return Err(too_many());
        }
        match last.checked_add(1).and_then(|span| Some((span, span.checked_add(offset)?))) {
            Some((span, end)) if end <= available => Ok((elements, span)),
            _ => Err(format!("shape {:?} from element {offset} on reaches beyond its storage of {available}", self.shape)),
        }
    }

    fn is_packed(&self) -> bool {
        let mut step = 1;
        self.shape.contains(&0)
            || self.shape.iter().zip(&self.strides).rev().all(|(&extent, &stride)| {
                let fits = extent == 1 || stride == step;
                step = step.saturating_mul(extent);
                fits
            })
    }
}

impl Entry {
    /// An entry whose layout was measured to lie inside its storage; `start` is the first element's place in the file.
    pub(crate) fn new(layout: Layout, dtype: Dtype, start: u64, storage: usize) -> Self {
        let contiguous = layout.is_packed();
        // The stride of a dimension of one is never walked and may be anything.
        let used = layout.strides.iter().zip(&layout.shape).map(|(&stride, &extent)| if extent == 1 { 0 } else { stride });
        let strides = if contiguous { vec![] } else { used.collect() };
        Entry { shape: layout.shape, dtype, contiguous, shared: false, start, strides, storage }
    }

    /// The number of elements.
    #[must_use]
    pub fn elements(&self) -> usize {
        if self.shape.contains(&0) { 0 } else { self.shape.iter().product() }
    }

    /// Hands the elements to `sink` in row-major order, as little-endian bytes, some whole elements at a time.
    pub(crate) fn stream(&self, bytes: &Bytes, sink: &mut dyn FnMut(&[u8])) -> Result<()> {
        let size = self.dtype.size();
        if self.shape.contains(&0) {
            return Ok(());
        }
        if !self.contiguous {
            return self.stream_strided(bytes, size, sink);
        }
        let (mut at, mut left) = (self.start, self.elements() * size);
        bytes.check(at, left as u64)?;
        let mut buffer = vec![0; left.min(CHUNK)];
        while left > 0 {
            let chunk = &mut buffer[..left.min(CHUNK)];
            bytes.read_into(at, chunk)?;
            sink(chunk);
            at += chunk.len() as u64;
            left -= chunk.len();
        }
        Ok(())
    }

    /// Reads the stretch of storage that holds the elements, once, and picks them out of it.
    fn stream_strided(&self, bytes: &Bytes, size: usize, sink: &mut dyn FnMut(&[u8])) -> Result<()> {
        let far: usize = self.shape.iter().zip(&self.strides).map(|(extent, stride)| (extent - 1) * stride).sum();
        let stretch = bytes.read_at(self.start, ((far + 1) * size) as u64)?;
        let mut buffer = Vec::with_capacity(CHUNK.min(self.elements() * size));
        let mut walk = Walk { entry: self, index: vec![0; self.shape.len()], element: 0 };
        loop {
            buffer.extend_from_slice(&stretch[walk.element * size..][..size]);
            if buffer.len() + size > CHUNK {
                sink(&buffer);
                buffer.clear();
            }
            if !walk.advance() {
                sink(&buffer);
                return Ok(());
            }
        }
    }
}

/// A walk over a strided tensor in row-major order.
struct Walk<'a> {
    entry: &'a Entry,
    index: Vec<usize>,
    /// Where the element of this index lies, counted from the first.
    element: usize,
}

impl Walk<'_> {
    /// On to the next element; false after the last.
    fn advance(&mut self) -> bool {
        for ((index, &extent), &stride) in self.index.iter_mut().zip(&self.entry.shape).zip(&self.entry.strides).rev() {
            *index += 1;
            self.element += stride;
            if *index < extent {
                return true;
            }
            *index = 0;
            self.element -= stride * extent;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn layout(shape: &[usize], strides: &[usize]) -> Layout {
        Layout { shape: shape.to_vec(), strides: strides.to_vec() }
    }

    fn elements(shape: &[usize], strides: &[usize], start: u64, bytes: &[u8]) -> Vec<u8> {
        let bytes = Bytes::in_memory("m", Arc::from(bytes));
        let entry = Entry::new(layout(shape, strides), Dtype::U8, start, 0);
        let mut out = vec![];
        entry.stream(&bytes, &mut |chunk| out.extend_from_slice(chunk)).expect("inside");
        assert_eq!(out.len(), entry.elements());
        out
    }

    #[test]
    fn layouts_are_recognised() {
        assert_eq!(Layout::packed(vec![2, 3, 4]).strides, [12, 4, 1]);
        assert!(layout(&[2, 1, 3], &[3, 99, 1]).is_packed(), "the stride of a single row does not matter");
        assert!(layout(&[], &[]).is_packed());
        assert!(layout(&[0, 5], &[7, 7]).is_packed());
        assert!(!layout(&[3, 2], &[1, 3]).is_packed());
        assert!(!layout(&[4], &[0]).is_packed());
        assert!(!layout(&[4], &[2]).is_packed());
    }

    #[test]
    fn elements_come_row_by_row() {
        assert_eq!(elements(&[2, 3], &[3, 1], 1, b"_abcdef"), b"abcdef");
        assert_eq!(elements(&[3, 2], &[1, 3], 1, b"_abcdef"), b"adbecf", "transposed");
        assert_eq!(elements(&[2, 2], &[0, 1], 0, b"ab"), b"abab", "broadcast");
        assert_eq!(elements(&[3], &[2], 0, b"a.b.c"), b"abc", "every other");
        assert_eq!(elements(&[], &[], 2, b"..c"), b"c", "a scalar");
        assert_eq!(elements(&[2, 0], &[9, 9], 7, b""), b"", "nothing");
        assert_eq!(elements(&[1, 2], &[usize::MAX, 2], 0, b"a.b"), b"ab", "the stride of a single row does not matter");
    }

    #[test]
    fn long_tensors_come_in_chunks() {
        let bytes: Vec<u8> = (0..CHUNK * 2 + 10).map(|i| (i % 251) as u8).collect();
        let half = bytes.len() / 2;
        assert_eq!(elements(&[bytes.len()], &[1], 0, &bytes), bytes);
        let transposed: Vec<u8> = (0..half).flat_map(|i| [bytes[i], bytes[half + i]]).collect();
        assert_eq!(elements(&[half, 2], &[1, half], 0, &bytes), transposed);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(layout(&[2, 3], &[3, 1]).measure(4, 10, 100), Ok((6, 6)));
        assert_eq!(layout(&[0, 3], &[3, 1]).measure(400, 10, 100), Ok((0, 0)));
        let why = layout(&[2, 3], &[3, 1]).measure(5, 10, 100).expect_err("one too far");
        assert_eq!(why, "shape [2, 3] from element 5 on reaches beyond its storage of 10");
        let why = layout(&[65_537], &[0]).measure(0, 10, 100).expect_err("stride zero");
        assert_eq!(why, "shape [65537] has more elements than the file has bytes");
        assert_eq!(layout(&[65_536], &[0]).measure(0, 10, 100), Ok((65_536, 1)));
        assert!(layout(&[usize::MAX, usize::MAX], &[0, 0]).measure(0, 10, 100).is_err());
        assert!(layout(&[3], &[usize::MAX]).measure(0, 10, 100).is_err());
        assert!(layout(&[2], &[usize::MAX]).measure(u64::MAX, u64::MAX, 100).is_err());
        assert!(layout(&[1; 17], &[1; 17]).measure(0, 10, 100).is_err());
    }

    #[test]
    fn extents_that_overflow_beside_a_zero_are_no_elements() {
        let entry = Entry::new(layout(&[usize::MAX, usize::MAX, 0], &[1, 1, 1]), Dtype::F32, 0, 0);
        assert_eq!(entry.elements(), 0);
    }
}
