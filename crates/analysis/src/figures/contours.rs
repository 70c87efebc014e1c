//! Landscapes: bands of colour between levels, and lines at the levels with their values.

mod marching;

use fd_distill::Error;
use fd_distill::figure::axis::Axis;
use fd_distill::figure::canvas::{Anchor, GREY, INK, PALE, Shape, Style};
use plotters::prelude::{RGBColor, WHITE};

use super::frame::{Columns, Frame, Scale, below, beside, titles};
use super::heat_maps::range;
use super::sheet::{At, HAIR, LEADING, MARGIN, MARKER, MM, Sheet, TEXT, wide};
use super::{Figure, Width, colour, csv, expect_len, number};
use marching::{Grid, lines};

/// Values that span more than this factor have levels evenly spaced in their logarithm.
const LOGARITHMIC: f64 = 20.0;
/// Levels between the ends, where they are not given.
const LEVELS: usize = 9;
/// Size of the colour scale.
const BAR: (f64, f64) = (70.0 * MM, 2.6 * MM);

/// Landscapes, panel by panel, on the same levels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contours {
    /// Side by side.
    pub panels: Vec<ContourPanel>,
    /// Panels in a row; 0: up to three.
    pub columns: usize,
    /// What height stands for, with its unit.
    pub quantity: String,
    /// What the axes measure.
    pub axes: (String, String),
    /// Where lines are.
    pub levels: Levels,
}

/// Where the lines of a landscape are.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Levels {
    /// Round values over all panels; evenly spaced in the logarithm where positive values span more than a factor of 20.
    #[default]
    Round,
    /// These, rising.
    At(Vec<f64>),
}

/// A landscape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContourPanel {
    /// Stands above.
    pub title: String,
    /// Rising.
    pub x: Vec<f64>,
    /// Rising.
    pub y: Vec<f64>,
    /// Heights `[y, x]`; what is not finite stays blank.
    pub z: Vec<f64>,
}

impl Figure for Contours {
    fn sheet(&self, width: Width) -> Result<Sheet, Error> {
        for p in &self.panels {
            expect_len(&p.title, p.x.len() * p.y.len(), p.z.len())?;
            if [&p.x, &p.y]
                .iter()
                .any(|axis| axis.len() < 2 || axis.windows(2).any(|w| w[0].partial_cmp(&w[1]) != Some(std::cmp::Ordering::Less)))
            {
                return Err(Error::Usage(format!("figure: {}: axes of at least two rising numbers", p.title)));
            }
        }
        let mut sheet = Sheet::new(width);
        let levels = self.levels();
        let scales: Vec<(Scale, Scale)> = self.panels.iter().map(ContourPanel::scales).collect();
        let mut room = 0.0f64;
        for (_, y) in &scales {
            room = room.max(beside(y.widest()?));
        }
        let n = if self.columns > 0 { self.columns } else { self.panels.len().clamp(1, 3) };
        let mut columns = Columns::new(&sheet, n, room, true);
        columns.width = columns.width.min(80.0 * MM);
        for (row, scales) in self.panels.chunks(n).zip(scales.chunks(n)) {
            let names: Vec<&str> = row.iter().map(|p| p.title.as_str()).collect();
            let top = (titles(&mut sheet, &columns, &names)? + TEXT * LEADING).round();
            for (c, (panel, scales)) in row.iter().zip(scales).enumerate() {
                let (left, right) = columns.ends(c);
                let frame = Frame { left, top, right, bottom: top + (right - left) };
                self.panel(&mut sheet, panel, scales, &frame, &levels)?;
            }
            sheet.height = top + columns.width + below(true) + 1.5 * MM;
        }
        self.bar(&mut sheet, &levels)?;
        Ok(sheet)
    }

    fn csv(&self) -> Result<String, Error> {
        let head = ["panel", "x", "y", "value"].map(String::from).to_vec();
        let rows = self.panels.iter().flat_map(|p| {
            p.z.iter()
                .enumerate()
                .map(move |(k, z)| vec![p.title.clone(), number(p.x[k % p.x.len()]), number(p.y[k / p.x.len()]), number(*z)])
        });
        csv(head, rows)
    }
}

impl ContourPanel {
    fn scales(&self) -> (Scale, Scale) {
        let whole = |axis: &[f64]| Scale::exactly(axis.first().copied().unwrap_or(0.0), axis.last().copied().unwrap_or(1.0));
        (whole(&self.x), whole(&self.y))
    }
}

impl Contours {
    /// The levels, rising, within what there is.
    fn levels(&self) -> Vec<f64> {
        if let Levels::At(levels) = &self.levels {
            let mut levels: Vec<f64> = levels.iter().copied().filter(|l| l.is_finite()).collect();
            levels.sort_by(f64::total_cmp);
            levels.dedup();
            return levels;
        }
        let Some((low, high)) = range(self.panels.iter().flat_map(|p| p.z.iter().copied())) else { return vec![] };
        if low > 0.0 && high / low > LOGARITHMIC {
            let step = (high / low).ln() / (LEVELS + 1) as f64;
            let level = |i: usize| format!("{:.1e}", low * (step * i as f64).exp()).parse().unwrap_or(low);
            let mut levels: Vec<f64> = (1..=LEVELS).map(level).collect();
            levels.dedup();
            return levels;
        }
        Axis::linear(low, high).ticks.into_iter().filter(|t| low < *t && *t < high).collect()
    }

    fn panel(&self, sheet: &mut Sheet, panel: &ContourPanel, (x, y): &(Scale, Scale), frame: &Frame, levels: &[f64]) -> Result<(), Error> {
        let grid = Grid { x: &panel.x, y: &panel.y, z: &panel.z };
        let (x0, x1) = (panel.x[0], panel.x[panel.x.len() - 1]);
        let (y0, y1) = (panel.y[0], panel.y[panel.y.len() - 1]);
        sheet.raster((frame.left, frame.top), (frame.right, frame.bottom), |u, v| {
            let height = grid.at(x0 + u * (x1 - x0), y1 - v * (y1 - y0));
            if height.is_finite() { band_colour(band(levels, height), levels.len() + 1) } else { PALE }
        });
        // Labels keep clear of each other, and of the origin's mark.
        let mut labels: Vec<[f64; 4]> = vec![];
        let origin = frame.at(x, y, (0.0, 0.0)).filter(|_| x0 <= 0.0 && 0.0 <= x1 && y0 <= 0.0 && 0.0 <= y1);
        labels.extend(origin.map(|(x, y)| [x - 2.0 * MARKER, y - 2.0 * MARKER, x + 2.0 * MARKER, y + 2.0 * MARKER]));
        for (i, level) in levels.iter().enumerate() {
            let parts = lines(&grid, *level);
            let placed: Vec<Vec<At>> = parts.into_iter().map(|part| part.into_iter().filter_map(|p| frame.at(x, y, p)).collect()).collect();
            for part in &placed {
                sheet.line(part.clone(), line_colour(i, levels.len() + 1), HAIR * 1.2);
            }
            let longest = placed.iter().max_by(|a, b| length(a).total_cmp(&length(b)));
            if let Some(part) = longest {
                label(sheet, part, (i, &text(*level)), frame, &mut labels)?;
            }
        }
        sheet.frame((frame.left, frame.top), (frame.right, frame.bottom), GREY, HAIR);
        if let Some(origin) = origin {
            let style = Style { colour: INK, shape: Shape::Diamond, filled: false };
            sheet.marker(origin, MARKER, style);
        }
        frame.x_axis(sheet, x)?;
        frame.y_names(sheet, y)?;
        frame.x_label(sheet, &self.axes.0);
        sheet.text(&self.axes.1, (frame.left, frame.top - TEXT * LEADING / 2.0), TEXT, INK, Anchor::Left);
        Ok(())
    }

    /// The bands' colours, with the levels between them.
    fn bar(&self, sheet: &mut Sheet, levels: &[f64]) -> Result<(), Error> {
        let top = (sheet.height + 0.5 * MM).round();
        let bands = levels.len() + 1;
        let left = MARGIN + 2.0 * MM;
        let right = left + BAR.0.min(sheet.width * 0.6);
        sheet.raster((left, top), (right, top + BAR.1), |u, _| band_colour((u * bands as f64) as usize, bands));
        sheet.frame((left, top), (right, top + BAR.1), GREY, HAIR);
        let frame = Frame { left, top, right, bottom: top + BAR.1 };
        // Between two bands each, whatever the distance of their values.
        let mut scale = Scale::names(&vec![String::new(); bands]);
        scale.ticks = levels.iter().enumerate().map(|(i, l)| (i as f64 + 0.5, text(*l))).collect();
        frame.x_axis(sheet, &scale)?;
        let at = right + 3.0 * MM;
        let lines = super::sheet::wrap(&self.quantity, TEXT, sheet.width - at - MARGIN)?;
        let end = sheet.block(lines, (at, top - 0.5 * MM), TEXT, INK, Anchor::Left);
        sheet.height = end.max(frame.bottom + below(false));
        Ok(())
    }
}

/// How many levels a height is above.
fn band(levels: &[f64], height: f64) -> usize {
    levels.partition_point(|l| *l <= height)
}

fn band_colour(band: usize, bands: usize) -> RGBColor {
    // Neither end of the map: lines have to show on the darkest band.
    colour(0.12 + 0.88 * (band as f64 / bands.saturating_sub(1).max(1) as f64))
}

/// Of the line below a band: light on dark.
fn line_colour(level: usize, bands: usize) -> RGBColor {
    if super::luminance(band_colour(level + 1, bands)) < 0.18 { PALE } else { INK }
}

fn text(level: f64) -> String {
    let plain = (1e-3..1e5).contains(&level.abs()) || level == 0.0;
    let text = if plain { format!("{}", format!("{level:.4e}").parse().unwrap_or(level)) } else { format!("{level:.1e}") };
    text.replace('-', "−")
}

fn length(points: &[At]) -> f64 {
    points.windows(2).map(|w| (w[1].0 - w[0].0).hypot(w[1].1 - w[0].1)).sum()
}

/// Writes a level on its line, where it keeps clear of the frame and of other labels; nowhere, if there is no such place or the line is
/// short. Levels prefer other parts of their lines than their neighbours: labels then do not stand in a row across the lines.
fn label(sheet: &mut Sheet, line: &[At], (level, text): (usize, &str), frame: &Frame, taken: &mut Vec<[f64; 4]>) -> Result<(), Error> {
    let (half_wide, half_high) = (wide(text, TEXT)? / 2.0 + 0.4 * MM, TEXT * 0.55);
    if length(line) < 6.0 * half_wide {
        return Ok(());
    }
    let around = |(x, y): At| [x - half_wide, y - half_high, x + half_wide, y + half_high];
    let inside = |b: &[f64; 4]| b[0] > frame.left && b[1] > frame.top && b[2] < frame.right && b[3] < frame.bottom;
    let apart = |a: &[f64; 4], b: &[f64; 4]| a[2] < b[0] || b[2] < a[0] || a[3] < b[1] || b[3] < a[1];
    let preferred = (line.len() as f64 * (0.5 + 0.382 * level as f64).fract()) as usize;
    let mut order: Vec<usize> = (0..line.len()).collect();
    order.sort_by_key(|i| i.abs_diff(preferred));
    let free = |i: &&usize| {
        let place = around(line[**i]);
        inside(&place) && taken.iter().all(|t| apart(t, &place))
    };
    let Some(&at) = order.iter().find(free) else { return Ok(()) };
    let place = around(line[at]);
    taken.push(place);
    sheet.area(vec![(place[0], place[1]), (place[2], place[1]), (place[2], place[3]), (place[0], place[3])], WHITE, 0.85);
    sheet.text(text, line[at], TEXT, INK, Anchor::Centre);
    Ok(())
}
