//! Compiled kernels on disk. Losing them costs seconds, so nothing that goes wrong here is an error: what cannot be read or is damaged
//! is compiled again, what cannot be written is not kept.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// A folder of compiled kernels; several processes may use it at once.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: Option<PathBuf>,
}

/// What an entry is of; made by [`Cache::key`].
pub struct Key([u8; 32]);

impl Cache {
    /// The user's: `$FD_CACHE_DIR`, else `fd-distill` in `$XDG_CACHE_HOME` or `~/.cache`. Without any of these nothing is kept.
    pub fn here() -> Cache {
        let folder = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let user = folder("XDG_CACHE_HOME").filter(|path| path.is_absolute()).or_else(|| Some(folder("HOME")?.join(".cache")));
        let folder = folder("FD_CACHE_DIR").or_else(|| Some(user?.join("fd-distill")));
        Cache { folder: folder.map(|path| path.join("kernels")) }
    }

    /// One in a folder, which is made when it is needed.
    pub fn at(folder: &Path) -> Cache {
        Cache { folder: Some(folder.to_path_buf()) }
    }

    /// The key of everything that decides what is compiled.
    pub fn key(parts: &[&str]) -> Key {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Key(hash.finalize().into())
    }

    /// What was stored, if it is there and whole.
    pub fn load(&self, key: &Key) -> Option<Vec<u8>> {
        let bytes = fs::read(self.path(key)?).ok()?;
        let (sum, image) = bytes.split_at_checked(32)?;
        (sum == checksum(key, image)).then(|| image.to_vec())
    }

    /// Stores: under a temporary name of this writer's own, then renamed, so that readers find all of it or nothing.
    pub fn store(&self, key: &Key, image: &[u8]) {
        static WRITERS: AtomicU64 = AtomicU64::new(0);
        let Some(path) = self.path(key) else { return };
        let writer = WRITERS.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("{}-{writer}.tmp", std::process::id()));
        let write = || {
            fs::create_dir_all(path.parent()?).ok()?;
            let mut file = fs::File::create_new(&temporary).ok()?;
            file.write_all(&checksum(key, image)).and_then(|()| file.write_all(image)).and_then(|()| fs::rename(&temporary, &path)).ok()
        };
        if write().is_none() {
            let _ = fs::remove_file(&temporary);
        }
    }

    fn path(&self, key: &Key) -> Option<PathBuf> {
        let name: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(self.folder.as_ref()?.join(name))
    }
}

/// Of the image and of what it is an image of: an entry under another's name is damaged, too.
fn checksum(key: &Key, image: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(key.0).chain_update(image).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder for one test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("fd-kernels-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Folder(path)
        }

        fn files(&self) -> Vec<PathBuf> {
            fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()).collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_stored_is_found_under_its_key_only() {
        let folder = Folder::new("found");
        let cache = Cache::at(&folder.0.join("made/when/needed"));
        let (a, b) = (Cache::key(&["ab", "c"]), Cache::key(&["a", "bc"]));
        assert_eq!(cache.load(&a), None);
        cache.store(&a, b"code");
        assert_eq!((cache.load(&a).as_deref(), cache.load(&b)), (Some(&b"code"[..]), None));
        // Under another key's name it is not that key's.
        fs::copy(cache.path(&a).unwrap(), cache.path(&b).unwrap()).unwrap();
        assert_eq!(cache.load(&b), None);
        cache.store(&a, b"");
        assert_eq!(cache.load(&a), Some(vec![]));
    }

    #[test]
    fn a_damaged_entry_is_none_and_is_replaced() {
        let folder = Folder::new("damaged");
        let (cache, key, image) = (Cache::at(&folder.0), Cache::key(&["x"]), vec![7u8; 100]);
        cache.store(&key, &image);
        let path = cache.path(&key).unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(cache.load(&key), None, "cut to {cut} bytes");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            assert_eq!(cache.load(&key), None, "byte {at} changed");
        }
        fs::write(&path, [whole.as_slice(), b"x"].concat()).unwrap();
        assert_eq!(cache.load(&key), None);
        cache.store(&key, &image);
        assert_eq!((cache.load(&key), folder.files()), (Some(image), vec![path]));
    }

    #[test]
    fn writers_at_once_leave_one_whole_entry() {
        let folder = Folder::new("writers");
        let (cache, key) = (Cache::at(&folder.0), Cache::key(&["x"]));
        let image = |writer: u8| vec![writer; 50_000];
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let (cache, key) = (&cache, &key);
                scope.spawn(move || {
                    for _ in 0..20 {
                        cache.store(key, &image(writer));
                        let found = cache.load(key).unwrap();
                        assert_eq!(found, image(found[0]), "an entry of two writers");
                    }
                });
            }
        });
        assert_eq!(folder.files().len(), 1, "temporary files are left");
    }

    #[test]
    fn where_nothing_can_be_written_nothing_is_kept() {
        let folder = Folder::new("closed");
        fs::create_dir_all(&folder.0).unwrap();
        fs::write(folder.0.join("file"), "").unwrap();
        let key = Cache::key(&["x"]);
        // A file in the folder's place; a folder in the entry's; no folder at all.
        let cache = Cache::at(&folder.0.join("file"));
        cache.store(&key, b"code");
        assert_eq!(cache.load(&key), None);
        let cache = Cache::at(&folder.0);
        fs::create_dir(cache.path(&key).unwrap()).unwrap();
        cache.store(&key, b"code");
        assert_eq!((cache.load(&key), folder.files().len()), (None, 2));
        let cache = Cache { folder: None };
        cache.store(&key, b"code");
        assert_eq!(cache.load(&key), None);
    }
}
