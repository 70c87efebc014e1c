//! What a stage tells while it trains: `metrics.csv` for people and scripts, event files for TensorBoard.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::run_dir::write_atomically;
use crate::tensorboard::{self, EventWriter};

/// The file's name in a stage's directory.
const FILE: &str = "metrics.csv";

/// One line of `metrics.csv`; what does not apply stays empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Optimiser steps done.
    pub step: usize,
    /// Epochs done.
    pub epoch: f64,
    /// Loss.
    pub loss: Option<f64>,
    /// Learning rate.
    pub lr: Option<f64>,
    /// Norm of the gradient before clipping.
    pub grad_norm: Option<f64>,
    /// Throughput.
    pub images_per_second: Option<f64>,
    /// Self-distillation: entropy of the mean target, in nats.
    pub entropy: Option<f64>,
    /// Self-distillation: mean entropy of the single targets, in nats.
    pub target_entropy: Option<f64>,
    /// Self-distillation: KL divergence of the student from its targets, in nats.
    pub kl: Option<f64>,
    /// Self-distillation: variance of the teacher's unit-length outputs, 0..1.
    pub spread: Option<f64>,
    /// Steps since the stage began that were left out, for a gradient that is not finite.
    pub skipped: Option<usize>,
    /// The first teacher's loss before its weight, where there are several; then the others'.
    pub loss_1: Option<f64>,
    /// As `loss_1`.
    pub loss_2: Option<f64>,
    /// As `loss_1`.
    pub loss_3: Option<f64>,
    /// As `loss_1`.
    pub loss_4: Option<f64>,
}

impl Metrics {
    /// What is drawn over steps, under the names of the CSV's columns.
    fn scalars(&self) -> [(&'static str, Option<f64>); 14] {
        [
            ("epoch", Some(self.epoch)),
            ("loss", self.loss),
            ("lr", self.lr),
            ("grad_norm", self.grad_norm),
            ("images_per_second", self.images_per_second),
            ("entropy", self.entropy),
            ("target_entropy", self.target_entropy),
            ("kl", self.kl),
            ("spread", self.spread),
            ("skipped", self.skipped.map(|n| n as f64)),
            ("loss_1", self.loss_1),
            ("loss_2", self.loss_2),
            ("loss_3", self.loss_3),
            ("loss_4", self.loss_4),
        ]
    }

    /// The first line of `metrics.csv`.
    fn header() -> String {
        let names = Metrics::default().scalars().map(|(name, _)| name);
        format!("step,{}\n", names.join(","))
    }

    /// The whole lines of a stage's `metrics.csv`, also while it is being written; none where there is no such file.
    ///
    /// # Errors
    /// [`Error::File`] when the file cannot be read.
    pub fn read(stage: &Path) -> Result<Vec<Metrics>, Error> {
        Ok(whole_rows(&contents(&stage.join(FILE))?, usize::MAX).1)
    }
}

/// Appends to a stage's `metrics.csv` and to a new TensorBoard event file.
#[derive(Debug)]
pub struct StageLog {
    rows: csv::Writer<File>,
    path: PathBuf,
    events: EventWriter<File>,
    events_path: PathBuf,
}

impl StageLog {
    /// Opens the log of a stage that goes on after step `resumed_at` (0: from its beginning) in `dir`, which is made if need be. Lines of
    /// later steps, of an attempt that was interrupted, are dropped, as is everything from a torn line on; so is a file that does not
    /// begin with the header. The result is that of a run without interruption, but for `images_per_second`.
    ///
    /// # Errors
    /// [`Error::File`]; an older `metrics.csv` is untouched then, or cut as said.
    pub fn open(dir: &Path, resumed_at: usize) -> Result<StageLog, Error> {
        let path = dir.join(FILE);
        let old = contents(&path)?;
        let kept = match resumed_at {
            0 => &[],
            _ => &old[..whole_rows(&old, resumed_at).0],
        };
        if kept.is_empty() {
            write_atomically(&path, |file| file.write_all(Metrics::header().as_bytes()))?;
        } else if kept.len() < old.len() {
            write_atomically(&path, |file| file.write_all(kept))?;
        }
        let file = OpenOptions::new().append(true).open(&path).map_err(refuse(&path))?;
        let rows = csv::WriterBuilder::new().has_headers(false).from_writer(file);
        let first_step = if resumed_at == 0 { 0 } else { resumed_at + 1 };
        let (events_path, events) = tensorboard::create(dir, first_step)?;
        Ok(StageLog { rows, path, events, events_path })
    }

    /// Writes a line to both files; it is there when this returns.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn row(&mut self, metrics: &Metrics) -> Result<(), Error> {
        self.rows.serialize(metrics).map_err(io::Error::from).and_then(|()| self.rows.flush()).map_err(refuse(&self.path))?;
        let scalars = metrics.scalars().into_iter().filter_map(|(name, value)| Some((name, value?)));
        self.events.scalars(tensorboard::now(), metrics.step, scalars).map_err(refuse(&self.events_path))
    }
}

fn refuse(path: &Path) -> impl Fn(io::Error) -> Error {
    move |e| Error::File { path: path.to_path_buf(), why: e.to_string() }
}

fn contents(path: &Path) -> Result<Vec<u8>, Error> {
    match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        read => read.map_err(refuse(path)),
    }
}

/// The header and the rows after it that are whole and not beyond step `last`: how many bytes they take, and the rows. 0 bytes without
/// our header.
fn whole_rows(bytes: &[u8], last: usize) -> (usize, Vec<Metrics>) {
    let header = Metrics::header();
    // A number without the line's end may lack digits.
    let complete = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
    let Some(body) = bytes[..complete].strip_prefix(header.as_bytes()) else { return (0, vec![]) };
    let (mut length, mut rows) = (header.len(), vec![]);
    for line in body.split_inclusive(|b| *b == b'\n') {
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(line);
        match reader.deserialize::<Metrics>().next() {
            Some(Ok(row)) if row.step <= last => rows.push(row),
            _ => break,
        }
        length += line.len();
    }
    (length, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("fd-stage-log-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn row(step: usize) -> Metrics {
        let loss = Some(1.0 / step as f64);
        Metrics { step, epoch: step as f64 / 8.0, loss, lr: Some(1e-5), skipped: Some(step / 30), ..Metrics::default() }
    }

    fn text(dir: &Path) -> String {
        fs::read_to_string(dir.join(FILE)).unwrap()
    }

    /// The log of a run that is never interrupted.
    fn whole(dir: &Path, steps: &[usize]) -> String {
        let mut log = StageLog::open(dir, 0).unwrap();
        steps.iter().for_each(|s| log.row(&row(*s)).unwrap());
        text(dir)
    }

    #[test]
    fn lines_are_on_disk_at_once_and_read_back() {
        let dir = scratch("lines").join("made");
        assert_eq!(Metrics::read(&dir).unwrap(), []);
        let mut log = StageLog::open(&dir, 0).unwrap();
        assert_eq!(
            text(&dir),
            "step,epoch,loss,lr,grad_norm,images_per_second,entropy,target_entropy,kl,spread,skipped,loss_1,loss_2,loss_3,loss_4\n"
        );
        log.row(&row(4)).unwrap();
        assert_eq!(text(&dir).lines().nth(1), Some("4,0.5,0.25,0.00001,,,,,,,0,,,,"));
        let full = Metrics { loss: Some(f64::INFINITY), grad_norm: Some(-0.1), images_per_second: Some(2.5), ..row(60) };
        let full = Metrics { entropy: Some(1e-300), kl: Some(1.0 / 3.0), spread: Some(17.0), ..full };
        log.row(&full).unwrap();
        assert_eq!(Metrics::read(&dir).unwrap(), [row(4), full]);
        log.row(&Metrics { loss: Some(f64::NAN), ..row(70) }).unwrap();
        assert!(Metrics::read(&dir).unwrap()[2].loss.unwrap().is_nan());
        fs::remove_dir_all(dir.parent().unwrap()).unwrap();
    }

    #[test]
    fn the_header_is_what_serde_writes() {
        let mut csv = csv::Writer::from_writer(vec![]);
        csv.serialize(row(1)).unwrap();
        let written = String::from_utf8(csv.into_inner().unwrap()).unwrap();
        assert!(written.starts_with(&Metrics::header()), "{written}");
    }

    #[test]
    fn an_interrupted_run_has_the_log_of_an_uninterrupted_one() {
        let (dir, reference) = (scratch("resumed"), scratch("whole"));
        let expected = whole(&reference, &[10, 20, 30, 40, 50]);
        for tail in ["", "50,6.2", "50,6.25,0.02,0.00001,,,,,,1", "\0\0\0\0\n", "\"\n", "50,not a number,,,,,,,,\n", "\n50"] {
            let _ = fs::remove_dir_all(&dir);
            // Interrupted after step 40, with or without a torn line; the last checkpoint is that of step 20.
            let interrupted = whole(&dir, &[10, 20, 30, 40]) + tail;
            fs::write(dir.join(FILE), interrupted).unwrap();
            let mut log = StageLog::open(&dir, 20).unwrap();
            assert_eq!(Metrics::read(&dir).unwrap(), [row(10), row(20)]);
            [30, 40, 50].iter().for_each(|s| log.row(&row(*s)).unwrap());
            assert_eq!(text(&dir), expected, "{tail:?}");
            // Resumed after its end: the whole lines stay, what follows them goes.
            fs::write(dir.join(FILE), expected.clone() + tail).unwrap();
            StageLog::open(&dir, 60).unwrap();
            assert_eq!(text(&dir), expected, "{tail:?}");
        }
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 4, "the CSV and three event files, nothing temporary");
        fs::remove_dir_all(dir).unwrap();
        fs::remove_dir_all(reference).unwrap();
    }

    #[test]
    fn a_torn_header_and_a_foreign_file_start_anew() {
        let dir = scratch("anew");
        let expected = whole(&dir, &[10]);
        for foreign in ["", "step,epo", "step,loss\n10,1.0\n", "\u{fffd}\n"] {
            fs::write(dir.join(FILE), foreign).unwrap();
            assert_eq!(Metrics::read(&dir).unwrap(), [], "{foreign:?}");
            StageLog::open(&dir, 10).unwrap().row(&row(10)).unwrap();
            assert_eq!(text(&dir), expected, "{foreign:?}");
        }
        assert_eq!(whole(&dir, &[10]), expected, "from step 0 on nothing of an earlier attempt stays");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let dir = scratch("refused");
        fs::create_dir_all(dir.join("in").join(FILE)).unwrap();
        fs::write(dir.join("file"), "").unwrap();
        for stage in ["in", "file"] {
            let e = StageLog::open(&dir.join(stage), 5).unwrap_err().to_string();
            let path = dir.join(stage).join(FILE).display().to_string();
            assert!(e.starts_with(&path) && !e.contains('\n'), "{e}");
        }
        fs::remove_dir_all(dir).unwrap();
    }
}
