//! Where data sets and teachers lie: what a configuration names by relative paths is looked up where the command line says.
//!
//! `--data imagenet=DIR` puts DIR in place of a path's first part `imagenet`; `--teachers DIR` stands before the paths of weights. Neither
//! is part of a run's configuration: stages are known by what their data hold, wherever that lies.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use fd_data::DataSpec;

use crate::Error;
use crate::table::TableConfig;

/// What the command line says of places.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Folders of data, by the name that paths begin with.
    pub data: Vec<(String, PathBuf)>,
    /// The folder of teachers' weights.
    pub teachers: Option<PathBuf>,
}

impl Places {
    /// Puts the places into a table's paths.
    pub fn resolve(&self, config: &mut TableConfig) {
        for (_, path) in paths(config) {
            let Some(name) = first(path) else { continue };
            if let Some((_, folder)) = self.data.iter().find(|(of, _)| *of == name) {
                *path = folder.join(path.strip_prefix(&name).unwrap_or(path));
            }
        }
        if let Some(folder) = &self.teachers {
            let weights = config.teachers.iter_mut().filter_map(|t| t.weights.as_mut());
            weights.filter(|w| w.is_relative()).for_each(|w| *w = folder.join(&*w));
        }
    }

    /// Puts the places of data into a table's paths, and refuses a name that nothing lies below and paths that are not there.
    ///
    /// # Errors
    /// One line that names the key, the path and the option that helps.
    pub fn settle_data(&self, config: &mut TableConfig) -> Result<(), Error> {
        self.check_names(&names(config))?;
        let named: Vec<Option<String>> = paths(config).into_iter().map(|(_, path)| first(path)).collect();
        Places { teachers: None, ..self.clone() }.resolve(config);
        for ((key, path), name) in paths(config).into_iter().zip(named) {
            let Some(name) = name.filter(|_| !path.exists()) else { continue };
            let hint = match self.data.iter().find(|(of, _)| *of == name) {
                Some((_, folder)) => format!("--data {name}={}", folder.display()),
                None => format!("--data {name}=DIR says where {name} lies"),
            };
            return Err(Error::Usage(format!("{key}: {} is not there ({hint})", path.display())));
        }
        Ok(())
    }

    /// The same for the files of teachers.
    ///
    /// # Errors
    /// As [`Places::settle_data`].
    pub fn settle_teachers(&self, config: &mut TableConfig) -> Result<(), Error> {
        let relative: Vec<bool> = config.teachers.iter().map(|t| t.weights.as_ref().is_some_and(|w| w.is_relative())).collect();
        Places { data: vec![], ..self.clone() }.resolve(config);
        for (teacher, _) in config.teachers.iter().zip(relative).filter(|(_, relative)| *relative) {
            let Some(path) = teacher.weights.as_ref().filter(|path| !path.exists()) else { continue };
            let hint = match &self.teachers {
                Some(folder) => format!("--teachers {}", folder.display()),
                None => "--teachers DIR says in which folder it lies".into(),
            };
            return Err(Error::Usage(format!("teachers.{}.weights: {} is not there ({hint})", teacher.name, path.display())));
        }
        Ok(())
    }

    /// Refuses a name that no data lie below.
    ///
    /// # Errors
    /// One line that lists the names there are.
    pub fn check_names(&self, names: &BTreeSet<String>) -> Result<(), Error> {
        let Some((name, _)) = self.data.iter().find(|(name, _)| !names.contains(name)) else { return Ok(()) };
        let there = if names.is_empty() { "none".into() } else { names.iter().cloned().collect::<Vec<_>>().join(", ") };
        Err(Error::Usage(format!("--data {name}=…: no data of the configuration lie below `{name}`; names to give: {there}")))
    }
}

/// The names that a table's data lie below: first parts of relative paths.
pub fn names(config: &TableConfig) -> BTreeSet<String> {
    paths(&mut config.clone()).into_iter().filter_map(|(_, path)| first(path)).collect()
}

/// Every path of a table's data, with its key.
fn paths(config: &mut TableConfig) -> Vec<(String, &mut PathBuf)> {
    let own = config.fine_tune.iter_mut().filter_map(|f| Some((format!("fine_tune.{}.data", f.name), f.data.as_mut()?)));
    let test = config.data.test.as_mut().map(|test| ("data.test".to_string(), test));
    let all = std::iter::once(("data.train".to_string(), &mut config.data.train)).chain(test).chain(own);
    all.flat_map(|(key, spec)| {
        let of_spec: Vec<&mut PathBuf> = match spec {
            DataSpec::FashionMnist { .. } => vec![],
            DataSpec::Folder { path, .. } => vec![path],
            DataSpec::Idx { images, labels, .. } => std::iter::once(images).chain(labels).collect(),
        };
        of_spec.into_iter().map(move |path| (key.clone(), path))
    })
    .collect()
}

/// The first part of a relative path.
fn first(path: &Path) -> Option<String> {
    match path.components().next()? {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::table::embedded;

    fn smoke(sets: &[&str]) -> TableConfig {
        let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
        config::load(&embedded("smoke").unwrap(), &sets).unwrap().0
    }

    fn folder(path: &str) -> String {
        format!("{{ kind = 'folder', path = '{path}', channels = 1 }}")
    }

    #[test]
    fn paths_are_looked_up_where_the_command_line_says() {
        let idx = "data.test={ kind = 'idx', images = 'digits/a', labels = '/b' }";
        let train = format!("data.train={}", folder("imagenet/train"));
        let mut config = smoke(&[&train, idx]);
        config.teachers[0].weights = Some("dino.pth".into());
        let data = vec![("imagenet".into(), "/x".into()), ("digits".into(), "/y".into())];
        let places = Places { data, teachers: Some("/t".into()) };
        assert_eq!(names(&config).into_iter().collect::<Vec<_>>(), ["digits", "imagenet"]);
        places.resolve(&mut config);
        let read = |path: &str| PathBuf::from(path);
        assert_eq!(config.data.train, DataSpec::Folder { path: read("/x/train"), channels: 1 });
        assert_eq!(config.data.test, Some(DataSpec::Idx { images: read("/y/a"), labels: Some(read("/b")), classes: None }));
        assert_eq!(config.teachers[0].weights, Some(read("/t/dino.pth")));
    }

    #[test]
    fn what_is_not_there_is_told_with_the_option_that_helps() {
        let said = |places: Places, weights: Option<&str>, path: &str| {
            let mut config = smoke(&[&format!("data.train={}", folder(path))]);
            config.teachers[0].weights = weights.map(PathBuf::from);
            let settled = places.settle_data(&mut config).and_then(|()| places.settle_teachers(&mut config));
            settled.err().map_or(String::new(), |e| e.to_string())
        };
        let none = said(Places::default(), None, "imagenet/train");
        assert_eq!(none, "data.train: imagenet/train is not there (--data imagenet=DIR says where imagenet lies)");
        let given = Places { data: vec![("imagenet".into(), "/nonexistent".into())], teachers: None };
        assert_eq!(
            said(given.clone(), None, "imagenet/train"),
            "data.train: /nonexistent/train is not there (--data imagenet=/nonexistent)"
        );
        assert!(said(given, None, "/absolute").contains("no data of the configuration lie below `imagenet`; names to give: none"));
        let weights = said(Places::default(), Some("dino.pth"), "/absolute");
        assert_eq!(weights, "teachers.DINO.weights: dino.pth is not there (--teachers DIR says in which folder it lies)");
        let teachers = Places { data: vec![], teachers: Some("/nonexistent".into()) };
        assert!(said(teachers, Some("dino.pth"), "/absolute").contains("/nonexistent/dino.pth is not there (--teachers /nonexistent)"));
    }
}
