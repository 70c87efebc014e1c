//! What a table is made of: data, teachers, the recipe of every stage, the columns.

use std::path::PathBuf;

use fd_data::DataSpec;
use fd_data::schema::{above_zero, below_one};
use fd_model::{Init, ModelConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::context::fine_tuned_model;
use super::controls::Controls;
use super::lessons::{Ensemble, Gains};
use super::result::PaperFigure;
use crate::distillation::{Engine, Projector};
use crate::pretrain::Pretrain;
use crate::probe::{Knn, ProbeConfig};
use crate::recipe::{MOST_EPOCHS, Normalise, Recipe, Supervised, Views};
use crate::teachers::slug;
use crate::{Error, Objective, Target};

/// A table's configuration: `experiments/tables/*.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableConfig {
    /// Its name; results go to `runs/<name>/`.
    pub name: String,
    /// Distillation, fine-tuning, probes and subsets of labels are repeated for each.
    pub seeds: Vec<u64>,
    /// How models start.
    pub init: Init,
    /// What is measured, in order: names of fine-tunings, `probe-cls`, `probe-avg`, `knn`. The first is the main one. Empty: students are
    /// made and not measured, for which images need no labels.
    pub columns: Vec<String>,
    /// Which rows that come from no teacher stand beside the others.
    #[serde(default, skip_serializing_if = "Controls::is_all")]
    #[schemars(!skip_serializing_if)]
    pub controls: Controls,
    /// Images.
    pub data: Data,
    /// The teachers: rows of the table.
    pub teachers: Vec<Teacher>,
    /// Teachers that teach one student together: a row each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(!skip_serializing_if)]
    pub ensembles: Vec<Ensemble>,
    /// The student's architecture.
    pub student: ModelConfig,
    /// Feature distillation.
    pub distil: Distil,
    /// Fine-tunings, the same for every row.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(!skip_serializing_if)]
    pub fine_tune: Vec<FineTune>,
    /// The linear probe, the same for every row; needed by its columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub probe: Option<ProbeConfig>,
    /// The nearest neighbours, the same for every row; needed by their column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub knn: Option<Knn>,
    /// What distillation gives some teachers, compared with what it gives others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(!skip_serializing_if)]
    pub gains: Vec<Gains>,
    /// The paper's figures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(!skip_serializing_if)]
    pub paper: Vec<PaperFigure>,
}

/// Most threads that prepare batches.
const MOST_WORKERS: usize = 256;

/// Column: linear probe on the CLS token; empty for a model without one.
pub const PROBE_CLS: &str = "probe-cls";
/// Column: linear probe on the mean of the patch tokens.
pub const PROBE_AVG: &str = "probe-avg";
/// Column: nearest neighbours of the CLS token, or of the mean of the patch tokens in a model without one.
pub const KNN: &str = "knn";

/// Which images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Training images, with labels where anything is measured or trained on them.
    pub train: DataSpec,
    /// Test images, with labels; needed where anything is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub test: Option<DataSpec>,
    /// Training images a class to use; 0: all.
    pub train_per_class: usize,
    /// Test images a class to use; 0: all.
    #[serde(default)]
    pub test_per_class: usize,
    /// Statistics of the channels.
    pub normalise: Normalise,
    /// Share of the resized short side that the square of an evaluation takes from the middle (ImageNet's 224 of 256 pixels: 0.875); if not
    /// stated, the whole image is resized to the model's size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if, range(max = 1.0), transform = above_zero)]
    pub evaluation_crop: Option<f64>,
    /// Threads of each stage that prepare batches ahead; 0: none.
    #[schemars(range(max = MOST_WORKERS))]
    pub workers: usize,
}

/// A teacher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Teacher {
    /// Its name in the table.
    pub name: String,
    /// A checkpoint of your own (safetensors or PyTorch, official, timm's or transformers' names) in place of pretraining.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub weights: Option<PathBuf>,
    /// The model in that checkpoint, where it holds several: a part of its path, such as `teacher`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub key: Option<String>,
    /// Names of its tensors that may be left over (`*` at the end stands for any rest).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(!skip_serializing_if)]
    pub allow: Vec<String>,
    /// Interpolate the positions of that checkpoint to this model's grid and windows, if they are for others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(!skip_serializing_if)]
    pub interpolate: bool,
    /// Statistics of the channels it was trained with, if they are not those of `data.normalise`: it then sees the student's view so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub normalise: Option<Normalise>,
    /// Seed of its pretraining: a table has one teacher of each kind, whatever its seeds.
    pub seed: u64,
    /// Its architecture. With `out_stage` a Swin teaches by an earlier stage's map (the paper's stage 3 for a ViT); it is pretrained and
    /// measured whole.
    pub model: ModelConfig,
    /// How it is pretrained; needed without weights, and to train it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub pretrain: Option<Pretrain>,
    /// The student that learns from it, if not the table's: a Swin v2 of a Swin, beside ViTs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub student: Option<ModelConfig>,
    /// Epochs of the control that trains the teacher on, so that more training is not taken for distillation; 0: no such row.
    #[serde(default)]
    #[schemars(range(max = MOST_EPOCHS))]
    pub train_on_epochs: usize,
}

/// Feature distillation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Distil {
    /// The optimiser's numbers.
    pub recipe: Recipe,
    /// The view both models see.
    pub views: Views,
    /// What is learnt.
    pub objective: Objective,
    /// Where it is differentiated.
    pub engine: Engine,
    /// What stands between the widths.
    pub projector: Projector,
    /// Drop path of the teacher's last block (the paper: 0).
    #[schemars(range(min = 0.0), transform = below_one)]
    pub teacher_drop_path_rate: f64,
    /// Drop path of the student's last block.
    #[schemars(range(min = 0.0), transform = below_one)]
    pub student_drop_path_rate: f64,
    /// Keep of the student's blocks only what they read, and compute the rest again in the backward pass: less memory, the same bits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(!skip_serializing_if)]
    pub recompute: bool,
}

/// A column of fine-tuned accuracies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FineTune {
    /// Its key.
    pub name: String,
    /// Its title.
    pub title: String,
    /// Labelled images a class, another subset for every seed; 0: all.
    pub labels_per_class: usize,
    /// The name of another fine-tuning that this one goes on from, whatever its classes: the paper's intermediate fine-tuning. It runs even
    /// if it is no column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub after: Option<String>,
    /// Its own training images with labels, in place of `data.train`. With other classes it cannot be a column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub data: Option<DataSpec>,
    /// Image height and width, if not those of what it starts from: positions are then interpolated (the paper's 336 pixels after 224).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if, with = "Option<[usize; 2]>", inner(range(min = 1)))]
    pub img_size: Option<(usize, usize)>,
    /// How pretrained encoders are fine-tuned.
    pub train: Supervised,
    /// How encoders with random weights are trained: they need more of it.
    pub from_scratch: Supervised,
}

impl TableConfig {
    /// Refuses what cannot be run before anything is; `samples` training images of so many `classes`.
    pub fn check(&self, samples: usize, classes: usize) -> Result<(), Error> {
        let usage = |why: String| Err(Error::Usage(why));
        if self.seeds.is_empty() {
            return usage("seeds: at least one is needed".into());
        }
        if let Some(seed) = self.seeds.iter().enumerate().find_map(|(i, s)| self.seeds[..i].contains(s).then_some(s)) {
            return usage(format!("seeds: {seed} stands there twice"));
        }
        self.student.check().map_err(|e| Error::Usage(format!("student: {e}")))?;
        distinct("teachers", self.teachers.iter().map(|t| &t.name))?;
        let slugs: Vec<String> = self.teachers.iter().map(|t| slug(&t.name)).collect();
        if let Some(i) = (0..slugs.len()).find(|&i| slugs[i].is_empty() || slugs[..i].contains(&slugs[i])) {
            return usage(format!("teachers: `{}` gives no file name of its own: use other letters or digits", self.teachers[i].name));
        }
        distinct("fine_tune", self.fine_tune.iter().map(|f| &f.name))?;
        distinct("columns", self.columns.iter())?;
        for teacher in &self.teachers {
            let at = format!("teachers.{}", teacher.name);
            teacher.model.check().map_err(|e| Error::Usage(format!("{at}: {e}")))?;
            let student = self.student_of(teacher);
            student.check().map_err(|e| Error::Usage(format!("{at}.student: {e}")))?;
            for (key, model) in [("model", &teacher.model), ("student", student)] {
                if model.img_size() != self.student.img_size() || model.in_chans() != self.student.in_chans() {
                    return usage(format!("{at}.{key}.img_size and in_chans must equal the student's: all models see the same view"));
                }
            }
            match &teacher.pretrain {
                Some(pretrain) => pretrain.check(&format!("{at}.pretrain"), &teacher.model.clone().whole(), samples)?,
                None if teacher.weights.is_none() => return usage(format!("{at}: either pretrain or weights is needed")),
                None if teacher.train_on_epochs > 0 => return usage(format!("{at}.train_on_epochs: needs pretrain, which says how")),
                None => {}
            }
            if teacher.train_on_epochs > MOST_EPOCHS {
                return usage(format!("{at}.train_on_epochs: {} is more than {MOST_EPOCHS}", teacher.train_on_epochs));
            }
        }
        distinct("ensembles", self.ensembles.iter().map(|e| &e.name).chain(self.teachers.iter().map(|t| &t.name)))?;
        self.ensembles.iter().try_for_each(|e| e.check(&self.teachers))?;
        self.gains.iter().try_for_each(|g| g.check(&self.teachers))?;
        self.check_views()?;
        for (i, column) in self.fine_tune.iter().enumerate() {
            if column.name.contains([',', '"']) || [PROBE_CLS, PROBE_AVG, KNN, "label"].contains(&column.name.as_str()) {
                return usage(format!("fine_tune: `{}` cannot be a name", column.name));
            }
            let same = |other: &&FineTune| {
                let of = |f: &FineTune| (f.labels_per_class, f.img_size, f.after.clone(), f.data.clone());
                (&other.train, &other.from_scratch, of(other)) == (&column.train, &column.from_scratch, of(column))
            };
            if let Some(other) = self.fine_tune[..i].iter().find(same) {
                return usage(format!("fine_tune: `{}` is the same as `{}`", column.name, other.name));
            }
            for model in self.models() {
                let at = |e| Error::Usage(format!("fine_tune.{}: {e}", column.name));
                fine_tuned_model(model, column, &column.train, classes).check().map_err(at)?;
            }
            if column.data.is_none() {
                column.check_recipes(samples, classes)?;
            }
        }
        self.check_chains()?;
        let own = self.teachers.iter().filter_map(|t| Some((format!("teachers.{}.normalise", t.name), t.normalise.as_ref()?)));
        for (at, normalise) in std::iter::once(("data.normalise".to_string(), &self.data.normalise)).chain(own) {
            for (key, n) in [("mean", normalise.mean.len()), ("std", normalise.std.len())] {
                if n != self.student.in_chans() {
                    return usage(format!("{at}.{key}: {n} values for {} channels", self.student.in_chans()));
                }
            }
            if let Some(s) = normalise.std.iter().find(|s| !(**s > 0.0 && s.is_finite())) {
                return usage(format!("{at}.std: {s} must be positive"));
            }
        }
        if let Some(crop) = self.data.evaluation_crop.filter(|crop| !(*crop > 0.0 && *crop <= 1.0)) {
            return usage(format!("data.evaluation_crop: {crop} is not above 0 and at most 1"));
        }
        let known = |c: &str| [PROBE_CLS, PROBE_AVG, KNN].contains(&c) || self.fine_tune.iter().any(|f| f.name == c);
        if let Some(column) = self.columns.iter().find(|c| !known(c)) {
            let names: Vec<&str> = self.fine_tune.iter().map(|f| f.name.as_str()).chain([PROBE_CLS, PROBE_AVG, KNN]).collect();
            return usage(format!("columns: no measure `{column}`; there are {}", names.join(", ")));
        }
        let probes = |c: &String| *c == PROBE_CLS || *c == PROBE_AVG || *c == KNN;
        for (table, there) in [("probe", self.probe.is_some()), ("knn", self.knn.is_some())] {
            if let Some(column) = self.columns.iter().find(|c| probes(c)).filter(|_| !there) {
                return usage(format!("columns: `{column}` needs a table [{table}]"));
            }
        }
        if self.columns.iter().any(|c| c == PROBE_CLS) && self.models().all(|m| !m.cls_token()) {
            return usage(format!("columns: {PROBE_CLS}: no model here has a CLS token"));
        }
        if self.distil.objective.target == Target::Logits
            && let Some(t) = self.teachers.iter().find(|t| {
                t.weights.is_none() && matches!(t.pretrain, Some(Pretrain::Dino { .. } | Pretrain::Mae { .. } | Pretrain::Clip { .. }))
            })
        {
            return usage(format!("distil.objective.target: teacher `{}` has no classifier to give logits", t.name));
        }
        self.distil.recipe.check("distil", samples)?;
        let rates = [("teacher", self.distil.teacher_drop_path_rate), ("student", self.distil.student_drop_path_rate)];
        if let Some((whose, rate)) = rates.iter().find(|(_, rate)| !(0.0..1.0).contains(rate)) {
            return usage(format!("distil.{whose}_drop_path_rate: {rate} is not in 0..1"));
        }
        self.probe.iter().try_for_each(ProbeConfig::check)?;
        self.knn.iter().try_for_each(Knn::check)
    }

    /// Views and mixing are refused here, not when their stage begins.
    fn check_views(&self) -> Result<(), Error> {
        let size = self.student.img_size();
        let usable = |at: String, views: &Views, size: (usize, usize)| match views.augment(size, &self.data.normalise) {
            Ok(_) => Ok(()),
            Err(e) => Err(Error::Usage(format!("{at}.views: {e}"))),
        };
        let mixes = |at: String, how: &Supervised| match fd_data::Mix::new(how.mix.clone()) {
            Ok(_) => usable(at, &how.views, size),
            Err(e) => Err(Error::Usage(format!("{at}.mix: {e}"))),
        };
        if self.data.workers > MOST_WORKERS {
            return Err(Error::Usage(format!("data.workers: {} is more than {MOST_WORKERS}", self.data.workers)));
        }
        for teacher in &self.teachers {
            let at = format!("teachers.{}.pretrain.train", teacher.name);
            match &teacher.pretrain {
                None => {}
                Some(Pretrain::Supervised { train }) => mixes(at, train)?,
                Some(Pretrain::Mae { train }) => usable(at, &train.views, size)?,
                Some(Pretrain::Clip { train }) => usable(at, &train.views, size)?,
                Some(Pretrain::Dino { train }) => {
                    for (i, crops) in train.crops.iter().enumerate() {
                        usable(format!("{at}.crops.{i}"), &crops.views, crops.size)?;
                    }
                }
            }
        }
        for column in &self.fine_tune {
            mixes(format!("fine_tune.{}.train", column.name), &column.train)?;
            mixes(format!("fine_tune.{}.from_scratch", column.name), &column.from_scratch)?;
        }
        usable("distil".into(), &self.distil.views, size)
    }

    /// Is anything measured, or learnt from labels?
    pub fn needs_labels(&self) -> bool {
        let reads = |t: &Teacher| matches!(t.pretrain, Some(Pretrain::Supervised { .. } | Pretrain::Clip { .. })) && t.weights.is_none();
        !self.columns.is_empty() || self.teachers.iter().any(reads) || self.distil.objective.target == Target::Logits
    }

    /// The student that learns from this teacher.
    pub fn student_of<'a>(&'a self, teacher: &'a Teacher) -> &'a ModelConfig {
        teacher.student.as_ref().unwrap_or(&self.student)
    }

    /// Every architecture that the table says, equal ones more than once: the student, the teachers, the students of their own.
    pub fn models(&self) -> impl Iterator<Item = &ModelConfig> {
        std::iter::once(&self.student).chain(self.teachers.iter().flat_map(|t| std::iter::once(&t.model).chain(&t.student)))
    }

    /// The training of a column, if it is a fine-tuning.
    pub fn fine_tuning(&self, column: &str) -> Option<&FineTune> {
        self.fine_tune.iter().find(|f| f.name == column)
    }

    /// A column's title.
    pub fn title(&self, column: &str) -> String {
        match column {
            PROBE_CLS => "linear probe, CLS".into(),
            PROBE_AVG => "linear probe, average".into(),
            KNN => {
                let of = match (self.models().any(|m| m.cls_token()), self.models().all(|m| m.cls_token())) {
                    (_, true) => "CLS",
                    (true, false) => "CLS or average",
                    (false, false) => "average",
                };
                format!("{}-NN, {of}", self.knn.as_ref().map_or(0, |knn| knn.k))
            }
            _ => self.fine_tuning(column).map_or(column.into(), |f| f.title.clone()),
        }
    }
}

fn distinct<'a>(key: &str, names: impl Iterator<Item = &'a String>) -> Result<(), Error> {
    let mut seen = std::collections::HashSet::new();
    for name in names {
        if name.is_empty() || name.contains(|c: char| c.is_control() || c == '/') {
            return Err(Error::Usage(format!("{key}: {name:?} cannot be a name")));
        }
        if !seen.insert(name) {
            return Err(Error::Usage(format!("{key}: `{name}` stands there twice")));
        }
    }
    Ok(())
}
