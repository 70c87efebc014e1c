//! Reading a pickle byte by byte out of a file, through a small window.

use crate::bytes::Bytes;
use crate::error::{Result, WeightsError};

const WINDOW: u64 = 1 << 16;

/// A place in a stretch of a file. Everything it hands out was there: lengths are checked before they are believed.
pub(crate) struct Cursor<'a> {
    bytes: &'a Bytes,
    start: u64,
    at: u64,
    end: u64,
    window: Vec<u8>,
    /// Where the window lies in the file.
    window_at: u64,
}

impl<'a> Cursor<'a> {
    /// Over `len` bytes from `start`, which have to be in the file.
    pub(crate) fn new(bytes: &'a Bytes, start: u64, len: u64) -> Result<Self> {
        bytes.check(start, len)?;
        Ok(Cursor { bytes, start, at: start, end: start + len, window: vec![], window_at: start })
    }

    /// What errors call the file.
    pub(crate) fn file(&self) -> &str {
        self.bytes.source()
    }

    /// The place in the file.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// How many bytes were read.
    pub(crate) fn consumed(&self) -> u64 {
        self.at - self.start
    }

    /// The error of a pickle at this place.
    pub(crate) fn fail<T>(&self, why: impl Into<String>) -> Result<T> {
        Err(WeightsError::Pickle { file: self.file().to_owned(), at: self.consumed(), why: why.into() })
    }

    pub(crate) fn byte(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        if self.end - self.at < N as u64 {
            return self.fail("it ends in the middle of an instruction");
        }
        loop {
            let from = usize::try_from(self.at - self.window_at).unwrap_or(usize::MAX);
            if let Some(&found) = self.window.get(from..).and_then(|rest| rest.first_chunk()) {
                self.at += N as u64;
                return Ok(found);
            }
            self.window.resize(usize::try_from(WINDOW.min(self.end - self.at)).unwrap_or(N), 0);
            self.window_at = self.at;
            self.bytes.read_into(self.at, &mut self.window)?;
        }
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, len: u64) -> Result<Vec<u8>> {
        self.expect(len)?;
        let from = usize::try_from(self.at - self.window_at).unwrap_or(usize::MAX);
        let held = usize::try_from(len).ok().and_then(|len| self.window.get(from..)?.get(..len)).map(<[u8]>::to_vec);
        let found = match held {
            Some(found) => found,
            None => self.bytes.read_at(self.at, len)?,
        };
        self.at += len;
        Ok(found)
    }

    /// Leaves `len` bytes out.
    pub(crate) fn skip(&mut self, len: u64) -> Result<()> {
        self.expect(len)?;
        self.at += len;
        Ok(())
    }

    /// The bytes up to the next line feed, without it.
    pub(crate) fn line(&mut self) -> Result<Vec<u8>> {
        let mut line = vec![];
        loop {
            match self.byte()? {
                b'\n' => return Ok(line),
                byte => line.push(byte),
            }
        }
    }

    fn expect(&self, len: u64) -> Result<()> {
        if len <= self.end - self.at { Ok(()) } else { self.fail(format!("it announces {len} bytes and has {}", self.end - self.at)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_in_order_through_the_window() {
        let content: Vec<u8> = (0..200_000u32).map(|i| (i % 253) as u8).collect();
        let bytes = Bytes::in_memory("m", content.clone().into());
        let mut cursor = Cursor::new(&bytes, 1, 199_999).expect("inside");
        let mut read = vec![];
        while read.len() + 7 <= 150_000 {
            read.extend(cursor.array::<7>().expect("there"));
        }
        read.extend(cursor.take(40_000).expect("there"));
        assert_eq!(read, content[1..1 + read.len()]);
        assert_eq!(cursor.consumed(), read.len() as u64);
        assert_eq!(cursor.byte().expect("there"), content[1 + read.len()]);
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let bytes = Bytes::in_memory("m", (*b"ab\ncd").into());
        assert!(Cursor::new(&bytes, 2, 4).is_err());
        let mut cursor = Cursor::new(&bytes, 0, 5).expect("inside");
        assert_eq!(cursor.line().expect("a line"), b"ab");
        let why = cursor.take(u64::MAX).expect_err("too long").to_string();
        assert_eq!(why, format!("m: its pickle cannot be read: it announces {} bytes and has 2 (byte 3 of the pickle)", u64::MAX));
        assert!(cursor.line().expect_err("no line feed").to_string().contains("ends in the middle"));
    }
}
