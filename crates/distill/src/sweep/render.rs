//! A sweep for readers: Markdown, LaTeX and CSV with the differences to the reference, and a sentence for everything the paper orders.

use std::fmt::Write;

use super::result::{Comparison, PointResult, SweepResult, Verdict};
use crate::statistics::{Interval, Summary};
use crate::table::render::latex::escaped;
use crate::table::render::markdown::aligned;
use crate::table::render::thousands;

/// What stands where nothing was measured.
const NONE: &str = "–";

impl SweepResult {
    /// The page: question, table (best mean of a column in bold, differences to the reference), what the paper says, and how that fares.
    pub fn markdown(&self) -> String {
        let mut lines = vec![self.header(|title| format!("{title}, top-1 %"))];
        for point in &self.points {
            let mut line = point.labels.clone();
            for (c, (cell, _)) in point.cells.iter().zip(&self.columns).enumerate() {
                let summary = cell.as_ref().and_then(|cell| Summary::of(&cell.accuracy));
                line.push(summary.map_or(NONE.into(), |s| {
                    let mean = format!("{:.2}", s.mean);
                    let mean = if self.is_best(c, s.mean) { format!("**{mean}**") } else { mean };
                    format!("{mean}{} ({})", s.sd.map_or(String::new(), |sd| format!(" ± {sd:.2}")), s.n)
                }));
                line.push(difference_cell(point, c, interval));
            }
            lines.push(line);
        }
        let mut out = format!("# {}\n\n{}\n\n{}\n\n", self.name, self.question, self.made_of());
        out.push_str(&aligned(&lines, self.axes.len()));
        out.push_str("\nMean ± standard deviation over seeds (number of seeds), the best mean of a column in bold. ");
        out.push_str(&(self.coverage() + "\n"));
        if let Some(claim) = &self.claim {
            let _ = write!(out, "\nThe paper: {claim}.\n");
        }
        let sentences: String = self.verdicts().iter().map(|s| format!("- {s}\n")).collect();
        if let Some(summary) = self.verdict() {
            let _ = write!(out, "\n{sentences}\n{summary}\n");
        }
        out
    }

    /// A `tabular` for the `booktabs` package: mean ± standard deviation, the best mean of a column in bold, differences.
    pub fn latex(&self) -> String {
        let columns = "l".repeat(self.axes.len()) + &"rr".repeat(self.columns.len());
        let row = |cells: Vec<String>| cells.join(" & ") + " \\\\\n";
        let header = self.header(str::to_string).iter().map(|text| escaped(text)).collect();
        let mut out = format!("\\begin{{tabular}}{{{columns}}}\n\\toprule\n{}\\midrule\n", row(header));
        for point in &self.points {
            let mut cells: Vec<String> = point.labels.iter().map(|label| escaped(label)).collect();
            for (c, cell) in point.cells.iter().enumerate() {
                let summary = cell.as_ref().and_then(|cell| Summary::of(&cell.accuracy));
                cells.push(summary.map_or("--".into(), |s| {
                    let mean = format!("{:.2}", s.mean);
                    let mean = if self.is_best(c, s.mean) { format!("\\textbf{{{mean}}}") } else { mean };
                    mean + &s.sd.map_or(String::new(), |sd| format!(" $\\pm$ {sd:.2}"))
                }));
                let cell = difference_cell(point, c, |d| format!("${:+.2}$ [${:+.2}$, ${:+.2}$]", d.mean, d.low, d.high));
                cells.push(if cell == NONE { "--".into() } else { cell });
            }
            out.push_str(&row(cells));
        }
        out + "\\bottomrule\n\\end{tabular}\n"
    }

    /// A line a point: its label on every axis, then for every column mean, standard deviation and number of seeds, and the difference to
    /// the reference with the ends of its interval. Percent, four decimals; empty where nothing was measured.
    pub fn csv(&self) -> String {
        let mut csv = csv::Writer::from_writer(vec![]);
        let measures = ["mean", "sd", "n", "difference", "low", "high"];
        let of_column = |key: &str| measures.map(|measure| format!("{key} {measure}"));
        let header = self.axes.iter().cloned().chain(self.columns.iter().flat_map(|column| of_column(&column.key)));
        let number = |value: Option<f64>| value.map_or(String::new(), |v| format!("{v:.4}"));
        let cells = |point: &PointResult, c: usize| {
            let summary = point.cells[c].as_ref().and_then(|cell| Summary::of(&cell.accuracy));
            let (n, difference) = (summary.map_or(String::new(), |s| s.n.to_string()), point.differences[c]);
            let [mean, sd] = [summary.map(|s| s.mean), summary.and_then(|s| s.sd)].map(number);
            let [d, low, high] = [difference.map(|d| d.mean), difference.map(|d| d.low), difference.map(|d| d.high)].map(number);
            [mean, sd, n, d, low, high]
        };
        let line = |point: &PointResult| -> Vec<String> {
            point.labels.iter().cloned().chain((0..self.columns.len()).flat_map(|c| cells(point, c))).collect()
        };
        for record in std::iter::once(header.collect()).chain(self.points.iter().map(line)) {
            csv.write_record(&record).expect("every line has the header's length, and memory takes it");
        }
        let bytes = csv.into_inner().expect("memory takes everything");
        String::from_utf8(bytes).expect("what was text is text")
    }

    /// A sentence for everything that the paper orders, and column.
    pub fn verdicts(&self) -> Vec<String> {
        let columns = || self.columns.iter().map(|column| &column.title).enumerate();
        self.comparisons.iter().flat_map(|comparison| columns().map(|(c, title)| comparison.sentence(c, title))).collect()
    }

    /// How many of the paper's comparisons hold here; none without any.
    pub fn verdict(&self) -> Option<String> {
        let measured: Vec<Verdict> = self.comparisons.iter().flat_map(|c| &c.differences).flatten().map(Verdict::of).collect();
        let claim = self.claim.as_ref().filter(|_| !self.comparisons.is_empty())?;
        let count = |verdict| measured.iter().filter(|v| **v == verdict).count();
        let [hold, reversed, noise] = [Verdict::Holds, Verdict::Reversed, Verdict::NotShown].map(count);
        let seeds = match self.seeds.len() {
            1 => "1 seed".into(),
            n => format!("{n} seeds"),
        };
        Some(format!(
            "The paper's ordering ({claim}): {hold} of {} comparisons hold, {reversed} reversed, {noise} within noise (95 % intervals, {seeds}).",
            measured.len()
        ))
    }

    /// Axes, and two cells a column.
    fn header(&self, of_title: impl Fn(&str) -> String) -> Vec<String> {
        let columns = self.columns.iter().flat_map(|column| [of_title(&column.title), "difference".into()]);
        self.axes.iter().cloned().chain(columns).collect()
    }

    /// Data, teachers, seeds.
    pub(super) fn made_of(&self) -> String {
        let seeds = self.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let (teacher, test) = (if self.teachers.len() == 1 { "Teacher" } else { "Teachers" }, thousands(self.test_images));
        format!("{}; {test} test images. {teacher}: {}. Seeds: {seeds}.", self.data, self.teachers.join(", "))
    }

    /// What the differences are, and what their intervals cover.
    pub(super) fn coverage(&self) -> String {
        let over = match self.seeds.len() {
            1 => "the test images (one seed: what other seeds would change is not covered)",
            _ => "seeds and test images",
        };
        // Pairs of points that an order pools share seeds and teacher.
        let pooled = match self.comparisons.iter().any(|c| c.pairs > 1) {
            true => {
                " Where an order compares several pairs of points, pairs and seeds are pooled as if independent: those intervals are too short."
            }
            false => "",
        };
        format!("Differences to the reference in points, with 95 % intervals of a paired bootstrap over {over}.{pooled}")
    }

    /// Is this the highest mean of a column, as it is written?
    fn is_best(&self, column: usize, mean: f64) -> bool {
        let means = self.points.iter().filter_map(|p| Some(Summary::of(&p.cells[column].as_ref()?.accuracy)?.mean));
        format!("{:.2}", means.fold(f64::NEG_INFINITY, f64::max)) == format!("{mean:.2}")
    }
}

impl Comparison {
    /// What one column says of it.
    fn sentence(&self, column: usize, title: &str) -> String {
        let when = self.when.as_ref().map_or(String::new(), |when| format!(" ({when})"));
        let what = format!("{}, {} over {}{when}, {title}", self.axis, self.better, self.worse);
        let Some(difference) = &self.differences[column] else { return format!("{what}: not measured.") };
        let size = interval(difference);
        match Verdict::of(difference) {
            Verdict::Holds => format!("{what}: holds here ({size})."),
            Verdict::Reversed => format!("{what}: reversed here ({size})."),
            Verdict::NotShown => format!("{what}: not shown: the interval contains zero ({size})."),
        }
    }
}

/// `+1.20 [+0.70, +1.71]`.
fn interval(d: &Interval) -> String {
    format!("{:+.2} [{:+.2}, {:+.2}]", d.mean, d.low, d.high)
}

fn difference_cell(point: &PointResult, column: usize, how: impl Fn(&Interval) -> String) -> String {
    match &point.differences[column] {
        Some(difference) => how(difference),
        None if point.reference && point.cells[column].is_some() => "reference".into(),
        None => NONE.into(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::table::{Cell, Column};

    fn cell(accuracy: &[f64]) -> Option<Cell> {
        Some(Cell { accuracy: accuracy.to_vec(), hits: vec![] })
    }

    fn interval(mean: f64, low: f64, high: f64) -> Option<Interval> {
        Some(Interval { mean, low, high })
    }

    /// One axis, two columns: the reference, a point below it, and one that was measured in one column only.
    pub fn small() -> SweepResult {
        let point = |label: &str, reference, cells: [Option<Cell>; 2], differences: [Option<Interval>; 2]| PointResult {
            labels: vec![label.into()],
            reference,
            cells: cells.into(),
            differences: differences.into(),
        };
        let comparison = |worse: &str, when: Option<&str>, differences: [Option<Interval>; 2]| Comparison {
            axis: "target".into(),
            better: "map".into(),
            worse: worse.into(),
            when: when.map(String::from),
            differences: differences.into(),
            pairs: 1,
        };
        SweepResult {
            name: "target".into(),
            question: "What should the student learn?".into(),
            claim: Some("map > GAP, logits".into()),
            data: "Fashion-MNIST, 6,000 training images".into(),
            test_images: 10_000,
            seeds: vec![0, 7],
            teachers: vec!["DINO".into()],
            axes: vec!["target".into()],
            columns: vec![
                Column { key: "ft".into(), title: "fine-tune, 6,000 labels".into() },
                Column { key: "probe".into(), title: "linear probe".into() },
            ],
            points: vec![
                point("map", true, [cell(&[83.0, 84.0]), cell(&[80.0, 80.5])], [None, None]),
                point(
                    "GAP, [x|y]_1",
                    false,
                    [cell(&[82.0, 82.6]), cell(&[81.0, 81.2])],
                    [interval(-1.2, -1.71, -0.7), interval(0.85, 0.2, 1.4)],
                ),
                point("logits", false, [cell(&[83.25]), None], [interval(-0.25, -0.9, 0.4), None]),
            ],
            comparisons: vec![
                comparison("GAP", None, [interval(1.2, 0.7, 1.71), interval(-0.85, -1.4, -0.2)]),
                comparison("logits", Some("y: 2"), [interval(0.25, -0.4, 0.9), None]),
            ],
        }
    }

    #[test]
    fn the_page_is_exact() {
        let expected = "\
# target

What should the student learn?

Fashion-MNIST, 6,000 training images; 10,000 test images. Teacher: DINO. Seeds: 0, 7.

| target        | fine-tune, 6,000 labels, top-1 % |           difference | linear probe, top-1 % |           difference |
|:--------------|---------------------------------:|---------------------:|----------------------:|---------------------:|
| map           |             **83.50** ± 0.71 (2) |            reference |      80.25 ± 0.35 (2) |            reference |
| GAP, [x\\|y]_1 |                 82.30 ± 0.42 (2) | -1.20 [-1.71, -0.70] |  **81.10** ± 0.14 (2) | +0.85 [+0.20, +1.40] |
| logits        |                        83.25 (1) | -0.25 [-0.90, +0.40] |                     – |                    – |

Mean ± standard deviation over seeds (number of seeds), the best mean of a column in bold. Differences to the reference in points, with 95 % \
intervals of a paired bootstrap over seeds and test images.

The paper: map > GAP, logits.

- target, map over GAP, fine-tune, 6,000 labels: holds here (+1.20 [+0.70, +1.71]).
- target, map over GAP, linear probe: reversed here (-0.85 [-1.40, -0.20]).
- target, map over logits (y: 2), fine-tune, 6,000 labels: not shown: the interval contains zero (+0.25 [-0.40, +0.90]).
- target, map over logits (y: 2), linear probe: not measured.

The paper's ordering (map > GAP, logits): 1 of 3 comparisons hold, 1 reversed, 1 within noise (95 % intervals, 2 seeds).
";
        assert_eq!(small().markdown(), expected);
    }

    #[test]
    fn latex_is_exact_and_escaped() {
        let expected = r"\begin{tabular}{lrrrr}
\toprule
target & fine-tune, 6,000 labels & difference & linear probe & difference \\
\midrule
map & \textbf{83.50} $\pm$ 0.71 & reference & 80.25 $\pm$ 0.35 & reference \\
GAP, {[}x$|$y]\_1 & 82.30 $\pm$ 0.42 & $-1.20$ [$-1.71$, $-0.70$] & \textbf{81.10} $\pm$ 0.14 & $+0.85$ [$+0.20$, $+1.40$] \\
logits & 83.25 & $-0.25$ [$-0.90$, $+0.40$] & -- & -- \\
\bottomrule
\end{tabular}
";
        assert_eq!(small().latex(), expected);
    }

    #[test]
    fn csv_has_a_line_a_point() {
        let expected = "\
target,ft mean,ft sd,ft n,ft difference,ft low,ft high,probe mean,probe sd,probe n,probe difference,probe low,probe high
map,83.5000,0.7071,2,,,,80.2500,0.3536,2,,,
\"GAP, [x|y]_1\",82.3000,0.4243,2,-1.2000,-1.7100,-0.7000,81.1000,0.1414,2,0.8500,0.2000,1.4000
logits,83.2500,,1,-0.2500,-0.9000,0.4000,,,,,,
";
        assert_eq!(small().csv(), expected);
    }

    #[test]
    fn a_sweep_without_claim_or_points_has_a_page() {
        let empty = SweepResult { claim: None, points: vec![], comparisons: vec![], seeds: vec![1], ..small() };
        assert!(empty.verdict().is_none() && empty.verdicts().is_empty() && !empty.markdown().contains("paper"));
        assert!(empty.markdown().contains("one seed: what other seeds would change is not covered"));
        assert_eq!((empty.csv().lines().count(), empty.latex().lines().count()), (1, 6));
    }
}
