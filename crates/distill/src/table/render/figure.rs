//! The table's figures: accuracies and differences.

use std::path::Path;

use crate::Error;
use crate::figure::chart::{BLACK, BLUE, Chart, Label, Mark, ORANGE, Panel, Shape, Style, VERMILION};
use crate::statistics::{Summary, binomial_error};
use crate::table::{Cell, Kind, Row, TableResult};

/// In the order of the legend.
const KINDS: [(Kind, &str); 4] = [
    (Kind::Before, "teacher"),
    (Kind::TrainedOn, "teacher trained on"),
    (Kind::After, "after feature distillation (FD)"),
    (Kind::Control, "control"),
];

fn style(kind: Kind) -> Style {
    let (colour, shape, filled) = match kind {
        Kind::Before => (BLUE, Shape::Circle, true),
        Kind::TrainedOn => (ORANGE, Shape::Square, true),
        Kind::After => (VERMILION, Shape::Diamond, true),
        Kind::Control => (BLACK, Shape::Triangle, false),
    };
    Style { colour, shape, filled }
}

impl TableResult {
    /// Draws the accuracies, a panel a column, into a file: `.svg` (text stays text) or `.png` (2,000 pixels wide or more).
    ///
    /// # Errors
    /// [`Error::Usage`] for another ending, [`Error::File`] when it cannot be written.
    pub fn figure(&self, path: &Path) -> Result<(), Error> {
        self.dots().write(path)
    }

    /// Draws the differences with their 95 % intervals, a panel a column, into a file as [`figure`](Self::figure) does.
    ///
    /// # Errors
    /// Those of [`figure`](Self::figure).
    pub fn differences_figure(&self, path: &Path) -> Result<(), Error> {
        self.forest().write(path)
    }

    fn dots(&self) -> Chart {
        let here = KINDS.into_iter().filter(|(kind, _)| self.rows.iter().any(|r| r.kind == *kind));
        let label =
            |(i, row): (usize, &Row)| Label { text: row.name.clone(), muted: row.kind == Kind::Control, apart: self.begins_group(i) };
        let marks = |column| (0..self.rows.len()).map(|row| self.mark(row, column)).collect();
        Chart {
            title: format!("Accuracy before and after feature distillation: {}", self.name),
            legend: here.map(|(kind, text)| (style(kind), text.into())).collect(),
            rows: self.rows.iter().enumerate().map(label).collect(),
            links: self.links(),
            panels: self.columns.iter().enumerate().map(|(i, c)| Panel { title: c.title.clone(), marks: marks(i) }).collect(),
            axis: "top-1 accuracy (%); each panel has its own range".into(),
            zero: false,
            caption: self.caption_of_dots(),
        }
    }

    /// Every student with its teacher.
    fn links(&self) -> Vec<(usize, usize)> {
        let rows = || self.rows.iter().enumerate();
        let students = rows().filter(|(_, r)| r.kind == Kind::After && r.teacher.is_some());
        let teacher = |student: &Row| rows().find(|(_, r)| r.kind == Kind::Before && r.teacher == student.teacher);
        students.filter_map(|(after, student)| Some((teacher(student)?.0, after))).collect()
    }

    fn mark(&self, row: usize, column: usize) -> Option<Mark> {
        let cell = self.cell(row, column)?;
        let s = Summary::of(&cell.accuracy)?;
        let half = s.sd.unwrap_or_else(|| binomial_error(s.mean, self.test_images));
        let points = if s.n > 1 { cell.accuracy.clone() } else { vec![] };
        Some(Mark { at: s.mean, ends: (s.mean - half, s.mean + half), points, style: style(self.rows[row].kind) })
    }

    fn caption_of_dots(&self) -> String {
        let cells = || self.rows.iter().flat_map(|r| &r.cells).flatten();
        let several = cells().any(|c: &Cell| c.accuracy.len() > 1);
        let single = cells().any(|c| c.accuracy.len() == 1);
        let binomial = "one binomial standard error of the test images each way";
        let what = match (several, single) {
            (true, false) => "Mean and one standard deviation over seeds each way; small dots: single seeds.".into(),
            (true, true) => {
                format!(
                    "Mean and one standard deviation over seeds each way; small dots: single seeds. Where there is one seed: {binomial}."
                )
            }
            _ => format!("Whiskers: {binomial}."),
        };
        let links = if self.links().is_empty() { "" } else { " Thin lines join teacher and student." };
        let controls = self.rows.iter().any(|r| r.kind == Kind::Control);
        let edge = if controls { " Numbers at an edge: controls beyond the panel's range." } else { "" };
        format!("{}. Seeds: {}. {what}{links}{edge}", self.data_and_test_images(), self.seed_list())
    }

    fn forest(&self) -> Chart {
        let lines = |i: usize| self.all_differences().map(|(_, d)| d.get(i).copied().flatten()).collect();
        let caption = format!(
            "{}. Seeds: {}. Dots: mean difference; whiskers: 95 % intervals of a paired bootstrap. {}",
            self.data_and_test_images(),
            self.seed_list(),
            self.coverage()
        );
        Chart::forest(
            format!("What feature distillation (FD) changes: {}", self.name),
            self.all_differences().map(|(label, _)| label.into()).collect(),
            self.columns.iter().enumerate().map(|(i, c)| (c.title.clone(), lines(i))).collect(),
            "difference in top-1 accuracy (points of percent); each panel has its own range",
            caption,
        )
    }
}

#[cfg(test)]
mod tests {
    use plotters::style::{RGBColor, WHITE};

    use super::super::tests::{odd, result, row, small};
    use super::*;

    /// Pixels of a PNG with a colour.
    fn pixels(path: &Path, colour: RGBColor) -> usize {
        let image = fd_data::decode("figure.png", &std::fs::read(path).unwrap(), 3).unwrap();
        assert!(image.width >= 2000 && image.height >= 400, "{} x {}", image.width, image.height);
        image.data.as_chunks::<3>().0.iter().filter(|p| **p == [colour.0, colour.1, colour.2]).count()
    }

    #[test]
    fn dots_say_it_all() {
        let svg = small().dots().svg().unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in [
            "Accuracy before and after feature distillation: main",
            "DINO trained on",
            "raw pixels, flat",
            "teacher trained on",
            "control",
            "fine-tune, 6,000 labels",
            "10,000 test images. Seeds: 0, 7.",
            "one standard deviation over seeds",
            "one binomial standard error",
        ] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        // Of 8 cells one is missing; of 7 marks one has one seed.
        let marks: Vec<Mark> = small().dots().panels.into_iter().flat_map(|p| p.marks).flatten().collect();
        assert_eq!((marks.len(), marks.iter().filter(|m| m.points.is_empty()).count()), (7, 1));
        assert_eq!(small().links(), [(0, 2)]);
    }

    #[test]
    fn whiskers_are_deviations_or_binomial_errors() {
        let table = result(&[1], &["m"], vec![row("t", None, Kind::Before, &[&[80.0]])]);
        let one = table.mark(0, 0).unwrap();
        assert!((one.ends.0 - 79.6).abs() < 1e-9 && (one.ends.1 - 80.4).abs() < 1e-9);
        assert!(!table.caption_of_dots().contains("deviation"));
        let two = small().mark(0, 0).unwrap();
        assert!((two.ends.1 - two.at - 0.5f64.sqrt()).abs() < 1e-12 && two.points == [86.0, 87.0]);
    }

    #[test]
    fn the_forest_says_it_all() {
        let svg = small().forest().svg().unwrap();
        for text in ["FD against", "linear probe", "points of percent", "paired bootstrap", "not other pretrained teachers", "Seeds: 0, 7."]
        {
            assert!(svg.contains(text), "{text}: {svg}");
        }
    }

    #[test]
    fn pngs_decode_and_are_not_blank() {
        let folder = std::env::temp_dir().join(format!("fd-figure-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let [dots, forest] = ["dots.png", "forest.png"].map(|name| folder.join(name));
        small().figure(&dots).unwrap();
        small().differences_figure(&forest).unwrap();
        for (path, colours) in [(&dots, &[BLUE, ORANGE, VERMILION, BLACK][..]), (&forest, &[BLUE])] {
            for colour in colours {
                assert!(pixels(path, *colour) > 200, "{colour:?}: {} pixels", pixels(path, *colour));
            }
            assert!(pixels(path, WHITE) > 100_000);
        }
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2, "no temporary file is left");
        let e = small().figure(&folder.join("table.pdf")).unwrap_err().to_string();
        assert!(e.ends_with("table.pdf: a figure is .svg or .png"), "{e}");
        assert!(small().figure(&dots.join("below.png")).is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn odd_tables_draw() {
        for table in odd() {
            let (dots, forest) = (table.dots().svg().unwrap(), table.forest().svg().unwrap());
            assert!(dots.contains("top-1 accuracy") && forest.contains("points of percent"));
            assert!(!dots.contains("<&>") && !forest.contains("<&>") && !dots.contains("NaN") && !forest.contains("NaN"));
        }
    }
}
