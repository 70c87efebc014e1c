//! Linear centred kernel alignment (Kornblith et al. 2019) between every two layers, streaming.
//!
//! * *exact*: ‖Yᵀ X‖²_F / (‖Xᵀ X‖_F ‖Yᵀ Y‖_F) of features centred over all rows. It needs a matrix of C x C' numbers for each pair of
//!   layers, and with fewer rows than channels it is biased upwards: at n rows unrelated features have about C / n.
//! * *minibatch* (Nguyen et al. 2021): the unbiased HSIC₁ of Song et al. (2012) of every batch, averaged over batches before the
//!   quotient. It is HSIC₁(K, L) = Σ_ij A_ij B_ij / (n (n - 3)) of the U-centred Gram matrices A, B (Székely and Rizzo 2014), so that a
//!   batch costs a Gram matrix a layer and a dot product a pair. Unbiased numerators may make a small value negative.
//!
//! Both do not change when a layer's features are rotated, shifted, or scaled as a whole.

use fd_compute::{Mat, MatMut, Threads, matmul};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::moments::{Products, Rows, Sums};
use fd_distill::Error;

/// Most bytes of the exact estimator's matrices.
const MOST_BYTES: usize = 4 << 30;

/// How CKA is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Estimator {
    /// In feature space, of all rows at once.
    Exact,
    /// HSIC₁ averaged over batches.
    Minibatch,
}

impl Estimator {
    /// For the conventions of a report.
    pub fn describe(self) -> &'static str {
        match self {
            Estimator::Exact => {
                "linear CKA, exact feature-space form ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F) of features centred over all rows, accumulated \
                 in f64 batch by batch; biased upwards by about width / rows where rows are few"
            }
            Estimator::Minibatch => {
                "linear CKA, minibatch estimator: unbiased HSIC1 of every full batch (U-centred linear Gram matrices, f64), averaged over batches \
                 before the quotient; a last batch that is not full is left out"
            }
        }
    }
}

/// CKA between layers, under way.
#[derive(Debug)]
pub struct Cka {
    how: How,
    widths: Vec<usize>,
    /// Rows, or batches, so far.
    seen: usize,
}

#[derive(Debug)]
enum How {
    /// The upper triangle, row by row; the diagonal is in it. Pairs that cannot be compared have none.
    Exact { sums: Vec<Sums>, products: Vec<((usize, usize), Products)> },
    /// Σ over batches of HSIC₁, of the same pairs.
    Minibatch { sums: Vec<((usize, usize), f64)> },
}

impl Cka {
    /// Between layers of these widths; `alike` says which have as many rows an image.
    ///
    /// # Errors
    /// [`Error::Usage`] when the exact form needs too much memory.
    pub fn new(estimator: Estimator, widths: &[usize], alike: impl Fn(usize, usize) -> bool) -> Result<Cka, Error> {
        let n = widths.len();
        let pairs = || (0..n).flat_map(|a| (a..n).map(move |b| (a, b))).filter(|&(a, b)| alike(a, b));
        let how = match estimator {
            Estimator::Exact => {
                let bytes: usize = pairs().map(|(a, b)| 8 * widths[a] * widths[b]).sum();
                if bytes > MOST_BYTES {
                    let gib = bytes as f64 / f64::from(1 << 30);
                    let why = format!("{} pairs of layers need {gib:.1} GiB: take minibatch, or fewer --layers", pairs().count());
                    return Err(Error::Usage(format!("--estimator exact: {why}")));
                }
                let products = pairs().map(|(a, b)| ((a, b), Products::new(widths[a], widths[b]))).collect();
                How::Exact { sums: vec![Sums::default(); n], products }
            }
            Estimator::Minibatch => How::Minibatch { sums: pairs().map(|pair| (pair, 0.0)).collect() },
        };
        Ok(Cka { how, widths: widths.to_vec(), seen: 0 })
    }

    /// Adds a batch: the rows of every layer.
    ///
    /// # Errors
    /// [`Error::Usage`] for the minibatch estimator when a batch has fewer than 4 rows.
    pub fn add(&mut self, batch: &[Rows]) -> Result<(), Error> {
        match &mut self.how {
            How::Exact { sums, products } => {
                let shifted: Vec<Rows> = sums.par_iter_mut().zip(batch).map(|(sums, rows)| sums.add(rows)).collect();
                products.par_iter_mut().for_each(|((a, b), products)| products.add(&shifted[*a], &shifted[*b]));
                self.seen += batch.first().map_or(0, Rows::len);
            }
            How::Minibatch { sums } => {
                if let Some(few) = batch.iter().map(Rows::len).find(|n| *n < 4) {
                    return Err(Error::Usage(format!("--batch: the minibatch estimator needs at least 4 rows a batch, not {few}")));
                }
                let grams: Vec<Vec<f64>> = batch.par_iter().map(u_centred_gram).collect();
                sums.par_iter_mut().for_each(|((a, b), sum)| {
                    let n = batch[*a].len() as f64;
                    *sum += dot(&grams[*a], &grams[*b]) / (n * (n - 3.0));
                });
                self.seen += 1;
            }
        }
        Ok(())
    }

    /// The matrix `[layers, layers]`; none where two layers have different rows, or one does not vary.
    pub fn finish(&self) -> Vec<Option<f64>> {
        let n = self.widths.len();
        let hsic: Vec<((usize, usize), f64)> = match &self.how {
            How::Exact { sums, products } => {
                let square = |(pair, products): &((usize, usize), Products)| {
                    let centred = products.centred(&sums[pair.0], &sums[pair.1]);
                    (*pair, dot(&centred, &centred))
                };
                products.par_iter().map(square).collect()
            }
            How::Minibatch { sums } => sums.clone(),
        };
        let mut own = vec![0.0; n];
        hsic.iter().filter(|((a, b), _)| a == b).for_each(|((a, _), value)| own[*a] = *value);
        let mut matrix = vec![None; n * n];
        for ((a, b), value) in hsic {
            // One layer with itself is 1 by definition, not but for rounding.
            let quotient = if a == b { value / own[a] } else { value / (own[a].sqrt() * own[b].sqrt()) };
            let cka = Some(quotient).filter(|q| q.is_finite());
            (matrix[a * n + b], matrix[b * n + a]) = (cka, cka);
        }
        matrix
    }

    /// Rows (exact) or batches (minibatch) that went in.
    pub fn seen(&self) -> usize {
        self.seen
    }
}

/// X Xᵀ of centred rows with row and column means taken off such that the products of two are unbiased; the diagonal is 0.
fn u_centred_gram(rows: &Rows) -> Vec<f64> {
    // HSIC₁ does not change with the origin; rounding does.
    let (x, n) = (rows.centred(), rows.len());
    let mut gram = vec![0.0; n * n];
    let x = Mat::new(&x.values, n, rows.width);
    matmul(1.0, x, x.t(), false, MatMut::new(&mut gram, n, n), Threads::One);
    (0..n).for_each(|i| gram[i * n + i] = 0.0);
    let sums: Vec<f64> = gram.chunks_exact(n).map(|row| row.iter().sum()).collect();
    let (total, of_rows) = (sums.iter().sum::<f64>(), n as f64 - 2.0);
    for i in 0..n {
        for j in (0..n).filter(|j| *j != i) {
            gram[i * n + j] += total / ((n as f64 - 1.0) * of_rows) - (sums[i] + sums[j]) / of_rows;
        }
    }
    gram
}

/// Eight running sums, in a fixed order.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    for (a, b) in a8.iter().zip(b8) {
        (0..8).for_each(|i| sums[i] += a[i] * b[i]);
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

#[cfg(test)]
mod tests;
