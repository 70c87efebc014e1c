//! The page: table, observations, figures, explorer.

use super::{Chapter, Plots};
use crate::report::observations::{Evidence, observe, summary};
use crate::report::{Explorer, Report, Section, Table};

/// Puts the page together.
pub(super) fn report(plots: &Plots<'_>, evidence: &Evidence, chapters: Vec<Chapter>, explorer: Option<Explorer>) -> Report {
    let (run, options) = (&plots.run, plots.options);
    let mut facts = run.facts.clone();
    facts.push(("data".into(), format!("{}; {} test images", run.table.data, run.table.test_images)));
    facts.push(("images of these analyses".into(), format!("{} of the test images, drawn by seed {}", options.images, options.seed)));
    let accuracies = run.table.accuracies();
    let table = Table {
        caption: "Top-1 accuracy in percent: mean ± standard deviation over seeds (number of seeds).".into(),
        head: accuracies.first().cloned().unwrap_or_default(),
        rows: accuracies.get(1..).unwrap_or_default().to_vec(),
    };
    let mut chapters = chapters.into_iter();
    let mut sections = vec![Section {
        heading: "Does feature distillation help?".into(),
        prose: run.table.verdicts().into_iter().chain(run.table.verdicts_on_gains()).collect(),
        tables: vec![table],
        pictures: chapters.next().map(|c| c.pictures).unwrap_or_default(),
        ..Section::default()
    }];
    let observations = observe(evidence);
    sections.push(Section {
        heading: "The paper's observations".into(),
        prose: vec![summary(&observations)],
        observations,
        ..Section::default()
    });
    if let Some(explorer) = explorer {
        sections.push(Section {
            heading: "Attention explorer".into(),
            prose: vec!["Choose a model, a layer and a head, and click a patch of the image: the colours show what it attends to.".into()],
            explorer: Some(explorer),
            ..Section::default()
        });
    }
    sections.extend(chapters.map(|c| Section { heading: c.heading, prose: c.prose, pictures: c.pictures, ..Section::default() }));
    Report {
        title: format!("Feature distillation: {}", run.table.name),
        subtitle: format!("{}, {} teachers, {} seeds", run.table.data, run.teachers.len(), run.config.seeds.len()),
        facts,
        sections,
    }
}
