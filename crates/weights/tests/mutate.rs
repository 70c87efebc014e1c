//! Damaged and crafted files by the hundred thousand: each is refused or read, none panics, and none makes the reader hold more memory
//! than the bounds below, whatever lengths it claims.
//!
//! Fifty thousand run with the other tests, in seconds; the full run is
//! `FD_MUTATIONS=1000000 cargo test -p fd-weights --test mutate -- --nocapture`. `FD_MUTATION=<number>` repeats a single one.
//! One test, since the counters are the process's.

mod support;

#[path = "mutate/counting.rs"]
mod counting;
#[path = "mutate/edits.rs"]
mod edits;
#[path = "mutate/programs.rs"]
mod programs;
#[path = "mutate/seeds.rs"]
mod seeds;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use fd_weights::WeightFile;

/// Splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `end`, which is not zero.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// The largest single allocation for a file of `len` bytes: the 65,536 elements every tensor may have, in f64, or the arena of a pickle,
/// whose objects have 32 bytes, may be one byte of pickle each, and lie in a vector that doubles.
fn largest_allowed(len: usize) -> usize {
    (1 << 19) + 64 * len
}

/// All that may be held at once: that, the buffer a tensor is read through, the names; or for each byte of a pickle an object in a
/// vector that is just being doubled (96) and a value on a stack that is (48), with its place in the memo.
fn held_allowed(len: usize) -> usize {
    (1 << 20) + 160 * len
}

/// Opens a file and reads all there is. True if it could be opened.
fn exercise(bytes: &Arc<[u8]>) -> bool {
    let Ok(file) = WeightFile::from_bytes("m", Arc::clone(bytes)) else {
        return false;
    };
    for (name, entry) in file.entries() {
        let elements = entry.elements();
        if let Ok(raw) = file.read_raw(name) {
            assert_eq!(raw.len(), elements * entry.dtype.size(), "{name}");
        }
        if let Ok(values) = file.read_f64(name) {
            assert_eq!(values.len(), elements, "{name}");
        }
        let _ = file.read_f32(name);
    }
    true
}

#[test]
fn no_file_panics_or_eats_memory() {
    let wanted = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let runs = wanted("FD_MUTATION").map_or(0..wanted("FD_MUTATIONS").unwrap_or(50_000), |one| one..one + 1);
    let seeds = seeds::all();
    for (name, seed) in &seeds {
        assert!(exercise(&seed.bytes().into()), "{name} does not open");
    }
    let start = std::time::Instant::now();
    let mut seen = Totals::default();
    for (name, bytes) in programs::bombs() {
        seen.measure(&name, &bytes.into());
    }
    let bombs = seen.files;
    for run in runs {
        let mut random = Random(run);
        seen.measure(&format!("mutation {run}"), &edits::mutant(&seeds, &mut random).into());
    }
    let Totals { files, opened, largest, held } = seen;
    println!("{files} files ({bombs} of them bombs) in {:.1?}: {opened} opened, {} refused", start.elapsed(), files - opened);
    println!("largest allocation {:.0} %, most held {:.0} % of what is allowed", largest * 100.0, held * 100.0);
}

/// What all files together showed; memory as a part of what is allowed.
#[derive(Default)]
struct Totals {
    files: u64,
    opened: u64,
    largest: f64,
    held: f64,
}

impl Totals {
    fn measure(&mut self, name: &str, bytes: &Arc<[u8]>) {
        counting::start();
        let outcome = catch_unwind(AssertUnwindSafe(|| exercise(bytes)));
        let seen = counting::stop();
        let Ok(fine) = outcome else {
            let path = std::env::temp_dir().join(format!("fd-weights-mutant-{}", std::process::id()));
            std::fs::write(&path, bytes).expect("a place for the file");
            panic!("{name} panics: {}", path.display());
        };
        let (most, all) = (largest_allowed(bytes.len()), held_allowed(bytes.len()));
        assert!(seen.largest <= most, "{name}: of {} bytes, allocates {} at once", bytes.len(), seen.largest);
        assert!(seen.held <= all, "{name}: of {} bytes, holds {}", bytes.len(), seen.held);
        self.files += 1;
        self.opened += u64::from(fine);
        self.largest = self.largest.max(seen.largest as f64 / most as f64);
        self.held = self.held.max(seen.held as f64 / all as f64);
    }
}
