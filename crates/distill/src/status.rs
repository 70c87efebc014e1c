//! How far runs are, from their files alone: what `distill status` prints.

mod plan;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::Error;
use crate::progress::duration;
use crate::stage_log::Metrics;
use crate::tensorboard::{OPENING_EVENTS, event_files, times};
pub use plan::{PlannedStage, RunPlan};

/// Lines of a stage's log that its pace is taken from.
const RECENT: usize = 50;

/// A line a run, and below it a line for each stage that was begun and is not done. A run is a directory with a `plan.json`: `runs`
/// itself, its folders, or theirs. The time left assumes that the stages to come take as long a step as those of their kind so far, or as
/// all so far.
///
/// # Errors
/// [`Error::File`] when `runs` cannot be read; a run that cannot be read is a line of the answer.
pub fn status(runs: &Path) -> Result<String, Error> {
    let mut found = vec![];
    find_runs(runs, 2, &mut found).map_err(|e| Error::File { path: runs.to_path_buf(), why: e.to_string() })?;
    if found.is_empty() {
        return Ok(format!("{}: no runs\n", runs.display()));
    }
    let mut lines = vec![];
    for run in found {
        let name = run.strip_prefix(runs).ok().filter(|name| !name.as_os_str().is_empty()).unwrap_or(&run).display().to_string();
        if let Err(e) = describe(&name, &run, &mut lines) {
            lines.push(Line::Note(format!("{name}  {e}")));
        }
    }
    Ok(aligned(&lines))
}

/// The directories with a plan in `folder`, itself or down to `depth` below it, sorted.
fn find_runs(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut entries = fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<std::io::Result<Vec<_>>>()?;
    if folder.join(plan::FILE).is_file() {
        found.push(folder.to_path_buf());
    } else if depth > 0 {
        entries.sort();
        // A folder that cannot be read holds no run that could be told of.
        entries.iter().filter(|e| e.is_dir()).for_each(|e| _ = find_runs(e, depth - 1, found));
    }
    Ok(())
}

enum Line {
    Run(Vec<String>),
    Stage(Vec<String>),
    Note(String),
}

fn describe(name: &str, run: &Path, lines: &mut Vec<Line>) -> Result<(), Error> {
    let plan = RunPlan::read(run)?;
    let stages = plan.stages.iter().map(|s| Stage::read(s, &plan.stage_dir(run, s))).collect::<Result<Vec<_>, _>>()?;
    let done = stages.iter().filter(|s| matches!(s.state, State::Done { .. })).count();
    let running = is_locked(run);
    let state = match (running, done == stages.len()) {
        (true, _) => "running",
        (false, true) => "done",
        (false, false) => "stopped",
    };
    let left = time_left(&stages).filter(|_| running).map_or(String::new(), |s| format!("about {} left", duration(s)));
    lines.push(Line::Run(vec![name.into(), state.into(), format!("{done} of {} stages", stages.len()), left]));
    for stage in &stages {
        if let State::Begun { age, .. } = stage.state {
            lines.push(Line::Stage(stage.cells(age)));
        }
        lines.extend(stage.warning().map(Line::Note));
    }
    Ok(())
}

/// Does a process hold the run's lock?
fn is_locked(run: &Path) -> bool {
    File::open(run.join("lock")).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// A stage and what its directory says.
struct Stage<'a> {
    plan: &'a PlannedStage,
    state: State,
    last: Option<Metrics>,
}

/// Paces are in seconds a unit of work.
enum State {
    Waiting,
    Begun { pace: Option<f64>, age: Option<f64> },
    Done { pace: Option<f64> },
}

/// What is read of `done.json`.
#[derive(Deserialize)]
struct Done {
    seconds: f64,
}

impl<'a> Stage<'a> {
    fn read(plan: &'a PlannedStage, dir: &Path) -> Result<Stage<'a>, Error> {
        let last = Metrics::read(dir)?.last().copied();
        let mut stage = Stage { plan, state: State::Waiting, last };
        let done = dir.join("done.json");
        if let Ok(text) = fs::read(&done) {
            let done: Done = serde_json::from_slice(&text).map_err(|e| Error::File { path: done, why: e.to_string() })?;
            stage.state = State::Done { pace: positive(done.seconds / stage.units()) };
        } else if begun(dir) {
            let written = fs::metadata(dir.join("metrics.csv")).and_then(|m| m.modified()).ok();
            let age = written.filter(|_| last.is_some()).map(|t| t.elapsed().map_or(0.0, |d| d.as_secs_f64()));
            stage.state = State::Begun { pace: recent_pace(dir), age };
        }
        Ok(stage)
    }

    fn trains(&self) -> bool {
        self.plan.steps > 0
    }

    /// The work of a stage: its steps, or 1 for one that does not train.
    fn units(&self) -> f64 {
        self.plan.steps.max(1) as f64
    }

    fn units_left(&self) -> f64 {
        match (&self.state, self.last) {
            (State::Done { .. }, _) => 0.0,
            (State::Begun { .. }, Some(last)) if self.trains() => (self.units() - last.step as f64).max(0.0),
            _ => self.units(),
        }
    }

    fn pace(&self) -> Option<f64> {
        match self.state {
            State::Waiting => None,
            State::Begun { pace, .. } | State::Done { pace } => pace,
        }
    }

    fn cells(&self, age: Option<f64>) -> Vec<String> {
        let mut cells = vec![self.plan.title.clone()];
        let step = self.last.map_or(0, |l| l.step);
        if self.trains() {
            cells.push(format!("step {step}/{}", self.plan.steps));
        }
        if let Some(last) = self.last {
            let shown = |name: &str, value: Option<f64>| value.map_or(String::new(), |v| format!("{name} {}", short(v)));
            cells.extend([format!("epoch {:.1}", last.epoch), shown("loss", last.loss), shown("lr", last.lr)]);
            cells.push(age.map_or(String::new(), |age| format!("{} ago", duration(age))));
        }
        cells
    }

    fn warning(&self) -> Option<String> {
        let last = self.last?;
        let skipped = last.skipped.filter(|n| *n > 0).map(|n| format!("{n} {} skipped", if n == 1 { "step" } else { "steps" }));
        let loss = last.loss.filter(|l| !l.is_finite()).map(|l| format!("the loss is {l}"));
        let what: Vec<String> = loss.into_iter().chain(skipped).collect();
        (!what.is_empty()).then(|| format!("  warning: {}: {}", self.plan.title, what.join(", ")))
    }
}

fn begun(dir: &Path) -> bool {
    let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.file_name());
    names.map(|n| n.to_string_lossy().into_owned()).any(|n| n == "metrics.csv" || n.starts_with("checkpoint-"))
}

/// Seconds a step over the last lines of the newest event file.
fn recent_pace(dir: &Path) -> Option<f64> {
    let events = times(&fs::read(event_files(dir).ok()?.last()?).ok()?);
    let rows = events.get(OPENING_EVENTS..)?;
    let recent = &rows[rows.len().saturating_sub(RECENT)..];
    let (first, last) = (recent.first()?, recent.last()?);
    positive((last.0 - first.0) / last.1.checked_sub(first.1)? as f64)
}

/// A pace that can be reckoned with.
fn positive(pace: f64) -> Option<f64> {
    Some(pace).filter(|p| p.is_finite() && *p > 0.0)
}

/// Seconds, from the paces known; none before there is one of a stage that trains.
fn time_left(stages: &[Stage]) -> Option<f64> {
    let mean = |wanted: &dyn Fn(&Stage) -> bool| {
        let paces: Vec<f64> = stages.iter().filter(|s| wanted(s)).filter_map(Stage::pace).collect();
        positive(paces.iter().sum::<f64>() / paces.len() as f64)
    };
    mean(&|s| s.trains())?;
    let seconds = stages.iter().map(|stage| {
        let alike = |s: &Stage| s.trains() == stage.trains();
        let pace = match stage.state {
            State::Begun { pace: Some(own), .. } => own,
            _ => mean(&|s| alike(s) && s.plan.kind() == stage.plan.kind()).or_else(|| mean(&alike)).unwrap_or(0.0),
        };
        stage.units_left() * pace
    });
    Some(seconds.sum())
}

/// Four decimals, with a power of ten where zeros would fill them.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if !size.is_finite() || (1e-3..1e5).contains(&size) => format!("{value:.4}"),
        _ => format!("{value:.3e}"),
    }
}

/// Text with the cells of equal lines below each other.
fn aligned(lines: &[Line]) -> String {
    let width = |wanted: fn(&Line) -> Option<&Vec<String>>, column: usize| {
        lines.iter().filter_map(wanted).filter_map(|cells| cells.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let row = |indent: &str, cells: &[String], wanted| {
        let padded = cells.iter().enumerate().map(|(i, cell)| format!("{cell:<0$}", width(wanted, i)));
        let row = padded.collect::<Vec<_>>().join("  ");
        format!("{indent}{}\n", row.trim_end())
    };
    let text = |line: &Line| match line {
        Line::Run(cells) => row("", cells, |l| if let Line::Run(cells) = l { Some(cells) } else { None }),
        Line::Stage(cells) => row("  ", cells, |l| if let Line::Stage(cells) = l { Some(cells) } else { None }),
        Line::Note(note) => format!("{note}\n"),
    };
    lines.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage_log::StageLog;
    use crate::tensorboard::EventWriter;

    /// A folder of runs, removed in the end.
    struct Runs(PathBuf);

    impl Runs {
        fn new(name: &str) -> Runs {
            let path = std::env::temp_dir().join(format!("fd-status-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Runs(path)
        }

        /// A run with stages `(dir, title, steps)`; the first `done` of them are done, at half a second a step.
        fn run(&self, name: &str, stages: &[(&str, &str, usize)], done: usize) -> PathBuf {
            let run = self.0.join(name);
            let stages =
                stages.iter().map(|(dir, title, steps)| PlannedStage { dir: dir.to_string(), title: title.to_string(), steps: *steps });
            let plan = RunPlan { name: name.into(), store: None, stages: stages.collect() };
            plan.write(&run).unwrap();
            for stage in &plan.stages[..done] {
                let dir = plan.stage_dir(&run, stage);
                fs::create_dir_all(&dir).unwrap();
                let seconds = stage.steps.max(20) as f64 / 2.0;
                fs::write(dir.join("done.json"), format!("{{\"seconds\": {seconds}, \"outputs\": {{}}, \"more\": 1}}")).unwrap();
            }
            run
        }

        fn status(&self) -> String {
            status(&self.0).unwrap()
        }
    }

    impl Drop for Runs {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn row(step: usize, loss: f64, skipped: Option<usize>) -> Metrics {
        Metrics { step, epoch: step as f64 / 40.0, loss: Some(loss), lr: Some(1.25e-4), skipped, ..Metrics::default() }
    }

    const STAGES: [(&str, &str, usize); 4] =
        [("a", "pretrain, seed 0", 100), ("b", "distil DINO, seed 0", 200), ("c", "distil MAE, seed 0", 400), ("d", "probe DINO", 0)];

    #[test]
    fn done_stopped_and_grouped_runs_are_listed_in_order() {
        let runs = Runs::new("states");
        runs.run("z", &STAGES, 4);
        runs.run("group/long name", &STAGES, 1);
        runs.run("too/deep/x", &STAGES, 1);
        fs::create_dir_all(runs.0.join("no-run")).unwrap();
        fs::write(runs.0.join("file"), "").unwrap();
        assert_eq!(runs.status(), "group/long name  stopped  1 of 4 stages\nz                done     4 of 4 stages\n");
        assert_eq!(status(&runs.0.join("z")).unwrap(), format!("{}  done  4 of 4 stages\n", runs.0.join("z").display()));
    }

    #[test]
    fn nothing_there_is_said_in_a_line() {
        let runs = Runs::new("empty");
        assert_eq!(runs.status(), format!("{}: no runs\n", runs.0.display()));
        let missing = runs.0.join("missing");
        assert!(status(&missing).unwrap_err().to_string().starts_with(&format!("{}: ", missing.display())));
    }

    #[test]
    fn a_held_lock_means_running_and_time_is_extrapolated() {
        let runs = Runs::new("running");
        let run = runs.run("main", &STAGES, 1);
        let lock = File::create(run.join("lock")).unwrap();
        assert!(runs.status().starts_with("main  stopped"), "a lock nobody holds");
        lock.lock().unwrap();
        // 0.5 s a step in pretraining is all that is known: 600 steps of distillation to come.
        assert_eq!(runs.status(), "main  running  1 of 4 stages  about 5 min 00 s left\n");
        let stage = run.join("stages/b");
        StageLog::open(&stage, 0).unwrap().row(&row(50, 0.123456, None)).unwrap();
        // The interrupted attempt was slow, the one that goes on takes 2 s a step: 150 + 400 steps.
        let newest = File::create(stage.join("events.out.tfevents.9999999999.fd.1.1")).unwrap();
        let mut events = EventWriter::begin(newest, 1000.0, 41).unwrap();
        [(1100.0, 45), (1110.0, 50)].iter().for_each(|(time, step)| events.scalars(*time, *step, [("loss", 0.5)]).unwrap());
        let text = runs.status();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "main  running  1 of 4 stages  about 18 min 20 s left");
        assert!(lines[1].starts_with("  distil DINO, seed 0  step 50/200  epoch 1.2  loss 0.1235  lr 1.250e-4  "), "{text}");
        assert!(lines[1].ends_with(" s ago") && lines.len() == 2, "{text}");
    }

    #[test]
    fn stages_that_are_begun_align_and_warn() {
        let runs = Runs::new("begun");
        let run = runs.run("main", &STAGES, 0);
        let mut log = StageLog::open(&run.join("stages/a"), 0).unwrap();
        log.row(&row(90, f64::NAN, Some(2))).unwrap();
        fs::create_dir_all(run.join("stages/b")).unwrap();
        fs::write(run.join("stages/b/checkpoint-7.safetensors"), "").unwrap();
        fs::create_dir_all(run.join("stages/c")).unwrap();
        StageLog::open(&run.join("stages/d"), 0).unwrap();
        let text = runs.status();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("  pretrain, seed 0     step 90/100  epoch 2.2  loss NaN  lr 1.250e-4  "), "{text}");
        assert_eq!(
            lines[2..],
            ["  warning: pretrain, seed 0: the loss is NaN, 2 steps skipped", "  distil DINO, seed 0  step 0/200", "  probe DINO"]
        );
    }

    #[test]
    fn a_run_that_cannot_be_read_does_not_hide_the_others() {
        let runs = Runs::new("broken");
        runs.run("b", &STAGES, 4);
        fs::create_dir_all(runs.0.join("a")).unwrap();
        fs::write(runs.0.join("a/plan.json"), "{").unwrap();
        fs::write(runs.run("c", &STAGES, 1).join("stages/a/done.json"), "no").unwrap();
        let text = runs.status();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("a  ") && lines[0].contains("plan.json: EOF"), "{text}");
        assert_eq!(lines[1], "b  done  4 of 4 stages");
        assert!(lines[2].starts_with("c  ") && lines[2].contains("done.json: ") && lines.len() == 3, "{text}");
    }

    #[test]
    fn plans_are_read_as_written_and_may_name_a_store() {
        let runs = Runs::new("plan");
        let run = runs.run("main", &STAGES, 0);
        let mut plan = RunPlan::read(&run).unwrap();
        assert!(!fs::read_to_string(run.join(plan::FILE)).unwrap().contains("store"));
        assert_eq!(plan.stage_dir(&run, &plan.stages[1]), run.join("stages/b"));
        assert_eq!((plan.stages[0].kind(), plan.stages[1].kind()), ("pretrain", "distil"));
        plan.store = Some("../shared".into());
        plan.write(&run).unwrap();
        assert_eq!(RunPlan::read(&run).unwrap(), plan);
        StageLog::open(&runs.0.join("shared/b"), 0).unwrap().row(&row(1, 1.0, None)).unwrap();
        assert!(runs.status().contains("  distil DINO, seed 0  step 1/200"), "{}", runs.status());
    }
}
