//! From a configuration to stages.

use std::collections::HashMap;
use std::sync::Arc;

use fd_model::ModelConfig;
use serde_json::Value;

use super::config::{KNN, PROBE_AVG, PROBE_CLS, TableConfig, Teacher};
use super::context::{Context, fits_memory};
use super::given::Given;
use super::lessons::Ensemble;
use super::plan::{MadeModel, PlannedRow, TablePlan};
use super::result::Kind;
use super::work::{Cost, Job, TableWork};
use crate::Error;
use crate::graph::{Graph, NodeId, Spec};
use crate::teachers::{self, Shipped, slug};

/// Builds the stages of tables into one graph.
pub struct Builder<'a> {
    /// The graph.
    pub graph: &'a mut Graph,
    /// Train teachers even where the binary has them.
    pub pretrain: bool,
    /// Are the stages only priced? Then given weights are not read, and memory may be more than there is.
    priced: bool,
    kinds: Vec<StageKind>,
    /// Where a kind's stages, told by what they are but for their seeds, are counted.
    by_identity: HashMap<String, usize>,
}

/// Stages that cost the same: they differ in their seeds, or in the weights that they start from.
#[derive(Clone, Debug)]
pub struct StageKind {
    /// What they do, such as `distil`, or the name of a fine-tuning.
    pub what: String,
    /// What they do it to: rows of the table, teachers.
    pub of: Vec<String>,
    /// What each of them costs.
    pub cost: Cost,
    /// How many there are in the graph.
    pub stages: usize,
}

/// A row while its cells are put together.
struct Subject<'a> {
    name: String,
    kind: Kind,
    teacher: Option<&'a Teacher>,
    model: &'a ModelConfig,
    from_scratch: bool,
}

impl<'a> Builder<'a> {
    /// Into this graph.
    pub fn new(graph: &'a mut Graph, pretrain: bool) -> Self {
        Builder { graph, pretrain, priced: false, kinds: vec![], by_identity: HashMap::new() }
    }

    /// For prices only: every teacher is pretrained or given, given weights are not read, and stages may need more memory than the
    /// machine has.
    pub fn priced(graph: &'a mut Graph) -> Self {
        Builder { priced: true, ..Builder::new(graph, true) }
    }

    /// The kinds of stages added so far, those without training among them.
    pub fn kinds(&self) -> &[StageKind] {
        &self.kinds
    }

    /// Adds all stages of a table.
    ///
    /// # Errors
    /// Models, objectives and recipes that do not go together; more memory than the machine has.
    pub fn table(&mut self, context: &Arc<Context>) -> Result<TablePlan, Error> {
        let mut plan = TablePlan::new(context);
        let c = &context.config;
        for teacher in &c.teachers {
            let (weights, whole) = (self.teacher(context, teacher, &mut plan)?, teacher.model.clone().whole());
            plan.teachers.push((teacher.name.clone(), weights));
            let named = Some(teacher.name.as_str());
            plan.encoders.push((MadeModel::encoder(&slug(&teacher.name), (&teacher.name, Kind::Before), named, None), weights));
            let (mut on, mut students) = (vec![], vec![]);
            for &seed in &c.seeds {
                if let Some(pretrain) = teacher.pretrain.as_ref().filter(|_| teacher.train_on_epochs > 0 && !c.columns.is_empty()) {
                    let how = Box::new(pretrain.lasting(teacher.train_on_epochs));
                    let job = Job::Pretrain { model: whole.clone(), how, on: true };
                    let id = self.add(context, job, seed, &[weights], ("train-on", &teacher.name))?;
                    let (row, file) = (format!("{} trained on", teacher.name), format!("{}-trained-on", slug(&teacher.name)));
                    plan.encoders.push((MadeModel::encoder(&file, (&row, Kind::TrainedOn), named, Some(seed)), id));
                    on.push(id);
                }
                let student = self.student(context, teacher, weights, seed)?;
                plan.encoders.push((taught(&teacher.name, named, seed), student));
                students.push(student);
            }
            let subject = |suffix: &str, kind, model| Subject {
                name: format!("{}{suffix}", teacher.name),
                kind,
                teacher: Some(teacher),
                model,
                from_scratch: false,
            };
            let before = vec![weights; c.seeds.len()];
            plan.rows.push(self.row(context, &subject("", Kind::Before, &whole), &before)?);
            if !on.is_empty() {
                plan.rows.push(self.row(context, &subject(" trained on", Kind::TrainedOn, &whole), &on)?);
            }
            plan.rows.push(self.row(context, &subject(" + FD", Kind::After, c.student_of(teacher)), &students)?);
        }
        for ensemble in &c.ensembles {
            let row = self.ensemble(context, ensemble, &mut plan)?;
            plan.rows.push(row);
        }
        if !c.columns.is_empty() {
            self.controls(context, &mut plan)?;
        }
        Ok(plan)
    }

    /// Adds what a sweep asks of a table: every teacher's students, a row each, and nothing else.
    ///
    /// # Errors
    /// As [`Builder::table`]; a column that does not apply to a student.
    pub fn students(&mut self, context: &Arc<Context>) -> Result<TablePlan, Error> {
        let mut plan = TablePlan::new(context);
        let c = &context.config;
        for teacher in &c.teachers {
            let weights = self.teacher(context, teacher, &mut plan)?;
            let mut students = vec![];
            for &seed in &c.seeds {
                let student = self.student(context, teacher, weights, seed)?;
                plan.encoders.push((taught(&teacher.name, Some(&teacher.name), seed), student));
                students.push(student);
            }
            let name = format!("{} + FD", teacher.name);
            let model = c.student_of(teacher);
            if c.columns.iter().any(|column| column == PROBE_CLS) && !model.cls_token() {
                return Err(Error::Usage(format!("columns: {PROBE_CLS}: the student of `{}` has no CLS token", teacher.name)));
            }
            let subject = Subject { name, kind: Kind::After, teacher: Some(teacher), model, from_scratch: false };
            plan.rows.push(self.row(context, &subject, &students)?);
        }
        Ok(plan)
    }

    fn student(&mut self, context: &Arc<Context>, teacher: &Teacher, weights: NodeId, seed: u64) -> Result<NodeId, Error> {
        let c = &context.config;
        let job = Job::Distil { student: Box::new(c.student_of(teacher).clone()), lessons: vec![c.lesson(teacher)] };
        self.add(context, job, seed, &[weights], ("distil", &teacher.name))
    }

    /// The students of several teachers together.
    fn ensemble(&mut self, context: &Arc<Context>, ensemble: &Ensemble, plan: &mut TablePlan) -> Result<PlannedRow, Error> {
        let c = &context.config;
        let (members, lessons): (Vec<usize>, Vec<_>) = c.lessons(ensemble).into_iter().unzip();
        let weights: Vec<NodeId> = members.iter().map(|&i| plan.teachers[i].1).collect();
        let mut students = vec![];
        for &seed in &c.seeds {
            let job = Job::Distil { student: Box::new(c.student.clone()), lessons: lessons.clone() };
            let student = self.add(context, job, seed, &weights, ("distil", &ensemble.name))?;
            plan.encoders.push((taught(&ensemble.name, None, seed), student));
            students.push(student);
        }
        let name = format!("{} + FD", ensemble.name);
        self.row(context, &Subject { name, kind: Kind::After, teacher: None, model: &c.student, from_scratch: false }, &students)
    }

    fn controls(&mut self, context: &Arc<Context>, plan: &mut TablePlan) -> Result<(), Error> {
        let c = &context.config;
        for (whose, model) in architectures(c).into_iter().filter(|_| c.controls.random_weights()) {
            let of = format!("{whose} architecture");
            let name = format!("random weights, {of}");
            let random = |&seed: &u64| self.add(context, Job::Random { model: model.clone() }, seed, &[], ("random weights,", &of));
            let encoders = c.seeds.iter().map(random).collect::<Result<Vec<_>, _>>()?;
            let subject = Subject { name: name.clone(), kind: Kind::Control, teacher: None, model: &model, from_scratch: true };
            plan.rows.push(self.row(context, &subject, &encoders)?);
        }
        let probes = |column: &String| [PROBE_CLS, PROBE_AVG, KNN].contains(&column.as_str());
        if c.controls.raw_pixels() && c.columns.iter().any(probes) {
            let pixels = c.seeds.iter().map(|&s| self.add(context, Job::Pixels, s, &[], ("probe", "raw pixels")));
            let pixels = pixels.collect::<Result<Vec<_>, _>>()?;
            let cells = c.columns.iter().map(|column| probes(column).then(|| pixels.clone())).collect();
            plan.rows.push(PlannedRow { name: "raw pixels".into(), kind: Kind::Control, teacher: None, cells });
        }
        Ok(())
    }

    /// The stage that hands out a teacher's weights: the user's, shipped ones, or those of a pretraining.
    fn teacher(&mut self, context: &Arc<Context>, teacher: &Teacher, plan: &mut TablePlan) -> Result<NodeId, Error> {
        let (model, title) = (teacher.model.clone().whole(), ("pretrain", teacher.name.as_str()));
        if let Some(path) = &teacher.weights {
            let job = if self.priced {
                Job::Shipped { model, bytes: vec![].into() }
            } else {
                Job::Given(Box::new(Given::look(context, teacher, path)?))
            };
            return self.add(context, job, teacher.seed, &[], ("given", &teacher.name));
        }
        let Some(pretrain) = teacher.pretrain.clone() else {
            return Err(Error::Usage(format!("teachers.{}: either pretrain or weights is needed", teacher.name)));
        };
        let job = Job::Pretrain { model: model.clone(), how: Box::new(pretrain), on: false };
        let work = TableWork { context: context.clone(), job: job.clone(), seed: teacher.seed };
        let identity = work.identity();
        let made_so = |entry: &Shipped| self.graph.key(&identity, &[], &entry.simd).as_str() == entry.key;
        let Some((file, entry)) = teachers::shipped().into_iter().find(|(_, entry)| made_so(entry)) else {
            return self.add(context, job, teacher.seed, &[], title);
        };
        if self.pretrain {
            let id = self.add(context, job, teacher.seed, &[], title)?;
            plan.shipped.push((teacher.name.clone(), entry, id));
            return Ok(id);
        }
        let bytes = teachers::bytes(&file).ok_or_else(|| Error::Usage(format!("the shipped teacher {file} is not in this binary")))?;
        let work = TableWork { context: context.clone(), job: Job::Shipped { model, bytes: bytes.into() }, seed: teacher.seed };
        let spec = Spec {
            slug: slug(&format!("shipped {}", teacher.name)),
            title: format!("shipped {}", teacher.name),
            identity,
            simd: Some(entry.simd.clone()),
            inputs: vec![],
            steps: 0,
            flops: 0.0,
            memory: 0,
            work: Box::new(work),
        };
        let id = self.graph.add(spec);
        plan.shipped.push((teacher.name.clone(), entry, id));
        Ok(id)
    }

    fn row(&mut self, context: &Arc<Context>, subject: &Subject, encoders: &[NodeId]) -> Result<PlannedRow, Error> {
        let c = &context.config;
        let mut cells = vec![];
        for column in &c.columns {
            if column == PROBE_CLS && !subject.model.cls_token() {
                cells.push(None);
                continue;
            }
            let mut stages = vec![];
            for (&encoder, &seed) in encoders.iter().zip(&c.seeds) {
                stages.push(match c.fine_tuning(column) {
                    Some(f) => {
                        let of = (subject.name.as_str(), subject.model, subject.from_scratch);
                        self.fine_tuning(context, f, of, encoder, seed)?
                    }
                    None => {
                        // A frozen teacher sees images as it was trained with them.
                        let normalise = subject.teacher.filter(|_| subject.kind != Kind::After).and_then(|t| t.normalise.clone());
                        let job = Job::Probe { model: subject.model.clone(), normalise };
                        self.add(context, job, seed, &[encoder], ("probe", &subject.name))?
                    }
                });
            }
            cells.push(Some(stages));
        }
        let teacher = subject.teacher.map(|t| t.name.clone());
        Ok(PlannedRow { name: subject.name.clone(), kind: subject.kind, teacher, cells })
    }

    /// Adds a stage that does `what` to `of`.
    pub(super) fn add(
        &mut self,
        context: &Arc<Context>,
        job: Job,
        seed: u64,
        inputs: &[NodeId],
        (what, of): (&str, &str),
    ) -> Result<NodeId, Error> {
        let work = TableWork { context: context.clone(), job, seed };
        let (identity, title) = (work.identity(), format!("{what} {of}"));
        let kind = self.kind(&work, &identity, (what, of), &title)?;
        let Cost { steps, flops, bytes: memory } = self.kinds[kind].cost;
        let (slug, title) = (format!("{}-seed{seed}", slug(&title)), format!("{title}, seed {seed}"));
        let (inputs, work, before) = (inputs.to_vec(), Box::new(work), self.graph.ids().len());
        let id =
            self.graph.add(Spec { slug, title, identity, simd: Some(context.device.arithmetic()), inputs, steps, flops, memory, work });
        self.kinds[kind].stages += self.graph.ids().len() - before;
        Ok(id)
    }

    /// The stage's kind: stages that differ in their seed cost the same.
    fn kind(&mut self, work: &TableWork, identity: &Value, (what, of): (&str, &str), title: &str) -> Result<usize, Error> {
        let mut seedless = identity.clone();
        seedless.as_object_mut().map(|o| o.remove("seed"));
        let seedless = seedless.to_string();
        let kind = match self.by_identity.get(&seedless) {
            Some(kind) => *kind,
            None => {
                let cost = work.cost()?;
                if !self.priced {
                    fits_memory(title, cost.bytes)?;
                }
                self.kinds.push(StageKind { what: what.into(), of: vec![], cost, stages: 0 });
                self.by_identity.insert(seedless, self.kinds.len() - 1);
                self.kinds.len() - 1
            }
        };
        let named = &mut self.kinds[kind].of;
        if named.iter().all(|name| name != of) {
            named.push(of.into());
        }
        Ok(kind)
    }
}

/// The student of a teacher, or of an ensemble.
fn taught(name: &str, teacher: Option<&str>, seed: u64) -> MadeModel {
    MadeModel::encoder(&format!("{}-student", slug(name)), (&format!("{name} + FD"), Kind::After), teacher, Some(seed))
}

/// Every architecture once, students first, and whose it is.
fn architectures(c: &TableConfig) -> Vec<(String, ModelConfig)> {
    let mut models: Vec<(String, ModelConfig)> = vec![];
    let mut add = |whose: String, model: ModelConfig| {
        if models.iter().all(|(_, m)| *m != model) {
            models.push((whose, model));
        }
    };
    if !c.ensembles.is_empty() || c.teachers.iter().any(|t| t.student.is_none()) {
        add("student".into(), c.student.clone());
    }
    for teacher in &c.teachers {
        teacher.student.iter().for_each(|student| add(format!("{} student", teacher.name), student.clone()));
    }
    for teacher in &c.teachers {
        let whole = teacher.model.clone().whole();
        let alike = c.teachers.iter().filter(|t| t.model.clone().whole() == whole).count();
        add(if 2 * alike > c.teachers.len() { "teacher".into() } else { teacher.name.clone() }, whole);
    }
    models
}
