//! Attention over a photograph: the photograph in grey below, the map's colours above.

use fd_distill::Error;
use plotters::prelude::RGBColor;

use super::frame::{Columns, titles};
use super::heat_maps::{colour_bar, outlined, range, share};
use super::sheet::{MM, Sheet};
use super::{Figure, Scale, Width, colour, csv, expect_len, number};

/// An 8-bit photograph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Photograph {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// `[height, width, 3]`.
    pub rgb: Vec<u8>,
}

/// Maps over photographs, panel by panel.
#[derive(Clone, Debug, PartialEq)]
pub struct Overlays {
    /// Row by row.
    pub panels: Vec<OverlayPanel>,
    /// Panels in a row; 0: up to four.
    pub columns: usize,
    /// What a colour stands for.
    pub quantity: String,
    /// The colours' ends.
    pub scale: Scale,
    /// Share of the colours, 0 to 1; the rest is the photograph's grey.
    pub opacity: f64,
}

/// A photograph, with or without a map.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OverlayPanel {
    /// Stands above.
    pub title: String,
    /// The photograph as the model saw it.
    pub photograph: Photograph,
    /// Rows and columns of the map.
    pub grid: (usize, usize),
    /// `[rows, columns]`; empty: the photograph alone, in its colours.
    pub values: Vec<f64>,
    /// The patch (row, column) that asks.
    pub query: Option<(usize, usize)>,
}

impl Figure for Overlays {
    fn sheet(&self, width: Width) -> Result<Sheet, Error> {
        for p in &self.panels {
            let Photograph { width, height, rgb } = &p.photograph;
            expect_len(&format!("photograph of {}", p.title), 3 * width * height, rgb.len())?;
            expect_len(&p.title, if p.values.is_empty() { 0 } else { p.grid.0 * p.grid.1 }, p.values.len())?;
        }
        let mut sheet = Sheet::new(width);
        let n = if self.columns > 0 { self.columns } else { self.panels.len().clamp(1, 4) };
        let mut columns = Columns::new(&sheet, n, 0.0, true);
        columns.between = 1.5 * MM;
        columns.width = ((sheet.width - 2.0 * columns.first - columns.between * (n - 1) as f64) / n as f64).floor();
        let common = match self.scale {
            Scale::Fixed(low, high) => Some((low, high)),
            Scale::Common | Scale::Each => range(self.panels.iter().flat_map(|p| p.values.iter().copied())),
        };
        for row in self.panels.chunks(n) {
            let names: Vec<&str> = row.iter().map(|p| p.title.as_str()).collect();
            let top = titles(&mut sheet, &columns, &names)?.round();
            let mut bottom = top;
            for (c, panel) in row.iter().enumerate() {
                let (left, right) = columns.ends(c);
                let high = ((right - left) * panel.photograph.height as f64 / panel.photograph.width.max(1) as f64).round();
                let ends = if self.scale == Scale::Each { range(panel.values.iter().copied()) } else { common };
                self.panel(&mut sheet, panel, ((left, top), (right, top + high)), ends);
                bottom = bottom.max(top + high);
            }
            sheet.height = bottom + 1.5 * MM;
        }
        if self.panels.iter().any(|p| !p.values.is_empty()) {
            colour_bar(&mut sheet, if self.scale == Scale::Each { None } else { common }, &self.quantity)?;
        }
        Ok(sheet)
    }

    /// The maps; photographs are not in it.
    fn csv(&self) -> Result<String, Error> {
        let head = ["panel", "row", "column", "value", "query"].map(String::from).to_vec();
        let rows = self.panels.iter().flat_map(|p| {
            p.values.iter().enumerate().map(move |(k, v)| {
                let (r, c) = (k / p.grid.1, k % p.grid.1);
                let query = if p.query == Some((r, c)) { "1" } else { "" };
                vec![p.title.clone(), r.to_string(), c.to_string(), number(*v), query.into()]
            })
        });
        csv(head, rows)
    }
}

impl Overlays {
    fn panel(&self, sheet: &mut Sheet, panel: &OverlayPanel, (from, to): ((f64, f64), (f64, f64)), ends: Option<(f64, f64)>) {
        let photograph = &panel.photograph;
        let (rows, columns) = panel.grid;
        let opacity = self.opacity.clamp(0.0, 1.0);
        if photograph.width > 0 && photograph.height > 0 {
            sheet.raster(from, to, |x, y| {
                let pixel = photograph.at(x, y);
                let cell = |share: f64, n: usize| ((share * n as f64) as usize).min(n.saturating_sub(1));
                let value = panel.values.get(cell(y, rows) * columns + cell(x, columns)).copied();
                match value.filter(|v| v.is_finite()).zip(ends) {
                    Some((value, ends)) => mix(grey(pixel), colour(share(ends, value)), opacity),
                    None if panel.values.is_empty() => pixel,
                    None => grey(pixel),
                }
            });
        }
        if let Some((row, column)) = panel.query.filter(|(r, c)| *r < rows && *c < columns) {
            let (wide, high) = ((to.0 - from.0) / columns as f64, (to.1 - from.1) / rows as f64);
            let corner = (from.0 + column as f64 * wide, from.1 + row as f64 * high);
            outlined(sheet, corner, (corner.0 + wide, corner.1 + high));
        }
    }
}

impl Photograph {
    /// The colour at a place (0 to 1 right and down), between the four nearest pixels.
    fn at(&self, x: f64, y: f64) -> RGBColor {
        let along = |share: f64, n: usize| {
            let at = (share * n as f64 - 0.5).clamp(0.0, n as f64 - 1.0);
            (at as usize, (at as usize + 1).min(n - 1), at.fract())
        };
        let ((x0, x1, u), (y0, y1, v)) = (along(x, self.width), along(y, self.height));
        let channel = |c: usize| {
            let pixel = |x: usize, y: usize| f64::from(self.rgb[3 * (y * self.width + x) + c]);
            let row = |y: usize| pixel(x0, y) * (1.0 - u) + pixel(x1, y) * u;
            (row(y0) * (1.0 - v) + row(y1) * v).round() as u8
        };
        RGBColor(channel(0), channel(1), channel(2))
    }
}

fn grey(RGBColor(r, g, b): RGBColor) -> RGBColor {
    let luma = (0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b)).round() as u8;
    RGBColor(luma, luma, luma)
}

fn mix(RGBColor(r, g, b): RGBColor, RGBColor(s, t, u): RGBColor, share: f64) -> RGBColor {
    let between = |a: u8, b: u8| (f64::from(a) * (1.0 - share) + f64::from(b) * share).round() as u8;
    RGBColor(between(r, s), between(g, t), between(b, u))
}
