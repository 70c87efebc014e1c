//! The files of an analysis. Nothing is written before everything is known, and every file is there whole or not at all.

use std::path::{Path, PathBuf};

use fd_distill::run_dir::write_file;
use fd_model::{Checkpoint, Tensor};

use super::shape::LayerShape;
use super::{Analysis, AttentionReport};
use crate::Error;

/// Written last: where it is, all the others are.
const REPORT: &str = "attention.json";
const HEADS: &str = "attention.csv";
const LAYERS: &str = "layers.csv";
const MAPS: &str = "maps.safetensors";
const IMAGES: &str = "images.safetensors";

/// The files that were written.
pub type Written = Vec<PathBuf>;

/// Refuses a folder that holds an analysis already, or that is none.
///
/// # Errors
/// What is there.
pub fn refuse_to_replace(folder: &Path, force: bool) -> Result<(), Error> {
    let refuse = |path: PathBuf, why: &str| Err(fd_distill::Error::File { path, why: why.into() }.into());
    if folder.exists() && !folder.is_dir() {
        return refuse(folder.to_path_buf(), "is a file, expected a directory");
    }
    let report = folder.join(REPORT);
    if report.exists() && !force { refuse(report, "is there already; --force replaces it") } else { Ok(()) }
}

/// Writes an analysis into a folder, which is made.
///
/// # Errors
/// What cannot be written.
pub fn write(folder: &Path, analysis: &Analysis) -> Result<Written, Error> {
    let report = &analysis.report;
    let (heads, layers, json) = (report.heads_csv()?, report.layers_csv()?, to_json(report)?);
    let kept = analysis.kept.as_ref().map(Checkpoint::to_f16_bytes).transpose()?;
    let maps = analysis.maps.to_bytes()?;
    let path = |name: &str| folder.join(name);
    // A report of older files must not stand beside these.
    for old in [REPORT, IMAGES].map(path) {
        if let Err(e) = std::fs::remove_file(&old)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            return Err(fd_distill::Error::File { path: old, why: format!("cannot be replaced: {e}") }.into());
        }
    }
    let files = [Some((HEADS, heads)), Some((LAYERS, layers)), Some((MAPS, maps)), kept.map(|k| (IMAGES, k)), Some((REPORT, json))];
    let write = |(name, bytes): (&str, Vec<u8>)| write_file(&path(name), &bytes).map(|()| path(name));
    Ok(files.into_iter().flatten().map(write).collect::<Result<_, _>>()?)
}

fn to_json(report: &AttentionReport) -> Result<Vec<u8>, Error> {
    let mut json = serde_json::to_vec_pretty(report).map_err(|e| Error::Usage(format!("{REPORT}: {e}")))?;
    json.push(b'\n');
    Ok(json)
}

/// Says in a file's metadata what the report says of conventions and data.
pub(super) fn describe(file: &mut Checkpoint, report: &AttentionReport) {
    let conventions = report.conventions;
    let notes = [
        ("conventions", report.in_words.clone()),
        ("special_tokens", conventions.special_tokens.name().into()),
        ("renormalised", conventions.renormalised.to_string()),
        ("data", report.data.source.clone()),
    ];
    file.metadata.extend(notes.map(|(key, value)| (key.to_string(), value)));
}

/// Adds a layer's averaged maps to a file's tensors.
pub(super) fn add_maps(
    to: &mut Checkpoint,
    (label, layer): (&str, usize),
    shape: &LayerShape,
    (used, mean): (usize, &[f64]),
    maps: &[f64],
    cls: &[f64],
) {
    let mut add = |name: &str, shape: Vec<usize>, data: &[f64]| {
        let data = data.iter().map(|v| *v as f32).collect();
        to.tensors.insert(format!("{label}/{layer}/{name}"), Tensor { shape, data });
    };
    add("map", vec![used, used], mean);
    if maps.len() > mean.len() {
        add("heads", vec![shape.heads, used, used], maps);
    }
    if !cls.is_empty() {
        add("cls", vec![shape.heads, shape.grid().0, shape.grid().1], cls);
    }
}
