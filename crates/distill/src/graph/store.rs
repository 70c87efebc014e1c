//! Where stages keep what they made: a directory each, in which every file is there whole or not at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fd_compute::Params;
use fd_model::Checkpoint;
use serde::{Deserialize, Serialize};

use super::{Graph, Listener, Node, NodeId};
use crate::checksum::Hashing;
use crate::lock::RunLock;
use crate::run_dir::{remove_temporaries, write_atomically};
use crate::stage_log::{Metrics, StageLog};
use crate::train::{Keep, Learner, Stage, StepReport, Watch};
use crate::{Error, interrupt, sha256_hex, snapshot};

/// A finished stage: `done.json`, written last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// The stage's key.
    pub key: String,
    /// Wall-clock time, without what interrupted runs took.
    pub seconds: f64,
    /// SHA-256 of every file it made.
    pub outputs: BTreeMap<String, String>,
    /// Accuracies in percent.
    pub accuracy: BTreeMap<String, f64>,
}

/// The file of [`Done`].
const DONE: &str = "done.json";

/// A folder of stages.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// In this folder, which is made when the first stage is.
    pub fn new(path: impl Into<PathBuf>) -> Store {
        Store { path: path.into() }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of a stage.
    pub fn dir(&self, node: &Node) -> PathBuf {
        self.path.join(node.dir())
    }

    /// What a finished stage left behind; none if it is not finished.
    ///
    /// # Errors
    /// [`Error::File`] for the first of its files that is gone or damaged: the stage has to run again.
    pub fn done(&self, node: &Node) -> Result<Option<Done>, Error> {
        let dir = self.dir(node);
        let refuse = |name: &str, why: &str| Err(Error::File { path: dir.join(name), why: why.into() });
        let Ok(text) = std::fs::read(dir.join(DONE)) else { return Ok(None) };
        let Some(done) = serde_json::from_slice::<Done>(&text).ok().filter(|done| done.key == node.key.as_str()) else {
            return refuse(DONE, "is damaged");
        };
        for (name, sha) in &done.outputs {
            match std::fs::read(dir.join(name)) {
                Err(e) => return refuse(name, &format!("cannot be read: {e}")),
                Ok(bytes) if sha256_hex(&bytes) != *sha => return refuse(name, "is damaged"),
                Ok(_) => {}
            }
        }
        Ok(Some(done))
    }

    /// Removes what a process that was killed left in the directory of a finished stage, unless somebody works there.
    pub(super) fn tidy(&self, node: &Node) -> Result<(), Error> {
        let dir = self.dir(node);
        if dir.join(DONE).exists()
            && let Ok(_lock) = RunLock::acquire(&dir)
        {
            remove_temporaries(&dir);
            snapshot::clear(&dir)?;
        }
        Ok(())
    }

    /// Reads a file that a finished stage made.
    pub fn read(&self, node: &Node, name: &str) -> Result<Vec<u8>, Error> {
        let path = self.dir(node).join(name);
        std::fs::read(&path).map_err(|e| Error::File { path, why: e.to_string() })
    }
}

/// A stage while it runs: its directory, its inputs, who follows it.
pub struct Running<'a> {
    pub(super) graph: &'a Graph,
    pub(super) store: &'a Store,
    pub(super) id: NodeId,
    pub(super) dir: PathBuf,
    pub(super) checkpoint_every: Duration,
    pub(super) outputs: BTreeMap<String, String>,
    pub(super) listener: &'a dyn Listener,
    pub(super) start: Instant,
}

/// Steps of the optimiser between two lines of `metrics.csv`.
const EVERY: usize = 10;

impl Running<'_> {
    /// What people call the stage.
    pub fn title(&self) -> &str {
        &self.graph.node(self.id).spec.title
    }

    /// A file that the stage's n-th input made.
    pub fn input(&self, n: usize, name: &str) -> Result<(PathBuf, Vec<u8>), Error> {
        let node = self.graph.node(self.graph.node(self.id).spec.inputs[n]);
        Ok((self.store.dir(node).join(name), self.store.read(node, name)?))
    }

    /// Keeps a result.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        write_atomically(&self.dir.join(name), |file| std::io::Write::write_all(file, bytes))?;
        self.outputs.insert(name.to_string(), sha256_hex(bytes));
        Ok(())
    }

    /// Keeps weights: the bytes of [`Checkpoint::to_bytes`], which are never in memory together.
    pub fn write_weights(&mut self, name: &str, weights: &Checkpoint) -> Result<(), Error> {
        let mut sum = String::new();
        write_atomically(&self.dir.join(name), |file| {
            let mut hashing = Hashing::new(std::io::BufWriter::new(file));
            weights.write_to(&mut hashing).map_err(std::io::Error::other)?;
            sum = hashing.finish()?;
            Ok(())
        })?;
        self.outputs.insert(name.to_string(), sum);
        Ok(())
    }

    /// Trains, from the newest checkpoint in the stage's directory if there is one; metrics and checkpoints go there.
    pub fn train(&self, stage: Stage, learner: &mut dyn Learner, params: &mut Params) -> Result<(), Error> {
        let mut log: Option<StageLog> = None;
        let mut report = |r: &StepReport| {
            let log = match &mut log {
                Some(log) => log,
                none => {
                    if r.step > 1 {
                        self.listener.resumes(self.id, r.step - 1);
                    }
                    none.insert(StageLog::open(&self.dir, r.step - 1)?)
                }
            };
            self.listener.step(self.id, r);
            if r.step == 1 || r.step == r.steps || r.step.is_multiple_of(EVERY) { log.row(&metrics(r)) } else { Ok(()) }
        };
        let keep = Some(Keep { dir: &self.dir, every: self.checkpoint_every });
        stage.run(learner, params, &mut Watch { report: &mut report, stop: &interrupt::requested, keep })?;
        Ok(())
    }

    pub(super) fn finish(self, accuracy: Vec<(String, f64)>) -> Result<(), Error> {
        let key = self.graph.node(self.id).key.as_str().to_string();
        let seconds = self.start.elapsed().as_secs_f64();
        let done = Done { key, seconds, outputs: self.outputs, accuracy: accuracy.into_iter().collect() };
        let path = self.dir.join(DONE);
        let text = serde_json::to_vec_pretty(&done).map_err(|e| Error::File { path: path.clone(), why: e.to_string() })?;
        write_atomically(&path, |file| std::io::Write::write_all(file, &text))?;
        snapshot::clear(&self.dir)
    }
}

fn metrics(r: &StepReport) -> Metrics {
    let signs = r.measured.signs;
    Metrics {
        step: r.step,
        epoch: r.epoch,
        loss: Some(r.measured.loss),
        lr: Some(r.lr),
        grad_norm: Some(r.grad_norm),
        images_per_second: Some(r.images_per_second),
        entropy: signs.map(|s| s.entropy),
        target_entropy: signs.map(|s| s.target_entropy),
        kl: signs.map(|s| s.kl),
        spread: signs.map(|s| s.spread),
        loss_1: r.measured.parts.apart(0),
        loss_2: r.measured.parts.apart(1),
        loss_3: r.measured.parts.apart(2),
        loss_4: r.measured.parts.apart(3),
        skipped: Some(r.skipped).filter(|n| *n > 0),
    }
}
