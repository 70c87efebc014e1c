//! Where everything of a chart stands, from the width of its texts and the range of its values.

use plotters::style::RGBColor;

use super::axis::Axis;
use super::{BELOW, Chart, MARKER, Mark, POINT, Panel};
use crate::figure::canvas::{Anchor, DrawError, GREY, INK, Style, width};

/// Least width of the drawing, in units; more panels than fit widen it.
const WIDTH: f64 = 1000.0;
const MARGIN: f64 = 24.0;
/// Em of the title, of the rows' and panels' names, the legend, and the rest.
const TITLE: f64 = 18.0;
const LABEL: f64 = 14.0;
const LEGEND: f64 = 13.0;
const SMALL: f64 = 12.0;
/// Between the baselines of two lines of text, in ems.
const LEADING: f64 = 1.35;
/// Widest label of a row before it is broken into lines.
const LABEL_WIDTH: f64 = 220.0;
/// Least width of a panel, and between two.
const PANEL: f64 = 120.0;
const PANEL_GAP: f64 = 20.0;
/// Height of a row, of one with small dots too, and what divides groups of rows.
const ROW: f64 = 27.0;
const ROW_WITH_POINTS: f64 = ROW + BELOW;
const GROUP_GAP: f64 = 12.0;
/// From a marker's outer edge to its text.
const BESIDE: f64 = 16.0;
/// Width of a tick's digit, in ems.
const DIGIT: f64 = 0.636;
/// Wider panels have no more ticks than one as wide as so many digits.
const MOST_DIGITS: f64 = 40.0;

/// A line of text.
pub(super) struct Text {
    pub text: String,
    pub at: (f64, f64),
    pub size: f64,
    pub colour: RGBColor,
    pub anchor: Anchor,
}

/// A panel's place.
pub(super) struct PanelLayout {
    pub left: f64,
    pub right: f64,
    /// Where ticks stand, and zero, if it has a line.
    pub ticks: Vec<f64>,
    pub zero: Option<f64>,
    axis: Axis,
}

/// The whole chart.
pub(super) struct Layout {
    pub width: f64,
    pub height: f64,
    pub texts: Vec<Text>,
    /// Markers of the legend and at the panels' edges.
    pub markers: Vec<((f64, f64), Style)>,
    /// What the grid leaves free: left and right end, middle.
    pub blanks: Vec<(f64, f64, f64)>,
    pub panels: Vec<PanelLayout>,
    /// Upper and lower end of the panels.
    pub top: f64,
    pub bottom: f64,
    /// Middle of every row.
    pub rows: Vec<f64>,
}

impl PanelLayout {
    /// Where a value stands, or the edge nearest to it.
    pub fn x(&self, value: f64) -> f64 {
        self.left + self.axis.share(value).clamp(0.0, 1.0) * (self.right - self.left)
    }

    /// Is a value on the axis?
    pub fn holds(&self, value: f64) -> bool {
        (self.axis.from..=self.axis.to).contains(&value)
    }
}

impl Layout {
    pub fn of(chart: &Chart) -> Result<Layout, DrawError> {
        let labels = chart.rows.iter().map(|r| balanced(&r.text, LABEL, LABEL_WIDTH)).collect::<Result<Vec<_>, _>>()?;
        let left = (MARGIN + widest(labels.iter().flatten(), LABEL)? + 14.0).round();
        let n = chart.panels.len().max(1) as f64;
        let panel_width = ((WIDTH - MARGIN - left + PANEL_GAP) / n - PANEL_GAP).max(PANEL).floor();
        let width = (left + n * (panel_width + PANEL_GAP) - PANEL_GAP + MARGIN).max(WIDTH);
        let mut layout = Layout {
            width,
            height: 0.0,
            texts: vec![],
            markers: vec![],
            blanks: vec![],
            panels: vec![],
            top: 0.0,
            bottom: 0.0,
            rows: vec![],
        };
        let full = width - 2.0 * MARGIN;
        let y = layout.block(wrap(&chart.title, TITLE, full)?, (MARGIN, 32.0), TITLE, INK, Anchor::Left);
        let y = layout.legend(&chart.legend, y + 10.0)?;
        let titles = chart.panels.iter().map(|p| balanced(&p.title, LEGEND, panel_width)).collect::<Result<Vec<_>, _>>()?;
        let lines = titles.iter().map(Vec::len).max().unwrap_or(0) as f64;
        layout.top = y + 8.0 + lines * LEGEND * LEADING;
        layout.rows(chart, labels, left);
        for (i, (panel, title)) in chart.panels.iter().zip(titles).enumerate() {
            layout.panel(chart, panel, title, left + i as f64 * (panel_width + PANEL_GAP), panel_width)?;
        }
        let middle = (left + width - MARGIN) / 2.0;
        let y = layout.block(vec![chart.axis.clone()], (middle, layout.bottom + 40.0), LEGEND, INK, Anchor::Centre);
        let y = layout.block(wrap(&chart.caption, SMALL, full)?, (MARGIN, y + 14.0), SMALL, GREY, Anchor::Left);
        layout.height = (y + 6.0).ceil();
        Ok(layout)
    }

    /// Lines of text from `y` on; where the next line would be.
    fn block(&mut self, lines: Vec<String>, (x, mut y): (f64, f64), size: f64, colour: RGBColor, anchor: Anchor) -> f64 {
        for text in lines {
            self.texts.push(Text { text, at: (x, y), size, colour, anchor });
            y += size * LEADING;
        }
        y
    }

    /// Markers with their meaning, in as many lines as they need; the lower end.
    fn legend(&mut self, entries: &[(Style, String)], mut y: f64) -> Result<f64, DrawError> {
        let mut x = MARGIN;
        for (style, text) in entries {
            let wide = BESIDE + width(text, LEGEND)?;
            if x > MARGIN && x + wide > self.width - MARGIN {
                (x, y) = (MARGIN, y + LEGEND * 1.7);
            }
            self.markers.push(((x + MARKER, y), *style));
            self.block(vec![text.clone()], (x + BESIDE, y), LEGEND, INK, Anchor::Left);
            x += wide + 24.0;
        }
        Ok(y + LEGEND * LEADING)
    }

    /// The rows' places and names, and with them the panels' lower end.
    fn rows(&mut self, chart: &Chart, labels: Vec<Vec<String>>, left: f64) {
        let points = chart.panels.iter().flat_map(|p| p.marks.iter().flatten()).any(|m| !m.points.is_empty());
        let least = if points { ROW_WITH_POINTS } else { ROW };
        let mut y = self.top;
        for (i, (row, lines)) in chart.rows.iter().zip(labels).enumerate() {
            let height = least.max((lines.len() as f64 + 0.4) * LABEL * LEADING);
            y += if row.apart && i > 0 { GROUP_GAP } else { 0.0 };
            // Small dots hang below the middle: it is as far above that of the row.
            let middle = y + height / 2.0 - if points { (BELOW - POINT) / 2.0 } else { 0.0 };
            let first = middle - lines.len().saturating_sub(1) as f64 * LABEL * LEADING / 2.0;
            self.block(lines, (left - 14.0, first), LABEL, if row.muted { GREY } else { INK }, Anchor::Right);
            self.rows.push(middle);
            y += height;
        }
        self.bottom = y + 4.0;
    }

    fn panel(&mut self, chart: &Chart, panel: &Panel, title: Vec<String>, left: f64, panel_width: f64) -> Result<(), DrawError> {
        let axis = range(chart, panel);
        let mut place = PanelLayout { left, right: left + panel_width, ticks: vec![], zero: None, axis };
        place.zero = chart.zero.then(|| place.x(0.0));
        let middle = left + panel_width / 2.0;
        let first = self.top - 6.0 - (title.len() as f64 - 0.5) * LEGEND * LEADING;
        self.block(title, (middle, first), LEGEND, INK, Anchor::Centre);
        for row in 0..chart.rows.len() {
            match panel.finite(row) {
                Some(mark) if place.holds(mark.at) => {}
                Some(mark) => self.edge(mark, &place, self.rows[row])?,
                None => self.aside("–", (left + 2.0, self.rows[row]), Anchor::Left)?,
            }
        }
        // An axis without values has nothing to say.
        let empty = (0..chart.rows.len()).all(|row| panel.finite(row).is_none());
        for (tick, text) in if empty { vec![] } else { axis.ticks((panel_width / (SMALL * DIGIT)).min(MOST_DIGITS)) } {
            let x = place.x(tick);
            place.ticks.push(x);
            self.block(vec![text], (x, self.bottom + 15.0), SMALL, INK, Anchor::Centre);
        }
        self.panels.push(place);
        Ok(())
    }

    /// A mark beyond the axis: at the edge, with its number.
    fn edge(&mut self, mark: &Mark, place: &PanelLayout, y: f64) -> Result<(), DrawError> {
        let (x, text, beside, anchor) = if mark.at < place.axis.from {
            (place.left + MARKER, format!("← {:.1}", mark.at), place.left + BESIDE, Anchor::Left)
        } else {
            (place.right - MARKER, format!("{:.1} →", mark.at), place.right - BESIDE, Anchor::Right)
        };
        self.markers.push(((x, y), mark.style));
        self.blanks.push((x - MARKER, x + MARKER, y));
        self.aside(&text.replace('-', "−"), (beside, y), anchor)
    }

    /// Small text in a panel, where the grid leaves room for it.
    fn aside(&mut self, text: &str, (x, y): (f64, f64), anchor: Anchor) -> Result<(), DrawError> {
        let wide = width(text, SMALL)?;
        let left = match anchor {
            Anchor::Left => x,
            Anchor::Centre => x - wide / 2.0,
            Anchor::Right => x - wide,
        };
        self.blanks.push((left - 3.0, left + wide + 3.0, y));
        self.block(vec![text.into()], (x, y), SMALL, GREY, anchor);
        Ok(())
    }
}

/// What a panel's axis spans: all marks but those of muted rows, if there are others.
fn range(chart: &Chart, panel: &Panel) -> Axis {
    let mut rows: Vec<usize> = (0..chart.rows.len()).filter(|row| panel.finite(*row).is_some()).collect();
    if rows.iter().any(|row| !chart.rows[*row].muted) {
        rows.retain(|row| !chart.rows[*row].muted);
    }
    let marks = rows.into_iter().filter_map(|row| panel.finite(row));
    let values = marks.flat_map(|m| [m.at, m.ends.0, m.ends.1].into_iter().chain(m.points.iter().copied()));
    Axis::over(values.chain(chart.zero.then_some(0.0)))
}

pub(crate) fn widest<'a>(texts: impl Iterator<Item = &'a String>, size: f64) -> Result<f64, DrawError> {
    let widths = texts.map(|t| width(t, size)).collect::<Result<Vec<_>, _>>()?;
    Ok(widths.into_iter().fold(0.0, f64::max))
}

/// Breaks a text into as few lines as [`wrap`] does, of about equal length.
fn balanced(text: &str, size: f64, limit: f64) -> Result<Vec<String>, DrawError> {
    let lines = wrap(text, size, limit)?;
    let narrower = (4..10).map(|tenth| wrap(text, size, limit * f64::from(tenth) / 10.0));
    let narrowest = narrower.collect::<Result<Vec<_>, _>>()?.into_iter().find(|narrow| narrow.len() <= lines.len());
    Ok(narrowest.unwrap_or(lines))
}

/// Breaks a text at spaces into lines no wider than `limit` (a word that is wider stays whole).
pub(crate) fn wrap(text: &str, size: f64, limit: f64) -> Result<Vec<String>, DrawError> {
    let mut lines: Vec<String> = vec![];
    for word in text.split_whitespace() {
        if let Some(last) = lines.last_mut() {
            let longer = format!("{last} {word}");
            if width(&longer, size)? <= limit {
                *last = longer;
                continue;
            }
        }
        lines.push(word.to_string());
    }
    Ok(lines)
}
