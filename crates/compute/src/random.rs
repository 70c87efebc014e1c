//! Random numbers that are a function of their place, not of what was drawn before.

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

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.state)
    }

    /// Uniform in 0..1.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Standard normal (Box and Muller, one of the pair).
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
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
