//! The report's figures: CKA between every two models, and what the layers' features and probes say.

use std::path::{Path, PathBuf};

use fd_distill::Error;

use super::SimilarityReport;
use crate::figures::{Caption, HeatAxis, HeatMaps, HeatPanel, Line, LinePanel, Lines, Scale, Width, write as draw};

/// Draws `cka` and `layers`, each as SVG, PNG and CSV; the paths.
pub(super) fn write(report: &SimilarityReport, folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let width = Width::Columns(if report.models.len() > 1 { 2 } else { 1 });
    let caption = |notes: &str| Caption {
        model: report
            .models
            .iter()
            .map(|m| format!("{} (SHA-256 {}…)", m.label, m.sha256.get(..8).unwrap_or("")))
            .collect::<Vec<_>>()
            .join(", "),
        data: report.data.name.clone(),
        images: report.data.images,
        seed: report.seed.to_string(),
        notes: notes.into(),
    };
    let rows = capitalised(&report.conventions.rows_text);
    let estimator = match report.conventions.estimator {
        super::cka::Estimator::Exact => "exact, biased upwards by about width / rows",
        super::cka::Estimator::Minibatch => "minibatch estimator (unbiased HSIC)",
    };
    let mut paths = draw(&cka(report), &folder.join("cka_figure"), width, &caption(&format!("Linear CKA, {estimator}. {rows}.")))?;
    let probe = report.probe.as_ref().map(|p| format!(" Probe: ridge regression on {} images.", p.train.images)).unwrap_or_default();
    let notes = format!("{rows}; whitened: every token normalised first.{probe}");
    paths.extend(draw(&layers(report), &folder.join("layers_figure"), Width::Columns(2), &caption(&notes))?);
    Ok(paths)
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// Short names for axes: `blocks.3` is 4 there (blocks count from 1 in figures), the ends are words.
fn short(layer: &str) -> String {
    match layer.strip_prefix("blocks.").and_then(|n| n.parse::<usize>().ok()) {
        Some(n) => (n + 1).to_string(),
        None if layer == "embedded" => "in".into(),
        None => layer.into(),
    }
}

fn names(report: &SimilarityReport, model: &str) -> Vec<String> {
    report.features.iter().filter(|f| f.model == model).map(|f| short(&f.layer)).collect()
}

/// Every model against itself and every later one.
fn cka(report: &SimilarityReport) -> HeatMaps {
    let labels: Vec<&str> = report.models.iter().map(|m| m.label.as_str()).collect();
    let mut panels = vec![];
    for (i, a) in labels.iter().enumerate() {
        for b in &labels[i..] {
            let values = report.cka.iter().filter(|p| p.model_a == *a && p.model_b == *b).map(|p| p.cka.unwrap_or(f64::NAN)).collect();
            let axis = |model: &str| HeatAxis { label: format!("block of {model}"), names: names(report, model) };
            let (row_axis, column_axis) = (axis(a), axis(b));
            let (rows, columns) = (row_axis.names.len(), column_axis.names.len());
            panels.push(HeatPanel { title: String::new(), rows, columns, values, row_axis, column_axis, mark: None });
        }
    }
    let (columns, quantity) = (panels.len().clamp(1, 3), "linear CKA".to_string());
    HeatMaps { panels, columns, row_names: vec![], quantity, scale: Scale::Fixed(0.0, 1.0), upwards: true, square: true }
}

/// Effective rank before and after whitening, the greatest channel's share of the variance, the probe.
fn layers(report: &SimilarityReport) -> Lines {
    // Models of different depths share the axis: the longest has the names.
    let longest = report.models.iter().map(|m| names(report, &m.label)).max_by_key(Vec::len).unwrap_or_default();
    let alike = report.models.iter().all(|m| names(report, &m.label) == longest);
    let panel = |title: &str, y: &str, value: &dyn Fn(&super::FeatureReport) -> f64| {
        let line = |m: &super::ModelReport| {
            let values = report.features.iter().filter(|f| f.model == m.label).map(value);
            Line { label: m.label.clone(), points: values.enumerate().map(|(i, v)| (i as f64, v)).collect(), band: vec![] }
        };
        let (x, names) = if alike { ("block", longest.clone()) } else { ("layer, from the embedding on", vec![]) };
        let lines = report.models.iter().map(line).collect();
        LinePanel { title: title.into(), x: x.into(), y: y.into(), names, range: None, log: false, lines }
    };
    let mut panels = vec![
        panel("effective rank", "directions", &|f| f.plain.effective_rank),
        panel("effective rank, whitened", "directions", &|f| f.whitened.effective_rank),
        panel("largest channel", "share of the variance (%)", &|f| 100.0 * f.plain.top_channel),
    ];
    if report.probe.is_some() {
        panels.push(panel("linear probe", "accuracy (%)", &|f| f.probe.unwrap_or(f64::NAN)));
    }
    let columns = if panels.len() == 4 { 2 } else { 3 };
    Lines { panels, columns }
}
