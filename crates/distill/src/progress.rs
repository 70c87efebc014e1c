//! How far a run is: a bar with the time left for all of it on a terminal, plain lines every few seconds elsewhere.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Time between plain lines of one stage.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Time between redraws of the bars.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// Tells standard error how far a run is. Work is counted in units of the caller's choice; the time left follows from the units done.
///
/// ```
/// let mut progress = fd_distill::progress::Progress::silent();
/// progress.stage("distil, seed 0", 100);
/// progress.step(1, format_args!("loss {:.4}", 0.25));
/// progress.done("loss 0.2000");
/// ```
#[derive(Debug)]
pub struct Progress {
    view: View,
    start: Instant,
    shown: Option<Instant>,
    total: f64,
    before: f64,
    stage: Stage,
}

#[derive(Debug)]
enum View {
    Silent,
    Lines(Lines),
    Bars { _bars: MultiProgress, overall: ProgressBar, stage: ProgressBar },
}

/// Plain lines go to standard error, or, in tests, into memory.
#[derive(Debug)]
enum Lines {
    Stderr,
    #[cfg(test)]
    Memory(Vec<u8>),
}

#[derive(Debug, Default)]
struct Stage {
    name: String,
    steps: u64,
    units: f64,
    done: u64,
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
        Progress { view, start: Instant::now(), shown: None, total, before: 0.0, stage: Stage::default() }
    }

    /// Begins a stage whose steps are one unit of work each.
    pub fn stage(&mut self, name: &str, steps: u64) {
        self.stage_of(name, steps, steps as f64);
    }

    /// Begins a stage that is `units` of the run's work.
    pub fn stage_of(&mut self, name: &str, steps: u64, units: f64) {
        self.before += self.stage.units;
        self.stage = Stage { name: name.to_string(), steps, units, done: 0 };
        self.shown = Some(Instant::now());
        if let View::Bars { overall, stage, .. } = &self.view {
            stage.set_length(steps);
            stage.set_position(0);
            stage.set_prefix(name.to_string());
            stage.set_message("");
            overall.set_position(per_mille(self.fraction()));
        }
    }

    /// `done` steps of the stage are behind; the message is formatted only when it is shown.
    pub fn step(&mut self, done: u64, message: impl Display) {
        self.stage.done = done;
        let every = match self.view {
            View::Silent => return,
            View::Lines(_) => LINE_EVERY,
            View::Bars { .. } => DRAW_EVERY,
        };
        if self.shown.is_some_and(|shown| shown.elapsed() < every) {
            return;
        }
        self.shown = Some(Instant::now());
        let left = self.time_left();
        if let View::Bars { overall, stage, .. } = &self.view {
            stage.set_position(done);
            stage.set_message(message.to_string());
            overall.set_position(per_mille(self.fraction()));
            overall.set_message(left);
        } else {
            let steps = self.stage.steps;
            self.line(format_args!("step {done}/{steps}  {message}"), &left);
        }
    }

    /// Ends the stage; its summary stays visible.
    pub fn done(&mut self, summary: impl Display) {
        self.stage.done = self.stage.steps;
        let left = self.time_left();
        match &self.view {
            View::Silent => {}
            View::Lines(_) => self.line(format_args!("{summary}"), &left),
            View::Bars { overall, stage, .. } => {
                stage.set_position(self.stage.steps);
                overall.println(format!("{}: {summary}", self.stage.name));
                overall.set_position(per_mille(self.fraction()));
                overall.set_message(left);
            }
        }
    }

    /// Share of the run that is done, in 0..=1.
    fn fraction(&self) -> f64 {
        let stage = if self.stage.steps == 0 { 1.0 } else { self.stage.done as f64 / self.stage.steps as f64 };
        let done = self.before + self.stage.units * stage.min(1.0);
        if self.total > 0.0 { (done / self.total).clamp(0.0, 1.0) } else { 0.0 }
    }

    /// `3 min left`, extrapolated from the work so far; empty before there is any.
    fn time_left(&self) -> String {
        let fraction = self.fraction();
        if fraction <= 0.0 {
            return String::new();
        }
        format!("{} left", duration(self.start.elapsed().as_secs_f64() * (1.0 - fraction) / fraction))
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>, left: &str) {
        let percent = (self.fraction() * 100.0).floor();
        let (comma, name) = (if left.is_empty() { "" } else { ", " }, &self.stage.name);
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
        if let View::Bars { overall, stage, .. } = &self.view {
            stage.finish_and_clear();
            overall.finish_and_clear();
        }
    }
}

fn bars() -> View {
    let style = |template| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bars = MultiProgress::new();
    let stage = bars.add(ProgressBar::new(0).with_style(style("{prefix}  {bar:30} {pos}/{len}  {msg}")));
    let overall = bars.add(ProgressBar::new(1000).with_style(style("all  {bar:30} {percent} %  {elapsed} elapsed, {msg}")));
    View::Bars { _bars: bars, overall, stage }
}

fn per_mille(fraction: f64) -> u64 {
    (fraction * 1000.0) as u64
}

/// Seconds in words: `42 s`, `3 min 05 s`, `2 h 10 min`.
pub(crate) fn duration(seconds: f64) -> String {
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
        progress.stage("one", 10);
        (1..=10).for_each(|n| progress.step(n, "quiet"));
        progress.done("loss 0.5");
        progress.stage_of("two", 5, 30.0);
        progress.shown = None;
        progress.step(1, format_args!("loss {:.1}", 0.25));
        progress.step(2, "quiet");
        progress.done("accuracy 81.0 %");
        let View::Lines(Lines::Memory(out)) = &progress.view else { unreachable!() };
        let text = String::from_utf8(out.clone()).unwrap();
        let expected =
            "[ 25 %, 0 s left] one: loss 0.5\n[ 40 %, 0 s left] two: step 1/5  loss 0.2\n[100 %, 0 s left] two: accuracy 81.0 %\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn odd_counts_do_not_break_it() {
        let mut progress = Progress::silent();
        progress.stage("empty", 0);
        progress.step(7, "past the end");
        progress.done("");
        assert_eq!(progress.fraction(), 0.0);
        assert_eq!(progress.time_left(), "");
        let mut progress = Progress::with(bars(), 1.0);
        progress.stage("more than announced", 3);
        progress.step(9, "");
        progress.done("fine");
        assert_eq!(progress.fraction(), 1.0);
    }

    #[test]
    fn durations_read_well() {
        let words = [(0.4, "0 s"), (42.0, "42 s"), (185.2, "3 min 05 s"), (7800.0, "2 h 10 min"), (f64::NAN, "0 s"), (-1.0, "0 s")];
        for (seconds, text) in words {
            assert_eq!(duration(seconds), text);
        }
    }
}
