//! Level lines of heights on a grid: marching squares, with the crossings of neighbouring cells joined to lines.
//!
//! A line crosses an edge of the grid where the height between its two ends, taken as linear, is the level. A cell whose corners alternate
//! is cut by the height of its middle. Cells with a corner that is not finite have no lines.

use std::collections::BTreeMap;

/// A point of the plane.
type At = (f64, f64);

/// Heights on a grid of rising coordinates.
#[derive(Clone, Copy, Debug)]
pub struct Grid<'a> {
    /// Of the columns.
    pub x: &'a [f64],
    /// Of the rows.
    pub y: &'a [f64],
    /// `[y, x]`.
    pub z: &'a [f64],
}

/// An edge of the grid: from a point to its neighbour on the right (`true`) or above.
type Edge = (usize, usize, bool);

impl Grid<'_> {
    fn height(&self, column: usize, row: usize) -> f64 {
        self.z[row * self.x.len() + column]
    }

    /// The height at a point: bilinear between the four corners around it; NaN where one of them is not finite.
    pub fn at(&self, x: f64, y: f64) -> f64 {
        let place = |axis: &[f64], v: f64| {
            let i = axis.partition_point(|a| *a <= v).clamp(1, axis.len() - 1) - 1;
            (i, ((v - axis[i]) / (axis[i + 1] - axis[i])).clamp(0.0, 1.0))
        };
        let ((i, u), (j, v)) = (place(self.x, x), place(self.y, y));
        let corners = [self.height(i, j), self.height(i + 1, j), self.height(i, j + 1), self.height(i + 1, j + 1)];
        if corners.iter().any(|c| !c.is_finite()) {
            return f64::NAN;
        }
        (corners[0] * (1.0 - u) + corners[1] * u) * (1.0 - v) + (corners[2] * (1.0 - u) + corners[3] * u) * v
    }

    /// Where the level crosses an edge whose ends lie on either side.
    fn crossing(&self, (i, j, right): Edge, level: f64) -> At {
        let (k, l) = if right { (i + 1, j) } else { (i, j + 1) };
        let (a, b) = (self.height(i, j), self.height(k, l));
        let t = ((level - a) / (b - a)).clamp(0.0, 1.0);
        (self.x[i] + t * (self.x[k] - self.x[i]), self.y[j] + t * (self.y[l] - self.y[j]))
    }

    /// The pairs of edges of a cell that a line joins.
    fn segments(&self, i: usize, j: usize, level: f64) -> Vec<(Edge, Edge)> {
        // Counter-clockwise from the lower left; edge k goes from corner k to the next.
        let corners = [self.height(i, j), self.height(i + 1, j), self.height(i + 1, j + 1), self.height(i, j + 1)];
        let edges: [Edge; 4] = [(i, j, true), (i + 1, j, false), (i, j + 1, true), (i, j, false)];
        if corners.iter().any(|c| !c.is_finite()) {
            return vec![];
        }
        let above = corners.map(|c| c >= level);
        let cut: Vec<usize> = (0..4).filter(|k| above[*k] != above[(k + 1) % 4]).collect();
        match cut[..] {
            [a, b] => vec![(edges[a], edges[b])],
            [_, _, _, _] => {
                // Corner 0 is joined to corner 2 through the middle if that is on their side: lines then cut off corners 1 and 3.
                let middle = corners.iter().sum::<f64>() / 4.0 >= level;
                let pairs = if middle == above[0] { [(0, 1), (2, 3)] } else { [(3, 0), (1, 2)] };
                pairs.map(|(a, b)| (edges[a], edges[b])).to_vec()
            }
            _ => vec![],
        }
    }
}

/// The level's lines. A closed one ends where it begins.
pub fn lines(grid: &Grid<'_>, level: f64) -> Vec<Vec<At>> {
    let mut neighbours: BTreeMap<Edge, Vec<Edge>> = BTreeMap::new();
    for j in 0..grid.y.len() - 1 {
        for i in 0..grid.x.len() - 1 {
            for (a, b) in grid.segments(i, j, level) {
                neighbours.entry(a).or_default().push(b);
                neighbours.entry(b).or_default().push(a);
            }
        }
    }
    let mut lines = vec![];
    // Lines that end at the border first, from one of their ends; what is left is closed.
    let ends: Vec<Edge> = neighbours.iter().filter(|(_, n)| n.len() == 1).map(|(e, _)| *e).collect();
    for start in ends {
        lines.extend(walk(&mut neighbours, start));
    }
    while let Some(start) = neighbours.iter().find(|(_, n)| !n.is_empty()).map(|(e, _)| *e) {
        lines.extend(walk(&mut neighbours, start));
    }
    lines.into_iter().map(|line| line.into_iter().map(|edge| grid.crossing(edge, level)).collect()).collect()
}

/// Follows a line from an edge on and takes it off; none if it was taken before.
fn walk(neighbours: &mut BTreeMap<Edge, Vec<Edge>>, start: Edge) -> Option<Vec<Edge>> {
    let (mut line, mut at) = (vec![start], start);
    while let Some(next) = neighbours.get_mut(&at).and_then(Vec::pop) {
        if let Some(back) = neighbours.get_mut(&next)
            && let Some(i) = back.iter().position(|e| *e == at)
        {
            back.remove(i);
        }
        line.push(next);
        at = next;
    }
    Some(line).filter(|l| l.len() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(n: usize) -> Vec<f64> {
        (0..n).map(|i| -1.0 + 2.0 * i as f64 / (n - 1) as f64).collect()
    }

    fn of(n: usize, height: impl Fn(f64, f64) -> f64) -> (Vec<f64>, Vec<f64>) {
        let axis = axis(n);
        let z = axis.iter().flat_map(|y| axis.iter().map(|x| height(*x, *y)).collect::<Vec<_>>()).collect();
        (axis, z)
    }

    #[test]
    fn a_bowl_s_level_is_one_closed_circle() {
        let (axis, z) = of(41, |x, y| x * x + y * y);
        let found = lines(&Grid { x: &axis, y: &axis, z: &z }, 0.5);
        assert_eq!(found.len(), 1);
        let line = &found[0];
        assert_eq!(line.first(), line.last());
        assert!(line.iter().all(|(x, y)| (x.hypot(*y) - 0.5f64.sqrt()).abs() < 2e-3));
        let length: f64 = line.windows(2).map(|w| (w[1].0 - w[0].0).hypot(w[1].1 - w[0].1)).sum();
        assert!((length - std::f64::consts::TAU * 0.5f64.sqrt()).abs() < 0.01, "{length}");
    }

    #[test]
    fn a_slope_s_level_goes_from_border_to_border() {
        let (axis, z) = of(11, |x, y| x + 0.5 * y);
        let found = lines(&Grid { x: &axis, y: &axis, z: &z }, 0.03);
        assert_eq!(found.len(), 1);
        assert!(found[0].iter().all(|(x, y)| (x + 0.5 * y - 0.03).abs() < 1e-12));
        let ends = [found[0][0].1, found[0][found[0].len() - 1].1];
        assert!(ends.iter().all(|y| (y.abs() - 1.0).abs() < 1e-12), "{ends:?}");
    }

    #[test]
    fn a_saddle_has_two_lines_on_either_side() {
        let (axis, z) = of(10, |x, y| x * y);
        for level in [0.1, -0.1] {
            let found = lines(&Grid { x: &axis, y: &axis, z: &z }, level);
            assert_eq!(found.len(), 2, "{level}");
        }
        // One cell whose corners alternate: its middle (0.25 of 1) decides.
        let z = [1.0, 0.0, 0.0, 0.0 + 1.0];
        let cell = Grid { x: &[0.0, 1.0], y: &[0.0, 1.0], z: &z };
        for (level, corner) in [(0.4, (1.0, 0.0)), (0.6, (0.0, 0.0))] {
            let found = lines(&cell, level);
            assert_eq!(found.len(), 2);
            let near = |line: &Vec<At>| line.iter().all(|p| (p.0 - corner.0).abs() + (p.1 - corner.1).abs() < 0.7);
            assert_eq!(found.iter().filter(|l| near(l)).count(), 1, "{level}: {found:?}");
        }
    }

    #[test]
    fn what_is_not_finite_has_no_lines() {
        let (axis, mut z) = of(5, |x, _| x);
        z[12] = f64::NAN;
        let grid = Grid { x: &axis, y: &axis, z: &z };
        let found = lines(&grid, 0.1);
        assert_eq!(found.len(), 2, "the line is broken: {found:?}");
        assert!(grid.at(0.1, 0.1).is_nan() && (grid.at(0.75, -0.9) - 0.75).abs() < 1e-12);
        assert!(lines(&grid, 7.0).is_empty());
    }
}
