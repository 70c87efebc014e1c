//! What the covariance and the tokens of one layer say: how many directions it uses, how uneven its channels are, how its tokens are
//! scaled before and after whitening (a LayerNorm without affine part, as feature distillation applies it to its target).

use serde::{Deserialize, Serialize};

use super::eigen::eigenvalues;
use super::moments::{Products, Rows, Sums};

/// A channel is massive if its root mean square over tokens is above this many times that of the median channel.
pub const MASSIVE: f64 = 10.0;
/// Eigenvalues below this share of the greatest are taken as zero: features are f32.
pub const RANK_TOLERANCE: f64 = 1e-12;

/// Statistics of one layer's features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statistics {
    /// exp of the entropy of the covariance's eigenvalues, normalised to sum 1 (Roy and Vetterli 2007); 0 for features that do not vary.
    pub effective_rank: f64,
    /// (Σ λ)² / Σ λ².
    pub participation_ratio: f64,
    /// Eigenvalues above [`RANK_TOLERANCE`] of the greatest.
    pub rank: usize,
    /// The greatest of those over the least.
    pub condition: Option<f64>,
    /// Share of the variance along the first principal component.
    pub top_component: f64,
    /// Share of the variance in the channel that has most.
    pub top_channel: f64,
    /// Channels that are [`MASSIVE`].
    pub massive_channels: usize,
    /// Root mean square of the greatest channel over the median channel's.
    pub largest_channel: Option<f64>,
    /// Mean over tokens of the mean over a token's channels.
    pub token_mean: f64,
    /// Standard deviation over tokens of that mean.
    pub token_mean_sd: f64,
    /// Mean over tokens of the (biased) variance over a token's channels.
    pub token_variance: f64,
    /// Standard deviation over tokens of that variance.
    pub token_variance_sd: f64,
}

/// Sums over one layer's tokens.
#[derive(Clone, Debug)]
pub struct TokenSums {
    tokens: usize,
    /// Of mean, mean², variance, variance².
    sums: [f64; 4],
    /// Of every channel's square.
    squares: Vec<f64>,
}

impl TokenSums {
    /// None yet.
    pub fn new(width: usize) -> TokenSums {
        TokenSums { tokens: 0, sums: [0.0; 4], squares: vec![0.0; width] }
    }

    /// Adds a token.
    pub fn add(&mut self, token: &[f64]) {
        let (mean, variance) = mean_and_variance(token);
        self.tokens += 1;
        self.sums.iter_mut().zip([mean, mean * mean, variance, variance * variance]).for_each(|(s, x)| *s += x);
        self.squares.iter_mut().zip(token).for_each(|(s, x)| *s += x * x);
    }

    /// Channels.
    pub fn width(&self) -> usize {
        self.squares.len()
    }

    /// How many there were.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Root mean square of every channel.
    fn channels(&self) -> Vec<f64> {
        self.squares.iter().map(|s| (s / self.tokens.max(1) as f64).sqrt()).collect()
    }

    /// Mean and standard deviation of the `i`-th sum's number.
    fn spread(&self, i: usize) -> (f64, f64) {
        let n = self.tokens.max(1) as f64;
        let (mean, square) = (self.sums[i] / n, self.sums[i + 1] / n);
        (mean, (square - mean * mean).max(0.0).sqrt())
    }
}

/// Mean and biased variance of a token's channels.
pub fn mean_and_variance(token: &[f64]) -> (f64, f64) {
    let n = token.len().max(1) as f64;
    let mean = token.iter().sum::<f64>() / n;
    (mean, token.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n)
}

/// One layer's features, under way.
#[derive(Clone, Debug)]
pub struct LayerSums {
    rows: Sums,
    products: Products,
}

impl LayerSums {
    /// None yet.
    pub fn new(width: usize) -> LayerSums {
        LayerSums { rows: Sums::default(), products: Products::new(width, width) }
    }

    /// Adds a batch of rows.
    pub fn add(&mut self, rows: &Rows) {
        let shifted = self.rows.add(rows);
        self.products.add(&shifted, &shifted);
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.rows.rows()
    }

    /// The statistics of all that went in, and of the tokens that the rows are made of.
    pub fn finish(&self, tokens: &TokenSums) -> Statistics {
        let width = tokens.width();
        let scatter = self.products.centred(&self.rows, &self.rows);
        let diagonal = (0..width).map(|i| scatter[i * width + i]);
        let (total, top) = diagonal.fold((0.0, 0.0), |(sum, top): (f64, f64), v| (sum + v, top.max(v)));
        let spectrum = Spectrum::of(scatter, width);
        let mut channels = tokens.channels();
        channels.sort_by(f64::total_cmp);
        let median = channels.get(width / 2).copied().unwrap_or(0.0);
        let (token_mean, token_mean_sd) = tokens.spread(0);
        let (token_variance, token_variance_sd) = tokens.spread(2);
        Statistics {
            effective_rank: spectrum.effective_rank,
            participation_ratio: spectrum.participation_ratio,
            rank: spectrum.rank,
            condition: spectrum.condition,
            top_component: spectrum.top,
            top_channel: if total > 0.0 { top / total } else { 0.0 },
            massive_channels: channels.iter().filter(|c| **c > MASSIVE * median).count(),
            largest_channel: channels.last().map(|c| c / median).filter(|r| r.is_finite()),
            token_mean,
            token_mean_sd,
            token_variance,
            token_variance_sd,
        }
    }
}

/// What a covariance's eigenvalues say. Scaling the matrix changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Spectrum {
    effective_rank: f64,
    participation_ratio: f64,
    rank: usize,
    condition: Option<f64>,
    top: f64,
}

impl Spectrum {
    /// Of a symmetric, positive semi-definite matrix `[n, n]`.
    pub fn of(matrix: Vec<f64>, n: usize) -> Spectrum {
        let nothing = Spectrum { effective_rank: 0.0, participation_ratio: 0.0, rank: 0, condition: None, top: 0.0 };
        if matrix.iter().any(|v| !v.is_finite()) {
            return nothing;
        }
        let all = eigenvalues(matrix, n);
        let greatest = all.first().copied().unwrap_or(0.0);
        let kept: Vec<f64> = all.into_iter().filter(|v| *v > RANK_TOLERANCE * greatest).collect();
        let total: f64 = kept.iter().sum();
        let Some(least) = kept.last().filter(|_| total > 0.0) else { return nothing };
        let shares = || kept.iter().map(|v| v / total);
        Spectrum {
            effective_rank: shares().map(|p| -p * p.ln()).sum::<f64>().exp(),
            participation_ratio: shares().map(|p| p * p).sum::<f64>().recip(),
            rank: kept.len(),
            condition: Some(greatest / least),
            top: greatest / total,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagonal(values: &[f64]) -> Spectrum {
        let n = values.len();
        let mut matrix = vec![0.0; n * n];
        values.iter().enumerate().for_each(|(i, v)| matrix[i * n + i] = *v);
        Spectrum::of(matrix, n)
    }

    #[test]
    fn spectra_by_hand() {
        let even = diagonal(&[3.0; 8]);
        assert!((even.effective_rank - 8.0).abs() < 1e-12 && (even.participation_ratio - 8.0).abs() < 1e-12);
        assert_eq!((even.rank, even.condition), (8, Some(1.0)));
        // Shares 1/2, 1/4, 1/4: entropy 3/2 ln 2.
        let uneven = diagonal(&[1.0, 2.0, 0.0, 1.0]);
        assert!((uneven.effective_rank - 2f64.powf(1.5)).abs() < 1e-12 && (uneven.participation_ratio - 8.0 / 3.0).abs() < 1e-12);
        assert_eq!((uneven.rank, uneven.condition, uneven.top), (3, Some(2.0), 0.5));
        assert_eq!((diagonal(&[0.0; 3]).effective_rank, diagonal(&[0.0; 3]).condition), (0.0, None));
        assert_eq!(diagonal(&[f64::NAN, 1.0]).rank, 0);
    }

    #[test]
    fn one_channel_that_sticks_out_is_seen() {
        let (mut layer, mut tokens) = (LayerSums::new(4), TokenSums::new(4));
        // Channel 2: 100 times the others, half of the tokens negative.
        let token = |i: usize| [1.0, -1.0, [100.0, -100.0][i % 2], [1.0, 1.0, -1.0, -1.0][i % 4]];
        for i in 0..40 {
            tokens.add(&token(i));
            layer.add(&Rows { values: token(i).to_vec(), width: 4 });
        }
        let s = layer.finish(&tokens);
        assert_eq!((s.massive_channels, s.rank, layer.rows(), tokens.tokens()), (1, 2, 40, 40));
        assert!((s.largest_channel.unwrap() - 100.0).abs() < 1e-9 && (s.top_channel - 1e4 / 10001.0).abs() < 1e-12, "{s:?}");
        // Means over channels: (±100 ± 1) / 4.
        assert!(s.token_mean.abs() < 1e-12 && (s.token_mean_sd - ((101f64.powi(2) + 99f64.powi(2)) / 32.0).sqrt()).abs() < 1e-9, "{s:?}");
        let (mean, variance) = mean_and_variance(&[1.0, 2.0, 3.0, 6.0]);
        assert_eq!((mean, variance), (3.0, 3.5));
    }
}
