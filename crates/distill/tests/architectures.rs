//! Swin transformers, several teachers, maps of different grids, other image sizes: through the binary, every stage, cut to a few steps.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use fd_compute::{DType, Layout, Params};
use fd_distill::table::MadeModel;
use fd_model::{Checkpoint, Init, Model, ModelConfig, VitConfig, initialise};

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../experiments/tables/swin.toml");
const SMOKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../experiments/tables/smoke.toml");

/// An empty folder for one test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("architectures-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    /// `distill table --config CONFIG --out run` with overrides.
    fn table(&self, config: &str, sets: &[&str], more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_distill"));
        command.args(["table", "--config", config, "--out", "run", "--jobs", "2"]).args(more);
        for set in sets {
            command.args(["--set", set]);
        }
        command.current_dir(&self.0).env_remove("RUST_LOG").stdin(Stdio::null()).output().unwrap()
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join("run").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// The `metrics.csv` of the stage whose directory begins with this.
    fn metrics(&self, stage: &str) -> String {
        let stages = std::fs::read_dir(self.0.join("run/stages")).unwrap().map(|e| e.unwrap().path());
        let found = stages.into_iter().find(|p| p.file_name().unwrap().to_string_lossy().starts_with(stage));
        std::fs::read_to_string(found.unwrap_or_else(|| panic!("no stage {stage}")).join("metrics.csv")).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One epoch of everything on a few images.
const SHORT: [&str; 11] = [
    "data.train_per_class=16",
    "data.test_per_class=10",
    "teachers.0.pretrain.train.recipe.epochs=1",
    "teachers.0.pretrain.train.recipe.warmup_epochs=0.5",
    "teachers.1.pretrain.train.recipe.epochs=1",
    "teachers.1.pretrain.train.recipe.warmup_epochs=0.5",
    "distil.recipe.epochs=1",
    "distil.recipe.warmup_epochs=0.5",
    "fine_tune.0.train.recipe.epochs=1",
    "fine_tune.0.from_scratch.recipe.epochs=1",
    "probe.epochs=6",
];

fn short(more: &[&'static str]) -> Vec<&'static str> {
    let warmups = ["fine_tune.0.train.recipe.warmup_epochs=0.5", "fine_tune.0.from_scratch.recipe.warmup_epochs=0.5"];
    SHORT.iter().copied().chain(warmups).chain(more.iter().copied()).collect()
}

fn succeeded(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    out.into_owned()
}

fn refused(output: &Output, words: &str) {
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && err.lines().count() == 1 && err.contains(words), "{err}");
}

#[test]
fn a_swin_learns_from_a_swin_from_a_vit_and_from_both() {
    let scratch = Scratch::new("swin");
    let table = succeeded(&scratch.table(CONFIG, &short(&[]), &[]));
    for row in ["Swin, supervised + FD", "ViT, supervised + FD", "Swin and ViT + FD", "Swin and ViT: against FD from ViT, supervised alone"]
    {
        assert!(table.contains(row), "no {row} in {table}");
    }
    // Losses of several teachers apart: the total is their weighted sum.
    let metrics = scratch.metrics("distil-swin-and-vit");
    let mut lines = metrics.lines().map(|l| l.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let last = lines.next_back().unwrap();
    let at = |name: &str| last[header.iter().position(|h| *h == name).unwrap()].parse::<f64>();
    let (loss, first, second) = (at("loss").unwrap(), at("loss_1").unwrap(), at("loss_2").unwrap());
    assert!((loss - 0.5 * first - 0.5 * second).abs() < 1e-6 * loss && first != second, "{loss} {first} {second}");
    assert!(at("loss_3").is_err());
    assert!(scratch.metrics("distil-swin-supervised").lines().last().unwrap().ends_with(",,,,"));
    // Recomputation changes no bit, and no stage runs again for it.
    let again = succeeded(&scratch.table(CONFIG, &short(&[]), &[]));
    assert!(again.contains("0 stages ran"), "{again}");
}

#[test]
fn fine_tuning_at_another_image_size_interpolates_positions() {
    let scratch = Scratch::new("larger");
    let larger = std::fs::read_to_string(SMOKE).unwrap().replacen("labels_per_class = 0", "labels_per_class = 0\nimg_size = [42, 42]", 1);
    let config = scratch.0.join("larger.toml");
    std::fs::write(&config, larger).unwrap();
    let sets = short(&["teachers.0.train_on_epochs=0", "teachers.1.train_on_epochs=0", "columns=[\"fine-tune-600\"]"]);
    succeeded(&scratch.table(&config.display().to_string(), &sets, &[]));
    assert!(scratch.text("table.csv").contains("fine-tune-600"));
    let text = std::fs::read_to_string(&config).unwrap().replace("[42, 42]", "[40, 40]");
    std::fs::write(&config, text).unwrap();
    refused(&scratch.table(&config.display().to_string(), &sets, &["--force"]), "`img_size`");
}

#[test]
fn a_teacher_may_have_a_student_of_its_own() {
    let scratch = Scratch::new("own");
    let config: toml::Table = toml::from_str(&std::fs::read_to_string(CONFIG).unwrap()).unwrap();
    let swins = (config["teachers"][0]["model"].clone(), config["student"].clone());
    let (model, own) = (format!("teachers.1.model={}", swins.0), format!("teachers.1.student={}", swins.1));
    let gains = "gains=[{ of = [\"DINO\"], against = [\"supervised\"] }]";
    let mut sets = short(&["teachers.0.train_on_epochs=0", "teachers.1.train_on_epochs=0"]);
    sets.extend([model.as_str(), own.as_str(), gains, "columns=[\"fine-tune-600\", \"probe-cls\", \"probe-avg\", \"knn\"]"]);
    let table = succeeded(&scratch.table(SMOKE, &sets, &[]));
    let line = |name: &str| table.lines().find(|l| l.starts_with(&format!("| {name} "))).unwrap_or_else(|| panic!("no {name} in {table}"));
    let cells = |name: &str| line(name).split('|').map(|c| c.trim().to_string()).collect::<Vec<_>>();
    // A Swin has no CLS token to probe; its neighbours are those of its average.
    for swin in ["supervised", "supervised + FD", "random weights, supervised architecture (control)"] {
        let cells = cells(swin);
        assert!(cells[3] == "–" && cells[2] != "–" && cells[4] != "–" && cells[5] != "–", "{cells:?}");
    }
    for vit in ["DINO", "DINO + FD", "random weights, student architecture (control)", "random weights, DINO architecture (control)"] {
        assert!(cells(vit)[2..6].iter().all(|c| c != "–"), "{vit}");
    }
    assert!(line("encoder").contains("20-NN, CLS or average"), "{table}");
    assert!(table.contains("random weights, supervised student architecture"), "{table}");
    // Only the fine-tuning and the average are measured of both, so gains are compared there.
    let gains = cells("FD's gain: DINO against supervised");
    assert!(gains[2] != "–" && gains[3] == "–" && gains[4] != "–", "{gains:?}");
    assert!(table.contains("DINO, fine-tune, 600 labels: "), "{table}");
    // Every model is listed with its file: encoders, and what was fine-tuned of every row.
    let models: Vec<MadeModel> = serde_json::from_str(&scratch.text("models.json")).unwrap();
    let tuned = |row: &str| models.iter().filter(|m| m.row == row && m.column.as_deref() == Some("fine-tune-600")).count();
    assert_eq!(["DINO", "DINO + FD", "supervised", "supervised + FD"].map(tuned), [1; 4]);
    let encoders: Vec<&str> = models.iter().filter(|m| m.column.is_none()).map(|m| m.file.as_str()).collect();
    let names = ["dino", "dino-student-seed0", "supervised", "supervised-student-seed0"];
    assert_eq!(encoders, names.map(|name| format!("weights/{name}.safetensors")));
    for model in &models {
        let described = Checkpoint::read(&scratch.0.join("run").join(&model.file)).unwrap();
        assert!(described.metadata.contains_key("model") && described.metadata.contains_key("normalise"), "{}", model.file);
    }
}

#[test]
fn a_vit_learns_the_map_of_an_earlier_stage() {
    let scratch = Scratch::new("stage");
    let student: toml::Table = toml::from_str(&std::fs::read_to_string(SMOKE).unwrap()).unwrap();
    let student = format!("teachers.0.student={}", student["student"]);
    let columns = "columns=[\"probe-avg\"]";
    let run = |more: &[&str], options: &[&str]| {
        let sets = [&short(&[])[..], &[columns, &student, "distil.objective.target=patches"], more].concat();
        succeeded(&scratch.table(CONFIG, &sets, &[&["--only", "Swin, supervised"], options].concat()))
    };
    let last = run(&[], &[]);
    // The teacher is the same, pretrained and measured whole: only the student's stages run again.
    let earlier = run(&["teachers.0.model.out_stage=1"], &["--force"]);
    let line = |table: &str, row: &str| table.lines().find(|l| l.starts_with(&format!("| {row} "))).map(String::from);
    assert_eq!(line(&last, "Swin, supervised"), line(&earlier, "Swin, supervised"));
    assert!(earlier.contains("\n2 stages ran, "), "{earlier}");
}

#[test]
fn a_checkpoint_of_another_grid_loads_when_asked_for() {
    let scratch = Scratch::new("grid");
    // As the smoke table's teacher, but for images of 56 pixels.
    let model = VitConfig { img_size: (56, 56), patch_size: 7, in_chans: 1, embed_dim: 64, depth: 4, num_heads: 4, ..VitConfig::default() };
    let model = ModelConfig::from(model);
    let mut layout = Layout::builder();
    Model::declare(&model, &mut layout, "").unwrap();
    let mut params = Params::new(&layout.finish(), DType::F32);
    initialise(&mut params, "", &model, Init::Xavier, 1);
    let file = scratch.0.join("teacher.safetensors");
    Checkpoint::of(&params, "").write(&file).unwrap();
    let file = file.display().to_string();
    let sets = ["distil.recipe.epochs=1", "distil.recipe.warmup_epochs=0.5", "columns=[\"probe-avg\"]", "teachers.0.train_on_epochs=0"];
    refused(&scratch.table(SMOKE, &sets, &["--teacher", &file]), "interpolate");
    let output = scratch.table(SMOKE, &sets, &["--teacher", &file, "--interpolate"]);
    succeeded(&output);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("`pos_embed` interpolated from 8 x 8 to 4 x 4"), "{told}");
}

#[test]
fn what_does_not_go_together_is_told_by_key() {
    let scratch = Scratch::new("refused");
    let with = |set: &'static str, words: &str| refused(&scratch.table(CONFIG, &short(&[set]), &[]), words);
    with("student.window_size=5", "student: model key `window_size`");
    with("teachers.0.model.window_size=9", "teachers.Swin, supervised: model key `window_size`");
    with("student.num_heads=[3, 4]", "`num_heads`");
    with("student.depths=[2, 2, 2, 2]", "`num_heads`");
    with("student.patch_size=4", "`img_size`");
    with("student.position=\"tables\"", "tables");
    with("distil.objective.target=\"map\"", "CLS token");
    with("ensembles.0.members.0.teacher=\"DINO\"", "no teacher `DINO`");
    with("ensembles.0.members.0.weight=0.0", "weight");
    with("teachers.0.student={ preset = \"swinv2-t\" }", "teachers.Swin, supervised.student.img_size");
    with("gains=[{ of = [\"MAE\"], against = [\"ViT, supervised\"] }]", "gains: no teacher `MAE`");
    with("gains=[{ of = [\"ViT, supervised\"], against = [\"ViT, supervised\"] }]", "stands there twice");
    let config: toml::Table = toml::from_str(&std::fs::read_to_string(CONFIG).unwrap()).unwrap();
    let swin = format!("teachers.1.model={}", config["teachers"][0]["model"]);
    let output = scratch.table(CONFIG, &short(&["columns=[\"probe-cls\"]"]).into_iter().chain([&swin[..]]).collect::<Vec<_>>(), &[]);
    refused(&output, "columns: probe-cls: no model here has a CLS token");
    // Sizes of fine-tuning are refused before the first step, too.
    let config = scratch.0.join("sizes.toml");
    let text = std::fs::read_to_string(CONFIG).unwrap().replace("\nlabels_per_class = 0", "\nlabels_per_class = 0\nimg_size = [30, 30]");
    std::fs::write(&config, text).unwrap();
    refused(&scratch.table(&config.display().to_string(), &short(&[]), &[]), "fine_tune.fine-tune-6000: model key `window_size`");
    assert!(!scratch.0.join("run").exists());
}
