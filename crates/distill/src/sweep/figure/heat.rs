//! One panel a column, its cells the grid of two axes: value written in, lightness by value.

use plotters::prelude::*;

use crate::figure::Drawing;
use crate::figure::canvas::{Anchor, Canvas, DrawError, GREY, INK, register_font};
use crate::figure::chart::{widest, wrap};
use crate::statistics::Summary;
use crate::sweep::SweepResult;

/// Width of the drawing, and its margins.
const WIDTH: f64 = 1000.0;
const MARGIN: f64 = 24.0;
/// Em of the title, labels, and the rest.
const TITLE: f64 = 18.0;
const LABEL: f64 = 14.0;
const SMALL: f64 = 12.0;
/// Between the baselines of two lines of text, in ems.
const LEADING: f64 = 1.35;
/// Widest label of a row before it is broken into lines.
const LABEL_WIDTH: f64 = 240.0;
/// Most panels side by side, and between two.
const PANELS: usize = 3;
const PANEL_GAP: f64 = 28.0;
/// Ends of the colour scale: its lightness falls from one to the other, so it reads in grey.
const LOW: (f64, f64, f64) = (236.0, 244.0, 250.0);
const HIGH: (f64, f64, f64) = (0.0, 66.0, 120.0);
/// Width that a cell needs for its text, and its height.
const CELL_WIDTH: f64 = 66.0;
const CELL: f64 = 44.0;
/// Steps of the drawn scale.
const STEPS: usize = 64;

/// Left, top, right, bottom.
type Rect = (f64, f64, f64, f64);

/// A line of text and its place.
struct Text {
    text: String,
    at: (f64, f64),
    size: f64,
    colour: RGBColor,
    anchor: Anchor,
}

/// Where everything stands.
pub(super) struct Heat {
    height: f64,
    texts: Vec<Text>,
    cells: Vec<(Rect, RGBColor)>,
    references: Vec<Rect>,
}

/// What is the same for all panels.
struct Grid<'a> {
    rows: Vec<&'a String>,
    columns: Vec<&'a String>,
    row_labels: Vec<Vec<String>>,
    column_labels: Vec<Vec<String>>,
    cell_width: f64,
}

impl Heat {
    /// None for another number of axes than two, and for more columns than there is room for.
    pub fn of(sweep: &SweepResult) -> Result<Option<Heat>, DrawError> {
        let [row_axis, column_axis] = &sweep.axes[..] else { return Ok(None) };
        register_font()?;
        let (rows, columns) = (labels(sweep, 0), labels(sweep, 1));
        let row_labels = rows.iter().map(|l| wrap(l, LABEL, LABEL_WIDTH)).collect::<Result<Vec<_>, _>>()?;
        let row_axis_lines = wrap(row_axis, SMALL, LABEL_WIDTH)?;
        let left = MARGIN + widest(row_labels.iter().flatten(), LABEL)?.max(widest(row_axis_lines.iter(), SMALL)?) + 12.0;
        let room = WIDTH - MARGIN - left + PANEL_GAP;
        let least = CELL_WIDTH * columns.len() as f64;
        if least + PANEL_GAP > room {
            return Ok(None);
        }
        let across = ((room / (least + PANEL_GAP)) as usize).min(PANELS).min(sweep.columns.len()).max(1);
        let panel_width = room / across as f64 - PANEL_GAP;
        let cell_width = panel_width / columns.len().max(1) as f64;
        let column_labels = columns.iter().map(|l| wrap(l, LABEL, cell_width - 6.0)).collect::<Result<Vec<_>, _>>()?;
        let grid = Grid { rows, columns, row_labels, column_labels, cell_width };
        let mut heat = Heat { height: 0.0, texts: vec![], cells: vec![], references: vec![] };
        let mut y = heat.block(wrap(&sweep.title(), TITLE, WIDTH - 2.0 * MARGIN)?, (MARGIN, 32.0), TITLE, INK, Anchor::Left) + 8.0;
        let all: Vec<usize> = (0..sweep.columns.len()).collect();
        for chunk in all.chunks(across) {
            let titles = chunk.iter().map(|c| wrap(&sweep.columns[*c].title, LABEL, panel_width)).collect::<Result<Vec<_>, _>>()?;
            let titles_end = y + lines_height(titles.iter().map(Vec::len).max().unwrap_or(0), LABEL);
            let column_lines = grid.column_labels.iter().map(Vec::len).max().unwrap_or(0);
            let top = titles_end + lines_height(1, SMALL) + lines_height(column_lines, LABEL) + 4.0;
            heat.middle(row_axis_lines.clone(), (left - 12.0, top - 12.0), SMALL, GREY, Anchor::Right);
            for (lines, i) in grid.row_labels.iter().zip(0u32..) {
                heat.middle(lines.clone(), (left - 12.0, top + (f64::from(i) + 0.5) * CELL), LABEL, INK, Anchor::Right);
            }
            let bottom = top + grid.rows.len() as f64 * CELL;
            for (i, (&column, title)) in chunk.iter().zip(titles).enumerate() {
                let x = left + i as f64 * (panel_width + PANEL_GAP);
                let middle = x + panel_width / 2.0;
                heat.block(title, (middle, y), LABEL, INK, Anchor::Centre);
                heat.block(vec![column_axis.clone()], (middle, titles_end), SMALL, GREY, Anchor::Centre);
                heat.panel(sweep, column, &grid, (x, top));
            }
            y = bottom + 58.0;
        }
        let spread = if sweep.seeds.len() > 1 { " ± standard deviation over seeds" } else { "" };
        let caption =
            format!("{} Top-1 accuracy (%): mean{spread}. Outlined: the reference. Each panel has its own scale.", sweep.made_of());
        y = heat.block(wrap(&caption, SMALL, WIDTH - 2.0 * MARGIN)?, (MARGIN, y), SMALL, GREY, Anchor::Left);
        heat.height = (y + 6.0).ceil();
        Ok(Some(heat))
    }

    fn panel(&mut self, sweep: &SweepResult, column: usize, grid: &Grid, (x, top): (f64, f64)) {
        let at = |i: usize| x + (i as f64 + 0.5) * grid.cell_width;
        for (i, lines) in grid.column_labels.iter().enumerate() {
            let first = top - 6.0 - (lines.len() as f64 - 0.5) * LABEL * LEADING;
            self.block(lines.clone(), (at(i), first), LABEL, INK, Anchor::Centre);
        }
        let summary = |row: &String, col: &String| {
            let point = sweep.points.iter().find(|p| p.labels[0] == *row && p.labels[1] == *col)?;
            let summary = Summary::of(&point.cells[column].as_ref()?.accuracy).filter(|s| s.mean.is_finite())?;
            Some((summary, point.reference))
        };
        let means = grid.rows.iter().flat_map(|r| grid.columns.iter().filter_map(|c| Some(summary(r, c)?.0.mean)));
        let (low, high) = means.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        for (r, row) in grid.rows.iter().enumerate() {
            for (i, col) in grid.columns.iter().enumerate() {
                let (left, upper) = (x + i as f64 * grid.cell_width, top + r as f64 * CELL);
                let (cell, middle) = ((left, upper, left + grid.cell_width, upper + CELL), (at(i), upper + CELL / 2.0));
                let Some((s, reference)) = summary(row, col) else {
                    self.middle(vec!["–".into()], middle, SMALL, GREY, Anchor::Centre);
                    continue;
                };
                let share = if high > low { (s.mean - low) / (high - low) } else { 0.5 };
                self.cells.push((cell, colour(share)));
                let lines = [Some(format!("{:.2}", s.mean)), s.sd.map(|sd| format!("± {sd:.2}"))];
                self.middle(lines.into_iter().flatten().collect(), middle, SMALL, ink_on(colour(share)), Anchor::Centre);
                if reference {
                    self.references.push(cell);
                }
            }
        }
        if low <= high {
            self.scale((low, high), x, top + grid.rows.len() as f64 * CELL + 14.0, grid.cell_width * grid.columns.len() as f64);
        }
    }

    /// The colour scale with its ends' values.
    fn scale(&mut self, (low, high): (f64, f64), left: f64, top: f64, panel_width: f64) {
        let (from, to) = (left + 44.0, left + panel_width - 44.0);
        let step = (to - from) / STEPS as f64;
        for i in 0..STEPS {
            let x = from + i as f64 * step;
            self.cells.push(((x, top, x + step, top + 10.0), colour(i as f64 / (STEPS - 1) as f64)));
        }
        for (x, value, anchor) in [(from - 6.0, low, Anchor::Right), (to + 6.0, high, Anchor::Left)] {
            self.block(vec![format!("{value:.2}")], (x, top + 5.0), SMALL, INK, anchor);
        }
    }
}

impl Heat {
    /// Lines of text from `y` on; where the next line would be.
    fn block(&mut self, lines: Vec<String>, (x, mut y): (f64, f64), size: f64, colour: RGBColor, anchor: Anchor) -> f64 {
        for text in lines {
            self.texts.push(Text { text, at: (x, y), size, colour, anchor });
            y += size * LEADING;
        }
        y
    }

    /// The same, with the lines' middle at `y`.
    fn middle(&mut self, lines: Vec<String>, (x, y): (f64, f64), size: f64, colour: RGBColor, anchor: Anchor) {
        let first = y - lines_height(lines.len().saturating_sub(1), size) / 2.0;
        self.block(lines, (x, first), size, colour, anchor);
    }
}

impl Drawing for Heat {
    fn size(&self) -> (f64, f64) {
        (WIDTH, self.height)
    }

    fn draw<B: DrawingBackend>(&self, c: &Canvas<'_, B>) -> Result<(), DrawError> {
        c.fill(WHITE)?;
        self.cells.iter().try_for_each(|((left, top, right, bottom), colour)| c.rect((*left, *top), (*right, *bottom), *colour))?;
        for (left, top, right, bottom) in &self.references {
            // Just inside the cell, dark on light, so that it shows on any colour.
            let (left, top, right, bottom) = (left + 2.0, top + 2.0, right - 2.0, bottom - 2.0);
            let frame = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)];
            c.line(&frame, WHITE, 4.0)?;
            c.line(&frame, INK, 2.0)?;
        }
        self.texts.iter().try_for_each(|t| c.text(&t.text, t.at, t.size, t.colour, t.anchor))
    }
}

/// Height of so many lines.
fn lines_height(lines: usize, size: f64) -> f64 {
    lines as f64 * size * LEADING
}

/// Labels of an axis, in the order of their first point.
fn labels(sweep: &SweepResult, axis: usize) -> Vec<&String> {
    let mut labels = vec![];
    for point in &sweep.points {
        if !labels.contains(&&point.labels[axis]) {
            labels.push(&point.labels[axis]);
        }
    }
    labels
}

fn colour(share: f64) -> RGBColor {
    let mix = |low: f64, high: f64| (low + share * (high - low)).round() as u8;
    RGBColor(mix(LOW.0, HIGH.0), mix(LOW.1, HIGH.1), mix(LOW.2, HIGH.2))
}

fn ink_on(RGBColor(r, g, b): RGBColor) -> RGBColor {
    let luminance = 0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b);
    if luminance < 140.0 { WHITE } else { INK }
}
