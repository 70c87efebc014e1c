//! The paper's rows joined into one page.

use std::fmt::Write;

use super::csv::field;
use super::markdown::aligned;
use crate::table::{Certainty, Kind, PROBE_AVG, PROBE_CLS, TableResult};

/// Finished rows.
#[derive(Clone, Debug, Default)]
pub struct PaperTable {
    /// A row's name and its table, in order.
    pub rows: Vec<(String, TableResult)>,
}

/// A teacher before and after feature distillation under one measure, in percent, and what the paper says of it.
struct Pair {
    column: String,
    ours: [Option<f64>; 2],
    papers: [Option<f64>; 2],
    certainty: Option<Certainty>,
}

impl PaperTable {
    /// The joined page.
    pub fn markdown(&self) -> String {
        let head = ["row", "fine-tune", "paper", "linear probe, CLS", "linear probe, average", "paper"].map(String::from).to_vec();
        let line = |(row, result): &(String, TableResult)| {
            let of = |measure: Measure| measure.of(result);
            let ours = |measure| of(measure).map_or(NONE.into(), |pair| told(pair.ours, 2));
            let papers = |measure| {
                let pair: Option<Pair> = of(measure);
                pair.map_or(NONE.into(), |pair| match pair.certainty {
                    Some(Certainty::Recalled) => format!("{} (recalled)", told(pair.papers, 1)),
                    _ => told(pair.papers, 1),
                })
            };
            let probe = if of(Measure::Cls).is_some() { Measure::Cls } else { Measure::Average };
            let (fine_tune, cls, average) = (ours(Measure::FineTune), ours(Measure::Cls), ours(Measure::Average));
            vec![row.clone(), fine_tune, papers(Measure::FineTune), cls, average, papers(probe)]
        };
        let lines: Vec<Vec<String>> = std::iter::once(head).chain(self.rows.iter().map(line)).collect();
        let mut out = format!("# The paper's rows\n\n{}", aligned(&lines, 1));
        out.push_str(
            "\nA teacher's top-1 accuracy in percent → that of the student distilled from it (the gain in points), means over seeds.\n",
        );
        let data: Vec<String> = self.rows.iter().map(|(row, r)| format!("{row}: {}, {} test images", r.data, r.test_images)).collect();
        let _ = writeln!(out, "The paper's columns are of ImageNet-1K. Ours: {}.", data.join("; "));
        if self.rows.iter().flat_map(|(_, r)| &r.paper).any(|p| p.certainty == Certainty::Recalled) {
            out.push_str("\"Recalled\" numbers were written down from memory; the others are published.\n");
        }
        out
    }

    /// `row,column,encoder,accuracy,paper,certainty`: a line for every encoder and measure, means over seeds in percent.
    pub fn csv(&self) -> String {
        let mut out = String::from("row,column,encoder,accuracy,paper,certainty\n");
        for (row, result) in &self.rows {
            for pair in [Measure::FineTune, Measure::Cls, Measure::Average].into_iter().filter_map(|m| m.of(result)) {
                for (i, encoder) in ["before", "after"].into_iter().enumerate() {
                    let number = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
                    let certainty = match pair.certainty.filter(|_| pair.papers[i].is_some()) {
                        Some(Certainty::Published) => "published",
                        Some(Certainty::Recalled) => "recalled",
                        None => "",
                    };
                    let (ours, paper) = (number(pair.ours[i]), number(pair.papers[i]));
                    let _ = writeln!(out, "{row},{},{encoder},{ours},{paper},{certainty}", field(&pair.column));
                }
            }
        }
        out
    }
}

const NONE: &str = "–";

/// `82.80 → 83.80 (+1.00)`.
fn told([before, after]: [Option<f64>; 2], digits: usize) -> String {
    let one = |x: Option<f64>| x.map_or(NONE.into(), |x| format!("{x:.digits$}"));
    match (before, after) {
        (None, None) => NONE.into(),
        (Some(b), Some(a)) => format!("{b:.digits$} → {a:.digits$} ({:+.digits$})", a - b),
        _ => format!("{} → {}", one(before), one(after)),
    }
}

/// What the paper reports.
#[derive(Clone, Copy)]
enum Measure {
    /// The row's first column.
    FineTune,
    Cls,
    Average,
}

impl Measure {
    /// None where the table has not measured it.
    fn of(self, result: &TableResult) -> Option<Pair> {
        let column = match self {
            Measure::FineTune => 0,
            Measure::Cls => result.columns.iter().position(|c| c.key == PROBE_CLS)?,
            Measure::Average => result.columns.iter().position(|c| c.key == PROBE_AVG)?,
        };
        let measure = if matches!(self, Measure::FineTune) { "fine-tune" } else { "linear probe" };
        let rows = [Kind::Before, Kind::After].map(|kind| result.rows.iter().position(|r| r.kind == kind));
        let mean = |row: Option<usize>| {
            let accuracy = &result.cell(row?, column)?.accuracy;
            (!accuracy.is_empty()).then(|| accuracy.iter().sum::<f64>() / accuracy.len() as f64)
        };
        let paper = |row: Option<usize>| {
            let name = &result.rows.get(row?)?.name;
            result.paper.iter().find(|p| p.row == *name && p.measure == measure)
        };
        let papers = rows.map(paper);
        // A pair is as sure as the less sure of the two.
        let certainty = papers.iter().flatten().map(|p| p.certainty).max_by_key(|c| *c == Certainty::Recalled);
        Some(Pair {
            column: result.columns.get(column)?.key.clone(),
            ours: rows.map(mean),
            papers: papers.map(|p| Some(p?.value)),
            certainty,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::small;
    use super::*;

    #[test]
    fn a_joined_page() {
        let mut result = small();
        result.columns[1].key = PROBE_CLS.into();
        let table = PaperTable { rows: vec![("dino-b".into(), result)] };
        let page = table.markdown();
        assert!(page.contains("| dino-b | 86.50 → 88.25 (+1.75) | 82.8 → 83.8 (+1.0) |"), "{page}");
        assert!(page.contains("84.25 → 84.00 (-0.25)") && page.contains("78.2 → – (recalled)"), "{page}");
        let csv = table.csv();
        assert!(csv.contains("\ndino-b,\"fine-tune-6,000-labels\",before,86.5,82.8,published\n"), "{csv}");
        assert!(csv.contains("\ndino-b,probe-cls,after,84,,\n"), "{csv}");
    }
}
