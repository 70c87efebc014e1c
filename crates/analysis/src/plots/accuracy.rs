//! What the table measured, and how its distillations went.

use fd_distill::status::RunPlan;
use fd_distill::table::Kind;

use super::{Chapter, Plots};
use crate::Error;
use crate::figures::{Bar, BarSeries, Bars, Caption, Line, LinePanel, Lines};

/// Points of a training curve at most.
const MOST_POINTS: usize = 200;

const KINDS: [(Kind, &str); 3] = [(Kind::Before, "teacher"), (Kind::TrainedOn, "trained on"), (Kind::After, "after FD")];

impl Plots<'_> {
    /// Bars of the main column, and the losses of the distillations.
    pub(super) fn accuracy(&mut self) -> Result<Chapter, Error> {
        let mut chapter = Chapter { heading: "Accuracy".into(), ..Chapter::default() };
        let seeds = self.run.config.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        if let Some(column) = self.run.table.columns.first() {
            let caption = Caption {
                model: self.run.table.name.clone(),
                data: self.data.clone(),
                images: self.run.table.test_images,
                seed: seeds.clone(),
                notes: format!("{}: mean over seeds; whiskers: one standard deviation each way.", column.title),
            };
            let bars = self.bars();
            chapter.pictures.push(self.draw("accuracy", &bars, &caption)?);
        }
        let curves = self.curves()?;
        if curves.panels.iter().any(|p| !p.lines.is_empty()) {
            let notes = "Loss of the distillation, seed by seed.".to_string();
            let caption = Caption { model: self.run.table.name.clone(), data: self.run.table.data.clone(), images: 0, seed: seeds, notes };
            let caption = Caption { data: String::new(), ..caption };
            chapter.pictures.push(self.draw("curves", &curves, &caption)?);
        }
        Ok(chapter)
    }

    fn bars(&self) -> Bars {
        let groups: Vec<String> = self.run.teachers.iter().map(|t| t.name.clone()).collect();
        let bar = |teacher: &String, kind| {
            let row = self.run.table.rows.iter().find(|r| r.kind == kind && r.teacher.as_ref() == Some(teacher))?;
            let accuracy = &row.cells.first()?.as_ref()?.accuracy;
            let n = accuracy.len().max(1) as f64;
            let value = accuracy.iter().sum::<f64>() / n;
            let sd = (accuracy.iter().map(|a| (a - value).powi(2)).sum::<f64>() / (n - 1.0).max(1.0)).sqrt();
            Some(Bar { value, interval: (value - sd, value + sd) })
        };
        let series = KINDS.map(|(kind, label)| BarSeries { label: label.into(), bars: groups.iter().map(|t| bar(t, kind)).collect() });
        let series: Vec<BarSeries> = series.into_iter().filter(|s| s.bars.iter().any(Option::is_some)).collect();
        let least = series.iter().flat_map(|s| &s.bars).flatten().map(|b| b.interval.0).fold(f64::INFINITY, f64::min);
        // Differences are of a point or two: bars from 0 would all look alike. The figure says where they begin.
        let base = least.is_finite().then(|| ((least - 2.0) / 5.0).floor() * 5.0);
        Bars { groups, series, quantity: "top-1 accuracy (%)".into(), base }
    }

    fn curves(&self) -> Result<Lines, Error> {
        let plan = RunPlan::read(&self.run.dir)?;
        let panel = |teacher: &str| {
            let start = format!("distil {teacher}, seed ");
            let stages = plan.stages.iter().filter_map(|s| Some((s.title.strip_prefix(&start)?, plan.stage_dir(&self.run.dir, s))));
            let lines = stages.filter_map(|(seed, dir)| {
                let points = losses(&dir.join("metrics.csv"))?;
                Some(Line { label: format!("seed {seed}"), points, band: vec![] })
            });
            let (x, y) = ("epoch".into(), "loss (smooth L1)".into());
            LinePanel { title: teacher.into(), x, y, log: true, lines: lines.collect(), ..LinePanel::default() }
        };
        let panels = self.run.teachers.iter().map(|t| panel(&t.name)).collect();
        Ok(Lines { panels, columns: 3 })
    }
}

/// Epoch and loss, means of as many steps as leave few points; none of a stage without a log.
fn losses(path: &std::path::Path) -> Option<Vec<(f64, f64)>> {
    let mut reader = csv::Reader::from_path(path).ok()?;
    let head = reader.headers().ok()?.clone();
    let at = |name: &str| head.iter().position(|h| h == name);
    let (epoch, loss) = (at("epoch")?, at("loss")?);
    let number = |record: &csv::StringRecord, i: usize| record.get(i)?.parse::<f64>().ok();
    let all: Vec<(f64, f64)> = reader.records().flatten().filter_map(|r| Some((number(&r, epoch)?, number(&r, loss)?))).collect();
    let each = all.len().div_ceil(MOST_POINTS).max(1);
    let mean = |steps: &[(f64, f64)]| {
        let n = steps.len() as f64;
        (steps.iter().map(|s| s.0).sum::<f64>() / n, steps.iter().map(|s| s.1).sum::<f64>() / n)
    };
    Some(all.chunks(each).map(mean).collect())
}
