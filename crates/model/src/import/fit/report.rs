//! What a fit says: a table for people, and the one line of a refusal.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Fit, Row};
use crate::ModelError;
use crate::describe::{differences, summary};
use crate::presets::nearest;

impl Fit<'_> {
    /// A table of all of it, for people.
    pub fn report(&self) -> String {
        let mut text = format!("{}, model at {}: {}\n", self.file.source(), self.found.place(), self.found.summary());
        let _ = writeln!(text, "  {:<13} {} parameters, under {}", "read", self.read.len(), self.found.naming.title());
        let mut asides: BTreeMap<&str, usize> = BTreeMap::new();
        for (row, allowed) in &self.rows {
            let said = if *allowed { "" } else { "  REFUSED" };
            let line = match row {
                Row::Missing { tensor, theirs } => format!("{:<13} `{tensor}` (in such a file: {theirs}){said}", "missing"),
                Row::Unexpected { tensor, shape } => format!("{:<13} `{tensor}` {shape:?}{said}", "unexpected"),
                Row::Reshaped { tensor, expected, found } => {
                    format!("{:<13} `{tensor}` is {found:?}, the model needs {expected:?}{said}", "other shape")
                }
                Row::Type { tensor, found } => format!("{:<13} `{tensor}` is {found}{said}", "not a float"),
                Row::Interpolated(resized) => format!("{:<13} {resized}", "interpolated"),
                Row::Aside { what, .. } => {
                    *asides.entry(what).or_default() += 1;
                    continue;
                }
            };
            let _ = writeln!(text, "  {line}");
        }
        for (what, n) in asides {
            let _ = writeln!(text, "  {:<13} {n} tensors: {what}", "left aside");
        }
        if !self.outside.is_empty() {
            let groups: Vec<String> = self.outside.iter().take(6).map(|(top, n)| format!("{top} ({n})")).collect();
            let more = if self.outside.len() > 6 { ", …" } else { "" };
            let _ = writeln!(text, "  {:<13} {}{more}", "elsewhere", groups.join(", "));
        }
        for what in &self.found.assumed {
            let _ = writeln!(text, "  {:<13} {what}", "assumed");
        }
        text
    }

    /// Refuses what [`Allow`](crate::Allow) does not name.
    ///
    /// # Errors
    /// [`ModelError::Misfit`]: what was found, and what would fit.
    pub fn check(&self) -> Result<(), ModelError> {
        let refused: Vec<&Row> = self.refused().collect();
        if refused.is_empty() {
            return Ok(());
        }
        let mut parts = vec![];
        let mut list = |what: &str, names: Vec<String>| {
            if let Some(first) = names.first() {
                let more = if names.len() > 1 { format!(" and {} more", names.len() - 1) } else { String::new() };
                parts.push(format!("{what} {first}{more}"));
            }
        };
        let pick = |f: &dyn Fn(&Row) -> Option<String>| refused.iter().filter_map(|row| f(row)).collect::<Vec<_>>();
        list(
            "another shape:",
            pick(&|row| match row {
                Row::Reshaped { tensor, expected, found } => Some(format!("`{tensor}` is {found:?}, the model needs {expected:?}")),
                _ => None,
            }),
        );
        list("missing:", pick(&|row| if let Row::Missing { tensor, .. } = row { Some(format!("`{tensor}`")) } else { None }));
        list("unexpected:", pick(&|row| if let Row::Unexpected { tensor, .. } = row { Some(format!("`{tensor}`")) } else { None }));
        list("not a float:", pick(&|row| if let Row::Type { tensor, .. } = row { Some(format!("`{tensor}`")) } else { None }));
        let found = &self.found.config;
        // What no tensor says is not what stands against it.
        let unknown = |key: &str| self.found.assumed.iter().any(|a| a.starts_with(&format!("{key} = ")) && a.contains("depends on it"));
        let changes = differences(found, &self.asked).into_iter().filter(|(key, ..)| !unknown(key));
        let changes: Vec<String> = changes.map(|(key, found, asked)| format!("{key} = {found} (asked: {asked})")).collect();
        let asked = nearest(&self.asked).map_or_else(|| summary(&self.asked), String::from);
        let hint = if changes.is_empty() { String::new() } else { format!("; what would fit: {}", changes.join(", ")) };
        Err(ModelError::Misfit {
            file: self.file.source().into(),
            why: format!("{}; found {} at {}, asked for {asked}{hint}", parts.join("; "), self.found.summary(), self.found.place()),
        })
    }
}
