//! Many steps of feature distillation on the embedded Fashion-MNIST, on the device beside the CPU: same initial values, images and drop
//! paths. Single operations may agree and their sum drift apart; here the losses of every step are held against each other.

use std::io::Write;

use fd_compute::{DType, Device};
use fd_data::{
    Augment, AugmentConfig, DEFAULT_RATIO, DataSpec, Geometry, Interpolation, Loader, LoaderConfig, Normalisation, Photometric, Split, open,
};
use fd_model::{ModelConfig, VitConfig};

use super::Job;
use super::record::{Record, Worst};
use crate::Error;
use crate::bench::FdStep;

/// What the losses may differ by, relative to the CPU's: at any step, and at the last. On an emulated device 200 steps of batch 4, whose
/// losses scatter more than those of 128, differed by 3.6e-7 at most in f32 and 1.1e-3 in bf16; a card's exponentials and sums are others.
fn tolerances(dtype: DType) -> [f64; 2] {
    if dtype == DType::Bf16 { [1e-2, 5e-3] } else { [1e-4, 1e-4] }
}

pub(super) fn run(job: &Job, record: &mut Record<impl Write>) -> Result<(), Error> {
    let (batch, steps) = if job.quick() { (4, 20) } else { (128, 200) };
    let name = format!("{steps} steps, batch {batch}");
    let expected = losses(batch, steps, Device::CPU)?;
    for dtype in [DType::F32, DType::Bf16] {
        if job.left().is_zero() {
            record.skip(&format!("{name} ({})", dtype.name()), "the time is over")?;
            continue;
        }
        let found = losses(batch, steps, job.device(dtype));
        let [any, last] = tolerances(dtype);
        let (case, at) = (format!("{name}, any step"), format!("{name}, last step"));
        match found {
            Err(e) => record.holds("mini", &case, dtype, Err(e.to_string()))?,
            Ok(found) => {
                record.check("mini", &case, dtype, Ok(worst(&found, &expected, any)))?;
                record.check("mini", &at, dtype, Ok(worst(&found[steps - 1..], &expected[steps - 1..], last)))?;
            }
        }
    }
    Ok(())
}

/// The worst of the steps, told with the losses.
fn worst(found: &[f64], expected: &[f64], tolerance: f64) -> Worst {
    let mut worst = Worst::default();
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        let which = if expected.len() == 1 { String::new() } else { format!("step {i}: ") };
        worst.see(&format!("{which}loss {f:.6}, on the CPU {e:.6}"), (f - e).abs() / e.abs(), tolerance);
    }
    worst
}

/// `mini` on grey images.
fn models() -> (ModelConfig, ModelConfig) {
    let teacher =
        VitConfig { img_size: (28, 28), patch_size: 4, in_chans: 1, embed_dim: 96, depth: 4, num_heads: 3, ..VitConfig::default() };
    let teacher = ModelConfig::from(teacher);
    (teacher.student().with_drop_path(0.1), teacher)
}

fn losses(batch: usize, steps: usize, device: Device) -> Result<Vec<f64>, Error> {
    let (student, teacher) = models();
    let mut step = FdStep::new(&student, &teacher, batch, false, device)?;
    let augment = Augment::new(AugmentConfig {
        geometry: Geometry::RandomResizedCrop {
            size: [28, 28],
            scale: [0.3, 1.0],
            ratio: DEFAULT_RATIO,
            interpolation: Interpolation::Bilinear,
        },
        flip: 0.5,
        rand_augment: None,
        photometric: Photometric::default(),
        erase: 0.0,
        normalise: Normalisation::fashion_mnist(),
    })?;
    let config = LoaderConfig { batch, shuffle: true, drop_last: true, seed: 0, prefetch: 2, workers: 1 };
    let loader = Loader::new(open(&DataSpec::FashionMnist { split: Split::Train })?, augment, config)?;
    let mut losses = vec![];
    // Fashion-MNIST as it is embedded has more images than the steps take; if it had fewer, another epoch would follow.
    for epoch in 0.. {
        for images in loader.epoch(epoch, 0) {
            if losses.len() == steps {
                return Ok(losses);
            }
            step.show(&images?.images);
            losses.push(step.run(losses.len())?);
        }
    }
    Ok(losses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_fall_and_depend_on_images_and_masks_alone() {
        let losses = |steps| losses(4, steps, Device::CPU).unwrap();
        let (first, again) = (losses(12), losses(12));
        assert_eq!(first, again);
        assert!(first[11] < first[0], "{first:?}");
    }
}
