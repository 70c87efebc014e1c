//! `distill inspect` and `distill convert`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context as _;
use fd_distill::Error;
use fd_distill::asked::Asked;
use fd_distill::run_dir::write_file;
use fd_model::names::{self, Style};
use fd_model::{Fit, Health, Import, ModelError, export};
use serde_json::{Value, json};

use super::columns::columns;
use super::{Outcome, Output};

/// What `distill inspect` looks at.
#[derive(Clone, Debug)]
pub struct InspectOptions {
    /// The file, and the model that it is held against.
    pub asked: Asked,
    /// Read no values.
    pub quick: bool,
    /// Print JSON.
    pub json: bool,
}

/// Says what is in a file. Exit code 1 where it holds numbers that are not finite, or is not the model that was asked for.
pub fn inspect(options: &InspectOptions, out: &mut Output) -> anyhow::Result<Outcome> {
    let import = Import::open(&options.asked.file)?;
    let file = import.file();
    let health: Vec<Option<Health>> = file
        .entries()
        .keys()
        .map(|name| if options.quick { Ok(None) } else { Health::of(file, name).map(Some) })
        .collect::<Result<_, _>>()
        .map_err(ModelError::from)?;
    let broken = health.iter().flatten().any(Health::broken);
    // Without a wish, every model is held against itself.
    let particular = options.asked.key.is_some() || options.asked.model.is_some() || !options.asked.sets.is_empty();
    let opened = if particular { Some(options.asked.open()?) } else { None };
    let (mut fits, mut impossible) = (vec![], vec![]);
    match &opened {
        Some(opened) => fits.push(opened.fit()?),
        None => {
            for model in import.models() {
                match import.fit(model, &model.config, &options.asked.allow) {
                    Ok(fit) => fits.push(fit),
                    Err(e) => impossible.push(format!("model at {}: {}: {e}", model.place(), model.summary())),
                }
            }
        }
    }
    let misfit = !impossible.is_empty() || fits.iter().any(|fit| fit.refused().next().is_some());
    let mut text = if options.json { as_json(&import, &health, &fits, &impossible)? } else { as_text(&import, &health, &fits)? };
    if !options.json {
        if import.models().is_empty() {
            text.push_str("no vision transformer is recognised");
        }
        text.push_str(&impossible.join("\n"));
    }
    writeln!(out, "{text}").and_then(|()| out.flush()).context("standard output")?;
    Ok(if broken || misfit { Outcome::CheckFailed } else { Outcome::Done })
}

fn as_text(import: &Import, health: &[Option<Health>], fits: &[Fit]) -> Result<String, ModelError> {
    let file = import.file();
    let mut lines = vec![
        format!("{}: {}, {} bytes, {} tensors", file.source(), file.container(), file.len_bytes(), file.entries().len()),
        format!("SHA-256 {}", file.sha256()?),
    ];
    let notes = file.notes().iter().filter(|(key, _)| !["files", "classes", "made_from"].contains(&key.as_str()));
    lines.extend(notes.take(40).map(|(key, value)| format!("  {key} = {}", value.chars().take(160).collect::<String>())));
    lines.push(String::new());
    let number = |v: f64| format!("{v:.4}");
    let row = |((name, entry), health): ((&String, &fd_weights::Entry), &Option<Health>)| {
        let shape = entry.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
        let mut cells = vec![name.clone(), entry.dtype.to_string(), if shape.is_empty() { "scalar".into() } else { shape }];
        if let Some(h) = health {
            let mut marks = vec![];
            marks.extend((h.nan > 0).then(|| format!("{} NaN", h.nan)));
            marks.extend((h.infinite > 0).then(|| format!("{} infinite", h.infinite)));
            marks.extend(h.constant().then(|| "constant".to_string()));
            cells.extend([h.min, h.max, h.mean, h.std].map(number));
            cells.push(marks.join(", "));
        }
        cells
    };
    let rows: Vec<Vec<String>> = file.entries().iter().zip(health).map(row).collect();
    let head = ["tensor", "type", "shape", "min", "max", "mean", "std", ""];
    let width = rows.first().map_or(3, Vec::len);
    lines.extend(columns(&head[..width], &rows));
    lines.push(String::new());
    lines.extend(fits.iter().map(|fit| fit.report().trim_end().to_string()));
    if fits.is_empty() {
        lines.push(String::new());
    }
    Ok(lines.join("\n"))
}

fn as_json(import: &Import, health: &[Option<Health>], fits: &[Fit], impossible: &[String]) -> anyhow::Result<String> {
    let file = import.file();
    let tensor = |((name, entry), health): ((&String, &fd_weights::Entry), &Option<Health>)| {
        let mut value = json!({ "name": name, "dtype": entry.dtype.to_string(), "shape": entry.shape });
        if let (Some(h), Value::Object(table)) = (health, &mut value) {
            let numbers = json!({ "min": h.min, "max": h.max, "mean": h.mean, "std": h.std, "nan": h.nan, "infinite": h.infinite });
            table.insert("statistics".into(), numbers);
        }
        value
    };
    let model = |fit: &Fit| {
        let (found, refused) = (fit.found(), fit.refused().count());
        json!({
            "at": found.place(), "names": found.naming.title(), "is": found.summary(), "model": found.config,
            "normalise": found.statistics(), "assumed": found.assumed, "refused": refused,
        })
    };
    Ok(serde_json::to_string(&json!({
        "inspect": file.source(), "container": file.container().to_string(), "bytes": file.len_bytes(), "sha256": file.sha256()?,
        "notes": file.notes(), "models": fits.iter().map(model).collect::<Vec<_>>(), "impossible": impossible,
        "tensors": file.entries().iter().zip(health).map(tensor).collect::<Vec<_>>(),
    }))?)
}

/// What `distill convert` writes.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// The weights.
    pub asked: Asked,
    /// The file, or transformers' folder.
    pub out: PathBuf,
    /// In whose names.
    pub style: Style,
    /// Write f16.
    pub half: bool,
    /// Leave out what the file says about its model.
    pub plain: bool,
    /// Replace what is there.
    pub force: bool,
}

/// Writes an encoder's weights for other code, and says how that code loads them.
pub fn convert(options: &ConvertOptions, out: &mut Output) -> anyhow::Result<Outcome> {
    let opened = options.asked.open()?;
    let fit = opened.fit()?;
    write!(out, "{}", fit.report()).context("standard output")?;
    let mut export = export(fit.checkpoint()?, &opened.model, Some(&opened.normalise), options.style)?;
    if options.plain {
        export.weights.metadata.retain(|key, _| key == "format");
    }
    let folder = (options.style == Style::Hf).then(|| options.out.clone());
    let path = folder.as_ref().map_or_else(|| options.out.clone(), |folder| folder.join("model.safetensors"));
    if path.exists() && !options.force {
        return Err(Error::File { path, why: "is there already; --force replaces it".into() }.into());
    }
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(|e| Error::File { path: parent.to_path_buf(), why: e.to_string() })?;
    }
    if options.half {
        export.weights.write_f16(&path)?
    } else {
        export.weights.write(&path)?
    }
    if let Some((folder, config)) = folder.as_ref().zip(names::huggingface_config(&opened.model, export.naming)) {
        write_file(&folder.join("config.json"), format!("{config:#}\n").as_bytes())?;
        let statistics = json!({
            "image_mean": opened.normalise.mean, "image_std": opened.normalise.std, "do_normalize": true, "do_rescale": true,
            "do_resize": true, "size": { "height": opened.model.img_size().0, "width": opened.model.img_size().1 }, "resample": 3,
        });
        write_file(&folder.join("preprocessor_config.json"), format!("{statistics:#}\n").as_bytes())?;
    }
    let tensors = export.weights.tensors.len();
    writeln!(out, "written: {}, {tensors} tensors under {}", path.display(), export.naming.title()).context("standard output")?;
    let shown = folder.as_ref().unwrap_or(&path).display().to_string();
    if let Some(python) = names::python(&opened.model, export.naming, &shown).filter(|_| options.style != Style::Official) {
        let fd_model::Statistics { mean, std } = &opened.normalise;
        writeln!(out, "\n# images are normalised by mean {mean:?}, std {std:?}\n{python}").context("standard output")?;
    }
    out.flush().context("standard output")?;
    Ok(Outcome::Done)
}
