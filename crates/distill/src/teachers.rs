//! Teachers that come with the binary, so that a table's time goes into distillation.
//!
//! `assets/teachers/` holds them in half precision, and `teachers.toml` says of each what it was made from. A table takes one in place of
//! pretraining where the key of its own pretraining is the shipped teacher's: a change of the recipe trains a teacher anew.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::run_dir::write_atomically;

/// One shipped teacher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shipped {
    /// Key of the pretraining stage that made it.
    pub key: String,
    /// SHA-256 of its file.
    pub sha256: String,
    /// SIMD level that it was made at: another level rounds differently.
    pub simd: String,
    /// Commit that made it.
    pub commit: String,
    /// The command that makes it again.
    pub command: String,
}

/// A teacher's entry and its file.
#[derive(Clone, Copy, Debug)]
struct Asset {
    file: &'static str,
    bytes: &'static [u8],
}

/// What a manifest begins with.
const HEAD: &str = "\
# Shipped teachers and what made them. `command`, in a clone's root, makes them again, to the same bytes at the same SIMD level. Replaced by
#     cargo xtask reproduce-table --pretrain --seeds 1 --ship crates/distill/assets/teachers
";
const MANIFEST: &str = include_str!("../assets/teachers/teachers.toml");
const ASSETS: [Asset; 5] = [
    Asset { file: "clip.safetensors", bytes: include_bytes!("../assets/teachers/clip.safetensors") },
    Asset { file: "dino.safetensors", bytes: include_bytes!("../assets/teachers/dino.safetensors") },
    Asset { file: "esvit.safetensors", bytes: include_bytes!("../assets/teachers/esvit.safetensors") },
    Asset { file: "mae.safetensors", bytes: include_bytes!("../assets/teachers/mae.safetensors") },
    Asset { file: "supervised.safetensors", bytes: include_bytes!("../assets/teachers/supervised.safetensors") },
];

/// All entries by file name.
pub fn shipped() -> BTreeMap<String, Shipped> {
    toml::from_str(MANIFEST).expect("a test reads the manifest")
}

/// The bytes of a shipped file.
pub fn bytes(file: &str) -> Option<&'static [u8]> {
    ASSETS.iter().find(|a| a.file == file).map(|a| a.bytes)
}

/// The file name of a teacher's name: `DINO` is `dino.safetensors`.
pub fn file_name(teacher: &str) -> String {
    format!("{}.safetensors", slug(teacher))
}

/// Lower-case letters, digits and dashes.
pub fn slug(name: &str) -> String {
    let dashed: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    dashed.split('-').filter(|s| !s.is_empty()).collect::<Vec<_>>().join("-")
}

/// Writes teachers' files and their manifest into a folder: what `assets/teachers` is made of.
///
/// # Errors
/// [`Error::File`].
pub fn ship(folder: &Path, teachers: &[(String, Vec<u8>, Shipped)]) -> Result<(), Error> {
    let mut entries = BTreeMap::new();
    for (name, bytes, entry) in teachers {
        let file = file_name(name);
        write_atomically(&folder.join(&file), |f| std::io::Write::write_all(f, bytes))?;
        entries.insert(file, entry);
    }
    let path = folder.join("teachers.toml");
    let entries = toml::to_string(&entries).map_err(|e| Error::File { path: path.clone(), why: e.to_string() })?;
    let text = format!("{HEAD}{entries}");
    write_atomically(&path, |f| std::io::Write::write_all(f, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sha256_hex;

    #[test]
    fn every_file_is_what_the_manifest_says() {
        let entries = shipped();
        assert_eq!(entries.len(), ASSETS.len());
        for asset in ASSETS {
            let entry = &entries[asset.file];
            assert_eq!(sha256_hex(asset.bytes), entry.sha256, "{}", asset.file);
            assert!(asset.bytes.len() <= 1 << 20, "{}: {} bytes", asset.file, asset.bytes.len());
        }
    }

    #[test]
    fn slugs_are_plain() {
        for (name, plain) in [("DINO", "dino"), ("my  teacher (v2)", "my-teacher-v2"), ("é", "")] {
            assert_eq!(slug(name), plain);
        }
    }
}
