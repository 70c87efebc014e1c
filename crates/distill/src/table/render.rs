//! A table for readers: Markdown with differences and a verdict a pair, tidy CSV, and a figure.

mod figure;
mod stats;

use std::fmt::Write;

use crate::progress::duration;
use crate::table::{Row, TableResult};
use stats::Summary;
pub(super) use stats::thousands;

/// What a name carries when it is the distilled version of another row.
const DISTILLED: &str = " + FD";

/// The two measures of a row: name in the CSV, name for readers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Metric {
    FineTune,
    Probe,
}

impl Metric {
    const ALL: [Metric; 2] = [Metric::FineTune, Metric::Probe];

    fn key(self) -> &'static str {
        match self {
            Metric::FineTune => "fine_tune",
            Metric::Probe => "probe",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Metric::FineTune => "fine-tune",
            Metric::Probe => "linear probe",
        }
    }

    fn of(self, row: &Row) -> &[f64] {
        match self {
            Metric::FineTune => &row.fine_tune,
            Metric::Probe => &row.probe,
        }
    }
}

impl TableResult {
    /// The table with aligned columns (mean ± standard deviation over n seeds), the difference below every pair `X`, `X + FD`, and a
    /// sentence a pair that holds the difference against its noise.
    pub fn markdown(&self) -> String {
        let mut lines = vec![["row", "fine-tune, top-1 %", "linear probe, top-1 %"].map(String::from)];
        for row in &self.rows {
            let name = if row.control { format!("{} (control)", row.name) } else { row.name.clone() };
            lines.push([name.replace('|', "\\|"), self.cell(row, Metric::FineTune), self.cell(row, Metric::Probe)]);
            if let Some(before) = self.before(row) {
                let name = format!("difference: {} → {}", before.name, DISTILLED.trim());
                let [a, b] = Metric::ALL.map(|m| self.difference(before, row, m).map_or("–".into(), |d| d.cell()));
                lines.push([name.replace('|', "\\|"), a, b]);
            }
        }
        let seeds = self.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let mut out = format!("# {}\n\n{}. Seeds: {seeds}. Took {}.\n\n", self.name, self.data_and_test_images(), duration(self.seconds));
        out.push_str(&aligned(&lines));
        out.push_str("\nMean ± standard deviation over seeds (number of seeds); differences ± twice their standard error. ");
        out.push_str("The standard error comes from the seeds, and is at least that of the test images (binomial).\n");
        let verdicts = self.verdicts();
        if !verdicts.is_empty() {
            let _ = write!(out, "\n{}", verdicts.iter().map(|v| format!("- {v}\n")).collect::<String>());
        }
        out
    }

    /// `row,control,metric,seed,accuracy`: a line for every accuracy, in full precision; accuracies in percent.
    pub fn csv(&self) -> String {
        let mut out = String::from("row,control,metric,seed,accuracy\n");
        for row in &self.rows {
            for metric in Metric::ALL {
                for (i, accuracy) in metric.of(row).iter().enumerate() {
                    let seed = self.seeds.get(i).map_or(String::new(), u64::to_string);
                    let _ = writeln!(out, "{},{},{},{seed},{accuracy}", csv_field(&row.name), row.control, metric.key());
                }
            }
        }
        out
    }

    /// A sentence for every pair `X`, `X + FD` and metric: raised or lowered, by how much, and is it more than noise.
    pub fn verdicts(&self) -> Vec<String> {
        let pairs = self.rows.iter().filter_map(|after| Some((self.before(after)?, after)));
        let sentence = |(before, after)| {
            Metric::ALL.into_iter().filter_map(move |m| Some(self.difference(before, after, m)?.sentence(&before.name, m)))
        };
        pairs.flat_map(sentence).collect()
    }

    /// The data in words, with the number of test images where the words leave it out.
    fn data_and_test_images(&self) -> String {
        let test = format!("{} test images", thousands(self.test_images));
        if self.data.contains(&test) { self.data.clone() } else { format!("{}; {test}", self.data) }
    }

    /// The row that `row` is the distilled version of.
    fn before(&self, row: &Row) -> Option<&Row> {
        let name = row.name.strip_suffix(DISTILLED)?;
        self.rows.iter().find(|r| r.name == name)
    }

    fn summary(&self, row: &Row, metric: Metric) -> Option<Summary> {
        Summary::of(metric.of(row), self.test_images)
    }

    fn cell(&self, row: &Row, metric: Metric) -> String {
        self.summary(row, metric).map_or("–".into(), |s| match s.sd {
            Some(sd) => format!("{:.2} ± {sd:.2} ({})", s.mean, s.n),
            None => format!("{:.2} (1)", s.mean),
        })
    }

    fn difference(&self, before: &Row, after: &Row, metric: Metric) -> Option<Difference> {
        Some(Difference { before: self.summary(before, metric)?, after: self.summary(after, metric)? })
    }
}

struct Difference {
    before: Summary,
    after: Summary,
}

impl Difference {
    fn value(&self) -> f64 {
        self.after.mean - self.before.mean
    }

    /// Twice the standard error of the difference.
    fn noise(&self) -> f64 {
        2.0 * self.before.se.hypot(self.after.se)
    }

    fn cell(&self) -> String {
        format!("{:+.2} ± {:.2}", self.value(), self.noise())
    }

    fn sentence(&self, name: &str, metric: Metric) -> String {
        let (value, noise) = (self.value(), self.noise());
        let ends = format!("{:.2} → {:.2}", self.before.mean, self.after.mean);
        let verb = match value {
            _ if value > 0.0 => "raised",
            _ if value < 0.0 => "lowered",
            _ => return format!("{name}: FD left the {} accuracy as it was ({ends}).", metric.title()),
        };
        let held = if value.abs() > noise { "more than" } else { "not more than" };
        let size = value.abs();
        let title = metric.title();
        format!(
            "{name}: FD {verb} the {title} accuracy by {size:.2} points ({ends}), {held} the noise (2 × combined standard error = {noise:.2})."
        )
    }
}

/// A Markdown table: first column left, the others right, padded to equal width.
fn aligned(lines: &[[String; 3]]) -> String {
    let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0).max(3);
    let widths = [width(0), width(1), width(2)];
    let mut out = String::new();
    for (i, [a, b, c]) in lines.iter().enumerate() {
        let _ = writeln!(out, "| {a:<w0$} | {b:>w1$} | {c:>w2$} |", w0 = widths[0], w1 = widths[1], w2 = widths[2]);
        if i == 0 {
            let [a, b, c] = widths.map(|w| "-".repeat(w));
            let _ = writeln!(out, "|:{a}-|-{b}:|-{c}:|");
        }
    }
    out
}

/// Quoted where CSV needs it.
fn csv_field(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn row(name: &str, control: bool, fine_tune: &[f64], probe: &[f64]) -> Row {
        Row { name: name.into(), control, fine_tune: fine_tune.to_vec(), probe: probe.to_vec() }
    }

    pub(super) fn result(seeds: &[u64], rows: Vec<Row>) -> TableResult {
        let data = "Fashion-MNIST, 6,000 training and 10,000 test images".into();
        TableResult { name: "mini".into(), data, test_images: 10_000, seeds: seeds.to_vec(), rows, seconds: 754.0 }
    }

    fn small() -> TableResult {
        let rows = vec![
            row("raw pixels, flat", true, &[], &[81.25]),
            row("teacher", false, &[86.0, 87.0], &[84.0, 84.5]),
            row("teacher + FD", false, &[88.0, 88.5], &[83.75, 84.25]),
        ];
        result(&[0, 7], rows)
    }

    #[test]
    fn markdown_is_aligned_and_judged() {
        let expected = "\
# mini

Fashion-MNIST, 6,000 training and 10,000 test images. Seeds: 0, 7. Took 12 min 34 s.

| row                        | fine-tune, top-1 % | linear probe, top-1 % |
|:---------------------------|-------------------:|----------------------:|
| raw pixels, flat (control) |                  – |             81.25 (1) |
| teacher                    |   86.50 ± 0.71 (2) |      84.25 ± 0.35 (2) |
| teacher + FD               |   88.25 ± 0.35 (2) |      84.00 ± 0.35 (2) |
| difference: teacher → + FD |       +1.75 ± 1.19 |          -0.25 ± 1.03 |

Mean ± standard deviation over seeds (number of seeds); differences ± twice their standard error. The standard error comes from the \
seeds, and is at least that of the test images (binomial).

- teacher: FD raised the fine-tune accuracy by 1.75 points (86.50 → 88.25), more than the noise (2 × combined standard error = 1.19).
- teacher: FD lowered the linear probe accuracy by 0.25 points (84.25 → 84.00), not more than the noise (2 × combined standard error = 1.03).
";
        assert_eq!(small().markdown(), expected);
    }

    #[test]
    fn csv_is_tidy() {
        let expected = "row,control,metric,seed,accuracy\n\"raw pixels, flat\",true,probe,0,81.25\n\
                        teacher,false,fine_tune,0,86\nteacher,false,fine_tune,7,87\nteacher,false,probe,0,84\nteacher,false,probe,7,84.5\n\
                        teacher + FD,false,fine_tune,0,88\nteacher + FD,false,fine_tune,7,88.5\n\
                        teacher + FD,false,probe,0,83.75\nteacher + FD,false,probe,7,84.25\n";
        assert_eq!(small().csv(), expected);
    }

    #[test]
    fn one_seed_is_judged_by_the_test_images() {
        let rows = vec![row("t", false, &[80.0], &[50.0]), row("t + FD", false, &[81.0], &[50.0])];
        let verdicts = result(&[3], rows).verdicts();
        let first = "t: FD raised the fine-tune accuracy by 1.00 points (80.00 → 81.00), not more than the noise (2 × combined standard error = 1.12).";
        assert_eq!(verdicts, [first, "t: FD left the linear probe accuracy as it was (50.00 → 50.00)."]);
    }

    #[test]
    fn a_table_without_pairs_has_no_verdicts() {
        let empty = result(&[], vec![]);
        assert!(empty.verdicts().is_empty());
        assert!(empty.markdown().contains("| row |"));
        assert_eq!(empty.csv(), "row,control,metric,seed,accuracy\n");
        assert!(result(&[0], vec![row("x + FD", false, &[1.0], &[])]).verdicts().is_empty());
    }
}
