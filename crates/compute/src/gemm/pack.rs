//! Copies operands into the order in which tiles read them, rounding to bf16 where that is asked for. Plain loops, compiled for every level.

use super::library::narrow;
use crate::simd_fn;

/// What a unit of four bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// An f32.
    Exact,
    /// An f32 that is a bf16: what machines without bf16 instructions multiply.
    Rounded,
    /// Two bf16 that follow each other along k, the first in the lower half; behind an odd k a zero.
    Pairs,
}

impl Form {
    /// Units of so much of k.
    pub fn units(self, k: usize) -> usize {
        if self == Form::Pairs { k.div_ceil(2) } else { k }
    }
}

simd_fn! {
    /// Two rows across k (the second empty: none) to units side by side.
    fn pair(form: Form, x: &[f32], y: &[f32], out: &mut [u32]) {
        match form {
            Form::Exact => out.iter_mut().zip(x).for_each(|(o, x)| *o = x.to_bits()),
            Form::Rounded => out.iter_mut().zip(x).for_each(|(o, x)| *o = narrow(*x) << 16),
            Form::Pairs if y.is_empty() => out.iter_mut().zip(x).for_each(|(o, x)| *o = narrow(*x)),
            Form::Pairs => out.iter_mut().zip(x.iter().zip(y)).for_each(|(o, (x, y))| *o = narrow(*x) | narrow(*y) << 16),
        }
    }
}

simd_fn! {
    /// One row along k.
    fn row(form: Form, x: &[f32], out: &mut [u32]) {
        match form {
            Form::Exact => out.iter_mut().zip(x).for_each(|(o, x)| *o = x.to_bits()),
            Form::Rounded => out.iter_mut().zip(x).for_each(|(o, x)| *o = narrow(*x) << 16),
            Form::Pairs => {
                let (pairs, rest) = x.as_chunks::<2>();
                out.iter_mut().zip(pairs).for_each(|(o, [x, y])| *o = narrow(*x) | narrow(*y) << 16);
                if let [x] = rest {
                    out[pairs.len()] = narrow(*x);
                }
            }
        }
    }
}

/// [`pair`] and [`row`] of whole vectors of pairs by the processor's own rounding; where they end.
mod native {
    use std::arch::x86_64::*;

    /// Squares of eight; returns how far along the columns.
    #[target_feature(enable = "avx2")]
    pub fn transpose(columns: [&[u32]; 8], out: &mut [u32], width: usize) -> usize {
        let squares = columns[0].len() / 8;
        assert!(columns.iter().all(|c| c.len() >= 8 * squares) && (squares == 0 || (8 * squares - 1) * width + 8 <= out.len()));
        for square in 0..squares {
            // SAFETY: eight elements of each column, and of each of eight rows of `out`, lie in their memory.
            unsafe {
                // Plain loops: what a closure does is not always compiled for these instructions.
                let mut rows = [_mm256_setzero_ps(); 8];
                for (row, column) in rows.iter_mut().zip(&columns) {
                    *row = _mm256_loadu_ps(column.as_ptr().add(8 * square).cast());
                }
                let (mut pairs, mut fours) = (rows, rows);
                for i in (0..8).step_by(2) {
                    pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
                    pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
                }
                for i in [0, 4] {
                    fours[i] = _mm256_shuffle_ps::<0x44>(pairs[i], pairs[i + 2]);
                    fours[i + 1] = _mm256_shuffle_ps::<0xee>(pairs[i], pairs[i + 2]);
                    fours[i + 2] = _mm256_shuffle_ps::<0x44>(pairs[i + 1], pairs[i + 3]);
                    fours[i + 3] = _mm256_shuffle_ps::<0xee>(pairs[i + 1], pairs[i + 3]);
                }
                let to = out.as_mut_ptr().add(8 * square * width).cast::<f32>();
                for i in 0..4 {
                    _mm256_storeu_ps(to.add(i * width), _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]));
                    _mm256_storeu_ps(to.add((i + 4) * width), _mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]));
                }
            }
        }
        8 * squares
    }

    /// Two rows of one length, 16 elements at a time; returns how many were done.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub fn pair(x: &[f32], y: &[f32], out: &mut [u32]) -> usize {
        let ((xs, _), (ys, _), (outs, _)) = (x.as_chunks::<16>(), y.as_chunks::<16>(), out.as_chunks_mut::<16>());
        for ((x, y), out) in xs.iter().zip(ys).zip(outs) {
            // SAFETY: 16 elements each; both types are 512 bits of any content.
            unsafe {
                let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(_mm512_loadu_ps(y.as_ptr()), _mm512_loadu_ps(x.as_ptr())));
                _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_permutexvar_epi16(INTERLEAVE.0, both));
            }
        }
        x.len() / 16 * 16
    }

    /// One row, 32 elements at a time; returns how many were done.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn row(x: &[f32], out: &mut [u32]) -> usize {
        let ((xs, _), (outs, _)) = (x.as_chunks::<32>(), out.as_chunks_mut::<16>());
        for (x, out) in xs.iter().zip(outs) {
            // SAFETY: 32 elements; both types are 512 bits of any content.
            unsafe {
                let both: __m512i =
                    std::mem::transmute(_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x.as_ptr().add(16)), _mm512_loadu_ps(x.as_ptr())));
                _mm512_storeu_si512(out.as_mut_ptr().cast(), both);
            }
        }
        x.len() / 32 * 32
    }

    #[repr(align(64))]
    struct Places(__m512i);

    /// Element i of the lower half and of the upper half side by side.
    const INTERLEAVE: Places = {
        let mut places = [0u16; 32];
        let mut i = 0;
        while i < 16 {
            (places[2 * i], places[2 * i + 1]) = (i as u16, i as u16 + 16);
            i += 1;
        }
        // SAFETY: 32 numbers of 16 bits are 512 bits.
        Places(unsafe { std::mem::transmute::<[u16; 32], __m512i>(places) })
    };
}

/// Two rows across k.
fn across_pair(form: Form, x: &[f32], y: &[f32], out: &mut [u32]) {
    if form == Form::Pairs && !y.is_empty() {
        // SAFETY: who asks for pairs multiplies them, and has the instructions.
        let done = unsafe { native::pair(x, y, out) };
        return if done < x.len() {
            pair(form, &x[done..], &y[done..], &mut out[done..])
        };
    }
    pair(form, x, y, out);
}

/// One row along k.
fn along_row(form: Form, x: &[f32], out: &mut [u32]) {
    if form == Form::Pairs {
        // SAFETY: as above.
        let done = unsafe { native::row(x, out) };
        return if done < x.len() {
            row(form, &x[done..], &mut out[done / 2..])
        };
    }
    row(form, x, out);
}

/// A matrix whose rows go along k, element (i, p) at i · stride + p: units [rows, units of k].
///
/// # Safety
/// `rows` rows of `k` elements must lie behind `from`.
pub(super) unsafe fn rows(form: Form, from: *const f32, stride: usize, rows: usize, k: usize, out: &mut [u32]) {
    let units = form.units(k);
    for (i, out) in out.chunks_exact_mut(units).take(rows).enumerate() {
        // SAFETY: the caller's promise.
        along_row(form, unsafe { std::slice::from_raw_parts(from.add(i * stride), k) }, out);
    }
}

/// A matrix whose rows go across k, element (p, j) at p · stride + j: units [units of k, width], zeros behind the last column.
///
/// # Safety
/// `k` rows of `cols` elements must lie behind `from`.
pub(super) unsafe fn across(form: Form, from: *const f32, stride: usize, k: usize, cols: usize, width: usize, out: &mut [u32]) {
    let step = if form == Form::Pairs { 2 } else { 1 };
    for (p, out) in (0..k).step_by(step).zip(out.chunks_exact_mut(width)) {
        // SAFETY: the caller's promise.
        let line = |p: usize| unsafe { std::slice::from_raw_parts(from.add(p * stride), cols) };
        let second = if step == 2 && p + 1 < k { line(p + 1) } else { &[] };
        across_pair(form, line(p), second, &mut out[..cols]);
        out[cols..].fill(0);
    }
}

/// The same of a matrix whose columns go along k, element (p, j) at j · stride + p.
///
/// # Safety
/// `cols` columns of `k` elements must lie behind `from`.
pub(super) unsafe fn along(form: Form, from: *const f32, stride: usize, k: usize, cols: usize, width: usize, out: &mut [u32]) {
    /// k that is rounded at a time.
    const PART: usize = 256;
    let mut rounded = [[0u32; PART]; FEW];
    for at in (0..k).step_by(PART) {
        let deep = PART.min(k - at);
        let units = form.units(deep);
        let out = &mut out[form.units(at) * width..][..units * width];
        for left in (0..width).step_by(FEW) {
            let mut columns: [&[u32]; FEW] = [&ZEROS; FEW];
            for (j, (place, column)) in rounded.iter_mut().zip(&mut columns).enumerate().take_while(|(j, _)| left + j < cols) {
                // SAFETY: the caller's promise.
                let source = unsafe { std::slice::from_raw_parts(from.add((left + j) * stride + at), deep) };
                *column = if form == Form::Exact {
                    bytemuck::cast_slice(source)
                } else {
                    along_row(form, source, &mut place[..units]);
                    &place[..units]
                };
            }
            transpose(columns.map(|c| &c[..units]), &mut out[left..], width);
        }
    }
}

/// Columns that are read at a time: their lines stay in the first-level cache, whatever their distance.
const FEW: usize = 8;
static ZEROS: [u32; 256] = [0; 256];

/// Columns of one length side by side, at every `width` of `out`.
fn transpose(columns: [&[u32]; FEW], out: &mut [u32], width: usize) {
    let len = columns[0].len();
    // SAFETY: whoever packs multiplies by AVX2 at least.
    let done = unsafe { native::transpose(columns, out, width) };
    let columns = columns.map(|c| &c[..len]);
    for (p, out) in out.chunks_mut(width).enumerate().take(len).skip(done) {
        out[..FEW].copy_from_slice(&columns.map(|c| c[p]));
    }
}
