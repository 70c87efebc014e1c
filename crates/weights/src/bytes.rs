//! The bytes of a weight file, on disk or in memory, behind positioned reads that check the length first.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::error::{Result, WeightsError, one_line};

const CHUNK: u64 = 1 << 20;

/// A file or a piece of memory, and what errors call it.
#[derive(Debug)]
pub(crate) struct Bytes {
    source: String,
    content: Content,
    len: u64,
}

enum Content {
    File(File),
    Memory(Arc<[u8]>),
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Content::File(file) => file.fmt(f),
            Content::Memory(bytes) => write!(f, "{} bytes in memory", bytes.len()),
        }
    }
}

impl Bytes {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let source = one_line(path.display());
        let refused = |reason: String| WeightsError::Read { file: source.clone(), reason };
        let file = File::open(path).map_err(|e| refused(one_line(e)))?;
        let about = file.metadata().map_err(|e| refused(one_line(e)))?;
        if !about.is_file() {
            return Err(refused("not a regular file".into()));
        }
        Ok(Bytes { source, content: Content::File(file), len: about.len() })
    }

    pub(crate) fn in_memory(source: &str, bytes: Arc<[u8]>) -> Self {
        Bytes { source: one_line(source), len: bytes.len() as u64, content: Content::Memory(bytes) }
    }

    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The `len` bytes at `offset`. Nothing is allocated for bytes that the file does not have.
    pub(crate) fn read_at(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        self.check(offset, len)?;
        let mut buffer = vec![0; usize::try_from(len).map_err(|_| self.beyond(offset, len))?];
        self.fill(offset, &mut buffer)?;
        Ok(buffer)
    }

    /// Fills `buffer` with the bytes at `offset`.
    pub(crate) fn read_into(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check(offset, buffer.len() as u64)?;
        self.fill(offset, buffer)
    }

    /// Refuses a range that is not inside the file.
    pub(crate) fn check(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(self.beyond(offset, len)),
        }
    }

    /// SHA-256 of all bytes, in lower-case hex.
    pub(crate) fn sha256(&self) -> Result<String> {
        let mut hash = Sha256::new();
        let mut offset = 0;
        while offset < self.len {
            let chunk = self.read_at(offset, CHUNK.min(self.len - offset))?;
            hash.update(&chunk);
            offset += chunk.len() as u64;
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn beyond(&self, offset: u64, len: u64) -> WeightsError {
        WeightsError::Truncated { file: self.source.clone(), offset, len, held: self.len }
    }

    fn fill(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let done = match &self.content {
            Content::File(file) => read_exact(file, offset, buffer),
            Content::Memory(bytes) => {
                let start = usize::try_from(offset).map_err(|_| self.beyond(offset, buffer.len() as u64))?;
                let held = bytes.get(start..).and_then(|rest| rest.get(..buffer.len()));
                buffer.copy_from_slice(held.ok_or_else(|| self.beyond(offset, buffer.len() as u64))?);
                Ok(())
            }
        };
        done.map_err(|e| WeightsError::Read { file: self.source.clone(), reason: one_line(e) })
    }
}

/// What the zip reader asks for: as many bytes as there are, up to the buffer's length.
impl rawzip::ReaderAt for &Bytes {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let held = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
        if held > 0 {
            self.read_into(offset, &mut buffer[..held]).map_err(std::io::Error::other)?;
        }
        Ok(held)
    }
}

#[cfg(unix)]
fn read_exact(file: &File, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_exact(file: &File, mut offset: u64, mut buffer: &mut [u8]) -> std::io::Result<()> {
    while !buffer.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, buffer, offset)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        offset += read as u64;
        buffer = &mut buffer[read..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked_before_anything_is_allocated() {
        let bytes = Bytes::in_memory("m", Arc::from(*b"abcdef"));
        assert_eq!(bytes.read_at(2, 3).expect("inside"), b"cde");
        assert_eq!(bytes.read_at(6, 0).expect("the very end"), b"");
        let far = bytes.read_at(2, u64::MAX - 4).expect_err("outside");
        assert_eq!(far.to_string(), format!("m: truncated: {} bytes at 2 are needed, the file has 6", u64::MAX - 4));
        assert!(bytes.read_at(u64::MAX, 2).is_err());
        assert!(bytes.read_at(5, 2).is_err());
    }

    #[test]
    fn the_hash_is_of_the_bytes() {
        let abc = Bytes::in_memory("m", Arc::from(*b"abc")).sha256().expect("memory");
        assert_eq!(abc, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn folders_and_absent_files_are_refused() {
        let absent = Bytes::open(Path::new("/no/such/file")).expect_err("absent").to_string();
        assert!(absent.starts_with("/no/such/file: cannot be read: "), "{absent}");
        let folder = std::env::temp_dir();
        let folder = Bytes::open(&folder).expect_err("a folder").to_string();
        assert!(folder.contains("cannot be read"), "{folder}");
    }
}
