//! How lines are told apart: colours, and dashes for where there is no colour.

use plotters::prelude::*;

/// Okabe and Ito's palette without its yellow, in an order in which those that get the same dashes differ in lightness: they are told
/// apart by the colour-blind, and in grey.
pub const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(0, 0, 0),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(204, 121, 167),
];
/// Lengths of strokes and gaps; none for a line without gaps.
pub const DASHES: [Option<(f64, f64)>; 3] = [None, Some((7.0, 3.0)), Some((2.0, 2.5))];

/// Cuts a line into strokes of `on` length, `off` apart.
pub fn dashed(points: &[(f64, f64)], (on, off): (f64, f64)) -> Vec<Vec<(f64, f64)>> {
    let Some(&first) = points.first() else { return vec![] };
    let mut dashes = vec![vec![first]];
    let (mut drawing, mut rest) = (true, on);
    for pair in points.windows(2) {
        let (mut from, to) = (pair[0], pair[1]);
        loop {
            let length = (to.0 - from.0).hypot(to.1 - from.1);
            let cut = length > rest;
            let share = rest / length;
            let end = if cut { (from.0 + (to.0 - from.0) * share, from.1 + (to.1 - from.1) * share) } else { to };
            match dashes.last_mut() {
                Some(dash) if drawing => dash.push(end),
                _ => {}
            }
            if !cut {
                rest -= length;
                break;
            }
            drawing = !drawing;
            rest = if drawing { on } else { off };
            if drawing {
                dashes.push(vec![end]);
            }
            from = end;
        }
    }
    dashes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashes_turn_corners_and_have_their_lengths() {
        let strokes = dashed(&[(0.0, 0.0), (3.0, 0.0), (3.0, 4.0)], (2.0, 0.5));
        assert_eq!(strokes, [vec![(0.0, 0.0), (2.0, 0.0)], vec![(2.5, 0.0), (3.0, 0.0), (3.0, 1.5)], vec![(3.0, 2.0), (3.0, 4.0)]]);
        assert_eq!(dashed(&[(1.0, 1.0), (1.0, 1.0)], (2.0, 1.0)), [vec![(1.0, 1.0), (1.0, 1.0)]]);
    }
}
