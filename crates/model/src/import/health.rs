//! What numbers a tensor holds, and whether they look like weights.

use fd_weights::{WeightFile, WeightsError};

/// Statistics of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// Values.
    pub count: usize,
    /// Least finite value; NaN where there is none, as for the next three.
    pub min: f64,
    /// Greatest finite value.
    pub max: f64,
    /// Mean of the finite values.
    pub mean: f64,
    /// Their standard deviation.
    pub std: f64,
    /// Values that are not a number.
    pub nan: usize,
    /// Infinite values.
    pub infinite: usize,
}

impl Health {
    /// Reads a tensor of any numeric type.
    ///
    /// # Errors
    /// Those of [`WeightFile::read_f64`].
    pub fn of(file: &WeightFile, name: &str) -> Result<Health, WeightsError> {
        Ok(Health::of_values(file.read_f64(name)?.into_iter()))
    }

    /// The statistics of values.
    pub fn of_values(values: impl Iterator<Item = f64>) -> Health {
        let mut h = Health { count: 0, min: f64::NAN, max: f64::NAN, mean: 0.0, std: 0.0, nan: 0, infinite: 0 };
        // Welford's running mean and sum of squares: one pass, no cancellation.
        let (mut finite, mut squares) = (0.0f64, 0.0f64);
        for value in values {
            h.count += 1;
            if !value.is_finite() {
                *(if value.is_nan() { &mut h.nan } else { &mut h.infinite }) += 1;
                continue;
            }
            finite += 1.0;
            let away = value - h.mean;
            h.mean += away / finite;
            squares += away * (value - h.mean);
            h.min = h.min.min(value);
            h.max = h.max.max(value);
        }
        (h.mean, h.std) = if finite > 0.0 { (h.mean, (squares / finite).sqrt()) } else { (f64::NAN, f64::NAN) };
        h
    }

    /// Are there numbers that no trained model has?
    pub fn broken(&self) -> bool {
        self.nan > 0 || self.infinite > 0
    }

    /// One value throughout, in a tensor of more than one: untouched by training, or lost.
    pub fn constant(&self) -> bool {
        self.count > 1 && self.min == self.max && !self.broken()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_by_hand() {
        let h = Health::of_values([1.0, 3.0, f64::NAN, 5.0, f64::INFINITY].into_iter());
        assert_eq!((h.count, h.min, h.max, h.mean, h.nan, h.infinite), (5, 1.0, 5.0, 3.0, 1, 1));
        assert!((h.std - (8.0f64 / 3.0).sqrt()).abs() < 1e-15 && h.broken() && !h.constant());
        assert!(Health::of_values([0.5; 4].into_iter()).constant());
        assert!(!Health::of_values([0.5; 1].into_iter()).constant());
        assert!(Health::of_values(std::iter::empty()).mean.is_nan());
    }
}
