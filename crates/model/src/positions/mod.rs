//! Where tokens are: the index of relative position tables, sine and cosine positions, and what has been learnt for one grid or
//! window made to fit another.

mod interpolation;
mod relative_tables;

pub use interpolation::{bicubic, bicubic_scaled, bilinear};
pub use relative_tables::{geometric_positions, remap_relative_table};

/// The table row of every (query, key) pair, N x N: (dy + h - 1)(2w - 1) + dx + w - 1 with d = query - key. With a CLS token (the
/// first), the table's last three rows are CLS to token, token to CLS, CLS to CLS.
pub fn relative_index((h, w): (usize, usize), cls: bool) -> Vec<u32> {
    let rows = (2 * h - 1) * (2 * w - 1);
    let (lead, patches) = (usize::from(cls), h * w);
    let n = patches + lead;
    let mut index = vec![0; n * n];
    for q in 0..n {
        for k in 0..n {
            index[q * n + k] = match (q < lead, k < lead) {
                (true, true) => rows + 2,
                (true, false) => rows,
                (false, true) => rows + 1,
                (false, false) => {
                    let (q, k) = (q - lead, k - lead);
                    (q / w + h - 1 - k / w) * (2 * w - 1) + q % w + w - 1 - k % w
                }
            } as u32;
        }
    }
    index
}

/// Two-dimensional sine and cosine positions [h · w, c]: a quarter of the channels each for sin x, cos x, sin y, cos y at wavelengths
/// from 2π to 2π · 10,000. Channels beyond a multiple of four are zero.
pub fn sin_cos((h, w): (usize, usize), c: usize) -> Vec<f64> {
    let quarter = c / 4;
    let mut table = vec![0.0; h * w * c];
    for (i, row) in table.chunks_exact_mut(c).enumerate() {
        for j in 0..quarter {
            let rate = 10_000f64.powf(-(j as f64) / quarter as f64);
            let (y, x) = ((i / w) as f64 * rate, (i % w) as f64 * rate);
            (row[j], row[quarter + j], row[2 * quarter + j], row[3 * quarter + j]) = (x.sin(), x.cos(), y.sin(), y.cos());
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_of_a_rectangular_grid() {
        let index = relative_index((2, 3), true);
        let n = 7;
        // Table of 3 x 5 + 3 rows; the zero offset is in the middle.
        assert_eq!((index[n + 1], index[0], index[1], index[n]), (7, 17, 15, 16));
        // Query (1, 2), key (0, 0): the largest offset; and the other way round the smallest.
        assert_eq!((index[6 * n + 1], index[n + 6]), (14, 0));
        assert_eq!(relative_index((2, 3), false)[5 * 6], 14);
    }
}
