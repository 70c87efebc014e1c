//! Sweeps from their files to their points, and what their hits say.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fd_distill::Target;
use fd_distill::config::Source;
use fd_distill::distillation::Distillation;
use fd_distill::sweep::{Point, SweepConfig, SweepResult, Verdict, expand};
use fd_distill::table::{Cell, Column, TableConfig};
use fd_model::ModelConfig;

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../experiments/sweeps");
const BASE: Source = Source::Embedded { name: "experiments/tables/main.toml", text: include_str!("../../../experiments/tables/main.toml") };

const HEAD: &str = "name = \"s\"\nquestion = \"Why?\"\nbase = \"main\"\nseeds = [0, 1]\nteachers = [\"DINO\"]\ncolumns = [\"ft\"]\n\
                    claim = \"a > b\"\n";
const AXES: &str = "[[axes]]\nname = \"x\"\npoints = [{ label = \"a\", set = [\"k=1\", \"l=2\"] }, { label = \"b\", set = [] }]\n\
                    [[axes]]\nname = \"rate\"\nkey = \"r\"\nvalues = [0.0, 0.5, [1, 2]]\n\
                    [[axes]]\nname = \"size\"\nzip = { \"m.embed_dim\" = [64, 96], \"m.depth\" = [4, 6] }\n";
const REFERENCE: &str = "[reference]\nx = \"b\"\nrate = 0.5\nsize = \"depth 4, embed_dim 64\"\n";

/// A sweep of this text, in a file that is gone again.
fn load(text: &str) -> Result<SweepConfig, String> {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sweep-{}-{n}.toml", std::process::id()));
    std::fs::write(&file, text).unwrap();
    let config = SweepConfig::load(&file);
    std::fs::remove_file(&file).unwrap();
    config.map_err(|e| message(&file, e))
}

/// The error without the file's name, which it has to begin with, in one line.
fn message(file: &Path, e: fd_distill::Error) -> String {
    let (file, e) = (format!("{}: ", file.display()), e.to_string());
    assert!(e.starts_with(&file) && !e.contains('\n'), "{e}");
    e[file.len()..].to_string()
}

fn points(text: &str) -> Result<(SweepConfig, Vec<Point>), String> {
    let config = load(text)?;
    let points = expand(&config).map_err(|e| message(&config.file, e))?;
    Ok((config, points))
}

fn sets(point: &Point) -> Vec<&str> {
    point.sets.iter().map(|o| o.set.as_str()).collect()
}

#[test]
fn points_are_the_grid_of_all_forms_of_axes() {
    let (config, points) = points(&format!("{HEAD}{AXES}{REFERENCE}")).unwrap();
    assert_eq!(points.len(), 12);
    let labels = |i: usize| points[i].labels.iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(labels(0), ["a", "0.0", "depth 4, embed_dim 64"]);
    assert_eq!(labels(1), ["a", "0.0", "depth 6, embed_dim 96"], "the last axis is the fastest");
    assert_eq!(labels(4), ["a", "[1, 2]", "depth 4, embed_dim 64"]);
    assert_eq!(labels(8), ["b", "0.5", "depth 4, embed_dim 64"]);
    assert_eq!(sets(&points[0]), ["k=1", "l=2", "r=0.0", "m.depth=4", "m.embed_dim=64"]);
    assert_eq!(sets(&points[11]), ["r=[1, 2]", "m.depth=6", "m.embed_dim=96"]);
    assert_eq!(points[0].title(&config), "x: a, rate: 0.0, size: depth 4, embed_dim 64");
}

#[test]
fn conditions_leave_points_out() {
    let skip = "[[skip]]\nwhen = { x = \"a\", rate = 0.0 }\n[[skip]]\nwhen = { rate = [1, 2] }\n";
    let (_, points) = points(&format!("{HEAD}{AXES}{skip}{REFERENCE}")).unwrap();
    let left: Vec<[&str; 2]> = points.iter().step_by(2).map(|p| [p.labels[0].as_str(), p.labels[1].as_str()]).collect();
    assert_eq!(left, [["a", "0.5"], ["b", "0.0"], ["b", "0.5"]]);
}

#[test]
fn mistakes_are_one_line_that_names_file_and_key() {
    let good = format!("{HEAD}{AXES}{REFERENCE}");
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        points(&good.replacen(from, to, 1)).unwrap_err()
    };
    let cases = [
        ("seeds = [0, 1]", "seeds = [0, 0]", "key `seeds`: `0` is there twice"),
        ("seeds = [0, 1]", "seeds = []", "key `seeds`: at least one is needed"),
        ("teachers = [\"DINO\"]", "teachers = []", "key `teachers`: at least one is needed"),
        ("columns = [\"ft\"]", "columns = [\"ft\", \"ft\"]", "key `columns`: `ft` is there twice"),
        ("\"Why?\"", "\" \"", "key `question`: \" \" is not a line of text"),
        ("label = \"b\"", "label = \"a\"", "key `axes.x`: `a` is there twice"),
        ("label = \"b\"", "label = \"b\\nc\"", "key `axes.x`: \"b\\nc\" is not a line of text"),
        ("values = [0.0, 0.5, [1, 2]]", "values = []", "key `axes.rate`: at least one is needed"),
        ("name = \"rate\"", "name = \"x\"", "key `axes`: `x` is there twice"),
        ("name = \"rate\"", "name = \"teacher\"", "key `axes`: `teacher` is the axis that `teachers` makes, call this one otherwise"),
        ("x = \"b\"", "x = \"c\"", "key `reference`: axis `x` has no `c`; there is `a`, `b`"),
        ("x = \"b\"", "y = \"b\"", "key `reference`: no axis `y`; there is `x`, `rate`, `size`"),
        ("x = \"b\"\n", "", "key `reference`: no label for axis `x`"),
        ("[reference]", "[[skip]]\nwhen = { x = \"b\" }\n[reference]", "key `skip`: leaves out the reference"),
        ("[reference]", "[[skip]]\nwhen = {}\n[reference]", "key `skip.when`: at least one label is needed"),
        ("[reference]", "[[skip]]\nwhen = { x = 1 }\n[reference]", "key `skip.when`: axis `x` has no `1`; there is `a`, `b`"),
    ];
    for (from, to, why) in cases {
        assert_eq!(with(from, to), why, "{to}");
    }
    let forms = "axis `rate`: expected either `points`, or `key` and `values`, or `zip`";
    let unequal = "axis `size`: the lists of `zip` are not equally long";
    for (from, to, why) in [("key = \"r\"\n", "", forms), ("key = \"r\"\n", "key = \"r\"\nzip = {}\n", forms), ("[4, 6]", "[4]", unequal)] {
        assert_eq!(with(from, to), format!("line 8: key `axes`: {why}"));
    }
    assert!(with("claim =", "clam =").contains("unknown field `clam`"));
    assert!(with("key = \"r\"", "kye = \"r\"").contains("unknown field `kye`"));
    let order = |order: &str| points(&format!("{good}[[order]]\n{order}")).unwrap_err();
    for (text, why) in [
        ("axis = \"z\"\nbetter = \"a\"\nworse = [\"b\"]\n", "key `order`: no axis `z`; there is `x`, `rate`, `size`"),
        ("axis = \"x\"\nbetter = \"a\"\nworse = [\"c\"]\n", "key `order`: axis `x` has no `c`; there is `a`, `b`"),
        ("axis = \"x\"\nbetter = \"a\"\nworse = []\n", "key `order.worse`: at least one is needed"),
        ("axis = \"x\"\nbetter = \"a\"\nworse = [\"b\", \"a\"]\n", "key `order.worse`: `a` cannot beat itself"),
        ("axis = \"x\"\nbetter = \"a\"\nworse = [\"b\"]\nwhen = { x = \"b\" }\n", "key `order.when`: `x` is the order's own axis"),
        (
            "axis = \"x\"\nbetter = \"a\"\nworse = [\"b\"]\nwhen = { rate = 0.0 }\n[[skip]]\nwhen = { rate = 0.0 }\n",
            "key `order`: no points to compare `a` with `b` of axis `x`",
        ),
    ] {
        assert_eq!(order(text), why);
    }
    let without = good.replacen("claim = \"a > b\"\n", "", 1) + "[[order]]\naxis = \"x\"\nbetter = \"a\"\nworse = [\"b\"]\n";
    assert_eq!(points(&without).unwrap_err(), "key `order`: `claim` is missing: what the paper says, in words");
    let many: Vec<String> = (0..501).map(|i| i.to_string()).collect();
    assert_eq!(with("[0.0, 0.5, [1, 2]]", &format!("[0.5, {}]", many.join(", "))), "key `axes`: more than 1000 points");
    assert!(load("name = ").unwrap_err().starts_with("line 1: "));
}

#[test]
fn the_base_is_embedded_or_beside_the_sweep() {
    let base = |name: &str| {
        let mut config = load(&format!("{HEAD}{AXES}{REFERENCE}")).unwrap();
        config.base = name.into();
        let found = config.base(|name| (name == "main").then_some(BASE));
        found.map_err(|e| message(&config.file, e)).map(|source| (source, config.file.with_file_name("t/x.toml")))
    };
    assert_eq!(base("main").unwrap().0, BASE);
    let (source, beside) = base("t/x.toml").unwrap();
    assert_eq!(source, Source::File(beside));
    assert_eq!(base("/t/x.toml").unwrap().0, Source::File(PathBuf::from("/t/x.toml")));
    assert_eq!(base("mian").unwrap_err(), "key `base`: `mian` is neither a table that comes with the binary nor a .toml file");
}

#[test]
fn overrides_of_sweep_command_line_and_axis_follow_each_other() {
    let axis = |key: &str| format!("[[axes]]\nname = \"e\"\nkey = \"{key}\"\nvalues = [7]\n[reference]\ne = 7\n");
    let head = HEAD.replacen(
        "claim",
        "set = [\"distil.recipe.epochs=9\", \"fine_tune.fine-tune-6000.train.recipe.epochs=9\", \"probe.epochs=9\"]\nclaim",
        1,
    );
    let resolve = |text: &str, sets: &[&str]| {
        let (config, points) = points(text).unwrap();
        let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
        let resolved = config.resolve::<TableConfig>(&BASE, &sets, &points[0]);
        resolved.map_err(|e| e.to_string().replace(&config.file.display().to_string(), "S"))
    };
    let sets = ["fine_tune.fine-tune-6000.train.recipe.epochs=8", "distil.recipe.epochs=8"];
    let (table, resolved) = resolve(&(head.clone() + &axis("distil.recipe.epochs")), &sets).unwrap();
    assert_eq!((table.probe.as_ref().unwrap().epochs, table.fine_tune[0].train.recipe.epochs, table.distil.recipe.epochs), (9, 8, 7));
    assert_eq!(resolved["distil"]["recipe"]["epochs"].as_integer(), Some(7));
    let e = resolve(&(head.clone() + &axis("distil.recipe.epoch")), &[]).unwrap_err();
    assert!(
        e.starts_with("experiments/tables/main.toml: S: axis `e`: distil.recipe.epoch=7: no key `distil.recipe.epoch`; nearest: "),
        "{e}"
    );
    let e = resolve(&(head.clone() + &axis("student.position")), &[]).unwrap_err();
    assert!(e.starts_with("experiments/tables/main.toml: S: axis `e`: student.position=7: key `student.position`: unknown variant"), "{e}");
    let e = resolve(&(head.replacen("probe.epochs", "prob.epochs", 1) + &axis("distil.recipe.epochs")), &[]).unwrap_err();
    assert!(e.starts_with("experiments/tables/main.toml: S: key `set`: prob.epochs=9: no key `prob`"), "{e}");
    let e = resolve(&(head + &axis("distil.recipe.epochs")), &["x=1"]).unwrap_err();
    assert!(e.starts_with("experiments/tables/main.toml: --set x=1: no key `x`"), "{e}");
}

/// Every shipped sweep's points are tables that can be built: their overrides hit, their recipes and objectives go together.
#[test]
fn shipped_sweeps_can_be_run() {
    let mut names = vec![];
    for entry in std::fs::read_dir(SHIPPED).unwrap() {
        let file = entry.unwrap().path();
        let config = SweepConfig::load(&file).unwrap();
        assert_eq!(file.file_stem().unwrap().to_str(), Some(config.name.as_str()));
        let mut seen = vec![];
        for point in expand(&config).unwrap() {
            let (mut table, resolved) = config.resolve::<TableConfig>(&BASE, &[], &point).unwrap();
            table.keep_teachers(&config.teachers).unwrap();
            buildable(&table).unwrap_or_else(|e| panic!("{}: {}: {e}", config.name, point.title(&config)));
            assert!(!seen.contains(&resolved), "{}: {} is there twice", config.name, point.title(&config));
            seen.push(resolved);
        }
        names.push(config.name);
    }
    names.sort();
    assert_eq!(names, ["crop-scale", "drop-path", "epochs", "loss", "normalisation", "positions", "target"]);
}

fn buildable(table: &TableConfig) -> Result<(), fd_distill::Error> {
    table.check(6000, 10)?;
    table.distil.views.augment(table.student.img_size(), &table.data.normalise)?;
    let head = |model: &ModelConfig| match table.distil.objective.target {
        Target::Logits => model.clone().classifier(10),
        _ => model.clone(),
    };
    let (student, teacher) = (head(&table.student), head(&table.teachers[0].model));
    Distillation::new(&student, &teacher, table.distil.projector, table.distil.objective)?.plan(2, table.distil.engine)?;
    Ok(())
}

/// 100 images, the first `right` of them hit by every seed.
fn cell(right: &[usize]) -> Option<Cell> {
    let hits = |right: &usize| -> Arc<[bool]> { (0..100).map(|i| i < *right).collect() };
    Some(Cell { accuracy: right.iter().map(|r| *r as f64).collect(), hits: right.iter().map(hits).collect() })
}

/// The second half of 100 images in place of the first.
fn other_half() -> Option<Cell> {
    let hits: Arc<[bool]> = (0..100).map(|i| i >= 50).collect();
    Some(Cell { accuracy: vec![50.0; 2], hits: vec![hits.clone(), hits] })
}

fn column(key: &str) -> Column {
    Column { key: key.into(), title: key.into() }
}

#[test]
fn differences_are_paired_with_the_reference_and_orders_pool() {
    let axes = "[[axes]]\nname = \"x\"\nkey = \"x\"\nvalues = [\"a\", \"b\"]\n[[axes]]\nname = \"y\"\nkey = \"y\"\nvalues = [1, 2]\n\
                [reference]\nx = \"a\"\ny = 1\n[[order]]\naxis = \"x\"\nbetter = \"a\"\nworse = [\"b\"]\n\
                [[order]]\naxis = \"x\"\nbetter = \"a\"\nworse = [\"b\"]\nwhen = { y = 2 }\n[[order]]\naxis = \"y\"\nbetter = 1\nworse = [2]\n";
    let (config, points) = points(&format!("{HEAD}{axes}")).unwrap();
    // Points a1, a2, b1, b2; the second column was not measured at b2.
    let measured =
        [[cell(&[80, 80]), cell(&[50, 50])], [cell(&[70, 90]), cell(&[50, 50])], [cell(&[60, 60]), other_half()], [cell(&[90, 90]), None]];
    let result = SweepResult::new(&config, &points, vec![column("one"), column("two")], ("d".into(), 100), |t, p, c| {
        assert_eq!(t, 0);
        measured[p][c].clone()
    });
    assert_eq!(result.axes, ["x", "y"]);
    let reference: Vec<bool> = result.points.iter().map(|p| p.reference).collect();
    assert_eq!(reference, [true, false, false, false]);
    let means = |differences: &[Option<fd_distill::statistics::Interval>]| -> Vec<Option<f64>> {
        differences.iter().map(|d| d.map(|d| (d.mean * 1e9).round() / 1e9)).collect()
    };
    let differences: Vec<_> = result.points.iter().map(|p| means(&p.differences)).collect();
    let expected = [[None, None], [Some(0.0), Some(0.0)], [Some(-20.0), Some(0.0)], [Some(10.0), None]];
    assert_eq!(differences, expected);
    // x: (80 - 60), (80 - 60), (70 - 90), (90 - 90); with y = 2 the last two alone; y: (80 - 70), (80 - 90), (60 - 90), (60 - 90).
    let orders: Vec<_> = result.comparisons.iter().map(|c| (c.when.as_deref(), means(&c.differences))).collect();
    assert_eq!(orders, [(None, vec![Some(5.0), Some(0.0)]), (Some("y: 2"), vec![Some(-10.0), None]), (None, vec![Some(-15.0), Some(0.0)])]);
    // What was compared survives the file, though the hits do not.
    let again: SweepResult = serde_json::from_str(&serde_json::to_string(&result).unwrap()).unwrap();
    assert_eq!(again.verdicts(), result.verdicts());
}

#[test]
fn orders_hold_are_reversed_or_are_not_shown() {
    let axes = "[[axes]]\nname = \"x\"\nkey = \"x\"\nvalues = [\"a\", \"b\", \"c\", \"d\"]\n[reference]\nx = \"a\"\n\
                [[order]]\naxis = \"x\"\nbetter = \"a\"\nworse = [\"b\", \"c\", \"d\"]\n";
    let (config, points) = points(&format!("{HEAD}{axes}")).unwrap();
    let measured = [cell(&[50, 50]), cell(&[0, 0]), other_half(), cell(&[100, 100])];
    let result = SweepResult::new(&config, &points, vec![column("ft")], ("d".into(), 100), |_, p, _| measured[p].clone());
    let verdicts: Vec<Verdict> = result.comparisons.iter().map(|c| Verdict::of(&c.differences[0].unwrap())).collect();
    assert_eq!(verdicts, [Verdict::Holds, Verdict::NotShown, Verdict::Reversed]);
    let sentences = result.verdicts();
    assert!(sentences[0].starts_with("x, a over b, ft: holds here (+50.00 [+"), "{sentences:?}");
    assert!(sentences[1].starts_with("x, a over c, ft: not shown: the interval contains zero (+0.00 [-"), "{sentences:?}");
    assert!(sentences[2].starts_with("x, a over d, ft: reversed here (-50.00 [-"), "{sentences:?}");
    let all = "The paper's ordering (a > b): 1 of 3 comparisons hold, 1 reversed, 1 within noise (95 % intervals, 2 seeds).";
    assert_eq!(result.verdict().as_deref(), Some(all));
}

/// Every point is compared with the reference of its own teacher, and orders pool the teachers.
#[test]
fn several_teachers_are_the_first_axis() {
    let axes = "[[axes]]\nname = \"x\"\nkey = \"x\"\nvalues = [\"a\", \"b\"]\n[reference]\nx = \"b\"\n\
                [[order]]\naxis = \"x\"\nbetter = \"a\"\nworse = [\"b\"]\n";
    let (config, points) = points(&format!("{}{axes}", HEAD.replacen("\"DINO\"", "\"DINO\", \"MAE\"", 1))).unwrap();
    let measured = [[cell(&[50, 50]), cell(&[40, 40])], [cell(&[90, 90]), cell(&[60, 60])]];
    let result = SweepResult::new(&config, &points, vec![column("ft")], ("d".into(), 100), |t, p, _| measured[t][p].clone());
    assert_eq!((&result.axes[..], result.points.len()), (&["teacher".to_string(), "x".into()][..], 4));
    let all: Vec<_> = result.points.iter().map(|p| (p.labels.join(" "), p.reference, p.differences[0].map(|d| d.mean.round()))).collect();
    let expected = [("DINO a", false, Some(10.0)), ("DINO b", true, None), ("MAE a", false, Some(30.0)), ("MAE b", true, None)];
    assert_eq!(all, expected.map(|(l, r, d)| (l.to_string(), r, d)));
    assert_eq!(result.comparisons[0].differences[0].unwrap().mean.round(), 20.0);
}
