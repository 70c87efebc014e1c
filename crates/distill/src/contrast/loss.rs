//! The contrast in dfdx: unit-length images x [B, D] and texts y [B, D] meet, every pair, times a learned scale.
//!
//! With l = s x yᵀ and targets t [B, B], whose rows and columns each sum to 1:
//! L = - (Σ t log softmax(l, rows) + Σ t log softmax(l, columns)) / 2B.

use dfdx::prelude::*;

use crate::Error;
use crate::in_dfdx::{Logits, Scalar, tensor};

/// (L, dL/dx, dL/dy, dL/d log s).
///
/// # Errors
/// Values that do not fill rows of `width`.
pub fn contrast(x: &[f32], y: &[f32], targets: &[f32], width: usize, log_scale: f32) -> Result<(f64, Vec<f32>, Vec<f32>, f64), Error> {
    let (rows, scale) = (x.len() / width, log_scale.exp());
    // The scale goes with the images: its gradient is then that of x · x's.
    let scaled: Vec<f32> = x.iter().map(|v| v * scale).collect();
    let (a, b): (Logits<f32>, Logits<f32>) = (tensor((rows, width), &scaled)?, tensor((rows, width), y)?);
    let targets: Logits<f32> = tensor((rows, rows), targets)?;
    let pairs = a.leaky_trace().matmul(b.leaky_trace().permute::<_, Axes2<1, 0>>());
    let copy = pairs.retaped::<OwnedTape<f32, Cpu>>() + 0.0;
    let by_image = (pairs.log_softmax::<Axis<1>>() * targets.clone()).sum();
    let by_text: Scalar<f32, OwnedTape<f32, Cpu>> = (copy.log_softmax::<Axis<0>>() * targets).sum();
    let loss: Scalar<f32, OwnedTape<f32, Cpu>> = (by_image + by_text) * (-0.5 / rows as f32);
    let value = f64::from(loss.as_vec()[0]);
    let gradients = loss.backward();
    let da = gradients.get(&a).as_vec();
    let of_scale = da.iter().zip(&scaled).map(|(g, v)| f64::from(*g) * f64::from(*v)).sum();
    Ok((value, da.iter().map(|g| g * scale).collect(), gradients.get(&b).as_vec(), of_scale))
}

/// Which texts belong to which images: those of the same class, in equal parts [B, B].
pub fn targets(labels: &[u32]) -> Vec<f32> {
    let row = |a: &u32| {
        let same = labels.iter().filter(|b| *b == a).count() as f32;
        labels.iter().map(move |b| if b == a { 1.0 / same } else { 0.0 }).collect::<Vec<_>>()
    };
    labels.iter().flat_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fd_compute::Stream;

    /// In double precision, straight from the formula.
    fn by_hand(x: &[f64], y: &[f64], t: &[f32], width: usize, log_scale: f64) -> f64 {
        let b = x.len() / width;
        let dot = |i: usize, j: usize| (0..width).map(|d| x[i * width + d] * y[j * width + d]).sum::<f64>() * log_scale.exp();
        let rows = |i: usize| (0..b).map(|j| dot(i, j).exp()).sum::<f64>().ln();
        let columns = |j: usize| (0..b).map(|i| dot(i, j).exp()).sum::<f64>().ln();
        let pair = |i: usize, j: usize| f64::from(t[i * b + j]) * (2.0 * dot(i, j) - rows(i) - columns(j));
        -(0..b).flat_map(|i| (0..b).map(move |j| pair(i, j))).sum::<f64>() / (2 * b) as f64
    }

    #[test]
    fn gradients_are_central_differences() {
        let (width, labels, log_scale) = (3, [0, 1, 0, 2], 0.7f64);
        let mut random = Stream::new(&[5]);
        let mut noise = || (0..labels.len() * width).map(|_| 0.5 * random.normal()).collect::<Vec<f64>>();
        let (x, y, t) = (noise(), noise(), targets(&labels));
        assert_eq!(t[..4], [0.5, 0.0, 0.5, 0.0]);
        let f32s = |v: &[f64]| v.iter().map(|&v| v as f32).collect::<Vec<_>>();
        let (loss, dx, dy, ds) = contrast(&f32s(&x), &f32s(&y), &t, width, log_scale as f32).unwrap();
        assert!((loss - by_hand(&x, &y, &t, width, log_scale)).abs() < 1e-5);
        let h = 1e-5;
        let moved = |v: &[f64], i: usize, by: f64| v.iter().enumerate().map(|(j, v)| v + if i == j { by } else { 0.0 }).collect::<Vec<_>>();
        for i in 0..x.len() {
            let of = |by: f64| by_hand(&moved(&x, i, by), &y, &t, width, log_scale);
            assert!((f64::from(dx[i]) - (of(h) - of(-h)) / (2.0 * h)).abs() < 1e-4, "dx {i}");
            let of = |by: f64| by_hand(&x, &moved(&y, i, by), &t, width, log_scale);
            assert!((f64::from(dy[i]) - (of(h) - of(-h)) / (2.0 * h)).abs() < 1e-4, "dy {i}");
        }
        let of = |by: f64| by_hand(&x, &y, &t, width, log_scale + by);
        assert!((ds - (of(h) - of(-h)) / (2.0 * h)).abs() < 1e-4, "d log s");
    }
}
