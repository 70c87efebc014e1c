//! Reductions of rows, at the [SIMD level](crate::simd) in force, for what looks at a plan's values from outside: a row's sum, scalar product
//! and entropy, and sums of many rows. Sums run in fixed partial sums: equal bits whenever the level is equal.

use crate::ops::rows;
use crate::simd::LANES;
use crate::{Real, simd_fn};

simd_fn! {
    /// Σ x.
    pub fn sum<T: Real>(x: &[T]) -> T {
        rows::sum(x)
    }
}

simd_fn! {
    /// Σ x y, of equal length.
    pub fn dot<T: Real>(x: &[T], y: &[T]) -> T {
        assert_eq!(x.len(), y.len(), "rows of equal length");
        rows::dot::<S, T>(x, y)
    }
}

simd_fn! {
    /// Σ x ln x of values that are not negative: less the entropy, where they sum to one. 0 ln 0 is 0.
    pub fn x_ln_x<T: Real>(x: &[T]) -> T {
        let mut lanes = [T::ZERO; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for c in chunks {
            for i in 0..LANES {
                lanes[i] += c[i].x_ln_x::<S>();
            }
        }
        rest.iter().fold(rows::fold(lanes), |s, x| s + x.x_ln_x::<S>())
    }
}

simd_fn! {
    /// y += a x in double precision, of equal length.
    pub fn add_scaled<T: Real>(y: &mut [f64], a: f64, x: &[T]) {
        assert_eq!(x.len(), y.len(), "rows of equal length");
        for (y, x) in y.iter_mut().zip(x) {
            *y = f64::fma::<S>(a, x.f64(), *y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stream;

    #[test]
    fn reductions_equal_their_definitions() {
        let mut random = Stream::new(&[3]);
        for n in [0, 1, 31, 32, 49, 257] {
            let (x, y): (Vec<f32>, Vec<f32>) = (0..n).map(|_| (random.uniform() as f32, random.normal() as f32)).unzip();
            let wide = |x: &[f32]| x.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
            let (x64, y64) = (wide(&x), wide(&y));
            let near = |found: f32, want: f64| assert!((f64::from(found) - want).abs() <= 1e-6 * (1.0 + n as f64), "{n}: {found}, {want}");
            near(sum(&x), x64.iter().sum());
            near(dot(&x, &y), x64.iter().zip(&y64).map(|(x, y)| x * y).sum());
            near(x_ln_x(&x), x64.iter().map(|x| x * x.ln()).sum());
            assert!((x_ln_x(&x64) - x64.iter().map(|x| x * x.ln()).sum::<f64>()).abs() < 1e-11);
            let mut sums = y64.clone();
            add_scaled(&mut sums, 0.25, &x);
            assert!(sums.iter().zip(y64.iter().zip(&x64)).all(|(s, (y, x))| (s - (y + 0.25 * x)).abs() < 1e-15));
        }
    }
}
