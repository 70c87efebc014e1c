use std::fs;
use std::path::PathBuf;

use super::*;
use crate::stage_log::StageLog;

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("fd-curves-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

fn plan(titles: &[&str]) -> RunPlan {
    let stage = |(i, title): (usize, &&str)| PlannedStage { dir: format!("stage{i}"), title: title.to_string(), steps: 100 };
    RunPlan { name: "main".into(), store: None, stages: titles.iter().enumerate().map(stage).collect() }
}

fn log(run: &Path, stage: usize, rows: impl IntoIterator<Item = Metrics>) {
    let mut log = StageLog::open(&run.join(format!("stages/stage{stage}")), 0).unwrap();
    rows.into_iter().for_each(|row| log.row(&row).unwrap());
}

fn at(epoch: f64, loss: f64) -> Metrics {
    Metrics { epoch, loss: Some(loss), ..Metrics::default() }
}

#[test]
fn stages_are_grouped_by_kind_and_seed() {
    let run = scratch("groups");
    let mut plan =
        plan(&["pretrain, seed 0", "distil DINO, seed 0", "distil DINO, seed 1", "distil MAE + X, 6,000 images, seed 0", "probe"]);
    plan.stages[4].steps = 0;
    log(&run, 0, [Metrics { entropy: Some(2.0), kl: Some(0.5), ..at(1.0, 3.0) }]);
    (1..5).for_each(|i| log(&run, i, [at(1.0, i as f64), at(2.0, 0.5)]));
    let panels = panels(&run, &plan).unwrap();
    let heads: Vec<_> = panels.iter().map(|p| (p.title.as_str(), p.quantity)).collect();
    assert_eq!(heads, [("pretrain", "loss"), ("pretrain", "entropy and KL divergence (nats)"), ("distil", "loss")]);
    let labels = |p: &Panel| p.series.iter().map(|s| s.label.clone()).collect::<Vec<_>>();
    assert_eq!(labels(&panels[1]), ["pretrain, entropy", "pretrain, KL"]);
    assert_eq!(labels(&panels[2]), ["DINO", "MAE + X, 6,000 images"]);
    assert_eq!(panels[2].series[0].lines, [[(1.0, 1.0), (2.0, 0.5)], [(1.0, 2.0), (2.0, 0.5)]]);
    fs::remove_dir_all(run).unwrap();
}

#[test]
fn long_logs_are_averaged_and_the_figure_says_so() {
    let run = scratch("averaged");
    let plan = plan(&["distil DINO, seed 0"]);
    log(&run, 0, (0..200).map(|i| at(i as f64, (i % 3) as f64)));
    let panels = panels(&run, &plan).unwrap();
    assert_eq!((panels[0].averaged, panels[0].series[0].lines[0].len()), (3, 67));
    assert_eq!(panels[0].series[0].lines[0][1], (4.0, 1.0));
    curves(&run, &plan).unwrap();
    assert!(fs::read_to_string(run.join("curves.svg")).unwrap().contains("means of up to 3 logged steps"));
    fs::remove_dir_all(run).unwrap();
}

#[test]
fn figures_decode_and_are_not_blank() {
    let run = scratch("figures");
    let titles = ["distil DINO, seed 0", "distil DINO, seed 1", "distil MAE, seed 0", "fine-tune <DINO>, seed 0"];
    for i in 0..titles.len() {
        log(&run, i, (1..200).map(|s| at(s as f64 / 20.0, (3.0 + i as f64) / s as f64)));
    }
    curves(&run, &plan(&titles)).unwrap();
    let svg = fs::read_to_string(run.join("curves.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    for text in ["Training curves: main", "distil", "fine-tune", "loss, logarithmic scale", "epoch", "one line a seed", "&lt;DINO&gt;"] {
        assert!(svg.contains(text), "{text}");
    }
    let image = fd_data::decode("curves.png", &fs::read(run.join("curves.png")).unwrap(), 3).unwrap();
    assert!(image.width == 2000 && image.height >= 700, "{} x {}", image.width, image.height);
    let count = |colour: [u8; 3]| image.data.as_chunks::<3>().0.iter().filter(|p| **p == colour).count();
    for (colour, least) in [([0, 114, 178], 2000), ([0, 158, 115], 700), ([255, 255, 255], 500_000)] {
        assert!(count(colour) > least, "{colour:?}: {} pixels", count(colour));
    }
    let mut names: Vec<_> = fs::read_dir(&run).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["curves.png", "curves.svg", "stages"], "no temporary file is left");
    fs::remove_dir_all(run).unwrap();
}

#[test]
fn odd_runs_draw() {
    let run = scratch("odd");
    let nothing = plan(&["distil a, seed 0", ""]);
    curves(&run, &nothing).unwrap();
    assert!(fs::read_to_string(run.join("curves.svg")).unwrap().contains("no stage has trained yet"));
    let odd = plan(&["a x, seed 0", "b", "c", "d", "e", "", &format!("g {}", "long ".repeat(50))]);
    log(&run, 0, [at(1.0, f64::NAN), at(2.0, f64::INFINITY)]);
    log(&run, 1, [at(0.0, 1.0)]);
    log(&run, 2, [at(1.0, 1.0), at(2.0, f64::NAN), at(3.0, 2.0), at(4.0, f64::NEG_INFINITY), at(5.0, 0.0), at(6.0, 1.0)]);
    log(&run, 3, [at(f64::NAN, 1.0), at(1.0, f64::MAX), at(2.0, f64::MIN), at(3.0, 5e-324)]);
    log(&run, 4, [at(1.0, 1e-300), at(2.0, 1e99)]);
    log(&run, 5, []);
    log(&run, 6, [at(1.0, 1.0)]);
    fs::write(run.join("stages/stage5/metrics.csv"), "another\nfile\n").unwrap();
    curves(&run, &odd).unwrap();
    let svg = fs::read_to_string(run.join("curves.svg")).unwrap();
    assert_eq!(svg.matches("no finite values").count(), 1, "{svg}");
    assert!(svg.contains('…'), "a label that is wider than its panel is cut");
    fs::create_dir_all(run.join("blocked/curves.svg/x")).unwrap();
    let e = curves(&run.join("blocked"), &nothing).unwrap_err().to_string();
    assert!(e.contains("curves.svg: ") && !e.contains('\n'), "{e}");
    fs::remove_dir_all(run).unwrap();
}
