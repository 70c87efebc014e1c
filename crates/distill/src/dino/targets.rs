//! From the teacher's cosines to target probabilities: sharpened by a temperature, and kept from collapsing.

use fd_compute::Params;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most rounds of balancing.
const MOST_ITERATIONS: usize = 100;

/// What keeps the teacher from giving every image the same answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Targets {
    /// A running mean of the logits is subtracted (DINO).
    Centring {
        /// Of the running mean.
        #[schemars(range(min = 0.0, max = 1.0))]
        momentum: f64,
    },
    /// The batch's probabilities are balanced over the prototypes (SwAV, DINOv2).
    Sinkhorn {
        /// Rounds of balancing.
        #[schemars(range(min = 1, max = MOST_ITERATIONS))]
        iterations: usize,
    },
}

impl Targets {
    pub(super) fn check(&self) -> Result<(), String> {
        match *self {
            Targets::Centring { momentum } if !(0.0..=1.0).contains(&momentum) => Err(format!("momentum {momentum} is not in 0..=1")),
            Targets::Sinkhorn { iterations } if !(1..=MOST_ITERATIONS).contains(&iterations) => {
                Err(format!("iterations {iterations} is not from 1 to {MOST_ITERATIONS}"))
            }
            _ => Ok(()),
        }
    }
}

/// softmax((s - centre) / T) of every row [R, K]; afterwards the centre moves: c ← m c + (1 - m) mean(s).
pub fn centred(scores: &[f32], k: usize, temperature: f64, momentum: f64, centre: &mut Params) -> Vec<f32> {
    let handle = centre.layout().iter().next().expect("a set of one tensor, the centre");
    let c = centre.to_f64(handle);
    let rows = scores.len() / k;
    let (mut mean, mut out) = (vec![0.0; k], Vec::with_capacity(scores.len()));
    for row in scores.chunks_exact(k) {
        let z: Vec<f64> = row.iter().zip(&c).map(|(&s, c)| (f64::from(s) - c) / temperature).collect();
        let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = z.iter().map(|z| (z - top).exp()).sum();
        out.extend(z.iter().map(|z| ((z - top).exp() / sum) as f32));
        mean.iter_mut().zip(row).for_each(|(m, &s)| *m += f64::from(s) / rows as f64);
    }
    let moved: Vec<f64> = c.iter().zip(&mean).map(|(c, m)| momentum * c + (1.0 - momentum) * m).collect();
    centre.set(handle, &moved);
    out
}

/// Sinkhorn and Knopp on exp(s / T) [R, K]: in turn every prototype gets R / K of the mass and every row 1; the rows come last.
pub fn sinkhorn(scores: &[f32], k: usize, temperature: f64, iterations: usize) -> Vec<f32> {
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut q: Vec<f64> = scores.iter().map(|&s| (f64::from(s - top) / temperature).exp()).collect();
    let rows = q.len() / k;
    for _ in 0..iterations {
        let mut mass = vec![0.0; k];
        q.chunks_exact(k).for_each(|row| mass.iter_mut().zip(row).for_each(|(m, q)| *m += q));
        // A prototype that no image is near has no mass to share out.
        let share: Vec<f64> = mass.iter().map(|m| if *m > 0.0 { rows as f64 / (k as f64 * m) } else { 0.0 }).collect();
        for row in q.chunks_exact_mut(k) {
            row.iter_mut().zip(&share).for_each(|(q, s)| *q *= s);
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|q| *q /= sum);
        }
    }
    q.into_iter().map(|q| q as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fd_compute::{DType, Layout, Stream};

    fn sums(q: &[f32], k: usize) -> (Vec<f64>, Vec<f64>) {
        let rows = q.chunks_exact(k).map(|r| r.iter().map(|&v| f64::from(v)).sum()).collect();
        let columns = (0..k).map(|j| q.iter().skip(j).step_by(k).map(|&v| f64::from(v)).sum()).collect();
        (rows, columns)
    }

    #[test]
    fn sinkhorn_balances_rows_and_columns() {
        let (mut random, k) = (Stream::new(&[1]), 6);
        // One prototype that every image prefers.
        let scores: Vec<f32> = (0..24 * k).map(|i| random.uniform() as f32 + if i % k == 2 { 0.5 } else { 0.0 }).collect();
        let (rows, columns) = sums(&sinkhorn(&scores, k, 0.1, 50), k);
        assert!(rows.iter().all(|r| (r - 1.0).abs() < 1e-5), "{rows:?}");
        assert!(columns.iter().all(|c| (c - 4.0).abs() < 0.02), "{columns:?}");
        let once = sums(&sinkhorn(&scores, k, 0.1, 1), k);
        assert!(once.0.iter().all(|r| (r - 1.0).abs() < 1e-5) && once.1.iter().any(|c| (c - 4.0).abs() > 0.05));
    }

    #[test]
    fn two_by_two_sinkhorn_by_hand() {
        // exp(s/T) = [[1, 1/2], [1/2, 1/2]] up to a factor; columns: 3/2, 1 -> shares 2/3, 1; rows then sum to 7/6 and 5/6.
        let ln2 = std::f32::consts::LN_2;
        let q = sinkhorn(&[0.0, -ln2, -ln2, -ln2], 2, 1.0, 1);
        for (q, e) in q.iter().zip([4.0 / 7.0, 3.0 / 7.0, 2.0 / 5.0, 3.0 / 5.0]) {
            assert!((q - e).abs() < 1e-6, "{q} {e}");
        }
    }

    #[test]
    fn far_scores_stay_finite() {
        let q = sinkhorn(&[1.0, -1.0, 1.0, -1.0], 2, 0.01, 3);
        assert!(q.iter().all(|v| v.is_finite()), "{q:?}");
    }

    #[test]
    fn the_centre_follows_the_mean_and_is_subtracted() {
        let mut layout = Layout::builder();
        let c = layout.add("centre", &[2]);
        let mut centre = Params::new(&layout.finish(), DType::F32);
        centre.set(c, &[1.0, 0.0]);
        let p = centred(&[1.0, 0.0, 3.0, 2.0], 2, 0.5, 0.75, &mut centre);
        // Rows minus the centre: (0, 0) and (2, 2): even odds.
        assert!(p.iter().all(|v| (v - 0.5).abs() < 1e-6), "{p:?}");
        assert_eq!(centre.to_f64(c), [0.75 * 1.0 + 0.25 * 2.0, 0.25 * 1.0]);
    }
}
