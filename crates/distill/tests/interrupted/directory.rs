//! Run directories: of another configuration, of more seeds, in use, shared, only looked at.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use super::{Folder, Running, STAGES, TRAINING, contents, list, reference, text};

/// When each stage was done.
fn done(folder: &Folder) -> BTreeMap<PathBuf, SystemTime> {
    let when = |stage: PathBuf| Some((stage.clone(), std::fs::metadata(stage.join("done.json")).ok()?.modified().unwrap()));
    list(&folder.0.join("run/stages")).into_iter().filter_map(when).collect()
}

/// Runs it, expects exit code 2 and returns the one line.
fn refused(folder: &Folder, more: &[&str]) -> String {
    let output = folder.table(more).output().unwrap();
    let err = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout).as_str(), err.lines().count()), (Some(2), "", 1), "{more:?}: {err}");
    err
}

#[test]
fn another_configuration_is_refused_and_force_runs_what_depends_on_it() {
    let folder = Folder::new("force");
    folder.finish(&[]).assert_ran(STAGES, 0);
    let before = done(&folder);
    let changed = ["--set", "knn.k=5"];
    let err = refused(&folder, &changed);
    assert!(err.starts_with("error: run: holds another configuration (knn.k is 20 there, 5 here): "), "{err}");
    folder.assert_untouched("refused");
    // The nearest neighbours are the probes' and the pixels' work: nine stages.
    folder.finish(&[&changed[..], &["--force"]].concat()).assert_ran(9, STAGES - 9);
    let after = done(&folder);
    assert_eq!(after.len(), STAGES + 9, "the old ones stay");
    assert!(before.iter().all(|(stage, time)| after[stage] == *time), "what was done is as it was");
    assert!(after.keys().filter(|s| !before.contains_key(*s)).all(|s| s.display().to_string().contains("/probe-")));
    refused(&folder, &[]);
    folder.finish(&["--force"]).assert_ran(0, STAGES);
}

#[test]
fn seeds_may_be_added() {
    let folder = Folder::new("seeds");
    folder.finish(&[]).assert_ran(STAGES, 0);
    let before = done(&folder);
    // Teachers have a seed of their own.
    folder.finish(&["--seeds", "2"]).assert_ran(STAGES - 2, STAGES);
    let after = done(&folder);
    assert_eq!(after.len(), 2 * STAGES - 2);
    assert!(before.iter().all(|(stage, time)| after[stage] == *time), "the first seed's stages are as they were");
    let table = std::fs::read_to_string(folder.0.join("run/table.md")).unwrap();
    assert!(table.contains("Seeds: 0, 1.") && table.contains(" (2) |"), "{table}");
}

#[test]
fn one_process_works_on_a_run_directory() {
    let folder = Folder::new("busy");
    let long = ["--set", "teachers.DINO.pretrain.train.recipe.epochs=1000000"];
    let mut first = Running(folder.table(&long).spawn().unwrap());
    first.wait_until("training has not begun", || list(&folder.0.join("run/stages")).iter().any(|s| s.join("metrics.csv").exists()));
    let expected = format!("error: run: another process (pid {}) is working on this run directory\n", first.0.id());
    assert_eq!(refused(&folder, &long), expected);
    let forced = refused(&folder, &["--force"]);
    assert_eq!(forced, expected, "--force does not break a lock");
    drop(first);
    folder.finish(&["--force"]);
    let left = list(&folder.0.join("run/stages")).len();
    assert_eq!(left, STAGES + 1, "the lock of a killed process is free");
}

#[test]
fn runs_share_stages() {
    let folder = Folder::new("shared");
    let folders = [Folder::new("shared-a"), Folder::new("shared-b")];
    let shared = folder.0.join("stages").display().to_string();
    let mut both = folders.each_ref().map(|f| Running(f.table(&["--stages", &shared, "--jobs", "2"]).spawn().unwrap()));
    let outputs = both.each_mut().map(|run| run.output());
    let mut ran = 0;
    for (folder, output) in folders.iter().zip(&outputs) {
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let out = text(&output.stdout);
        let mut numbers = out.lines().last().unwrap().split(' ').filter_map(|word| word.parse::<usize>().ok());
        let (here, there) = (numbers.next().unwrap(), numbers.next().unwrap());
        assert_eq!(here + there, STAGES);
        ran += here;
        // plan.json says where the stages are.
        let of_run = |(name, _): &(&PathBuf, &Vec<u8>)| !name.starts_with("stages") && !name.ends_with("plan.json");
        let files = contents(&folder.0.join("run"));
        assert!(files.iter().filter(of_run).eq(reference().iter().filter(of_run)), "the same results");
    }
    assert_eq!(ran, STAGES, "every stage ran once");
    let attempts = |stage: &PathBuf| list(stage).iter().filter(|p| p.display().to_string().contains("events.out.tfevents.")).count();
    let stages = list(&folder.0.join("stages"));
    assert_eq!((stages.len(), stages.iter().map(attempts).sum::<usize>()), (STAGES, TRAINING));
    // A third run finds all of it.
    let third = Folder::new("shared-c");
    third.finish(&["--stages", &shared]).assert_ran(0, STAGES);
}

#[test]
fn a_rehearsal_tells_and_makes_nothing() {
    let folder = Folder::new("rehearsal");
    let rehearsal = folder.finish(&["--dry-run"]);
    assert_eq!((list(&folder.0), rehearsal.err.as_str()), (vec![], ""));
    let todo = |text: &str| text.lines().filter(|line| line.contains("  to do  ")).count();
    assert_eq!((todo(&rehearsal.out), rehearsal.out.lines().count()), (STAGES, STAGES + 2), "{}", rehearsal.out);
    for title in ["pretrain DINO, seed 0", "distil supervised, seed 0", "probe raw pixels, seed 0"] {
        assert!(rehearsal.out.contains(title), "{title}: {}", rehearsal.out);
    }
    let (stage, checkpoints) = folder.interrupt("INT", 130, &["--checkpoint-every", "0"]);
    let name = checkpoints.last().unwrap().file_name().unwrap().to_str().unwrap().to_string();
    let step: usize = name.split('-').nth(1).unwrap().parse().unwrap();
    let before = list(&stage);
    let rehearsal = folder.finish(&["--dry-run"]).out;
    assert_eq!(rehearsal.matches(&format!("  step {step} of ")).count(), 1, "{rehearsal}");
    assert_eq!(list(&stage), before);
    folder.finish(&[]);
    let rehearsal = folder.finish(&["--dry-run"]).out;
    assert_eq!(rehearsal.lines().filter(|line| line.contains("  done  ")).count(), STAGES, "{rehearsal}");
    folder.assert_untouched("looked at");
}
