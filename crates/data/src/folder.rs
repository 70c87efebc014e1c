//! Images in a folder, decoded when they are asked for.
//!
//! Two layouts, told apart by content: images directly in the folder (unlabelled), or one sub-folder a class in torchvision's
//! `ImageFolder` order (classes by name; a class's images by folder, then by name, however deep). Names that start with a dot are
//! ignored. A class folder may be a symbolic link; links to folders further down are not followed, so that a cycle cannot trap us.

use std::fs;
use std::path::{Path, PathBuf};

use image::{ColorType, DynamicImage};

use crate::colour::luma;
use crate::error::{DataError, Result, check_setting, one_line, shown, unreadable};
use crate::fingerprint::Fingerprint;
use crate::source::{Image8, Source, check_index};

const EXTENSIONS: [&str; 3] = ["png", "jpg", "jpeg"];

/// A folder of png and jpeg images (the extension chooses the files, in either case; the content chooses the decoder).
#[derive(Clone, Debug)]
pub struct Folder {
    name: String,
    root: PathBuf,
    channels: usize,
    files: Vec<PathBuf>,
    labels: Vec<u32>,
    class_names: Vec<String>,
}

impl Folder {
    /// Lists `path`; no image is opened. Images will be converted to `channels` = 1 (grey: Pillow's integer luma) or 3 (RGB: grey is
    /// repeated, alpha is dropped).
    ///
    /// # Errors
    /// An unreadable folder, no image in it or in one of its class folders, images beside class folders, or another `channels`.
    pub fn open(path: &Path, channels: usize) -> Result<Self> {
        check_setting(channels == 1 || channels == 3, "channels", "1 or 3", channels)?;
        let (mut files, folders) = list(path)?;
        let (mut labels, mut class_names) = (Vec::new(), Vec::new());
        if let (Some(image), Some(folder)) = (files.first(), folders.first()) {
            let (image, folder) = (shown(&file_name(image)), shown(&file_name(folder)));
            return Err(DataError::Layout { file: shown(path), image, folder });
        }
        for (class, folder) in (0u32..).zip(&folders) {
            let images = walk(folder)?;
            labels.resize(labels.len() + images.len(), class);
            class_names.push(shown(&file_name(folder)));
            files.extend(images);
        }
        if files.is_empty() {
            return Err(DataError::Empty { file: shown(path) });
        }
        Ok(Self { name: shown(path), root: path.to_owned(), channels, files, labels, class_names })
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The image files in sample order.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

impl Source for Folder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn image(&self, index: usize) -> Result<Image8<'_>> {
        check_index(self, index)?;
        let path = &self.files[index];
        let bytes = fs::read(path).map_err(|error| unreadable(path, error))?;
        decode(&shown(path), &bytes, self.channels)
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.get(index).copied()
    }

    fn channels(&self) -> usize {
        self.channels
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// Over the channels and, in sample order, each file's path below the folder, its size in bytes and its label. Contents are not
    /// read: a file changed without a change of size goes unnoticed.
    fn fingerprint(&self) -> Result<[u8; 32]> {
        let mut fingerprint = Fingerprint::new("folder", self.channels);
        fingerprint.number(self.len());
        for (index, path) in self.files.iter().enumerate() {
            let size = fs::metadata(path).map_err(|error| unreadable(path, error))?.len();
            let below = path.strip_prefix(&self.root).unwrap_or(path);
            fingerprint.number(below.iter().count());
            below.iter().for_each(|part| fingerprint.bytes(part.as_encoded_bytes()));
            fingerprint.bytes(&size.to_le_bytes());
            fingerprint.label(self.label(index));
        }
        Ok(fingerprint.finish())
    }
}

/// Decodes a png or jpeg (8 bits a channel) and converts it to 1 or 3 channels; `file` is what messages call it.
///
/// # Errors
/// [`DataError::Decode`] for bytes that are no such image, [`DataError::Unsupported`] for 16 bits a channel,
/// [`DataError::Config`] for another `channels`.
pub fn decode(file: &str, bytes: &[u8], channels: usize) -> Result<Image8<'static>> {
    check_setting(channels == 1 || channels == 3, "channels", "1 or 3", channels)?;
    let decoded = image::load_from_memory(bytes).map_err(|error| DataError::Decode { file: file.to_owned(), reason: one_line(error) })?;
    let (height, width) = (decoded.height() as usize, decoded.width() as usize);
    let data = match (decoded, channels) {
        (DynamicImage::ImageLuma8(grey), 1) => grey.into_raw(),
        (DynamicImage::ImageRgb8(rgb), 3) => rgb.into_raw(),
        (DynamicImage::ImageLuma8(grey), _) => grey.as_raw().iter().flat_map(|&v| [v; 3]).collect(),
        (DynamicImage::ImageLumaA8(grey), 1) => grey.as_raw().chunks_exact(2).map(|p| p[0]).collect(),
        (DynamicImage::ImageLumaA8(grey), _) => grey.as_raw().chunks_exact(2).flat_map(|p| [p[0]; 3]).collect(),
        (DynamicImage::ImageRgb8(rgb), _) => rgb.as_raw().chunks_exact(3).map(luma).collect(),
        (DynamicImage::ImageRgba8(rgba), 1) => rgba.as_raw().chunks_exact(4).map(luma).collect(),
        (DynamicImage::ImageRgba8(rgba), _) => rgba.as_raw().chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        (other, _) => return Err(unsupported(file, other.color())),
    };
    Image8::new(height, width, channels, data)
}

fn unsupported(file: &str, found: ColorType) -> DataError {
    DataError::Unsupported { file: file.to_owned(), expected: "8 bits a channel", found: format!("{found:?}") }
}

/// The images of a class folder, by folder, then by name.
fn walk(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut pending) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = pending.pop() {
        let (images, folders) = list(&next)?;
        files.extend(images);
        pending.extend(folders.into_iter().filter(|f| !f.is_symlink()));
    }
    if files.is_empty() {
        return Err(DataError::Empty { file: shown(folder) });
    }
    files.sort_by_cached_key(|path| (path.parent().map(|p| p.as_os_str().to_owned()), path.file_name().map(ToOwned::to_owned)));
    Ok(files)
}

/// The images and the sub-folders directly in `folder`, each sorted by name, names with a leading dot left out.
fn list(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(|error| unreadable(folder, error))? {
        let entry = entry.map_err(|error| unreadable(folder, error))?;
        let path = entry.path();
        if file_name(&path).as_os_str().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // Only a link costs a look at what it points to: a training set has a million files.
        let kind = entry.file_type().map_err(|error| unreadable(&path, error))?;
        if kind.is_dir() || (kind.is_symlink() && path.is_dir()) {
            folders.push(path);
        } else if path.extension().is_some_and(|e| EXTENSIONS.iter().any(|known| e.eq_ignore_ascii_case(known))) {
            files.push(path);
        }
    }
    files.sort();
    folders.sort();
    Ok((files, folders))
}

fn file_name(path: &Path) -> PathBuf {
    path.file_name().map(PathBuf::from).unwrap_or_default()
}
