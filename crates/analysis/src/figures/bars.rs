//! Bars with intervals, in groups: a table's rows before and after.

use fd_distill::Error;
use fd_distill::figure::axis::{Axis, drawable};
use fd_distill::figure::canvas::{Anchor, INK};
use plotters::prelude::{RGBColor, WHITE};

use super::frame::{Columns, Frame, Scale, beside};
use super::heat_maps::range;
use super::sheet::{HAIR, LEADING, MARGIN, MM, STROKE, Sheet, TEXT, series_colour, shortened, wide, wrap};
use super::{Figure, Width, csv, expect_len, number};

/// Height of the plot.
const HEIGHT: f64 = 42.0 * MM;

/// Groups of bars; bars of one series look alike.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bars {
    /// Names of the groups.
    pub groups: Vec<String>,
    /// The series, each with a bar a group.
    pub series: Vec<BarSeries>,
    /// What a bar measures, with its unit.
    pub quantity: String,
    /// Where bars begin, if not at 0: said above them.
    pub base: Option<f64>,
}

/// Bars of one look.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BarSeries {
    /// What it is called in the legend.
    pub label: String,
    /// A bar a group; none where there is nothing.
    pub bars: Vec<Option<Bar>>,
}

/// A bar with an interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bar {
    /// Its end.
    pub value: f64,
    /// The interval around it; the same number twice: none.
    pub interval: (f64, f64),
}

impl Bar {
    fn finite(&self) -> bool {
        [self.value, self.interval.0, self.interval.1].iter().all(|v| v.is_finite())
    }
}

impl Figure for Bars {
    fn sheet(&self, width: Width) -> Result<Sheet, Error> {
        for series in &self.series {
            expect_len(&series.label, self.groups.len(), series.bars.len())?;
        }
        let mut sheet = Sheet::new(width);
        let base = self.base.unwrap_or(0.0);
        let top = self.legend(&mut sheet)? + 1.0 * MM;
        let said = if base == 0.0 { String::new() } else { format!("; bars begin at {base}") };
        sheet.text(format!("{}{said}", self.quantity), (MARGIN, top + TEXT * LEADING / 2.0), TEXT, INK, Anchor::Left);
        let finite = || self.series.iter().flat_map(|s| s.bars.iter().flatten()).filter(|b| b.finite());
        let values = || finite().flat_map(|b| [b.value, b.interval.0, b.interval.1]).chain([base]);
        let y =
            Scale::numbers(if base == 0.0 && values().all(|v| v >= 0.0) { Axis::from_zero_rounded(values()) } else { linear(values()) });
        let columns = Columns::new(&sheet, 1, beside(y.widest()?), false);
        let (left, right) = columns.ends(0);
        let top = top + TEXT * (LEADING + 1.2);
        let frame = Frame { left, top, right, bottom: top + HEIGHT };
        frame.y_axis(&mut sheet, &y, true)?;
        self.bars(&mut sheet, &frame, &y, base)?;
        let zero = frame.at(&Scale::exactly(0.0, 1.0), &y, (0.0, base)).map_or(frame.bottom, |p| p.1);
        sheet.line(vec![(left, zero), (right, zero)], INK, HAIR);
        let each = (right - left) / self.groups.len().max(1) as f64;
        sheet.height = frame.bottom + 0.8 * MM;
        let below = sheet.height;
        for (g, name) in self.groups.iter().enumerate() {
            let lines = wrap(name, TEXT, each - 0.6 * MM)?;
            let end = sheet.block(lines, (left + (g as f64 + 0.5) * each, below), TEXT, INK, Anchor::Centre);
            sheet.height = sheet.height.max(end);
        }
        Ok(sheet)
    }

    fn csv(&self) -> Result<String, Error> {
        let head = ["group", "series", "value", "low", "high"].map(String::from).to_vec();
        let rows = self.series.iter().flat_map(|s| {
            self.groups.iter().zip(&s.bars).map(move |(group, bar)| {
                let of = |f: fn(&Bar) -> f64| bar.as_ref().map(|b| number(f(b))).unwrap_or_default();
                vec![group.clone(), s.label.clone(), of(|b| b.value), of(|b| b.interval.0), of(|b| b.interval.1)]
            })
        });
        csv(head, rows)
    }
}

/// An axis around the values that can be drawn.
fn linear(values: impl Iterator<Item = f64>) -> Axis {
    let (low, high) = range(values.filter(|v| drawable(*v))).unwrap_or((0.0, 1.0));
    Axis::linear(low, high)
}

/// Width of a stripe, and of the space to the next, in a hatched bar.
const STRIPES: (f64, f64) = (0.25 * MM, 0.55 * MM);

impl Bars {
    fn bars(&self, sheet: &mut Sheet, frame: &Frame, y: &Scale, base: f64) -> Result<(), Error> {
        let each = (frame.right - frame.left) / self.groups.len().max(1) as f64;
        let wide_bar = (each * 0.82 / self.series.len().max(1) as f64).min(9.0 * MM);
        let level = |v: f64| Some(frame.bottom - y.share(v)? * (frame.bottom - frame.top));
        let Some(zero) = level(base) else { return Ok(()) };
        for (s, series) in self.series.iter().enumerate() {
            for (g, bar) in series.bars.iter().enumerate() {
                let middle = frame.left + (g as f64 + 0.5) * each + (s as f64 - (self.series.len() as f64 - 1.0) / 2.0) * wide_bar;
                let Some(bar) = bar.filter(Bar::finite) else {
                    sheet.text("–", (middle, zero - TEXT), TEXT, INK, Anchor::Centre);
                    continue;
                };
                let (Some(end), Some(low), Some(high)) = (level(bar.value), level(bar.interval.0), level(bar.interval.1)) else { continue };
                let half = wide_bar * 0.44;
                patch(sheet, s, (middle - half, end.min(zero)), (middle + half, end.max(zero)));
                if bar.interval.0 < bar.interval.1 {
                    for (thickness, colour) in [(1.9 * STROKE, WHITE), (STROKE * 0.9, INK)] {
                        sheet.line(vec![(middle, low), (middle, high)], colour, thickness);
                        for at in [low, high] {
                            sheet.line(vec![(middle - half * 0.4, at), (middle + half * 0.4, at)], colour, thickness);
                        }
                    }
                }
                let text = format!("{:.1}", bar.value).replace('-', "−");
                if wide(&text, TEXT)? < wide_bar {
                    let above = if bar.value < base { end.max(low) + TEXT * 0.7 } else { end.min(high) - TEXT * 0.7 };
                    sheet.text(text, (middle, above), TEXT, INK, Anchor::Centre);
                }
            }
        }
        Ok(())
    }

    /// Patches in as many lines as they need; the lower end.
    fn legend(&self, sheet: &mut Sheet) -> Result<f64, Error> {
        let (swatch, limit) = (4.0 * MM, sheet.width - MARGIN);
        let (mut x, mut y) = (MARGIN, sheet.height + TEXT * LEADING / 2.0);
        for (s, series) in self.series.iter().enumerate() {
            let text = shortened(&series.label, TEXT, limit - 2.0 * MARGIN - swatch)?;
            let end = x + swatch + MM + wide(&text, TEXT)?;
            if end > limit && x > MARGIN {
                (x, y) = (MARGIN, y + TEXT * LEADING);
            }
            patch(sheet, s, (x, y - 1.1 * MM), (x + swatch, y + 1.1 * MM));
            let at = x + swatch + MM;
            x = at + wide(&text, TEXT)? + 4.0 * MM;
            sheet.text(text, (at, y), TEXT, INK, Anchor::Left);
        }
        Ok(y + TEXT * LEADING / 2.0)
    }
}

/// A rectangle in the look of a series: full, striped across, or hollow, so that colour alone tells nothing apart.
fn patch(sheet: &mut Sheet, series: usize, (left, top): (f64, f64), (right, bottom): (f64, f64)) {
    let colour = series_colour(series);
    let pale = |RGBColor(r, g, b): RGBColor| RGBColor(255 - (255 - r) / 4, 255 - (255 - g) / 4, 255 - (255 - b) / 4);
    match series % 3 {
        0 => sheet.rect((left, top), (right, bottom), colour),
        1 => {
            sheet.rect((left, top), (right, bottom), pale(colour));
            let mut y = bottom;
            while y - STRIPES.0 > top {
                sheet.rect((left, y - STRIPES.0), (right, y), colour);
                y -= STRIPES.0 + STRIPES.1;
            }
        }
        _ => sheet.rect((left, top), (right, bottom), pale(colour)),
    }
    sheet.frame((left, top), (right, bottom), colour, STROKE * 0.8);
}
