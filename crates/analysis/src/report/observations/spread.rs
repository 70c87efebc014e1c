//! A number over seeds.

/// Mean and range of a number over seeds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Spread {
    pub values: Vec<f64>,
    pub mean: f64,
    pub low: f64,
    pub high: f64,
    pub count: usize,
}

impl Spread {
    /// None of nothing. With a value that is not finite among them, all of it is NaN, and no comparison holds.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Spread> {
        let values: Vec<f64> = values.collect();
        let count = values.len();
        let finite = values.iter().all(|v| v.is_finite());
        let fold = |start: f64, f: fn(f64, f64) -> f64| if finite { values.iter().copied().fold(start, f) } else { f64::NAN };
        let (low, high) = (fold(f64::INFINITY, f64::min), fold(f64::NEG_INFINITY, f64::max));
        let mean = fold(0.0, |a, b| a + b) / count as f64;
        (count > 0).then_some(Spread { values, mean, low, high, count })
    }

    /// How far its values lie from the mean of another's.
    pub fn distance_from(&self, other: &Spread) -> Spread {
        let far = self.values.iter().map(|v| (v - other.mean).abs());
        Spread::of(far).unwrap_or_else(|| self.clone())
    }

    /// `5.20 px (4.90 to 5.60, 3 seeds)`, with three digits of the mean.
    pub fn shown(&self, unit: &str) -> String {
        let magnitude = if self.mean == 0.0 || !self.mean.is_finite() { 0 } else { self.mean.abs().log10().floor() as i32 };
        let digits = (2 - magnitude).clamp(0, 6) as usize;
        // Zero has no sign.
        let number = |v: f64| format!("{:.digits$}", v + 0.0);
        match self.count {
            1 => format!("{}{unit}", number(self.mean)),
            n => format!("{}{unit} ({} to {}, {n} seeds)", number(self.mean), number(self.low), number(self.high)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_with_three_digits() {
        let shown = |values: &[f64], unit| Spread::of(values.iter().copied()).unwrap().shown(unit);
        assert_eq!(shown(&[2.71528], " px"), "2.72 px");
        assert_eq!(shown(&[0.1, 0.2, 0.3], ""), "0.200 (0.100 to 0.300, 3 seeds)");
        assert_eq!(shown(&[-0.0], ""), "0.00");
        assert_eq!(shown(&[1234.5], ""), "1234");
        assert_eq!(shown(&[2e-9], ""), "0.000000");
        assert_eq!(shown(&[1.0, f64::NAN], ""), "NaN (NaN to NaN, 2 seeds)");
        assert_eq!(Spread::of(std::iter::empty()), None);
    }

    #[test]
    fn distances_are_from_the_mean() {
        let of = |values: &[f64]| Spread::of(values.iter().copied()).unwrap();
        let far = of(&[5.0, 7.0]).distance_from(&of(&[5.0, 7.0]));
        assert_eq!((far.low, far.high, far.mean), (1.0, 1.0, 1.0));
        assert!(of(&[1.0]).distance_from(&of(&[f64::INFINITY])).mean.is_nan());
    }
}
