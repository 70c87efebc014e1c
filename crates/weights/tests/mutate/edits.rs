//! What is done to a valid file.

use super::Random;
use super::programs;
use super::seeds::Seed;
use crate::support::{Zip, torch_zip};

/// One damaged file.
pub fn mutant(seeds: &[(String, Seed)], random: &mut Random) -> Vec<u8> {
    let (_, seed) = random.pick(seeds);
    if random.below(8) == 0 {
        return programs::file(random);
    }
    let mut bytes = match seed {
        Seed::Zip(zip) if random.below(3) > 0 => {
            let mut zip = zip.clone();
            (0..=random.below(2)).for_each(|_| edit_zip(&mut zip, random));
            if random.below(4) > 0 {
                return zip.bytes();
            }
            zip.bytes()
        }
        seed => seed.bytes(),
    };
    if bytes.get(8) == Some(&b'{') && random.below(2) > 0 {
        return edit_header(&bytes, random);
    }
    // One edit goes deeper than many, most of which are refused at the door.
    let edits = if random.below(3) > 0 { 1 } else { 2 + random.below(4) };
    for _ in 0..edits {
        edit(&mut bytes, seeds, random);
    }
    bytes
}

/// Numbers that readers trip over.
fn extreme(random: &mut Random, len: usize) -> u64 {
    let near = [0, 1, u64::from(u8::MAX), u64::from(u16::MAX), i32::MAX as u64, u64::from(u32::MAX), i64::MAX as u64, u64::MAX, len as u64];
    let step = random.below(5) as u64;
    random.pick(&near).wrapping_add(step).wrapping_sub(2)
}

/// Any file: bits, bytes, ends, pieces, numbers.
fn edit(bytes: &mut Vec<u8>, seeds: &[(String, Seed)], random: &mut Random) {
    if bytes.is_empty() {
        return;
    }
    let at = place(bytes, random);
    match random.below(10) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next() as u8,
        2 => bytes.truncate(at),
        3 => drop(bytes.splice(at..at, (0..random.below(9)).map(|_| random.next() as u8).collect::<Vec<_>>())),
        4 => drop(bytes.drain(at..(at + random.below(16)).min(bytes.len()))),
        5 | 6 => {
            let value = extreme(random, bytes.len()).to_le_bytes();
            let size = *random.pick(&[2, 4, 8]);
            bytes.iter_mut().skip(at).zip(&value[..size]).for_each(|(to, &from)| *to = from);
        }
        7 => {
            let other = random.pick(seeds).1.bytes();
            let from = random.below(other.len());
            bytes.truncate(at);
            bytes.extend(&other[from..]);
        }
        8 => {
            let piece = bytes[at..(at + random.below(64)).min(bytes.len())].to_vec();
            let to = random.below(bytes.len() + 1);
            drop(bytes.splice(to..to, piece));
        }
        _ => bytes[at] = programs::opcode(random),
    }
}

/// A place to edit: anywhere, or where structure is dense: the end of the file, or behind the start of a pickle.
fn place(bytes: &[u8], random: &mut Random) -> usize {
    let anywhere = random.below(bytes.len());
    match random.below(3) {
        0 => anywhere,
        1 => bytes.len() - 1 - random.below(bytes.len().min(600)),
        _ => {
            let start = bytes.windows(2).skip(anywhere).position(|pair| pair == [0x80, 2]).map_or(0, |found| anywhere + found);
            (start + random.below(1000)).min(bytes.len() - 1)
        }
    }
}

/// The fields of an archive, and the pickle in it, with everything around them intact.
fn edit_zip(zip: &mut Zip, random: &mut Random) {
    let count = zip.entries.len();
    let other = random.below(count);
    let len = zip.entries.iter().map(|entry| entry.data.len()).sum::<usize>();
    let wild = extreme(random, len);
    if random.below(2) == 0
        && let Some(pickle) = zip.entries.iter_mut().find(|entry| entry.name.ends_with("data.pkl"))
    {
        let none = [(String::new(), Seed::Bytes(b"N.".to_vec()))];
        return (0..=random.below(2)).for_each(|_| edit(&mut pickle.data, &none, random));
    }
    let (name, data) = (zip.entries[other].name.clone(), zip.entries[other].data.clone());
    let entry = &mut zip.entries[random.below(count)];
    match random.below(11) {
        0 => entry.method = wild as u16,
        1 => entry.flags ^= 1 << random.below(16),
        2 => entry.local_size = Some(wild as u32),
        3 => entry.size = Some(wild as u32),
        4 => (entry.size, entry.local_size) = (Some(wild as u32), Some(wild as u32)),
        5 => entry.offset = Some(wild as u32),
        6 => entry.name = name,
        7 => entry.local_name = Some(name),
        8 => entry.data = data,
        9 => zip.count = Some(wild as u16),
        _ => drop(zip.entries.swap_remove(other)),
    }
}

/// The JSON of a safetensors header, its length put right again.
fn edit_header(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let len = u64::from_le_bytes(*bytes.first_chunk().expect("a length")) as usize;
    let mut header = bytes[8..8 + len].to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(header.len());
        match random.below(5) {
            0 => header[at] = *random.pick(b"{}[]\",:0123456789-.eFU\\"),
            1 => {
                let digits: Vec<usize> = (0..header.len()).filter(|&i| header[i].is_ascii_digit()).collect();
                let (at, value) = (*random.pick(&digits), extreme(random, bytes.len()));
                drop(header.splice(at..=at, value.to_string().into_bytes()));
            }
            2 => {
                let piece = header[at..(at + random.below(80)).min(header.len())].to_vec();
                drop(header.splice(at..at, piece));
            }
            3 => drop(header.drain(at..(at + random.below(8)).min(header.len() - 1))),
            _ => {
                let types = ["F64", "F32", "F16", "BF16", "U8", "BOOL", "F8_E4M3", "F4", "I64"];
                let text = String::from_utf8_lossy(&header).replacen(*random.pick(&types), random.pick::<&str>(&types), 1);
                header = text.into_bytes();
            }
        }
        if !header.iter().any(u8::is_ascii_digit) {
            header.push(b'0');
        }
    }
    [&(header.len() as u64).to_le_bytes()[..], &header, &bytes[8 + len..]].concat()
}

/// An archive with a pickle of its own making.
pub fn archive_of(pickle: Vec<u8>) -> Vec<u8> {
    let mut zip = torch_zip(&crate::support::Py::None, &[("0", vec![7; 64]), ("1", vec![9; 16])]);
    zip.entry("archive/data.pkl").data = pickle;
    zip.bytes()
}
