//! The `gemm` family of crates, held to the [SIMD level](crate::simd) in force: f64, machines without AVX2, rows and columns by themselves.

use gemm_common::Parallelism;
use gemm_common::gemm::gemm_basic_generic;
use gemm_common::simd::MixedSimd;

use super::{Mat, MatMut, Product, Threads};
use crate::simd::Level;

/// The bits of the nearest bf16, of two the even one; NaN stays NaN.
#[inline(always)]
pub(super) fn narrow(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if bits & 0x7fff_ffff > 0x7f80_0000 { (bits >> 16) | 0x40 } else { rounded }
}

/// A product as the library takes it: dst (m x n, columns contiguous) = alpha · lhs · rhs (+ dst).
#[doc(hidden)]
pub struct Raw<T> {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) dst: *mut T,
    pub(super) dst_cs: isize,
    pub(super) add: bool,
    pub(super) lhs: *const T,
    pub(super) lhs_cs: isize,
    pub(super) lhs_rs: isize,
    pub(super) rhs: *const T,
    pub(super) rhs_cs: isize,
    pub(super) rhs_rs: isize,
    pub(super) alpha: T,
    pub(super) parallelism: Parallelism,
}

/// Element types the library multiplies.
pub trait GemmReal: Copy + Send + Sync + 'static {
    /// # Safety
    /// All pointers, strides and extents of `r` must describe valid memory, and dst must not overlap lhs or rhs.
    #[doc(hidden)]
    unsafe fn raw(r: Raw<Self>);

    /// Does a product by the kernels of this crate, if they have it for this type and size on this machine; says whether it did.
    #[doc(hidden)]
    fn by_hand(product: &Product<Self>, a: Mat<Self>, b: Mat<Self>, c: &mut MatMut<Self>) -> bool;

    /// The nearest bf16.
    #[doc(hidden)]
    fn narrow(self) -> Self;
}

impl Threads {
    pub(super) fn of_library(self) -> Parallelism {
        match self {
            Threads::One => Parallelism::None,
            Threads::All => Parallelism::Rayon(rayon::current_num_threads()),
        }
    }
}

macro_rules! gemm_real {
    ($t:ident, $kernels:ident, $by_hand:expr, $narrow:expr) => {
        impl GemmReal for $t {
            fn by_hand(product: &Product<Self>, a: Mat<Self>, b: Mat<Self>, c: &mut MatMut<Self>) -> bool {
                $by_hand(product, a, b, c)
            }

            fn narrow(self) -> Self {
                $narrow(self)
            }

            unsafe fn raw(r: Raw<Self>) {
                macro_rules! at_level {
                    ($module:ident, $simd:ident, $lanes:expr) => {{
                        use $kernels::microkernel::$module::$t as kernel;
                        // SAFETY: the caller vouches for the memory; `level` for the instruction set.
                        unsafe {
                            gemm_basic_generic::<
                                _,
                                $t,
                                { $lanes },
                                { kernel::MR_DIV_N * $lanes },
                                { kernel::NR },
                                { kernel::MR_DIV_N },
                                { kernel::H_M },
                                { kernel::H_N },
                            >(
                                <gemm_common::simd::$simd as MixedSimd<$t, $t, $t, $t>>::try_new().expect("a level this machine has"),
                                r.m,
                                r.n,
                                r.k,
                                r.dst,
                                r.dst_cs,
                                1,
                                r.add,
                                r.lhs,
                                r.lhs_cs,
                                r.lhs_rs,
                                r.rhs,
                                r.rhs_cs,
                                r.rhs_rs,
                                1.0,
                                r.alpha,
                                false,
                                false,
                                false,
                                |a, b, c| a * b + c,
                                &kernel::UKR,
                                &kernel::H_UKR,
                                false,
                                r.parallelism,
                            )
                        }
                    }};
                }
                match crate::simd::level() {
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512 => at_level!(avx512f, V4, 64 / size_of::<$t>()),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx2 => at_level!(fma, V3, 32 / size_of::<$t>()),
                    _ => at_level!(scalar, Scalar, 1),
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
use super::by_hand;
#[cfg(not(target_arch = "x86_64"))]
fn by_hand(_: &Product<f32>, _: Mat<f32>, _: Mat<f32>, _: &mut MatMut<f32>) -> bool {
    false
}

gemm_real!(f32, gemm_f32, by_hand, |x: f32| f32::from_bits(narrow(x) << 16));
gemm_real!(f64, gemm_f64, |_, _, _, _| false, |x| x);
