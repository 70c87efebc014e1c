//! The drawing: panels two by two, each with its axes and a legend below.

use plotters::prelude::*;

use super::{Panel, Series};
use crate::figure::Drawing;
use crate::figure::axis::{Axis, drawable};
use crate::figure::canvas::{self, Anchor, Canvas, DrawError, GREY, INK, PALE};
use crate::figure::strokes::{COLOURS, DASHES, dashed};

/// Width of the drawing, in units.
const WIDTH: f64 = 1000.0;
const MARGIN: f64 = 24.0;
/// Height of the title's line, of a plot, of what is above and below it, of a line of the legend.
const HEAD: f64 = 60.0;
const PLOT: f64 = 240.0;
const ABOVE: f64 = 52.0;
const BELOW: f64 = 62.0;
const LEGEND_LINE: f64 = 20.0;
/// Room for the labels of the values.
const LABELS: f64 = 52.0;
const GUTTER: f64 = 28.0;
const SWATCH: f64 = 30.0;
/// Ems of the title, of a panel's, of the legend, of the rest.
const TITLE: f64 = 18.0;
const PANEL: f64 = 15.0;
const LEGEND: f64 = 13.0;
const SMALL: f64 = 12.0;

/// Where everything stands.
pub(super) struct Figure<'a> {
    title: String,
    panels: Vec<Place<'a>>,
    height: f64,
}

/// A panel's place: its top left corner, the right end of its plot, its legend.
struct Place<'a> {
    panel: &'a Panel,
    x: f64,
    y: f64,
    right: f64,
    /// Text, left end, line.
    legend: Vec<(String, f64, usize)>,
}

impl<'a> Figure<'a> {
    pub(super) fn new(name: &str, panels: &'a [Panel]) -> Result<Figure<'a>, DrawError> {
        let columns = panels.len().clamp(1, 2);
        let width = (WIDTH - 2.0 * MARGIN - (columns - 1) as f64 * GUTTER) / columns as f64;
        let mut figure = Figure { title: format!("Training curves: {name}"), panels: vec![], height: HEAD };
        for row in panels.chunks(columns) {
            let mut lines = 0;
            for (column, panel) in row.iter().enumerate() {
                let x = MARGIN + column as f64 * (width + GUTTER);
                let legend = legend(panel, width)?;
                lines = legend.last().map_or(lines, |l| lines.max(l.2 + 1));
                figure.panels.push(Place { panel, x, y: figure.height, right: x + width, legend });
            }
            figure.height += ABOVE + PLOT + BELOW + lines as f64 * LEGEND_LINE;
        }
        figure.height += if panels.is_empty() { HEAD } else { 0.0 };
        Ok(figure)
    }
}

impl Drawing for Figure<'_> {
    fn size(&self) -> (f64, f64) {
        (WIDTH, self.height.ceil())
    }

    fn draw<B: DrawingBackend>(&self, c: &Canvas<'_, B>) -> Result<(), DrawError> {
        c.fill(WHITE)?;
        c.text(&self.title, (MARGIN, 32.0), TITLE, INK, Anchor::Left)?;
        if self.panels.is_empty() {
            c.text("no stage has trained yet", (MARGIN, HEAD + 10.0), LEGEND, GREY, Anchor::Left)?;
        }
        self.panels.iter().try_for_each(|place| place.draw(c))
    }
}

/// The legend's texts, as many in a line as fit.
fn legend(panel: &Panel, width: f64) -> Result<Vec<(String, f64, usize)>, DrawError> {
    let (mut x, mut line, mut legend) = (0.0, 0, vec![]);
    for series in &panel.series {
        let text = shortened(&series.label, width - SWATCH - 8.0)?;
        let wide = SWATCH + 8.0 + canvas::width(&text, LEGEND)?;
        if x > 0.0 && x + wide > width {
            (x, line) = (0.0, line + 1);
        }
        legend.push((text, x, line));
        x += wide + 22.0;
    }
    Ok(legend)
}

/// A legend's text, its end cut off where it is wider than a line.
fn shortened(label: &str, width: f64) -> Result<String, DrawError> {
    let mut text = label.to_string();
    while canvas::width(&text, LEGEND)? > width {
        let kept = text.chars().count().saturating_sub(2);
        text = text.chars().take(kept).chain(['…']).collect();
    }
    Ok(text)
}

impl Place<'_> {
    fn draw<B: DrawingBackend>(&self, c: &Canvas<'_, B>) -> Result<(), DrawError> {
        let points = || self.panel.series.iter().flat_map(|s| s.lines.iter().flatten());
        let x_axis = Axis::from_zero(points().map(|p| p.0));
        let y_axis = Axis::around(points().map(|p| p.1));
        let (left, right, top, bottom) = (self.x + LABELS, self.right - 8.0, self.y + ABOVE, self.y + ABOVE + PLOT);
        self.heading(&y_axis, c)?;
        for tick in &y_axis.ticks {
            let y = bottom - y_axis.place(*tick).unwrap_or(0.0) * (bottom - top);
            c.line(&[(left, y), (right, y)], PALE, 1.0)?;
            c.text(&y_axis.label(*tick), (left - 8.0, y), SMALL, INK, Anchor::Right)?;
        }
        for tick in &x_axis.ticks {
            let x = left + x_axis.place(*tick).unwrap_or(0.0) * (right - left);
            c.line(&[(x, bottom), (x, bottom + 5.0)], GREY, 1.0)?;
            c.text(&x_axis.label(*tick), (x, bottom + 16.0), SMALL, INK, Anchor::Centre)?;
        }
        c.line(&[(left, bottom), (right, bottom)], GREY, 1.0)?;
        c.text("epoch", ((left + right) / 2.0, bottom + 34.0), LEGEND, INK, Anchor::Centre)?;
        if !points().any(|p| drawable(p.1)) {
            c.text("no finite values", ((left + right) / 2.0, (top + bottom) / 2.0), LEGEND, GREY, Anchor::Centre)?;
        }
        let place = |(x, y): (f64, f64)| Some((left + x_axis.place(x)? * (right - left), bottom - y_axis.place(y)? * (bottom - top)));
        for (i, series) in self.panel.series.iter().enumerate() {
            draw_series(i, series, place, c)?;
        }
        self.legend(bottom + 54.0, c)
    }

    fn heading<B: DrawingBackend>(&self, y_axis: &Axis, c: &Canvas<'_, B>) -> Result<(), DrawError> {
        let scale = if y_axis.log { ", logarithmic scale" } else { "" };
        c.text(&self.panel.title, (self.x, self.y + 10.0), PANEL, INK, Anchor::Left)?;
        c.text(&format!("{}{scale}", self.panel.quantity), (self.x, self.y + 31.0), SMALL, GREY, Anchor::Left)?;
        let seeds = self.panel.series.iter().any(|s| s.lines.len() > 1).then(|| "one line a seed".to_string());
        let n = self.panel.averaged;
        let averaged = (n > 1).then(|| format!("means of up to {n} logged steps"));
        let notes: Vec<String> = seeds.into_iter().chain(averaged).collect();
        c.text(&notes.join("; "), (self.right - 8.0, self.y + 10.0), SMALL, GREY, Anchor::Right)
    }

    fn legend<B: DrawingBackend>(&self, top: f64, c: &Canvas<'_, B>) -> Result<(), DrawError> {
        for (i, (text, x, line)) in self.legend.iter().enumerate() {
            let (x, y) = (self.x + x, top + *line as f64 * LEGEND_LINE);
            stroke(i, &[(x, y), (x + SWATCH, y)], 2.4, c)?;
            c.text(text, (x + SWATCH + 8.0, y), LEGEND, INK, Anchor::Left)?;
        }
        Ok(())
    }
}

/// Each line in the series' colour, with a gap where a value has no place.
fn draw_series<B: DrawingBackend>(
    index: usize,
    series: &Series,
    place: impl Fn((f64, f64)) -> Option<(f64, f64)>,
    c: &Canvas<'_, B>,
) -> Result<(), DrawError> {
    for line in &series.lines {
        let places: Vec<Option<(f64, f64)>> = line.iter().map(|p| place(*p)).collect();
        for part in places.split(Option::is_none) {
            let points: Vec<(f64, f64)> = part.iter().flatten().copied().collect();
            match points[..] {
                [] => {}
                [(x, y)] => c.rect((x - 2.0, y - 2.0), (x + 2.0, y + 2.0), COLOURS[index % COLOURS.len()])?,
                _ => stroke(index, &points, 1.4, c)?,
            }
        }
    }
    Ok(())
}

/// A line in the colour and with the dashes of a series.
fn stroke<B: DrawingBackend>(index: usize, points: &[(f64, f64)], thickness: f64, c: &Canvas<'_, B>) -> Result<(), DrawError> {
    let colour = COLOURS[index % COLOURS.len()];
    match DASHES[index % DASHES.len()] {
        None => c.line(points, colour, thickness),
        Some(lengths) => dashed(points, lengths).iter().try_for_each(|dash| c.line(dash, colour, thickness)),
    }
}
