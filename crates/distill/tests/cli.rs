//! The binary's manners: a user's mistake is exit code 2 with one line on standard error, and leaves nothing behind.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// An empty folder for one test, which is also its current directory.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn distill(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_distill"));
        command.args(args).current_dir(&self.0).env_remove("RUST_LOG").stdin(Stdio::null());
        command.output().unwrap()
    }

    /// Runs it, expects the mistake to be told in one line that holds all of `parts`, and nothing new in the folder.
    fn refused(&self, args: &[&str], parts: &[&str]) {
        let before = self.names();
        let output = self.distill(args);
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(2), "{args:?}: {err}");
        assert_eq!(out, "", "{args:?}");
        assert!(err.starts_with("error: ") && err.ends_with('\n') && err.lines().count() == 1, "{args:?}: {err:?}");
        for part in parts {
            assert!(err.contains(part), "{args:?}: `{part}` is not in {err}");
        }
        assert_eq!(self.names(), before, "{args:?}");
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const SMOKE: &str = include_str!("../../../experiments/tables/smoke.toml");

#[test]
fn words_it_does_not_know() {
    let s = Scratch::new("words");
    s.refused(&[], &["subcommand"]);
    s.refused(&["tabel"], &["tabel", "table"]);
    s.refused(&["table", "--prest", "smoke"], &["--prest"]);
    s.refused(&["table", "--preset", "huge"], &["huge", "smoke", "main"]);
    s.refused(&["table", "--preset", "smoke", "--config", "x.toml"], &["--preset", "--config"]);
    s.refused(&["table", "--preset", "mini"], &["mini", "smoke", "main", "small"]);
    s.refused(&["table", "--seeds", "1,x"], &["1,x", "expected"]);
    s.refused(&["table", "--jobs", "0"], &["--jobs", "1 to 256"]);
    for wrong in ["-1", "nan", "soon", "1e300"] {
        s.refused(&["table", &format!("--checkpoint-every={wrong}")], &["--checkpoint-every", wrong, "expected a number of seconds"]);
    }
    s.refused(&["config", "--preset", "smoke", "--config", "x.toml"], &["--preset", "--config"]);
    s.refused(&["config", "distil.recip"], &["main.toml: no key `distil.recip`; nearest: `distil.recipe`"]);
    s.refused(&["config", "--config", "missing.toml"], &["missing.toml: "]);
    s.refused(&["doctor", "now"], &["now"]);
    s.refused(&["sweep"], &["<FILE>"]);
    s.refused(&["parity"], &["<DIR>"]);
    s.refused(&["bench"], &["subcommand"]);
    s.refused(&["bench", "fd-step", "--preset", "giant"], &["giant", "mini, tiny, vitb, vitl, swint"]);
    s.refused(&["bench", "fd-step", "--preset", "mini", "--batch", "0"], &["1 to 4096"]);
}

#[test]
fn devices_threads_and_instruction_sets() {
    let s = Scratch::new("global");
    for device in ["cuda:0", "cuda:77"] {
        s.refused(&["table", "--preset", "smoke", "--device", device], &[device]);
        s.refused(&["bench", "fd-step", "--preset", "mini", "--device", device], &[device]);
    }
    s.refused(&["table", "--device", "tpu"], &["tpu", "expected `auto`, `cpu` or `cuda:N`"]);
    s.refused(&["table", "--simd", "neon"], &["neon", "scalar, avx2 or avx512"]);
    s.refused(&["table", "--threads", "0"], &["1 to 1024"]);
    s.refused(&["table", "--threads", "many"], &["many"]);
    let levels = fd_compute::simd::Level::available();
    for level in [fd_compute::simd::Level::Avx2, fd_compute::simd::Level::Avx512] {
        if !levels.contains(&level) {
            s.refused(&["table", "--simd", level.name()], &[level.name(), "this machine has"]);
        }
    }
}

#[test]
fn configurations_that_cannot_be() {
    let s = Scratch::new("config");
    let unknown = s.file("unknown.toml", SMOKE.replace("[data]", "[data]\nsorted = true"));
    s.refused(&["table", "--config", &unknown], &["unknown.toml: line ", "unknown field `sorted`", "`train_per_class`"]);
    // Two teachers: the line is the second's.
    let teacher = s.file("teacher.toml", SMOKE.replace("name = \"supervised\"\n", "name = \"supervised\"\nsorted = true\n"));
    s.refused(&["table", "--config", &teacher], &["teacher.toml: line ", "unknown field `sorted`", "`train_on_epochs`"]);
    let typed = s.file("typed.toml", SMOKE.replace("seeds = [0]", "seeds = \"zero\""));
    s.refused(&["table", "--config", &typed], &["typed.toml: line ", "seeds", "expected a sequence"]);
    let broken = s.file("broken.toml", "name = \n");
    s.refused(&["table", "--config", &broken], &["broken.toml: line 1: "]);
    s.refused(&["table", "--config", "missing.toml"], &["missing.toml: "]);
    s.refused(&["table", "--config", "."], &[".: "]);
    let outside = s.file("outside.toml", SMOKE.replace("name = \"smoke\"", "name = \"../up\""));
    s.refused(&["table", "--config", &outside], &["outside.toml: ", "`name`", "--out"]);
}

#[test]
fn overrides_that_hit_nothing() {
    let s = Scratch::new("set");
    let smoke = |set: &str, parts: &[&str]| s.refused(&["table", "--preset", "smoke", "--set", set], parts);
    smoke("distil.recipe.epoch=1", &["smoke.toml: --set distil.recipe.epoch=1: no key", "nearest: `distil.recipe.epochs`"]);
    smoke("distil", &["--set distil: expected `key.path=value`"]);
    smoke("distil.recipe.epochs=many", &["--set distil.recipe.epochs=many: ", "invalid type: string \"many\", expected usize"]);
    smoke("student.num_heads=7", &["num_heads"]);
    smoke("seeds=[]", &["seeds"]);
    let dino = "teachers.DINO.pretrain.train.recipe";
    smoke(&format!("{dino}.epoch=1"), &["smoke.toml: --set ", ": no key", "nearest: `", ".epochs`"]);
    smoke(&format!("{dino}.batch=161000"), &["smoke.toml", "teachers.DINO.pretrain", "batch"]);
    smoke("teachers.DINOS.seed=1", &["no key `teachers.DINOS`", "DINO"]);
    smoke("teachers.supervised.name=DINO", &["teachers: `DINO` stands there twice"]);
    let (pretrained, scratch) = ("fine_tune.fine-tune-200.train.recipe", "fine_tune.fine-tune-200.from_scratch.recipe");
    smoke(&format!("{pretrained}.lr=inf"), &[&format!("{pretrained}.lr: inf")]);
    smoke(&format!("{pretrained}.accumulate=0"), &[&format!("{pretrained}.accumulate: 0 does not divide a batch of 32")]);
    smoke(&format!("{scratch}.epochs=0"), &[&format!("{scratch}.epochs: 0 is not from 1 to 1000000")]);
    smoke(&format!("{scratch}.batch=201"), &[&format!("{scratch}.batch: 201 does not fit 200 training images")]);
    smoke("columns=[\"top-5\"]", &["columns: no measure `top-5`", "fine-tune-600", "probe-cls"]);
    smoke("name=a\nb", &["smoke.toml: key `name`: \"a\\nb\" cannot be the name of a directory"]);
}

#[test]
fn run_directories_that_cannot_be_written() {
    let s = Scratch::new("out");
    let file = s.file("taken", "precious");
    let below = format!("{file}/run/a");
    s.file("thesis.tex", "mine");
    for out in [file.as_str(), below.as_str(), "/proc/fd-distill/run", "."] {
        s.refused(&["table", "--preset", "smoke", "--out", out], &[&format!("error: {out}: ")]);
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn goldens_that_are_not_there() {
    let s = Scratch::new("goldens");
    s.refused(&["parity", "nowhere"], &["nowhere"]);
    s.refused(&["parity", "."], &["no golden cases"]);
}

#[test]
fn help_and_version_are_no_mistakes() {
    let s = Scratch::new("help");
    for args in [&["--help"][..], &["--version"], &["table", "--help"], &["bench", "fd-step", "--help"]] {
        let output = s.distill(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn keys_in_lines_and_in_json() {
    let s = Scratch::new("keys");
    let told = |args: &[&str]| {
        let output = s.distill(args);
        assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let all = told(&["config", "--preset", "smoke"]);
    for block in ["\n[distil.recipe] ", "\n[teachers.*.model] where teachers.*.model.kind = \"swin\": ", "\n[ensembles.*.members.*] "] {
        assert!(all.contains(block), "{block} is not in {all}");
    }
    assert!(all.lines().all(|l| l.chars().count() <= 140), "{}", all.lines().max_by_key(|l| l.chars().count()).unwrap());
    let epochs = told(&["config", "--preset", "smoke", "distil.recipe.epochs"]);
    let line = epochs.lines().find(|l| l.starts_with("  epochs ")).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>().join(" "), "epochs 3 integer in [1, 1000000] Passes over the training images.");
    // One key alone: its words are told, too.
    assert!(told(&["config", "distil.engine"]).contains("\ndfdx "));
    let file = s.file("own.toml", SMOKE.replace("workers = 0", "workers = 2"));
    let json = told(&["config", "--config", &file, "--json", "data.workers"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let key = &json["tables"][0]["keys"][0];
    assert!(json["config"].as_str().unwrap().ends_with("own.toml") && json["tables"].as_array().unwrap().len() == 1);
    assert_eq!(
        (&key["path"], &key["type"], &key["maximum"], &key["values"]),
        (&"data.workers".into(), &"integer".into(), &256.0.into(), &[2].into())
    );
}

#[test]
fn a_doctor_says_what_there_is() {
    let s = Scratch::new("doctor");
    let output = s.distill(&["doctor", "--threads", "2", "--simd", "scalar"]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
    for words in [env!("CARGO_PKG_VERSION"), "scalar in force", "2 in use", "calculates as it should", "GPU ", "NVRTC"] {
        assert!(told.contains(words), "{words} is not in {told}");
    }
    let output = s.distill(&["doctor", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), output.stdout.iter().filter(|b| **b == b'\n').count()), (Some(0), 1));
    assert_eq!((&json["version"], json["gpu"]["missing"].is_array()), (&env!("CARGO_PKG_VERSION").into(), true));
    assert_eq!(json["gpu"]["libraries"].as_array().unwrap().len(), 4);
}

/// A reader that leaves (`distill … | head -1`) is nobody's mistake.
#[cfg(unix)]
#[test]
fn a_closed_standard_output_is_silent() {
    let s = Scratch::new("pipe");
    let mut command = Command::new(env!("CARGO_BIN_EXE_distill"));
    command.args(["bench", "fd-step", "--preset", "mini", "--batch", "1", "--steps", "1", "--warmup", "0", "--threads", "1"]);
    let mut child = command.current_dir(&s.0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
}

/// A table as small as it gets.
fn quick() -> Vec<String> {
    let sets = ["data.train_per_class=16", "data.test_per_class=10", "columns=[\"fine-tune-200\",\"probe-avg\"]", "knn.k=5"];
    let probe = ["probe.epochs=1", "probe.warmup_epochs=0", "probe.batch=50"];
    let trained = ["teachers.DINO.pretrain.train", "teachers.supervised.pretrain.train", "distil"].map(String::from);
    let fine_tuned = ["train", "from_scratch"].map(|which| format!("fine_tune.fine-tune-200.{which}"));
    let short = trained.into_iter().chain(fine_tuned);
    let short = short.flat_map(|at| ["epochs=1", "warmup_epochs=0", "batch=20"].map(|set| format!("--set={at}.recipe.{set}")));
    let all = sets.iter().chain(&probe).map(|set| format!("--set={set}"));
    all.chain(["--set=fine_tune.fine-tune-200.labels_per_class=8".into()]).chain(short).collect()
}

/// End to end: what lies in its run directory.
#[test]
fn a_table_leaves_a_whole_run_directory() {
    let s = Scratch::new("table");
    let quick = quick();
    let mut args = vec!["table", "--preset", "smoke", "--seeds", "3,5", "--threads", "1", "--out", "runs/x"];
    args.extend(quick.iter().map(String::as_str));
    let output = s.distill(&args);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(out.starts_with("# smoke\n") && out.contains("Seeds: 3, 5.") && out.contains("| DINO + FD "), "{out}");
    let run = Scratch(s.0.join("runs/x"));
    let tables = ["table.csv", "table.json", "table.md", "table.png", "table.svg", "table.tex"];
    let differences = ["differences.csv", "differences.png", "differences.svg"];
    let names = run.names();
    for name in ["config.toml", "meta.json", "stages", "weights"].iter().chain(&tables).chain(&differences) {
        assert!(names.iter().any(|n| n == name), "{name} is not in {names:?}");
    }
    let weights = Scratch(run.0.join("weights"));
    let files = |teacher: &str, seed: u32| ["-projector", ""].map(|part| format!("{teacher}-student-seed{seed}{part}.safetensors"));
    let students = |teacher: &str| [3, 5].map(|seed| files(teacher, seed)).concat();
    let expected =
        [&students("dino")[..], &["dino.safetensors".into()], &students("supervised"), &["supervised.safetensors".into()]].concat();
    let (of_rows, encoders): (Vec<_>, Vec<_>) =
        weights.names().into_iter().partition(|name| name.contains("fine-tune") || name.contains("trained-on"));
    assert_eq!(encoders, expected);
    // Two seeds of eight rows fine-tuned, and of two teachers trained on.
    assert_eq!(of_rows.len(), 2 * (8 + 2), "{of_rows:?}");
    let config = std::fs::read_to_string(run.0.join("config.toml")).unwrap();
    assert!(config.contains("seeds = [3, 5]") && config.contains("train_per_class = 16") && config.contains("std = [0.353]"), "{config}");
    let csv = std::fs::read_to_string(run.0.join("table.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 2 * (8 * 2 + 1), "eight rows of two measures and the pixels' one, two seeds: {csv}");
    let stages = Scratch(run.0.join("stages"));
    let distil = stages.names().into_iter().find(|n| n.starts_with("distil-dino-seed5-")).unwrap();
    let metrics = std::fs::read_to_string(stages.0.join(distil).join("metrics.csv")).unwrap();
    assert!(metrics.starts_with("step,epoch,loss,lr,") && metrics.contains("\n1,0.125,") && metrics.contains("\n8,1.0,"), "{metrics}");
    let resumable = run.0.join("config.toml").display().to_string();
    s.refused(&["table", "--config", &resumable, "--set", "nam=x"], &["nearest: `name`"]);
    // The resolved configuration is the run's: the same again, from that file alone.
    let again = s.distill(&["table", "--config", &resumable, "--threads", "1", "--out", "runs/x"]);
    assert!(String::from_utf8_lossy(&again.stdout).contains("\n0 stages ran, 48 were there already. "), "{again:?}");
}

/// End to end: a sweep's points, their models and the page.
#[test]
fn a_sweep_leaves_its_models() {
    let s = Scratch::new("sweep");
    let sweep = "name = 'x'\nquestion = 'Which?'\nbase = 'smoke'\nseeds = [0]\nteachers = ['DINO']\ncolumns = ['fine-tune-200', 'probe-avg']\n\
                 [[axes]]\nname = 'position'\nkey = 'student.position'\nvalues = ['shared-relative', 'none']\n\
                 [reference]\nposition = 'none'\n";
    std::fs::write(s.0.join("x.toml"), sweep).unwrap();
    let quick = quick().into_iter().filter(|set| !set.contains("columns") && !set.contains("supervised"));
    let args: Vec<String> = ["sweep", "x.toml", "--threads", "1", "--out", "runs/x"].map(String::from).into_iter().chain(quick).collect();
    let output = s.distill(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let read = |name: &str| std::fs::read_to_string(s.0.join("runs/x").join(name)).unwrap();
    assert!(read("sweep.md").contains("shared-relative"));
    let models: serde_json::Value = serde_json::from_str(&read("models.json")).unwrap();
    let of = |key: &str| models.as_array().unwrap().iter().map(|m| m[key].as_str().unwrap_or("-").to_string()).collect::<Vec<_>>();
    let [shared, none] = ["position: shared-relative", "position: none"];
    assert_eq!(of("row"), [shared, shared, none, none]);
    assert_eq!(of("column"), ["-", "fine-tune-200", "-", "fine-tune-200"]);
    assert!(of("file").iter().all(|file| s.0.join("runs/x").join(file).is_file()), "{models}");
}

/// An IDX file: its magic number, its extents, its bytes.
fn idx(magic: u32, extents: &[u32], body: &[u8]) -> Vec<u8> {
    std::iter::once(&magic).chain(extents).flat_map(|v| v.to_be_bytes()).chain(body.iter().copied()).collect()
}

#[test]
fn data_files_that_are_missing_damaged_or_mislabelled() {
    let s = Scratch::new("data");
    let images = s.file("images", idx(0x803, &[40, 28, 28], &[7; 40 * 784]));
    let labels: Vec<u8> = (0..40).map(|i| i % 10).collect();
    let labels = s.file("labels", idx(0x801, &[40], &labels));
    let cut = s.file("cut", &idx(0x803, &[40, 28, 28], &[7; 40 * 784])[..5000]);
    let wrong = s.file("wrong", idx(0x802, &[40, 28, 28], &[7; 40 * 784]));
    let few = s.file("few", idx(0x801, &[39], &[1; 39]));
    let beyond = s.file("beyond", idx(0x801, &[40], &[12; 40]));
    let refused = |images: &str, labels: &str, parts: &[&str]| {
        let data = format!("data.train={{kind=\"idx\", images={images:?}, labels={labels:?}, classes=10}}");
        s.refused(&["table", "--preset", "smoke", "--set", &data, "--set", "data.train_per_class=0"], parts);
    };
    refused("nowhere", &labels, &["nowhere"]);
    refused(&cut, &labels, &["cut"]);
    refused(&wrong, &labels, &["wrong", "magic"]);
    refused(&images, &few, &["40", "39"]);
    refused(&images, &beyond, &["beyond", "12"]);
    refused(&images, &images, &["images", "magic"]);
    s.refused(&["table", "--preset", "smoke", "--set", "data.train={kind=\"folder\", path=\"gone\", channels=1}"], &["gone"]);
}

#[test]
fn checkpoints_that_are_missing_damaged_or_of_another_model() {
    let s = Scratch::new("checkpoints");
    let quick = quick();
    let mut args = vec!["table", "--preset", "smoke", "--out", "first"];
    args.extend(quick.iter().map(String::as_str));
    let first = s.distill(&args);
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let (teacher, student) = ("first/weights/dino.safetensors", "first/weights/dino-student-seed0.safetensors");
    let bytes = std::fs::read(s.0.join(teacher)).unwrap();
    let cut = s.file("cut.safetensors", &bytes[..bytes.len() / 2]);
    let noise = s.file("noise.safetensors", "not a checkpoint");
    let refused = |file: &str, extra: &str, parts: &[&str]| {
        s.refused(&["table", "--preset", "smoke", "--out", "second", "--teacher", file, extra], parts);
    };
    refused("gone.safetensors", "--device=cpu", &["gone.safetensors", "cannot be read"]);
    refused(&cut, "--device=cpu", &["cut.safetensors"]);
    refused(&noise, "--device=cpu", &["noise.safetensors"]);
    refused(
        teacher,
        "--set=teachers.DINO.model.embed_dim=32",
        &["dino.safetensors", "shape", "[1, 1, 64]", "[1, 1, 32]", "embed_dim = 64 (asked: 32)"],
    );
    refused(
        student,
        "--device=cpu",
        &["dino-student-seed0.safetensors", "unexpected: `", "position = \"shared-relative\" (asked: \"absolute\")"],
    );
    // The right one goes in place of training, and the same student comes out.
    args[4] = "second";
    args.extend(["--teacher", teacher]);
    let second = s.distill(&args);
    assert!(second.status.success(), "{}", String::from_utf8_lossy(&second.stderr));
    let student = |run: &str, name: &str| std::fs::read(s.0.join(run).join("weights").join(name)).unwrap();
    let (ours, theirs) = (student("first", "dino-student-seed0.safetensors"), student("second", "given-teacher-student-seed0.safetensors"));
    assert!(ours == theirs, "the student of the same teacher");
    let tensors = |run: &str, name: &str| fd_model::Checkpoint::read(&s.0.join(run).join("weights").join(name)).unwrap().tensors;
    assert!(tensors("first", "dino.safetensors") == tensors("second", "given-teacher.safetensors"), "the teacher as it was given");
    let table = String::from_utf8_lossy(&second.stdout).into_owned();
    assert!(table.contains("| given teacher + FD ") && !table.contains("DINO"), "one teacher: {table}");
}
