//! DINO's last layer and loss in dfdx: unit-length vectors x [R, D] meet prototypes w [K, D] of unit length.
//!
//! L = - scale · Σ_r Σ_k t_rk log softmax(x_r · ŵ / T)_k, with ŵ_k = w_k / |w_k|.

use dfdx::prelude::*;
use rayon::prelude::*;

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

/// Rows whose sums are made one after the other; the sums of chunks are added in order, so the bits do not depend on threads.
const CHUNK: usize = 256;

/// The same as [`loss_and_gradients`] for many rows (regions): by hand, on all threads.
///
/// # Errors
/// Values that do not fill rows of `width`.
pub fn loss_and_gradients_of_many(
    x: &[f32],
    w: &[f32],
    targets: &[f32],
    width: usize,
    temperature: f64,
    scale: f64,
) -> Result<(f64, Vec<f32>, Vec<f32>), Error> {
    let (rows, k) = (x.len() / width, w.len() / width);
    if x.len() != rows * width || w.len() != k * width || targets.len() != rows * k {
        return Err(Error::Usage(format!("{} and {} values do not fill rows of {width}", x.len(), w.len())));
    }
    let lengths: Vec<f32> = w.chunks_exact(width).map(|row| row.iter().map(|v| v * v).sum::<f32>().sqrt()).collect();
    let unit: Vec<f32> = w.chunks_exact(width).zip(&lengths).flat_map(|(row, length)| row.iter().map(move |v| v / length)).collect();
    let (warmth, scale) = (temperature as f32, scale as f32);
    let mut dx = vec![0.0f32; x.len()];
    let chunks = dx.par_chunks_mut(CHUNK * width).zip(x.par_chunks(CHUNK * width)).zip(targets.par_chunks(CHUNK * k));
    let sums: Vec<(f64, Vec<f32>)> = chunks
        .map(|((dx, x), targets)| {
            let (mut loss, mut of_unit, mut z) = (0.0f64, vec![0.0f32; k * width], vec![0.0f32; k]);
            for ((dx, x), t) in dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(targets.chunks_exact(k)) {
                for (z, w) in z.iter_mut().zip(unit.chunks_exact(width)) {
                    *z = x.iter().zip(w).map(|(a, b)| a * b).sum::<f32>() / warmth;
                }
                let top = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f32 = z.iter().map(|z| (z - top).exp()).sum();
                let (log_sum, mass) = (top + sum.ln(), t.iter().sum::<f32>());
                for (((z, t), w), dw) in z.iter().zip(t).zip(unit.chunks_exact(width)).zip(of_unit.chunks_exact_mut(width)) {
                    loss -= f64::from(scale * t * (z - log_sum));
                    let dz = scale * (mass * (z - log_sum).exp() - t) / warmth;
                    dx.iter_mut().zip(w).for_each(|(d, w)| *d += dz * w);
                    dw.iter_mut().zip(x).for_each(|(d, x)| *d += dz * x);
                }
            }
            (loss, of_unit)
        })
        .collect();
    let (mut loss, mut dw) = (0.0, vec![0.0f32; w.len()]);
    for (part, of_unit) in &sums {
        loss += part;
        dw.iter_mut().zip(of_unit).for_each(|(a, b)| *a += b);
    }
    // From the unit-length prototypes to their own lengths: what points along a prototype changes nothing.
    for ((dw, w), length) in dw.chunks_exact_mut(width).zip(unit.chunks_exact(width)).zip(&lengths) {
        let along: f32 = dw.iter().zip(w).map(|(d, w)| d * w).sum();
        dw.iter_mut().zip(w).for_each(|(d, w)| *d = (*d - along * w) / length);
    }
    Ok((loss, dx, dw))
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
    fn many_rows_by_hand_are_those_of_dfdx() {
        let (width, rows, k) = (8, 3 * CHUNK / 2, 12);
        let mut random = Stream::new(&[11]);
        let mut noise = |n: usize| (0..n).map(|_| random.normal() as f32).collect::<Vec<f32>>();
        let (x, w) = (noise(rows * width), noise(k * width));
        let t: Vec<f32> = noise(rows * k).iter().map(|v| v.abs()).collect();
        let (loss, dx, dw) = loss_and_gradients(&x, &w, &t, width, 0.3, 1e-3).unwrap();
        let (found, dx_found, dw_found) = loss_and_gradients_of_many(&x, &w, &t, width, 0.3, 1e-3).unwrap();
        assert!((loss / found - 1.0).abs() < 1e-5, "{loss} {found}");
        for (a, b) in [(&dx, &dx_found), (&dw, &dw_found)] {
            let most = a.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 2e-5 * most));
        }
        assert!(loss_and_gradients_of_many(&x, &w, &t[1..], width, 0.3, 1.0).is_err());
        // The same bits on one thread.
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let alone = one.install(|| loss_and_gradients_of_many(&x, &w, &t, width, 0.3, 1e-3).unwrap());
        assert!(alone == (found, dx_found, dw_found));
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
