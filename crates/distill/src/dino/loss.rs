//! DINO's last layer and loss in dfdx: unit-length vectors x [R, D] meet prototypes w [K, D] of unit length.
//!
//! L = - scale · Σ_r Σ_k t_rk log softmax(x_r · ŵ / T)_k, with ŵ_k = w_k / |w_k|.

use dfdx::prelude::*;

use crate::Error;
use crate::in_dfdx::{Logits, Scalar, tensor};

/// x ŵᵀ: cosines [R, K] between the vectors and the prototypes.
fn cosines<T: Tape<f32, Cpu> + Merge<T>>(x: Logits<f32, T>, w: Logits<f32, T>) -> Logits<f32, T> {
    let shape = *w.shape();
    let length = w.retaped::<T>().square().sum::<(usize,), Axis<1>>().sqrt();
    let unit = w / length.broadcast_like::<_, Axis<1>>(&shape);
    x.matmul(unit.permute::<_, Axes2<1, 0>>())
}

/// Cosines without gradients: the teacher's.
///
/// # Errors
/// Values that do not fill rows of `width`.
pub fn logits(x: &[f32], w: &[f32], width: usize) -> Result<Vec<f32>, Error> {
    Ok(cosines(tensor((x.len() / width, width), x)?, tensor((w.len() / width, width), w)?).as_vec())
}

/// (L, dL/dx, dL/dw) for targets [R, K].
///
/// # Errors
/// Values that do not fill rows of `width`.
pub fn loss_and_gradients(
    x: &[f32],
    w: &[f32],
    targets: &[f32],
    width: usize,
    temperature: f64,
    scale: f64,
) -> Result<(f64, Vec<f32>, Vec<f32>), Error> {
    let (rows, prototypes) = (x.len() / width, w.len() / width);
    let (x, w) = (tensor((rows, width), x)?, tensor((prototypes, width), w)?);
    let targets: Logits<f32> = tensor((rows, prototypes), targets)?;
    let log_p = (cosines(x.leaky_trace(), w.leaky_trace()) / temperature as f32).log_softmax::<Axis<1>>();
    let loss: Scalar<f32, OwnedTape<f32, Cpu>> = (log_p * targets).sum() * -(scale as f32);
    let value = f64::from(loss.as_vec()[0]);
    let gradients = loss.backward();
    Ok((value, gradients.get(&x).as_vec(), gradients.get(&w).as_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fd_compute::Stream;

    /// In double precision, straight from the formula.
    fn by_hand(x: &[f64], w: &[f64], t: &[f64], width: usize, temperature: f64, scale: f64) -> f64 {
        let k = w.len() / width;
        let mut loss = 0.0;
        for (x, t) in x.chunks_exact(width).zip(t.chunks_exact(k)) {
            let z: Vec<f64> = w
                .chunks_exact(width)
                .map(|w| {
                    let length = w.iter().map(|v| v * v).sum::<f64>().sqrt();
                    w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() / length / temperature
                })
                .collect();
            let log_sum = z.iter().map(|z| z.exp()).sum::<f64>().ln();
            loss -= scale * z.iter().zip(t).map(|(z, t)| t * (z - log_sum)).sum::<f64>();
        }
        loss
    }

    #[test]
    fn gradients_are_central_differences() {
        let (width, rows, k, temperature, scale) = (3, 4, 5, 0.3, 0.125);
        let mut random = Stream::new(&[3]);
        let mut noise = |n: usize| (0..n).map(|_| random.normal()).collect::<Vec<f64>>();
        let (x, w) = (noise(rows * width), noise(k * width));
        let t: Vec<f64> = noise(rows * k).iter().map(|v| v.abs()).collect();
        let f32s = |v: &[f64]| v.iter().map(|&v| v as f32).collect::<Vec<_>>();
        let (loss, dx, dw) = loss_and_gradients(&f32s(&x), &f32s(&w), &f32s(&t), width, temperature, scale).unwrap();
        let at = |x: &[f64], w: &[f64]| by_hand(x, w, &t, width, temperature, scale);
        assert!((loss - at(&x, &w)).abs() < 1e-5, "{loss} {}", at(&x, &w));
        let moved = |v: &[f64], i: usize, by: f64| v.iter().enumerate().map(|(j, v)| v + if i == j { by } else { 0.0 }).collect::<Vec<_>>();
        let h = 1e-5;
        for (i, g) in dx.iter().enumerate() {
            let expected = (at(&moved(&x, i, h), &w) - at(&moved(&x, i, -h), &w)) / (2.0 * h);
            assert!((f64::from(*g) - expected).abs() < 1e-4, "dx {i}: {g} {expected}");
        }
        for (i, g) in dw.iter().enumerate() {
            let expected = (at(&x, &moved(&w, i, h)) - at(&x, &moved(&w, i, -h))) / (2.0 * h);
            assert!((f64::from(*g) - expected).abs() < 1e-4, "dw {i}: {g} {expected}");
        }
    }
}
