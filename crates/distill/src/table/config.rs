//! What a table is made of: data, models, the recipe of every stage.

use fd_data::DataSpec;
use fd_model::{Init, VitConfig};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::Objective;
use crate::distillation::{Engine, Projector};
use crate::probe::ProbeConfig;
use crate::recipe::{Normalise, Recipe, Supervised, Views};

/// A table's configuration: `experiments/tables/*.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableConfig {
    /// Its name; results go to `runs/<name>/`.
    pub name: String,
    /// One run of everything for each.
    pub seeds: Vec<u64>,
    /// Images.
    pub data: Data,
    /// The teacher's architecture.
    pub teacher: VitConfig,
    /// The student's architecture.
    pub student: VitConfig,
    /// How models start.
    pub init: Init,
    /// Training of the supervised teacher.
    pub pretrain: Supervised,
    /// Feature distillation.
    pub distil: Distil,
    /// Fine-tuning, the same for every row.
    pub fine_tune: Supervised,
    /// The linear probe, the same for every row.
    pub probe: ProbeConfig,
}

/// Which images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Training images, with labels.
    pub train: DataSpec,
    /// Test images, with labels.
    pub test: DataSpec,
    /// Training images a class to use; 0: all.
    pub train_per_class: usize,
    /// Test images a class to use; 0: all.
    pub test_per_class: usize,
    /// Statistics of the channels.
    pub normalise: Normalise,
    /// Threads that prepare batches ahead.
    pub workers: usize,
}

/// Feature distillation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    pub teacher_drop_path_rate: f64,
    /// Drop path of the student's last block.
    pub student_drop_path_rate: f64,
}

impl TableConfig {
    /// Refuses what cannot be run before anything is.
    pub fn check(&self) -> Result<(), Error> {
        if self.seeds.is_empty() {
            return Err(Error::Usage("seeds: at least one is needed".into()));
        }
        self.teacher.check()?;
        self.student.check()?;
        if self.teacher.img_size != self.student.img_size || self.teacher.in_chans != self.student.in_chans {
            return Err(Error::Usage("teacher.img_size and in_chans must equal the student's: both see the same view".into()));
        }
        for (key, n) in [("mean", self.data.normalise.mean.len()), ("std", self.data.normalise.std.len())] {
            if n != self.teacher.in_chans {
                return Err(Error::Usage(format!("data.normalise.{key}: {n} values for {} channels", self.teacher.in_chans)));
            }
        }
        Ok(())
    }
}
