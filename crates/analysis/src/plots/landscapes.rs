//! Loss and accuracy around what was fine-tuned from teachers and students.

use fd_data::Split;
use fd_distill::progress::Progress;

use super::{Chapter, Plots, named};
use crate::Error;
use crate::figures::{ContourPanel, Contours, Levels, Line, LinePanel, Lines};
use crate::landscape::direction::{Filter, Tensors};
use crate::landscape::images::{DataChoice, Selection};
use crate::landscape::subject::RunChoice;
use crate::landscape::{self, Curvature, Landscape, Options, Point, Settings};
use crate::report::observations::{Evidence, Flatness, ModelNumbers, Stage};

/// Steps go from -RANGE to RANGE, in units of a filter's own norm.
const RANGE: f64 = 1.0;
/// Where increases are averaged over directions.
const RADIUS: f64 = 0.5;
const DIRECTIONS: usize = 10;

impl Plots<'_> {
    /// Sections, or with two dimensions maps, of every teacher and its students; none of a table that fine-tunes nothing.
    pub(super) fn landscapes(&mut self, evidence: &mut Evidence) -> Result<Option<Chapter>, Error> {
        let Some(column) = self.run.fine_tuning().map(String::from) else { return Ok(None) };
        let rows: Vec<String> = self.run.teachers.iter().flat_map(|t| [t.name.clone(), format!("{} + FD", t.name)]).collect();
        let plane = self.options.landscape == 2;
        let options = Options {
            models: vec![],
            run: Some(RunChoice {
                dir: self.run.dir.clone(),
                column: Some(column.clone()),
                rows: Some(rows),
                seeds: Some(self.run.config.seeds.clone()),
            }),
            sets: vec![],
            data: DataChoice::Run(Split::Test),
            selection: Selection { images: self.options.images, seed: self.options.seed, augment: false },
            settings: Settings {
                dims: self.options.landscape,
                range: RANGE,
                points: if plane { 21 } else { 41 },
                seeds: vec![self.options.seed],
                tensors: Tensors::Matrices,
                filter: Filter::Row,
                orthogonal: false,
                radii: vec![RADIUS],
                directions: DIRECTIONS,
                batch: 32,
                hessian: Curvature { iterations: 0, tolerance: 1e-4, vectors: 0, tensors: Tensors::All },
            },
            out: self.options.out.join("landscape"),
            force: true,
            device: self.options.device,
        };
        let found = landscape::run(&options, Progress::new)?;
        self.judge(&found, evidence);
        let title = self.run.config.title(&column);
        let mut chapter = Chapter {
            heading: "Landscapes".into(),
            prose: vec![format!(
                "Loss and accuracy around the models of \"{title}\", along a random direction that is rescaled filter by filter (Li et al. 2018), the same \
                 one for all models. A flatter curve means that a step of the same relative size costs less."
            )],
            ..Chapter::default()
        };
        for teacher in self.run.teachers.iter().map(|t| t.name.clone()).collect::<Vec<_>>() {
            let notes =
                "Matrices and kernels move; rows are filters; loss: cross-entropy. Bands: least to greatest over seeds of fine-tuning.";
            let models = format!("{teacher} and {teacher} + FD, {title}");
            let caption = self.caption(models, found.report.data.images, notes.into());
            if plane {
                let maps = self.maps_of(&found, &teacher);
                chapter.pictures.push(self.draw(&named("landscape", &teacher), &maps, &caption)?);
            } else {
                let sections = self.sections(&found, &teacher);
                chapter.pictures.push(self.draw(&named("landscape", &teacher), &sections, &caption)?);
            }
        }
        Ok(Some(chapter))
    }

    /// Names of the models of a row, one a seed.
    fn names(&self, row: &str) -> Vec<String> {
        match &self.run.config.seeds[..] {
            [_] => vec![row.into()],
            seeds => seeds.iter().map(|seed| format!("{row}, seed {seed}")).collect(),
        }
    }

    fn judge(&self, found: &Landscape, evidence: &mut Evidence) {
        evidence.radius = RADIUS;
        let number = |model: &str, quantity: &str| {
            let row = found.sharpness.iter().find(|s| s.model == model && s.quantity == quantity && s.radius == Some(RADIUS));
            row.map(|s| s.value)
        };
        for t in &self.run.teachers {
            for (stage, row) in [(Stage::Before, t.name.clone()), (Stage::After, format!("{} + FD", t.name))] {
                let flat = |name: &String| {
                    let (loss_increase, accuracy_drop) = (number(name, "loss_increase")?, number(name, "accuracy_decrease")?);
                    Some(Flatness { loss_increase, accuracy_drop })
                };
                let flatness: Vec<Option<Flatness>> = self.names(&row).iter().map(flat).collect();
                let of_row = evidence.models.iter().filter(|m| m.teacher == t.name && m.stage == stage).cloned().collect::<Vec<_>>();
                // A teacher is one encoder that is fine-tuned once a seed: it stands there as often, its attention once.
                evidence.models.retain(|m| !(m.teacher == t.name && m.stage == stage));
                for (i, flatness) in flatness.into_iter().enumerate() {
                    let Some(first) = of_row.first() else { continue };
                    let again = || ModelNumbers { layers: vec![], ..first.clone() };
                    evidence.models.push(ModelNumbers { flatness, ..of_row.get(i).cloned().unwrap_or_else(again) });
                }
            }
        }
    }

    /// Loss and accuracy, before and after.
    fn sections(&self, found: &Landscape, teacher: &str) -> Lines {
        let panel = |title: &str, y: &str, log: bool, of: fn(&Point) -> f64| {
            let line = |(label, row): (&str, String)| {
                let names = self.names(&row);
                let curves: Vec<Vec<&Point>> =
                    names.iter().map(|name| found.points.iter().filter(|p| p.model == *name).collect()).collect();
                let n = curves.iter().map(Vec::len).min().unwrap_or(0);
                let at = |i: usize| curves.iter().map(|c| of(c[i])).collect::<Vec<f64>>();
                let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
                let points = (0..n).map(|i| (curves[0][i].a, mean(&at(i)))).collect();
                let ends = |values: Vec<f64>| values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)));
                let band = if curves.len() > 1 { (0..n).map(|i| ends(at(i))).collect() } else { vec![] };
                Line { label: label.into(), points, band }
            };
            let lines = [("before", teacher.to_string()), ("after FD", format!("{teacher} + FD"))].map(line).into();
            let x = "step along the direction".into();
            LinePanel { title: title.into(), x, y: y.into(), log, lines, ..LinePanel::default() }
        };
        let panels = vec![panel("loss", "cross-entropy (nats)", false, |p| p.loss), panel("accuracy", "top-1 (%)", false, |p| p.accuracy)];
        Lines { panels, columns: 2 }
    }

    /// The loss in a plane, of the first seed, before and after.
    fn maps_of(&self, found: &Landscape, teacher: &str) -> Contours {
        let axis = found.report.settings.axis();
        let panel = |(title, row): (&str, String)| {
            let name = self.names(&row).swap_remove(0);
            let at = |a: f64, b: f64| found.points.iter().find(|p| p.model == name && p.a == a && p.b == b).map_or(f64::NAN, |p| p.loss);
            let z = axis.iter().flat_map(|b| axis.iter().map(move |a| (*a, *b))).map(|(a, b)| at(a, b)).collect();
            ContourPanel { title: title.into(), x: axis.clone(), y: axis.clone(), z }
        };
        let panels = [("before", teacher.to_string()), ("after FD", format!("{teacher} + FD"))].map(panel).into();
        let axes = ("step along the first direction".into(), "step along the second".into());
        Contours { panels, columns: 2, quantity: "cross-entropy (nats)".into(), axes, levels: Levels::Round }
    }
}
