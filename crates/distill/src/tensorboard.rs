//! TensorBoard's event files: scalars only, so three small messages are encoded here in place of a protocol-buffer library.
//!
//! A file is a sequence of records: length (u64), masked CRC-32C of those 8 bytes, an `Event` message, masked CRC-32C of it; all
//! little-endian. TensorBoard joins the files of one folder in the order of their names. Every file opens with a session start that carries
//! the first step to come: points of that and later steps in earlier files are then dropped, so an interrupted run that is taken up again
//! has one curve.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Error;

/// How the files' names begin; what follows is the time in seconds, padded, so that names sort by time.
const PREFIX: &str = "events.out.tfevents.";
/// Events that a file has before its first scalars: the format's version and the session's start.
pub const OPENING_EVENTS: usize = 2;

/// Writes events, each in one go.
#[derive(Debug)]
pub struct EventWriter<W> {
    out: W,
}

impl<W: Write> EventWriter<W> {
    /// Begins a file at `wall_time` (seconds since 1970); points at `first_step` and later of earlier files are void.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn begin(out: W, wall_time: f64, first_step: usize) -> io::Result<EventWriter<W>> {
        let mut writer = EventWriter { out };
        writer.event(wall_time, 0, &nested(3, b"brain.Event:2"))?;
        // Field 7 is the session log, its field 1 the status, 1 is a start.
        writer.event(wall_time, first_step, &nested(7, &[tag(1, VARINT), 1]))?;
        Ok(writer)
    }

    /// Writes values of one step under their names, in single precision.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn scalars<'a>(&mut self, wall_time: f64, step: usize, values: impl IntoIterator<Item = (&'a str, f64)>) -> io::Result<()> {
        let value = |(name, value): (&str, f64)| {
            let simple = [&[tag(2, FIXED32)][..], &(value as f32).to_le_bytes()].concat();
            nested(1, &[nested(1, name.as_bytes()), simple].concat())
        };
        let summary = values.into_iter().flat_map(value).collect::<Vec<u8>>();
        self.event(wall_time, step, &nested(5, &summary))
    }

    fn event(&mut self, wall_time: f64, step: usize, what: &[u8]) -> io::Result<()> {
        let step = [vec![tag(2, VARINT)], varint(step as u64)].concat();
        let event = [&[tag(1, FIXED64)][..], &wall_time.to_le_bytes(), &step, what].concat();
        let length = (event.len() as u64).to_le_bytes();
        let record = [&length[..], &masked_crc(&length), &event, &masked_crc(&event)].concat();
        self.out.write_all(&record)?;
        self.out.flush()
    }
}

/// Begins a new event file in a folder, after those that are there.
///
/// # Errors
/// [`Error::File`].
pub fn create(folder: &Path, first_step: usize) -> Result<(PathBuf, EventWriter<File>), Error> {
    let refuse = |path: &Path, e: io::Error| Error::File { path: path.to_path_buf(), why: format!("cannot be written: {e}") };
    let earlier = event_files(folder).map_err(|e| refuse(folder, e))?;
    // Later than the last one by name, too, when both begin within a second or the clock was set back.
    let last = earlier.last().and_then(|p| p.file_name()?.to_str()?.strip_prefix(PREFIX)?.split('.').next()?.parse().ok());
    let seconds = last.map_or(0, |s: u64| s.saturating_add(1)).max(now() as u64);
    let path = folder.join(format!("{PREFIX}{seconds:010}.fd.{}.{}", std::process::id(), earlier.len()));
    let begun = File::create_new(&path).and_then(|file| EventWriter::begin(file, now(), first_step));
    let writer = begun.map_err(|e| refuse(&path, e))?;
    Ok((path, writer))
}

/// The event files of a folder, oldest first.
///
/// # Errors
/// When the folder cannot be read.
pub fn event_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<io::Result<Vec<_>>>()?;
    files.retain(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(PREFIX)));
    files.sort();
    Ok(files)
}

/// Wall time and step of every event in a file's bytes, [`OPENING_EVENTS`] included; ends at a torn one.
pub fn times(mut bytes: &[u8]) -> Vec<(f64, u64)> {
    let mut times = vec![];
    while let Some((record, rest)) = split_record(bytes) {
        let Some(time) = time(record) else { break };
        times.push(time);
        bytes = rest;
    }
    times
}

/// The first record's message, and what follows it.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (_, rest) = rest.split_at_checked(4)?;
    let (record, rest) = rest.split_at_checked(u64::from_le_bytes(*length).try_into().ok()?)?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    (*crc == masked_crc(record)).then_some((record, rest))
}

/// Wall time and step, which this module's writer puts first.
fn time(event: &[u8]) -> Option<(f64, u64)> {
    let wall_time = event.strip_prefix(&[tag(1, FIXED64)])?;
    let (seconds, step) = wall_time.split_first_chunk::<8>()?;
    let step = step.strip_prefix(&[tag(2, VARINT)])?;
    let end = step.iter().position(|b| b & 0x80 == 0).filter(|end| *end < 9)?;
    let step = step[..=end].iter().rev().fold(0, |sum, b| sum << 7 | u64::from(b & 0x7f));
    Some((f64::from_le_bytes(*seconds), step))
}

/// Seconds since 1970.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Protocol buffers' wire types: how a field's value is encoded.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const NESTED: u8 = 2;
const FIXED32: u8 = 5;

const fn tag(field: u8, wire: u8) -> u8 {
    field << 3 | wire
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = vec![];
    while n >= 0x80 {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

/// A field that holds a message or a text.
fn nested(field: u8, bytes: &[u8]) -> Vec<u8> {
    [&[tag(field, NESTED)][..], &varint(bytes.len() as u64), bytes].concat()
}

/// CRC-32C, rotated and shifted by a constant as the record format wants it.
fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// CRC-32 with Castagnoli's polynomial, bit by bit: a line of metrics has some 200 bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    let shift = |crc: u32, _| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_checksums() {
        // RFC 3720, B.4; and the check value of the algorithm's catalogue entry.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn known_varints() {
        assert_eq!(varint(0), [0]);
        assert_eq!(varint(127), [127]);
        assert_eq!(varint(300), [0xac, 0x02]);
        assert_eq!(varint(u64::MAX).len(), 10);
    }

    #[test]
    fn times_come_back_and_end_at_a_torn_event() {
        let mut bytes = vec![];
        let mut writer = EventWriter::begin(&mut bytes, 10.5, 201).unwrap();
        writer.scalars(11.5, 300, [("loss", 0.5), ("lr", f64::NAN)]).unwrap();
        writer.scalars(12.5, 1 << 40, []).unwrap();
        let expected = [(10.5, 0), (10.5, 201), (11.5, 300), (12.5, 1 << 40)];
        assert_eq!(times(&bytes), expected);
        let ends: Vec<usize> = (0..=bytes.len()).map(|n| times(&bytes[..n]).len()).collect();
        assert!(ends.is_sorted() && ends[bytes.len() - 1] == 3, "every prefix reads as its whole events");
        let last = bytes.len() - 10;
        bytes[last] ^= 1;
        assert_eq!(times(&bytes), expected[..3], "a changed byte is noticed");
    }

    #[test]
    fn a_new_file_sorts_after_the_earlier_ones() {
        let folder = std::env::temp_dir().join(format!("fd-events-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let future = folder.join(format!("{PREFIX}4000000000.elsewhere.1.0"));
        fs::write(&future, "").unwrap();
        let made: Vec<PathBuf> = (0..3).map(|n| create(&folder, n).unwrap().0).collect();
        assert_eq!(event_files(&folder).unwrap(), [vec![future], made].concat());
        assert!(create(&folder.join("missing"), 0).unwrap_err().to_string().contains("missing: cannot be written"));
        fs::remove_dir_all(folder).unwrap();
    }
}
