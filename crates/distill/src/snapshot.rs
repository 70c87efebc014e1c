//! Checkpoints of a stage that is being trained. A file's name holds the checksum of its contents, so that one rename publishes both:
//! `checkpoint-<step>-<start of the SHA-256>.safetensors`. The two newest are kept.
//!
//! One process at a time may work on a directory ([`crate::lock::RunLock`]).

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use fd_model::Checkpoint;

use crate::run_dir::write_atomically;
use crate::{Error, sha256_hex};

/// Hexadecimal digits of the checksum in a name.
const DIGITS: usize = 16;
const PREFIX: &str = "checkpoint-";
const SUFFIX: &str = ".safetensors";

/// Saves the state after `step` steps. Once the file is in place and synced, only it and the newest of an earlier step stay; what a
/// write that was cut short left behind goes too.
///
/// # Errors
/// [`Error::File`] when it cannot be written, [`Error::Model`] for a state that is none; the older checkpoints are untouched then.
pub fn save(dir: &Path, step: u64, state: &Checkpoint) -> Result<(), Error> {
    let bytes = state.to_bytes()?;
    let path = dir.join(format!("{PREFIX}{step:08}-{}{SUFFIX}", checksum(&bytes)));
    write_atomically(&path, |file| file.write_all(&bytes))?;
    let Found { checkpoints, mut stale, .. } = Found::list(dir)?;
    // A later step is of a training that was given up, because its checkpoints are damaged: kept, it would push out the good ones.
    let (other, later): (Vec<_>, Vec<_>) = checkpoints.into_iter().filter(|(_, p)| *p != path).partition(|(s, _)| *s < step);
    stale.extend(later.into_iter().chain(other.into_iter().skip(1)).map(|(_, path)| path));
    for path in stale {
        // The new one is safe: what cannot be removed is no reason to stop.
        remove(&path).unwrap_or_else(|e| tracing::warn!("{e}"));
    }
    Ok(())
}

/// The newest checkpoint that is whole, with its step; none where there is none. For each one that is damaged a warning says why, and
/// the next older one is tried.
///
/// # Errors
/// [`Error::File`] when the directory is there and cannot be listed.
pub fn newest(dir: &Path) -> Result<Option<(u64, Checkpoint)>, Error> {
    let Found { checkpoints, misnamed, .. } = Found::list(dir)?;
    for path in &misnamed {
        tracing::warn!("{}: the name is not a checkpoint's, step and checksum; skipped", path.display());
    }
    for (step, path) in &checkpoints {
        match read(path) {
            Ok(state) => return Ok(Some((*step, state))),
            Err(e) => tracing::warn!("{e}; skipped"),
        }
    }
    if !checkpoints.is_empty() || !misnamed.is_empty() {
        tracing::warn!("{}: no checkpoint is whole, the stage starts anew", dir.display());
    }
    Ok(None)
}

/// The step of the newest checkpoint, going by its name alone.
pub fn newest_step(dir: &Path) -> Option<u64> {
    Found::list(dir).ok()?.checkpoints.first().map(|(step, _)| *step)
}

/// Removes the checkpoints of a stage that is done; other files stay. A directory that is not there has none.
///
/// # Errors
/// [`Error::File`].
pub fn clear(dir: &Path) -> Result<(), Error> {
    let Found { checkpoints, stale, .. } = Found::list(dir)?;
    checkpoints.into_iter().map(|(_, path)| path).chain(stale).try_for_each(|path| remove(&path))
}

/// What a directory holds.
#[derive(Default)]
struct Found {
    /// Steps and files, newest first.
    checkpoints: Vec<(u64, PathBuf)>,
    /// Files that begin and end like a checkpoint.
    misnamed: Vec<PathBuf>,
    /// Left over from writes that were cut short: whoever may work here is calling, and not writing.
    stale: Vec<PathBuf>,
}

impl Found {
    fn list(dir: &Path) -> Result<Found, Error> {
        let fail = |e: std::io::Error| Error::File { path: dir.to_path_buf(), why: format!("cannot be listed: {e}") };
        let mut found = Found::default();
        let entries = match fs::read_dir(dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(found),
            entries => entries.map_err(fail)?,
        };
        for entry in entries {
            let path = entry.map_err(fail)?.path();
            let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
            if let Some((step, _)) = parse(name) {
                found.checkpoints.push((step, path));
            } else if name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
                found.misnamed.push(path);
            } else if name.strip_prefix('.').is_some_and(|n| n.starts_with(PREFIX) && n.ends_with(".tmp")) {
                found.stale.push(path);
            }
        }
        found.checkpoints.sort();
        found.checkpoints.reverse();
        found.misnamed.sort();
        Ok(found)
    }
}

/// Step and checksum, if the name is exactly one that [`save`] gives.
fn parse(name: &str) -> Option<(u64, &str)> {
    let (step, sum) = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.split_once('-')?;
    let number: u64 = step.parse().ok()?;
    let hexadecimal = sum.len() == DIGITS && sum.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (hexadecimal && step == format!("{number:08}")).then_some((number, sum))
}

fn checksum(bytes: &[u8]) -> String {
    sha256_hex(bytes)[..DIGITS].to_string()
}

/// Reads a file whose name is a checkpoint's, and holds it against that name.
fn read(path: &Path) -> Result<Checkpoint, Error> {
    let fail = |why| Error::File { path: path.to_path_buf(), why };
    let bytes = fs::read(path).map_err(|e| fail(format!("cannot be read: {e}")))?;
    let sum = checksum(&bytes);
    if path.file_name().and_then(|n| n.to_str()).and_then(parse).is_none_or(|(_, expected)| expected != sum) {
        return Err(fail(format!("is damaged: the checksum of its {} bytes is {sum}", bytes.len())));
    }
    Ok(Checkpoint::from_bytes(&path.display().to_string(), &bytes)?)
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::File { path: path.to_path_buf(), why: format!("cannot be removed: {e}") }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use fd_model::Tensor;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("fd-snapshot-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn state(step: u64) -> Checkpoint {
        let tensor = Tensor { shape: vec![3], data: vec![step as f32, -0.0, 1e-40] };
        let metadata = [("step".to_string(), step.to_string()), ("loss".to_string(), "0.25".to_string())];
        Checkpoint { source: "memory".into(), tensors: [("w".to_string(), tensor)].into(), metadata: metadata.into() }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn name(step: u64) -> String {
        format!("checkpoint-{step:08}-{}.safetensors", &sha256_hex(&state(step).to_bytes().unwrap())[..16])
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The step that [`newest`] finds, whose state must be [`state`]'s, and its warnings.
    fn found(dir: &Path) -> (Option<u64>, Vec<String>) {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).without_time().finish();
        let found = tracing::subscriber::with_default(subscriber, || newest(dir)).unwrap();
        if let Some((step, found)) = &found {
            let expected = state(*step);
            assert_eq!((&found.tensors, &found.metadata), (&expected.tensors, &expected.metadata));
        }
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        (found.map(|(step, _)| step), text.lines().map(str::to_string).collect())
    }

    #[test]
    fn the_two_newest_are_kept_and_the_newest_is_found() {
        let dir = scratch("two");
        assert_eq!(found(&dir), (None, vec![]), "no directory, no complaint");
        clear(&dir).unwrap();
        for step in [0, 5, 10, 123_456_789] {
            save(&dir, step, &state(step)).unwrap();
            assert_eq!(found(&dir), (Some(step), vec![]));
        }
        assert_eq!(names(&dir), [name(10), name(123_456_789)]);
        assert_eq!(sha256_hex(&fs::read(dir.join(name(10))).unwrap())[..16], name(10)[20..36]);
        save(&dir, 123_456_789, &state(123_456_789)).unwrap();
        assert_eq!(names(&dir), [name(10), name(123_456_789)], "the same again is the same file");
        fs::write(dir.join("notes.txt"), "mine").unwrap();
        clear(&dir).unwrap();
        assert_eq!(names(&dir), ["notes.txt"]);
        assert_eq!(found(&dir), (None, vec![]));
        fs::remove_dir_all(dir).unwrap();
    }

    /// Every byte of the newest checkpoint flipped, and every prefix of it: one warning, and the older one.
    #[test]
    fn damage_falls_back_to_the_older_one() {
        let dir = scratch("damage");
        save(&dir, 5, &state(5)).unwrap();
        save(&dir, 10, &state(10)).unwrap();
        let path = dir.join(name(10));
        let whole = fs::read(&path).unwrap();
        let refused = |bytes: &[u8], what: &str| {
            fs::write(&path, bytes).unwrap();
            let (step, warnings) = found(&dir);
            assert_eq!((step, warnings.len()), (Some(5), 1), "{what}: {warnings:?}");
            let expected = format!("{}: is damaged: the checksum of its {} bytes is ", path.display(), bytes.len());
            assert!(warnings[0].contains(&expected) && warnings[0].contains("WARN"), "{what}: {warnings:?}");
        };
        for at in 0..whole.len() {
            for mask in [0x01, 0xff] {
                let mut flipped = whole.clone();
                flipped[at] ^= mask;
                refused(&flipped, &format!("byte {at}"));
            }
            refused(&whole[..at], &format!("{at} bytes"));
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(found(&dir), (Some(10), vec![]));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn unreadable_and_misnamed_ones_are_skipped() {
        let dir = scratch("names");
        save(&dir, 5, &state(5)).unwrap();
        // A folder cannot be read; bytes that are no checkpoint under a name that fits them; wrong names of every kind.
        fs::create_dir(dir.join(format!("checkpoint-00000040-{}.safetensors", "0".repeat(16)))).unwrap();
        let noise = format!("checkpoint-00000030-{}.safetensors", &sha256_hex(b"noise")[..16]);
        fs::write(dir.join(&noise), b"noise").unwrap();
        let sum = &name(5)[20..36];
        let wrong = [
            format!("checkpoint-50-{sum}.safetensors"),
            format!("checkpoint-0000000000050-{sum}.safetensors"),
            format!("checkpoint--0000050-{sum}.safetensors"),
            format!("checkpoint-+0000050-{sum}.safetensors"),
            format!("checkpoint-99999999999999999999-{sum}.safetensors"),
            format!("checkpoint-00000050-{}.safetensors", sum.to_uppercase()),
            format!("checkpoint-00000050-{}.safetensors", &sum[1..]),
            "checkpoint-00000050.safetensors".to_string(),
            "checkpoint-é.safetensors".to_string(),
        ];
        assert_ne!(sum, sum.to_uppercase());
        for wrong in &wrong {
            fs::copy(dir.join(name(5)), dir.join(wrong)).unwrap();
        }
        let (step, warnings) = found(&dir);
        assert_eq!((step, warnings.len()), (Some(5), wrong.len() + 2), "{warnings:#?}");
        for wrong in wrong.iter().chain([&noise]) {
            assert_eq!(warnings.iter().filter(|w| w.contains(wrong.as_str())).count(), 1, "{wrong}: {warnings:#?}");
        }
        assert!(warnings.iter().any(|w| w.contains("checkpoint-00000040-") && w.contains("cannot be read")), "{warnings:#?}");
        fs::remove_file(dir.join(name(5))).unwrap();
        let (step, warnings) = found(&dir);
        assert_eq!(step, None);
        assert!(warnings.last().unwrap().contains("the stage starts anew"), "{warnings:#?}");
        fs::remove_dir_all(dir).unwrap();
    }

    /// After falling back to step 5, later steps are of a training that is over: the new checkpoint and the one before it stay.
    #[test]
    fn what_is_damaged_does_not_push_out_what_is_whole() {
        let dir = scratch("later");
        for step in [5, 90, 80] {
            save(&dir, step, &state(step)).unwrap();
        }
        assert_eq!(names(&dir), [name(5), name(80)]);
        for step in [90, 80] {
            fs::write(dir.join(name(step)), b"damaged").unwrap();
        }
        assert_eq!(found(&dir).0, Some(5));
        save(&dir, 10, &state(10)).unwrap();
        assert_eq!(names(&dir), [name(5), name(10)]);
        save(&dir, 80, &state(80)).unwrap();
        assert_eq!(found(&dir), (Some(80), vec![]), "written over the damaged one");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_failed_write_leaves_the_older_ones_and_nothing_else() {
        let dir = scratch("failed");
        save(&dir, 5, &state(5)).unwrap();
        save(&dir, 10, &state(10)).unwrap();
        // A folder of the new file's name stops the rename, which is the last that can fail.
        fs::create_dir(dir.join(name(15))).unwrap();
        let e = save(&dir, 15, &state(15)).unwrap_err().to_string();
        assert!(e.starts_with(&format!("{}: cannot be written: ", dir.join(name(15)).display())), "{e}");
        assert_eq!(names(&dir), [name(5), name(10), name(15)], "no temporary file");
        fs::remove_dir(dir.join(name(15))).unwrap();
        assert_eq!(found(&dir), (Some(10), vec![]));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_a_killed_process_left_behind_is_removed() {
        let dir = scratch("stale");
        fs::create_dir(&dir).unwrap();
        let stale = [format!(".{}.4000000.tmp", name(3)), format!(".{}.{}.tmp", name(4), std::process::id())];
        for round in ["save", "clear"] {
            for stale in &stale {
                fs::write(dir.join(stale), b"half").unwrap();
            }
            fs::write(dir.join(".notes.tmp"), b"mine").unwrap();
            assert_eq!(found(&dir).1, Vec::<String>::new(), "{round}: not a checkpoint");
            if round == "save" {
                save(&dir, 5, &state(5)).unwrap()
            } else {
                clear(&dir).unwrap()
            }
            let left: &[String] = if round == "save" { &[".notes.tmp".into(), name(5)] } else { &[".notes.tmp".into()] };
            assert_eq!(names(&dir), left, "{round}");
        }
        fs::remove_dir_all(dir).unwrap();
    }
}
