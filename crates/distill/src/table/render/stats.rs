//! Mean, spread and standard error of accuracies in percent.

/// What a list of accuracies, one a seed, says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Summary {
    /// Number of seeds.
    pub n: usize,
    /// Mean.
    pub mean: f64,
    /// Standard deviation over seeds (n - 1); none for one seed.
    pub sd: Option<f64>,
    /// Standard error of the mean: from the seeds, at least that of the test images (binomial), which all seeds share.
    pub se: f64,
}

impl Summary {
    /// None for no accuracies.
    pub fn of(accuracies: &[f64], test_images: usize) -> Option<Summary> {
        let n = accuracies.len();
        if n == 0 {
            return None;
        }
        let mean = accuracies.iter().sum::<f64>() / n as f64;
        let of_images = binomial(mean, test_images);
        if n == 1 {
            return Some(Summary { n, mean, sd: None, se: of_images });
        }
        let squares: f64 = accuracies.iter().map(|a| (a - mean).powi(2)).sum();
        let sd = (squares / (n - 1) as f64).sqrt();
        Some(Summary { n, mean, sd: Some(sd), se: (sd / (n as f64).sqrt()).max(of_images) })
    }

    /// Half the length of the error bar: ±1 standard deviation, or the binomial standard error for one seed.
    pub fn bar(&self) -> f64 {
        self.sd.unwrap_or(self.se)
    }
}

/// Standard error, in percent, of an accuracy of so many test images; 0 without any.
fn binomial(percent: f64, test_images: usize) -> f64 {
    let p = (percent / 100.0).clamp(0.0, 1.0);
    if test_images == 0 { 0.0 } else { 100.0 * (p * (1.0 - p) / test_images as f64).sqrt() }
}

/// `10000` as `10,000`.
pub(in crate::table) fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_numbers() {
        assert_eq!(Summary::of(&[], 10), None);
        let one = Summary::of(&[80.0], 10_000).unwrap();
        assert_eq!((one.n, one.mean, one.sd), (1, 80.0, None));
        assert!((one.se - 0.4).abs() < 1e-12 && one.bar() == one.se);
        // Two seeds that happen to agree are not two exact numbers.
        assert!((Summary::of(&[80.0, 80.0], 10_000).unwrap().se - 0.4).abs() < 1e-12);
        let three = Summary::of(&[1.0, 2.0, 3.0], 1_000_000).unwrap();
        assert_eq!((three.n, three.mean, three.sd), (3, 2.0, Some(1.0)));
        assert!((three.se - 1.0 / 3f64.sqrt()).abs() < 1e-12 && three.bar() == 1.0);
        assert_eq!(Summary::of(&[50.0], 0).unwrap().se, 0.0);
    }

    #[test]
    fn groups_of_three() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(n), text);
        }
    }
}
