//! What a source's fingerprint is made of.

use sha2::{Digest, Sha256};

/// SHA-256 over numbers and bytes, each delimited, so that different sequences are different inputs.
pub(crate) struct Fingerprint(Sha256);

impl Fingerprint {
    /// Begins with what is told apart: `kind`, then the number of channels.
    pub(crate) fn new(kind: &str, channels: usize) -> Self {
        let mut this = Self(Sha256::new());
        this.bytes(kind.as_bytes());
        this.number(channels);
        this
    }

    pub(crate) fn number(&mut self, number: usize) {
        self.0.update((number as u64).to_le_bytes());
    }

    /// The length, then the bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.0.update(bytes);
    }

    /// The class, or its absence.
    pub(crate) fn label(&mut self, label: Option<u32>) {
        self.0.update(label.map_or(u64::MAX, u64::from).to_le_bytes());
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}
