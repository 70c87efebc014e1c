//! Whether a file is a library that a process of this kind can load, from its first bytes.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// What is wrong with a library; none: nothing.
pub(super) fn fault(file: &Path, arch: &str) -> Option<String> {
    let mut head = [0; 20];
    match File::open(file).and_then(|mut f| f.read_exact(&mut head)) {
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Some("not a library".into()),
        Err(e) => return Some(format!("cannot be read: {e}")),
        Ok(()) => {}
    }
    let machine: Option<u16> = match arch {
        "x86_64" => Some(62),
        "aarch64" => Some(183),
        _ => None,
    };
    if !head.starts_with(b"\x7fELF") {
        return Some("not a library".into());
    }
    // The second class has 64 bits; the byte after it says in which order numbers stand, little end first for both machines.
    let found = u16::from_le_bytes([head[18], head[19]]);
    (head[4] != 2 || machine.is_some_and(|m| m != found)).then(|| "a library for another processor".into())
}
