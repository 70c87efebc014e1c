//! Who attends to whom, and how scores are made.

use std::sync::Arc;

use crate::{Error, Param};

/// How queries and keys become scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scores {
    /// s · q·k, with s = D^-1/2 as a rule.
    Scaled(f64),
    /// exp(min(t, ln 100)) · cos(q, k) with one trained t a head, `logit_scale` `[H]` (Swin v2).
    Cosine(Param),
}

/// Which tokens attend to which.
#[derive(Clone, Debug, Default)]
pub enum Span {
    /// All to all.
    #[default]
    Whole,
    /// Each to itself and those before it.
    Causal,
    /// Those of a window to each other.
    Windows(Arc<Windows>),
}

impl Span {
    /// (number of windows, tokens of each) in a map of so many tokens.
    pub(crate) fn extents(&self, tokens: usize) -> (usize, usize) {
        match self {
            Span::Whole | Span::Causal => (1, tokens),
            Span::Windows(w) => (w.count(), w.tokens()),
        }
    }
}

/// A map of tokens cut into square windows, perhaps after a cyclic shift; tokens that the shift brought together from opposite edges
/// are masked from each other (their scores are lowered by 100, as in the official code).
///
/// The map itself is never rolled or cut: attention reads each window's tokens where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    map: (usize, usize),
    side: usize,
    shift: usize,
    /// The token at each place of each window.
    tokens: Vec<u32>,
    /// The region of the unshifted map that each place belongs to; empty without a shift.
    regions: Vec<u8>,
}

/// What is added to the score of two tokens of different regions.
pub(crate) const MASKED: f64 = -100.0;

impl Windows {
    /// Windows of `side` x `side` tokens over a map of (height, width), which is first rolled up and left by `shift`.
    ///
    /// # Errors
    /// A window larger than the map, sides that do not divide the map's, a shift of a whole window or more.
    pub fn new(map: (usize, usize), side: usize, shift: usize) -> Result<Windows, Error> {
        let refuse = |why: String| Err(Error::Argument { op: "window_size", why });
        let (h, w) = map;
        if side == 0 || side > h.min(w) {
            return refuse(format!("windows of {side} x {side} do not fit a map of {h} x {w} tokens"));
        }
        if h % side != 0 || w % side != 0 {
            return refuse(format!("windows of {side} x {side} do not tile a map of {h} x {w} tokens"));
        }
        if shift >= side {
            return refuse(format!("a shift of {shift} is not less than the window's side {side}"));
        }
        let mut windows = Windows { map, side, shift, tokens: Vec::with_capacity(h * w), regions: vec![] };
        // Where a row or column of the rolled map comes from: its own interior, what stays at the edge, what came around.
        let region = |at: usize, n: usize| u8::from(at >= n - side) + u8::from(at >= n - shift);
        for (top, left) in (0..h).step_by(side).flat_map(|top| (0..w).step_by(side).map(move |left| (top, left))) {
            for (r, c) in (top..top + side).flat_map(|r| (left..left + side).map(move |c| (r, c))) {
                windows.tokens.push(((r + shift) % h * w + (c + shift) % w) as u32);
                if shift > 0 {
                    windows.regions.push(3 * region(r, h) + region(c, w));
                }
            }
        }
        Ok(windows)
    }

    /// Height and width of the map, in tokens.
    pub fn map(&self) -> (usize, usize) {
        self.map
    }

    /// Side of a window, in tokens.
    pub fn side(&self) -> usize {
        self.side
    }

    /// By how much the map is rolled.
    pub fn shift(&self) -> usize {
        self.shift
    }

    /// Windows of the map.
    pub fn count(&self) -> usize {
        self.tokens.len() / self.tokens()
    }

    /// Tokens of a window.
    pub fn tokens(&self) -> usize {
        self.side * self.side
    }

    /// The tokens of window `i`, row by row of the (rolled) window.
    pub fn members(&self, i: usize) -> &[u32] {
        &self.tokens[i * self.tokens()..(i + 1) * self.tokens()]
    }

    /// The regions of window `i`'s tokens; empty where all are of one.
    pub fn regions(&self, i: usize) -> &[u8] {
        let all = self.regions.get(i * self.tokens()..(i + 1) * self.tokens()).unwrap_or(&[]);
        if all.iter().all(|r| *r == all[0]) { &[] } else { all }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_map_of_four_windows() {
        // 4 x 4 tokens, windows of 2, rolled by one: the last window holds the four corners, each of its own region.
        let w = Windows::new((4, 4), 2, 1).unwrap();
        assert_eq!((w.count(), w.tokens()), (4, 4));
        assert_eq!(w.members(0), [5, 6, 9, 10]);
        assert_eq!(w.members(3), [15, 12, 3, 0]);
        assert!(w.regions(0).is_empty());
        let corners = w.regions(3);
        assert!((0..4).all(|i| (0..i).all(|j| corners[i] != corners[j])));
        // The upper right window: its columns come from both edges, its rows are neighbours.
        assert_eq!(w.regions(1)[0], w.regions(1)[2]);
        assert_ne!(w.regions(1)[0], w.regions(1)[1]);
        let plain = Windows::new((4, 6), 2, 0).unwrap();
        assert!(plain.members(2) == [4, 5, 10, 11] && (0..6).all(|i| plain.regions(i).is_empty()));
    }

    #[test]
    fn what_cannot_be_cut_is_refused() {
        for (map, side, shift) in [((4, 4), 5, 0), ((4, 6), 4, 2), ((4, 4), 2, 2), ((4, 4), 0, 0)] {
            assert!(Windows::new(map, side, shift).unwrap_err().to_string().starts_with("window_size: "));
        }
    }
}
