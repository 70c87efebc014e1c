//! IDX, the format of the MNIST family: a big-endian header (magic number, one length a dimension), then unsigned bytes.
//!
//! Files may be raw or gzip; the content decides, not the name. Reading is strict: the length has to be exactly what the header says,
//! and a gzip stream is decompressed no further than one byte past that, so that a forged file cannot fill the memory.

use std::fs::File;
use std::io::{BufReader, Cursor, ErrorKind, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::error::{DataError, Result, shown, unreadable};
use crate::source::{Image8, Source, check_index};

const IMAGES_MAGIC: u32 = 0x0803;
const LABELS_MAGIC: u32 = 0x0801;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// The announced size is trusted for this much of the first allocation; beyond it the buffer grows with what really arrives.
const FIRST_ALLOCATION: u64 = 64 << 20;

/// Grey images of one size held in memory, with or without labels. Images are borrowed, not copied.
#[derive(Clone, Debug)]
pub struct Idx {
    name: String,
    len: usize,
    height: usize,
    width: usize,
    pixels: Vec<u8>,
    labels: Option<Vec<u8>>,
    class_names: Vec<String>,
}

impl Idx {
    /// Reads an image file (magic 0x803, `[N, height, width]`) and, if given, its label file (magic 0x801, `[N]`).
    /// `classes` is the number of classes; `None` takes the largest label plus one. Classes are named by their number.
    ///
    /// # Errors
    /// A file that is missing, of the wrong kind, truncated, too long or corrupt; counts that differ; a label not below `classes`.
    pub fn open(images: &Path, labels: Option<&Path>, classes: Option<usize>) -> Result<Self> {
        let (name, file) = (shown(images), open(images)?);
        let this = Self::unlabelled(name, file)?;
        match labels {
            Some(path) => this.labelled(&shown(path), open(path)?, classes),
            None => Ok(this),
        }
    }

    /// As [`Idx::open`], from bytes in memory; `name` is what messages call them.
    ///
    /// # Errors
    /// As [`Idx::open`].
    pub fn from_bytes(name: &str, images: &[u8], labels: Option<&[u8]>, classes: Option<usize>) -> Result<Self> {
        let this = Self::unlabelled(name.to_owned(), Cursor::new(images))?;
        match labels {
            Some(bytes) => this.labelled(&format!("{name} labels"), Cursor::new(bytes), classes),
            None => Ok(this),
        }
    }

    /// Replaces the numbers that name the classes.
    pub(crate) fn named(mut self, classes: &[&str]) -> Self {
        self.class_names = classes.iter().map(|&c| c.to_owned()).collect();
        self
    }

    /// The height and width of every image, in pixels.
    #[must_use]
    pub fn size(&self) -> [usize; 2] {
        [self.height, self.width]
    }

    fn unlabelled(name: String, file: impl Read) -> Result<Self> {
        let ([len, height, width], pixels) = read(&name, file, IMAGES_MAGIC)?;
        Ok(Self { name, len, height, width, pixels, labels: None, class_names: Vec::new() })
    }

    fn labelled(mut self, file: &str, reader: impl Read, classes: Option<usize>) -> Result<Self> {
        let ([found], labels) = read(file, reader, LABELS_MAGIC)?;
        let file = file.to_owned();
        if found != self.len() {
            return Err(DataError::Count { file, images: self.name.clone(), expected: self.len(), found });
        }
        let expected = classes.unwrap_or_else(|| labels.iter().max().map_or(0, |&l| usize::from(l) + 1));
        if let Some(index) = labels.iter().position(|&l| usize::from(l) >= expected) {
            return Err(DataError::Label { file, index, expected, found: labels[index].into() });
        }
        self.class_names = (0..expected).map(|class| class.to_string()).collect();
        self.labels = Some(labels);
        Ok(self)
    }
}

impl Source for Idx {
    fn len(&self) -> usize {
        self.len
    }

    fn image(&self, index: usize) -> Result<Image8<'_>> {
        check_index(self, index)?;
        let size = self.height * self.width;
        Image8::new(self.height, self.width, 1, &self.pixels[index * size..][..size])
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.as_ref()?.get(index).map(|&label| label.into())
    }

    fn channels(&self) -> usize {
        1
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| unreadable(path, error))
}

/// Reads one IDX file of `D` dimensions, gzip or raw: its lengths and its values.
fn read<const D: usize>(file: &str, reader: impl Read, magic: u32) -> Result<([usize; D], Vec<u8>)> {
    let mut reader = BufReader::new(reader);
    let mut start = Vec::new();
    reader.by_ref().take(2).read_to_end(&mut start).map_err(|error| failed(file, false, error))?;
    let gzip = start == GZIP_MAGIC;
    let reader = Cursor::new(start).chain(reader);
    if gzip { parse(file, MultiGzDecoder::new(reader), true, magic) } else { parse(file, reader, false, magic) }
}

fn parse<const D: usize>(file: &str, mut reader: impl Read, gzip: bool, magic: u32) -> Result<([usize; D], Vec<u8>)> {
    let header_len = 4 * (1 + D as u64);
    let header = read_exactly(file, &mut reader, gzip, 0, header_len, magic)?;
    let words: Vec<u32> = header.chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])).collect();
    let mut dims = [0usize; D];
    let mut values = Some(1u64);
    for (dim, &word) in dims.iter_mut().zip(&words[1..]) {
        *dim = usize::try_from(word).unwrap_or(usize::MAX);
        values = values.and_then(|n| n.checked_mul(word.into()));
    }
    let fits = values.filter(|&n| n < isize::MAX as u64 - header_len && dims[1..].iter().all(|&side| side > 0));
    let Some(values) = fits else {
        return Err(DataError::Dimensions { file: file.to_owned(), found: format!("{dims:?}") });
    };
    let body = read_exactly(file, &mut reader, gzip, header_len, values, magic)?;
    // Reading past the end also makes the decompressor verify its checksum.
    match reader.read(&mut [0u8]).map_err(|error| failed(file, gzip, error))? {
        0 => Ok((dims, body)),
        _ => Err(DataError::Trailing { file: file.to_owned(), expected: header_len + values }),
    }
}

/// The next `len` bytes, `offset` bytes into the file. At offset 0 the magic number is checked first: a file of another kind is
/// called that, even if it is also short.
fn read_exactly(file: &str, reader: &mut impl Read, gzip: bool, offset: u64, len: u64, magic: u32) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(len.min(FIRST_ALLOCATION)).unwrap_or(0));
    let outcome = reader.take(len).read_to_end(&mut bytes);
    if let (0, Some(found)) = (offset, bytes.first_chunk().map(|b| u32::from_be_bytes(*b)))
        && found != magic
    {
        return Err(DataError::Magic { file: file.to_owned(), expected: magic, found });
    }
    let found = bytes.len() as u64;
    match outcome {
        Err(error) if !(gzip && error.kind() == ErrorKind::UnexpectedEof) => Err(failed(file, gzip, error)),
        _ if found < len => Err(DataError::Truncated { file: file.to_owned(), expected: offset + len, found: offset + found }),
        _ => Ok(bytes),
    }
}

/// A failed read is the decompressor's complaint when there is one, the operating system's otherwise.
fn failed(file: &str, gzip: bool, error: std::io::Error) -> DataError {
    let (file, reason) = (file.to_owned(), crate::error::one_line(&error));
    if gzip && error.raw_os_error().is_none() { DataError::Gzip { file, reason } } else { DataError::Read { file, reason } }
}
