//! The two element types that plans run in on the CPU.

use crate::simd::{Simd, math};

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// `f32`, in which everything runs, or `f64`, in which it is proven.
pub trait Real:
    sealed::Sealed
    + Copy
    + Send
    + Sync
    + Default
    + PartialOrd
    + std::fmt::Debug
    + std::iter::Sum
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
    + std::ops::AddAssign
    + std::ops::SubAssign
    + std::ops::MulAssign
    + crate::gemm::GemmReal
    + bytemuck::Pod
    + 'static
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// The lowest finite value.
    const LOWEST: Self;
    /// Its name in messages and files.
    const DTYPE: crate::DType;
    /// Nearest value.
    fn of(x: f64) -> Self;
    /// Exact widening.
    fn f64(self) -> f64;
    /// a · b + c, fused where the level fuses.
    fn fma<S: Simd>(a: Self, b: Self, c: Self) -> Self;
    /// e^x. For f32 see [`math::exp`]; for f64 libm's.
    fn exp<S: Simd>(self) -> Self;
    /// (x Φ(x), its derivative): see [`math::gelu`].
    fn gelu<S: Simd>(self) -> (Self, Self);
    /// x ln x for x from 0 to 1 (or above); 0 where x is 0. For f32 see [`math::x_ln_x`].
    fn x_ln_x<S: Simd>(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// |x|.
    fn abs(self) -> Self;
    /// The larger; the other operand where one is NaN.
    fn maximum(self, other: Self) -> Self;
}

macro_rules! real {
    ($t:ident, $dtype:expr, $exp:expr, $gelu:expr, $x_ln_x:expr) => {
        impl Real for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LOWEST: Self = $t::MIN;
            const DTYPE: crate::DType = $dtype;
            #[inline(always)]
            fn of(x: f64) -> Self {
                x as $t
            }
            #[inline(always)]
            fn f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn fma<S: Simd>(a: Self, b: Self, c: Self) -> Self {
                if S::FMA { a.mul_add(b, c) } else { a * b + c }
            }
            #[inline(always)]
            fn exp<S: Simd>(self) -> Self {
                $exp(self)
            }
            #[inline(always)]
            fn gelu<S: Simd>(self) -> (Self, Self) {
                $gelu(self)
            }
            #[inline(always)]
            fn x_ln_x<S: Simd>(self) -> Self {
                $x_ln_x(self)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                $t::sqrt(self)
            }
            #[inline(always)]
            fn ln(self) -> Self {
                $t::ln(self)
            }
            #[inline(always)]
            fn abs(self) -> Self {
                $t::abs(self)
            }
            #[inline(always)]
            fn maximum(self, other: Self) -> Self {
                if self > other { self } else { other }
            }
        }
    };
}

real!(f32, crate::DType::F32, math::exp::<S>, math::gelu::<S>, math::x_ln_x::<S>);
real!(f64, crate::DType::F64, libm::exp, math::gelu_f64, math::x_ln_x_f64);
