//! Where features go: a safetensors file whose places are known beforehand, or a CSV file.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fd_data::{Folder, Source};
use half::f16;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Error;
use crate::run_dir::write_atomically;

/// Most bytes of a header that safetensors' readers accept, less some.
const MOST_HEADER: usize = 90_000_000;

/// An unfinished file.
pub struct Sink {
    out: PathBuf,
    part: PathBuf,
    state: PathBuf,
    identity: Value,
    file: BufWriter<File>,
    format: Format,
}

enum Format {
    /// Every feature is one tensor: (bytes a row, where its first row lies).
    Safetensors { places: Vec<(u64, u64)>, half: bool },
    /// A row an image: how each begins, values a feature.
    Csv { names: Vec<String>, widths: Vec<usize> },
}

/// `OUT.part.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// Images that are done.
    done: usize,
    /// Bytes of the file that belong to them.
    bytes: u64,
    identity: Value,
}

impl Sink {
    /// A new file, or the one that was begun with the same identity; with the number of images that it has already.
    pub fn open(
        out: &Path,
        folder: &Folder,
        columns: Vec<(String, Vec<usize>)>,
        half: bool,
        identity: &Value,
        force: bool,
    ) -> Result<(Sink, usize), Error> {
        let refuse = |why: &str| Err(Error::File { path: out.to_path_buf(), why: why.into() });
        if out.exists() && !force {
            return refuse("is there already; --force replaces it");
        }
        let with = |end: &str| PathBuf::from(format!("{}{end}", out.display()));
        let (part, state) = (with(".part"), with(".part.json"));
        let begun = begun(&part, &state, identity, force)?;
        let (header, format, length) = match out.extension().and_then(|e| e.to_str()) {
            Some("safetensors") => safetensors(out, folder, &columns, half, identity)?,
            Some("csv") => csv(out, folder, &columns, half)?,
            _ => return refuse("a file of features is called .safetensors or .csv"),
        };
        let fail = |e: std::io::Error| Error::File { path: part.clone(), why: format!("cannot be written: {e}") };
        if let Some(parent) = out.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).map_err(fail)?;
        }
        let file = OpenOptions::new().write(true).create(true).truncate(begun.is_none()).open(&part).map_err(fail)?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        let done = match begun {
            Some(State { done, bytes, .. }) => {
                file.get_ref().set_len(length.unwrap_or(bytes)).map_err(fail)?;
                file.seek(SeekFrom::Start(bytes)).map_err(fail)?;
                done
            }
            None => {
                file.write_all(&header).map_err(fail)?;
                // The disk is full now, or not at all.
                length.map_or(Ok(()), |n| file.get_ref().set_len(n)).map_err(fail)?;
                0
            }
        };
        Ok((Sink { out: out.into(), part, state, identity: identity.clone(), file, format }, done))
    }

    fn fail(&self, e: std::io::Error) -> Error {
        Error::File { path: self.part.clone(), why: format!("cannot be written: {e}") }
    }

    /// Writes the rows of images `first`.. of every feature.
    pub fn write(&mut self, first: usize, images: usize, values: &[&[f32]]) -> Result<(), Error> {
        let result = match &self.format {
            Format::Safetensors { places, half } => {
                let mut write = || -> std::io::Result<()> {
                    for ((row, start), values) in places.iter().zip(values) {
                        self.file.seek(SeekFrom::Start(start + row * first as u64))?;
                        for v in *values {
                            match half {
                                true => self.file.write_all(&f16::from_f32(*v).to_le_bytes())?,
                                false => self.file.write_all(&v.to_le_bytes())?,
                            }
                        }
                    }
                    Ok(())
                };
                write()
            }
            Format::Csv { names, widths } => {
                let mut write = || -> std::io::Result<()> {
                    for (i, name) in names[first..first + images].iter().enumerate() {
                        self.file.write_all(name.as_bytes())?;
                        for (width, values) in widths.iter().zip(values) {
                            values[i * width..(i + 1) * width].iter().try_for_each(|v| write!(self.file, ",{v}"))?;
                        }
                        self.file.write_all(b"\n")?;
                    }
                    Ok(())
                };
                write()
            }
        };
        result.map_err(|e| self.fail(e))
    }

    /// Notes that so many images are done, once they are on disk.
    pub fn note(&mut self, done: usize) -> Result<(), Error> {
        let position = self.file.flush().and_then(|()| self.file.stream_position());
        let bytes = position.and_then(|n| self.file.get_ref().sync_data().map(|()| n)).map_err(|e| self.fail(e))?;
        let state = State { done, bytes, identity: self.identity.clone() };
        let text = serde_json::to_vec(&state).map_err(|e| self.fail(e.into()))?;
        write_atomically(&self.state, |file| file.write_all(&text))
    }

    /// Gives the file its name.
    pub fn finish(mut self) -> Result<(), Error> {
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        synced.and_then(|()| std::fs::rename(&self.part, &self.out)).map_err(|e| self.fail(e))?;
        let _ = std::fs::remove_file(&self.state);
        Ok(())
    }
}

/// The state of an unfinished file, if it is of the same features.
fn begun(part: &Path, state: &Path, identity: &Value, force: bool) -> Result<Option<State>, Error> {
    if force || !part.exists() {
        return Ok(None);
    }
    let refuse = |why: String| Error::File { path: part.to_path_buf(), why };
    let Ok(bytes) = std::fs::read(state) else { return Ok(None) };
    let found: State = serde_json::from_slice(&bytes).map_err(|e| Error::File { path: state.to_path_buf(), why: e.to_string() })?;
    let differs = |key: &&String| found.identity.get(key.as_str()) != identity.get(key.as_str());
    if let Some(key) = identity.as_object().and_then(|o| o.keys().find(differs)) {
        return Err(refuse(format!("was begun with another `{key}`; --force begins anew")));
    }
    let length = std::fs::metadata(part).map_err(|e| refuse(e.to_string()))?.len();
    if length < found.bytes {
        return Err(refuse("is shorter than it was when it was left; --force begins anew".into()));
    }
    Ok(Some(found))
}

fn names(folder: &Folder, root: &Path) -> Vec<String> {
    folder.files().iter().map(|f| f.strip_prefix(root).unwrap_or(f).display().to_string()).collect()
}

type Prepared = (Vec<u8>, Format, Option<u64>);

/// The header, where each tensor's rows go, the file's length.
fn safetensors(out: &Path, folder: &Folder, columns: &[(String, Vec<usize>)], half: bool, identity: &Value) -> Result<Prepared, Error> {
    let refuse = |why: String| Error::File { path: out.to_path_buf(), why };
    let n = folder.len();
    let (kind, size) = if half { ("F16", 2u64) } else { ("F32", 4) };
    let mut tensors: BTreeMap<String, Value> = BTreeMap::new();
    let (mut at, mut rows) = (0u64, vec![]);
    // Labels first, so that they are whole from the beginning.
    let labels: Vec<i64> = (0..n).map_while(|i| folder.label(i)).map(i64::from).collect();
    if folder.num_classes() > 0 {
        at = 8 * n as u64;
        tensors.insert("labels".into(), json!({ "dtype": "I64", "shape": [n], "data_offsets": [0, at] }));
    }
    for (name, shape) in columns {
        let row = size * shape.iter().product::<usize>() as u64;
        let shape: Vec<usize> = std::iter::once(n).chain(shape.iter().copied()).collect();
        tensors.insert(name.clone(), json!({ "dtype": kind, "shape": shape, "data_offsets": [at, at + row * n as u64] }));
        rows.push((row, at));
        at += row * n as u64;
    }
    let text = |value: &Value| value.to_string();
    let metadata = json!({
        "files": text(&json!(names(folder, folder.root()))), "classes": text(&json!(folder.class_names())), "made_from": text(identity),
    });
    tensors.insert("__metadata__".into(), metadata);
    let mut header = serde_json::to_vec(&tensors).map_err(|e| refuse(e.to_string()))?;
    if header.len() > MOST_HEADER {
        return Err(refuse(format!("the names of {n} images do not fit into a safetensors header: write .csv")));
    }
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    let body = bytes.len() as u64;
    bytes.extend(labels.iter().filter(|_| folder.num_classes() > 0).flat_map(|l| l.to_le_bytes()));
    let places = rows.into_iter().map(|(row, start)| (row, body + start)).collect();
    Ok((bytes, Format::Safetensors { places, half }, Some(body + at)))
}

/// The head line and how every row begins.
fn csv(out: &Path, folder: &Folder, columns: &[(String, Vec<usize>)], half: bool) -> Result<Prepared, Error> {
    let refuse = |why: String| Error::File { path: out.to_path_buf(), why };
    if let Some((name, _)) = columns.iter().find(|(_, shape)| shape.len() != 1) {
        return Err(refuse(format!("`{name}` has many rows an image: write .safetensors")));
    }
    if half {
        return Err(refuse("--half is for .safetensors".into()));
    }
    let labelled = folder.num_classes() > 0;
    let mut head = String::from(if labelled { "file,class" } else { "file" });
    for (name, shape) in columns {
        (0..shape[0]).for_each(|i| head += &format!(",{name}.{i}"));
    }
    head.push('\n');
    let quoted = |text: &str| {
        let special = text.contains([',', '"', '\n', '\r']);
        if special { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_string() }
    };
    let class = |i: usize| folder.label(i).and_then(|l| folder.class_names().get(l as usize));
    let begin = |(i, name): (usize, String)| match class(i) {
        Some(class) => format!("{},{}", quoted(&name), quoted(class)),
        None => quoted(&name),
    };
    let names = names(folder, folder.root()).into_iter().enumerate().map(begin).collect();
    let widths = columns.iter().map(|(_, shape)| shape[0]).collect();
    Ok((head.into_bytes(), Format::Csv { names, widths }, None))
}
