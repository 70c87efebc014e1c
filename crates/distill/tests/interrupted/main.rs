//! Runs survive: killed, interrupted, with damaged files, on a full disk, beside other runs. Whatever happens to a table on its way, the
//! same command brings it to its end, and then every file is byte for byte that of a run that nothing happened to.
#![cfg(unix)]

mod damage;
mod directory;
mod disk;
mod kill;
mod signal;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A table of 25 stages, 14 of which train, in about a second: the smoke table, smaller.
const TABLE: &str = r#"
    columns=["fine-tune-200", "knn"]
    data.train_per_class=16
    data.test_per_class=4
    student.embed_dim=16
    student.depth=2
    student.num_heads=2
    teachers.DINO.model.embed_dim=16
    teachers.DINO.model.depth=2
    teachers.DINO.model.num_heads=2
    teachers.DINO.pretrain.train.recipe.batch=20
    teachers.DINO.pretrain.train.recipe.epochs=8
    teachers.supervised.model.embed_dim=16
    teachers.supervised.model.depth=2
    teachers.supervised.model.num_heads=2
    teachers.supervised.pretrain.train.recipe.batch=20
    distil.recipe.batch=20
    fine_tune.fine-tune-200.labels_per_class=8
    fine_tune.fine-tune-200.train.recipe.batch=20
    fine_tune.fine-tune-200.from_scratch.recipe.batch=20
    probe.batch=40
    probe.epochs=2
    probe.warmup_epochs=0
"#;
const STAGES: usize = 25;
const TRAINING: usize = 14;
const PATIENCE: Duration = Duration::from_secs(120);

/// An empty folder for one test, in which its runs are.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("interrupted-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// The table, with its run directory `run` in this folder.
    fn table(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_distill"));
        command.args(["table", "--preset", "smoke", "--threads", "1", "--out", "run"]);
        TABLE.lines().map(str::trim).filter(|set| !set.is_empty()).for_each(|set| _ = command.args(["--set", set]));
        command.args(more).current_dir(&self.0).env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end, which has to be a good one.
    fn finish(&self, more: &[&str]) -> Finished {
        let output = self.table(more).output().unwrap();
        let finished = Finished { out: text(&output.stdout), err: text(&output.stderr) };
        assert_eq!(output.status.code(), Some(0), "{}", finished.err);
        finished
    }

    /// The stages that are being trained: directories with checkpoints, and these, oldest first.
    fn checkpoints(&self) -> Vec<(PathBuf, Vec<PathBuf>)> {
        let mut found = vec![];
        for stage in list(&self.0.join("run/stages")) {
            let is_one = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().starts_with("checkpoint-");
            let files: Vec<PathBuf> = list(&stage).into_iter().filter(is_one).collect();
            if !files.is_empty() {
                found.push((stage, files));
            }
        }
        found
    }

    /// Interrupts the table with a signal while it trains; returns the stage under way and its checkpoints.
    fn interrupt(&self, signal: &str, code: i32, more: &[&str]) -> (PathBuf, Vec<PathBuf>) {
        // Where the signal comes between two stages, nothing is under way: once more.
        for _ in 0..20 {
            let _ = std::fs::remove_dir_all(self.0.join("run"));
            let mut run = Running(self.table(more).spawn().unwrap());
            run.wait_until("training has not begun", || {
                let metrics = list(&self.0.join("run/stages")).into_iter().map(|stage| stage.join("metrics.csv"));
                metrics.into_iter().any(|path| std::fs::read_to_string(path).is_ok_and(|text| text.lines().count() > 2))
            });
            run.send(signal);
            let output = run.output();
            let err = text(&output.stderr);
            assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(code), ""), "{err}");
            let last = format!("interrupted by SIG{signal}: checkpoints are in run; the same command continues\n");
            assert!(err.ends_with(&last) && err.matches("interrupted").count() == 1, "{err:?}");
            let mut checkpoints = self.checkpoints();
            assert!(checkpoints.len() <= 1, "stages run one by one: {checkpoints:?}");
            if let Some(stage) = checkpoints.pop() {
                return stage;
            }
        }
        panic!("never interrupted while it trained");
    }

    /// Every file of the run is that of a run that nothing happened to.
    fn assert_untouched(&self, what: &str) {
        let (expected, found) = (reference(), contents(&self.0.join("run")));
        let names = |files: &Contents| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(expected), "{what}");
        for (name, bytes) in expected {
            assert!(found[name] == *bytes, "{what}: {} differs", name.display());
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a run said.
struct Finished {
    out: String,
    err: String,
}

impl Finished {
    /// Its last line says how many stages ran and how many were there.
    fn assert_ran(&self, ran: usize, cached: usize) {
        let line = format!("{ran} stages ran, {cached} were there already. Written to run\n");
        assert!(self.out.ends_with(&line), "{ran} and {cached}: {:?}", self.out.lines().last());
    }

    fn warnings(&self) -> Vec<&str> {
        self.err.lines().filter(|line| line.contains("WARN")).collect()
    }
}

/// Ends with the test, whatever becomes of it.
struct Running(Child);

impl Running {
    fn send(&self, signal: &str) {
        let sent = Command::new("sh").args(["-c", &format!("kill -s {signal} {}", self.0.id())]).status().unwrap();
        assert!(sent.success(), "kill");
    }

    fn wait_until(&mut self, what: &str, come: impl Fn() -> bool) {
        let start = Instant::now();
        while !come() {
            assert!(start.elapsed() < PATIENCE && self.0.try_wait().unwrap().is_none(), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end, but not beyond a moment.
    fn ends_before(&mut self, moment: Instant) -> bool {
        while self.0.try_wait().unwrap().is_none() {
            if Instant::now() >= moment {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Waits for its end. What it says fits into the pipes.
    fn output(&mut self) -> Output {
        assert!(self.ends_before(Instant::now() + PATIENCE), "it does not end");
        let (mut stdout, mut stderr) = (vec![], vec![]);
        std::io::Read::read_to_end(&mut self.0.stdout.take().unwrap(), &mut stdout).unwrap();
        std::io::Read::read_to_end(&mut self.0.stderr.take().unwrap(), &mut stderr).unwrap();
        Output { status: self.0.wait().unwrap(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

type Contents = BTreeMap<PathBuf, Vec<u8>>;

/// The files of a run that nothing happened to.
fn reference() -> &'static Contents {
    static REFERENCE: OnceLock<Contents> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let folder = Folder::new("reference");
        folder.finish(&[]).assert_ran(STAGES, 0);
        contents(&folder.0.join("run"))
    })
}

/// All files below a run directory that its configuration determines, without what tells the time: duration and throughput.
fn contents(run: &Path) -> Contents {
    let (mut files, mut folders) = (Contents::new(), vec![run.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for path in list(&folder) {
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                folders.push(path);
            } else if !["lock", "meta.json"].contains(&name) && !name.starts_with("events.out.tfevents.") {
                let bytes = std::fs::read(&path).unwrap();
                let bytes = match name {
                    "metrics.csv" => without_throughput(&bytes),
                    "done.json" => without_seconds(&bytes),
                    _ => bytes,
                };
                files.insert(path.strip_prefix(run).unwrap().to_path_buf(), bytes);
            }
        }
    }
    files
}

fn without_throughput(csv: &[u8]) -> Vec<u8> {
    let csv = text(csv);
    let at = csv.lines().next().unwrap().split(',').position(|name| name == "images_per_second").unwrap();
    let cut = |line: &str| line.split(',').enumerate().filter(|(i, _)| *i != at).map(|(_, field)| field).collect::<Vec<_>>().join(",");
    csv.lines().map(|line| cut(line) + "\n").collect::<String>().into_bytes()
}

fn without_seconds(json: &[u8]) -> Vec<u8> {
    let mut done: serde_json::Value = serde_json::from_slice(json).unwrap();
    assert!(done.as_object_mut().unwrap().remove("seconds").is_some_and(|s| s.is_f64()));
    done.to_string().into_bytes()
}

/// Paths in a folder in the order of their names; none where there is no folder.
fn list(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).into_iter().flatten().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The directory of the stage whose name begins so.
fn stage(run: &Path, name: &str) -> PathBuf {
    let is_it = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().rsplit_once('-').unwrap().0 == name;
    list(&run.join("stages")).into_iter().find(is_it).unwrap_or_else(|| panic!("no stage {name}"))
}

/// Changes one byte in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
