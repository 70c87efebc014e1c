//! The models that are compared: weight files, or the fine-tuned models of a table's run.

use std::path::{Path, PathBuf};

use fd_compute::Params;
use fd_distill::Error;
use fd_distill::asked::Asked;
use fd_distill::config::{self, Source};
use fd_distill::graph::Done;
use fd_distill::status::RunPlan;
use fd_distill::table::{FineTune, TableConfig, WEIGHTS};
use fd_model::{Model, ModelConfig, Statistics};

/// A model to take the landscape of, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// What tables and figures call it.
    pub name: String,
    /// Its weight file.
    pub file: PathBuf,
}

/// A table's run, and which of its fine-tuned models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunChoice {
    /// The run directory.
    pub dir: PathBuf,
    /// The fine-tuning; none: the table's first.
    pub column: Option<String>,
    /// Rows of the table; none: all.
    pub rows: Option<Vec<String>>,
    /// Seeds of the fine-tuning; none: the first.
    pub seeds: Option<Vec<u64>>,
}

/// A table's run that is open.
#[derive(Debug)]
pub struct Run {
    /// Its configuration.
    pub config: TableConfig,
    /// The fine-tuning.
    pub column: FineTune,
    /// The models, in the table's order.
    pub models: Vec<Named>,
}

impl Run {
    /// Finds the models; their weights are not read.
    ///
    /// # Errors
    /// No run, no such column, row or seed, or a model that is not fine-tuned yet.
    pub fn open(choice: &RunChoice) -> Result<Run, Error> {
        let refuse = |why: String| Error::File { path: choice.dir.clone(), why };
        if !choice.dir.join("plan.json").is_file() {
            return Err(refuse("is no run directory of a table (it has no plan.json)".into()));
        }
        let (config, _) = config::load::<TableConfig>(&Source::File(choice.dir.join("config.toml")), &[])?;
        let fine_tunings: Vec<&String> = config.columns.iter().filter(|c| config.fine_tuning(c).is_some()).collect();
        let column = match &choice.column {
            Some(column) => Some(column).filter(|c| fine_tunings.contains(c)),
            None => fine_tunings.first().copied(),
        };
        let column = column.and_then(|c| config.fine_tuning(c)).cloned();
        let column = column.ok_or_else(|| {
            let there: Vec<&str> = fine_tunings.iter().map(|c| c.as_str()).collect();
            let there = if there.is_empty() { "none".into() } else { there.join(", ") };
            refuse(format!("has no fine-tuning `{}`; there is {there}", choice.column.as_deref().unwrap_or("")))
        })?;
        let models = models(choice, &config, &column)?;
        Ok(Run { config, column, models })
    }
}

fn models(choice: &RunChoice, config: &TableConfig, column: &FineTune) -> Result<Vec<Named>, Error> {
    let plan = RunPlan::read(&choice.dir)?;
    let refuse = |why: String| Err(Error::File { path: choice.dir.clone(), why });
    let first = config.seeds.first().copied().unwrap_or(0);
    let seeds = choice.seeds.clone().unwrap_or(vec![first]);
    // Titles are `fine-tune-6000 DINO + FD, seed 0`.
    let of = |seed: u64| -> Vec<(String, PathBuf)> {
        let (start, end) = (format!("{} ", column.name), format!(", seed {seed}"));
        let row = |title: &str| Some(title.strip_prefix(&start)?.strip_suffix(&end)?.to_string());
        plan.stages.iter().filter_map(|stage| Some((row(&stage.title)?, plan.stage_dir(&choice.dir, stage)))).collect()
    };
    let mut models = vec![];
    for &seed in &seeds {
        let there = of(seed);
        if there.is_empty() {
            return refuse(format!("has no model that was fine-tuned by {} with seed {seed}", column.name));
        }
        let all: Vec<String> = there.iter().map(|(row, _)| row.clone()).collect();
        for row in choice.rows.as_ref().unwrap_or(&all) {
            let Some((_, stage)) = there.iter().find(|(name, _)| name == row) else {
                return refuse(format!("has no row `{row}` that is fine-tuned by {}; there is {}", column.name, all.join(", ")));
            };
            finished(stage)?;
            let name = if seeds.len() > 1 { format!("{row}, seed {seed}") } else { row.clone() };
            models.push(Named { name, file: stage.join(WEIGHTS) });
        }
    }
    Ok(models)
}

/// Refuses a stage that is under way.
fn finished(stage: &Path) -> Result<(), Error> {
    let path = stage.join("done.json");
    let done = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Done>(&text).ok());
    if done.is_some() { Ok(()) } else { Err(Error::File { path, why: "is not there: this model is not fine-tuned yet".into() }) }
}

/// A fine-tuned model in memory.
#[derive(Debug)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// Its file.
    pub file: PathBuf,
    /// SHA-256 of it.
    pub sha256: String,
    /// The architecture.
    pub config: ModelConfig,
    /// How its images are normalised.
    pub normalise: Statistics,
    /// The model.
    pub model: Model,
    /// Its weights, in f32.
    pub params: Params,
}

impl Subject {
    /// Reads a model strictly; `sets` are keys of the model that its file does not say.
    ///
    /// # Errors
    /// A file that holds no model, one without a classifier, or with tensors that are missing, left over, misshapen or not finite.
    pub fn load(named: &Named, sets: &[String]) -> Result<Subject, Error> {
        let asked = Asked { file: named.file.clone(), sets: sets.to_vec(), ..Asked::default() };
        let opened = asked.open()?;
        if opened.model.num_classes() == 0 {
            let why = "has no classifier head: a landscape is of a fine-tuned model".into();
            return Err(Error::File { path: named.file.clone(), why });
        }
        for assumed in &opened.found().assumed {
            tracing::warn!("{}: assumed: {assumed}", named.file.display());
        }
        let (model, params) = opened.load()?;
        let (config, normalise, sha256) = (opened.model.clone(), opened.normalise.clone(), opened.sha256()?);
        Ok(Subject { name: named.name.clone(), file: named.file.clone(), sha256, config, normalise, model, params })
    }
}
