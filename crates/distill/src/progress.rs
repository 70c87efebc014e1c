//! How far a run is: a bar with the time left for all of it on a terminal, plain lines every few seconds elsewhere.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Time between plain lines of one stage.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Time between redraws of the bars.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// Tells standard error how far a run of several stages is, some of them side by side. Work is counted in units of the caller's choice;
/// the time left follows from the units done.
///
/// ```
/// let mut progress = fd_distill::progress::Progress::silent();
/// progress.begin(0, "distil, seed 0", 100, 100.0);
/// progress.step(0, 1, format_args!("loss {:.4}", 0.25));
/// progress.done(0, "loss 0.2000");
/// ```
#[derive(Debug)]
pub struct Progress {
    view: View,
    start: Instant,
    total: f64,
    /// Units of the stages that are done.
    before: f64,
    /// Units that were done when the stages under way were taken up.
    resumed: f64,
    stages: BTreeMap<usize, Stage>,
}

#[derive(Debug)]
enum View {
    Silent,
    Lines(Lines),
    Bars { bars: MultiProgress, overall: ProgressBar },
}

/// Plain lines go to standard error, or, in tests, into memory.
#[derive(Debug)]
enum Lines {
    Stderr,
    #[cfg(test)]
    Memory(Vec<u8>),
}

#[derive(Debug)]
struct Stage {
    name: String,
    steps: u64,
    units: f64,
    done: u64,
    shown: Instant,
    bar: Option<ProgressBar>,
}

impl Stage {
    fn units_done(&self) -> f64 {
        if self.steps == 0 { 0.0 } else { self.units * (self.done as f64 / self.steps as f64).min(1.0) }
    }
}

impl Progress {
    /// For a run of so many units of work: bars when standard error is a terminal, plain lines otherwise.
    pub fn new(total_units: f64) -> Progress {
        let view = if std::io::stderr().is_terminal() { bars() } else { View::Lines(Lines::Stderr) };
        Progress::with(view, total_units)
    }

    /// Says nothing.
    pub fn silent() -> Progress {
        Progress::with(View::Silent, 0.0)
    }

    fn with(view: View, total: f64) -> Progress {
        Progress { view, start: Instant::now(), total, before: 0.0, resumed: 0.0, stages: BTreeMap::new() }
    }

    /// Begins a stage of so many steps that is `units` of the run's work.
    pub fn begin(&mut self, id: usize, name: &str, steps: u64, units: f64) {
        let bar = if let View::Bars { bars, .. } = &self.view {
            let style = ProgressStyle::with_template("{prefix}  {bar:30} {pos}/{len}  {msg}");
            let bar = bars.add(ProgressBar::new(steps).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())));
            bar.set_prefix(name.to_string());
            Some(bar)
        } else {
            None
        };
        self.stages.insert(id, Stage { name: name.to_string(), steps, units, done: 0, shown: Instant::now(), bar });
    }

    /// So many steps were done by an earlier run: they say nothing about this one's speed.
    pub fn resume(&mut self, id: usize, done: u64) {
        if let Some(stage) = self.stages.get_mut(&id) {
            stage.done = done;
            self.resumed += stage.units_done();
        }
    }

    /// `done` steps of a stage are behind; the message is formatted only when it is shown.
    pub fn step(&mut self, id: usize, done: u64, message: impl Display) {
        let every = match self.view {
            View::Silent => return,
            View::Lines(_) => LINE_EVERY,
            View::Bars { .. } => DRAW_EVERY,
        };
        let Some(stage) = self.stages.get_mut(&id) else { return };
        stage.done = done;
        if stage.shown.elapsed() < every {
            return;
        }
        stage.shown = Instant::now();
        let (steps, name, bar) = (stage.steps, stage.name.clone(), stage.bar.clone());
        let left = self.time_left();
        if let (View::Bars { overall, .. }, Some(bar)) = (&self.view, bar) {
            bar.set_position(done);
            bar.set_message(message.to_string());
            overall.set_position(per_mille(self.fraction()));
            overall.set_message(left);
        } else {
            self.line(&name, format_args!("step {done}/{steps}  {message}"), &left);
        }
    }

    /// Ends a stage; its summary stays visible.
    pub fn done(&mut self, id: usize, summary: impl Display) {
        let Some(stage) = self.stages.remove(&id) else { return };
        self.before += stage.units;
        let left = self.time_left();
        match &self.view {
            View::Silent => {}
            View::Lines(_) => self.line(&stage.name, format_args!("{summary}"), &left),
            View::Bars { overall, .. } => {
                stage.bar.iter().for_each(ProgressBar::finish_and_clear);
                overall.println(format!("{}: {summary}", stage.name));
                overall.set_position(per_mille(self.fraction()));
                overall.set_message(left);
            }
        }
    }

    /// Share of the run that is done, in 0..=1.
    fn fraction(&self) -> f64 {
        let done = self.before + self.stages.values().map(Stage::units_done).sum::<f64>();
        if self.total > 0.0 { (done / self.total).clamp(0.0, 1.0) } else { 0.0 }
    }

    /// `3 min left`, extrapolated from the work so far; empty before there is any.
    fn time_left(&self) -> String {
        let fraction = self.fraction();
        let worked = fraction - if self.total > 0.0 { self.resumed / self.total } else { 0.0 };
        if worked <= 1e-3 {
            return String::new();
        }
        format!("{} left", duration(self.start.elapsed().as_secs_f64() * (1.0 - fraction) / worked))
    }

    fn line(&mut self, name: &str, text: std::fmt::Arguments<'_>, left: &str) {
        let percent = (self.fraction() * 100.0).floor();
        let comma = if left.is_empty() { "" } else { ", " };
        let line = format!("[{percent:3.0} %{comma}{left}] {name}: {text}\n");
        // A standard error that is gone is no reason to stop.
        match &mut self.view {
            View::Lines(Lines::Stderr) => _ = std::io::stderr().lock().write_all(line.as_bytes()),
            #[cfg(test)]
            View::Lines(Lines::Memory(out)) => out.extend_from_slice(line.as_bytes()),
            View::Silent | View::Bars { .. } => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let View::Bars { overall, .. } = &self.view {
            self.stages.values().flat_map(|s| &s.bar).for_each(ProgressBar::finish_and_clear);
            overall.finish_and_clear();
        }
    }
}

fn bars() -> View {
    let style = ProgressStyle::with_template("all  {bar:30} {percent} %  {elapsed} elapsed, {msg}");
    let bars = MultiProgress::new();
    let overall = bars.add(ProgressBar::new(1000).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())));
    View::Bars { bars, overall }
}

fn per_mille(fraction: f64) -> u64 {
    (fraction * 1000.0) as u64
}

/// Seconds in words: `42 s`, `3 min 05 s`, `2 h 10 min`.
pub fn duration(seconds: f64) -> String {
    let s = if seconds.is_finite() { seconds.max(0.0).round() as u64 } else { 0 };
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_at_stage_ends_and_not_at_every_step() {
        let mut progress = Progress::with(View::Lines(Lines::Memory(vec![])), 40.0);
        progress.begin(0, "one", 10, 10.0);
        progress.begin(7, "two", 5, 30.0);
        (1..=10).for_each(|n| progress.step(0, n, "quiet"));
        progress.done(0, "loss 0.5");
        let earlier = Instant::now().checked_sub(LINE_EVERY).expect("a clock that has run for seconds");
        progress.stages.get_mut(&7).unwrap().shown = earlier;
        progress.step(7, 1, format_args!("loss {:.1}", 0.25));
        progress.step(7, 2, "quiet");
        progress.done(7, "accuracy 81.0 %");
        let View::Lines(Lines::Memory(out)) = &progress.view else { unreachable!() };
        let text = String::from_utf8(out.clone()).unwrap();
        let expected =
            "[ 25 %, 0 s left] one: loss 0.5\n[ 40 %, 0 s left] two: step 1/5  loss 0.2\n[100 %, 0 s left] two: accuracy 81.0 %\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn odd_counts_do_not_break_it() {
        let mut progress = Progress::silent();
        progress.begin(0, "empty", 0, 0.0);
        progress.step(0, 7, "past the end");
        progress.step(1, 7, "never begun");
        progress.done(0, "");
        progress.done(0, "twice");
        assert_eq!(progress.fraction(), 0.0);
        assert_eq!(progress.time_left(), "");
        let mut progress = Progress::with(bars(), 1.0);
        progress.begin(0, "more than announced", 3, 1.0);
        progress.step(0, 9, "");
        progress.done(0, "fine");
        assert_eq!(progress.fraction(), 1.0);
    }

    #[test]
    fn what_an_earlier_run_did_does_not_count_as_speed() {
        let mut progress = Progress::with(View::Lines(Lines::Memory(vec![])), 100.0);
        progress.begin(0, "half done", 10, 100.0);
        progress.resume(0, 5);
        assert_eq!((progress.fraction(), progress.time_left().as_str()), (0.5, ""));
    }

    #[test]
    fn durations_read_well() {
        let words = [(0.4, "0 s"), (42.0, "42 s"), (185.2, "3 min 05 s"), (7800.0, "2 h 10 min"), (f64::NAN, "0 s"), (-1.0, "0 s")];
        for (seconds, text) in words {
            assert_eq!(duration(seconds), text);
        }
    }
}
