//! Ways of pretraining: each learns, says when it does not, and goes on after an interruption to the same bits.

mod stages;

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fd_compute::{Device, Params};
use fd_data::{Crop, Loader, LoaderConfig};
use fd_distill::Error;
use fd_distill::contrast::{Contrast, ContrastLearner};
use fd_distill::dino::{Dino, DinoLearner};
use fd_distill::graph::{Graph, NodeId, Options, Spec, Store};
use fd_distill::interrupt::Signal;
use fd_distill::masked::{Masked, MaskedLearner};
use fd_distill::pretrain::Pretrain;
use fd_distill::recipe::{Recipe, Views};
use fd_distill::table::{Context, Job, TableConfig, TableWork};
use fd_distill::train::{Keep, Learner, Stage, StepReport, Watch};
use fd_model::{Checkpoint, Init, ModelConfig, QkvBias, SwinConfig};
use stages::{Scratch, Silent};

/// The main table on so many training images a class.
fn table(per_class: usize) -> TableConfig {
    let source = fd_distill::table::embedded("main").expect("embedded");
    let mut config = fd_distill::config::load::<TableConfig>(&source, &[]).expect("a table").0;
    (config.data.train_per_class, config.data.test_per_class) = (per_class, 200);
    config
}

fn masked(epochs: usize, lr: f64) -> Masked {
    let text = format!(
        "recipe = {{ epochs = {epochs}, warmup_epochs = 1.0, batch = 50, accumulate = 1, lr = {lr}, warmup_lr = 0.0, min_lr = 0.0, \
         weight_decay = 0.05, layer_decay = 1.0, betas = [0.9, 0.95], clip_grad = 3.0, skip_nonfinite = 10 }}\n\
         drop_path_rate = 0.0\n\
         views = {{ crop_scale = [0.6, 1.0], crop_ratio = [0.75, 1.3333333333333333], interpolation = 'bilinear', flip = 0.5, erase = 0.0 }}\n\
         decoder = {{ mask_ratio = 0.75, decoder_embed_dim = 32, decoder_depth = 1, decoder_num_heads = 2, decoder_mlp_ratio = 2.0, norm_pix = 1e-6 }}"
    );
    toml::from_str(&text).expect("masked autoencoding")
}

fn captioned(epochs: usize, lr: f64) -> Contrast {
    let text = format!(
        "recipe = {{ epochs = {epochs}, warmup_epochs = 1.0, batch = 50, accumulate = 1, lr = {lr}, warmup_lr = 0.0, min_lr = 0.0, \
         weight_decay = 0.05, layer_decay = 1.0, betas = [0.9, 0.98], clip_grad = 3.0, skip_nonfinite = 10 }}\n\
         drop_path_rate = 0.0\n\
         views = {{ crop_scale = [0.6, 1.0], crop_ratio = [0.75, 1.3333333333333333], interpolation = 'bilinear', flip = 0.5, erase = 0.0 }}\n\
         templates = ['a photo of a {{}}', 'one {{}}', 'the {{}} of a shop']\n\
         text = {{ width = 16, layers = 1, heads = 2, mlp_ratio = 2.0 }}\nembed_dim = 16\ntemperature = 0.07"
    );
    toml::from_str(&text).expect("image-caption contrast")
}

/// DINO with region matching.
fn esvit(epochs: usize, lr: f64, targets: &str) -> Dino {
    let views = "{ crop_scale = [0.5, 1.0], crop_ratio = [0.75, 1.3333333333333333], interpolation = 'bilinear', flip = 0.5, erase = 0.0 }";
    let text = format!(
        "recipe = {{ epochs = {epochs}, warmup_epochs = 1.0, batch = 50, accumulate = 1, lr = {lr}, warmup_lr = 0.0, min_lr = 0.0, \
         weight_decay = 0.04, layer_decay = 1.0, betas = [0.9, 0.999], clip_grad = 3.0, skip_nonfinite = 10 }}\n\
         drop_path_rate = 0.0\nhead = {{ hidden = 64, bottleneck = 32, prototypes = 64 }}\ntargets = {targets}\n\
         student_temperature = 0.1\nteacher_temperature = 0.03\nmomentum = [0.95, 1.0]\nregions = true\n\
         crops = [{{ kind = 'global', count = 2, size = [28, 28], views = {views} }}]"
    );
    toml::from_str(&text).expect("EsViT")
}

/// A small Swin for 28 pixels: maps of 14 x 14 and 7 x 7 tokens.
fn swin() -> ModelConfig {
    let base = SwinConfig { img_size: (28, 28), patch_size: 2, in_chans: 1, embed_dim: 24, window_size: 7, ..SwinConfig::default() };
    SwinConfig { depths: vec![1, 1], num_heads: vec![2, 4], mlp_ratio: 2.0, ..base }.into()
}

/// Trains, or goes on; the result if it was not stopped, and all losses.
fn train(
    recipe: &Recipe,
    loader: Loader,
    (learner, mut params): (&mut dyn Learner, Params),
    stop_at: Option<usize>,
    dir: &Path,
) -> (Option<Vec<u8>>, Vec<f64>) {
    let (mut losses, seen) = (vec![], Cell::new(0));
    let mut report = |r: &StepReport| {
        losses.push(r.measured.loss);
        seen.set(r.step);
        Ok(())
    };
    let stop = || stop_at.filter(|at| seen.get() == *at).map(|_| Signal::Terminate);
    let keep = Some(Keep { dir, every: Duration::MAX });
    let stage = Stage { name: "pretrain", recipe, loader };
    match stage.run(learner, &mut params, &mut Watch { report: &mut report, stop: &stop, keep }) {
        Ok(_) => (Some(Checkpoint::of(learner.result(&params), "").to_bytes().expect("bytes")), losses),
        Err(Error::Interrupted { signal: Signal::Terminate, .. }) => (None, losses),
        Err(e) => panic!("{e}"),
    }
}

fn loader(context: &Context, crops: Vec<Crop>, recipe: &Recipe) -> Loader {
    let config = LoaderConfig { batch: recipe.batch, shuffle: true, drop_last: true, seed: 0, prefetch: 1, workers: 0 };
    Loader::multi_crop(context.train.clone(), crops, config).expect("a loader")
}

/// Two hundred images in one view each, and the main table's first model.
fn one_view(views: &Views, recipe: &Recipe) -> (Context, ModelConfig, Loader) {
    let config = table(20);
    let model = config.teachers[0].model.clone();
    let augment = views.augment(model.img_size(), &config.data.normalise).expect("a view");
    let context = Context::new(config, Device::CPU).expect("a context");
    let loader = loader(&context, vec![Crop { augment, views: 1 }], recipe);
    (context, model, loader)
}

/// A run of masked autoencoding on two hundred images, and whether it complained.
fn mae(how: &Masked, stop_at: Option<usize>, dir: &Path) -> (Option<Vec<u8>>, Vec<f64>, bool) {
    let (_, model, loader) = one_view(&how.views, &how.recipe);
    let (mut learner, params) = MaskedLearner::new(how, &model, Init::Xavier, 0, Device::CPU).expect("a learner");
    let (weights, losses) = train(&how.recipe, loader, (&mut learner, params), stop_at, dir);
    (weights, losses, learner.warned())
}

/// A run of EsViT on two hundred images.
fn run_esvit(how: &Dino, stop_at: Option<usize>, dir: &Path) -> (Option<Vec<u8>>, Vec<f64>) {
    let config = table(20);
    let normalise = config.data.normalise.clone();
    let context = Context::new(config, Device::CPU).expect("a context");
    let (mut learner, params) = DinoLearner::new(how, &swin(), Init::Xavier, 0, Device::CPU).expect("a learner");
    let loader = loader(&context, how.crops(&normalise).expect("crops"), &how.recipe);
    train(&how.recipe, loader, (&mut learner, params), stop_at, dir)
}

#[test]
fn region_matching_goes_on_to_the_same_bits() {
    for targets in ["{ kind = 'sinkhorn', iterations = 3 }", "{ kind = 'centring', momentum = 0.9 }"] {
        let (scratch, how) = (Scratch::new("esvit"), esvit(2, 1e-3, targets));
        let (whole, losses) = run_esvit(&how, None, &scratch.0);
        assert_eq!(losses.len(), 8);
        assert!(run_esvit(&how, Some(5), &scratch.0).0.is_none());
        let (rest, later) = run_esvit(&how, None, &scratch.0);
        assert!(rest == whole && later == losses[5..], "{targets}");
    }
}

#[test]
fn region_matching_learns_features() {
    let (scratch, config) = (Scratch::new("regions"), table(60));
    let how = esvit(15, 1.5e-3, "{ kind = 'sinkhorn', iterations = 3 }");
    let [trained, random] = probed(config, &swin(), Pretrain::Dino { train: how }, "probe-avg", &scratch.0);
    assert!(trained > random + 3.0, "EsViT {trained:.2} %, random weights {random:.2} %");
}

/// A run of image-caption contrast on two hundred images, and whether it complained.
fn clip(how: &Contrast, stop_at: Option<usize>, dir: &Path) -> (Option<Vec<u8>>, Vec<f64>, bool) {
    let (context, model, loader) = one_view(&how.views, &how.recipe);
    let classes = context.train.class_names();
    let (mut learner, params) = ContrastLearner::new(how, &model, classes, (Init::Xavier, 0), Device::CPU).expect("a learner");
    let (weights, losses) = train(&how.recipe, loader, (&mut learner, params), stop_at, dir);
    (weights, losses, learner.warned())
}

#[test]
fn image_caption_contrast_goes_on_to_the_same_bits() {
    let (scratch, how) = (Scratch::new("clip"), captioned(3, 1e-3));
    let (whole, losses, _) = clip(&how, None, &scratch.0);
    assert_eq!(losses.len(), 12);
    for stop in [5, 8] {
        assert!(clip(&how, Some(stop), &scratch.0).0.is_none());
        let (rest, later, _) = clip(&how, None, &scratch.0);
        assert!(rest == whole && later == losses[stop..], "stopped after step {stop}");
        fd_distill::snapshot::clear(&scratch.0).expect("checkpoints go");
    }
}

#[test]
fn image_caption_contrast_says_that_it_learns_nothing() {
    let scratch = Scratch::new("guess");
    assert!(clip(&captioned(20, 0.0), None, &scratch.0).2, "a learning rate of 0");
    fd_distill::snapshot::clear(&scratch.0).expect("checkpoints go");
    let (_, losses, warned) = clip(&captioned(20, 2e-3), None, &scratch.0);
    assert!(!warned && losses[losses.len() - 1] < 0.9 * losses[0], "{losses:?}");
}

#[test]
fn image_caption_contrast_learns_features() {
    let (scratch, config) = (Scratch::new("captions"), table(100));
    let model = config.teachers[0].model.clone();
    let [trained, random] = probed(config, &model, Pretrain::Clip { train: captioned(40, 2e-3) }, "probe-cls", &scratch.0);
    assert!(trained > random + 3.0, "image-caption contrast {trained:.2} %, random weights {random:.2} %");
}

#[test]
fn captions_that_cannot_be_are_refused_by_key() {
    let base = table(20).teachers[0].model.clone();
    let said = |change: &dyn Fn(&mut Contrast)| {
        let mut how = captioned(3, 1e-3);
        change(&mut how);
        how.check("teachers.CLIP.pretrain.train", &base, 200).expect_err("a refusal").to_string()
    };
    assert!(
        said(&|c| c.templates[0] = "a photo".into())
            .contains("teachers.CLIP.pretrain.train.templates: up to 1000 are needed, each with {}")
    );
    assert!(said(&|c| c.text.heads = 3).contains("text: model key `heads`"));
    assert!(said(&|c| c.recipe.accumulate = 2).contains("every image of a batch meets every caption"));
    assert!(said(&|c| c.temperature = 0.0).contains("temperature"));
    let one = ContrastLearner::new(&captioned(1, 1e-3), &base, &["bag".into()], (Init::Xavier, 0), Device::CPU);
    assert!(one.err().expect("a refusal").to_string().contains("at least two"));
}

#[test]
fn masked_autoencoding_goes_on_to_the_same_bits() {
    let (scratch, mut how) = (Scratch::new("mae"), masked(3, 1e-3));
    let (whole, losses, _) = mae(&how, None, &scratch.0);
    assert_eq!(losses.len(), 12);
    for stop in [5, 8] {
        assert!(mae(&how, Some(stop), &scratch.0).0.is_none());
        let (rest, later, _) = mae(&how, None, &scratch.0);
        assert!(rest == whole && later == losses[stop..], "stopped after step {stop}");
        fd_distill::snapshot::clear(&scratch.0).expect("checkpoints go");
    }
    // Micro-batches hide the same patches.
    how.recipe.accumulate = 2;
    let (_, halves, _) = mae(&how, None, &scratch.0);
    assert!(losses.iter().zip(&halves).all(|(a, b)| (a - b).abs() < 2e-3 * a), "{losses:?} {halves:?}");
}

#[test]
fn masked_autoencoding_says_that_it_learns_nothing() {
    let scratch = Scratch::new("stuck");
    let (_, _, warned) = mae(&masked(40, 0.0), None, &scratch.0);
    assert!(warned, "a learning rate of 0");
    fd_distill::snapshot::clear(&scratch.0).expect("checkpoints go");
    let (_, losses, warned) = mae(&masked(40, 2e-3), None, &scratch.0);
    assert!(!warned && losses[losses.len() - 1] < 0.9 * losses[0], "{losses:?}");
}

/// Probe accuracies of the encoder that a pretraining makes, and of its architecture with random weights.
fn probed(config: TableConfig, model: &ModelConfig, how: Pretrain, column: &str, dir: &Path) -> [f64; 2] {
    let context = Arc::new(Context::new(config, Device::CPU).expect("a context"));
    let mut graph = Graph::default();
    let mut add = |slug: &str, job: Job, inputs: Vec<NodeId>| {
        let work = TableWork { context: context.clone(), job, seed: 0 };
        let (identity, work) = (work.identity(), Box::new(work));
        graph.add(Spec { slug: slug.into(), title: slug.into(), identity, simd: None, inputs, steps: 0, flops: 0.0, memory: 0, work })
    };
    let trained = add("pretrain", Job::Pretrain { model: model.clone(), how: Box::new(how), on: false }, vec![]);
    let random = add("random", Job::Random { model: model.clone() }, vec![]);
    let probes = [trained, random].map(|encoder| add("probe", Job::Probe { model: model.clone(), normalise: None }, vec![encoder]));
    let store = Store::new(dir);
    let options = Options { jobs: 2, threads: 2, checkpoint_every: Duration::MAX };
    fd_distill::graph::run(&graph, &store, &probes, options, &Silent).expect("two probes");
    probes.map(|id| store.done(graph.node(id)).expect("whole").expect("done").accuracy[column])
}

#[test]
fn masked_autoencoding_learns_features() {
    let (scratch, config) = (Scratch::new("learns"), table(100));
    let model = config.teachers[0].model.clone();
    let [trained, random] = probed(config, &model, Pretrain::Mae { train: masked(60, 2e-3) }, "probe-avg", &scratch.0);
    assert!(trained > random + 3.0, "masked autoencoding {trained:.2} %, random weights {random:.2} %");
}

#[test]
fn what_cannot_be_masked_is_refused_by_key() {
    let config = table(20);
    let base = config.teachers[0].model.clone();
    let said = |change: &dyn Fn(&mut Masked), model: &ModelConfig| {
        let mut how = masked(3, 1e-3);
        change(&mut how);
        how.check("teachers.MAE.pretrain.train", model, 200).expect_err("a refusal").to_string()
    };
    assert!(said(&|m| m.decoder.mask_ratio = 1.0, &base).contains("teachers.MAE.pretrain.train.decoder: model key `mask_ratio`"));
    assert!(said(&|m| m.decoder.decoder_num_heads = 5, &base).contains("decoder_num_heads"));
    assert!(said(&|m| m.recipe.batch = 0, &base).contains("recipe.batch"));
    assert!(said(&|_| (), &SwinConfig::default().into()).contains("masked autoencoding is for ViTs"));
    let ModelConfig::Vit(mut relative) = base else { panic!("a ViT") };
    (relative.position, relative.qkv_bias) = (fd_model::Position::Relative, QkvBias::Qv);
    assert!(said(&|_| (), &relative.into()).contains("`position`"));
}
