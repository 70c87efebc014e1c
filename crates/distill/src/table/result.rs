//! What a table says: the accuracies of every encoder under every measure, and the differences between encoders.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::statistics::{Interval, contrast_bootstrap, paired_bootstrap};

/// The bootstrap's seed: the resamples are no part of an experiment, equal hits have equal intervals in every table.
const BOOTSTRAP_SEED: u64 = 0;

/// A finished table: rows are encoders, columns are measures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableResult {
    /// Name of the table, such as `main`.
    pub name: String,
    /// The data in words, such as `Fashion-MNIST, 6,000 training images`.
    pub data: String,
    /// Number of test images.
    pub test_images: usize,
    /// The seeds, in the order of the accuracies.
    pub seeds: Vec<u64>,
    /// The measures, the main one first.
    pub columns: Vec<Column>,
    /// The encoders, in order.
    pub rows: Vec<Row>,
    /// The differences of interest, in order.
    pub comparisons: Vec<Comparison>,
    /// What distillation gives some teachers, against what it gives others.
    #[serde(default)]
    pub gains: Vec<GainDifference>,
    /// What the paper reports of encoders like these.
    pub paper: Vec<PaperFigure>,
}

/// A measure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name in files, such as `fine-tune-6000`.
    pub key: String,
    /// Its name for readers, such as `fine-tune, 6,000 labels`.
    pub title: String,
}

/// What an encoder is to the question whether feature distillation helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A teacher.
    Before,
    /// A teacher pretrained for as much longer as distillation takes.
    TrainedOn,
    /// A student distilled from a teacher.
    After,
    /// Keeps the others honest: comes from none of the teachers.
    Control,
}

impl Kind {
    /// Its name in files.
    pub fn key(self) -> &'static str {
        match self {
            Kind::Before => "before",
            Kind::TrainedOn => "trained-on",
            Kind::After => "after",
            Kind::Control => "control",
        }
    }
}

/// An encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name, such as `DINO`, `DINO trained on`, `DINO + FD`, `random weights, student architecture`.
    pub name: String,
    /// The teacher that it is or descends from, such as `DINO`.
    pub teacher: Option<String>,
    /// Its part in the table.
    pub kind: Kind,
    /// One a column; none where the measure does not apply.
    pub cells: Vec<Option<Cell>>,
}

/// An encoder under a measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Top-1 accuracies in percent, one a seed.
    pub accuracy: Vec<f64>,
    /// For every seed: is each test image right, in the test set's order? Not written to files.
    #[serde(skip)]
    pub hits: Vec<Arc<[bool]>>,
}

impl Cell {
    /// The cell of these hits, one list a seed.
    pub fn of(hits: Vec<Arc<[bool]>>) -> Cell {
        let percent = |hits: &Arc<[bool]>| 100.0 * hits.iter().filter(|h| **h).count() as f64 / hits.len().max(1) as f64;
        Cell { accuracy: hits.iter().map(percent).collect(), hits }
    }

    /// How much better this cell is than `before`, in points of percent; none where the two were not measured on the same seeds and images.
    pub fn difference(&self, before: &Cell) -> Option<Interval> {
        let [before, after] = [before, self].map(|cell| cell.hits.iter().map(|h| &h[..]).collect::<Vec<_>>());
        paired_bootstrap(&before, &after, BOOTSTRAP_SEED)
    }
}

/// What lies between two encoders.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Its name, such as `DINO: FD`, `DINO: FD against training on`.
    pub label: String,
    /// Index of the row that is compared with.
    pub from: usize,
    /// Index of the row that should be better.
    pub to: usize,
    /// `to - from` in points of percent, one a column; none where either lacks the measure.
    pub differences: Vec<Option<Interval>>,
}

/// What distillation gives some teachers, against what it gives others, each side on average.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GainDifference {
    /// Its name, such as `FD's gain: MAE against DINO, EsViT, CLIP`.
    pub label: String,
    /// The teachers on one side, such as `MAE`.
    pub of: String,
    /// The teachers on the other, such as `DINO, EsViT and CLIP`.
    pub against: String,
    /// In points of percent, one a column; none where a row lacks the measure.
    pub differences: Vec<Option<Interval>>,
}

/// A number of the paper, on its data and with its models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PaperFigure {
    /// The row of ours that it stands beside, such as `DINO` or `DINO + FD`.
    pub row: String,
    /// The paper's model, such as `DINO ViT-B`.
    pub model: String,
    /// What was measured: `fine-tune` or `linear probe`.
    pub measure: String,
    /// Top-1 accuracy on ImageNet-1K, in percent.
    pub value: f64,
    /// Where the number comes from.
    pub certainty: Certainty,
}

/// How sure a number of the paper is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Certainty {
    /// Read in the paper.
    Published,
    /// Written down from memory.
    Recalled,
}

impl TableResult {
    /// Adds the comparison of two rows, by index, from the hits of their cells.
    pub fn compare(&mut self, label: impl Into<String>, from: usize, to: usize) {
        let difference = |column| self.cell(to, column)?.difference(self.cell(from, column)?);
        let differences = (0..self.columns.len()).map(difference).collect();
        self.comparisons.push(Comparison { label: label.into(), from, to, differences });
    }

    /// Adds the difference between what distillation gives the teachers of one list and those of another.
    pub fn compare_gains(&mut self, of: &[String], against: &[String]) {
        let label = format!("FD's gain: {} against {}", of.join(", "), against.join(", "));
        let differences = (0..self.columns.len()).map(|column| self.gain_difference(column, of, against)).collect();
        self.gains.push(GainDifference { label, of: listed(of), against: listed(against), differences });
    }

    fn gain_difference(&self, column: usize, of: &[String], against: &[String]) -> Option<Interval> {
        let hits = |teacher: &String, kind| -> Option<Vec<&[bool]>> {
            let row = self.rows.iter().position(|r| r.kind == kind && r.teacher.as_ref() == Some(teacher))?;
            Some(self.cell(row, column)?.hits.iter().map(|h| &h[..]).collect())
        };
        // With whole weights: each side's mean over its teachers, times both numbers of teachers.
        let (n, m) = (i16::try_from(of.len()).ok()?, i16::try_from(against.len()).ok()?);
        let mut terms = vec![];
        for (teachers, weight) in [(of, m), (against, -n)] {
            for teacher in teachers {
                terms.push((weight, hits(teacher, Kind::After)?));
                terms.push((-weight, hits(teacher, Kind::Before)?));
            }
        }
        let terms: Vec<(i16, &[&[bool]])> = terms.iter().map(|(weight, hits)| (*weight, &hits[..])).collect();
        contrast_bootstrap(&terms, u16::try_from(n.checked_mul(m)?).ok()?, BOOTSTRAP_SEED)
    }

    /// A row's cell; none also for a row or column that the table does not have.
    pub fn cell(&self, row: usize, column: usize) -> Option<&Cell> {
        self.rows.get(row)?.cells.get(column)?.as_ref()
    }
}

/// `a, b and c`.
fn listed(names: &[String]) -> String {
    match names {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => names.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(seeds: &[&[u8]]) -> Option<Cell> {
        Some(Cell::of(seeds.iter().map(|hits| hits.iter().map(|h| *h == 1).collect()).collect()))
    }

    fn table() -> TableResult {
        let columns = ["a", "b"].map(|key| Column { key: key.into(), title: format!("measure {key}") }).to_vec();
        let row = |name: &str, kind, cells: [Option<Cell>; 2]| Row { name: name.into(), teacher: None, kind, cells: cells.into() };
        let rows = vec![
            row("t", Kind::Before, [cell(&[&[0, 0, 0, 0], &[1, 0, 0, 0]]), cell(&[&[0, 0, 1, 1], &[0, 0, 1, 1]])]),
            row("t + FD", Kind::After, [cell(&[&[1, 1, 1, 1], &[1, 1, 1, 1]]), None]),
            row("raw", Kind::Control, [None, cell(&[&[0, 1, 1, 1]])]),
        ];
        let (name, data) = ("small".into(), "four images".into());
        TableResult { name, data, test_images: 4, seeds: vec![0, 1], columns, rows, comparisons: vec![], gains: vec![], paper: vec![] }
    }

    #[test]
    fn gains_are_compared_on_average() {
        let mut t = table();
        let with = |name: &str, kind, hits: [u8; 4]| Row {
            name: String::new(),
            teacher: Some(name.into()),
            kind,
            cells: vec![cell(&[&hits, &hits]), None],
        };
        t.rows = vec![
            with("a", Kind::Before, [0, 0, 0, 0]),
            with("a", Kind::After, [1, 0, 0, 0]),
            with("b", Kind::Before, [1, 0, 0, 0]),
            with("b", Kind::After, [1, 1, 1, 1]),
            with("c", Kind::Before, [0, 0, 0, 1]),
            with("c", Kind::After, [0, 0, 0, 1]),
        ];
        let names = ["a", "b", "c"].map(String::from);
        t.compare_gains(&names[..1], &names[1..]);
        t.compare_gains(&names[..1], &["d".into()]);
        // 25 points against the mean of 75 and 0.
        assert_eq!(t.gains[0].differences[0].map(|d| d.mean), Some(25.0 - 37.5));
        assert_eq!((t.gains[0].label.as_str(), t.gains[0].against.as_str()), ("FD's gain: a against b, c", "b and c"));
        assert!(t.gains[0].differences[1].is_none() && t.gains[1].differences.iter().all(Option::is_none));
    }

    #[test]
    fn cells_count_hits() {
        let t = table();
        assert_eq!(t.cell(0, 0).unwrap().accuracy, [0.0, 25.0]);
        assert_eq!(t.cell(2, 1).unwrap().accuracy, [75.0]);
        assert_eq!(Cell::of(vec![Arc::from([])]).accuracy, [0.0]);
        assert!(t.cell(1, 1).is_none() && t.cell(9, 0).is_none() && t.cell(0, 9).is_none());
    }

    #[test]
    fn comparisons_go_from_the_first_row_to_the_second() {
        let mut t = table();
        t.compare("t: FD", 0, 1);
        t.compare("one seed against two", 0, 2);
        t.compare("nowhere", 0, 7);
        let [fd, unpaired, nowhere] = &t.comparisons[..] else { panic!("{:?}", t.comparisons) };
        assert_eq!((fd.label.as_str(), fd.from, fd.to), ("t: FD", 0, 1));
        let gain = fd.differences[0].unwrap();
        assert_eq!((gain.mean, gain.high, gain.contains_zero()), (87.5, 100.0, false));
        assert_eq!(fd.differences[1], None);
        assert_eq!((&unpaired.differences[..], &nowhere.differences[..]), (&[None, None][..], &[None, None][..]));
    }

    #[test]
    fn files_hold_everything_but_the_hits() {
        let mut t = table();
        t.compare("t: FD", 0, 1);
        t.paper.push(PaperFigure {
            row: "t".into(),
            model: "ViT-B".into(),
            measure: "fine-tune".into(),
            value: 82.8,
            certainty: Certainty::Recalled,
        });
        let text = serde_json::to_string(&t).unwrap();
        assert!(text.contains(r#""kind":"before""#) && text.contains(r#""certainty":"recalled""#) && !text.contains("hits"), "{text}");
        let back: TableResult = serde_json::from_str(&text).unwrap();
        t.rows.iter_mut().flat_map(|r| &mut r.cells).flatten().for_each(|c| c.hits.clear());
        assert_eq!(back, t);
        for kind in [Kind::Before, Kind::TrainedOn, Kind::After, Kind::Control] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.key());
        }
    }
}
