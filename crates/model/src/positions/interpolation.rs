//! Grids of tokens resized to other grids, as `torch.nn.functional.interpolate` does it with `align_corners=False` and without
//! antialiasing. Every resize is a fixed sparse matrix over token rows: [extra + h · w, C] → [extra + h' · w', C].

use fd_compute::Sparse;

/// Resizes a grid of positions: bicubic with a = -0.75, pixel centres aligned at half pixels, no antialiasing, edges clamped (the
/// official code's `F.interpolate`). The first `extra` rows (CLS) are copied.
pub fn bicubic(from: (usize, usize), to: (usize, usize), extra: usize) -> Sparse {
    bicubic_scaled(from, to, extra, 0.0)
}

/// The same at DINOv2's scale: (to + offset) / from an axis, where the official models without registers have an offset of 0.1.
/// Output i is sampled at (i + 0.5) / scale - 0.5. A grid that keeps its size is then sampled between its points, too, which
/// DINOv2 avoids by not resizing it at all: that is left to the caller.
pub fn bicubic_scaled(from: (usize, usize), to: (usize, usize), extra: usize, offset: f64) -> Sparse {
    separable(from, extra, &cubic_taps(from.0, to.0, offset), &cubic_taps(from.1, to.1, offset))
}

/// Resizes a map of tokens: bilinear, pixel centres aligned at half pixels, no antialiasing, edges clamped. The first `extra` rows
/// are copied.
pub fn bilinear(from: (usize, usize), to: (usize, usize), extra: usize) -> Sparse {
    separable(from, extra, &linear_taps(from.0, to.0), &linear_taps(from.1, to.1))
}

/// The inputs of one output position and their weights.
type Taps<const N: usize> = [(usize, f64); N];

/// A grid's output rows from the taps of its two axes.
fn separable<const N: usize>((h, w): (usize, usize), extra: usize, down: &[Taps<N>], across: &[Taps<N>]) -> Sparse {
    let mut rows: Vec<Vec<(u32, f64)>> = (0..extra).map(|i| vec![(i as u32, 1.0)]).collect();
    for y in down {
        for x in across {
            let pairs = y.iter().flat_map(|&(iy, wy)| x.iter().map(move |&(ix, wx)| ((extra + iy * w + ix) as u32, wy * wx)));
            rows.push(pairs.collect());
        }
    }
    Sparse::new(extra + h * w, rows)
}

/// Cubic convolution. Positions beyond an edge stay where they are and only their inputs are clamped.
fn cubic_taps(from: usize, to: usize, offset: f64) -> Vec<Taps<4>> {
    const A: f64 = -0.75;
    let near = |t: f64| ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0;
    let far = |t: f64| ((A * t - 5.0 * A) * t + 8.0 * A) * t - 4.0 * A;
    (0..to)
        .map(|i| {
            let at = (i as f64 + 0.5) * from as f64 / (to as f64 + offset) - 0.5;
            let (base, t) = (at.floor(), at - at.floor());
            let weights = [far(1.0 + t), near(t), near(1.0 - t), far(2.0 - t)];
            std::array::from_fn(|j| ((base as i64 - 1 + j as i64).clamp(0, from as i64 - 1) as usize, weights[j]))
        })
        .collect()
}

/// Positions before the first input are clamped to it; past the last, both inputs are the last.
fn linear_taps(from: usize, to: usize) -> Vec<Taps<2>> {
    (0..to)
        .map(|i| {
            let at = ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0);
            let (base, t) = (at as usize, at.fract());
            [(base, 1.0 - t), ((base + 1).min(from - 1), t)]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESIZES: [((usize, usize), (usize, usize)); 5] =
        [((3, 4), (7, 2)), ((5, 5), (5, 5)), ((1, 2), (4, 4)), ((6, 1), (1, 3)), ((1, 1), (1, 1))];

    #[test]
    fn constants_are_kept() {
        for (from, to) in RESIZES {
            for m in [bicubic(from, to, 1), bicubic_scaled(from, to, 1, 0.1), bilinear(from, to, 1)] {
                assert_eq!((m.inputs(), m.outputs()), (1 + from.0 * from.1, 1 + to.0 * to.1));
                let y = m.apply(&vec![2.5; m.inputs()], 1);
                assert!(y.iter().all(|v| (v - 2.5).abs() < 1e-12), "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn a_grid_of_its_own_size_is_kept() {
        let x: Vec<f64> = (0..2 + 12).map(|i| f64::from(i * i)).collect();
        assert_eq!(bicubic((3, 4), (3, 4), 2).apply(&x, 1), x);
        assert_eq!(bilinear((3, 4), (3, 4), 2).apply(&x, 1), x);
    }

    #[test]
    fn an_offset_of_zero_is_no_offset() {
        for (from, to) in RESIZES {
            assert_eq!(bicubic_scaled(from, to, 1, 0.0), bicubic(from, to, 1));
        }
    }

    /// Only the scale says where a grid is sampled, and (5 + 1) / 3 is 6 / 3.
    #[test]
    fn an_offset_is_part_of_the_scale() {
        let x: Vec<f64> = (0..3).map(|i| f64::from(i * i)).collect();
        let y = bicubic((1, 3), (1, 6), 0).apply(&x, 1);
        assert_eq!(bicubic_scaled((3, 1), (5, 1), 0, 1.0).apply(&x, 1), y[..5]);
    }

    #[test]
    fn a_bilinear_ramp_is_clamped_at_its_ends() {
        // Rows are 10 y + x, after one that is copied.
        let x: Vec<f64> = std::iter::once(-1.0).chain((0..6).map(|i| f64::from(10 * (i / 3) + i % 3))).collect();
        let y = bilinear((2, 3), (4, 6), 1).apply(&x, 1);
        let (down, across) = ([0.0, 0.25, 0.75, 1.0], [0.0, 0.25, 0.75, 1.25, 1.75, 2.0]);
        let expected: Vec<f64> = down.iter().flat_map(|y| across.map(|x| 10.0 * y + x)).collect();
        assert_eq!((y[0], &y[1..]), (-1.0, &expected[..]));
        // Downwards without antialiasing: the two inputs next to the position and no others.
        assert_eq!(bilinear((1, 8), (1, 2), 0).apply(&[9.0, 1.0, 3.0, 9.0, 9.0, 5.0, 8.0, 9.0], 1), [2.0, 6.5]);
    }
}
