//! The event files are those that TensorBoard was seen to read.
//!
//! `fixtures/tensorboard` holds two files of a run that was killed while it wrote step 30 and taken up again after step 20, and `scalars.csv`:
//! what TensorBoard's reader makes of them (`tools/tensorboard_read.py`). To renew them, run this test, copy the files it left in
//! `target/tmp/tensorboard` and write the CSV with `python3 tools/tensorboard_read.py FOLDER > FOLDER/scalars.csv`.

use std::fs;
use std::path::Path;

use fd_distill::tensorboard::EventWriter;

/// Steps, losses and learning rates of the interrupted run (its last line is void) and of the one that took it up.
const INTERRUPTED: [(usize, f64, f64); 3] = [(10, 2.5, 0.001), (20, 1.1, 0.0005), (25, 9.0, 9.0)];
const RESUMED: [(usize, f64, f64); 3] = [(25, f64::NAN, 1e-5), (30, -0.3, 0.0), (3_000_000_000, 1e-40, 1e6)];

fn events(start: f64, first_step: usize, rows: &[(usize, f64, f64)]) -> Vec<u8> {
    let mut bytes = vec![];
    let mut writer = EventWriter::begin(&mut bytes, start, first_step).unwrap();
    for (i, (step, loss, lr)) in rows.iter().enumerate() {
        writer.scalars(start + 0.5 + i as f64, *step, [("loss", *loss), ("lr", *lr)]).unwrap();
    }
    bytes
}

fn files() -> [(&'static str, Vec<u8>); 2] {
    let mut interrupted = events(1.7e9, 0, &[&INTERRUPTED[..], &[(30, 8.0, 8.0)]].concat());
    interrupted.truncate(interrupted.len() - 7);
    [("events.out.tfevents.1700000000.fd.1.0", interrupted), ("events.out.tfevents.1700000100.fd.1.1", events(1.7e9 + 100.0, 21, &RESUMED))]
}

#[test]
fn the_writer_still_writes_the_files_that_tensorboard_read() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tensorboard");
    let now = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tensorboard");
    fs::create_dir_all(&now).unwrap();
    files().iter().for_each(|(name, bytes)| fs::write(now.join(name), bytes).unwrap());
    for (name, bytes) in files() {
        assert!(fs::read(fixtures.join(name)).unwrap() == bytes, "{name} differs; see {}", now.display());
    }
}

#[test]
fn tensorboard_saw_every_point_but_the_orphaned_ones() {
    let rows = || INTERRUPTED[..2].iter().chain(&RESUMED);
    let wanted = rows().map(|r| ("loss", r.0, r.1)).chain(rows().map(|r| ("lr", r.0, r.2)));
    let seen = include_str!("fixtures/tensorboard/scalars.csv");
    let seen: Vec<Vec<&str>> = seen.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(seen[0], ["tag", "step", "value"]);
    assert_eq!(seen.len(), 1 + 2 * rows().count());
    for (line, (tag, step, value)) in seen[1..].iter().zip(wanted) {
        let read: f64 = line[2].parse().unwrap();
        let same = read == f64::from(value as f32) || read.is_nan() && value.is_nan();
        assert!(line[..2] == [tag, &step.to_string()] && same, "{line:?}: expected {tag}, {step}, {value}");
    }
}
