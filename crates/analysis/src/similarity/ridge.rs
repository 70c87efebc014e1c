//! A linear probe in closed form: ridge regression from standardised features to one-hot classes, from sums over the training rows.
//!
//! W = (Z'Z / n + λ I)⁻¹ Z'Y / n for features Z of mean 0 and variance 1 (the probe's BatchNorm) and centred one-hot rows Y; the class of
//! the greatest W z + mean(Y) is the answer. No iterations and no random numbers: two layers differ by their features alone.

use super::moments::{Products, Rows, Sums};

/// A probe's sums, under way.
#[derive(Clone, Debug)]
pub struct RidgeSums {
    x: Sums,
    y: Sums,
    xx: Products,
    xy: Products,
    classes: usize,
}

impl RidgeSums {
    /// None yet.
    pub fn new(width: usize, classes: usize) -> RidgeSums {
        RidgeSums { x: Sums::default(), y: Sums::default(), xx: Products::new(width, width), xy: Products::new(width, classes), classes }
    }

    /// Adds rows with their classes.
    pub fn add(&mut self, rows: &Rows, labels: &[u32]) {
        let mut one_hot = vec![0.0; labels.len() * self.classes];
        labels.iter().enumerate().for_each(|(i, label)| one_hot[i * self.classes + *label as usize] = 1.0);
        let (x, y) = (self.x.add(rows), self.y.add(&Rows { values: one_hot, width: self.classes }));
        self.xx.add(&x, &x);
        self.xy.add(&x, &y);
    }

    /// The probe of strength λ, above 0.
    pub fn solve(&self, strength: f64) -> Ridge {
        let (n, k) = (self.x.rows().max(1) as f64, self.classes);
        let (xx, xy) = (self.xx.centred(&self.x, &self.x), self.xy.centred(&self.x, &self.y));
        let (mean, width) = (self.x.mean(), self.x.mean().len());
        // A channel that does not vary says nothing.
        let inverse = |i: usize| Some(xx[i * width + i] / n).filter(|v| *v > 0.0).map_or(0.0, |v| v.sqrt().recip());
        let scale: Vec<f64> = (0..width).map(inverse).collect();
        let mut gram: Vec<f64> = (0..width * width).map(|ij| xx[ij] / n * scale[ij / width] * scale[ij % width]).collect();
        (0..width).for_each(|i| gram[i * width + i] += strength);
        let mut weight: Vec<f64> = (0..width * k).map(|ik| xy[ik] / n * scale[ik / k]).collect();
        solve(&mut gram, width, &mut weight, k);
        Ridge { mean, scale, weight, prior: self.y.mean() }
    }
}

/// A probe that is ready.
#[derive(Clone, Debug)]
pub struct Ridge {
    mean: Vec<f64>,
    scale: Vec<f64>,
    /// `[width, classes]`.
    weight: Vec<f64>,
    prior: Vec<f64>,
}

impl Ridge {
    /// The class of every row, the first of equals.
    pub fn classes(&self, rows: &Rows) -> Vec<u32> {
        let k = self.prior.len();
        let class = |row: &[f64]| {
            let mut scores = self.prior.clone();
            for (i, x) in row.iter().enumerate() {
                let z = (x - self.mean[i]) * self.scale[i];
                scores.iter_mut().zip(&self.weight[i * k..(i + 1) * k]).for_each(|(s, w)| *s += w * z);
            }
            (0..k).max_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(b.cmp(&a))).unwrap_or(0) as u32
        };
        rows.values.chunks_exact(rows.width).map(class).collect()
    }
}

/// Solves A X = B in place (`a` `[n, n]` positive definite, `b` `[n, k]`) by Cholesky's factors.
fn solve(a: &mut [f64], n: usize, b: &mut [f64], k: usize) {
    for i in 0..n {
        let (above, rest) = a.split_at_mut(i * n);
        let row = &mut rest[..n];
        for j in 0..i {
            let other = &above[j * n..j * n + n];
            let sum: f64 = row[..j].iter().zip(&other[..j]).map(|(x, y)| x * y).sum();
            row[j] = (row[j] - sum) / other[j];
        }
        row[i] = (row[i] - row[..i].iter().map(|x| x * x).sum::<f64>()).max(f64::MIN_POSITIVE).sqrt();
    }
    let subtract = |b: &mut [f64], from: usize, factor: f64, i: usize| {
        (0..k).for_each(|c| b[i * k + c] -= factor * b[from * k + c]);
    };
    for i in 0..n {
        (0..i).for_each(|j| subtract(b, j, a[i * n + j], i));
        (0..k).for_each(|c| b[i * k + c] /= a[i * n + i]);
    }
    for i in (0..n).rev() {
        (i + 1..n).for_each(|j| subtract(b, j, a[j * n + i], i));
        (0..k).for_each(|c| b[i * k + c] /= a[i * n + i]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fd_compute::Stream;

    /// Three classes around three points, one channel of another scale, one that is constant.
    fn samples(n: usize, seed: u64) -> (Rows, Vec<u32>) {
        let mut random = Stream::named(seed, "samples");
        let labels: Vec<u32> = (0..n as u32).map(|i| i % 3).collect();
        let row = |l: &u32| {
            let [x, y] = [[0.0, 3.0], [3.0, 0.0], [-3.0, -3.0]][*l as usize];
            [x + random.normal() * 0.3, 1e4 * (y + random.normal() * 0.3), 7.0]
        };
        (Rows { values: labels.iter().flat_map(row).collect(), width: 3 }, labels)
    }

    #[test]
    fn classes_far_apart_are_told_apart() {
        let (train, labels) = samples(90, 0);
        let mut sums = RidgeSums::new(3, 3);
        for (rows, labels) in train.values.chunks(3 * 30).zip(labels.chunks(30)) {
            sums.add(&Rows { values: rows.to_vec(), width: 3 }, labels);
        }
        let probe = sums.solve(1e-3);
        let (test, expected) = samples(60, 1);
        assert_eq!(probe.classes(&test), expected);
        assert!(probe.weight[6..].iter().all(|w| *w == 0.0), "the constant channel: {:?}", probe.weight);
    }

    #[test]
    fn the_weights_solve_the_normal_equations() {
        let (train, labels) = samples(50, 2);
        let mut sums = RidgeSums::new(3, 3);
        sums.add(&train, &labels);
        let (probe, n) = (sums.solve(0.1), 50.0);
        let z = |i: usize, c: usize| (train.values[i * 3 + c] - probe.mean[c]) * probe.scale[c];
        // The gradient of mean |Z W + prior - Y|² / 2 + λ |W|² / 2 is zero.
        for c in 0..2 {
            for k in 0..3 {
                let error = |i: usize| {
                    (0..3).map(|d| z(i, d) * probe.weight[d * 3 + k]).sum::<f64>() + probe.prior[k]
                        - f64::from(u8::from(labels[i] == k as u32))
                };
                let gradient = (0..50).map(|i| z(i, c) * error(i)).sum::<f64>() / n + 0.1 * probe.weight[c * 3 + k];
                assert!(gradient.abs() < 1e-12, "{c} {k}: {gradient}");
            }
        }
    }
}
