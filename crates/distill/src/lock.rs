//! The lock of a run directory: one process works on it. The kernel releases it when the process ends, however it ends.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{Error, interrupt};

/// The file that is locked; it may stay when nobody holds it.
pub(crate) const FILE: &str = "lock";

/// Time between two attempts of [`RunLock::wait`].
const RETRY: Duration = Duration::from_millis(100);

/// The exclusive advisory lock of a directory, held until it is dropped. Its file says who holds it: process and time of start.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Locks `dir`, which is made where it is missing.
    ///
    /// # Errors
    /// [`Error::File`] when another process (or another lock of this one) holds it, or the file cannot be made or locked.
    pub fn acquire(dir: &Path) -> Result<RunLock, Error> {
        let refuse = |holder| Error::File { path: dir.to_path_buf(), why: format!("{holder} is working on this run directory") };
        // Who only looks whether a run is alive holds the lock for an instant.
        attempt(dir)?.or_else(|_| {
            std::thread::sleep(RETRY);
            attempt(dir)?.map_err(refuse)
        })
    }

    /// As [`RunLock::acquire`], but waits until the directory is free.
    ///
    /// # Errors
    /// [`Error::File`] when the file cannot be made or locked, [`Error::Interrupted`] when a signal ends the waiting.
    pub fn wait(dir: &Path) -> Result<RunLock, Error> {
        let mut told = false;
        loop {
            let holder = match attempt(dir)? {
                Ok(lock) => return Ok(lock),
                Err(holder) => holder,
            };
            if !std::mem::replace(&mut told, true) {
                tracing::warn!("{}: waiting, {holder} is working on this directory", dir.display());
            }
            if let Some(signal) = interrupt::requested() {
                return Err(Error::Interrupted { signal, checkpoints: None });
            }
            std::thread::sleep(RETRY);
        }
    }
}

/// The lock, or who holds it.
fn attempt(dir: &Path) -> Result<Result<RunLock, String>, Error> {
    let fail = |e| Error::File { path: dir.join(FILE), why: format!("cannot be locked: {e}") };
    let open = || {
        fs::create_dir_all(dir)?;
        // Not truncated: it may say who holds it.
        File::options().read(true).write(true).create(true).truncate(false).open(dir.join(FILE))
    };
    let mut file = open().map_err(fail)?;
    match file.try_lock() {
        Ok(()) => sign(&mut file).map(|()| Ok(RunLock { _file: file })).map_err(fail),
        Err(TryLockError::WouldBlock) => Ok(Err(holder(&mut file))),
        Err(TryLockError::Error(e)) => Err(fail(e)),
    }
}

/// Writes who holds the lock; the time is in seconds since 1970.
fn sign(file: &mut File) -> std::io::Result<()> {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(format!("pid = {}\nstarted = {started}\n", std::process::id()).as_bytes())
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.read_to_string(&mut text);
    let pid = text.lines().find_map(|line| line.strip_prefix("pid = ")?.parse::<u32>().ok());
    pid.filter(|_| read.is_ok()).map_or("another process".into(), |pid| format!("another process (pid {pid})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn scratch(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("fd-lock-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn one_holds_it_and_the_next_is_told_who() {
        let dir = scratch("two");
        let first = RunLock::acquire(&dir).unwrap();
        let text = fs::read_to_string(dir.join("lock")).unwrap();
        let expected = format!("{}: another process (pid {}) is working on this run directory", dir.display(), std::process::id());
        assert_eq!(RunLock::acquire(&dir).unwrap_err().to_string(), expected);
        assert_eq!(fs::read_to_string(dir.join("lock")).unwrap(), text, "a refusal changes nothing");
        // A holder that has not signed yet, or whose file somebody spoilt.
        for spoilt in [&b""[..], b"pid = x\n", b"\xff\xfe"] {
            fs::write(dir.join("lock"), spoilt).unwrap();
            let expected = format!("{}: another process is working on this run directory", dir.display());
            assert_eq!(RunLock::acquire(&dir).unwrap_err().to_string(), expected);
        }
        drop(first);
        let _again = RunLock::acquire(&dir).unwrap();
        assert_eq!(fs::read_to_string(dir.join("lock")).unwrap().lines().count(), 2, "the longer text of an earlier holder is gone");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_waiting_one_gets_it_when_it_is_free() {
        let dir = scratch("wait");
        let first = RunLock::acquire(&dir).unwrap();
        let (send, receive) = mpsc::channel();
        let waiting = std::thread::spawn({
            let dir = dir.clone();
            move || send.send(RunLock::wait(&dir).is_ok())
        });
        assert!(receive.recv_timeout(3 * RETRY).is_err(), "it is held");
        drop(first);
        assert_eq!(receive.recv_timeout(Duration::from_secs(60)), Ok(true));
        waiting.join().unwrap().unwrap();
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_cannot_be_locked_is_named() {
        let root = scratch("named");
        fs::create_dir_all(root.join("dir/lock")).unwrap();
        fs::write(root.join("file"), b"x").unwrap();
        for dir in [root.join("dir"), root.join("file"), root.join("file/below")] {
            let e = RunLock::acquire(&dir).unwrap_err().to_string();
            assert!(e.starts_with(&format!("{}: cannot be locked: ", dir.join("lock").display())), "{e}");
        }
        fs::remove_dir_all(root).unwrap();
    }
}
