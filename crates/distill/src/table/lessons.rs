//! Who teaches a student: one teacher of the table, or several together.

use fd_data::schema::above_zero;
use fd_model::ModelConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config::{Distil, TableConfig, Teacher};
use crate::distillation::{Distillation, Lesson, Projector};
use crate::recipe::{Normalise, renormalise};
use crate::train::MOST_PARTS;
use crate::{Error, Objective, Target};

/// Teachers that teach one student together: one more row of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ensemble {
    /// Its name in the table, to which ` + FD` is added.
    pub name: String,
    /// Its teachers.
    pub members: Vec<Member>,
}

/// A teacher of an ensemble.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The teacher's name.
    pub teacher: String,
    /// Its part in the loss.
    #[schemars(transform = above_zero)]
    pub weight: f64,
    /// What stands between the widths, if not what `distil` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub projector: Option<Projector>,
    /// What is learnt from it, if not what `distil` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub objective: Option<Objective>,
}

impl Ensemble {
    /// Refuses what cannot be run; the message names the key.
    pub fn check(&self, teachers: &[Teacher]) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::Usage(format!("ensembles.{}: {why}", self.name)));
        if !(2..=MOST_PARTS).contains(&self.members.len()) {
            return refuse(format!("from 2 to {MOST_PARTS} members, not {}", self.members.len()));
        }
        for (i, member) in self.members.iter().enumerate() {
            if teachers.iter().all(|t| t.name != member.teacher) {
                let names: Vec<&str> = teachers.iter().map(|t| t.name.as_str()).collect();
                return refuse(format!("no teacher `{}`; there are {}", member.teacher, names.join(", ")));
            }
            if self.members[..i].iter().any(|m| m.teacher == member.teacher) {
                return refuse(format!("`{}` stands there twice", member.teacher));
            }
            if !(member.weight > 0.0 && member.weight.is_finite()) {
                return refuse(format!("the weight of `{}` must be positive, not {}", member.teacher, member.weight));
            }
        }
        Ok(())
    }
}

/// Teachers whose gain by distillation is compared with that of others: the paper's control is that a masked autoencoder gains less.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Gains {
    /// Teachers by name; their gains are averaged.
    pub of: Vec<String>,
    /// Those that they are compared with.
    pub against: Vec<String>,
}

impl Gains {
    /// Refuses teachers that the table does not have; the message names the key.
    pub fn check(&self, teachers: &[Teacher]) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::Usage(format!("gains: {why}")));
        let names = || self.of.iter().chain(&self.against);
        if self.of.is_empty() || self.against.is_empty() {
            return refuse("`of` and `against` need a teacher each".into());
        }
        if let Some(name) = names().find(|name| teachers.iter().all(|t| t.name != **name)) {
            let known: Vec<&str> = teachers.iter().map(|t| t.name.as_str()).collect();
            return refuse(format!("no teacher `{name}`; there are {}", known.join(", ")));
        }
        match names().enumerate().find(|(i, name)| names().take(*i).any(|n| n == *name)) {
            Some((_, name)) => refuse(format!("`{name}` stands there twice")),
            None => Ok(()),
        }
    }
}

impl TableConfig {
    /// Leaves out all other teachers, and what is said of them.
    ///
    /// # Errors
    /// A name that no teacher has.
    pub fn keep_teachers(&mut self, names: &[String]) -> Result<(), Error> {
        if let Some(name) = names.iter().find(|name| self.teachers.iter().all(|t| t.name != **name)) {
            let known: Vec<&str> = self.teachers.iter().map(|t| t.name.as_str()).collect();
            return Err(Error::Usage(format!("no teacher `{name}`; there are {}", known.join(", "))));
        }
        self.teachers.retain(|t| names.contains(&t.name));
        self.ensembles.retain(|e| e.members.iter().all(|m| names.contains(&m.teacher)));
        self.gains.retain(|g| g.of.iter().chain(&g.against).all(|teacher| names.contains(teacher)));
        Ok(())
    }

    /// What a student learns from one teacher.
    pub fn lesson(&self, teacher: &Teacher) -> Lesson {
        let mut lesson = Lesson::of(teacher.model.clone(), self.distil.projector, self.distil.objective);
        if let Some(own) = teacher.normalise.as_ref().filter(|own| **own != self.data.normalise) {
            lesson.renormalise = Some(between(&self.data.normalise, own).into());
        }
        lesson
    }

    /// What a student learns from an ensemble, teacher by teacher, with each teacher's place in the table.
    pub fn lessons(&self, ensemble: &Ensemble) -> Vec<(usize, Lesson)> {
        let of = |member: &Member| {
            let at = self.teachers.iter().position(|t| t.name == member.teacher)?;
            let lesson = self.lesson(&self.teachers[at]);
            let (projector, objective) = (member.projector.unwrap_or(lesson.projector), member.objective.unwrap_or(lesson.objective));
            Some((at, Lesson { projector, objective, weight: member.weight, ..lesson }))
        };
        ensemble.members.iter().filter_map(of).collect()
    }
}

/// (factor, term) of every channel from one normalisation to another.
fn between(from: &Normalise, to: &Normalise) -> Vec<(f64, f64)> {
    let pairs = |n: &Normalise| n.mean.iter().zip(&n.std).map(|(m, s)| (f64::from(*m), f64::from(*s))).collect::<Vec<_>>();
    pairs(from).into_iter().zip(pairs(to)).map(|(from, to)| renormalise(from, to)).collect()
}

/// The models of a distillation, with their drop paths; a target of logits gives student and teacher a classifier.
pub fn distillation(d: &Distil, student: &ModelConfig, lessons: &[Lesson], classes: usize) -> Result<Distillation, Error> {
    let logits = |l: &Lesson| l.objective.target == Target::Logits;
    let with_head = |model: &ModelConfig, rate: f64, head: bool| {
        let model = model.clone().with_drop_path(rate);
        if head { model.classifier(classes) } else { model }
    };
    let student = with_head(student, d.student_drop_path_rate, lessons.iter().any(logits));
    let of = |l: &Lesson| Lesson { teacher: with_head(&l.teacher, d.teacher_drop_path_rate, logits(l)), ..l.clone() };
    let lessons: Vec<Lesson> = lessons.iter().map(of).collect();
    Ok(Distillation::of(&student, &lessons)?.with_recompute(d.recompute))
}

/// What of the lessons determines the student, beside what `distil` says. One teacher on the common view is named by its model alone.
pub fn identity(config: &TableConfig, lessons: &[Lesson]) -> Value {
    match lessons {
        [one] if *one == Lesson::of(one.teacher.clone(), config.distil.projector, config.distil.objective) => json!(one.teacher),
        _ => {
            let of = |l: &Lesson| {
                let channels = l.renormalise.as_deref();
                json!({ "model": l.teacher, "projector": l.projector, "objective": l.objective, "weight": l.weight, "channels": channels })
            };
            lessons.iter().map(of).collect()
        }
    }
}
