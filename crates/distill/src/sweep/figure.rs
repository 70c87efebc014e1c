//! A sweep as a figure, in SVG and PNG from the same drawing: a heat map a column for two axes, else dots.

mod heat;

use std::path::Path;

use super::result::SweepResult;
use crate::Error;
use crate::figure::chart::{BLUE, Chart, Label, Mark, ORANGE, Panel, Shape, Style};
use crate::statistics::{Summary, binomial_error};
use heat::Heat;

impl SweepResult {
    /// Draws the sweep into a file: `.svg` (text stays text) or `.png` (2,000 pixels wide or more). Two axes are a heat map where there is
    /// room for one; everything else is a row of dots a point.
    ///
    /// # Errors
    /// [`Error::Usage`] for another ending, [`Error::File`] when it cannot be written.
    pub fn figure(&self, path: &Path) -> Result<(), Error> {
        let fail = |why: String| Error::File { path: path.to_path_buf(), why: format!("cannot be drawn: {why}") };
        match Heat::of(self).map_err(fail)? {
            Some(heat) => crate::figure::save(path, || Ok(heat)),
            None => self.dots().write(path),
        }
    }

    /// Draws the differences to the reference with their 95 % intervals, a panel a column, into a file as [`figure`](Self::figure) does.
    ///
    /// # Errors
    /// Those of [`figure`](Self::figure).
    pub fn differences_figure(&self, path: &Path) -> Result<(), Error> {
        let others = || self.points.iter().filter(|point| !point.reference);
        let panels =
            self.columns.iter().enumerate().map(|(c, column)| (column.title.clone(), others().map(|p| p.differences[c]).collect()));
        let labels = others().map(|point| point.labels.join(", ")).collect();
        let caption = format!("{} {}", self.made_of(), self.coverage());
        let title = format!("{} (differences to the reference)", self.title());
        Chart::forest(title, labels, panels.collect(), "difference in points of percent", caption).write(path)
    }

    fn title(&self) -> String {
        format!("{}: {}", self.name, self.question)
    }

    fn dots(&self) -> Chart {
        let label = |(i, point): (usize, &super::PointResult)| Label {
            text: point.labels.join(", ") + if point.reference { " (reference)" } else { "" },
            muted: false,
            // With several axes, the points of one label of the first stand together.
            apart: self.axes.len() > 1 && i > 0 && self.points[i - 1].labels[0] != point.labels[0],
        };
        let panel = |(c, column): (usize, &crate::table::Column)| Panel {
            title: column.title.clone(),
            marks: (0..self.points.len()).map(|point| self.mark(point, c)).collect(),
        };
        let whiskers = match self.seeds.len() {
            0 | 1 => "one binomial standard error of the test images each way",
            _ => "one standard deviation over seeds each way; small dots: single seeds",
        };
        Chart {
            title: self.title(),
            legend: vec![(style(true), "reference".into()), (style(false), "other points".into())],
            rows: self.points.iter().enumerate().map(label).collect(),
            links: vec![],
            panels: self.columns.iter().enumerate().map(panel).collect(),
            axis: "top-1 accuracy (%); each panel has its own range".into(),
            zero: false,
            caption: format!("{} Dots: means; whiskers: {whiskers}.", self.made_of()),
        }
    }

    fn mark(&self, point: usize, column: usize) -> Option<Mark> {
        let point = &self.points[point];
        let cell = point.cells[column].as_ref()?;
        let s = Summary::of(&cell.accuracy)?;
        let half = s.sd.unwrap_or_else(|| binomial_error(s.mean, self.test_images));
        let points = if s.n > 1 { cell.accuracy.clone() } else { vec![] };
        Some(Mark { at: s.mean, ends: (s.mean - half, s.mean + half), points, style: style(point.reference) })
    }
}

fn style(reference: bool) -> Style {
    if reference {
        Style { colour: ORANGE, shape: Shape::Diamond, filled: true }
    } else {
        Style { colour: BLUE, shape: Shape::Circle, filled: true }
    }
}

#[cfg(test)]
mod tests {
    use super::super::render::tests::small;
    use super::*;
    use crate::sweep::PointResult;
    use crate::table::{Cell, Column};

    fn folder(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("fd-sweep-figure-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn svg_of(sweep: &SweepResult, name: &str) -> String {
        let folder = folder(name);
        sweep.figure(&folder.join("s.svg")).unwrap();
        let svg = std::fs::read_to_string(folder.join("s.svg")).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        svg
    }

    /// Three rates of the teacher by three of the student, two columns; one point was not measured.
    fn grid() -> SweepResult {
        let rates = ["0.0", "0.1", "0.2"];
        let point = |i: usize| {
            let cell = |base: f64, slope: f64| {
                let mean = base - slope * (i / 3) as f64 + 0.3 * (i % 3) as f64;
                (i != 8).then(|| Cell { accuracy: vec![mean - 0.2, mean, mean + 0.3], hits: vec![] })
            };
            let labels = vec![rates[i / 3].into(), rates[i % 3].into()];
            PointResult { labels, reference: i == 1, cells: vec![cell(83.0, 0.8), cell(79.0, 0.4)], differences: vec![None; 2] }
        };
        let axes = vec!["teacher drop path".into(), "student drop path".into()];
        SweepResult { name: "drop-path".into(), axes, points: (0..9).map(point).collect(), seeds: vec![0, 1, 2], ..small() }
    }

    #[test]
    fn one_axis_is_dots_and_two_are_a_heat_map() {
        let dots = svg_of(&small(), "dots");
        for text in ["target: What should", "map (reference)", "linear probe", "one standard deviation", "10,000 test images"] {
            assert!(dots.contains(text), "{text}");
        }
        let heat = svg_of(&grid(), "heat");
        for text in ["teacher drop path", "student drop path", "83.33", "± 0.25", "Outlined: the reference", "–"] {
            assert!(heat.contains(text), "{text}");
        }
        let folder = folder("forest");
        small().differences_figure(&folder.join("d.svg")).unwrap();
        let forest = std::fs::read_to_string(folder.join("d.svg")).unwrap();
        let says = |text: &str| forest.lines().any(|line| line.trim() == text);
        assert!(says("logits") && !says("map") && forest.contains("with 95 %"), "the reference is no line of its own");
        std::fs::remove_dir_all(folder).unwrap();
        // A column too many for a heat map falls back to dots.
        let mut wide = grid();
        wide.points = (0..40).map(|i| PointResult { labels: vec!["a".into(), i.to_string()], ..wide.points[0].clone() }).collect();
        assert!(svg_of(&wide, "wide").contains("a, 39"));
    }

    #[test]
    fn odd_sweeps_draw() {
        let mut odd = small();
        odd.points[0].cells[0] = Some(Cell { accuracy: vec![f64::NAN, 1.0], hits: vec![] });
        odd.points[1].labels[0] = "<&> ".repeat(60);
        assert!(svg_of(&odd, "odd").contains("&lt;&amp;&gt;"));
        svg_of(&SweepResult { points: vec![], ..small() }, "points");
        svg_of(&SweepResult { points: vec![], ..grid() }, "grid");
        let no_columns = |sweep: SweepResult| {
            let points = sweep.points.into_iter().map(|p| PointResult { cells: vec![], differences: vec![], ..p }).collect();
            SweepResult { columns: vec![], points, ..sweep }
        };
        svg_of(&no_columns(small()), "columns");
        svg_of(&no_columns(grid()), "grid-columns");
    }

    #[test]
    fn pngs_decode_and_are_not_blank() {
        let folder = folder("png");
        let mut five = small();
        five.columns =
            (0..5).map(|i| Column { key: i.to_string(), title: format!("measure {i} of a longer name, 6,000 labels") }).collect();
        for point in &mut five.points {
            point.cells = (0..5).map(|c| point.cells[c % 2].clone()).collect();
        }
        for (name, sweep) in [("dots.png", small()), ("heat.png", grid()), ("five.png", five)] {
            let path = folder.join(name);
            sweep.figure(&path).unwrap();
            let image = fd_data::decode(name, &std::fs::read(&path).unwrap(), 3).unwrap();
            let coloured = image.data.as_chunks::<3>().0.iter().filter(|p| p[2].abs_diff(p[0]) > 60).count();
            assert!(image.width >= 2000 && image.height > 400 && coloured > 1000, "{name}: {coloured} coloured pixels");
        }
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3, "no temporary file is left");
        let e = small().figure(&folder.join("s.pdf")).unwrap_err().to_string();
        assert!(e.ends_with("s.pdf: a figure is .svg or .png"), "{e}");
        assert!(small().figure(&folder.join("dots.png/below.png")).is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
