//! The zip archives of `torch.save` and `torch.jit.save`: a pickle, and one entry of raw bytes a storage.
//!
//! Of a TorchScript archive the attributes of its module are read, whose tensors lie under `data/`; its code and the constants of its
//! code are not looked at.

use std::collections::BTreeMap;

use crate::bytes::Bytes;
use crate::error::{Result, named};
use crate::file::{Container, Contents};
use crate::flatten::flatten;
use crate::pickle::{Cursor, MAX_PICKLE, Pickle};
use crate::zip::{self, Range, failed};

const PICKLE: &str = "data.pkl";

pub(crate) fn read(bytes: &Bytes) -> Result<Contents> {
    let archive = zip::read(bytes)?;
    let folder = folder(bytes, &archive)?;
    let entry = |name: &str| archive.get(&format!("{folder}{name}"));
    check_byte_order(bytes, entry("byteorder"))?;
    let code = format!("{folder}code/");
    let has_code = archive.range(code.clone()..).next().is_some_and(|(name, _)| name.starts_with(&code));
    let torch_script = has_code || entry("constants.pkl").is_some();
    let Some(&range) = entry(PICKLE) else {
        return Err(failed(bytes, format!("it has no entry `{PICKLE}`")));
    };
    if range.len > MAX_PICKLE {
        return Err(failed(bytes, format!("entry `{folder}{PICKLE}` has {} bytes, at most {MAX_PICKLE} are read", range.len)));
    }
    let mut cursor = Cursor::new(bytes, range.start, range.len)?;
    let pickle = Pickle::read(&mut cursor, torch_script, bytes.len())?;
    if cursor.consumed() != range.len {
        return Err(failed(bytes, format!("entry `{folder}{PICKLE}` goes on after its pickle")));
    }
    let ranges = storages(bytes, &archive, &folder, &pickle)?;
    let (entries, notes) = flatten(bytes, &pickle, &ranges)?;
    let container = if torch_script { Container::TorchScript } else { Container::TorchZip };
    Ok(Contents { container, entries, notes })
}

/// The folder all entries lie in, with its slash: PyTorch calls it after the file.
fn folder(bytes: &Bytes, archive: &BTreeMap<String, Range>) -> Result<String> {
    let mut folders = archive
        .keys()
        .filter_map(|name| name.strip_suffix(PICKLE))
        .filter(|folder| folder.is_empty() || folder.strip_suffix('/').is_some_and(|folder| !folder.contains('/')));
    match (folders.next(), folders.next()) {
        (Some(folder), None) => Ok(folder.to_owned()),
        (Some(a), Some(b)) => Err(failed(bytes, format!("it has two pickles, `{}{PICKLE}` and `{}{PICKLE}`", named(a), named(b)))),
        (None, _) => Err(failed(bytes, format!("a zip archive without an entry `{PICKLE}`"))),
    }
}

fn check_byte_order(bytes: &Bytes, entry: Option<&Range>) -> Result<()> {
    let Some(range) = entry else { return Ok(()) };
    let order = bytes.read_at(range.start, range.len.min(16))?;
    match order.trim_ascii() {
        b"little" => Ok(()),
        order => Err(failed(bytes, format!("its byte order is `{}`, expected `little`", named(&String::from_utf8_lossy(order))))),
    }
}

/// Where each storage of the pickle lies.
fn storages(bytes: &Bytes, archive: &BTreeMap<String, Range>, folder: &str, pickle: &Pickle) -> Result<Vec<Range>> {
    let find = |storage: &crate::pickle::StorageRecord| {
        let name = format!("{folder}data/{}", storage.key);
        let Some(&range) = archive.get(&name) else {
            return Err(failed(bytes, format!("it has no entry `{}`, where the pickle has a storage", named(&name))));
        };
        match storage.len.checked_mul(storage.element) {
            Some(needed) if needed <= range.len => Ok(range),
            needed => {
                let needed = needed.map_or_else(|| "countless".to_owned(), |needed| needed.to_string());
                Err(failed(bytes, format!("entry `{}` has {} bytes, its storage needs {needed}", named(&name), range.len)))
            }
        }
    };
    pickle.storages.iter().map(find).collect()
}
