//! Whole stages through the graph: equal bits over threads and jobs, accumulation, resuming, objectives, reuse of what is done.

mod stages;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fd_compute::Device;
use fd_data::{Loader, LoaderConfig};
use fd_distill::dino::{DinoLearner, Targets};
use fd_distill::distillation::{Engine, Projector};
use fd_distill::graph::{Done, Graph, NodeId, Options, Ran, Spec, Store};
use fd_distill::interrupt::Signal;
use fd_distill::pretrain::Pretrain;
use fd_distill::stage_log::Metrics;
use fd_distill::table::{Builder, Context, Job, TableConfig, TablePlan, TableWork};
use fd_distill::train::{Keep, Stage, StepReport, Watch};
use fd_distill::{Error, FeatureDistance, Normalisation, Objective, Target};
use fd_model::{Checkpoint, Init, ModelConfig, VitConfig};
use stages::{Scratch, Silent};

/// The smoke table, smaller still: one column of each kind.
fn config() -> TableConfig {
    let text = include_str!("../../../experiments/tables/smoke.toml");
    let mut config: TableConfig = toml::from_str(text).expect("the smoke table");
    (config.data.train_per_class, config.data.test_per_class) = (20, 5);
    config.columns = vec!["fine-tune-200".into(), "probe-avg".into()];
    let mut recipes = vec![&mut config.distil.recipe];
    for column in &mut config.fine_tune {
        column.labels_per_class = column.labels_per_class.min(10);
        recipes.extend([&mut column.train.recipe, &mut column.from_scratch.recipe]);
    }
    for teacher in &mut config.teachers {
        teacher.train_on_epochs = 1;
        match &mut teacher.pretrain {
            Some(Pretrain::Supervised { train }) => recipes.push(&mut train.recipe),
            Some(Pretrain::Dino { train }) => recipes.push(&mut train.recipe),
            Some(Pretrain::Mae { train }) => recipes.push(&mut train.recipe),
            Some(Pretrain::Clip { train }) => recipes.push(&mut train.recipe),
            None => {}
        }
    }
    for recipe in recipes {
        (recipe.epochs, recipe.warmup_epochs, recipe.batch) = (3, 1.0, 40);
    }
    config.distil.student_drop_path_rate = 0.2;
    config
}

/// One teacher of the configuration.
fn only(mut config: TableConfig, teacher: &str) -> TableConfig {
    config.teachers.retain(|t| t.name == teacher);
    config
}

fn plan(config: &TableConfig) -> Result<(Graph, TablePlan), Error> {
    let mut graph = Graph::default();
    let plan = Builder::new(&mut graph, true).table(&Arc::new(Context::new(config.clone(), Device::CPU)?))?;
    Ok((graph, plan))
}

/// Runs a table's stages; the result's page and how many ran.
fn run(config: &TableConfig, dir: &Path, threads: usize, jobs: usize) -> Result<(String, Ran), Error> {
    let (graph, plan) = plan(config)?;
    let store = Store::new(dir);
    let options = Options { jobs, threads, checkpoint_every: Duration::MAX };
    let ran = fd_distill::graph::run(&graph, &store, &plan.targets(), options, &Silent)?;
    Ok((plan.result(&graph, &store)?.markdown(), ran))
}

/// The checksums of everything that the stages made, by directory.
fn made(dir: &Path) -> BTreeMap<String, Done> {
    let stages = std::fs::read_dir(dir).expect("a store").map(|e| e.expect("an entry").path());
    let done = |path: PathBuf| {
        let text = std::fs::read(path.join("done.json")).expect("done.json");
        let done = Done { seconds: 0.0, ..serde_json::from_slice(&text).expect("its fields") };
        (path.file_name().expect("a name").to_string_lossy().into_owned(), done)
    };
    stages.map(done).collect()
}

/// The one stage whose name begins so.
fn stage(dir: &Path, slug: &str) -> PathBuf {
    let all: Vec<PathBuf> = std::fs::read_dir(dir).expect("a store").map(|e| e.expect("an entry").path()).collect();
    let named = |p: &&PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(slug));
    let found: Vec<&PathBuf> = all.iter().filter(named).collect();
    assert_eq!(found.len(), 1, "{slug}: {found:?}");
    found[0].clone()
}

/// The losses in a stage's metrics.csv: of the first, every tenth and the last step.
fn losses(dir: &Path, slug: &str) -> Vec<f64> {
    let rows = Metrics::read(&stage(dir, slug)).expect("metrics");
    rows.iter().map(|m| m.loss.expect("a loss")).collect()
}

#[test]
fn equal_bits_over_threads_and_jobs() {
    let (scratch, config) = (Scratch::new("bits"), config());
    let (page, ran) = run(&config, &scratch.0.join("a"), 1, 1).expect("a table");
    let first = made(&scratch.0.join("a"));
    assert_eq!((ran.ran, ran.cached), (first.len(), 0));
    for (name, threads, jobs, workers) in [("b", 2, 1, 2), ("c", 3, 3, 0)] {
        let mut other = config.clone();
        other.data.workers = workers;
        let (again, _) = run(&other, &scratch.0.join(name), threads, jobs).expect("a table");
        assert!(made(&scratch.0.join(name)) == first, "{threads} threads, {jobs} jobs, {workers} workers");
        assert_eq!(again, page);
    }
    let mut other = only(config, "supervised");
    other.seeds = vec![1];
    run(&other, &scratch.0.join("d"), 2, 1).expect("a table");
    let student = |name: &str, seed: usize| {
        std::fs::read(stage(&scratch.0.join(name), &format!("distil-supervised-seed{seed}")).join("weights.safetensors")).expect("weights")
    };
    assert!(student("a", 0) != student("d", 1), "another seed");
}

#[test]
fn what_is_done_is_reused_and_a_change_runs_only_what_depends_on_it() {
    let (scratch, mut config) = (Scratch::new("reuse"), only(config(), "supervised"));
    let (page, first) = run(&config, &scratch.0, 2, 2).expect("a table");
    let (again, second) = run(&config, &scratch.0, 2, 2).expect("a table");
    assert_eq!((again, second), (page, Ran { ran: 0, cached: first.ran }));
    // Distillation, and the fine-tuning and probe of its student.
    config.distil.student_drop_path_rate = 0.1;
    assert_eq!(run(&config, &scratch.0, 2, 2).expect("a table").1.ran, 3);
    // The probes of teacher, teacher trained on, student, two random encoders, and pixels.
    config.probe.as_mut().unwrap().lr *= 0.5;
    assert_eq!(run(&config, &scratch.0, 2, 2).expect("a table").1.ran, 6);
    // A file that is gone.
    std::fs::remove_file(stage(&scratch.0, "pretrain-supervised-seed0").join("weights.safetensors")).expect("it was there");
    assert_eq!(run(&config, &scratch.0, 2, 2).expect("a table").1.ran, 1);
}

#[test]
fn accumulation_sees_the_same_masks() {
    let (scratch, whole) = (Scratch::new("accumulation"), only(config(), "supervised"));
    let mut cut = whole.clone();
    cut.distil.recipe.accumulate = 4;
    run(&whole, &scratch.0.join("whole"), 2, 1).expect("a table");
    run(&cut, &scratch.0.join("cut"), 2, 1).expect("a table");
    let of = |name: &str| (losses(&scratch.0.join(name), "distil"), stage(&scratch.0.join(name), "distil").join("weights.safetensors"));
    let ((a, whole), (b, cut)) = (of("whole"), of("cut"));
    // Sums in another order: equal up to rounding, which training amplifies. Other masks would differ in the first digits.
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-4 * a.abs()), "losses {a:?} and {b:?}");
    let (whole, cut) = (Checkpoint::read(&whole).expect("weights"), Checkpoint::read(&cut).expect("weights"));
    for (name, tensor) in &whole.tensors {
        let (a, b) = (&tensor.data, &cut.tensors[name].data);
        let scale = a.iter().fold(1e-2f32, |m, v| m.max(v.abs()));
        let off = a.iter().zip(b).map(|(a, b)| (a - b).abs() / scale).fold(0.0, f32::max);
        assert!(off < 2e-2, "{name} off by {off:.1e}");
    }
}

#[test]
fn every_objective_trains_and_dfdx_agrees_with_the_plan() {
    let smooth = FeatureDistance::SmoothL1 { beta: 2.0 };
    let variants = [
        (Target::Map, Normalisation::LayerNorm, smooth, Projector::Linear {}),
        (Target::Patches, Normalisation::L2, FeatureDistance::Mse {}, Projector::Mlp { hidden: 24 }),
        (Target::Gap, Normalisation::None, FeatureDistance::L1 {}, Projector::None {}),
        (Target::Cls, Normalisation::LayerNorm, FeatureDistance::Cosine {}, Projector::Linear {}),
        (Target::Logits, Normalisation::None, FeatureDistance::SoftCrossEntropy { temperature: 1.0 }, Projector::None {}),
    ];
    let scratch = Scratch::new("objectives");
    for (target, normalisation, loss, projector) in variants {
        let mut config = only(config(), "supervised");
        config.columns = vec!["probe-avg".into()];
        config.distil.objective = Objective { target, normalisation, loss };
        (config.distil.projector, config.distil.teacher_drop_path_rate) = (projector, 0.1);
        (config.distil.recipe.accumulate, config.teachers[0].train_on_epochs) = (2, 0);
        let dir = |engine: &str| scratch.0.join(format!("{target:?}-{engine}"));
        run(&config, &dir("fused"), 2, 1).expect("a table");
        config.distil.engine = Engine::Dfdx;
        run(&config, &dir("dfdx"), 2, 1).expect("a table");
        let (fused, dfdx) = (losses(&dir("fused"), "distil"), losses(&dir("dfdx"), "distil"));
        assert!(fused.last() < fused.first(), "{target:?}: {fused:?}");
        assert!(fused.iter().zip(&dfdx).all(|(a, b)| (a - b).abs() < 1e-3 * a.abs()), "{target:?}: {fused:?} fused, {dfdx:?} in dfdx");
    }
}

#[test]
fn the_student_learns_its_teacher() {
    let (scratch, mut config) = (Scratch::new("learns"), only(config(), "supervised"));
    config.columns = vec!["probe-avg".into()];
    config.distil.recipe.epochs = 12;
    run(&config, &scratch.0, 2, 1).expect("a table");
    let losses = losses(&scratch.0, "distil");
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    assert!(last < 0.5 * first, "distillation loss {first:.3} to {last:.3}");
}

/// A run of DINO on a hundred images: its weights, if it was not stopped, and all losses.
fn dino(targets: Targets, seed: u64, stop_at: Option<usize>, dir: &Path) -> (Option<Vec<u8>>, Vec<StepReport>) {
    let mut config = only(config(), "DINO");
    let Some(Pretrain::Dino { train: how }) = &mut config.teachers[0].pretrain else { unreachable!("DINO") };
    (how.targets, how.drop_path_rate, how.recipe.lr) = (targets, 0.1, 1e-3);
    let how = how.clone();
    let (model, normalise) = (config.teachers[0].model.clone(), config.data.normalise.clone());
    let context = Context::new(config, Device::CPU).expect("a context");
    let (mut learner, mut params) = DinoLearner::new(&how, &model, Init::Xavier, seed, Device::CPU).expect("a learner");
    let loader = LoaderConfig { batch: how.recipe.batch, shuffle: true, drop_last: true, seed, prefetch: 1, workers: 0 };
    let loader = Loader::multi_crop(context.train.clone(), how.crops(&normalise).expect("crops"), loader).expect("a loader");
    let mut reports = vec![];
    let seen = std::cell::Cell::new(0);
    let mut report = |r: &StepReport| {
        reports.push(*r);
        seen.set(r.step);
        Ok(())
    };
    let stop = || stop_at.filter(|at| seen.get() == *at).map(|_| Signal::Terminate);
    let keep = Some(Keep { dir, every: Duration::MAX });
    let stage = Stage { name: "dino", recipe: &how.recipe, loader };
    let ran = stage.run(&mut learner, &mut params, &mut Watch { report: &mut report, stop: &stop, keep });
    let weights = match ran {
        Ok(_) => Some(Checkpoint::of(fd_distill::train::Learner::result(&learner, &params), "").to_bytes().expect("bytes")),
        Err(Error::Interrupted { signal: Signal::Terminate, .. }) => None,
        Err(e) => panic!("{e}"),
    };
    (weights, reports)
}

#[test]
fn an_interrupted_stage_goes_on_to_the_same_bits() {
    for (name, targets) in [("sinkhorn", Targets::Sinkhorn { iterations: 3 }), ("centring", Targets::Centring { momentum: 0.9 })] {
        let scratch = Scratch::new(name);
        let (whole, losses) = dino(targets, 0, None, &scratch.0);
        assert_eq!(losses.len(), 15);
        // In the middle of an epoch, and at the end of one.
        for stop in [7, 10] {
            assert!(dino(targets, 0, Some(stop), &scratch.0).0.is_none());
            let (rest, later) = dino(targets, 0, None, &scratch.0);
            assert!(rest == whole, "{name}: stopped after step {stop}");
            assert_eq!(later.len(), 15 - stop);
            assert!(later.iter().zip(&losses[stop..]).all(|(a, b)| a.measured == b.measured && a.epoch == b.epoch));
            fd_distill::snapshot::clear(&scratch.0).expect("checkpoints go");
        }
    }
}

fn vit(model: &mut ModelConfig) -> &mut VitConfig {
    match model {
        ModelConfig::Vit(config) => config,
        ModelConfig::Swin(_) => panic!("a table of plain ViTs"),
    }
}

#[test]
fn impossible_configurations_are_refused_by_key() {
    let refused = |change: &dyn Fn(&mut TableConfig)| {
        let mut config = config();
        change(&mut config);
        let error = plan(&config).err().expect("a refusal").to_string();
        assert!(!error.contains('\n'), "one line: {error}");
        error
    };
    let with_dino = |change: &dyn Fn(&mut fd_distill::dino::Dino)| {
        refused(&|c| {
            if let Some(Pretrain::Dino { train }) = &mut c.teachers[0].pretrain {
                change(train);
            }
        })
    };
    assert!(refused(&|c| c.distil.recipe.batch = 0).contains("distil.recipe.batch"));
    assert!(with_dino(&|d| d.recipe.batch = 201).contains("teachers.DINO.pretrain.train.recipe.batch"));
    assert!(with_dino(&|d| d.recipe.accumulate = 2).contains("recipe.accumulate"));
    assert!(with_dino(&|d| d.teacher_temperature = 0.0).contains("teacher_temperature"));
    assert!(with_dino(&|d| d.momentum = [0.9, 1.1]).contains("momentum"));
    assert!(with_dino(&|d| d.crops.clear()).contains("crops"));
    assert!(with_dino(&|d| d.crops[1].size = (15, 14)).contains("patch_size"));
    assert!(with_dino(&|d| d.head.prototypes = 0).contains("prototypes"));
    assert!(with_dino(&|d| d.targets = Targets::Sinkhorn { iterations: 0 }).contains("iterations"));
    assert!(refused(&|c| c.fine_tune[1].train.recipe.lr = f64::NAN).contains("fine_tune.fine-tune-200.train.recipe.lr"));
    assert!(refused(&|c| c.fine_tune[1].from_scratch.recipe.batch = 101).contains("fine_tune.fine-tune-200.from_scratch.recipe.batch"));
    assert!(refused(&|c| c.probe.as_mut().unwrap().batch = 0).contains("probe.batch"));
    assert!(refused(&|c| c.probe.as_mut().unwrap().lr = f64::INFINITY).contains("probe.lr"));
    assert!(refused(&|c| c.knn.as_mut().unwrap().k = 0).contains("knn.k"));
    assert!(refused(&|c| c.columns.push("knm".into())).contains("no measure `knm`"));
    assert!(refused(&|c| c.probe = None).contains("[probe]"));
    assert!(refused(&|c| c.teachers[0].pretrain = None).contains("either pretrain or weights"));
    assert!(refused(&|c| c.teachers[1].name = "DINO".into()).contains("twice"));
    assert!(refused(&|c| vit(&mut c.teachers[0].model).depth = 1_000_000_000).contains("`depth`"));
    assert!(refused(&|c| vit(&mut c.teachers[0].model).mlp_ratio = 1e300).contains("`mlp_ratio`"));
    assert!(refused(&|c| vit(&mut c.student).img_size = (700_000, 700_000)).contains("`img_size`"));
    assert!(
        refused(&|c| *vit(&mut c.student) = VitConfig { embed_dim: 16_384, depth: 256, ..vit(&mut c.student).clone() }).contains("memory")
    );
    assert!(refused(&|c| vit(&mut c.student).num_heads = 5).contains("num_heads"));
    assert!(refused(&|c| vit(&mut c.student).cls_token = false).contains("CLS token"));
    assert!(refused(&|c| vit(&mut c.teachers[0].model).in_chans = 3).contains("in_chans"));
    assert!(refused(&|c| c.seeds.clear()).contains("seeds"));
    assert!(refused(&|c| c.seeds = vec![2, 2]).contains("seeds: 2 stands there twice"));
    assert!(refused(&|c| c.distil.recipe.epochs = usize::MAX).contains("distil.recipe.epochs"));
    assert!(refused(&|c| c.teachers[1].train_on_epochs = usize::MAX).contains("train_on_epochs"));
    assert!(refused(&|c| c.knn.as_mut().unwrap().temperature = 0.001).contains("knn.temperature"));
    assert!(refused(&|c| c.data.workers = 3000).contains("data.workers"));
    assert!(refused(&|c| c.fine_tune[1].train.views.flip = 7.0).contains("fine_tune.fine-tune-200.train.views: flip"));
    assert!(refused(&|c| c.fine_tune[0].name = "a,b".into()).contains("`a,b` cannot be a name"));
    assert!(refused(&|c| c.teachers[0].name = "supervised!".into()).contains("file name"));
    assert!(
        refused(&|c| {
            let same = c.fine_tune[0].clone();
            c.fine_tune[1] = fd_distill::table::FineTune { name: "again".into(), ..same };
            c.columns = vec!["again".into()];
        })
        .contains("`again` is the same")
    );
    assert!(with_dino(&|d| d.crops[1].size = (7_000_000, 7_000_000)).contains("`img_size`"));
    assert!(refused(&|c| c.data.normalise.std.push(1.0)).contains("std"));
    assert!(refused(&|c| c.data.train_per_class = 601).contains("601"));
    assert!(refused(&|c| (vit(&mut c.student).embed_dim, c.distil.projector) = (32, Projector::None {})).contains("projector"));
    let logits = Objective {
        target: Target::Logits,
        normalisation: Normalisation::None,
        loss: FeatureDistance::SoftCrossEntropy { temperature: 1.0 },
    };
    assert!(refused(&|c| c.distil.objective = logits).contains("`DINO` has no classifier"));
}

#[test]
fn numbers_that_are_not_finite_are_skipped_counted_and_stop_a_run() {
    let (scratch, mut config) = (Scratch::new("diverges"), only(config(), "supervised"));
    let Some(Pretrain::Supervised { train }) = &mut config.teachers[0].pretrain else { unreachable!("supervised") };
    (train.recipe.lr, train.recipe.clip_grad, train.recipe.skip_nonfinite) = (1e18, 0.0, 3);
    let error = run(&config, &scratch.0, 2, 1).expect_err("a divergence").to_string();
    assert!(error.starts_with("pretrain supervised, seed 0: 4 steps without a finite loss and gradient"), "{error}");
    assert!(error.contains("images ") && error.contains("learning rate"), "{error}");
    let rows = Metrics::read(&stage(&scratch.0, "pretrain-supervised")).expect("metrics");
    assert!(!rows.is_empty());
}

/// The main table's own configuration.
fn main_config() -> TableConfig {
    fd_distill::config::load::<TableConfig>(&fd_distill::table::embedded("main").expect("embedded"), &[]).expect("a table").0
}

#[test]
fn the_main_table_takes_the_shipped_teachers_and_a_changed_recipe_does_not() {
    let shipped = |config: TableConfig| {
        let mut graph = Graph::default();
        let plan = Builder::new(&mut graph, false).table(&Arc::new(Context::new(config, Device::CPU).expect("a context"))).expect("a plan");
        plan.shipped.into_iter().map(|(name, _, id)| (name, graph.node(id).spec.steps)).collect::<Vec<_>>()
    };
    // If this fails, a recipe in main.toml or a stage's key was changed: `--pretrain --seeds 1 --ship crates/distill/assets/teachers`.
    let rows = ["DINO", "EsViT", "CLIP", "supervised", "MAE"].map(|name| (name.to_string(), 0));
    assert_eq!(shipped(main_config()), rows);
    let mut changed = main_config();
    changed.teachers[0].seed = 1;
    assert_eq!(shipped(changed), rows[1..]);
}

/// Linear probe on 6,000 labels, of the averaged tokens: the shipped teachers against their architectures with random weights.
#[test]
fn the_shipped_teachers_have_learnt() {
    let (scratch, config) = (Scratch::new("shipped"), main_config());
    let context = Arc::new(Context::new(config, Device::CPU).expect("a context"));
    let (mut graph, mut probes) = (Graph::default(), vec![]);
    let mut add = |slug: &str, job: Job, inputs: Vec<NodeId>| {
        let work = TableWork { context: context.clone(), job, seed: 0 };
        let (identity, work) = (work.identity(), Box::new(work));
        graph.add(Spec { slug: slug.into(), title: slug.into(), identity, simd: None, inputs, steps: 0, flops: 0.0, memory: 0, work })
    };
    for teacher in &context.config.teachers {
        let model = teacher.model.clone();
        let bytes = fd_distill::teachers::bytes(&fd_distill::teachers::file_name(&teacher.name)).expect("a shipped teacher");
        let shipped = add("shipped", Job::Shipped { model: model.clone(), bytes: bytes.into() }, vec![]);
        let random = add("random", Job::Random { model: model.clone() }, vec![]);
        probes.push([shipped, random].map(|encoder| add("probe", Job::Probe { model: model.clone(), normalise: None }, vec![encoder])));
    }
    let (store, targets) = (Store::new(&scratch.0), probes.concat());
    let options = Options { jobs: 2, threads: 2, checkpoint_every: Duration::MAX };
    fd_distill::graph::run(&graph, &store, &targets, options, &Silent).expect("probes");
    for (teacher, probes) in context.config.teachers.iter().zip(probes) {
        let [shipped, random] = probes.map(|id| store.done(graph.node(id)).expect("whole").expect("done").accuracy["probe-avg"]);
        let name = &teacher.name;
        println!("{name} {shipped:.2} %, random weights {random:.2} %");
        assert!(shipped >= random + 7.0, "{name} {shipped:.2} %, random weights {random:.2} %");
    }
}
