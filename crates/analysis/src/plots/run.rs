//! A finished table's run, as plots read it.

use std::path::{Path, PathBuf};

use fd_data::DataSpec;
use fd_distill::Error;
use fd_distill::config::{self, Source};
use fd_distill::pretrain::Pretrain;
use fd_distill::table::{Kind, MODELS, MadeModel, TableConfig, TableResult};
use serde::de::DeserializeOwned;

use crate::report::observations::TeacherKind;

/// What a run has left.
pub(super) struct Finished {
    /// Its directory.
    pub dir: PathBuf,
    pub config: TableConfig,
    pub table: TableResult,
    /// Teachers in the table's order.
    pub teachers: Vec<Taught>,
    /// `meta.json`, as name and value.
    pub facts: Vec<(String, String)>,
}

/// A teacher and its students.
pub(super) struct Taught {
    pub name: String,
    pub kind: TeacherKind,
    pub before: PathBuf,
    /// By seed.
    pub after: Vec<(u64, PathBuf)>,
}

impl Finished {
    /// Reads it; no weights.
    ///
    /// # Errors
    /// A folder that is no run of a table, or one that is not done.
    pub fn open(dir: &Path) -> Result<Finished, Error> {
        let refuse = |why: &str| Error::File { path: dir.to_path_buf(), why: why.into() };
        if !dir.is_dir() {
            return Err(refuse("there is no such run: `cargo xtask reproduce-table` makes runs/main"));
        }
        let (config, _) = config::load::<TableConfig>(&Source::File(dir.join("config.toml")), &[])?;
        let models = models(dir)?;
        let table = json(&dir.join("table.json"), "the table is not done, or measured nothing: run it again, to its end")?;
        let taught = |t: &fd_distill::table::Teacher| {
            let of = |kind| models.iter().filter(move |m| m.kind == kind && m.column.is_none() && m.teacher.as_ref() == Some(&t.name));
            let before = of(Kind::Before).next().map(|m| dir.join(&m.file)).ok_or_else(|| refuse("lists no teacher's weights"))?;
            let after = of(Kind::After).filter_map(|m| Some((m.seed?, dir.join(&m.file)))).collect();
            Ok(Taught { name: t.name.clone(), kind: kind_of(t.pretrain.as_ref()), before, after })
        };
        let teachers = config.teachers.iter().map(taught).collect::<Result<Vec<_>, Error>>()?;
        if teachers.iter().any(|t| t.after.is_empty()) {
            return Err(refuse("lists a teacher without students"));
        }
        let facts = facts(&dir.join("meta.json"));
        Ok(Finished { dir: dir.to_path_buf(), config, table, teachers, facts })
    }

    /// The images that analyses look at: the test images, or what there is.
    pub fn images(&self) -> &DataSpec {
        self.config.data.test.as_ref().unwrap_or(&self.config.data.train)
    }

    /// The fine-tuning that landscapes are taken of: the first column that is one.
    pub fn fine_tuning(&self) -> Option<&str> {
        self.config.columns.iter().find(|c| self.config.fine_tuning(c).is_some()).map(String::as_str)
    }
}

/// The models that a run lists.
///
/// # Errors
/// A run that has no list.
pub(super) fn models(dir: &Path) -> Result<Vec<MadeModel>, Error> {
    json(&dir.join(MODELS), "the run is not done: run it again, to its end (what is done is not done again)")
}

fn kind_of(pretrain: Option<&Pretrain>) -> TeacherKind {
    match pretrain {
        Some(Pretrain::Dino { .. } | Pretrain::Clip { .. }) => TeacherKind::Contrastive,
        Some(Pretrain::Mae { .. }) => TeacherKind::Masked,
        Some(Pretrain::Supervised { .. }) | None => TeacherKind::Other,
    }
}

fn json<T: DeserializeOwned>(path: &Path, missing: &str) -> Result<T, Error> {
    let refuse = |why: String| Error::File { path: path.to_path_buf(), why };
    let text =
        std::fs::read(path).map_err(|e| refuse(if e.kind() == std::io::ErrorKind::NotFound { missing.into() } else { e.to_string() }))?;
    serde_json::from_slice(&text).map_err(|e| refuse(e.to_string()))
}

/// What is said of the run's making; nothing of what is not text or a number.
fn facts(path: &Path) -> Vec<(String, String)> {
    let text = std::fs::read(path).unwrap_or_default();
    let meta: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&text).unwrap_or_default();
    let value = |v: &serde_json::Value| match v {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(n) => Some(n.to_string()),
        serde_json::Value::Array(all) => {
            Some(all.iter().map(|v| v.as_str().map_or(v.to_string(), String::from)).collect::<Vec<_>>().join(" "))
        }
        _ => None,
    };
    meta.iter().filter_map(|(key, v)| Some((key.replace('_', " "), value(v)?))).filter(|(_, v)| !v.is_empty()).collect()
}
