//! What is wrong is said in one line, and nothing is left behind.

use std::fs;
use std::path::Path;

use fd_compute::{DType, Layout, Params};
use fd_model::{Checkpoint, Init, ModelConfig, Statistics, SwinConfig, VitConfig, initialise};

use super::{Scratch, table};

/// Models to be written.
pub struct Model;

impl Model {
    /// A ViT for ten classes of grey images.
    pub fn vit() -> ModelConfig {
        let size =
            VitConfig { img_size: (28, 28), patch_size: 7, in_chans: 1, embed_dim: 16, depth: 2, num_heads: 2, ..VitConfig::default() };
        ModelConfig::from(size).fine_tuned(10)
    }

    /// A Swin for them.
    pub fn swin() -> ModelConfig {
        let size = SwinConfig { img_size: (28, 28), patch_size: 2, in_chans: 1, embed_dim: 8, window_size: 7, ..SwinConfig::default() };
        ModelConfig::from(SwinConfig { depths: vec![1, 1], num_heads: vec![1, 2], ..size }).fine_tuned(10)
    }
}

fn checkpoint(config: &ModelConfig) -> Checkpoint {
    let mut layout = Layout::builder();
    fd_model::Model::declare(config, &mut layout, "").unwrap();
    let mut params = Params::new(&layout.finish(), DType::F32);
    initialise(&mut params, "", config, Init::Xavier, 1);
    let channels = config.in_chans();
    let normalise = Statistics { mean: vec![0.3; channels], std: vec![0.35; channels] };
    Checkpoint::of(&params, "").described(config, Some(&normalise)).unwrap()
}

/// Writes a model's initial weights.
pub fn weights(path: &Path, config: ModelConfig) {
    checkpoint(&config).write(path).unwrap();
}

fn images(folder: &Path, classes: &[&str]) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/tests/fixtures/images");
    for class in classes {
        fs::create_dir_all(folder.join(class)).unwrap();
        for name in ["astronaut.png", "china.png"] {
            fs::copy(source.join(name), folder.join(class).join(name)).unwrap();
        }
    }
}

#[test]
fn files_and_data_that_do_not_fit() {
    let s = Scratch::new("files");
    let write = |name: &str, config: ModelConfig| weights(&s.path(name), config);
    write("good.safetensors", Model::vit());
    write("four.safetensors", Model::vit().fine_tuned(4));
    let ModelConfig::Vit(vit) = Model::vit() else { panic!("a ViT") };
    write("colour.safetensors", VitConfig { in_chans: 3, ..vit.clone() }.into());
    write("encoder.safetensors", VitConfig { num_classes: 0, head: fd_model::Head::Features, ..vit }.into());
    let mut nan = checkpoint(&Model::vit());
    nan.tensors.get_mut("blocks.1.mlp.fc1.weight").unwrap().data[5] = f32::NAN;
    nan.write(&s.path("nan.safetensors")).unwrap();
    let whole = fs::read(s.path("good.safetensors")).unwrap();
    fs::write(s.path("cut.safetensors"), &whole[..whole.len() - 100]).unwrap();
    fs::write(s.path("note.safetensors"), "not weights").unwrap();
    images(&s.path("one"), &["only"]);
    images(&s.path("two"), &["a", "b"]);
    images(&s.path("flat"), &[""]);
    images(&s.path("ten"), &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    fs::write(s.path("ten/3/china.png"), "no image").unwrap();
    let fashion = "fashion-mnist";
    // Model, data, other options; what is said.
    let cases: [(&str, &str, &[&str], &str); 28] = [
        ("nowhere.safetensors", fashion, &[], "nowhere.safetensors: "),
        ("note.safetensors", fashion, &[], "note.safetensors: "),
        ("cut.safetensors", fashion, &[], "cut.safetensors: "),
        ("nan.safetensors", fashion, &[], "blocks.1.mlp.fc1.weight"),
        ("encoder.safetensors", fashion, &[], "encoder.safetensors: has no classifier head: a landscape is of a fine-tuned model"),
        ("four.safetensors", fashion, &[], "four.safetensors: is a model of 4 classes, fashion-mnist test has 10"),
        ("colour.safetensors", fashion, &[], "colour.safetensors: is a model of 3 channels, fashion-mnist test has 1"),
        ("good.safetensors", "two", &[], "good.safetensors: is a model of 10 classes, two has 2"),
        ("good.safetensors", "one", &[], "one: 2 images of one class: a classifier's loss and accuracy need at least two"),
        ("good.safetensors", "flat", &[], "flat: has no labels"),
        ("good.safetensors", "elsewhere", &[], "elsewhere"),
        ("good.safetensors", "{ kind = \"idx\", images = \"none.gz\" }", &[], "none.gz"),
        ("good.safetensors", "{ kind = \"cifar\" }", &[], "--data { kind = \"cifar\" }: "),
        ("good.safetensors", "ten", &[], "china.png"),
        ("good.safetensors", fashion, &["--images", "1"], "1 images of one class"),
        ("good.safetensors", fashion, &["--points", "20"], "--points 20: expected an odd number"),
        ("good.safetensors", fashion, &["--range", "0"], "--range 0"),
        ("good.safetensors", fashion, &["--radius", "0.1,nan"], "--radius NaN"),
        ("good.safetensors", fashion, &["--seeds", "1,1"], "--seeds: 1 stands there twice"),
        ("good.safetensors", fashion, &["--tensors", "layers.*"], "good.safetensors: no tensor of the model is called `layers.*`"),
        ("good.safetensors", fashion, &["--hessian-tensors", "x"], "no tensor of the model is called `x`"),
        ("good.safetensors", fashion, &["good=four.safetensors"], "two models are called `good`"),
        ("good.safetensors", fashion, &["--hessian-iterations", "100000000"], "--hessian-iterations: needs"),
        ("good.safetensors", fashion, &["--directions", "18446744073709551615"], "--directions"),
        ("good.safetensors", fashion, &["--device", "cuda:0"], "cuda"),
        ("good.safetensors", fashion, &["--set", "depth=9"], "good.safetensors"),
        ("good.safetensors", fashion, &["--augment"], "--run"),
        ("good.safetensors", fashion, &["--filter", "cube"], "cube"),
    ];
    let wrong = cases.iter().filter_map(|(model, data, more, expected)| {
        let said = s.refused(&[&[*model, "--data", *data, "--out", "out"], *more].concat());
        assert!(!s.path("out").exists(), "{said}");
        (!said.contains(expected)).then(|| format!("`{expected}` is not in `{said}`"))
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Without data, without a model.
    assert!(s.refused(&["good.safetensors", "--out", "out"]).contains("--data"));
    assert!(s.refused(&["--out", "out", "--data", fashion]).contains("FILE"));
}

#[test]
fn a_folder_belongs_to_one_configuration() {
    let s = Scratch::new("folder");
    weights(&s.path("a.safetensors"), Model::vit());
    weights(&s.path("b.safetensors"), Model::vit().with_drop_path(0.3));
    let little = ["--data", "fashion-mnist", "--points", "3", "--images", "20", "--seeds", "0", "--directions", "0"];
    let args = |model: &'static str, more: &[&'static str]| -> Vec<&'static str> {
        [&[model, "--out", "out", "--hessian-iterations", "0", "--hessian-vectors", "0"], &little[..], more].concat()
    };
    s.says(&args("a.safetensors", &[]));
    let before = s.files("out");
    let no = |args: &[&str], expected: &str| {
        let said = s.refused(args);
        assert!(said.starts_with("out: holds another configuration (") && said.contains(expected), "{said}");
        assert_eq!(s.files("out"), before);
    };
    no(&args("a.safetensors", &["--range", "2"]), "settings.range is 1.0 there, 2.0 here");
    no(&args("a.safetensors", &["--image-seed", "3"]), "data.fingerprint is ");
    no(&args("a=b.safetensors", &[]), "models.0.model.drop_path_rate");
    // Where the file lies is not part of it.
    fs::create_dir(s.path("moved")).unwrap();
    fs::rename(s.path("a.safetensors"), s.path("moved/a.safetensors")).unwrap();
    s.says(&args("moved/a.safetensors", &[]));
    assert_eq!(s.files("out")["landscape.csv"], before["landscape.csv"]);
    s.says(&args("moved/a.safetensors", &["--range", "2", "--force"]));
    assert_ne!(s.files("out")["landscape.csv"], before["landscape.csv"]);
    fs::create_dir(s.path("thesis")).unwrap();
    fs::write(s.path("thesis/x.tex"), "mine").unwrap();
    let said = s.refused(&[&["moved/a.safetensors", "--out", "thesis"], &little[..]].concat());
    assert!(said.starts_with("thesis: is not empty and not a run directory"), "{said}");
}

#[test]
fn runs_that_are_not_there_or_not_done() {
    let s = Scratch::new("runs");
    fs::create_dir(s.path("empty")).unwrap();
    let no = |args: &[&str]| {
        let said = s.refused(&[args, &["--out", "out"]].concat());
        assert!(!s.path("out").exists(), "{said}");
        said
    };
    for run in ["nowhere", "empty"] {
        assert_eq!(no(&["--run", run]), format!("{run}: is no run directory of a table (it has no plan.json)"));
    }
    table::make(&s.path("run"));
    assert_eq!(no(&["--run", "run", "--column", "knn"]), "run: has no fine-tuning `knn`; there is fine-tune-6000");
    assert_eq!(no(&["--run", "run", "--run-seeds", "4"]), "run: has no model that was fine-tuned by fine-tune-6000 with seed 4");
    let said = no(&["--run", "run", "--row", "ViT"]);
    assert!(said.starts_with("run: has no row `ViT` that is fine-tuned by fine-tune-6000; there is Swin, supervised, "), "{said}");
    let stages = fs::read_dir(s.path("run/stages")).unwrap().map(|e| e.unwrap().path());
    let mut fine_tuned = stages.filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with("fine-tune-6000-vit-supervised-seed0"));
    fs::remove_file(fine_tuned.next().unwrap().join("done.json")).unwrap();
    let said = no(&["--run", "run", "--row", "ViT, supervised"]);
    assert!(said.ends_with("done.json: is not there: this model is not fine-tuned yet"), "{said}");
    fs::write(s.path("run/plan.json"), "{").unwrap();
    assert!(no(&["--run", "run"]).starts_with("run/plan.json: "));
}
