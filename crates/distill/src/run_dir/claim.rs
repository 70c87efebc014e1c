//! Claiming a run directory: nobody else works there, and what is there is of the same configuration.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{CONFIG, RunDir, is_temporary, remove_made, remove_temporaries};
use crate::lock::{self, RunLock};
use crate::{Error, config};

/// What can be done about a directory that is somebody else's.
const WAYS_OUT: &str = "use --out DIR for a directory of its own, or --force to replace what differs";

impl RunDir {
    /// Makes or opens the directory for a run of the configuration `resolved` and locks it until the result is dropped. Its
    /// `config.toml`, if it has one, must say the same, apart from the top-level keys in `ignore`; without one, it must be empty. With
    /// `force` it may hold anything. Writing the new `config.toml` is the caller's.
    ///
    /// # Errors
    /// [`Error::File`], and then nothing has changed: another configuration, by the first key that differs; files that are not a
    /// run's; another process that works there; a directory that cannot be made or written.
    pub fn claim(path: impl Into<PathBuf>, resolved: &Table, ignore: &[&str], force: bool) -> Result<RunDir, Error> {
        let path = path.into();
        let check = || if force { Ok(()) } else { inspect(&path, resolved, ignore) };
        // Before anything is written there, and again when nobody else can write there.
        check()?;
        let (mut run, made) = RunDir::make(path.clone())?;
        run.lock = Some(RunLock::acquire(&path).inspect_err(|_| remove_made(&made))?);
        check()?;
        ["", "weights"].into_iter().for_each(|folder| remove_temporaries(&path.join(folder)));
        Ok(run)
    }
}

/// Refuses a directory whose contents are not those of a run of this configuration.
fn inspect(path: &Path, resolved: &Table, ignore: &[&str]) -> Result<(), Error> {
    let refuse = |why: String| Err(Error::File { path: path.to_path_buf(), why });
    let text = match fs::read_to_string(path.join(CONFIG)) {
        // No such file, or no such directory; a path below a file fails when the directory is made.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return if holds_others_files(path) { refuse(format!("is not empty and not a run directory: {WAYS_OUT}")) } else { Ok(()) };
        }
        Err(e) => return refuse(format!("its {CONFIG} cannot be read ({e}): {WAYS_OUT}")),
        Ok(text) => text,
    };
    let there: Table = match toml::from_str(&text) {
        Ok(there) => there,
        Err(e) => {
            let why = config::one_line(&format!("{}{}", config::line_of(&text, &e), e.message()));
            return refuse(format!("its {CONFIG} is damaged ({why}): {WAYS_OUT}"));
        }
    };
    let without = |table: &Table| Value::Table(table.iter().filter(|(k, _)| !ignore.contains(&k.as_str())).map(own).collect());
    match difference("", Some(&without(&there)), Some(&without(resolved))) {
        None => Ok(()),
        Some(what) => refuse(format!("holds another configuration ({what}): {WAYS_OUT}")),
    }
}

fn own((key, value): (&String, &Value)) -> (String, Value) {
    (key.clone(), value.clone())
}

/// Does the directory hold more than what a run leaves that ended before its `config.toml` was written: the lock, temporary files?
fn holds_others_files(path: &Path) -> bool {
    let ours = |name: &str| name == lock::FILE || is_temporary(name);
    // What cannot be listed is refused when it is made.
    fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(|entry| !entry.file_name().to_str().is_some_and(ours)))
}

/// The first key, in the order of their names, whose value differs, and both values.
fn difference(path: &str, there: Option<&Value>, here: Option<&Value>) -> Option<String> {
    let below = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
    match (there, here) {
        (Some(Value::Table(a)), Some(Value::Table(b))) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.into_iter().find_map(|key| difference(&below(&name(key)), a.get(key), b.get(key)))
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| difference(&below(&i.to_string()), Some(a), Some(b)))
        }
        _ => (there != here).then(|| format!("{path} is {} there, {} here", shown(there), shown(here))),
    }
}

/// A key as `--set` takes it.
fn name(key: &str) -> String {
    let bare = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare && !key.is_empty() { key.to_string() } else { format!("{key:?}") }
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None => "missing".into(),
        Some(Value::String(text)) => format!("{text:?}"),
        Some(Value::Table(_)) => "a table".into(),
        Some(Value::Array(items)) => format!("[{}]", items.iter().map(|item| shown(Some(item))).collect::<Vec<_>>().join(", ")),
        Some(value) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THERE: &str = "name = \"main\"\nseeds = [0]\n[distil.recipe]\nepochs = 36\nlr = 1e-3\nbetas = [0.9, 0.999]\n";

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("fd-claim-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn table(text: &str) -> Table {
        toml::from_str(text).unwrap()
    }

    /// Names, contents and times of everything in a directory.
    fn contents(path: &Path) -> Vec<(PathBuf, Option<Vec<u8>>, std::time::SystemTime)> {
        let entry = |path: PathBuf| (path.clone(), fs::read(&path).ok(), fs::metadata(&path).unwrap().modified().unwrap());
        let mut all: Vec<_> = fs::read_dir(path).unwrap().map(|e| entry(e.unwrap().path())).chain([entry(path.to_path_buf())]).collect();
        all.sort();
        all
    }

    fn names(path: &Path) -> Vec<PathBuf> {
        contents(path).into_iter().map(|(name, ..)| name).filter(|name| name != path).collect()
    }

    /// The refusal, in one line that starts with the directory; nothing in it has changed.
    fn refusal(path: &Path, resolved: &str) -> String {
        let before = contents(path);
        let e = RunDir::claim(path, &table(resolved), &["seeds"], false).unwrap_err().to_string();
        assert_eq!(contents(path), before, "{e}");
        assert!(!e.contains('\n'), "{e}");
        e.strip_prefix(&format!("{}: ", path.display())).expect(&e).to_string()
    }

    #[test]
    fn the_same_configuration_continues() {
        let root = scratch("same");
        let path = root.join("runs/main");
        let claim = |resolved: &str| RunDir::claim(&path, &table(resolved), &["seeds"], false);
        let first = claim(THERE).unwrap();
        assert!(fs::read_dir(&path).unwrap().all(|e| e.unwrap().file_name() == "lock"), "nothing but the lock");
        let busy = format!("{}: another process (pid {}) is working on this run directory", path.display(), std::process::id());
        assert_eq!(claim(THERE).unwrap_err().to_string(), busy);
        drop(first);
        // As if it had been killed while it wrote its configuration.
        fs::write(path.join(".config.toml.77.tmp"), "na").unwrap();
        let second = claim(THERE).unwrap();
        second.write_config(&table(THERE)).unwrap();
        second.write("table.md", b"result").unwrap();
        assert_eq!(claim(THERE).unwrap_err().to_string(), busy);
        drop(second);
        claim(THERE).unwrap();
        claim(&THERE.replace("[0]", "[0, 1]")).unwrap();
        claim(&THERE.replace("seeds = [0]\n", "")).unwrap();
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn another_configuration_is_refused_by_its_first_difference() {
        let path = scratch("differs");
        RunDir::create(&path).unwrap().write_config(&table(THERE)).unwrap();
        let differs = |from: &str, to: &str, what: &str| {
            let expected = format!("holds another configuration ({what}): {WAYS_OUT}");
            assert_eq!(refusal(&path, &THERE.replace(from, to)), expected);
        };
        differs("36", "24", "distil.recipe.epochs is 36 there, 24 here");
        differs("36", "36.0", "distil.recipe.epochs is 36 there, 36.0 here");
        differs("0.999", "0.95", "distil.recipe.betas.1 is 0.999 there, 0.95 here");
        differs("[0.9, 0.999]", "[]", "distil.recipe.betas is [0.9, 0.999] there, [] here");
        differs("lr = 1e-3\n", "", "distil.recipe.lr is 0.001 there, missing here");
        differs("[distil.", "[\"dis til\".", "\"dis til\" is missing there, a table here");
        differs("\"main\"\n", "\"a\\nb\"\nzeta = [\"\"\"\nx\"\"\", 1]\n", r#"name is "main" there, "a\nb" here"#);
        differs("36", "36\nzeta = [\"a\\nb\", [1]]", r#"distil.recipe.zeta is missing there, ["a\nb", [1]] here"#);
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn damaged_configurations_and_other_people_s_files_are_refused() {
        let path = scratch("others");
        fs::create_dir(&path).unwrap();
        for (bytes, what) in
            [(&b"a = 1\nb = = 2"[..], "its config.toml is damaged (line 2: "), (b"\xff", "its config.toml cannot be read (")]
        {
            fs::write(path.join("config.toml"), bytes).unwrap();
            let e = refusal(&path, THERE);
            assert!(e.starts_with(what) && e.ends_with(&format!("): {WAYS_OUT}")), "{e}");
        }
        fs::remove_file(path.join("config.toml")).unwrap();
        fs::create_dir(path.join("config.toml")).unwrap();
        assert!(refusal(&path, THERE).starts_with("its config.toml cannot be read ("));
        fs::remove_dir(path.join("config.toml")).unwrap();
        fs::write(path.join("thesis.tex"), "mine").unwrap();
        assert_eq!(refusal(&path, THERE), format!("is not empty and not a run directory: {WAYS_OUT}"));
        let forced = RunDir::claim(&path, &table(THERE), &[], true).unwrap();
        forced.write_config(&table(&THERE.replace("36", "1"))).unwrap();
        drop(forced);
        let forced = RunDir::claim(&path, &table(THERE), &[], true).unwrap();
        assert!(RunDir::claim(&path, &table(THERE), &[], true).is_err(), "force does not break a lock");
        assert_eq!(fs::read(path.join("thesis.tex")).unwrap(), b"mine");
        drop(forced);
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn what_cannot_be_locked_leaves_nothing_behind() {
        let root = scratch("lock");
        fs::create_dir_all(root.join("run/lock")).unwrap();
        fs::write(root.join("file"), b"x").unwrap();
        let before = names(&root);
        for path in [root.join("file"), root.join("file/below/it"), PathBuf::from("/proc/fd-claim/x")] {
            let e = RunDir::claim(&path, &table(THERE), &[], false).unwrap_err().to_string();
            assert!(e.starts_with(&path.display().to_string()) && !e.contains('\n'), "{e}");
        }
        assert!(RunDir::claim(root.join("run"), &table(THERE), &[], false).is_err(), "a folder where the lock should be");
        assert_eq!((names(&root), names(&root.join("run"))), (before, vec![root.join("run/lock")]));
        fs::remove_dir_all(root).unwrap();
    }
}
