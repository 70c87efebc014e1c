//! The tile in AVX-512 and AVX2 for f32. By hand, because the compiler does not keep the sums of the portable form in registers.

use std::arch::x86_64::{
    __m256, __m512, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_mul_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

use super::{Left, WIDTH};
use crate::simd::{Level, level};
use crate::{DType, Real};

/// Does the product where there is a form for this element type and level; says whether it did. The operands are those of
/// [`super::product`], which has checked them.
pub(super) fn product<T: Real>(alpha: T, a: Left<T>, b: &[T], width: usize, (m, k): (usize, usize), c: &mut [T]) -> bool {
    if T::DTYPE != DType::F32 {
        return false;
    }
    let (b, c): (&[f32], &mut [f32]) = (bytemuck::cast_slice(b), bytemuck::cast_slice_mut(c));
    let a = Left { data: bytemuck::cast_slice::<T, f32>(a.data), stride: a.stride, transposed: a.transposed };
    let alpha = alpha.f64() as f32;
    match level() {
        // SAFETY: `level` returns Avx512 only where detection found it; the operands were checked.
        Level::Avx512 => unsafe { avx512(alpha, a, b, width, m, k, c) },
        // SAFETY: as above, for AVX2 and FMA.
        Level::Avx2 => unsafe { avx2(alpha, a, b, width, m, k, c) },
        Level::Scalar => return false,
    }
    true
}

/// One instruction set: how many vectors make a tile's width, and most rows whose sums stay in registers.
macro_rules! kernel {
    ($name:ident, $tile:ident, $features:literal, $vector:ty, $vectors:literal, $most:literal, $sizes:tt,
     $zero:ident, $load:ident, $store:ident, $splat:ident, $fma:ident, $mul:ident) => {
        /// # Safety
        /// The operands must be as [`super::product`] checks them.
        #[target_feature(enable = $features)]
        unsafe fn $name(alpha: f32, a: Left<f32>, b: &[f32], width: usize, m: usize, k: usize, c: &mut [f32]) {
            let tiles = m.div_ceil($most);
            // Columns outside: a column stripe of b stays in the first-level cache.
            for left in (0..width).step_by(WIDTH) {
                let mut top = 0;
                for tile in 0..tiles {
                    let rows = m / tiles + usize::from(tile < m % tiles);
                    // SAFETY: rows top..top + rows of a and c and columns left..left + WIDTH of b and c lie in their memory.
                    let (b, c) = unsafe { (b.as_ptr().add(left), c.as_mut_ptr().add(top * width + left)) };
                    kernel!(@sized $tile $sizes rows, a, top, (alpha, b, width, k, c));
                    top += rows;
                }
            }
        }

        /// R rows of a tile.
        ///
        /// # Safety
        /// a must hold R rows of k elements `stride` apart (transposed: k rows of R), b k rows and c R rows of WIDTH elements `width`
        /// apart.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn $tile<const R: usize, const TRANSPOSED: bool>(
            a: *const f32,
            stride: usize,
            (alpha, b, width, k, c): (f32, *const f32, usize, usize, *mut f32),
        ) {
            const LANES: usize = WIDTH / $vectors;
            let mut sums: [[$vector; $vectors]; R] = [[$zero(); $vectors]; R];
            for p in 0..k {
                // SAFETY: the caller's promise, for all reads of b and a.
                let b: [$vector; $vectors] = std::array::from_fn(|v| unsafe { $load(b.add(p * width + v * LANES)) });
                for r in 0..R {
                    // SAFETY: as above.
                    let x = $splat(unsafe { *a.add(if TRANSPOSED { p * stride + r } else { r * stride + p }) });
                    for v in 0..$vectors {
                        sums[r][v] = $fma(x, b[v], sums[r][v]);
                    }
                }
            }
            let alpha = $splat(alpha);
            for r in 0..R {
                for v in 0..$vectors {
                    // SAFETY: the caller's promise for c.
                    unsafe { $store(c.add(r * width + v * LANES), $mul(alpha, sums[r][v])) };
                }
            }
        }
    };
    (@sized $tile:ident ($($n:literal)*) $rows:ident, $a:ident, $top:ident, $rest:tt) => {
        match $rows {
            $($n if $a.transposed => {
                // SAFETY: as where b and c were made.
                unsafe { $tile::<$n, true>($a.data.as_ptr().add($top), $a.stride, $rest) }
            }
            $n => {
                // SAFETY: as above.
                unsafe { $tile::<$n, false>($a.data.as_ptr().add($top * $a.stride), $a.stride, $rest) }
            })*
            _ => unreachable!("tiles have no more rows"),
        }
    };
}

kernel!(
    avx512, tile_avx512, "avx512f", __m512, 1, 8, (1 2 3 4 5 6 7 8), _mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps,
    _mm512_fmadd_ps, _mm512_mul_ps
);
kernel!(
    avx2, tile_avx2, "avx2,fma", __m256, 2, 6, (1 2 3 4 5 6), _mm256_setzero_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps,
    _mm256_fmadd_ps, _mm256_mul_ps
);
