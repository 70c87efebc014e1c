//! Where everything of the figure stands, from the width of its texts and the range of its values.

use super::super::{DISTILLED, Metric};
use super::canvas::{DrawError, width};
use crate::table::{Row, TableResult};

/// Width of the drawing, in units.
pub(super) const WIDTH: f64 = 1000.0;
/// Height of a bar.
pub(super) const BAR: f64 = 16.0;
/// Em of the title, the rows' labels, the legend, and the rest.
pub(super) const TITLE: f64 = 18.0;
pub(super) const LABEL: f64 = 14.0;
pub(super) const LEGEND: f64 = 13.0;
pub(super) const SMALL: f64 = 12.0;

const MARGIN: f64 = 24.0;
/// Widest label of a row before it is broken into lines.
const LABEL_WIDTH: f64 = 300.0;
/// Between the two bars of a row, between the rows of a pair, between other rows.
const BAR_GAP: f64 = 3.0;
const PAIR_GAP: f64 = 12.0;
const ROW_GAP: f64 = 26.0;

/// One bar; no value: the metric does not apply.
pub(super) struct Bar {
    pub metric: Metric,
    pub y: f64,
    pub value: Option<f64>,
    pub error: f64,
    pub label: String,
    pub label_width: f64,
}

/// A row: the lines of its label and its bars.
pub(super) struct RowLayout {
    pub label: Vec<(String, f64)>,
    pub bars: Vec<Bar>,
}

/// The whole figure.
pub(super) struct Layout {
    pub title: String,
    pub margin: f64,
    pub height: f64,
    pub title_y: f64,
    pub legend_y: f64,
    /// Are there controls, which the legend explains?
    pub controls: bool,
    /// The plot's left edge, right edge (of the axis), top and bottom.
    pub left: f64,
    right: f64,
    pub top: f64,
    pub bottom: f64,
    /// First and last value of the axis.
    pub axis: (f64, f64),
    pub rows: Vec<RowLayout>,
    pub caption: Vec<(String, f64)>,
}

impl Layout {
    pub fn of(table: &TableResult) -> Result<Layout, DrawError> {
        let labels = table.rows.iter().map(|r| wrap(&r.name, LABEL, LABEL_WIDTH)).collect::<Result<Vec<_>, _>>()?;
        let label_width = widest(labels.iter().flatten(), LABEL)?;
        let top = 96.0;
        let mut y = top + 14.0;
        let mut rows = vec![];
        for (i, (row, lines)) in table.rows.iter().zip(labels).enumerate() {
            if i > 0 {
                let pair = row.name.strip_suffix(DISTILLED) == Some(&table.rows[i - 1].name);
                y += if pair { PAIR_GAP } else { ROW_GAP };
            }
            let height = (2.0 * BAR + BAR_GAP).max(lines.len() as f64 * LABEL * 1.3);
            rows.push(row_at(table, row, lines, y, height)?);
            y += height;
        }
        let bottom = y + 14.0;
        let caption = wrap(&caption(table), SMALL, WIDTH - 2.0 * MARGIN)?;
        let first_line = bottom + 74.0;
        let caption: Vec<_> = caption.into_iter().enumerate().map(|(i, line)| (line, first_line + i as f64 * SMALL * 1.5)).collect();
        let bars = || rows.iter().flat_map(|r| &r.bars);
        let value_width = bars().map(|b| b.label_width).fold(0.0, f64::max);
        Ok(Layout {
            title: format!("Accuracy before and after feature distillation (FD): {}", table.name),
            margin: MARGIN,
            height: (caption.last().map_or(first_line, |c| c.1) + 26.0).ceil(),
            title_y: 32.0,
            legend_y: 66.0,
            controls: table.rows.iter().any(|r| r.control),
            left: (MARGIN + label_width + 12.0).round(),
            right: WIDTH - MARGIN - value_width - 8.0,
            top,
            bottom,
            axis: axis(bars()),
            rows,
            caption,
        })
    }

    /// Where a value stands; one left of the axis stands at its start.
    pub fn x(&self, value: f64) -> f64 {
        let (from, to) = self.axis;
        self.left + ((value.max(from) - from) / (to - from)) * (self.right - self.left)
    }

    /// The values with a grid line.
    pub fn ticks(&self) -> impl Iterator<Item = f64> + use<> {
        let (from, to) = self.axis;
        let step = step(from);
        (0..).map(move |i| from + step * f64::from(i)).take_while(move |t| *t <= to)
    }
}

fn row_at(table: &TableResult, row: &Row, lines: Vec<String>, y: f64, height: f64) -> Result<RowLayout, DrawError> {
    let middle = y + height / 2.0;
    let first = middle - (lines.len().saturating_sub(1)) as f64 * LABEL * 1.3 / 2.0;
    let label = lines.into_iter().enumerate().map(|(i, line)| (line, first + i as f64 * LABEL * 1.3)).collect();
    let bar_y = |i: usize| middle - BAR - BAR_GAP / 2.0 + i as f64 * (BAR + BAR_GAP);
    let bars = Metric::ALL.into_iter().enumerate().map(|(i, metric)| {
        let summary = table.summary(row, metric).filter(|s| s.mean.is_finite());
        let label = summary.map_or(String::new(), |s| match s.sd {
            Some(sd) => format!("{:.1} ± {sd:.1}", s.mean),
            None => format!("{:.1}", s.mean),
        });
        let error = summary.map_or(0.0, |s| s.bar());
        let label_width = width(&label, SMALL)?;
        Ok(Bar { metric, y: bar_y(i), value: summary.map(|s| s.mean), error, label, label_width })
    });
    Ok(RowLayout { label, bars: bars.collect::<Result<_, DrawError>>()? })
}

/// From 0, or from a round number well below the lowest value when all are high; to a round number above the highest.
fn axis<'a>(bars: impl Iterator<Item = &'a Bar>) -> (f64, f64) {
    let ends = bars.filter_map(|b| Some((b.value? - b.error, b.value? + b.error)));
    let (low, high) = ends.fold((100.0f64, 0.0f64), |(low, high), (a, b)| (low.min(a), high.max(b)));
    let from = if low < 50.0 { 0.0 } else { ((low - 10.0) / 10.0).floor() * 10.0 };
    let to = (high / step(from)).ceil() * step(from);
    (from, to.clamp(from + 10.0, 100.0))
}

/// Between two ticks: a cut axis is short and finer.
fn step(from: f64) -> f64 {
    if from > 0.0 { 5.0 } else { 10.0 }
}

fn caption(table: &TableResult) -> String {
    let seeds = table.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let n = table.seeds.len();
    let error = if n > 1 {
        format!("Error bars: one standard deviation over {n} seeds ({seeds}) each way.")
    } else {
        format!("Error bars: one binomial standard error of the test images each way (one seed: {seeds}).")
    };
    let controls = if table.rows.iter().any(|r| r.control) { " Controls were neither pretrained nor distilled." } else { "" };
    format!("{}. {error}{controls}", table.data_and_test_images())
}

fn widest<'a>(texts: impl Iterator<Item = &'a String>, size: f64) -> Result<f64, DrawError> {
    let widths = texts.map(|t| width(t, size)).collect::<Result<Vec<_>, _>>()?;
    Ok(widths.into_iter().fold(0.0, f64::max))
}

/// Breaks a text at spaces into lines no wider than `limit` (a word that is wider stays whole).
fn wrap(text: &str, size: f64, limit: f64) -> Result<Vec<String>, DrawError> {
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
