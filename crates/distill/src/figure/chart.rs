//! Small multiples of dots with whiskers: panels side by side over shared rows, in SVG and PNG from the same drawing.

mod axis;
mod layout;

use std::path::Path;

use plotters::prelude::*;

use super::Drawing;
use super::canvas::{Canvas, DrawError, GREY, INK, PALE};
pub(crate) use super::canvas::{Shape, Style};
use crate::Error;
use crate::statistics::Interval;
use layout::{Layout, PanelLayout};
pub(crate) use layout::{widest, wrap};

/// Radii of a marker and of one of the points that it stands for, which lie this far below it.
const MARKER: f64 = 5.0;
const POINT: f64 = 2.5;
const BELOW: f64 = 8.5;

/// Four colours of Okabe and Ito's palette, told apart by the colour-blind.
pub(crate) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(crate) const ORANGE: RGBColor = RGBColor(230, 159, 0);
pub(crate) const VERMILION: RGBColor = RGBColor(213, 94, 0);
pub(crate) const BLACK: RGBColor = RGBColor(60, 60, 60);

/// What is drawn, without any position.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    /// Stands on top.
    pub title: String,
    /// Markers and what they mean.
    pub legend: Vec<(Style, String)>,
    /// The rows that all panels share.
    pub rows: Vec<Label>,
    /// Pairs of rows whose marks a thin line joins in every panel.
    pub links: Vec<(usize, usize)>,
    /// Side by side; each has its own axis.
    pub panels: Vec<Panel>,
    /// What the axes measure.
    pub axis: String,
    /// Do the axes include zero, with a line there?
    pub zero: bool,
    /// Stands below.
    pub caption: String,
}

/// The name of a row.
#[derive(Clone, Debug)]
pub(crate) struct Label {
    /// Broken into lines where it is long.
    pub text: String,
    /// Stands back, in grey, and does not stretch the axes: beyond them its mark is a number at the edge.
    pub muted: bool,
    /// Does a gap divide it from the row above?
    pub apart: bool,
}

/// A panel.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    /// Stands above it.
    pub title: String,
    /// One a row; none (or a number that is not finite) shows as a dash.
    pub marks: Vec<Option<Mark>>,
}

/// A dot with a whisker.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    /// The dot.
    pub at: f64,
    /// Ends of the whisker.
    pub ends: (f64, f64),
    /// Small dots below.
    pub points: Vec<f64>,
    /// What it looks like.
    pub style: Style,
}

impl Chart {
    /// A forest plot: intervals around zero, filled where they exclude it. `labels` name the lines of all panels; a panel is its title and an
    /// interval a line. `axis` says what is measured, `caption` on what, and what the intervals cover.
    pub fn forest(title: String, labels: Vec<String>, panels: Vec<(String, Vec<Option<Interval>>)>, axis: &str, caption: String) -> Chart {
        let style = |filled| Style { colour: BLUE, shape: Shape::Circle, filled };
        let mark = |i: Interval| Mark { at: i.mean, ends: (i.low, i.high), points: vec![], style: style(!i.contains_zero()) };
        let panels = panels.into_iter().map(|(title, lines)| Panel { title, marks: lines.into_iter().map(|l| l.map(mark)).collect() });
        Chart {
            title,
            legend: [(true, "95 % interval excludes zero"), (false, "contains zero")].map(|(f, text)| (style(f), text.into())).into(),
            rows: labels.into_iter().map(|text| Label { text, muted: false, apart: false }).collect(),
            links: vec![],
            panels: panels.collect(),
            axis: axis.into(),
            zero: true,
            caption,
        }
    }

    /// Draws into a file: `.svg` (text stays text) or `.png` (at least 2,000 pixels wide).
    ///
    /// # Errors
    /// [`Error::Usage`] for another ending, [`Error::File`] when it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        super::save(path, || self.laid_out())
    }

    /// The chart as SVG text.
    #[cfg(test)]
    pub(crate) fn svg(&self) -> Result<String, DrawError> {
        super::svg(|| self.laid_out())
    }

    /// With every place settled.
    fn laid_out(&self) -> Result<LaidOut<'_>, DrawError> {
        Ok(LaidOut { chart: self, layout: Layout::of(self)? })
    }
}

/// A chart and where everything in it stands.
struct LaidOut<'a> {
    chart: &'a Chart,
    layout: Layout,
}

impl Drawing for LaidOut<'_> {
    fn size(&self) -> (f64, f64) {
        (self.layout.width, self.layout.height)
    }

    fn draw<B: DrawingBackend>(&self, c: &Canvas<'_, B>) -> Result<(), DrawError> {
        let LaidOut { chart, layout } = self;
        c.fill(WHITE)?;
        for (panel, place) in chart.panels.iter().zip(&layout.panels) {
            let mark = |row: usize| Some((panel.finite(row).filter(|m| place.holds(m.at))?, *layout.rows.get(row)?));
            let marks = || (0..layout.rows.len()).filter_map(mark);
            draw_frame(layout, place, marks().map(|m| m.1), c)?;
            for (a, b) in chart.links.iter().filter_map(|&(a, b)| Some((mark(a)?, mark(b)?))) {
                c.line(&[(place.x(a.0.at), a.1), (place.x(b.0.at), b.1)], GREY, 1.0)?;
            }
            for (mark, y) in marks() {
                draw_mark(mark, y, place, c)?;
            }
        }
        for &(left, right, y) in &layout.blanks {
            c.line(&[(left, y), (right, y)], WHITE, 16.0)?;
        }
        for (at, style) in &layout.markers {
            c.marker(*at, MARKER, *style)?;
        }
        layout.texts.iter().try_for_each(|t| c.text(&t.text, t.at, t.size, t.colour, t.anchor))
    }
}

impl Panel {
    /// A row's mark, if it is there and can be drawn.
    fn finite(&self, row: usize) -> Option<&Mark> {
        let finite = |m: &&Mark| [m.at, m.ends.0, m.ends.1].into_iter().chain(m.points.iter().copied()).all(f64::is_finite);
        self.marks.get(row)?.as_ref().filter(finite)
    }
}

/// Grid (a line for every row at one of `rows`), axis and the line at zero.
fn draw_frame<B: DrawingBackend>(
    layout: &Layout,
    place: &PanelLayout,
    rows: impl Iterator<Item = f64>,
    c: &Canvas<'_, B>,
) -> Result<(), DrawError> {
    let vertical = |x: f64, to: f64, colour, thickness| c.line(&[(x, layout.top), (x, to)], colour, thickness);
    for &x in &place.ticks {
        vertical(x, layout.bottom + 4.0, PALE, 1.0)?;
    }
    for y in rows {
        c.line(&[(place.left, y), (place.right, y)], PALE, 1.0)?;
    }
    if let Some(x) = place.zero {
        vertical(x, layout.bottom, INK, 1.2)?;
    }
    c.line(&[(place.left, layout.bottom), (place.right, layout.bottom)], GREY, 1.0)
}

fn draw_mark<B: DrawingBackend>(mark: &Mark, y: f64, place: &PanelLayout, c: &Canvas<'_, B>) -> Result<(), DrawError> {
    for &point in &mark.points {
        c.pale_dot((place.x(point), y + BELOW), POINT, mark.style.colour)?;
    }
    let (low, high) = (place.x(mark.ends.0), place.x(mark.ends.1));
    c.line(&[(low, y), (high, y)], mark.style.colour, 2.0)?;
    for x in [low, high] {
        c.line(&[(x, y - 3.5), (x, y + 3.5)], mark.style.colour, 1.5)?;
    }
    c.marker((place.x(mark.at), y), MARKER, mark.style)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forest(panels: Vec<(String, Vec<Option<Interval>>)>) -> Chart {
        let labels = vec!["first".into(), "second".into()];
        Chart::forest("Title".into(), labels, panels, "points of percent", "Where from.".into())
    }

    fn interval(mean: f64, low: f64, high: f64) -> Option<Interval> {
        Some(Interval { mean, low, high })
    }

    #[test]
    fn a_forest_fills_what_excludes_zero() {
        let chart = forest(vec![("panel".into(), vec![interval(0.5, -0.1, 1.0), interval(-0.5, -1.0, -0.2)])]);
        let filled: Vec<bool> = chart.panels[0].marks.iter().flatten().map(|m| m.style.filled).collect();
        assert_eq!(filled, [false, true]);
        let svg = chart.svg().unwrap();
        for text in ["Title", "first", "second", "panel", "points of percent", "Where from.", "excludes zero", "contains zero"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(svg.contains("sans-serif"), "a fallback for machines without the font");
    }

    #[test]
    fn whiskers_stand_where_their_values_are() {
        // The values span 4; with 8 % more on either side the axis goes from -2.32 to 2.32.
        let chart = forest(vec![("panel".into(), vec![interval(0.0, -2.0, 2.0), interval(1.0, 0.5, 1.5)])]);
        let layout = Layout::of(&chart).unwrap();
        let place = &layout.panels[0];
        let share = |value| (place.x(value) - place.left) / (place.right - place.left);
        for (value, expected) in [(-2.0, 0.32 / 4.64), (1.0, 3.32 / 4.64), (0.0, 0.5)] {
            assert!((share(value) - expected).abs() < 1e-9, "{value}: {} {expected}", share(value));
        }
        assert_eq!(place.zero, Some(place.x(0.0)));
    }

    #[test]
    fn muted_rows_stand_at_the_edge_where_they_would_stretch_the_axis() {
        let mut chart = forest(vec![("panel".into(), vec![interval(1.0, 0.5, 2.0), interval(-9.0, -9.5, -8.0)])]);
        let from = |chart: &Chart| Layout::of(chart).unwrap().panels[0].holds(-9.0);
        assert!(from(&chart) && !chart.svg().unwrap().contains('←'));
        chart.rows[1].muted = true;
        assert!(!from(&chart) && chart.svg().unwrap().contains("← −9.0"));
        chart.panels[0].marks[1] = chart.panels[0].marks[0].clone();
        assert!(!chart.svg().unwrap().contains('←'));
        chart.rows[0].muted = true;
        assert!(!chart.svg().unwrap().contains('←'), "nothing but muted rows");
    }

    #[test]
    fn what_cannot_be_drawn_is_a_dash() {
        let chart = forest(vec![
            ("odd".into(), vec![interval(f64::NAN, 0.0, 1.0), interval(0.0, f64::NEG_INFINITY, 1.0)]),
            ("short".into(), vec![]),
            ("long".into(), vec![interval(0.0, 0.0, 0.0); 9]),
        ]);
        assert_eq!(chart.svg().unwrap().matches('–').count(), 4);
        assert!(Chart::forest("".into(), vec![], vec![], "", "".into()).svg().is_ok());
        assert!(forest(vec![]).svg().unwrap().contains("second"));
    }

    #[test]
    fn many_panels_widen_the_drawing() {
        let panels = |n: usize| (0..n).map(|i| (format!("panel {i}"), vec![interval(1.0, 0.5, 2.0)])).collect();
        let [one, many] = [1, 12].map(|n| Layout::of(&forest(panels(n))).unwrap());
        assert_eq!(one.width, 1000.0);
        assert!(many.width > 1500.0 && many.panels.iter().all(|p| p.right - p.left >= 120.0 && p.right < many.width));
    }
}
