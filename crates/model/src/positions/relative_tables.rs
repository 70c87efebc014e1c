//! Relative position tables of one window made to fit another: the official `remap_pretrained_keys_vit` and `_swin` in fine-tuning.
//!
//! A window of n has 2n - 1 offsets along an axis. The old table's offsets are taken to be further apart the larger they are, such
//! that the largest comes to lie about where the new window has its own: 0, ±1, ±(1 + q), ±(1 + q + q²), ... An interpolating cubic
//! spline through them is evaluated at the new window's offsets, axis by axis. Its ends are not-a-knot: the first two pieces are one
//! cubic, and so are the last two, as FITPACK has it for a rectangular grid (k = 3, s = 0).

/// The ratio q and the positions [2 · from - 1] that the offsets of a window of `from` get along one axis for a window of `to`. The
/// search is the official one: it ends within 1e-6 of a q between 1.01 and 1.5, whichever window is larger.
pub fn geometric_positions(from: usize, to: usize) -> (f64, Vec<f64>) {
    assert!(from > 0 && to > 0, "windows of {from} and {to}");
    let (mut low, mut high) = (1.01, 1.5);
    let mut q = low;
    while high - low > 1e-6 {
        // The last one tried is the result, not an end of the interval that is left.
        q = (low + high) / 2.0;
        let reach = distances(q, from - 1).last().unwrap_or(0.0);
        *(if reach > (to - 1) as f64 { &mut high } else { &mut low }) = q;
    }
    let right: Vec<f64> = distances(q, from - 1).collect();
    (q, right.iter().rev().map(|d| -d).chain([0.0]).chain(right.iter().copied()).collect())
}

/// 1, 1 + q, 1 + q + q², ...
fn distances(q: f64, count: usize) -> impl Iterator<Item = f64> {
    std::iter::successors(Some((1.0, 1.0)), move |(sum, power)| Some((sum + power * q, power * q))).map(|(sum, _)| sum).take(count)
}

/// A table [(2h - 1)(2w - 1) + extra, heads] of a window of `from` = (h, w), row-major, as one of a window of `to`. The last `extra`
/// rows (those of CLS) are copied. Each axis has its own q; one whose side is the same is left as it is. Positions beyond the old
/// table's ends have the values at the ends. A side of 1 has one offset, which counts for all; a side of 2 has three, and the spline
/// is the parabola through them.
pub fn remap_relative_table(values: &[f64], heads: usize, from: (usize, usize), to: (usize, usize), extra: usize) -> Vec<f64> {
    assert!([from.0, from.1, to.0, to.1].iter().all(|&side| side > 0), "windows of {from:?} and {to:?}");
    let rows = (2 * from.0 - 1) * (2 * from.1 - 1);
    assert_eq!(values.len(), (rows + extra) * heads, "a relative position table of {from:?} with {extra} extra rows and {heads} heads");
    if from == to || heads == 0 {
        return values.to_vec();
    }
    let (offsets, copied) = values.split_at(rows * heads);
    let offsets = along(offsets, heads, from.1, to.1);
    let mut table = along(&offsets, (2 * to.1 - 1) * heads, from.0, to.0);
    table.extend_from_slice(copied);
    table
}

/// Remaps the middle axis of values [outer, 2 · from - 1, inner].
fn along(values: &[f64], inner: usize, from: usize, to: usize) -> Vec<f64> {
    if from == to {
        return values.to_vec();
    }
    let (_, positions) = geometric_positions(from, to);
    let last = to as f64 - 1.0;
    let weights = spline(&positions, (0..2 * to - 1).map(|i| i as f64 - last));
    let mut remapped = Vec::with_capacity(values.len() / positions.len() * weights.len());
    for block in values.chunks_exact(positions.len() * inner) {
        for row in &weights {
            let sum = |i: usize| row.iter().zip(block.iter().skip(i).step_by(inner)).map(|(w, v)| w * v).sum::<f64>();
            remapped.extend((0..inner).map(sum));
        }
    }
    remapped
}

/// For each target the weights of the values at `knots`, which ascend. Targets beyond the ends are moved there.
fn spline(knots: &[f64], targets: impl Iterator<Item = f64>) -> Vec<Vec<f64>> {
    let n = knots.len();
    let targets = targets.map(|t| t.clamp(knots[0], knots[n - 1]));
    if n < 4 {
        return targets.map(|t| polynomial(knots, t)).collect();
    }
    let curvature = curvature(knots);
    targets
        .map(|t| {
            let right = knots.partition_point(|&k| k <= t).clamp(1, n - 1);
            let left = right - 1;
            let h = knots[right] - knots[left];
            let (a, b) = ((knots[right] - t) / h, (t - knots[left]) / h);
            let bend = |x: f64| (x * x * x - x) * h * h / 6.0;
            let (ca, cb) = (bend(a), bend(b));
            let mut row: Vec<f64> = curvature[left].iter().zip(&curvature[right]).map(|(l, r)| ca * l + cb * r).collect();
            row[left] += a;
            row[right] += b;
            row
        })
        .collect()
}

/// Weights of the polynomial through all knots: what a spline is that has no more than four of them.
fn polynomial(knots: &[f64], t: f64) -> Vec<f64> {
    let others = |i: usize| knots.iter().enumerate().filter(move |(j, _)| *j != i);
    knots.iter().enumerate().map(|(i, k)| others(i).map(|(_, o)| (t - o) / (k - o)).product()).collect()
}

/// The spline's second derivatives at its n ≥ 4 knots, as weights [n, n] of the values there.
fn curvature(knots: &[f64]) -> Vec<Vec<f64>> {
    let n = knots.len();
    let h: Vec<f64> = knots.windows(2).map(|k| k[1] - k[0]).collect();
    // Left half: the equations; right half: their right-hand sides, a column a value.
    let mut system = vec![vec![0.0; 2 * n]; n];
    for i in 1..n - 1 {
        let row = &mut system[i];
        let (before, after) = (h[i - 1], h[i]);
        // First derivatives agree at knot i.
        (row[i - 1], row[i], row[i + 1]) = (before, 2.0 * (before + after), after);
        (row[n + i - 1], row[n + i], row[n + i + 1]) = (6.0 / before, -6.0 / before - 6.0 / after, 6.0 / after);
    }
    for (end, first) in [(0, 0), (n - 1, n - 3)] {
        // Not-a-knot: third derivatives agree at the second knot and at the last but one.
        let (before, after) = (h[first], h[first + 1]);
        system[end][first..first + 3].copy_from_slice(&[after, -before - after, before]);
    }
    solve(system)
}

/// Gauss and Jordan with pivots from the column: rows [A | B] → rows of A⁻¹ B.
fn solve(mut rows: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let n = rows.len();
    for column in 0..n {
        let size = |row: &Vec<f64>| row[column].abs();
        let pivot = (column..n).max_by(|&a, &b| size(&rows[a]).total_cmp(&size(&rows[b]))).unwrap_or(column);
        rows.swap(column, pivot);
        let scale = rows[column][column];
        rows[column].iter_mut().for_each(|v| *v /= scale);
        let pivot = rows[column].clone();
        for (i, row) in rows.iter_mut().enumerate() {
            let factor = row[column];
            if i != column && factor != 0.0 {
                row.iter_mut().zip(&pivot).for_each(|(v, p)| *v -= factor * p);
            }
        }
    }
    rows.into_iter().map(|row| row[n..].to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows((h, w): (usize, usize)) -> usize {
        (2 * h - 1) * (2 * w - 1)
    }

    /// A table of one head that looks like nothing.
    fn wave(count: usize) -> Vec<f64> {
        (0..count).map(|i| (1.7 * i as f64).sin()).collect()
    }

    /// The values of f(y, x) at the offsets of a window.
    fn sampled(ys: &[f64], xs: &[f64], f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
        ys.iter().flat_map(|&y| xs.iter().map(move |&x| (y, x))).map(|(y, x)| f(y, x)).collect()
    }

    fn offsets(side: usize) -> Vec<f64> {
        (0..2 * side - 1).map(|i| i as f64 - (side - 1) as f64).collect()
    }

    fn assert_close(found: &[f64], expected: &[f64], within: f64) {
        assert_eq!(found.len(), expected.len());
        let off = found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0.0, f64::max);
        assert!(off <= within, "{off:e} off");
    }

    #[test]
    fn positions_reach_the_new_window_where_a_ratio_allows_it() {
        let (q, positions) = geometric_positions(7, 12);
        let reach = 1.0 + q + q.powi(2) + q.powi(3) + q.powi(4) + q.powi(5);
        assert!((reach - 11.0).abs() < 1e-4 && positions.len() == 13);
        assert_close(&[positions[0], positions[5], positions[6], positions[8], positions[12]], &[-reach, -1.0, 0.0, 1.0 + q, reach], 1e-12);
        // Too far to reach, and nearer than any ratio allows: an end of the search.
        assert!((geometric_positions(4, 7).0 - 1.5).abs() < 1e-6 && (geometric_positions(7, 4).0 - 1.01).abs() < 1e-6);
        assert_eq!((geometric_positions(1, 5).1, geometric_positions(2, 5).1), (vec![0.0], vec![-1.0, 0.0, 1.0]));
    }

    #[test]
    fn the_same_window_changes_nothing() {
        let table = wave(2 * (rows((3, 4)) + 3));
        assert_eq!(remap_relative_table(&table, 2, (3, 4), (3, 4), 3), table);
    }

    #[test]
    fn constants_are_kept_and_extra_rows_copied() {
        for from in [(1, 1), (1, 4), (2, 3), (5, 2), (7, 7), (14, 16)] {
            for to in [(1, 1), (1, 2), (3, 1), (2, 2), (6, 9), (24, 5)] {
                let copied = [1.0, 2.0, 3.0, 4.0];
                let table = [[-0.5, 0.75].repeat(rows(from)), copied.to_vec()].concat();
                let expected = [[-0.5, 0.75].repeat(rows(to)), copied.to_vec()].concat();
                assert_close(&remap_relative_table(&table, 2, from, to, 2), &expected, 1e-12);
            }
        }
    }

    /// A cubic along each axis is its own spline, at whatever knots; beyond them it stops.
    #[test]
    fn cubics_are_reproduced_and_clamped() {
        let cubic = |t: f64| 0.03 * t * t * t - 0.2 * t * t + 0.7 * t - 1.0;
        let product = |y: f64, x: f64| cubic(y) * cubic(0.5 - x);
        for (from, to) in [((3, 4), (5, 9)), ((7, 6), (4, 8)), ((4, 14), (7, 16)), ((3, 3), (3, 9))] {
            let at = |from, to| if from == to { offsets(from) } else { geometric_positions(from, to).1 };
            let (ys, xs) = (at(from.0, to.0), at(from.1, to.1));
            let found = remap_relative_table(&sampled(&ys, &xs, product), 1, from, to, 0);
            let within = |t: f64, knots: &[f64]| t.clamp(knots[0], knots[knots.len() - 1]);
            let expected = sampled(&offsets(to.0), &offsets(to.1), |y, x| product(within(y, &ys), within(x, &xs)));
            let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            assert_close(&found, &expected, 1e-12 * largest);
        }
    }

    #[test]
    fn small_sides_have_lower_degrees() {
        // One offset: a constant. Three: a parabola, here through 4, 1, 2 at -1, 0, 1, which is where it also stops.
        assert_eq!(remap_relative_table(&[0.3], 1, (1, 1), (2, 3), 0), vec![0.3; 15]);
        assert_eq!(remap_relative_table(&[4.0, 1.0, 2.0], 1, (1, 2), (1, 4), 0), [4.0, 4.0, 4.0, 1.0, 2.0, 2.0, 2.0]);
        assert_close(&polynomial(&[-1.0, 0.0, 1.0], 0.5), &[-0.125, 0.75, 0.375], 1e-15);
        assert_eq!(remap_relative_table(&wave(rows((5, 5))), 1, (5, 5), (1, 1), 0), [(1.7 * 40.0f64).sin()]);
    }

    #[test]
    fn a_transposed_window_is_the_transposed_table() {
        let transposed = |table: &[f64], (h, w): (usize, usize)| -> Vec<f64> {
            let (h, w) = (2 * h - 1, 2 * w - 1);
            (0..h * w).map(|i| table[i % h * w + i / h]).collect()
        };
        let turn = |(h, w): (usize, usize)| (w, h);
        for (from, to) in [((3, 5), (4, 9)), ((7, 2), (5, 6)), ((4, 4), (7, 3)), ((5, 5), (8, 8)), ((3, 4), (3, 7))] {
            let table = wave(rows(from));
            let turned = remap_relative_table(&transposed(&table, from), 1, turn(from), turn(to), 0);
            assert_close(&turned, &transposed(&remap_relative_table(&table, 1, from, to, 0), to), 1e-12);
        }
    }

    /// Against FITPACK (scipy 1.13.1, `RectBivariateSpline` in double precision at these positions; degree 2 where there are three):
    /// the first two values, two from the middle, the last, and the sum of all absolute ones.
    #[test]
    fn fitpack() {
        let cases = [
            (
                (3, 4),
                (5, 2),
                [-0.255_541_102_026_831_3, -0.925_814_682_327_732_1, 0.879_273_061_650_724_3, 0.396_740_573_130_613_6],
                -0.837_627_257_147_027_5,
                17.230_612_155_837_65,
            ),
            (
                (3, 3),
                (9, 4),
                [0.0, 1.052_357_598_755_855, -0.148_999_025_814_198_3, -0.925_814_682_327_732_6],
                0.040_693_257_349_864_856,
                85.162_931_404_729_76,
            ),
            ((2, 3), (4, 6), [0.0, 0.0, -0.699_874_687_593_542_1, 1.052_357_598_755_856], -0.971_798_445_743_863_3, 51.879_000_018_488_696),
            (
                (14, 7),
                (24, 12),
                [2.007_477_492_262_884_7e-5, 0.794_302_060_382_983_2, 0.470_882_241_194_561, 0.458_118_815_811_683_3],
                -0.945_454_588_760_873,
                541.278_824_867_081,
            ),
            (
                (30, 30),
                (3, 60),
                [0.044_842_296_254_620_21, 0.712_502_944_266_300_2, -0.061_274_563_780_655_066, -0.950_008_699_022_082],
                -0.329_879_599_291_535_7,
                368.006_209_793_147_6,
            ),
            ((3, 4), (3, 7), [0.0, 0.0, 0.879_273_061_650_723_9, 0.779_276_477_601_830_7], 0.949_403_860_686_701_1, 47.127_809_040_994_514),
        ];
        for (from, to, [first, second, middle, third], last, sum) in cases {
            let y = remap_relative_table(&wave(rows(from)), 1, from, to, 0);
            let n = y.len();
            let found = [y[0], y[1], y[n / 2 - 1], y[n / 3], y[n - 1], y.iter().map(|v| v.abs()).sum()];
            assert_close(&found, &[first, second, middle, third, last, sum], 1e-10);
        }
    }
}
