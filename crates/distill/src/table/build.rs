//! From a configuration to stages, and from finished stages to the table.

use std::collections::HashMap;
use std::sync::Arc;

use fd_model::ModelConfig;
use serde_json::Value;

use super::config::{KNN, PROBE_AVG, PROBE_CLS, Teacher};
use super::context::{Context, fits_memory};
use super::given::Given;
use super::lessons::Ensemble;
use super::result::{Cell, Column, Kind, PaperFigure, Row, TableResult};
use super::work::{Cost, Job, PREDICTIONS, TableWork};
use crate::Error;
use crate::graph::{Graph, NodeId, Spec, Store};
use crate::teachers::{self, Shipped, slug};

/// What a table asks of a graph: for every row, column and seed, the stage that predicts the test images.
pub struct TablePlan {
    context: Arc<Context>,
    rows: Vec<PlannedRow>,
    /// Teachers and the stages that hand out their weights.
    pub teachers: Vec<(String, NodeId)>,
    /// Teachers that the binary has, with the stage that stands for them.
    pub shipped: Vec<(String, Shipped, NodeId)>,
    /// Weights worth a copy under a plain name: file name, stage.
    pub encoders: Vec<(String, NodeId)>,
}

struct PlannedRow {
    name: String,
    kind: Kind,
    teacher: Option<String>,
    /// By column, then by seed.
    cells: Vec<Option<Vec<NodeId>>>,
}

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
            let weights = self.teacher(context, teacher, &mut plan)?;
            plan.teachers.push((teacher.name.clone(), weights));
            plan.encoders.push((teachers::file_name(&teacher.name), weights));
            let (mut on, mut students) = (vec![], vec![]);
            for &seed in &c.seeds {
                if let Some(pretrain) = teacher.pretrain.as_ref().filter(|_| teacher.train_on_epochs > 0 && !c.columns.is_empty()) {
                    let how = Box::new(pretrain.lasting(teacher.train_on_epochs));
                    let job = Job::Pretrain { model: teacher.model.clone(), how, on: true };
                    on.push(self.add(context, job, seed, &[weights], ("train-on", &teacher.name))?);
                }
                let student = self.student(context, teacher, weights, seed)?;
                plan.encoders.push((format!("{}-student-seed{seed}.safetensors", slug(&teacher.name)), student));
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
            plan.rows.push(self.row(context, &subject("", Kind::Before, &teacher.model), &before)?);
            if !on.is_empty() {
                plan.rows.push(self.row(context, &subject(" trained on", Kind::TrainedOn, &teacher.model), &on)?);
            }
            plan.rows.push(self.row(context, &subject(" + FD", Kind::After, &c.student), &students)?);
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

    /// Adds what a sweep asks of a table: every teacher's students. By teacher, then column: the stages that predict, one a seed.
    ///
    /// # Errors
    /// As [`Builder::table`].
    pub fn students(&mut self, context: &Arc<Context>) -> Result<Vec<Vec<Vec<NodeId>>>, Error> {
        let mut plan = TablePlan::new(context);
        let c = &context.config;
        let mut all = vec![];
        for teacher in &c.teachers {
            let weights = self.teacher(context, teacher, &mut plan)?;
            let students = c.seeds.iter().map(|&s| self.student(context, teacher, weights, s)).collect::<Result<Vec<_>, _>>()?;
            let name = format!("{} + FD", teacher.name);
            let subject = Subject { name, kind: Kind::After, teacher: Some(teacher), model: &c.student, from_scratch: false };
            all.push(self.row(context, &subject, &students)?.cells.into_iter().flatten().collect());
        }
        Ok(all)
    }

    fn student(&mut self, context: &Arc<Context>, teacher: &Teacher, weights: NodeId, seed: u64) -> Result<NodeId, Error> {
        let job = Job::Distil { lessons: vec![context.config.lesson(teacher)] };
        self.add(context, job, seed, &[weights], ("distil", &teacher.name))
    }

    /// The students of several teachers together.
    fn ensemble(&mut self, context: &Arc<Context>, ensemble: &Ensemble, plan: &mut TablePlan) -> Result<PlannedRow, Error> {
        let c = &context.config;
        let (members, lessons): (Vec<usize>, Vec<_>) = c.lessons(ensemble).into_iter().unzip();
        let weights: Vec<NodeId> = members.iter().map(|&i| plan.teachers[i].1).collect();
        let mut students = vec![];
        for &seed in &c.seeds {
            let job = Job::Distil { lessons: lessons.clone() };
            let student = self.add(context, job, seed, &weights, ("distil", &ensemble.name))?;
            plan.encoders.push((format!("{}-student-seed{seed}.safetensors", slug(&ensemble.name)), student));
            students.push(student);
        }
        let name = format!("{} + FD", ensemble.name);
        self.row(context, &Subject { name, kind: Kind::After, teacher: None, model: &c.student, from_scratch: false }, &students)
    }

    fn controls(&mut self, context: &Arc<Context>, plan: &mut TablePlan) -> Result<(), Error> {
        let c = &context.config;
        let mut models: Vec<(String, &ModelConfig)> = vec![("student".into(), &c.student)];
        for teacher in &c.teachers {
            if models.iter().all(|(_, m)| **m != teacher.model) {
                let one = c.teachers.iter().all(|t| t.model == teacher.model);
                models.push((if one { "teacher".into() } else { teacher.name.clone() }, &teacher.model));
            }
        }
        for (whose, model) in models {
            let of = format!("{whose} architecture");
            let name = format!("random weights, {of}");
            let random = |&seed: &u64| self.add(context, Job::Random { model: model.clone() }, seed, &[], ("random weights,", &of));
            let encoders = c.seeds.iter().map(random).collect::<Result<Vec<_>, _>>()?;
            let subject = Subject { name: name.clone(), kind: Kind::Control, teacher: None, model, from_scratch: true };
            plan.rows.push(self.row(context, &subject, &encoders)?);
        }
        let probes = |column: &String| [PROBE_CLS, PROBE_AVG, KNN].contains(&column.as_str());
        if c.columns.iter().any(probes) {
            let pixels = c.seeds.iter().map(|&s| self.add(context, Job::Pixels, s, &[], ("probe", "raw pixels")));
            let pixels = pixels.collect::<Result<Vec<_>, _>>()?;
            let cells = c.columns.iter().map(|column| probes(column).then(|| pixels.clone())).collect();
            plan.rows.push(PlannedRow { name: "raw pixels".into(), kind: Kind::Control, teacher: None, cells });
        }
        Ok(())
    }

    /// The stage that hands out a teacher's weights: the user's, shipped ones, or those of a pretraining.
    fn teacher(&mut self, context: &Arc<Context>, teacher: &Teacher, plan: &mut TablePlan) -> Result<NodeId, Error> {
        let (model, title) = (teacher.model.clone(), ("pretrain", teacher.name.as_str()));
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
            let mut stages = vec![];
            for (&encoder, &seed) in encoders.iter().zip(&c.seeds) {
                let model = subject.model.clone();
                let (job, what) = match c.fine_tuning(column) {
                    Some(f) => (Job::FineTune { model, column: Box::new(f.clone()), from_scratch: subject.from_scratch }, column.as_str()),
                    None => (Job::Probe { model }, "probe"),
                };
                stages.push(self.add(context, job, seed, &[encoder], (what, &subject.name))?);
            }
            cells.push(Some(stages));
        }
        let teacher = subject.teacher.map(|t| t.name.clone());
        Ok(PlannedRow { name: subject.name.clone(), kind: subject.kind, teacher, cells })
    }

    /// Adds a stage that does `what` to `of`.
    fn add(&mut self, context: &Arc<Context>, job: Job, seed: u64, inputs: &[NodeId], (what, of): (&str, &str)) -> Result<NodeId, Error> {
        let work = TableWork { context: context.clone(), job, seed };
        let (identity, title) = (work.identity(), format!("{what} {of}"));
        let kind = self.kind(&work, &identity, (what, of), &title)?;
        let Cost { steps, flops, bytes: memory } = self.kinds[kind].cost;
        let (slug, title) = (format!("{}-seed{seed}", slug(&title)), format!("{title}, seed {seed}"));
        let (inputs, work, before) = (inputs.to_vec(), Box::new(work), self.graph.ids().len());
        let id = self.graph.add(Spec { slug, title, identity, simd: None, inputs, steps, flops, memory, work });
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

impl TablePlan {
    fn new(context: &Arc<Context>) -> Self {
        TablePlan { context: context.clone(), rows: vec![], teachers: vec![], shipped: vec![], encoders: vec![] }
    }

    /// The stages that the table is read from.
    pub fn targets(&self) -> Vec<NodeId> {
        let cells = self.rows.iter().flat_map(|r| r.cells.iter().flatten().flatten().copied());
        cells.chain(self.encoders.iter().map(|(_, id)| *id)).collect()
    }

    /// The table, once its stages are done.
    ///
    /// # Errors
    /// A stage's file that cannot be read.
    pub fn result(&self, graph: &Graph, store: &Store) -> Result<TableResult, Error> {
        let c = &self.context.config;
        let rows = self.rows.iter().map(|row| self.finished_row(row, graph, store)).collect::<Result<Vec<_>, Error>>()?;
        let mut result = TableResult {
            name: c.name.clone(),
            data: self.context.data(),
            test_images: self.context.test.len(),
            seeds: c.seeds.clone(),
            columns: c.columns.iter().map(|key| Column { key: key.clone(), title: c.title(key) }).collect(),
            rows,
            comparisons: vec![],
            paper: vec![],
        };
        for teacher in &c.teachers {
            let find = |kind| self.rows.iter().position(|r| r.kind == kind && r.teacher.as_ref() == Some(&teacher.name));
            let (before, on, after) = (find(Kind::Before), find(Kind::TrainedOn), find(Kind::After));
            for (label, from, to) in [("FD", before, after), ("training on", before, on), ("FD against training on", on, after)] {
                if let (Some(from), Some(to)) = (from, to) {
                    result.compare(format!("{}: {label}", teacher.name), from, to);
                }
            }
        }
        for ensemble in &c.ensembles {
            let row = |name: &str| self.rows.iter().position(|r| r.name == format!("{name} + FD"));
            for member in &ensemble.members {
                if let (Some(from), Some(to)) = (row(&member.teacher), row(&ensemble.name)) {
                    result.compare(format!("{}: against FD from {} alone", ensemble.name, member.teacher), from, to);
                }
            }
        }
        let named = |row: &str| self.rows.iter().any(|r| r.name == row);
        let paper = c.paper.iter().filter(|p| named(&p.row));
        result.paper = paper
            .map(|p| PaperFigure {
                row: p.row.clone(),
                model: p.model.clone(),
                measure: p.measure.clone(),
                value: p.value,
                certainty: p.certainty,
            })
            .collect();
        Ok(result)
    }

    fn finished_row(&self, row: &PlannedRow, graph: &Graph, store: &Store) -> Result<Row, Error> {
        let c = &self.context.config;
        let mut cells = vec![];
        for (column, stages) in c.columns.iter().zip(&row.cells) {
            cells.push(stages.as_ref().map(|stages| cell(stages, column, graph, store)).transpose()?);
        }
        Ok(Row { name: row.name.clone(), teacher: row.teacher.clone(), kind: row.kind, cells })
    }
}

/// The accuracies and hits of one measure, one a seed.
pub fn cell(stages: &[NodeId], column: &str, graph: &Graph, store: &Store) -> Result<Cell, Error> {
    let mut cell = Cell { accuracy: vec![], hits: vec![] };
    for &id in stages {
        let node = graph.node(id);
        let text = store.read(node, PREDICTIONS)?;
        let damaged = || Error::File { path: store.dir(node).join(PREDICTIONS), why: format!("holds no predictions of `{column}`") };
        let text = String::from_utf8(text).map_err(|_| damaged())?;
        let mut lines = text.lines();
        let at = lines.next().and_then(|header| header.split(',').skip(1).position(|name| name == column)).ok_or_else(damaged)?;
        let hit = |line: &str| {
            let mut fields = line.split(',');
            let label = fields.next()?;
            Some(fields.nth(at)? == label)
        };
        let hits: Vec<bool> = lines.map(|line| hit(line).ok_or_else(damaged)).collect::<Result<_, _>>()?;
        cell.accuracy.push(100.0 * hits.iter().filter(|h| **h).count() as f64 / hits.len().max(1) as f64);
        cell.hits.push(hits.into());
    }
    Ok(cell)
}
