//! The directory of a zip archive: names and where their bytes lie. Entries that are read have to be stored as they are, as PyTorch
//! writes them; the code in TorchScript archives, which is not read, may be compressed.
//!
//! A zip file says everything twice, and readers that believe different copies see different files. Here both copies have to agree,
//! names are unique, and no two entries share a byte.

use std::collections::BTreeMap;
use std::ops::Bound::{Included, Unbounded};

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
    method: CompressionMethod,
}

/// The entries of an archive.
pub(crate) struct Directory<'a> {
    bytes: &'a Bytes,
    entries: BTreeMap<String, (Range, CompressionMethod)>,
}

impl<'a> Directory<'a> {
    /// Reads the directory, and the header in front of each entry.
    pub(crate) fn read(bytes: &'a Bytes) -> Result<Self> {
        let mut buffer = vec![0; usize::try_from(bytes.len().clamp(1024, BUFFER)).unwrap_or(1024)];
        let archive = ZipLocator::new().locate_in_reader(bytes, &mut buffer, bytes.len());
        let archive = archive.map_err(|(_, e)| failed(bytes, format!("its directory cannot be found: {}", one_line(e))))?;
        let rest = bytes.len().saturating_sub(archive.end_offset());
        if rest > 0 {
            return Err(failed(bytes, format!("{rest} bytes come after its end")));
        }
        let mut entries = BTreeMap::new();
        let mut taken = vec![];
        for (name, listed) in list(bytes, &archive, &mut buffer)? {
            let refused = |why: String| failed(bytes, format!("entry `{}` {why}", named(&name)));
            let range = agreed(&archive, &name, &listed, &mut buffer).map_err(refused)?;
            let end = range.start.saturating_add(range.len);
            if end > archive.directory_offset() {
                return Err(refused("reaches beyond the directory".into()));
            }
            taken.push((listed.at, end));
            entries.insert(name, (range, listed.method));
        }
        taken.sort_unstable();
        if let Some(pair) = taken.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            let inner = entries.iter().find(|(_, (range, _))| range.start.saturating_add(range.len) == pair[1].1);
            let inner = inner.map_or_else(String::new, |(name, _)| named(name));
            return Err(failed(bytes, format!("entry `{inner}` overlaps another")));
        }
        Ok(Directory { bytes, entries })
    }

    /// Names in order, from `first` on.
    pub(crate) fn names_from<'b>(&'b self, first: &str) -> impl Iterator<Item = &'b str> {
        self.entries.range::<str, _>((Included(first), Unbounded)).map(|(name, _)| name.as_str())
    }

    /// Where the bytes of an entry lie, if there is one of that name.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Range>> {
        match self.entries.get(name) {
            None => Ok(None),
            Some(&(range, CompressionMethod::STORE)) => Ok(Some(range)),
            Some((_, method)) => {
                Err(failed(self.bytes, format!("entry `{}` is compressed ({method}); PyTorch stores it as it is", named(name))))
            }
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
        let (method, stored, original) = (entry.compression_method(), entry.compressed_size_hint(), entry.uncompressed_size_hint());
        if method == CompressionMethod::STORE && stored != original {
            return refused(format!("is stored as it is, but in {stored} bytes of {original}"));
        }
        let found = Listed { wayfinder: entry.wayfinder(), at: entry.local_header_offset(), method };
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
    if header.compression_method() != entry.method || header.flags().is_encrypted() {
        return Err("is compressed or encrypted in another way by its own header".into());
    }
    let (start, end) = found.compressed_data_range();
    let len = end - start;
    let sizes = [(len, header.compressed_size_hint()), (entry.wayfinder.uncompressed_size_hint(), header.uncompressed_size_hint())];
    for (listed, found) in sizes {
        // A writer that does not know the size yet puts zero, and the size behind the bytes.
        if found != listed && !(found == 0 && header.flags().has_data_descriptor()) {
            return Err(format!("has {listed} bytes in the directory and {found} in its own header"));
        }
    }
    Ok(Range { start, len })
}
