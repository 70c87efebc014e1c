//! Counter-based random numbers: what a sample draws is a function of its key, not of what was drawn before it.
//!
//! The generator is Philox 4x32 with 10 rounds (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, 2011). Its 64-bit key
//! is a hash of the seed, the purpose and the epoch (and view); the sample's index and a running block number are its 128-bit
//! counter. Threads, batch sizes and restarts therefore cannot change a draw, and nothing has to be saved to resume. Logarithms and
//! the like come from `libm`, so that the draws are the same on every platform.

use std::f64::consts::TAU;

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// What names one view of one sample in one epoch of one run: all that its augmentation depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SampleKey {
    /// The run's seed.
    pub seed: u64,
    /// The epoch, from 0.
    pub epoch: u64,
    /// The sample's index in its source.
    pub index: u64,
    /// The view of it, from 0.
    pub view: u64,
}

/// Who draws: different purposes with equal keys draw different numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Augment = 1,
    Shuffle = 2,
    Mix = 3,
    Subset = 4,
}

/// A stream of random numbers that starts at a key.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    key: [u32; 2],
    index: u64,
    block: u64,
    words: [u32; 4],
    used: usize,
}

impl Stream {
    /// The stream of one (seed, purpose, parts, index). Distinct indices cannot collide; the rest is hashed to 64 bits.
    pub(crate) fn new(seed: u64, purpose: Purpose, parts: [u64; 2], index: u64) -> Self {
        let hash = parts.iter().fold(mix64(seed ^ mix64(purpose as u64)), |hash, &part| mix64(hash ^ mix64(part)));
        Self { key: [hash as u32, (hash >> 32) as u32], index, block: 0, words: [0; 4], used: 4 }
    }

    /// The stream of a sample's augmentation.
    pub(crate) fn of_sample(key: SampleKey) -> Self {
        Self::new(key.seed, Purpose::Augment, [key.epoch, key.view], key.index)
    }

    fn u32(&mut self) -> u32 {
        if self.used == 4 {
            let (b, i) = (self.block, self.index);
            self.words = philox([b as u32, (b >> 32) as u32, i as u32, (i >> 32) as u32], self.key);
            self.block += 1;
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }

    /// Uniform in [0, 1), 53 bits.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [low, high).
    pub(crate) fn between(&mut self, [low, high]: [f64; 2]) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// True with probability `p`.
    pub(crate) fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// Uniform over 0..n without bias (0 for n = 0): the high half of a 64 x 64 product, redrawn in the few cases that would favour
    /// some numbers.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        let n = n.max(1) as u64;
        let unfair = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.u64()) * u128::from(n);
            if product as u64 >= unfair {
                return (product >> 64) as usize;
            }
        }
    }

    /// Two independent standard normals (Box and Muller).
    pub(crate) fn normals(&mut self) -> [f64; 2] {
        let radius = (-2.0 * libm::log(1.0 - self.uniform())).sqrt();
        let (sin, cos) = libm::sincos(TAU * self.uniform());
        [radius * cos, radius * sin]
    }

    /// Gamma of the given shape, scale 1 (Marsaglia and Tsang 2000; shapes below 1 through shape + 1).
    fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            let boost = libm::pow(1.0 - self.uniform(), 1.0 / shape);
            return boost * self.gamma(shape + 1.0);
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normals()[0];
            let v = 1.0 + c * x;
            let cube = v * v * v;
            if v > 0.0 && libm::log(1.0 - self.uniform()) < 0.5 * x * x + d - d * cube + d * libm::log(cube) {
                return d * cube;
            }
        }
    }

    /// Beta(a, a) for a > 0.
    pub(crate) fn beta(&mut self, a: f64) -> f64 {
        let (x, y) = (self.gamma(a), self.gamma(a));
        // For tiny `a` both underflow; the distribution is then a coin between its ends.
        if x + y > 0.0 { x / (x + y) } else { f64::from(u8::from(self.chance(0.5))) }
    }

    /// Shuffles in place (Fisher and Yates).
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// The finaliser of SplitMix64 after its increment: a bijection in which every input bit reaches every output bit.
fn mix64(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut a, mut b, mut c, mut d], mut key) = (counter, key);
    for _ in 0..10 {
        let p = u64::from(a) * u64::from(MULTIPLIERS[0]);
        let q = u64::from(c) * u64::from(MULTIPLIERS[1]);
        [a, b, c, d] = [(q >> 32) as u32 ^ b ^ key[0], q as u32, (p >> 32) as u32 ^ d ^ key[1], p as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_test_vectors() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let expected = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
        assert_eq!(philox(counter, [0xa409_3822, 0x299f_31d0]), expected);
    }

    #[test]
    fn every_part_of_a_key_matters() {
        let key = SampleKey { seed: 1, epoch: 2, index: 3, view: 0 };
        let first = |key| Stream::of_sample(key).u64();
        assert_eq!(first(key), first(key));
        for other in [
            SampleKey { seed: 0, ..key },
            SampleKey { epoch: 3, ..key },
            SampleKey { index: 2, ..key },
            SampleKey { view: 1, ..key },
            SampleKey { epoch: 0, view: 2, ..key },
        ] {
            assert_ne!(first(key), first(other), "{other:?}");
        }
    }

    #[test]
    fn distributions_have_their_moments() {
        let mut stream = Stream::new(7, Purpose::Mix, [0, 0], 0);
        let n = 40_000;
        let moments = |draws: Vec<f64>| {
            let mean = draws.iter().sum::<f64>() / n as f64;
            (mean, draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64)
        };
        let (mean, variance) = moments((0..n).map(|_| stream.uniform()).collect());
        assert!((mean - 0.5).abs() < 0.01 && (variance - 1.0 / 12.0).abs() < 0.002, "uniform {mean} {variance}");
        let (mean, variance) = moments((0..n).map(|_| stream.normals()[1]).collect());
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "normal {mean} {variance}");
        for a in [0.2, 0.8, 1.0, 3.0] {
            let (mean, variance) = moments((0..n).map(|_| stream.beta(a)).collect());
            let expected = 1.0 / (4.0 * (2.0 * a + 1.0));
            assert!((mean - 0.5).abs() < 0.01 && (variance - expected).abs() < 0.004, "beta({a}) {mean} {variance}");
        }
        assert!([0.0, 1.0].contains(&stream.beta(1e-9)));
    }

    #[test]
    fn shuffles_are_fair_permutations() {
        let mut counts = [[0; 4]; 4];
        for index in 0..8_000 {
            let mut items = [0, 1, 2, 3];
            Stream::new(3, Purpose::Shuffle, [0, 0], index).shuffle(&mut items);
            items.iter().enumerate().for_each(|(place, &item)| counts[item][place] += 1);
        }
        assert!(counts.as_flattened().iter().all(|c| (1_850..2_150).contains(c)), "{counts:?}");
    }
}
