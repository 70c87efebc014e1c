//! Loss and accuracy of a model whose weights were moved, in f32.

use fd_compute::{Device, Params};
use fd_distill::Error;
use fd_distill::evaluate::{Output, Outputs, Pass};

use super::direction::Direction;
use super::images::Images;
use super::subject::Subject;

/// What is measured at a point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Mean cross-entropy of the images, without label smoothing; summed in double precision.
    pub loss: f64,
    /// Top-1 accuracy in percent.
    pub accuracy: f64,
}

/// A model with its images, ready to be measured anywhere. Drop path is off.
pub struct Surface<'a> {
    subject: &'a Subject,
    images: &'a Images,
    batch: usize,
    device: Device,
    moved: Params,
    passes: Vec<Pass>,
}

impl<'a> Surface<'a> {
    /// Plans the passes of batches of at most `batch` images.
    ///
    /// # Errors
    /// A model that cannot be planned.
    pub fn new(subject: &'a Subject, images: &'a Images, batch: usize, device: Device) -> Result<Self, Error> {
        let [c, h, w] = images.shape;
        let pass = |n| Pass::new(&subject.model, &subject.params, &[Output::Logits], [n, c, h, w]);
        let passes = images.batch_sizes(batch).into_iter().map(pass).collect::<Result<_, _>>()?;
        Ok(Surface { subject, images, batch, device, moved: subject.params.clone(), passes })
    }

    /// Measures at θ + Σ step · direction, or at θ itself without any. All directions move the same tensors.
    ///
    /// # Errors
    /// Those of the device.
    pub fn at(&mut self, steps: &[(f64, &Direction)]) -> Result<Measured, Error> {
        self.shift(steps);
        let mut all = Outputs { values: vec![], width: self.subject.config.num_classes(), labels: self.images.labels.clone() };
        for (pixels, labels) in self.images.batches(self.batch) {
            let pass = self.passes.iter_mut().find(|p| p.batch() == labels.len()).expect("a pass for each size of batch");
            pass.images().copy_from_slice(pixels);
            pass.run(&self.moved, self.device)?;
            all.values.extend_from_slice(pass.value(0));
        }
        Ok(Measured { loss: cross_entropy(&all), accuracy: all.accuracy() })
    }

    fn shift(&mut self, steps: &[(f64, &Direction)]) {
        let Some((_, first)) = steps.first() else {
            self.moved = self.subject.params.clone();
            return;
        };
        for (i, (p, _)) in first.parts.iter().enumerate() {
            let (range, theta) = (self.moved.range(*p), self.subject.params.get::<f32>(*p));
            self.moved.write::<f32, _>(|all| {
                for (k, (moved, theta)) in all[range].iter_mut().zip(theta).enumerate() {
                    let shift: f64 = steps.iter().map(|(step, d)| step * f64::from(d.parts[i].1[k])).sum();
                    *moved = (f64::from(*theta) + shift) as f32;
                }
            });
        }
    }
}

/// The mean of -log softmax(z)`[label]` over rows of logits z.
pub fn cross_entropy(outputs: &Outputs) -> f64 {
    let row = |(z, label): (&[f32], &u32)| {
        let top = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = z.iter().map(|z| f64::from(z - top).exp()).sum();
        sum.ln() - f64::from(z[*label as usize] - top)
    };
    let rows = outputs.values.chunks_exact(outputs.width).zip(&outputs.labels);
    rows.map(row).sum::<f64>() / outputs.labels.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cross_entropy_by_hand() {
        let outputs = |values: &[f32], labels: &[u32]| Outputs { values: values.to_vec(), width: 2, labels: labels.to_vec() };
        let even = cross_entropy(&outputs(&[7.0, 7.0, -3.0, -3.0], &[0, 1]));
        assert!((even - 2f64.ln()).abs() < 1e-15);
        let sure = cross_entropy(&outputs(&[1000.0, 0.0, 1000.0, 0.0], &[0, 1]));
        assert_eq!(sure, 500.0);
        assert!(cross_entropy(&outputs(&[f32::NAN, 0.0], &[1])).is_nan());
    }
}
