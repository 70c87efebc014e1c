//! What several test files need: a folder that cleans up after itself, and small sources.
#![allow(dead_code, reason = "each test file uses a part")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use fd_data::{DataError, Image8, Result, Source};
use flate2::{Compression, write::GzEncoder};

/// A fresh folder, removed on drop.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file, with the folders it needs.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The error of a failed call, as shown, checked to be one line.
pub fn message<T>(result: Result<T>) -> String {
    let message = result.err().expect("this has to fail").to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

/// Images of 6 x 5 RGB pixels that tell their index; sample `bad` is an error, sample `deadly` panics.
pub struct Numbered {
    pub len: usize,
    pub bad: Option<usize>,
    pub deadly: Option<usize>,
    pub classes: Vec<String>,
}

impl Numbered {
    pub fn new(len: usize) -> Self {
        Self { len, bad: None, deadly: None, classes: vec!["even".into(), "odd".into()] }
    }
}

impl Source for Numbered {
    fn len(&self) -> usize {
        self.len
    }

    fn image(&self, index: usize) -> Result<Image8<'_>> {
        assert!(self.deadly != Some(index), "sample {index} is deadly");
        if self.bad == Some(index) {
            return Err(DataError::Decode { file: format!("numbered {index}"), reason: "bad on purpose".into() });
        }
        let value = |i: usize| ((index * 37 + i * 11) % 256) as u8;
        Image8::new(6, 5, 3, (0..90).map(value).collect::<Vec<_>>())
    }

    fn label(&self, index: usize) -> Option<u32> {
        (!self.classes.is_empty()).then_some((index % 2) as u32)
    }

    fn channels(&self) -> usize {
        3
    }

    fn name(&self) -> &str {
        "numbered"
    }

    fn class_names(&self) -> &[String] {
        &self.classes
    }
}
