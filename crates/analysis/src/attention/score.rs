//! Scores of finished sums: how alike heads are, what patterns a map has, what a key tells about a query.

/// Mean cosine of the pairs of heads, from the scalar products [H, H] of their maps (upper triangle); none of a single head, or where a
/// map is all zero.
pub(super) fn similarity(gram: &[f64], heads: usize) -> Option<f64> {
    let at = |i: usize, j: usize| gram[i * heads + j];
    let pairs = (0..heads).flat_map(|i| (i + 1..heads).map(move |j| (i, j)));
    let sum: f64 = pairs.map(|(i, j)| at(i, j) / (at(i, i) * at(j, j)).sqrt()).sum();
    Some(2.0 * sum / (heads * heads.saturating_sub(1)) as f64).filter(|s| s.is_finite())
}

/// Entropy of values that sum to one, in nats.
pub(super) fn entropy(p: &[f64]) -> f64 {
    -p.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>()
}

/// Normalised mutual information of query and key, I(q; k) / √(H(q) H(k)), for queries of equal probability: from the keys' distribution
/// and the rows' mean entropy H(k | q). 0 where all rows are one key; none where there is but one token.
pub(super) fn mutual_information(keys: &[f64], row_entropy: f64, queries: usize) -> Option<f64> {
    let of_keys = entropy(keys);
    let information = (of_keys - row_entropy).max(0.0);
    match queries {
        0 | 1 => None,
        _ if of_keys <= 0.0 => Some(0.0),
        _ => Some(information / ((queries as f64).ln() * of_keys).sqrt()),
    }
}

/// How much of a map [n, n] over a grid of patches is a pattern: shares of its variance, or none of a map without any.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Patterns {
    /// R² of the best function of (row offset, column offset) from query to key.
    pub diagonal: f64,
    /// Share of the variance between the means of columns (keys).
    pub column: f64,
}

impl Patterns {
    /// Of a map over rows x columns patches. A map is without variance where that is what single precision leaves of a constant.
    pub fn of(map: &[f64], (rows, columns): (usize, usize)) -> Option<Patterns> {
        let n = rows * columns;
        let mean = map.iter().sum::<f64>() / map.len() as f64;
        let total: f64 = map.iter().map(|v| (v - mean).powi(2)).sum();
        if total <= map.len() as f64 * (1e-6 * mean).powi(2) {
            return None;
        }
        let (wide, tall) = (2 * columns - 1, 2 * rows - 1);
        let (mut by_offset, mut by_column) = (vec![(0.0, 0.0); tall * wide], vec![(0.0, 0.0); n]);
        for (q, row) in map.chunks_exact(n).enumerate() {
            for (k, value) in row.iter().enumerate() {
                let down = k / columns + rows - 1 - q / columns;
                let right = k % columns + columns - 1 - q % columns;
                for (sum, count) in [&mut by_offset[down * wide + right], &mut by_column[k]] {
                    (*sum, *count) = (*sum + value - mean, *count + 1.0);
                }
            }
        }
        let between = |groups: &[(f64, f64)]| groups.iter().map(|(sum, count)| sum * sum / count).sum::<f64>() / total;
        Some(Patterns { diagonal: between(&by_offset), column: between(&by_column) })
    }
}

#[cfg(test)]
mod tests {
    use fd_compute::Stream;

    use super::*;

    /// A map over a grid of 3 x 4 from a function of query and key (row, column).
    fn map(f: impl Fn((i64, i64), (i64, i64)) -> f64) -> Vec<f64> {
        let at = |i: i64| (i / 4, i % 4);
        (0..144).map(|i| f(at(i / 12), at(i % 12))).collect()
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    #[test]
    fn a_toeplitz_map_is_all_diagonal_and_a_column_map_all_column() {
        let offsets = map(|q, k| ((3 * (k.0 - q.0) - 2 * (k.1 - q.1)) as f64).sin());
        let diagonal = Patterns::of(&offsets, (3, 4)).unwrap();
        assert!(near(diagonal.diagonal, 1.0) && diagonal.column < 0.5, "{diagonal:?}");
        let keys = map(|_, k| ((5 * k.0 + k.1) as f64).sin());
        let column = Patterns::of(&keys, (3, 4)).unwrap();
        assert!(near(column.column, 1.0) && column.diagonal < 0.9, "{column:?}");
        assert_eq!(Patterns::of(&map(|_, _| 1.0 / 12.0), (3, 4)), None);
    }

    #[test]
    fn the_diagonal_score_is_the_residual_of_a_projection() {
        let mut random = Stream::new(&[1]);
        let noisy: Vec<f64> = (0..144).map(|_| random.uniform()).collect();
        // By its definition: each offset's mean taken off, what is left against the variance.
        let at = |i: usize| ((i / 4) as i64, (i % 4) as i64);
        let offset = |i: usize| (at(i % 12).0 - at(i / 12).0, at(i % 12).1 - at(i / 12).1);
        let fitted = |i: usize| {
            let alike: Vec<f64> = (0..144).filter(|&j| offset(j) == offset(i)).map(|j| noisy[j]).collect();
            alike.iter().sum::<f64>() / alike.len() as f64
        };
        let mean = noisy.iter().sum::<f64>() / 144.0;
        let left: f64 = (0..144).map(|i| (noisy[i] - fitted(i)).powi(2)).sum();
        let all: f64 = noisy.iter().map(|v| (v - mean).powi(2)).sum();
        let column_mean = |k: usize| (0..12).map(|q| noisy[q * 12 + k]).sum::<f64>() / 12.0;
        let between: f64 = (0..12).map(|k| 12.0 * (column_mean(k) - mean).powi(2)).sum();
        let found = Patterns::of(&noisy, (3, 4)).unwrap();
        assert!(near(found.diagonal, 1.0 - left / all) && near(found.column, between / all), "{found:?}");
    }

    #[test]
    fn information_between_its_bounds() {
        let even = [0.25; 4];
        assert!(near(mutual_information(&even, 0.0, 4).unwrap(), 1.0), "each query its own key");
        assert_eq!(mutual_information(&even, 4f64.ln(), 4), Some(0.0), "uniform rows");
        assert_eq!(mutual_information(&[1.0, 0.0], 0.0, 2), Some(0.0), "one key for all");
        assert_eq!(mutual_information(&[1.0], 0.0, 1), None);
        assert_eq!(similarity(&[2.0, 2.0, 0.0, 2.0], 2), Some(1.0));
        assert_eq!((similarity(&[1.0], 1), similarity(&[0.0; 4], 2)), (None, None));
    }
}
