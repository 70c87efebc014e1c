//! Which models are analysed, and what outputs call them.

use std::path::{Path, PathBuf};

use crate::Error;

/// A weight file and its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// What outputs call it.
    pub label: String,
    /// The weights.
    pub file: PathBuf,
}

impl Labelled {
    /// `FILE`, whose name less its extension is the label, or `LABEL=FILE`.
    ///
    /// # Errors
    /// No label or no file.
    pub fn parse(text: &str) -> Result<Labelled, Error> {
        let given = text.split_once('=').filter(|_| !Path::new(text).exists());
        let (label, file) = given.unwrap_or_else(|| (stem(Path::new(text)), text));
        if label.trim().is_empty() || label.contains(char::is_control) || file.is_empty() {
            return Err(Error::Usage(format!("--weights {text}: expected FILE or LABEL=FILE")));
        }
        Ok(Labelled { label: label.into(), file: file.into() })
    }

    /// The encoders of a run, `NAME` or `NAME:FILE`: `<runs>/NAME/weights/*.safetensors` by name, labelled `NAME/FILE`.
    ///
    /// # Errors
    /// No such run, a run without weights, no such file in it.
    pub fn of_run(runs: &Path, text: &str) -> Result<Vec<Labelled>, Error> {
        let (name, only) = text.split_once(':').map_or((text, None), |(name, file)| (name, Some(file)));
        let refuse = |why: String| Error::Usage(format!("--run {text}: {why}"));
        let run = runs.join(name);
        if name.is_empty() || !run.is_dir() {
            return Err(refuse(format!("there is no run {}{}", run.display(), among(&names(runs, |path| path.is_dir())))));
        }
        let folder = run.join("weights");
        let is_file = |path: &Path| path.extension().is_some_and(|e| e == "safetensors");
        let all: Vec<PathBuf> = names(&folder, is_file).into_iter().map(|name| folder.join(name)).collect();
        if all.is_empty() {
            return Err(refuse(format!("{} holds no .safetensors: is the run done?", folder.display())));
        }
        let stems: Vec<String> = all.iter().map(|file| stem(file).to_string()).collect();
        let wanted = |file: &PathBuf| only.is_none_or(|only| stem(file) == only.strip_suffix(".safetensors").unwrap_or(only));
        let found: Vec<Labelled> =
            all.into_iter().filter(wanted).map(|f| Labelled { label: format!("{name}/{}", stem(&f)), file: f }).collect();
        if found.is_empty() { Err(refuse(format!("no such file in {}{}", folder.display(), among(&stems)))) } else { Ok(found) }
    }
}

/// Refuses labels that stand for two models.
///
/// # Errors
/// The label.
pub fn distinct(models: &[Labelled]) -> Result<(), Error> {
    let twice = models.iter().enumerate().find(|(i, m)| models[..*i].iter().any(|other| other.label == m.label));
    twice.map_or(Ok(()), |(_, m)| Err(Error::Usage(format!("--weights: two models are called `{}`: give labels, LABEL=FILE", m.label))))
}

fn stem(file: &Path) -> &str {
    file.file_stem().and_then(|s| s.to_str()).unwrap_or_default()
}

/// Names in a folder, in order, of what is wanted; none of a folder that cannot be read.
fn names(folder: &Path, wanted: impl Fn(&Path) -> bool) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    let mut names: Vec<String> = entries.filter(|p| wanted(p)).filter_map(|p| Some(p.file_name()?.to_str()?.to_string())).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

fn among(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("; there is {}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_given_or_taken_from_the_file() {
        let parse = |text: &str| Labelled::parse(text).map(|l| (l.label, l.file.display().to_string()));
        assert_eq!(parse("a/dino.v2.pth").unwrap(), ("dino.v2".into(), "a/dino.v2.pth".into()));
        assert_eq!(parse("before FD=a/b=c.pth").unwrap(), ("before FD".into(), "a/b=c.pth".into()));
        assert!(["", "=x", "x=", "/"].iter().all(|wrong| parse(wrong).is_err()));
        let two = [Labelled::parse("a/x.pth").unwrap(), Labelled::parse("b/x.pth").unwrap()];
        assert!(distinct(&two[..1]).is_ok() && distinct(&two).unwrap_err().to_string().contains("`x`"));
    }

    #[test]
    fn a_run_s_weights_go_by_name() {
        let runs = std::env::temp_dir().join(format!("fd-analysis-runs-{}", std::process::id()));
        std::fs::create_dir_all(runs.join("main/weights")).unwrap();
        std::fs::create_dir_all(runs.join("begun")).unwrap();
        for file in ["b.safetensors", "a.safetensors", "a.json"] {
            std::fs::write(runs.join("main/weights").join(file), "").unwrap();
        }
        let of = |text: &str| Labelled::of_run(&runs, text);
        let labels = |text: &str| of(text).unwrap().into_iter().map(|l| l.label).collect::<Vec<_>>();
        assert_eq!(labels("main"), ["main/a", "main/b"]);
        assert_eq!((labels("main:b"), labels("main:b.safetensors")), (vec!["main/b".into()], vec!["main/b".into()]));
        for (wrong, word) in [("mian", "begun, main"), ("begun", "is the run done?"), ("main:c", "there is a, b"), ("", "no run")] {
            assert!(of(wrong).unwrap_err().to_string().contains(word), "{wrong}");
        }
        std::fs::remove_dir_all(runs).unwrap();
    }
}
