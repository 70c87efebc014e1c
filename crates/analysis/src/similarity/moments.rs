//! Second moments of features, accumulated batch by batch in f64.
//!
//! Values are taken relative to a shift, the mean of the first batch: features with channels of large constant offset (which trained
//! transformers have) would otherwise lose their variance in the difference of two large sums. Sums run in the order of the batches,
//! and a batch's product is one matrix product that the number of threads does not change.

use fd_compute::{Mat, MatMut, Threads, matmul};

/// Rows of one layer: row by row, each of the layer's width.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// `[n, width]`.
    pub values: Vec<f64>,
    /// Channels.
    pub width: usize,
}

impl Rows {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Sum of every channel.
    fn sum(&self) -> Vec<f64> {
        let mut sum = vec![0.0; self.width];
        for row in self.values.chunks_exact(self.width) {
            sum.iter_mut().zip(row).for_each(|(s, x)| *s += x);
        }
        sum
    }

    /// The same rows relative to a point.
    fn relative_to(&self, point: &[f64]) -> Rows {
        let rows = self.values.chunks_exact(self.width);
        let values = rows.flat_map(|row| row.iter().zip(point).map(|(x, s)| x - s)).collect();
        Rows { values, width: self.width }
    }

    /// The same rows relative to their own mean.
    pub fn centred(&self) -> Rows {
        let n = self.len().max(1) as f64;
        self.relative_to(&self.sum().into_iter().map(|s| s / n).collect::<Vec<_>>())
    }
}

/// Running sums of one layer's channels.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    n: usize,
    shift: Vec<f64>,
    sum: Vec<f64>,
}

impl Sums {
    /// Adds a batch and returns it relative to the shift.
    pub fn add(&mut self, rows: &Rows) -> Rows {
        if self.n == 0 {
            let n = rows.len().max(1) as f64;
            self.shift = rows.sum().into_iter().map(|s| s / n).collect();
            self.sum = vec![0.0; rows.width];
        }
        let shifted = rows.relative_to(&self.shift);
        self.n += rows.len();
        self.sum.iter_mut().zip(shifted.sum()).for_each(|(s, x)| *s += x);
        shifted
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.n
    }

    /// Mean of every channel.
    pub fn mean(&self) -> Vec<f64> {
        let n = self.n.max(1) as f64;
        self.shift.iter().zip(&self.sum).map(|(shift, sum)| shift + sum / n).collect()
    }
}

/// Sum over rows of the products of two layers' shifted channels `[a, b]`.
#[derive(Clone, Debug)]
pub struct Products {
    values: Vec<f64>,
    extents: (usize, usize),
}

impl Products {
    /// All zero.
    pub fn new(a: usize, b: usize) -> Products {
        Products { values: vec![0.0; a * b], extents: (a, b) }
    }

    /// Adds a batch of shifted rows.
    ///
    /// # Panics
    /// When the rows are not as many, or of other widths.
    pub fn add(&mut self, a: &Rows, b: &Rows) {
        let n = a.len();
        assert_eq!((n, a.width, b.width), (b.len(), self.extents.0, self.extents.1), "rows of the two layers");
        let (left, right) = (Mat::new(&a.values, n, a.width).t(), Mat::new(&b.values, n, b.width));
        matmul(1.0, left, right, true, MatMut::new(&mut self.values, a.width, b.width), Threads::One);
    }

    /// Sum over rows of the products of centred channels: Xᵀ Y of centred X and Y, `[a, b]`.
    pub fn centred(&self, a: &Sums, b: &Sums) -> Vec<f64> {
        let n = a.n.max(1) as f64;
        let mut values = self.values.clone();
        for (row, sum_a) in values.chunks_exact_mut(self.extents.1.max(1)).zip(&a.sum) {
            row.iter_mut().zip(&b.sum).for_each(|(v, sum_b)| *v -= sum_a * sum_b / n);
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_with_a_large_offset_have_the_covariance_of_the_whole() {
        let value = |i: usize, c: usize| 1e7 * c as f64 + ((i * 7 + c * 3) % 11) as f64 * 0.25;
        let rows =
            |range: std::ops::Range<usize>| Rows { values: range.flat_map(|i| (0..3).map(move |c| value(i, c))).collect(), width: 3 };
        let (mut sums, mut products) = (Sums::default(), Products::new(3, 3));
        for range in [0..5, 5..6, 6..20] {
            let shifted = sums.add(&rows(range));
            products.add(&shifted, &shifted);
        }
        let mean: Vec<f64> = (0..3).map(|c| (0..20).map(|i| value(i, c)).sum::<f64>() / 20.0).collect();
        assert_eq!(sums.rows(), 20);
        sums.mean().iter().zip(&mean).for_each(|(a, b)| assert!((a - b).abs() < 1e-6));
        let centred = products.centred(&sums, &sums);
        for (a, row) in centred.chunks(3).enumerate() {
            for (b, found) in row.iter().enumerate() {
                let expected: f64 = (0..20).map(|i| (value(i, a) - mean[a]) * (value(i, b) - mean[b])).sum();
                assert!((found - expected).abs() < 1e-6, "{a} {b}: {found} {expected}");
            }
        }
    }
}
