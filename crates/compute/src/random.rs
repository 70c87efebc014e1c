//! Random numbers that are a function of their place, not of what was drawn before.

use rand::RngCore;
use rand_distr::{Distribution, StandardNormal};

/// One number in 0..1, a function of the key alone: whoever asks (another thread, rank, micro-batch or a resumed run) gets the same.
///
/// Each word goes through the 64-bit finaliser of SplitMix64 before the next is added; the top 53 bits are returned.
pub fn uniform(key: &[u64]) -> f64 {
    (hash(key) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

fn hash(key: &[u64]) -> u64 {
    key.iter().fold(0x243F_6A88_85A3_08D3, |h, &word| mix(h.wrapping_add(0x9E37_79B9_7F4A_7C15) ^ mix(word)))
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A sequence of random numbers with an explicit origin, for initialisation and tests.
#[derive(Clone, Debug)]
pub struct Stream {
    state: u64,
}

impl Stream {
    /// The sequence that belongs to a key.
    pub fn new(key: &[u64]) -> Self {
        Stream { state: hash(key) }
    }

    /// The sequence that belongs to a seed and a name (a parameter's initial values do not depend on the order of the parameters).
    pub fn named(seed: u64, name: &str) -> Self {
        let words: Vec<u64> = std::iter::once(seed).chain(name.bytes().map(u64::from)).collect();
        Stream::new(&words)
    }

    /// Uniform in 0..1.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Standard normal.
    pub fn normal(&mut self) -> f64 {
        StandardNormal.sample(self)
    }

    /// Standard normal truncated to ±`limit` by rejection.
    pub fn truncated_normal(&mut self, limit: f64) -> f64 {
        loop {
            let x = self.normal();
            if x.abs() <= limit {
                return x;
            }
        }
    }
}

/// What makes it a source for `rand`'s distributions and shuffles.
impl RngCore for Stream {
    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.state)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_and_position_matters() {
        let base = uniform(&[1, 2, 3]);
        for other in [[1, 2, 4], [1, 3, 2], [2, 1, 3], [0, 2, 3]] {
            assert_ne!(base, uniform(&other));
        }
        assert_ne!(uniform(&[1]), uniform(&[1, 0]));
    }

    #[test]
    fn moments() {
        let n = 200_000;
        let mean = (0..n).map(|i| uniform(&[7, i, 3])).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 0.003, "{mean}");
        let mut s = Stream::named(3, "w");
        let (mut m, mut v) = (0.0, 0.0);
        for _ in 0..n {
            let x = s.normal();
            m += x;
            v += x * x;
        }
        assert!((m / n as f64).abs() < 0.01 && (v / n as f64 - 1.0).abs() < 0.02);
        assert!((0..1000).all(|_| s.truncated_normal(1.0).abs() <= 1.0));
    }
}
