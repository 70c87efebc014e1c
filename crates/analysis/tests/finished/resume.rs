//! Stopped at any moment, the same command ends up with the same bytes.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use super::refusals::{Model, weights};
use super::{Running, Scratch, text};

const ARGS: [&str; 20] = [
    "a=vit.safetensors",
    "b=swin.safetensors",
    "--data",
    "fashion-mnist",
    "--out",
    "out",
    "--images",
    "60",
    "--points",
    "9",
    "--seeds",
    "0,1",
    "--directions",
    "2",
    "--radius",
    "0.2,0.4",
    "--hessian-iterations",
    "6",
    "--hessian-vectors",
    "6",
];

fn models(s: &Scratch) {
    weights(&s.path("vit.safetensors"), Model::vit());
    weights(&s.path("swin.safetensors"), Model::swin());
}

/// Waits until a table has so many lines; false where the process ended first.
fn lines(s: &Scratch, run: &mut Running, table: &str, n: usize) -> bool {
    let start = Instant::now();
    loop {
        let there = |name: &str| fs::read_to_string(s.path("out").join(name)).map_or(0, |t| t.lines().count());
        if there(&format!("{table}.part")).max(there(table)) >= n {
            return true;
        }
        if run.0.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(start.elapsed() < Duration::from_secs(300), "{table} has not got {n} lines");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn killed_and_taken_up_again() {
    let s = Scratch::new("kill");
    models(&s);
    s.says(&ARGS);
    let whole = s.files("out");
    assert_eq!(whole["landscape.csv"].lines().count(), 1 + 2 * 2 * 81);
    assert_eq!(s.files("out").len(), 4, "{:?}", whole.keys());
    // Nothing is left to do, and nothing changes.
    s.says(&ARGS);
    assert_eq!(s.files("out"), whole);

    fs::remove_dir_all(s.path("out")).unwrap();
    let mut killed = 0;
    for (table, n) in [("landscape.csv", 5), ("landscape.csv", 100), ("landscape.csv", 250), ("sharpness.csv", 3), ("sharpness.csv", 12)] {
        let mut run = Running(s.command(&ARGS).spawn().unwrap());
        killed += usize::from(lines(&s, &mut run, table, n));
        drop(run);
        assert!(!s.path("out/landscape.json").exists() || killed < 5, "written last");
    }
    assert!(killed >= 3, "{killed} of 5");
    s.says(&ARGS);
    assert_eq!(s.files("out"), whole);
}

#[test]
fn a_signal_ends_it_and_damage_is_measured_again() {
    let s = Scratch::new("signal");
    models(&s);
    s.says(&ARGS);
    let whole = s.files("out");
    fs::remove_dir_all(s.path("out")).unwrap();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut run = Running(s.command(&ARGS).spawn().unwrap());
        if !lines(&s, &mut run, "landscape.csv", if signal == "INT" { 5 } else { 60 }) {
            continue;
        }
        Command::new("kill").args([&format!("-{signal}"), &run.0.id().to_string()]).status().unwrap();
        let status = run.0.wait().unwrap();
        let mut err = vec![];
        std::io::Read::read_to_end(run.0.stderr.as_mut().unwrap(), &mut err).unwrap();
        let last = text(&err).lines().last().unwrap_or_default().to_string();
        assert!(status.code() == Some(code) && last.starts_with(&format!("interrupted by SIG{signal}")), "{status:?} {last}");
        assert!(s.path("out/landscape.csv.part").exists() && !s.path("out/landscape.csv").exists());
    }
    s.says(&ARGS);
    assert_eq!(s.files("out"), whole);
    // Half a line, a table that lost its end, a report that is gone.
    let csv = &whole["landscape.csv"];
    fs::write(s.path("out/landscape.csv"), &csv[..csv.len() / 2]).unwrap();
    fs::write(s.path("out/sharpness.csv"), whole["sharpness.csv"].replace("\nb,", "\nc,")).unwrap();
    fs::remove_file(s.path("out/landscape.json")).unwrap();
    s.says(&ARGS);
    assert_eq!(s.files("out"), whole);
}
