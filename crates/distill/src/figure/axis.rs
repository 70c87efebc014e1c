//! The range of an axis and the values on it that get a tick.

/// Beyond this a value is not drawn: differences of such would overflow.
const LARGEST: f64 = 1e100;

/// From the first to the last value, linear or logarithmic.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    from: f64,
    to: f64,
    /// Logarithmic?
    pub log: bool,
    /// Values that get a tick.
    pub ticks: Vec<f64>,
}

/// Can this value be drawn?
pub fn drawable(value: f64) -> bool {
    value.abs() <= LARGEST
}

impl Axis {
    /// From 0 to the largest value.
    pub fn from_zero(values: impl Iterator<Item = f64>) -> Axis {
        let to = values.filter(|v| drawable(*v)).fold(0.0, f64::max);
        let to = if to > 0.0 { to } else { 1.0 };
        let step = step(to);
        Axis { from: 0.0, to, log: false, ticks: multiples(0.0, to, step) }
    }

    /// From 0 to the first tick that is not below the largest value.
    pub fn from_zero_rounded(values: impl Iterator<Item = f64>) -> Axis {
        let largest = Axis::from_zero(values).to;
        let step = step(largest);
        let to = (largest / step - 1e-9).ceil() * step;
        Axis { from: 0.0, to, log: false, ticks: multiples(0.0, to, step) }
    }

    /// Around the values that can be drawn, between ticks; logarithmic if they are positive and span more than a factor of ten.
    pub fn around(values: impl Iterator<Item = f64>) -> Axis {
        let ends = values
            .filter(|v| drawable(*v))
            .fold(None, |ends: Option<(f64, f64)>, v| Some(ends.map_or((v, v), |(low, high)| (low.min(v), high.max(v)))));
        let (low, high) = ends.unwrap_or((0.0, 1.0));
        if low > 0.0 && high / low > 10.0 { Axis::logarithmic(low, high) } else { Axis::linear(low, high) }
    }

    /// Around two numbers that can be drawn, between ticks.
    pub fn linear(low: f64, high: f64) -> Axis {
        let (low, high) = if high > low { (low, high) } else { (low - 0.1 * low.abs().max(0.1), high + 0.1 * high.abs().max(0.1)) };
        let step = step(high - low);
        let (from, to) = ((low / step).floor() * step, (high / step).ceil() * step);
        Axis { from, to, log: false, ticks: multiples(from, to, step) }
    }

    /// Around two positive numbers.
    pub fn logarithmic(low: f64, high: f64) -> Axis {
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        // Several ticks a decade over few decades, one every so many decades over many.
        let mantissas: &[f64] = match high / low {
            ..40.0 => &[1.0, 2.0, 3.0, 5.0],
            ..1e3 => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let stride = ((last - first) as usize).div_ceil(6).max(1);
        let decades = (first..=last).step_by(stride).map(power);
        let ticks = decades.flat_map(|decade| mantissas.iter().map(move |m| m * decade));
        let (from, to) = (low / 1.08, high * 1.08);
        Axis { from, to, log: true, ticks: ticks.filter(|t| (from..=to).contains(t)).collect() }
    }

    /// Where a value stands, from 0 to 1; none for what has no place.
    pub fn place(&self, value: f64) -> Option<f64> {
        let scale = |v: f64| if self.log { v.ln() } else { v };
        let place = (scale(value) - scale(self.from)) / (scale(self.to) - scale(self.from));
        Some(place).filter(|p| drawable(value) && p.is_finite())
    }

    /// The text of a tick: as many digits as the step has, powers of ten where zeros would fill the line.
    pub fn label(&self, tick: f64) -> String {
        let largest = self.from.abs().max(self.to.abs());
        if self.log {
            return if (1e-3..1e5).contains(&tick) { format!("{}", round(tick)) } else { format!("{tick:.0e}") };
        }
        let decimals = (-self.step().log10().floor()).max(0.0) as usize;
        if decimals > 5 || largest >= 1e6 { format!("{tick:.2e}") } else { format!("{tick:.decimals$}") }
    }

    fn step(&self) -> f64 {
        self.ticks.get(1).map_or(1.0, |second| second - self.ticks[0])
    }
}

/// 1, 2 or 5 times a power of ten, four to eight of which cover a range.
fn step(range: f64) -> f64 {
    let decade = 10f64.powf((range / 4.0).log10().floor());
    let steps = [5.0, 2.0, 1.0].map(|m| m * decade);
    steps.into_iter().find(|s| range / s >= 4.0).unwrap_or(decade)
}

fn multiples(from: f64, to: f64, step: f64) -> Vec<f64> {
    let first = (from / step).round();
    // Half a thousandth of a step more: the last multiple may be rounded up.
    let ticks = (0..20).map(|i| (first + f64::from(i)) * step).take_while(|t| *t <= to + step * 5e-4);
    ticks.map(|t| if t == 0.0 { 0.0 } else { t }).collect()
}

/// A power of ten as its decimal text has it.
fn power(exponent: i32) -> f64 {
    format!("1e{exponent}").parse().unwrap_or(0.0)
}

/// Without the last digits, which a product may have got wrong.
fn round(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks.iter().map(|t| axis.label(*t)).collect()
    }

    #[test]
    fn linear_axes_end_at_ticks() {
        let axis = Axis::around([0.23, 0.97, f64::NAN, f64::INFINITY].into_iter());
        assert_eq!(labels(&axis), ["0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0"]);
        assert!((axis.place(0.6).unwrap() - 0.5).abs() < 1e-12 && axis.place(f64::NAN).is_none());
        assert_eq!(labels(&Axis::around([-1.0, 1.0].into_iter())), ["-1.0", "-0.5", "0.0", "0.5", "1.0"]);
        assert_eq!(labels(&Axis::from_zero([12.0, 3.0].into_iter())), ["0", "2", "4", "6", "8", "10", "12"]);
        assert_eq!(labels(&Axis::from_zero([11.0, 3.0].into_iter())).last().unwrap(), "10");
        assert_eq!(labels(&Axis::from_zero_rounded([11.0, 3.0].into_iter())).last().unwrap(), "12");
    }

    #[test]
    fn axes_are_logarithmic_beyond_a_factor_of_ten() {
        assert!(!Axis::around([1.0, 10.0].into_iter()).log);
        assert!(!Axis::around([0.0, 10.0].into_iter()).log);
        let axis = Axis::around([0.03, 2.5].into_iter());
        assert!(axis.log);
        assert_eq!(labels(&axis), ["0.05", "0.1", "0.2", "0.5", "1", "2"]);
        assert_eq!(labels(&Axis::around([0.15, 2.5].into_iter())), ["0.2", "0.3", "0.5", "1", "2"]);
        assert!((axis.place(0.03 / 1.08).unwrap()).abs() < 1e-12);
        assert_eq!(labels(&Axis::around([1e-9, 1e9].into_iter())), ["1e-9", "1e-6", "0.001", "1", "1000", "1e6", "1e9"]);
    }

    #[test]
    fn odd_values_have_axes_too() {
        let odd: [&[f64]; 9] = [
            &[],
            &[f64::NAN],
            &[0.0],
            &[5.0],
            &[-3.0, -3.0],
            &[1e-320, 1.0],
            &[f64::MAX, f64::MIN],
            &[1e100, -1e100],
            &[1.0, 1.0 + f64::EPSILON],
        ];
        for values in odd {
            let axes = [Axis::around(values.iter().copied()), Axis::from_zero(values.iter().copied())];
            for axis in axes {
                assert!(axis.ticks.len() <= 20, "{values:?}: {axis:?}");
                values.iter().filter_map(|v| axis.place(*v)).for_each(|p| assert!(p.is_finite()));
                labels(&axis).iter().for_each(|label| assert!(label.len() < 12, "{label}"));
            }
        }
    }
}
