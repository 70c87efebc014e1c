//! The zip archives of `torch.save` and `torch.jit.save`: a pickle, and one entry of raw bytes a storage.
//!
//! Of a TorchScript archive the attributes of its module are read, whose tensors lie under `data/`; its code and the constants of its
//! code are not looked at.

use crate::bytes::Bytes;
use crate::error::{Result, named};
use crate::file::{Container, Contents};
use crate::flatten::flatten;
use crate::pickle::{Cursor, MAX_PICKLE, Pickle, StorageRecord};
use crate::zip::{Directory, Range, failed};

const PICKLE: &str = "data.pkl";

pub(crate) fn read(bytes: &Bytes) -> Result<Contents> {
    let archive = Directory::read(bytes)?;
    let folder = folder(bytes, &archive)?;
    let entry = |name: &str| archive.find(&format!("{folder}{name}"));
    check_byte_order(bytes, entry("byteorder")?)?;
    let is_there = |name: &str| archive.names_from(name).next().is_some_and(|found| found.starts_with(name));
    let torch_script = ["constants.pkl", "code/"].iter().any(|name| is_there(&format!("{folder}{name}")));
    let Some(range) = entry(PICKLE)? else {
        return Err(failed(bytes, format!("a zip archive without an entry `{PICKLE}`")));
    };
    if range.len > MAX_PICKLE {
        return Err(failed(bytes, format!("entry `{}{PICKLE}` has {} bytes, at most {MAX_PICKLE} are read", named(&folder), range.len)));
    }
    let mut cursor = Cursor::new(bytes, range.start, range.len)?;
    let pickle = Pickle::read(&mut cursor, torch_script)?;
    if cursor.consumed() != range.len {
        return Err(failed(bytes, format!("entry `{}{PICKLE}` goes on after its pickle", named(&folder))));
    }
    let ranges = storages(bytes, &archive, &folder, &pickle)?;
    let (entries, notes) = flatten(bytes, &pickle, &ranges)?;
    let container = if torch_script { Container::TorchScript } else { Container::TorchZip };
    Ok(Contents { container, entries, notes })
}

/// The folder all entries lie in, with its slash: PyTorch calls it after the file.
fn folder(bytes: &Bytes, archive: &Directory<'_>) -> Result<String> {
    let is_top = |folder: &str| folder.is_empty() || folder.strip_suffix('/').is_some_and(|folder| !folder.contains('/'));
    let mut folders = archive.names_from("").filter_map(|name| name.strip_suffix(PICKLE)).filter(|folder| is_top(folder));
    match (folders.next(), folders.next()) {
        (Some(folder), None) => Ok(folder.to_owned()),
        (Some(a), Some(b)) => Err(failed(bytes, format!("it has two pickles, `{}{PICKLE}` and `{}{PICKLE}`", named(a), named(b)))),
        (None, _) => Err(failed(bytes, format!("a zip archive without an entry `{PICKLE}`"))),
    }
}

fn check_byte_order(bytes: &Bytes, entry: Option<Range>) -> Result<()> {
    let Some(range) = entry else { return Ok(()) };
    let order = bytes.read_at(range.start, range.len.min(16))?;
    match order.trim_ascii() {
        b"little" => Ok(()),
        order => Err(failed(bytes, format!("its byte order is `{}`, expected `little`", named(&String::from_utf8_lossy(order))))),
    }
}

/// Where each storage of the pickle lies.
fn storages(bytes: &Bytes, archive: &Directory<'_>, folder: &str, pickle: &Pickle) -> Result<Vec<Range>> {
    let find = |storage: &StorageRecord| {
        let name = format!("{folder}data/{}", storage.key);
        let Some(range) = archive.find(&name)? else {
            return Err(failed(bytes, format!("it has no entry `{}`, where the pickle has a storage", named(&name))));
        };
        let needed = storage.len.saturating_mul(storage.element);
        if needed > range.len {
            return Err(failed(bytes, format!("entry `{}` has {} bytes, its storage needs {needed}", named(&name), range.len)));
        }
        Ok(range)
    };
    pickle.storages.iter().map(find).collect()
}
