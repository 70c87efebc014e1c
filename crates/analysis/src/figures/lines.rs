//! Curves with bands, panels side by side: similarity over layers, training curves, sections through a landscape.

use fd_distill::Error;
use fd_distill::figure::axis::{Axis, drawable};
use fd_distill::figure::canvas::{Anchor, GREY, INK};

use super::frame::{Columns, Frame, Scale, below, beside, titles};
use super::heat_maps::range;
use super::sheet::{At, LEADING, MARGIN, MARKER, MM, Sheet, TEXT, series_colour, series_style, shortened};
use super::{Figure, Width, csv, expect_len, number};

/// Height of a panel.
const HEIGHT: f64 = 38.0 * MM;
/// Lines of more points than this have no markers.
const MOST_MARKERS: usize = 32;

/// Panels of curves. Lines of one label look alike in all panels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lines {
    /// Side by side.
    pub panels: Vec<LinePanel>,
    /// Panels in a row; 0: as many as there are, up to three.
    pub columns: usize,
}

/// A panel with axes of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinePanel {
    /// Stands above.
    pub title: String,
    /// What the horizontal axis measures, with its unit.
    pub x: String,
    /// What the vertical axis measures, with its unit; stands above it.
    pub y: String,
    /// Names of x = 0, 1, 2, … (layers); empty: numbers.
    pub names: Vec<String>,
    /// Ends of the vertical axis, where they are to be these.
    pub range: Option<(f64, f64)>,
    /// Is the vertical axis logarithmic, if all values are positive?
    pub log: bool,
    /// The curves.
    pub lines: Vec<Line>,
}

/// A curve.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    /// What it is called in the legend.
    pub label: String,
    /// x and y; a value that is not finite leaves a gap.
    pub points: Vec<(f64, f64)>,
    /// Lower and upper end of the band at every point; empty: none.
    pub band: Vec<(f64, f64)>,
}

impl Figure for Lines {
    fn sheet(&self, width: Width) -> Result<Sheet, Error> {
        for line in self.panels.iter().flat_map(|p| &p.lines).filter(|l| !l.band.is_empty()) {
            expect_len(&format!("band of {}", line.label), line.points.len(), line.band.len())?;
        }
        let mut sheet = Sheet::new(width);
        let labels = self.labels();
        sheet.height = sheet.legend(&labels, sheet.height, self.marked())? + 1.0 * MM;
        let scales: Vec<(Scale, Scale)> = self.panels.iter().map(LinePanel::scales).collect();
        let mut room = 0.0f64;
        for (_, y) in &scales {
            room = room.max(beside(y.widest()?));
        }
        let n = if self.columns > 0 { self.columns } else { self.panels.len().clamp(1, 3) };
        let columns = Columns::new(&sheet, n, room, true);
        for (row, scales) in self.panels.chunks(n).zip(scales.chunks(n)) {
            let names: Vec<&str> = row.iter().map(|p| p.title.as_str()).collect();
            let top = titles(&mut sheet, &columns, &names)? + TEXT * (LEADING + 0.5) + 0.5 * MM;
            for (c, (panel, scales)) in row.iter().zip(scales).enumerate() {
                let (left, right) = columns.ends(c);
                let frame = Frame { left, top, right, bottom: top + HEIGHT };
                self.panel(&mut sheet, panel, scales, &labels, &frame, room)?;
            }
            sheet.height = top + HEIGHT + below(true) + 1.5 * MM;
        }
        sheet.height -= 1.5 * MM;
        Ok(sheet)
    }

    fn csv(&self) -> Result<String, Error> {
        let head = ["panel", "line", "x", "name", "y", "low", "high"].map(String::from).to_vec();
        let rows = self.panels.iter().flat_map(|p| {
            p.lines.iter().flat_map(move |l| {
                l.points.iter().enumerate().map(move |(i, (x, y))| {
                    let name = if x.fract() == 0.0 && *x >= 0.0 { p.names.get(*x as usize).cloned() } else { None };
                    let band = l.band.get(i).map_or([String::new(), String::new()], |b| [number(b.0), number(b.1)]);
                    let [low, high] = band;
                    vec![p.title.clone(), l.label.clone(), number(*x), name.unwrap_or_default(), number(*y), low, high]
                })
            })
        });
        csv(head, rows)
    }
}

impl Lines {
    /// Labels in the order of their first line.
    fn labels(&self) -> Vec<String> {
        let mut labels: Vec<String> = vec![];
        for line in self.panels.iter().flat_map(|p| &p.lines) {
            if !labels.contains(&line.label) {
                labels.push(line.label.clone());
            }
        }
        labels
    }

    fn marked(&self) -> bool {
        self.panels.iter().flat_map(|p| &p.lines).all(|l| l.points.len() <= MOST_MARKERS)
    }

    fn panel(
        &self,
        sheet: &mut Sheet,
        panel: &LinePanel,
        (x, y): &(Scale, Scale),
        labels: &[String],
        frame: &Frame,
        room: f64,
    ) -> Result<(), Error> {
        frame.y_axis(sheet, y, true)?;
        frame.x_axis(sheet, x)?;
        frame.x_label(sheet, &panel.x);
        let scale = if y.log() { ", log scale" } else { "" };
        let left = (frame.left - room).max(MARGIN);
        let quantity = shortened(&format!("{}{scale}", panel.y), TEXT, frame.right - left)?;
        sheet.text(quantity, (left, frame.top - TEXT * (0.5 + LEADING / 2.0) - 0.5 * MM), TEXT, INK, Anchor::Left);
        let index = |line: &Line| labels.iter().position(|l| *l == line.label).unwrap_or(0);
        for line in &panel.lines {
            for band in line.bands(frame, x, y) {
                sheet.area(band, series_colour(index(line)), 0.2);
            }
        }
        let mut any = false;
        for line in &panel.lines {
            for part in line.parts(frame, x, y) {
                any = true;
                if part.len() > 1 {
                    sheet.stroke(index(line), &part);
                }
                if self.marked() || part.len() == 1 {
                    part.iter().for_each(|at| sheet.marker(*at, MARKER, series_style(index(line))));
                }
            }
        }
        if !any {
            let middle = ((frame.left + frame.right) / 2.0, (frame.top + frame.bottom) / 2.0);
            sheet.text("no finite values", middle, TEXT, GREY, Anchor::Centre);
        }
        Ok(())
    }
}

impl LinePanel {
    fn scales(&self) -> (Scale, Scale) {
        let points = || self.lines.iter().flat_map(|l| &l.points);
        let x = if self.names.is_empty() {
            let (low, high) = range(points().map(|p| p.0).filter(|v| drawable(*v))).unwrap_or((0.0, 1.0));
            if low < high { Scale::exactly(low, high) } else { Scale::numbers(Axis::linear(low, high)) }
        } else {
            Scale::names(&self.names)
        };
        let y = match self.range {
            Some((low, high)) if low < high => Scale::exactly(low, high),
            _ => {
                let bands = self.lines.iter().flat_map(|l| l.band.iter().flat_map(|b| [b.0, b.1]));
                let ends = range(points().map(|p| p.1).chain(bands).filter(|v| drawable(*v)));
                let (low, high) = ends.unwrap_or((0.0, 1.0));
                Scale::numbers(if self.log && 0.0 < low && low < high { Axis::logarithmic(low, high) } else { Axis::linear(low, high) })
            }
        };
        (x, y)
    }
}

impl Line {
    /// Its stretches without a gap.
    fn parts(&self, frame: &Frame, x: &Scale, y: &Scale) -> Vec<Vec<At>> {
        let places: Vec<Option<At>> = self.points.iter().map(|p| frame.at(x, y, *p)).collect();
        places.split(Option::is_none).map(|part| part.iter().flatten().copied().collect::<Vec<_>>()).filter(|p| !p.is_empty()).collect()
    }

    /// The band's stretches, as polygons.
    fn bands(&self, frame: &Frame, x: &Scale, y: &Scale) -> Vec<Vec<At>> {
        let ends = self.points.iter().zip(&self.band);
        let places: Vec<Option<(At, At)>> =
            ends.map(|(p, (low, high))| Some((frame.at(x, y, (p.0, *low))?, frame.at(x, y, (p.0, *high))?))).collect();
        let polygon = |part: &[Option<(At, At)>]| {
            let part: Vec<(At, At)> = part.iter().flatten().copied().collect();
            part.iter().map(|p| p.0).chain(part.iter().rev().map(|p| p.1)).collect::<Vec<_>>()
        };
        places.split(Option::is_none).map(polygon).filter(|p| p.len() > 2).collect()
    }
}
