//! Matrices in colour, many on one scale: CKA between layers, a number for each layer and head, average attention maps.

use fd_distill::Error;
use fd_distill::figure::axis::Axis;
use fd_distill::figure::canvas::{Anchor, GREY, INK, PALE};

use super::frame::{Columns, Frame, Scale as AxisScale, below, beside, titles};
use super::sheet::{HAIR, LEADING, MARGIN, MM, STROKE, Sheet, TEXT, shortened, wide};
use super::{Figure, Width, colour, csv, expect_len, number};

/// Size of the colour scale.
const BAR: (f64, f64) = (45.0 * MM, 2.6 * MM);
/// Least and greatest height of a panel whose cells need not be square.
const HEIGHTS: (f64, f64) = (14.0 * MM, 60.0 * MM);

/// Matrices, panel by panel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeatMaps {
    /// Row by row.
    pub panels: Vec<HeatPanel>,
    /// Panels in a row; 0: up to three.
    pub columns: usize,
    /// Names of the rows of panels, on their left; empty: none.
    pub row_names: Vec<String>,
    /// What a colour stands for, with its unit.
    pub quantity: String,
    /// The colours' ends.
    pub scale: Scale,
    /// Is the first row of a matrix the lowest?
    pub upwards: bool,
    /// Are cells square, or may they fill a panel of any shape?
    pub square: bool,
}

/// What the ends of the colour map stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Scale {
    /// The least and the greatest value of all panels.
    #[default]
    Common,
    /// These.
    Fixed(f64, f64),
    /// Each panel's own least and greatest value: shapes can be compared, colours cannot.
    Each,
}

/// A matrix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeatPanel {
    /// Stands above.
    pub title: String,
    /// Rows of the matrix.
    pub rows: usize,
    /// Its columns.
    pub columns: usize,
    /// `[rows, columns]`; what is not finite is crossed out.
    pub values: Vec<f64>,
    /// What rows are.
    pub row_axis: HeatAxis,
    /// What columns are.
    pub column_axis: HeatAxis,
    /// A cell (row, column) with a frame, such as the query of an attention map.
    pub mark: Option<(usize, usize)>,
}

/// One side of a matrix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeatAxis {
    /// What it counts; empty: not said.
    pub label: String,
    /// Names of all its rows or columns; empty: none are written.
    pub names: Vec<String>,
}

impl Figure for HeatMaps {
    fn sheet(&self, width: Width) -> Result<Sheet, Error> {
        for p in &self.panels {
            expect_len(&p.title, p.rows * p.columns, p.values.len())?;
            for (names, n) in [(&p.row_axis.names, p.rows), (&p.column_axis.names, p.columns)] {
                expect_len(&format!("names of {}", p.title), if names.is_empty() { 0 } else { n }, names.len())?;
            }
        }
        let mut sheet = Sheet::new(width);
        let n = if self.columns > 0 { self.columns } else { self.panels.len().clamp(1, 3) };
        let columns = self.columns(&sheet, n)?;
        let ends = self.ends();
        for (r, row) in self.panels.chunks(n).enumerate() {
            let names: Vec<&str> = row.iter().map(|p| p.title.as_str()).collect();
            let labelled = row.iter().any(|p| !p.row_axis.label.is_empty());
            let top = titles(&mut sheet, &columns, &names)? + if labelled { TEXT * LEADING } else { 0.0 };
            let mut bottom = top;
            for (c, panel) in row.iter().enumerate() {
                let frame = self.frame(panel, columns.ends(c), top);
                self.panel(&mut sheet, panel, &frame, ends)?;
                bottom = bottom.max(frame.bottom + panel.below());
            }
            if let Some(name) = self.row_names.get(r) {
                let frame = self.frame(&row[0], columns.ends(0), top);
                sheet.text(name, (columns.ends(0).0 - MM, (top + frame.bottom) / 2.0), TEXT, INK, Anchor::Right);
            }
            sheet.height = bottom + if self.bare() { 1.0 } else { 2.0 } * MM;
        }
        let ends = if self.scale == Scale::Each { None } else { ends };
        colour_bar(&mut sheet, ends, &self.quantity)?;
        Ok(sheet)
    }

    fn csv(&self) -> Result<String, Error> {
        let head = ["panel", "row", "row_name", "column", "column_name", "value"].map(String::from).to_vec();
        let n = if self.columns > 0 { self.columns } else { 3 };
        let rows = self.panels.iter().enumerate().flat_map(|(i, p)| {
            let title = match self.row_names.get(i / n) {
                Some(row) => [row.as_str(), p.title.as_str()].into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>().join(", "),
                None => p.title.clone(),
            };
            p.values.iter().enumerate().map(move |(k, v)| {
                let (r, c) = (k / p.columns, k % p.columns);
                let name = |axis: &HeatAxis, i: usize| axis.names.get(i).cloned().unwrap_or_default();
                let (row, column) = (name(&p.row_axis, r), name(&p.column_axis, c));
                vec![title.clone(), r.to_string(), row, c.to_string(), column, number(*v)]
            })
        });
        csv(head, rows)
    }
}

/// The least and the greatest of the finite values.
pub(super) fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|v| v.is_finite()).fold(None, |ends, v| Some(ends.map_or((v, v), |(low, high): (f64, f64)| (low.min(v), high.max(v)))))
}

/// Where a value stands between two; in the middle of nothing.
pub(super) fn share((low, high): (f64, f64), value: f64) -> f64 {
    if high > low { (value - low) / (high - low) } else { 0.5 }
}

impl HeatMaps {
    /// Nothing is written at any panel.
    fn bare(&self) -> bool {
        self.panels.iter().all(|p| p.row_axis == HeatAxis::default() && p.column_axis == HeatAxis::default())
    }

    fn columns(&self, sheet: &Sheet, n: usize) -> Result<Columns, Error> {
        let mut room = 0.0f64;
        for p in self.panels.iter().filter(|p| !p.row_axis.names.is_empty()) {
            room = room.max(beside(AxisScale::names(&p.row_axis.names).widest()?));
        }
        let mut columns = Columns::new(sheet, n, room, true);
        let mut names = 0.0f64;
        for name in &self.row_names {
            names = names.max(wide(name, TEXT)? + MM);
        }
        columns.first += names;
        if self.bare() {
            columns.between = MM;
        }
        let taken = columns.between * (n - 1) as f64 + if self.bare() { MARGIN } else { 2.5 * MM };
        columns.width = ((sheet.width - columns.first - taken) / n as f64).max(2.0 * MM).floor();
        if self.square {
            // A single matrix need not fill the page.
            columns.width = columns.width.min(80.0 * MM);
        }
        Ok(columns)
    }

    fn frame(&self, panel: &HeatPanel, (left, right): (f64, f64), top: f64) -> Frame {
        let square = (right - left) * panel.rows as f64 / panel.columns.max(1) as f64;
        let height = if self.square { square } else { square.clamp(HEIGHTS.0, HEIGHTS.1) };
        Frame { left, top: top.round(), right, bottom: top.round() + height.round() }
    }

    fn ends(&self) -> Option<(f64, f64)> {
        match self.scale {
            Scale::Fixed(low, high) => Some((low, high)),
            Scale::Common | Scale::Each => range(self.panels.iter().flat_map(|p| p.values.iter().copied())),
        }
    }

    fn panel(&self, sheet: &mut Sheet, panel: &HeatPanel, frame: &Frame, ends: Option<(f64, f64)>) -> Result<(), Error> {
        let own = range(panel.values.iter().copied());
        let ends = if self.scale == Scale::Each { own } else { ends };
        let (rows, columns) = (panel.rows, panel.columns);
        let row_at = |y: f64| {
            let row = ((y * rows as f64) as usize).min(rows.saturating_sub(1));
            if self.upwards { rows - 1 - row } else { row }
        };
        if rows > 0 && columns > 0 {
            sheet.raster((frame.left, frame.top), (frame.right, frame.bottom), |x, y| {
                let column = ((x * columns as f64) as usize).min(columns - 1);
                let value = panel.values[row_at(y) * columns + column];
                ends.filter(|_| value.is_finite()).map_or(PALE, |ends| colour(share(ends, value)))
            });
        }
        let (wide, high) = ((frame.right - frame.left) / columns.max(1) as f64, (frame.bottom - frame.top) / rows.max(1) as f64);
        let cell = |row: usize, column: usize| {
            let from_top = if self.upwards { rows - 1 - row } else { row } as f64;
            let (left, top) = (frame.left + column as f64 * wide, frame.top + from_top * high);
            ((left, top), (left + wide, top + high))
        };
        for (k, _) in panel.values.iter().enumerate().filter(|(_, v)| !v.is_finite()) {
            let (from, to) = cell(k / columns, k % columns);
            sheet.line(vec![from, to], GREY, HAIR);
        }
        sheet.frame((frame.left, frame.top), (frame.right, frame.bottom), GREY, HAIR);
        if let Some((row, column)) = panel.mark.filter(|(r, c)| *r < rows && *c < columns) {
            let (from, to) = cell(row, column);
            outlined(sheet, from, to);
        }
        if !panel.column_axis.names.is_empty() {
            frame.x_axis(sheet, &AxisScale::names(&panel.column_axis.names))?;
        }
        if !panel.row_axis.names.is_empty() {
            // The scale counts upwards; so do its names.
            let names = panel.row_axis.names.iter().cloned();
            let names: Vec<String> = if self.upwards { names.collect() } else { names.rev().collect() };
            frame.y_names(sheet, &AxisScale::names(&names))?;
        }
        panel.labels(sheet, frame)
    }
}

impl HeatPanel {
    fn labels(&self, sheet: &mut Sheet, frame: &Frame) -> Result<(), Error> {
        let extent = frame.right - frame.left;
        if !self.column_axis.label.is_empty() {
            frame.x_label(sheet, &shortened(&self.column_axis.label, TEXT, extent + 3.0 * MM)?);
        }
        let label = shortened(&self.row_axis.label, TEXT, extent)?;
        if !label.is_empty() {
            sheet.text(label, (frame.left, frame.top - TEXT * LEADING / 2.0), TEXT, INK, Anchor::Left);
        }
        Ok(())
    }

    /// Height of what is written below.
    fn below(&self) -> f64 {
        match (self.column_axis.names.is_empty(), self.column_axis.label.is_empty()) {
            (true, true) => 0.0,
            (_, unlabelled) => below(!unlabelled),
        }
    }
}

/// A frame that shows on any colour: dark between light.
pub(super) fn outlined(sheet: &mut Sheet, from: (f64, f64), to: (f64, f64)) {
    sheet.frame(from, to, plotters::prelude::WHITE, 2.2 * STROKE);
    sheet.frame(from, to, INK, STROKE);
}

/// The colours with their values, and what they stand for, below all panels. No ends: each panel's own.
pub(super) fn colour_bar(sheet: &mut Sheet, ends: Option<(f64, f64)>, quantity: &str) -> Result<(), Error> {
    let top = (sheet.height + 0.5 * MM).round();
    let long = BAR.0.min(sheet.width * 0.5);
    let frame = Frame { left: MARGIN + 3.0 * MM, top, right: MARGIN + 3.0 * MM + long, bottom: top + BAR.1 };
    sheet.raster((frame.left, frame.top), (frame.right, frame.bottom), |x, _| colour(x));
    sheet.frame((frame.left, frame.top), (frame.right, frame.bottom), GREY, HAIR);
    match ends {
        Some((low, high)) if low < high => frame.x_axis(sheet, &AxisScale::exactly(low, high))?,
        Some((value, _)) => {
            let axis = Axis::linear(value, value);
            let y = frame.bottom + below(false) - TEXT * 0.6;
            sheet.text(axis.label(value).replace('-', "−"), ((frame.left + frame.right) / 2.0, y), TEXT, INK, Anchor::Centre);
        }
        None => {
            let y = frame.bottom + below(false) - TEXT * 0.6;
            sheet.text("least", (frame.left, y), TEXT, INK, Anchor::Left);
            sheet.text("greatest in panel", (frame.right, y), TEXT, INK, Anchor::Right);
        }
    }
    let left = frame.right + 3.0 * MM;
    let lines = super::sheet::wrap(quantity, TEXT, sheet.width - left - MARGIN)?;
    let end = sheet.block(lines, (left, top - 0.5 * MM), TEXT, INK, Anchor::Left);
    sheet.height = end.max(frame.bottom + below(false));
    Ok(())
}
