//! The checksum that files are known by.

use std::io::Write;

use sha2::{Digest, Sha256};

/// SHA-256 of `bytes`, as 64 lower-case hexadecimal digits: what `sha256sum` prints.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A writer that knows the checksum of what went through it.
pub(crate) struct Hashing<W> {
    inner: W,
    sum: Sha256,
}

impl<W: Write> Hashing<W> {
    pub fn new(inner: W) -> Self {
        Hashing { inner, sum: Sha256::new() }
    }

    /// Flushes; the checksum, as [`sha256_hex`] has it.
    pub fn finish(mut self) -> std::io::Result<String> {
        self.inner.flush()?;
        Ok(self.sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.sum.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_goes_through_a_writer_is_summed() {
        let mut hashing = super::Hashing::new(vec![]);
        std::io::Write::write_all(&mut hashing, b"ab").and_then(|()| std::io::Write::write_all(&mut hashing, b"c")).unwrap();
        assert_eq!(hashing.finish().unwrap(), super::sha256_hex(b"abc"));
    }

    #[test]
    fn it_is_the_standard_s() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(super::sha256_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
