//! The range of an axis and its ticks.

/// Least space between the texts of two ticks, in characters.
const SPACE: f64 = 1.0;

/// From one value to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    pub from: f64,
    pub to: f64,
}

impl Axis {
    /// All values, and 8 % of their span more on either side.
    pub fn over(values: impl Iterator<Item = f64>) -> Axis {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = if low <= high { (low, high) } else { (0.0, 0.0) };
        let margin = if high > low { 0.08 * (high - low) } else { 0.5 };
        Axis { from: low - margin, to: high + margin }
    }

    /// Where a value stands: 0 at the start, 1 at the end.
    pub fn share(&self, value: f64) -> f64 {
        (value - self.from) / (self.to - self.from)
    }

    /// Round values, evenly spaced, with what is written there: as many as fit on an axis that is as wide as so many characters.
    pub fn ticks(&self, characters: f64) -> Vec<(f64, String)> {
        let span = self.to - self.from;
        let power = span.log10().floor() as i32;
        // The finest step whose texts have room; the coarsest is as long as the axis or longer.
        let steps =
            (power - 2..=power).flat_map(|p| [(1.0, 0), (2.0, 0), (2.5, 1), (5.0, 0)].map(|(f, more)| (f * 10f64.powi(p), more - p)));
        let mut ticks = vec![];
        for (step, decimals) in steps {
            let decimals = decimals.max(0) as usize;
            let (first, last) = ((self.from / step).ceil() as i64, (self.to / step).floor() as i64);
            let text = |tick: f64| (tick, format!("{:.decimals$}", tick + 0.0).replace('-', "−"));
            ticks = (first..=last).map(|i| text(i as f64 * step)).collect();
            // A point is half as wide as a digit.
            let width = |text: &str| text.chars().count() as f64 - if text.contains('.') { 0.5 } else { 0.0 };
            let longest = ticks.iter().map(|t| width(&t.1)).fold(0.0, f64::max);
            if (longest + SPACE) * span <= characters * step {
                break;
            }
        }
        ticks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_have_room() {
        let texts = |from, to, characters| Axis { from, to }.ticks(characters).into_iter().map(|t| t.1).collect::<Vec<_>>();
        assert_eq!(texts(81.3, 88.9, 18.0), ["82", "84", "86", "88"]);
        assert_eq!(texts(-0.31, 0.62, 18.0), ["0.0", "0.5"]);
        assert_eq!(texts(-1.1, 0.9, 17.0), ["−1", "0"]);
        assert_eq!(texts(0.0, 100.0, 12.0), ["0", "50", "100"]);
        assert_eq!(texts(85.01, 85.06, 16.0), ["85.02", "85.04", "85.06"]);
        for k in 1..400 {
            let axis = Axis { from: 83.3, to: 83.3 + 0.071 * f64::from(k) };
            let ticks = axis.ticks(18.0);
            let apart = 18.0 * (axis.share(ticks[1].0) - axis.share(ticks[0].0));
            assert!(
                ticks.iter().all(|(at, text)| (text.parse::<f64>().unwrap() - at).abs() < 1e-9 && text.len() as f64 + 0.4 < apart),
                "{ticks:?}"
            );
        }
    }

    #[test]
    fn ranges_hold_their_values() {
        let axis = Axis::over([80.0, 90.0, 85.0].into_iter());
        assert!((axis.from - 79.2).abs() < 1e-12 && (axis.to - 90.8).abs() < 1e-12 && (axis.share(85.0) - 0.5).abs() < 1e-12);
        assert_eq!(Axis::over([7.0].into_iter()), Axis { from: 6.5, to: 7.5 });
        assert_eq!(Axis::over(std::iter::empty()), Axis { from: -0.5, to: 0.5 });
    }
}
