//! The commands on weight files, as users run them: look into a file, convert it, extract features of a folder, start a distillation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use fd_weights::WeightFile;

/// A folder of one test, with images: flat, and two classes of them.
struct Scratch(PathBuf);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A weight file of other code's class.
fn weights(name: &str) -> String {
    repository().join("crates/model/tests/fixtures/import").join(name).display().to_string()
}

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("weights-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let source = repository().join("crates/data/tests/fixtures/images");
        for folder in ["flat", "classes/a", "classes/b"] {
            std::fs::create_dir_all(path.join(folder)).unwrap();
        }
        for (i, image) in ["astronaut.png", "china.png", "flower.png", "jpeg420.jpg", "jpeggray.jpg"].into_iter().enumerate() {
            std::fs::copy(source.join(image), path.join("flat").join(image)).unwrap();
            let class = ["classes/a", "classes/b"][i % 2];
            std::fs::copy(source.join(image), path.join(class).join(image)).unwrap();
        }
        Scratch(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn distill(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_distill"));
        command.args(args).current_dir(&self.0).env_remove("RUST_LOG").stdin(Stdio::null());
        command.output().unwrap()
    }

    /// What a command that succeeds prints.
    fn says(&self, args: &[&str]) -> String {
        let output = self.distill(args);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {err}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The last line on standard error of a command that is refused.
    fn refused(&self, args: &[&str]) -> String {
        let output = self.distill(args);
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {err}");
        let last = err.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: "), "{err}");
        last.to_string()
    }

    fn tensors(&self, name: &str) -> BTreeMap<String, Vec<f64>> {
        let file = WeightFile::open(&self.path(name)).unwrap();
        file.entries().keys().map(|n| (n.clone(), file.read_f64(n).unwrap())).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_file_is_looked_into() {
    let s = Scratch::new("inspect");
    let said = s.says(&["inspect", &weights("dino_training.pth")]);
    for part in ["PyTorch zip archive", "SHA-256", "student.module.backbone", "teacher.backbone", "epoch = ", "f32", "elsewhere"] {
        assert!(said.contains(part), "`{part}` is not in {said}");
    }
    let json = s.says(&["inspect", "--json", "--key", "teacher", &weights("dino_training.pth")]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((json["models"][0]["at"].as_str(), json["models"][0]["refused"].as_u64()), (Some("teacher.backbone"), Some(0)));
    assert!(json["tensors"].as_array().unwrap().iter().any(|t| t["statistics"]["std"].as_f64() > Some(0.1)));
    // Held against something else, it says no.
    let output = s.distill(&["inspect", "--model", "vit-base", "--quick", &weights("timm_vit.safetensors")]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("REFUSED"), "{said}");
    std::fs::write(s.path("note.txt"), "not weights").unwrap();
    assert!(s.refused(&["inspect", "note.txt"]).contains("note.txt"));
    assert!(s.refused(&["inspect", "nowhere.pth"]).contains("nowhere.pth"));
}

#[test]
fn a_pickle_that_wants_to_run_something_is_refused_by_name() {
    let s = Scratch::new("hostile");
    let hostile = repository().join("crates/weights/tests/fixtures/torch/hostile/system.pth").display().to_string();
    for args in [vec!["inspect", &hostile], vec!["convert", &hostile, "out.safetensors", "--to", "timm"]] {
        let said = s.refused(&args);
        assert!(said.contains("system.pth") && said.contains("posix.system") && said.contains("nothing was run"), "{said}");
    }
    assert!(!s.path("out.safetensors").exists());
}

#[test]
fn weights_go_to_other_code_and_back() {
    let s = Scratch::new("convert");
    let said = s.says(&["convert", &weights("timm_beit_shared.safetensors"), "hf", "--to", "hf"]);
    assert!(said.contains("BeitModel.from_pretrained(\"hf\""), "{said}");
    let config = std::fs::read_to_string(s.path("hf/config.json")).unwrap();
    assert!(config.contains("\"use_shared_relative_position_bias\": true"), "{config}");
    let said = s.says(&["convert", "hf/model.safetensors", "back.safetensors", "--to", "timm"]);
    assert!(said.contains("Beit(") && said.contains("strict=True"), "{said}");
    let (there, back) = (WeightFile::open(Path::new(&weights("timm_beit_shared.safetensors"))).unwrap(), s.tensors("back.safetensors"));
    assert_eq!(there.entries().keys().collect::<Vec<_>>(), back.keys().collect::<Vec<_>>());
    back.iter().for_each(|(name, values)| assert_eq!(there.read_f64(name).unwrap(), *values, "{name}"));
    assert!(s.refused(&["convert", "hf/model.safetensors", "back.safetensors", "--to", "timm"]).contains("--force"));
    s.says(&["convert", "hf/model.safetensors", "back.safetensors", "--to", "official", "--dtype", "f16", "--force"]);
    let said = s.refused(&["convert", &weights("dino_training.pth"), "x.safetensors", "--to", "timm"]);
    assert!(said.contains("holds 2 models") && said.contains("teacher.backbone"), "{said}");
    let said = s.refused(&["convert", &weights("clip_openai.pt"), "x.safetensors", "--to", "timm", "--model", "vit-base"]);
    assert!(said.contains("a norm before the blocks") && said.contains("asked for vit-base"), "{said}");
    let said = s.refused(&["convert", &weights("hf_beit_blocks.safetensors"), "x.safetensors", "--to", "timm"]);
    assert!(said.contains("missing: `norm.weight`"), "{said}");
}

#[test]
fn features_of_a_folder() {
    let s = Scratch::new("features");
    let model = weights("timm_vit.safetensors");
    let head = ["features", "--weights", &model, "--set", "num_heads=2"];
    let with = |more: &[&str]| s.says(&[&head[..], more].concat());
    with(&["--data", "flat", "--out", "all.safetensors", "--features", "tokens,cls,mean,blocks.1", "--batch", "2"]);
    let all = s.tensors("all.safetensors");
    assert_eq!(all.keys().collect::<Vec<_>>(), ["blocks.1", "cls", "mean", "tokens"]);
    let file = WeightFile::open(&s.path("all.safetensors")).unwrap();
    assert_eq!((&file.entries()["tokens"].shape[..], &file.entries()["cls"].shape[..]), (&[5, 17, 32][..], &[5, 32][..]));
    assert!(file.notes()["files"].contains("\"astronaut.png\",\"china.png\""), "{:?}", file.notes());
    // The CLS token stands first, the mean is that of the others.
    for image in 0..5 {
        let tokens = &all["tokens"][image * 17 * 32..][..17 * 32];
        assert_eq!(tokens[..32], all["cls"][image * 32..][..32]);
        let mean: f64 = (1..17).map(|t| tokens[t * 32 + 3]).sum::<f64>() / 16.0;
        assert!((mean - all["mean"][image * 32 + 3]).abs() < 1e-6);
    }
    // The same as rows of text, with classes, in another batch.
    with(&["--data", "classes", "--out", "rows.csv", "--batch", "3"]);
    let text = std::fs::read_to_string(s.path("rows.csv")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("file,class,cls.0,cls.1") && lines.len() == 6, "{}", lines[0]);
    let row: Vec<&str> = lines[1].split(',').collect();
    assert_eq!((row[0], row[1], row.len()), ("a/astronaut.png", "a", 2 + 64));
    assert!((row[2].parse::<f64>().unwrap() - all["cls"][0]).abs() < 1e-5);
    with(&["--data", "classes", "--out", "labelled.safetensors", "--half"]);
    let labelled = s.tensors("labelled.safetensors");
    assert_eq!(labelled["labels"], [0.0, 0.0, 0.0, 1.0, 1.0]);
    assert!((labelled["cls"][0] - all["cls"][0]).abs() < 2e-3);
    let no = |more: &[&str]| s.refused(&[&head[..], more].concat());
    assert!(no(&["--data", "flat", "--out", "all.safetensors"]).contains("--force"));
    assert!(no(&["--data", "flat", "--out", "x.csv", "--features", "tokens"]).contains("many rows an image"));
    assert!(no(&["--data", "flat", "--out", "x.txt"]).contains(".safetensors or .csv"));
    assert!(no(&["--data", "flat", "--out", "x.csv", "--features", "projected"]).contains("no projection"));
    assert!(no(&["--data", "flat", "--out", "x.csv", "--features", "blocks.7"]).contains("no block 7"));
    assert!(no(&["--data", "nowhere", "--out", "x.csv"]).contains("nowhere"));
    std::fs::write(s.path("flat/broken.png"), b"no image").unwrap();
    assert!(no(&["--data", "flat", "--out", "x.csv"]).contains("broken.png"));
    assert!(!s.path("x.csv").exists());
}

/// A run that was stopped by an unreadable image goes on behind it, to the same bytes as one that was never stopped.
#[test]
fn an_extraction_goes_on_where_it_was_left() {
    let s = Scratch::new("resumed");
    let model = weights("timm_vit.safetensors");
    let head = ["features", "--weights", &model, "--set", "num_heads=2", "--data", "flat", "--batch", "1", "--features", "cls,tokens"];
    let with = |out: &str| s.distill(&[&head[..], &["--out", out]].concat());
    assert!(with("whole.safetensors").status.success());
    // As an interrupted run leaves it: the first two images are written, and noted.
    let whole = std::fs::read(s.path("whole.safetensors")).unwrap();
    let identity = WeightFile::open(&s.path("whole.safetensors")).unwrap().notes()["made_from"].clone();
    let file = WeightFile::open(&s.path("whole.safetensors")).unwrap();
    let body = whole.len() - 4 * (5 * 32 + 5 * 17 * 32);
    let mut part = whole.clone();
    for (first, row) in [(body, 32), (body + 4 * 5 * 32, 17 * 32)] {
        part[first + 2 * 4 * row..first + 5 * 4 * row].fill(0);
    }
    assert_ne!(part, whole);
    drop(file);
    let note = |done: usize, identity: &str| format!("{{\"done\": {done}, \"bytes\": {}, \"identity\": {identity}}}", part.len());
    std::fs::write(s.path("again.safetensors.part"), &part).unwrap();
    std::fs::write(s.path("again.safetensors.part.json"), note(2, &identity)).unwrap();
    let output = with("again.safetensors");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("2 of them by an earlier run"), "{said} {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read(s.path("again.safetensors")).unwrap(), whole);
    assert!(!s.path("again.safetensors.part").exists() && !s.path("again.safetensors.part.json").exists());
    // One that was begun otherwise is not mixed with it.
    std::fs::write(s.path("other.safetensors.part"), &part).unwrap();
    std::fs::write(s.path("other.safetensors.part.json"), note(2, &identity.replace("\"batch\":1", "\"batch\":2"))).unwrap();
    let said = s.refused(&[&head[..], &["--out", "other.safetensors"]].concat());
    assert!(said.contains("begun with another `batch`") && said.contains("--force"), "{said}");
    assert_eq!(std::fs::read(s.path("other.safetensors.part")).unwrap(), part);
}

#[test]
fn neighbours() {
    let s = Scratch::new("knn");
    let model = weights("timm_vit.safetensors");
    let said = s.says(&["knn", "--weights", &model, "--train", "classes", "--test", "classes", "--k", "1"]);
    assert!(said.starts_with("1-NN, cls: 100.00 % of 5 test images, 5 training images of 2 classes"), "{said}");
    assert!(s.refused(&["knn", "--weights", &model, "--train", "flat", "--test", "flat"]).contains("has no classes"));
    assert!(s.refused(&["knn", "--weights", &model, "--train", "classes", "--test", "flat"]).contains("same classes"));
}

/// The README's second example, in small: a teacher of other code, a folder without labels, a student for timm.
#[test]
fn a_checkpoint_and_a_folder_become_a_student_for_timm() {
    let s = Scratch::new("init");
    let teacher = weights("dino_training.pth");
    let said = s.refused(&["init", "--teacher", &teacher, "--data", "flat"]);
    assert!(said.contains("holds 2 models"), "{said}");
    let text = s.says(&["init", "--teacher", &teacher, "--key", "teacher", "--set", "num_heads=2", "--data", "flat"]);
    assert!(text.contains("distill run") && text.contains("shared-relative") && text.contains("key = \"teacher\""), "{text}");
    s.says(&["init", "--teacher", &teacher, "--key", "teacher", "--set", "num_heads=2", "--data", "flat", "--out", "fd.toml"]);
    let run = ["run", "fd.toml", "--set", "distil.recipe.epochs=2", "--set", "distil.recipe.warmup_epochs=0.5"];
    let said = s.says(&run);
    let student = "runs/fd/weights/teacher-student-seed0.safetensors";
    assert!(said.contains(student), "{said}");
    // The same command finds all of it done.
    assert!(s.says(&run).contains("0 stages ran"), "again");
    let said = s.says(&["convert", student, "student.safetensors", "--to", "timm"]);
    assert!(said.contains("Beit(") && said.contains("num_heads=2") && said.contains("global_pool='token'"), "{said}");
    s.says(&["inspect", "student.safetensors"]);
    // The file's checksum is in the run.
    let given = std::fs::read_dir(s.path("runs/fd/stages")).unwrap().map(|e| e.unwrap().path().join("stage.json"));
    let stages: Vec<String> = given.map(|p| std::fs::read_to_string(p).unwrap()).collect();
    let sum = WeightFile::open(Path::new(&teacher)).unwrap().sha256().unwrap();
    assert!(stages.iter().any(|text| text.contains(&sum)), "{stages:?}");
    // Asked for another model, the teacher is refused before anything runs.
    let said = s.refused(&["run", "fd.toml", "--out", "other", "--set", "teachers.teacher.model.depth=3"]);
    assert!(said.contains("depth = 1 (asked: 3)") && !s.path("other").exists(), "{said}");
    let said = s.refused(&["run", "fd.toml", "--out", "other", "--set", "teachers.teacher.key=head"]);
    assert!(said.contains("no model at `head`"), "{said}");
}
