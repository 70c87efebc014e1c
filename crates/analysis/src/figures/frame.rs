//! Axes of a panel, and panels side by side.

use fd_distill::Error;
use fd_distill::figure::axis::Axis;
use fd_distill::figure::canvas::{Anchor, GREY, INK, PALE};

use super::sheet::{At, HAIR, LEADING, MARGIN, MM, Sheet, TEXT, TITLE, wide, wrap};

/// Length of a tick, and from there to its text.
const TICK: f64 = 0.7 * MM;
const PAD: f64 = 0.6 * MM;
/// Between two panels.
const GAP: f64 = 4.0 * MM;

/// One direction: values, ticks and what is written there.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    axis: Place,
    /// Value and text.
    pub ticks: Vec<(f64, String)>,
}

#[derive(Clone, Debug)]
enum Place {
    Numbers(Axis),
    /// From one value to another.
    Span(f64, f64),
}

impl Scale {
    /// Numbers, as the axis has them.
    pub fn numbers(axis: Axis) -> Scale {
        let ticks = axis.ticks.iter().map(|t| (*t, axis.label(*t).replace('-', "−"))).collect();
        Scale { axis: Place::Numbers(axis), ticks }
    }

    /// Names at 0, 1, 2, …, with half a step more on either side.
    pub fn names(names: &[String]) -> Scale {
        let end = names.len().max(1) as f64 - 0.5;
        Scale { axis: Place::Span(-0.5, end), ticks: names.iter().enumerate().map(|(i, n)| (i as f64, n.clone())).collect() }
    }

    /// From one number to another, exactly, with round ticks between.
    pub fn exactly(from: f64, to: f64) -> Scale {
        let mut scale = Scale::numbers(Axis::linear(from, to));
        let slack = 1e-9 * (to - from).abs();
        scale.ticks.retain(|(t, _)| (from - slack..=to + slack).contains(t));
        scale.axis = Place::Span(from, to);
        scale
    }

    /// Is it logarithmic?
    pub fn log(&self) -> bool {
        matches!(&self.axis, Place::Numbers(axis) if axis.log)
    }

    /// Where a value stands from 0 to 1; none for what has no place.
    pub fn share(&self, value: f64) -> Option<f64> {
        match &self.axis {
            Place::Numbers(axis) => axis.place(value),
            Place::Span(from, to) => Some((value - from) / (to - from)).filter(|s| s.is_finite()),
        }
    }

    /// The ticks of which the texts have room: every n-th. `extent` is the length of the axis, `need` that of a text.
    fn fitting(&self, extent: f64, need: impl Fn(&str) -> Result<f64, Error>) -> Result<Vec<(f64, String)>, Error> {
        let places: Vec<(f64, f64, String)> =
            self.ticks.iter().filter_map(|(t, text)| Some((*t, self.share(*t)? * extent, text.clone()))).collect();
        let needs = places.iter().map(|p| need(&p.2)).collect::<Result<Vec<_>, _>>()?;
        let free = |stride: usize| {
            let chosen: Vec<usize> = (0..places.len()).step_by(stride).collect();
            chosen.windows(2).all(|w| (places[w[1]].1 - places[w[0]].1).abs() >= (needs[w[0]] + needs[w[1]]) / 2.0)
        };
        let stride = (1..places.len().max(2)).find(|s| free(*s)).unwrap_or(places.len().max(1));
        Ok(places.into_iter().step_by(stride).map(|(t, _, text)| (t, text)).collect())
    }

    /// Width of the widest text.
    pub fn widest(&self) -> Result<f64, Error> {
        let widths = self.ticks.iter().map(|t| wide(&t.1, TEXT)).collect::<Result<Vec<_>, _>>()?;
        Ok(widths.into_iter().fold(0.0, f64::max))
    }
}

/// Where a panel's data are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Frame {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

impl Frame {
    /// A point of the plane.
    pub fn at(&self, x: &Scale, y: &Scale, value: At) -> Option<At> {
        let (x, y) = (x.share(value.0)?, y.share(value.1)?);
        Some((self.left + x * (self.right - self.left), self.bottom - y * (self.bottom - self.top)))
    }

    /// Ticks and texts below.
    pub fn x_axis(&self, sheet: &mut Sheet, scale: &Scale) -> Result<(), Error> {
        let extent = self.right - self.left;
        for (value, text) in scale.fitting(extent, |t| Ok(wide(t, TEXT)? + 1.2 * MM))? {
            let x = self.left + scale.share(value).unwrap_or(0.0) * extent;
            sheet.line(vec![(x, self.bottom), (x, self.bottom + TICK)], GREY, HAIR);
            sheet.text(text, (x, self.bottom + TICK + PAD + TEXT * 0.45), TEXT, INK, Anchor::Centre);
        }
        sheet.line(vec![(self.left, self.bottom), (self.right, self.bottom)], GREY, HAIR);
        Ok(())
    }

    /// Grid lines, and texts on the left where `labels` says so.
    pub fn y_axis(&self, sheet: &mut Sheet, scale: &Scale, labels: bool) -> Result<(), Error> {
        let extent = self.bottom - self.top;
        for (value, text) in scale.fitting(extent, |_| Ok(TEXT * 1.25))? {
            let y = self.bottom - scale.share(value).unwrap_or(0.0) * extent;
            sheet.line(vec![(self.left, y), (self.right, y)], PALE, HAIR);
            if labels {
                sheet.text(text, (self.left - PAD, y), TEXT, INK, Anchor::Right);
            }
        }
        Ok(())
    }

    /// Texts beside the left edge without grid lines, for cells.
    pub fn y_names(&self, sheet: &mut Sheet, scale: &Scale) -> Result<(), Error> {
        let extent = self.bottom - self.top;
        for (value, text) in scale.fitting(extent, |_| Ok(TEXT * 1.15))? {
            let y = self.bottom - scale.share(value).unwrap_or(0.0) * extent;
            sheet.line(vec![(self.left - TICK, y), (self.left, y)], GREY, HAIR);
            sheet.text(text, (self.left - TICK - PAD, y), TEXT, INK, Anchor::Right);
        }
        Ok(())
    }

    /// What the horizontal axis measures, below its texts.
    pub fn x_label(&self, sheet: &mut Sheet, label: &str) {
        let y = self.bottom + below(false) + TEXT * LEADING / 2.0;
        sheet.text(label, ((self.left + self.right) / 2.0, y), TEXT, INK, Anchor::Centre);
    }
}

/// Height of ticks and texts below a panel, and of what the axis measures.
pub(super) fn below(label: bool) -> f64 {
    TICK + PAD + TEXT * 1.05 + if label { TEXT * LEADING } else { 0.0 }
}

/// Room on the left of a panel for texts of this width.
pub(super) fn beside(widest: f64) -> f64 {
    widest + TICK + 2.0 * PAD
}

/// Panels in rows of equal columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    /// From the edge of the sheet to the first panel's frame, and between two frames.
    pub first: f64,
    pub between: f64,
    /// Width of a frame.
    pub width: f64,
}

impl Columns {
    /// `n` panels side by side, of which the first, or `each`, needs `room` on its left.
    pub fn new(sheet: &Sheet, n: usize, room: f64, each: bool) -> Columns {
        let n = n.max(1);
        let between = if each { room + GAP / 2.0 } else { GAP };
        let first = MARGIN + room;
        // Half a tick's text may stand out on the right.
        let width = (sheet.width - first - 2.5 * MM - between * (n - 1) as f64) / n as f64;
        Columns { first, between, width: width.max(2.0 * MM).floor() }
    }

    /// Left and right end of a column.
    pub fn ends(&self, column: usize) -> (f64, f64) {
        let left = (self.first + column as f64 * (self.width + self.between)).round();
        (left, left + self.width)
    }
}

/// Titles above a row of panels, below what there is; the end.
pub(super) fn titles(sheet: &mut Sheet, columns: &Columns, texts: &[&str]) -> Result<f64, Error> {
    let top = sheet.height;
    let lines = texts.iter().map(|t| wrap(t, TITLE, columns.width + columns.between * 0.6)).collect::<Result<Vec<_>, _>>()?;
    let most = lines.iter().map(Vec::len).max().unwrap_or(0) as f64;
    for (i, lines) in lines.into_iter().enumerate() {
        let (left, right) = columns.ends(i);
        let first = top + (most - lines.len() as f64) * TITLE * LEADING;
        sheet.block(lines, ((left + right) / 2.0, first), TITLE, INK, Anchor::Centre);
    }
    Ok(top + most * TITLE * LEADING + if most > 0.0 { 0.5 * MM } else { 0.0 })
}
