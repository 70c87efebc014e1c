//! A table for readers: Markdown with a verdict, LaTeX, tidy CSV, and figures.

mod csv;
mod figure;
pub(crate) mod latex;
pub(crate) mod markdown;
pub(super) mod paper;
mod verdict;

use crate::statistics::Interval;
use crate::table::{Kind, Row, TableResult};

impl TableResult {
    /// The data in words, with the number of test images where the words leave it out.
    fn data_and_test_images(&self) -> String {
        let test = format!("{} test images", thousands(self.test_images));
        if self.data.contains(&test) { self.data.clone() } else { format!("{}; {test}", self.data) }
    }

    /// The seeds, such as `0, 1, 2`.
    fn seed_list(&self) -> String {
        self.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
    }

    /// What the intervals of the differences cover, and what they do not.
    fn coverage(&self) -> String {
        match self.seeds.len() {
            0 | 1 => "They cover the test images alone (there is one seed), not other pretrained teachers.".into(),
            n => format!("They cover the test images and, roughly, what {n} seeds can tell; not other pretrained teachers."),
        }
    }

    /// Every comparison with its differences, a column each: of encoders, then of gains.
    fn all_differences(&self) -> impl Iterator<Item = (&str, &[Option<Interval>])> {
        let of_encoders = self.comparisons.iter().map(|c| (&c.label[..], &c.differences[..]));
        of_encoders.chain(self.gains.iter().map(|g| (&g.label[..], &g.differences[..])))
    }

    /// Does a row belong to another teacher than the row above, or begin the controls?
    fn begins_group(&self, index: usize) -> bool {
        let of = |row: &Row| (row.teacher.clone(), row.kind == Kind::Control);
        index > 0 && of(&self.rows[index]) != of(&self.rows[index - 1])
    }
}

/// `10000` as `10,000`.
pub fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Cell, Certainty, Column, Comparison, PaperFigure};

    pub(super) fn row(name: &str, teacher: Option<&str>, kind: Kind, cells: &[&[f64]]) -> Row {
        let cell = |accuracy: &&[f64]| (!accuracy.is_empty()).then(|| Cell { accuracy: accuracy.to_vec(), hits: vec![] });
        Row { name: name.into(), teacher: teacher.map(Into::into), kind, cells: cells.iter().map(cell).collect() }
    }

    pub(super) fn comparison(label: &str, from: usize, to: usize, differences: &[Option<[f64; 3]>]) -> Comparison {
        let interval = |d: &Option<[f64; 3]>| d.map(|[mean, low, high]| Interval { mean, low, high });
        Comparison { label: label.into(), from, to, differences: differences.iter().map(interval).collect() }
    }

    /// A table of these rows without comparisons; its columns have the titles given.
    pub(super) fn result(seeds: &[u64], titles: &[&str], rows: Vec<Row>) -> TableResult {
        let column = |title: &&str| Column { key: title.replace(", ", "-").replace(' ', "-"), title: title.to_string() };
        TableResult {
            name: "main".into(),
            data: "Fashion-MNIST, 6,000 training images".into(),
            test_images: 10_000,
            seeds: seeds.to_vec(),
            columns: titles.iter().map(column).collect(),
            rows,
            comparisons: vec![],
            gains: vec![],
            paper: vec![],
        }
    }

    /// One teacher before, trained on, and after; one control; two measures.
    pub(super) fn small() -> TableResult {
        let dino = Some("DINO");
        let rows = vec![
            row("DINO", dino, Kind::Before, &[&[86.0, 87.0], &[84.0, 84.5]]),
            row("DINO trained on", dino, Kind::TrainedOn, &[&[87.0, 87.5], &[84.0, 84.5]]),
            row("DINO + FD", dino, Kind::After, &[&[88.0, 88.5], &[83.75, 84.25]]),
            row("raw pixels, flat", None, Kind::Control, &[&[], &[81.25]]),
        ];
        let mut table = result(&[0, 7], &["fine-tune, 6,000 labels", "linear probe"], rows);
        table.comparisons = vec![
            comparison("DINO: FD", 0, 2, &[Some([1.75, 0.9, 2.61]), Some([-0.25, -1.0, 0.5])]),
            comparison("DINO: FD against training on", 1, 2, &[Some([1.0, 0.25, 1.8]), None]),
        ];
        let paper = |row: &str, model: &str, measure: &str, value, certainty| {
            let [row, model, measure] = [row, model, measure].map(String::from);
            PaperFigure { row, model, measure, value, certainty }
        };
        table.paper = vec![
            paper("DINO", "DINO ViT-B", "fine-tune", 82.8, Certainty::Published),
            paper("DINO + FD", "DINO ViT-B + FD", "fine-tune", 83.8, Certainty::Published),
            paper("DINO", "DINO ViT-B", "linear probe", 78.2, Certainty::Recalled),
        ];
        table
    }

    /// No rows, no seeds, numbers that are none, indices that point nowhere, text that is markup.
    pub(super) fn odd() -> Vec<TableResult> {
        let long = "a name that is so very long that it cannot stand on one line and is therefore broken ".repeat(3);
        let rows = vec![
            row(&long, Some("t"), Kind::Before, &[&[12.0], &[f64::NAN], &[f64::INFINITY]]),
            row("<&> | _%$#{}~^\\, \"", Some("t"), Kind::After, &[&[100.0], &[0.0]]),
            row("", None, Kind::Control, &[]),
        ];
        let mut strange = result(&[0], &["a", "", "c|_"], rows);
        strange.comparisons = vec![
            comparison("t, \"FD\" | <&>", 0, 1, &[Some([f64::NAN; 3]), Some([0.0, 0.0, 0.0]), None]),
            comparison("nowhere", 7, 9, &[Some([1.0, 0.5, 1.5])]),
        ];
        vec![result(&[], &[], vec![]), result(&[], &["a"], vec![row("r", None, Kind::Before, &[&[]])]), strange]
    }

    #[test]
    fn groups_of_three() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(n), text);
        }
    }

    #[test]
    fn teachers_and_controls_are_groups() {
        let rows = [("a", Kind::Before), ("a", Kind::After), ("b", Kind::Before), ("b", Kind::Control), ("b", Kind::Control)];
        let rows = rows.map(|(teacher, kind)| row("", Some(teacher), kind, &[])).to_vec();
        let begins: Vec<bool> = (0..5).map(|i| result(&[0], &[], rows.clone()).begins_group(i)).collect();
        assert_eq!(begins, [false, false, true, true, false]);
    }
}
