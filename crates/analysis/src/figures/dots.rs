//! One dot a head over layers, models side by side on one axis: the paper's figures of attention distance.

use fd_distill::Error;
use fd_distill::figure::axis::{Axis, drawable};
use fd_distill::figure::canvas::{Anchor, INK};
use plotters::prelude::WHITE;

use super::frame::{Columns, Frame, Scale, below, beside, titles};
use super::heat_maps::range;
use super::sheet::{LEADING, MARGIN, MARKER, MM, STROKE, Sheet, TEXT, series_style};
use super::{Figure, Width, csv, number};

/// Height of a panel.
const HEIGHT: f64 = 38.0 * MM;

/// Dots of several models, with a dash at each layer's mean. The axis of values begins at 0 and is the same for all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeadDots {
    /// Side by side.
    pub panels: Vec<DotPanel>,
    /// What a dot measures, with its unit, such as `attention distance (pixels)`.
    pub quantity: String,
    /// What the other axis counts, such as `layer`.
    pub layers: String,
    /// Panels in a row; 0: as many as there are, up to four.
    pub columns: usize,
}

/// Dots of one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DotPanel {
    /// The model's name.
    pub title: String,
    /// A value a head, layer by layer from the first on; what is not finite is left out.
    pub layers: Vec<Vec<f64>>,
}

impl Figure for HeadDots {
    fn sheet(&self, width: Width) -> Result<Sheet, Error> {
        let mut sheet = Sheet::new(width);
        let all = || self.panels.iter().flat_map(|p| p.layers.iter().flatten().copied());
        let (low, high) = range(all().filter(|v| drawable(*v))).unwrap_or((0.0, 1.0));
        let y = Scale::numbers(if low < 0.0 { Axis::linear(low, high) } else { Axis::from_zero_rounded(all()) });
        let n = if self.columns > 0 { self.columns } else { self.panels.len().clamp(1, 4) };
        let columns = Columns::new(&sheet, n, beside(y.widest()?), false);
        sheet.text(&self.quantity, (MARGIN, sheet.height + TEXT * LEADING / 2.0), TEXT, INK, Anchor::Left);
        sheet.height += TEXT * LEADING + 0.5 * MM;
        for (r, row) in self.panels.chunks(n).enumerate() {
            let names: Vec<&str> = row.iter().map(|p| p.title.as_str()).collect();
            let top = titles(&mut sheet, &columns, &names)? + MARKER;
            for (c, panel) in row.iter().enumerate() {
                let (left, right) = columns.ends(c);
                let frame = Frame { left, top, right, bottom: top + HEIGHT };
                self.panel(&mut sheet, panel, (r * n + c, c == 0), &frame, &y)?;
            }
            sheet.height = top + HEIGHT + below(true) + 1.5 * MM;
        }
        sheet.height -= 1.5 * MM;
        Ok(sheet)
    }

    fn csv(&self) -> Result<String, Error> {
        let head = ["panel", "layer", "head", "value"].map(String::from).to_vec();
        let rows = self.panels.iter().flat_map(|p| {
            p.layers.iter().enumerate().flat_map(move |(l, heads)| {
                heads.iter().enumerate().map(move |(h, v)| vec![p.title.clone(), (l + 1).to_string(), (h + 1).to_string(), number(*v)])
            })
        });
        csv(head, rows)
    }
}

impl HeadDots {
    fn panel(&self, sheet: &mut Sheet, panel: &DotPanel, (index, first): (usize, bool), frame: &Frame, y: &Scale) -> Result<(), Error> {
        let names: Vec<String> = (1..=panel.layers.len()).map(|l| l.to_string()).collect();
        let x = Scale::names(&names);
        frame.y_axis(sheet, y, first)?;
        frame.x_axis(sheet, &x)?;
        frame.x_label(sheet, &self.layers);
        let half = (frame.right - frame.left) / names.len().max(1) as f64 * 0.38;
        for (l, heads) in panel.layers.iter().enumerate() {
            let finite: Vec<f64> = heads.iter().copied().filter(|v| v.is_finite()).collect();
            for at in finite.iter().filter_map(|v| frame.at(&x, y, (l as f64, *v))) {
                sheet.marker(at, MARKER * 0.75, series_style(index));
            }
            let mean = finite.iter().sum::<f64>() / finite.len() as f64;
            if let Some((at, level)) = frame.at(&x, y, (l as f64, mean)) {
                for (thickness, colour) in [(2.0 * STROKE, WHITE), (STROKE, INK)] {
                    sheet.line(vec![(at - half, level), (at + half, level)], colour, thickness);
                }
            }
        }
        Ok(())
    }
}
