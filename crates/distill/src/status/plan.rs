//! What a run is to do: `plan.json`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::run_dir::write_atomically;

/// The file's name in a run's directory.
pub(super) const FILE: &str = "plan.json";

/// What a run is to do, in `plan.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunPlan {
    /// The run's name.
    pub name: String,
    /// The folder that holds the stages' directories, relative to the run's; none: `stages`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<PathBuf>,
    /// Its stages, in order.
    pub stages: Vec<PlannedStage>,
}

/// One stage of a [`RunPlan`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStage {
    /// Its directory's name.
    pub dir: String,
    /// What readers call it: its kind first, `distil DINO, seed 0`.
    pub title: String,
    /// Its optimiser steps; 0 for a stage that does not train.
    pub steps: usize,
}

impl RunPlan {
    /// Writes `plan.json` into a run's directory.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write(&self, run: &Path) -> Result<(), Error> {
        let path = run.join(FILE);
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| Error::File { path: path.clone(), why: e.to_string() })?;
        text.push(b'\n');
        write_atomically(&path, |file| std::io::Write::write_all(file, &text))
    }

    /// Reads a run's `plan.json`.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn read(run: &Path) -> Result<RunPlan, Error> {
        let path = run.join(FILE);
        let text = fs::read(&path).map_err(|e| e.to_string());
        let plan = text.and_then(|text| serde_json::from_slice(&text).map_err(|e| e.to_string()));
        plan.map_err(|why| Error::File { path, why })
    }

    /// Where a stage's directory is, for the plan of the run in `run`.
    pub fn stage_dir(&self, run: &Path, stage: &PlannedStage) -> PathBuf {
        run.join(self.store.as_deref().unwrap_or(Path::new("stages"))).join(&stage.dir)
    }
}

impl PlannedStage {
    /// The first word of the title: `pretrain`, `distil`, `fine-tune`.
    pub fn kind(&self) -> &str {
        self.title.split_whitespace().next().unwrap_or("").trim_end_matches([',', ':'])
    }
}
