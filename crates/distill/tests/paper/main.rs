//! `--preset paper`, all rows by the binary's own way: teachers in the containers and names of their releases, folders of images, every
//! stage for two steps. Widths, depths and lengths are cut by `--set` alone; images and patches have the paper's sizes.

#[path = "../../../weights/tests/support/mod.rs"]
mod support;
mod teachers;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use fd_distill::config;
use fd_distill::table::{TableConfig, embedded, paper};

/// An empty folder that goes when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("paper-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn distill(&self, args: &[String]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_distill"));
        command.args(args).current_dir(&self.0).env_remove("RUST_LOG").stdin(Stdio::null());
        command.output().unwrap()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Classes of so many noisy images each, JPEG and PNG, no two of one size.
fn images(folder: &Path, classes: &[&str], of_each: u32) {
    for (c, class) in (0u32..).zip(classes) {
        let folder = folder.join(class);
        std::fs::create_dir_all(&folder).unwrap();
        for i in 0..of_each {
            let (w, h) = (60 + 7 * i, 50 + 5 * c);
            let value = |x: u32, y: u32, k: u32| ((x * (k + 3) + y * (c + 5) * (i + 1)).wrapping_mul(2_654_435_761) >> 24) as u8;
            let image = image::RgbImage::from_fn(w, h, |x, y| image::Rgb([value(x, y, 0), value(x, y, 1), value(x, y, 2)]));
            image.save(folder.join(format!("{i}.{}", if i % 2 == 0 { "JPEG" } else { "png" }))).unwrap();
        }
    }
}

/// A training of two steps; the first is of two micro-batches.
fn short(recipe: &str) -> Vec<String> {
    ["epochs=1", "warmup_epochs=0", "batch=4", "accumulate=2"].iter().map(|set| format!("{recipe}.{set}")).collect()
}

/// What cuts every row down, and what cuts each.
fn sets() -> Vec<String> {
    let mut sets = short("distil.recipe");
    let fine_tune =
        |rows: &str, i: usize| ["train", "from_scratch"].map(|how| short(&format!("{rows}fine_tune.{i}.{how}.recipe"))).concat();
    sets.extend(fine_tune("", 0));
    sets.extend(fine_tune("clip-l-336:", 1));
    sets.extend(["probe.epochs=1", "probe.warmup_epochs=0", "probe.batch=4", "knn.k=2", "data.workers=0"].map(String::from));
    let models = |rows: &str, keys: &[&str]| {
        let of = |model: &str| keys.iter().map(|key| format!("{rows}:{model}.{key}")).collect::<Vec<_>>();
        ["student", "teachers.0.model"].map(of).concat()
    };
    sets.extend(models("dino-b,deit-b,mae-b,clip-b,clip-l,clip-l-336", &["embed_dim=16", "depth=2", "num_heads=2"]));
    sets.push("clip-b,clip-l,clip-l-336:teachers.0.model.proj_dim=8".into());
    sets.extend(models("esvit-swin-b,swinv2-g", &["embed_dim=8", "num_heads=[1, 2, 4, 8]"]));
    sets.extend(models("esvit-swin-b", &["depths=[2, 1, 1, 1]"]));
    // Six blocks: one of the norms that only the giant has.
    sets.extend(models("swinv2-g", &["depths=[1, 1, 6, 1]"]));
    sets.push("dino-b:controls=random-weights".into());
    sets
}

fn args(scratch: &Scratch, extra: &[&str]) -> Vec<String> {
    let place = |name: &str| scratch.0.join(name).display().to_string();
    let mut args = vec!["table".to_string(), "--preset".into(), "paper".into(), "--teachers".into(), place("teachers")];
    args.extend(["imagenet", "imagenet22k"].iter().flat_map(|name| ["--data".to_string(), format!("{name}={}", place(name))]));
    args.extend(sets().into_iter().flat_map(|set| ["--set".to_string(), set]));
    args.extend(extra.iter().map(|arg| arg.to_string()));
    args
}

/// Images and teachers.
fn prepared(name: &str) -> Scratch {
    let scratch = Scratch::new(name);
    images(&scratch.0.join("imagenet/train"), &["n01", "n02"], 4);
    images(&scratch.0.join("imagenet/val"), &["n01", "n02"], 2);
    images(&scratch.0.join("imagenet22k/train"), &["m01", "m02", "n01"], 3);
    std::fs::create_dir_all(scratch.0.join("teachers")).unwrap();
    for row in paper::ROWS {
        let sets = paper::sets_of(row, &sets()).unwrap();
        let (config, _) = config::load::<TableConfig>(&embedded(&format!("paper/{row}")).unwrap(), &sets).unwrap();
        let teacher = &config.teachers[0];
        let file = scratch.0.join("teachers").join(teacher.weights.as_ref().unwrap());
        std::fs::write(file, teachers::release(row, &teacher.model)).unwrap();
    }
    scratch
}

fn succeeded(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{err}");
    out.into_owned()
}

/// One line on standard error that holds all of `parts`; nothing is written.
fn refused(scratch: &Scratch, args: &[String], parts: &[&str]) {
    let output = scratch.distill(args);
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(err.starts_with("error: ") && err.lines().count() == 1 && output.stdout.is_empty(), "{err}");
    for part in parts {
        assert!(err.contains(part), "`{part}` is not in {err}");
    }
}

#[test]
fn every_row_runs_through_every_stage() {
    let scratch = prepared("all");
    let said = succeeded(&scratch.distill(&args(&scratch, &[])));
    let joined = scratch.read("runs/paper/table.md");
    assert!(said.contains(&joined), "the joined table is printed: {said}");
    let csv = scratch.read("runs/paper/table.csv");
    for row in paper::ROWS {
        assert!(joined.contains(&format!("| {row} ")), "{joined}");
        let (config, _) = config::load::<TableConfig>(&embedded(&format!("paper/{row}")).unwrap(), &[]).unwrap();
        let page = scratch.read(&format!("runs/paper/{row}/table.md"));
        for encoder in [config.teachers[0].name.clone(), format!("{} + FD", config.teachers[0].name)] {
            assert!(page.contains(&format!("| {encoder} ")), "{row}: {page}");
        }
        // Before and after, under every measure.
        let of_row = csv.lines().filter(|line| line.starts_with(&format!("{row},"))).collect::<Vec<_>>();
        assert_eq!(of_row.len(), 2 * config.columns.len(), "{row}: {csv}");
        for line in of_row {
            let accuracy: f64 = line.split(',').nth(3).unwrap().parse().unwrap_or_else(|e| panic!("{line}: {e}"));
            assert!((0.0..=100.0).contains(&accuracy), "{line}");
        }
    }
    assert!(scratch.read("runs/paper/dino-b/table.md").contains("random weights, student architecture (control)"));
    let stages: Vec<PathBuf> = std::fs::read_dir(scratch.0.join("runs/paper/stages")).unwrap().map(|e| e.unwrap().path()).collect();
    let mut trained = 0;
    for stage in &stages {
        assert!(stage.join("done.json").exists(), "{}", stage.display());
        // Two steps, wherever there is training.
        if let Ok(metrics) = std::fs::read_to_string(stage.join("metrics.csv")) {
            let last = metrics.lines().last().unwrap();
            assert!(last.starts_with("2,"), "{}: {metrics}", stage.display());
            trained += 1;
        }
    }
    // Seven distillations (CLIP-L's serves two rows); fine-tuning before and after in eight rows, twice in one, and of two controls.
    // Then seven teachers' files, the probes of as many and of their students, and two controls with theirs.
    assert_eq!((trained, stages.len() - trained), (7 + 2 * 9 + 2, 7 + 2 * 7 + 2 * 2));
    // CLIP-L is distilled once, for both of its rows.
    let named = |start: &str| stages.iter().filter(|s| s.file_name().unwrap().to_str().unwrap().starts_with(start)).count();
    assert_eq!((named("distil-clip-"), named("intermediate-clip-"), named("fine-tune-336-clip-")), (2, 2, 2), "{stages:?}");

    let again = succeeded(&scratch.distill(&args(&scratch, &[])));
    assert_eq!(again.matches("\n0 stages ran, ").count(), paper::ROWS.len(), "{again}");
    assert_eq!(scratch.read("runs/paper/table.md"), joined);

    // Images that are there are counted.
    let priced = succeeded(&scratch.distill(&args(&scratch, &["--rows", "clip-l-336", "--dry-run"])));
    assert!(priced.contains("on 8 images of 2 classes") && priced.contains("ViT-L-14.pt, there"), "{priced}");

    // A file that is gone and one of another width, told before anything runs.
    let one = args(&scratch, &["--rows", "dino-b,deit-b", "--out", "new"]);
    let wide: Vec<String> = [&one[..], &["--set".into(), "deit-b:teachers.0.model.embed_dim=32".into()]].concat();
    refused(&scratch, &wide, &["paper/deit-b.toml", "deit_base_patch16_224-b5f2ef4d.pth", "embed_dim = 16 (asked: 32)"]);
    std::fs::remove_file(scratch.0.join("teachers/deit_base_patch16_224-b5f2ef4d.pth")).unwrap();
    refused(&scratch, &one, &["paper/deit-b.toml", "teachers/deit_base_patch16_224-b5f2ef4d.pth is not there", "--teachers"]);
    assert!(!scratch.0.join("new").exists());
}

#[test]
fn places_and_rows_that_are_wrong_are_told() {
    let scratch = Scratch::new("wrong");
    let paper = |extra: &[&str]| [&["table", "--preset", "paper"], extra].concat().into_iter().map(String::from).collect::<Vec<_>>();
    refused(&scratch, &paper(&["--rows", "dino-b"]), &["paper/dino-b.toml: data.train: imagenet/train", "--data imagenet=DIR"]);
    refused(&scratch, &paper(&["--rows", "dino"]), &["no row `dino`; there are dino-b, esvit-swin-b"]);
    refused(&scratch, &paper(&["--data", "imagenet"]), &["expected NAME=DIR"]);
    refused(&scratch, &paper(&["--data", "imagenet21k=x"]), &["lie below `imagenet21k`; names to give: imagenet, imagenet22k"]);
    refused(&scratch, &paper(&["--set", "dino:distil.recipe.epochs=1"]), &["--set dino:distil.recipe.epochs=1: no row `dino`"]);
    refused(&scratch, &paper(&["--set", "student.embed_dm=1"]), &["paper/dino-b.toml", "unknown field `embed_dm`"]);
    refused(&scratch, &paper(&["--teacher", "x.pth"]), &["--teacher goes with one table"]);
    let main = ["table", "--rows", "dino-b"].map(String::from);
    refused(&scratch, &main, &["--rows goes with --preset paper"]);
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0);
}

#[test]
fn a_dry_run_needs_neither_images_nor_teachers() {
    let scratch = Scratch::new("dry");
    let dry = |extra: &[&str]| {
        let args = [&["table", "--preset", "paper", "--dry-run"], extra].concat();
        succeeded(&scratch.distill(&args.into_iter().map(String::from).collect::<Vec<_>>()))
    };
    let all = dry(&[]);
    for row in paper::ROWS {
        assert!(all.contains(&format!("{row}: experiments/paper/{row}.toml\n")), "{all}");
    }
    assert!(all.contains("on 1,281,167 images of 1000 classes") && all.contains("1 device at a sustained 400 TFLOP/s"), "{all}");
    // 300 epochs of ImageNet-1K and 30 of ImageNet-22K in steps of 2048 images.
    let steps =
        |stage: &str| all.lines().filter(|l| l.starts_with(stage)).map(|l| l.split_whitespace().nth(2).unwrap()).collect::<Vec<_>>();
    assert_eq!((steps("distil "), steps("intermediate ")), (vec!["187,500"; 8], vec!["207,960"; 2]), "{all}");
    let one = dry(&["--rows", "swinv2-g", "--tflops", "100", "--devices", "64"]);
    assert!(one.contains("64 devices at a sustained 100 TFLOP/s") && !one.contains("dino-b"), "{one}");
    let plan = ["plan", "paper/dino-b", "--tflops", "400"].map(String::from);
    let plan = succeeded(&scratch.distill(&plan));
    assert!(all.contains(plan.lines().nth(1).unwrap()), "{plan}");
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0);
}
