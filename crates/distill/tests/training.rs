//! Whole stages: equal bits over runs and threads, accumulation, and that distillation learns its teacher's features.

use fd_compute::Device;
use fd_distill::distillation::{Engine, Projector};
use fd_distill::table::{Encoder, Stages, TableConfig};
use fd_distill::{FeatureDistance, Normalisation, Objective, Target};

fn config() -> TableConfig {
    let text = include_str!("../../../experiments/tables/smoke.toml");
    let mut config: TableConfig = toml::from_str(text).expect("the smoke table");
    config.data.train_per_class = 20;
    config.data.test_per_class = 5;
    for recipe in [&mut config.pretrain.recipe, &mut config.distil.recipe, &mut config.fine_tune.recipe] {
        (recipe.epochs, recipe.warmup_epochs, recipe.batch) = (3, 1.0, 40);
    }
    config.distil.student_drop_path_rate = 0.2;
    config
}

/// Pretraining and distillation: the student's weights and the losses of both.
fn distil(config: &TableConfig, threads: usize, seed: u64) -> (Encoder, Vec<f64>) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    pool.install(|| {
        let stages = Stages::new(config, Device::Cpu).expect("stages");
        let mut losses = vec![];
        let mut report = |_: &str, _: u64, step: &fd_distill::train::StepReport| losses.push(step.loss);
        let teacher = stages.pretrain(seed, &mut report).expect("a teacher");
        let student = stages.distil(&teacher, seed, &mut report).expect("a student");
        (student, losses)
    })
}

fn bytes(encoder: &Encoder) -> Vec<u8> {
    encoder.weights.to_bytes().expect("bytes")
}

#[test]
fn equal_bits_over_runs_and_threads() {
    let config = config();
    let (first, losses) = distil(&config, 1, 0);
    for threads in [1, 2, 3] {
        let (again, other) = distil(&config, threads, 0);
        assert!(bytes(&first) == bytes(&again), "{threads} threads");
        assert_eq!(losses, other);
    }
    let mut inline = config.clone();
    inline.data.workers = 0;
    assert!(bytes(&first) == bytes(&distil(&inline, 2, 0).0), "batches prepared in the training thread");
    assert!(bytes(&first) != bytes(&distil(&config, 1, 1).0), "another seed");
}

#[test]
fn accumulation_sees_the_same_masks() {
    let (whole, losses) = distil(&config(), 2, 0);
    let mut cut = config();
    for recipe in [&mut cut.pretrain.recipe, &mut cut.distil.recipe] {
        recipe.accumulate = 4;
    }
    let (parts, other) = distil(&cut, 2, 0);
    // Sums in another order: equal up to rounding, which training amplifies. Other masks would differ in the first digits.
    for (a, b) in losses.iter().zip(&other) {
        assert!((a - b).abs() < 1e-4 * a.abs(), "losses {a} and {b}");
    }
    for (name, tensor) in &whole.weights.tensors {
        let (a, b) = (&tensor.data, &parts.weights.tensors[name].data);
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
    ];
    for (target, normalisation, loss, projector) in variants {
        let mut config = config();
        config.distil.objective = Objective { target, normalisation, loss };
        (config.distil.projector, config.distil.teacher_drop_path_rate) = (projector, 0.1);
        (config.pretrain.recipe.epochs, config.distil.recipe.accumulate) = (1, 2);
        config.pretrain.recipe.warmup_epochs = 0.5;
        let (_, fused) = distil(&config, 2, 0);
        config.distil.engine = Engine::Dfdx;
        let (_, dfdx) = distil(&config, 2, 0);
        assert!(fused.last() < fused.get(5), "{target:?}: {fused:?}");
        for (a, b) in fused.iter().zip(&dfdx) {
            assert!((a - b).abs() < 1e-3 * a.abs(), "{target:?}: {a} fused, {b} in dfdx");
        }
    }
}

#[test]
fn the_student_learns_its_teacher() {
    let mut config = config();
    config.distil.recipe.epochs = 12;
    let (_, losses) = distil(&config, 2, 0);
    let distil = &losses[losses.len() - 12 * 5..];
    let (first, last) = (distil[..5].iter().sum::<f64>(), distil[distil.len() - 5..].iter().sum::<f64>());
    assert!(last < 0.5 * first, "distillation loss {first:.3} to {last:.3}");
}

#[test]
fn impossible_recipes_are_refused_by_key() {
    let refused = |change: &dyn Fn(&mut TableConfig)| {
        let mut config = config();
        change(&mut config);
        let error = Stages::new(&config, Device::Cpu).err().expect("a refusal").to_string();
        assert!(!error.contains('\n'), "one line: {error}");
        error
    };
    assert!(refused(&|c| c.distil.recipe.batch = 0).contains("distil.recipe.batch"));
    assert!(refused(&|c| c.pretrain.recipe.batch = 201).contains("pretrain.recipe.batch"));
    assert!(refused(&|c| c.pretrain.recipe.accumulate = 3).contains("pretrain.recipe.accumulate"));
    assert!(refused(&|c| c.fine_tune.recipe.lr = f64::NAN).contains("fine_tune.recipe.lr"));
    assert!(refused(&|c| c.probe.batch = 0).contains("probe.batch"));
    assert!(refused(&|c| c.probe.lr = f64::INFINITY).contains("probe.lr"));
    assert!(refused(&|c| c.teacher.depth = 1_000_000_000).contains("`depth`"));
    assert!(refused(&|c| c.teacher.mlp_ratio = 1e300).contains("`mlp_ratio`"));
    assert!(refused(&|c| c.student.img_size = (700_000, 700_000)).contains("`img_size`"));
    assert!(refused(&|c| (c.student.embed_dim, c.student.depth) = (16_384, 256)).contains("memory"));
    assert!(refused(&|c| c.student.num_heads = 5).contains("num_heads"));
    assert!(refused(&|c| c.student.patch_size = 4).contains("tokens"));
    assert!(refused(&|c| c.teacher.in_chans = 3).contains("in_chans"));
    assert!(refused(&|c| c.seeds.clear()).contains("seeds"));
    assert!(refused(&|c| c.data.normalise.std.push(1.0)).contains("std"));
    assert!(refused(&|c| c.data.train_per_class = 601).contains("601"));
    assert!(refused(&|c| (c.student.embed_dim, c.distil.projector) = (32, Projector::None {})).contains("projector"));
}

#[test]
fn divergence_stops_a_run_with_its_cause() {
    let mut config = config();
    (config.pretrain.recipe.lr, config.pretrain.recipe.clip_grad) = (1e18, 0.0);
    let stages = Stages::new(&config, Device::Cpu).expect("stages");
    let error = stages.pretrain(0, &mut |_, _, _| {}).expect_err("a divergence").to_string();
    assert!(error.contains("pretrain") && error.contains("learning rate"), "{error}");
}
