//! Devices, and how long they take.

use serde::Serialize;

const SECONDS_A_DAY: f64 = 86_400.0;

/// What one device does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rate {
    /// 10^12 floating-point operations a second, sustained over a whole step (not the figure of a data sheet).
    Tflops(f64),
    /// Training images a second, as a benchmark measures them.
    ImagesPerSecond(f64),
}

/// Devices that share the images of a training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Fleet {
    /// How many.
    pub devices: usize,
    /// What each of them does, if it is known.
    pub rate: Option<Rate>,
}

impl Fleet {
    /// Days for so many images of so many floating-point operations each; none if no rate is known. Devices are taken to lose nothing by
    /// being several.
    pub fn days(&self, images: f64, flops_per_image: f64) -> Option<f64> {
        let images_per_second = match self.rate? {
            Rate::Tflops(tflops) => tflops * 1e12 / flops_per_image,
            Rate::ImagesPerSecond(rate) => rate,
        };
        Some(images / (self.devices as f64 * images_per_second) / SECONDS_A_DAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_images_over_what_the_devices_do() {
        let fleet = |devices, rate| Fleet { devices, rate };
        // 86.4 million images of 10 GFLOP are 8.64e17 FLOP: ten days at 1e12 a second.
        assert_eq!(fleet(1, Some(Rate::Tflops(1.0))).days(86.4e6, 1e10), Some(10.0));
        assert_eq!(fleet(4, Some(Rate::Tflops(2.5))).days(86.4e6, 1e10), Some(1.0));
        assert_eq!(fleet(1, Some(Rate::ImagesPerSecond(100.0))).days(86.4e6, 1e10), Some(10.0));
        assert_eq!(fleet(2, Some(Rate::ImagesPerSecond(100.0))).days(86.4e6, f64::NAN), Some(5.0));
        assert_eq!(fleet(8, None).days(86.4e6, 1e10), None);
    }
}
