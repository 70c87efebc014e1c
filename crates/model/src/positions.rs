//! Where tokens are: the index of relative position tables, and the interpolation of absolute positions to other grids.

use fd_compute::Sparse;

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

/// Resizes a grid of positions: bicubic with a = -0.75, pixel centres aligned at half pixels, no antialiasing, edges clamped (the
/// official code's `F.interpolate`). The first `extra` rows (CLS) are copied.
pub fn bicubic(from: (usize, usize), to: (usize, usize), extra: usize) -> Sparse {
    let (down, across) = (taps(from.0, to.0), taps(from.1, to.1));
    let mut rows: Vec<Vec<(u32, f64)>> = (0..extra).map(|i| vec![(i as u32, 1.0)]).collect();
    for y in &down {
        for x in &across {
            let pairs = y.iter().flat_map(|&(iy, wy)| x.iter().map(move |&(ix, wx)| ((extra + iy * from.1 + ix) as u32, wy * wx)));
            rows.push(pairs.collect());
        }
    }
    Sparse::new(extra + from.0 * from.1, rows)
}

/// For each output position its four inputs and their weights.
fn taps(from: usize, to: usize) -> Vec<[(usize, f64); 4]> {
    const A: f64 = -0.75;
    let near = |t: f64| ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0;
    let far = |t: f64| ((A * t - 5.0 * A) * t + 8.0 * A) * t - 4.0 * A;
    (0..to)
        .map(|i| {
            let at = (i as f64 + 0.5) * from as f64 / to as f64 - 0.5;
            let (base, t) = (at.floor(), at - at.floor());
            let weights = [far(1.0 + t), near(t), near(1.0 - t), far(2.0 - t)];
            std::array::from_fn(|j| ((base as i64 - 1 + j as i64).clamp(0, from as i64 - 1) as usize, weights[j]))
        })
        .collect()
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

    #[test]
    fn interpolation_keeps_constants_and_the_identity() {
        for (from, to) in [((3, 4), (7, 2)), ((5, 5), (5, 5)), ((1, 2), (4, 4))] {
            let m = bicubic(from, to, 1);
            let y = m.apply(&vec![2.5; m.inputs()], 1);
            assert!(y.iter().all(|v| (v - 2.5).abs() < 1e-12));
        }
        let x: Vec<f64> = (0..16).map(f64::from).collect();
        assert_eq!(bicubic((4, 4), (4, 4), 0).apply(&x, 1), x);
    }
}
