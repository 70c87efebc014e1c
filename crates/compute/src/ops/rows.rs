//! Loops that several operations share: sums along a row, sums down the columns, adding and copying.

pub(crate) mod cuda;

use rayon::prelude::*;

use crate::Real;
use crate::plan::Deliver;
use crate::simd::{LANES, Simd};
use crate::simd_fn;

/// Rows a task works on: a function of the width only, so that chunk sums do not depend on the number of threads.
pub(crate) fn per_task(cols: usize) -> usize {
    (16384 / cols.max(1)).clamp(8, 1024)
}

/// Tasks over a number of rows.
pub(crate) fn tasks(rows: usize, cols: usize) -> usize {
    rows.div_ceil(per_task(cols))
}

/// Sum of a row in fixed lanes.
#[inline(always)]
pub(crate) fn sum<T: Real>(x: &[T]) -> T {
    let mut lanes = [T::ZERO; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for c in chunks {
        for i in 0..LANES {
            lanes[i] += c[i];
        }
    }
    fold(lanes) + rest.iter().copied().sum()
}

/// Scalar product of two rows in fixed lanes.
#[inline(always)]
pub(crate) fn dot<S: Simd, T: Real>(x: &[T], y: &[T]) -> T {
    let mut lanes = [T::ZERO; LANES];
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..LANES {
            lanes[i] = T::fma::<S>(x[i], y[i], lanes[i]);
        }
    }
    x_rest.iter().zip(y_rest).fold(fold(lanes), |s, (&x, &y)| T::fma::<S>(x, y, s))
}

/// Elements by which rows that are made longer grow.
pub(crate) const WHOLE: usize = 16;

/// The largest element of a row of whole vectors.
#[inline(always)]
pub(crate) fn max<T: Real>(x: &[T]) -> T {
    let mut lanes = [T::LOWEST; WHOLE];
    for c in x.as_chunks::<WHOLE>().0 {
        for i in 0..WHOLE {
            lanes[i] = c[i].maximum(lanes[i]);
        }
    }
    let mut half = WHOLE / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = lanes[i + half].maximum(lanes[i]);
        }
        half /= 2;
    }
    lanes[0]
}

/// y += x, within a kernel.
#[inline(always)]
pub(crate) fn add_row<T: Real>(y: &mut [T], x: &[T]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += *x);
}

/// Adds the lanes pairwise: those of the upper half to those of the lower, until one is left.
#[inline(always)]
pub(crate) fn fold<T: Real>(mut lanes: [T; LANES]) -> T {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            let other = lanes[i + half];
            lanes[i] += other;
        }
        half /= 2;
    }
    lanes[0]
}

/// Mean and 1 / sqrt(variance + eps) of a row; the variance from centred values, as the two-pass definition has it.
#[inline(always)]
pub(crate) fn moments<S: Simd, T: Real>(x: &[T], eps: T) -> (T, T) {
    let n = T::of(x.len() as f64);
    let mean = sum(x) / n;
    let mut lanes = [T::ZERO; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for c in chunks {
        for i in 0..LANES {
            let d = c[i] - mean;
            lanes[i] = T::fma::<S>(d, d, lanes[i]);
        }
    }
    let variance = rest.iter().fold(fold(lanes), |s, &x| T::fma::<S>(x - mean, x - mean, s)) / n;
    (mean, T::ONE / (variance + eps).sqrt())
}

simd_fn! {
    /// y += x.
    pub(crate) fn add_to<T: Real>(y: &mut [T], x: &[T]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += *x;
        }
    }
}

simd_fn! {
    /// y = a · x, or y += a · x.
    pub(crate) fn scale_to<T: Real>(y: &mut [T], x: &[T], a: T, add: bool) {
        if add {
            for (y, x) in y.iter_mut().zip(x) {
                *y = T::fma::<S>(*x, a, *y);
            }
        } else {
            for (y, x) in y.iter_mut().zip(x) {
                *y = *x * a;
            }
        }
    }
}

/// Delivers a gradient that is a copy of another.
pub(crate) fn copy_or_add<T: Real>(how: Deliver, to: &mut [T], from: &[T]) {
    const CHUNK: usize = 16384;
    match how {
        Deliver::Set => to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(t, f)| t.copy_from_slice(f)),
        Deliver::Add => to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(t, f)| add_to(t, f)),
        Deliver::Skip | Deliver::InPlace => {}
    }
}

/// Adds up the tasks' partial sums in task order: out = sum over tasks of partial[task], or out += it.
pub(crate) fn reduce<T: Real>(partial: &[T], out: &mut [T], add: bool) {
    if !add {
        out.fill(T::ZERO);
    }
    partial.chunks_exact(out.len()).for_each(|p| add_to(out, p));
}

/// Column sums of x [rows, cols] by task into `partial` [tasks, cols].
pub(crate) fn column_partials<T: Real>(x: &[T], cols: usize, partial: &mut [T]) {
    let step = per_task(cols) * cols;
    x.par_chunks(step).zip(partial.par_chunks_mut(cols)).for_each(|(x, p)| {
        p.fill(T::ZERO);
        x.chunks_exact(cols).for_each(|row| add_to(p, row));
    });
}

thread_local! {
    static SCRATCH: std::cell::RefCell<Vec<f64>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Working memory of the current thread: kept between calls, so that a step allocates nothing once it has grown.
pub(crate) fn with_scratch<T: Real, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    SCRATCH.with_borrow_mut(|memory| {
        let words = (len * size_of::<T>()).div_ceil(size_of::<f64>());
        if memory.len() < words {
            memory.resize(words, 0.0);
        }
        f(&mut bytemuck::cast_slice_mut(&mut memory[..words])[..len])
    })
}
