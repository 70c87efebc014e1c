//! Fine-tunings after one another: with a learning rate of zero, what comes out is what went in.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use fd_distill::config::{self, Source};
use fd_distill::table::TableConfig;
use fd_model::Checkpoint;
use toml::{Table, Value};

const SMOKE: &str = include_str!("../../../experiments/tables/smoke.toml");

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chain-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn run(&self, table: &Table) -> Output {
        std::fs::write(self.0.join("x.toml"), toml::to_string(table).unwrap()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_distill"));
        let places: &[&str] =
            if self.0.join("elsewhere").exists() || self.0.join("gone").exists() { &["--data", "shapes=elsewhere"] } else { &[] };
        command.args(["run", "x.toml"]).args(places).current_dir(&self.0).env_remove("RUST_LOG").stdin(Stdio::null());
        command.output().unwrap()
    }

    /// The weights of a stage, by the beginning of its directory's name.
    fn weights(&self, stage: &str) -> Checkpoint {
        let stages = std::fs::read_dir(self.0.join("runs/smoke/stages")).unwrap().map(|e| e.unwrap().path());
        let named: Vec<PathBuf> = stages.filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with(stage)).collect();
        assert_eq!(named.len(), 1, "{stage}: {named:?}");
        Checkpoint::read(&named[0].join("weights.safetensors")).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The smoke table with one teacher and without controls: `first` (a step or two of learning), then `second`, which learns nothing.
fn table(second: &str) -> Table {
    let mut table: Table = toml::from_str(SMOKE).unwrap();
    table["columns"] = "['second']".parse().unwrap();
    table.insert("controls".into(), "none".into());
    table["teachers"].as_array_mut().unwrap().truncate(1);
    table["paper"] = Value::Array(vec![]);
    table["distil"]["recipe"]["epochs"] = 1.into();
    table["distil"]["recipe"]["warmup_epochs"] = 0.0.into();
    let columns = table["fine_tune"].as_array_mut().unwrap();
    for (column, name) in columns.iter_mut().zip(["first", "second"]) {
        column["name"] = name.into();
        for (how, key, value) in ["train", "from_scratch"].iter().flat_map(|how| {
            [("epochs", Value::from(1)), ("warmup_epochs", 0.0.into()), ("batch", 2.into())].map(|(key, value)| (how, key, value))
        }) {
            column[*how]["recipe"][key] = value;
        }
    }
    columns[0]["labels_per_class"] = 1.into();
    for rate in ["lr", "warmup_lr", "min_lr"] {
        columns[1]["train"]["recipe"][rate] = 0.0.into();
    }
    let more: Table = toml::from_str(&format!("after = 'first'\n{second}")).unwrap();
    columns[1].as_table_mut().unwrap().extend(more);
    table
}

fn succeeded(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Names of tensors that are not the same in both.
fn changed(before: &Checkpoint, after: &Checkpoint) -> Vec<String> {
    let same = |(name, tensor): &(&String, &fd_model::Tensor)| before.tensors.get(*name) == Some(*tensor);
    after.tensors.iter().filter(|pair| !same(pair)).map(|(name, _)| name.clone()).collect()
}

#[test]
fn a_fine_tuning_goes_on_from_the_one_before_it() {
    let s = Scratch::new("same");
    succeeded(&s.run(&table("")));
    for row in ["dino", "dino-fd"] {
        let (first, second) = (s.weights(&format!("first-{row}-seed0")), s.weights(&format!("second-{row}-seed0")));
        assert!(first.tensors.contains_key("head.weight"));
        assert_eq!(changed(&first, &second), [""; 0], "{row}: the classifier, too");
    }
    // The one before has learnt something, and what learns nothing is what it was.
    assert!(!changed(&s.weights("distil-dino-seed0"), &s.weights("first-dino-fd-seed0")).is_empty());
}

#[test]
fn positions_are_resized_on_the_way() {
    let s = Scratch::new("size");
    succeeded(&s.run(&table("img_size = [42, 42]")));
    let (first, second) = (s.weights("first-dino-fd-seed0"), s.weights("second-dino-fd-seed0"));
    let changed = changed(&first, &second);
    assert!(!changed.is_empty() && changed.iter().all(|name| name.ends_with("relative_position_bias_table")), "{changed:?}");
}

/// Grey images of three classes; `shapes/train` lies at `elsewhere/train`.
fn shapes(s: &Scratch) {
    for (c, class) in ["round", "square", "thin"].iter().enumerate() {
        let folder = s.0.join("elsewhere/train").join(class);
        std::fs::create_dir_all(&folder).unwrap();
        for i in 0..2u32 {
            let image = image::GrayImage::from_fn(20 + i, 30, |x, y| image::Luma([(x * 7 + y * (c as u32 + 2) * 3) as u8]));
            image.save(folder.join(format!("{i}.png"))).unwrap();
        }
    }
}

const SHAPES: &str = "{ kind = 'folder', path = 'shapes/train', channels = 1 }";

#[test]
fn a_classifier_of_other_classes_is_left_behind() {
    let s = Scratch::new("classes");
    shapes(&s);
    let mut other = table("");
    let first = other["fine_tune"][0].as_table_mut().unwrap();
    first.insert("data".into(), SHAPES.parse().unwrap());
    succeeded(&s.run(&other));
    let (first, second) = (s.weights("first-dino-fd-seed0"), s.weights("second-dino-fd-seed0"));
    assert_eq!((first.tensors["head.weight"].shape[0], second.tensors["head.weight"].shape[0]), (3, 10));
    let changed = changed(&first, &second);
    assert!(!changed.is_empty() && changed.iter().all(|name| name.starts_with("head.")), "{changed:?}");

    // It cannot be measured on test images of the table's classes.
    other["columns"] = "['first']".parse().unwrap();
    let err = String::from_utf8(s.run(&other).stderr).unwrap();
    assert!(err.contains("x.toml: fine_tune.first.data: has other classes than data.train"), "{err}");
    // Its recipe is held against its own images.
    other["columns"] = "['second']".parse().unwrap();
    other["fine_tune"][0]["train"]["recipe"]["batch"] = 7.into();
    let err = String::from_utf8(s.run(&other).stderr).unwrap();
    assert!(err.contains("fine_tune.first.train.recipe.batch: 7 does not fit 3 training images"), "{err}");
    std::fs::rename(s.0.join("elsewhere"), s.0.join("gone")).unwrap();
    let err = String::from_utf8(s.run(&other).stderr).unwrap();
    assert!(err.contains("fine_tune.first.data: elsewhere/train is not there (--data shapes=elsewhere)"), "{err}");
}

#[test]
fn chains_that_begin_nowhere_are_refused() {
    let said = |sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
        let text = toml::to_string(&table("")).unwrap().leak();
        let (config, _) = config::load::<TableConfig>(&Source::Embedded { name: "x.toml", text }, &sets).unwrap();
        config.check(600, 10).err().map_or(String::new(), |e| e.to_string())
    };
    assert_eq!(said(&[]), "");
    assert_eq!(said(&["fine_tune.second.after=third"]), "fine_tune.second.after: no fine-tuning `third`; there are first, second");
    assert_eq!(said(&["fine_tune.second.after=second"]), "fine_tune.second.after: `second` comes after itself");
}
