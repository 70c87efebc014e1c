//! The directory of a zip archive whose entries are stored uncompressed, as PyTorch writes them: names and where their bytes lie.
//!
//! A zip file says everything twice, and readers that believe different copies see different files. Here both copies have to agree,
//! names are unique, and no two entries share a byte.

use std::collections::BTreeMap;

use rawzip::{CompressionMethod, ZipArchiveEntryWayfinder, ZipLocator};

use crate::bytes::Bytes;
use crate::error::{Result, WeightsError, named, one_line};

/// Holds the longest name and extra field a header can have.
const BUFFER: u64 = 1 << 17;

/// Where the bytes of one entry lie in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

type Archive<'a> = rawzip::ZipArchive<&'a Bytes>;

/// The error of an archive.
pub(crate) fn failed(bytes: &Bytes, why: String) -> WeightsError {
    WeightsError::Archive { file: bytes.source().to_owned(), why }
}

/// What the central directory says of an entry.
struct Listed {
    wayfinder: ZipArchiveEntryWayfinder,
    at: u64,
}

/// The entries of the archive by name.
pub(crate) fn read(bytes: &Bytes) -> Result<BTreeMap<String, Range>> {
    let mut buffer = vec![0; usize::try_from(bytes.len().clamp(1024, BUFFER)).unwrap_or(1024)];
    let archive = ZipLocator::new().locate_in_reader(bytes, &mut buffer, bytes.len());
    let archive = archive.map_err(|(_, e)| failed(bytes, format!("its directory cannot be found: {}", one_line(e))))?;
    let listed = list(bytes, &archive, &mut buffer)?;
    let mut ranges = BTreeMap::new();
    let mut taken = Vec::with_capacity(listed.len());
    for (name, entry) in listed {
        let range = agreed(&archive, &name, &entry, &mut buffer).map_err(|why| failed(bytes, format!("entry `{}` {why}", named(&name))))?;
        if range.start + range.len > archive.directory_offset() {
            return Err(failed(bytes, format!("entry `{}` reaches beyond the directory", named(&name))));
        }
        taken.push((entry.at, range.start + range.len));
        ranges.insert(name, range);
    }
    taken.sort_unstable();
    match taken.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        None => Ok(ranges),
        Some(pair) => {
            let inner = ranges.iter().find(|(_, range)| range.start + range.len == pair[1].1);
            let inner = inner.map_or_else(String::new, |(name, _)| named(name));
            Err(failed(bytes, format!("entry `{inner}` overlaps another")))
        }
    }
}

/// The central directory, once through.
fn list(bytes: &Bytes, archive: &Archive<'_>, buffer: &mut [u8]) -> Result<BTreeMap<String, Listed>> {
    let mut listed = BTreeMap::new();
    let mut entries = archive.entries(buffer);
    let mut count = 0u64;
    while let Some(entry) = entries.next_entry().map_err(|e| failed(bytes, format!("its directory is damaged: {}", one_line(e))))? {
        count += 1;
        let name = std::str::from_utf8(entry.file_path().as_bytes());
        let name = name.map_err(|_| failed(bytes, format!("the name of entry {count} is not UTF-8")))?;
        let refused = |why: String| Err(failed(bytes, format!("entry `{}` {why}", named(name))));
        if entry.flags().is_encrypted() || entry.flags().has_strong_encryption() || entry.flags().is_masked() {
            return refused("is encrypted".into());
        }
        if entry.compression_method() != CompressionMethod::STORE {
            return refused(format!("is compressed ({}); PyTorch stores entries as they are", entry.compression_method()));
        }
        let (stored, original) = (entry.compressed_size_hint(), entry.uncompressed_size_hint());
        if stored != original {
            return refused(format!("is stored as it is, but in {stored} bytes of {original}"));
        }
        let found = Listed { wayfinder: entry.wayfinder(), at: entry.local_header_offset() };
        if listed.insert(name.to_owned(), found).is_some() {
            return refused("is there twice".into());
        }
    }
    match archive.entries_hint() {
        hint if hint == count => Ok(listed),
        hint => Err(failed(bytes, format!("its directory announces {hint} entries and has {count}"))),
    }
}

/// Where the bytes are, if the header in front of them says what the directory says.
fn agreed(archive: &Archive<'_>, name: &str, entry: &Listed, buffer: &mut [u8]) -> std::result::Result<Range, String> {
    let unreadable = |e: rawzip::Error| format!("has no readable header: {}", one_line(e));
    let found = archive.get_entry(entry.wayfinder).map_err(unreadable)?;
    let header = found.local_header(buffer).map_err(unreadable)?;
    if header.file_path().as_bytes() != name.as_bytes() {
        return Err(format!("is called `{}` in its own header", named(&String::from_utf8_lossy(header.file_path().as_bytes()))));
    }
    if header.compression_method() != CompressionMethod::STORE || header.flags().is_encrypted() {
        return Err("is compressed or encrypted by its own header".into());
    }
    let (start, end) = found.compressed_data_range();
    let len = end - start;
    for size in [header.compressed_size_hint(), header.uncompressed_size_hint()] {
        // A writer that does not know the size yet puts zero, and the size behind the bytes.
        if size != len && !(size == 0 && header.flags().has_data_descriptor()) {
            return Err(format!("has {len} bytes in the directory and {size} in its own header"));
        }
    }
    Ok(Range { start, len })
}
