//! The attention of single images, for those who want to look at it.

use fd_model::{Checkpoint, Statistics, Tensor};
use half::f16;

use super::shape::LayerShape;

/// Keeps what it is shown of the first few images.
pub(super) struct Keeper {
    count: usize,
    /// Pixels from 0 to 255, (row, column, channel).
    pixels: Vec<Vec<f32>>,
    /// Of every layer that is wanted, its number and the images' probabilities one after the other.
    layers: Vec<(usize, Vec<f16>)>,
}

impl Keeper {
    pub fn new(count: usize, layers: &[usize]) -> Keeper {
        Keeper { count, pixels: vec![], layers: layers.iter().map(|&l| (l, vec![])).collect() }
    }

    /// How many images of a batch that begins with number `first` are kept.
    fn of(&self, first: usize, batch: usize) -> usize {
        self.count.saturating_sub(first).min(batch)
    }

    /// Images [B, C, H, W] as the model sees them.
    pub fn images(&mut self, first: usize, images: &[f32], normalise: &Statistics, batch: usize) {
        let each = images.len() / batch;
        let channels = normalise.mean.len();
        for image in images.chunks_exact(each).take(self.of(first, batch)) {
            let area = each / channels;
            let pixel = |i: usize| {
                let (at, c) = (i / channels, i % channels);
                ((image[c * area + at] * normalise.std[c] + normalise.mean[c]) * 255.0).round().clamp(0.0, 255.0)
            };
            self.pixels.push((0..each).map(pixel).collect());
        }
    }

    /// A layer's probabilities of a batch, one image after the other.
    pub fn attention(&mut self, first: usize, batch: usize, layer: usize, p: &[f32]) {
        let kept = &p[..p.len() / batch * self.of(first, batch)];
        if let Some((_, values)) = self.layers.iter_mut().find(|(l, _)| *l == layer) {
            values.extend(kept.iter().map(|v| f16::from_f32(*v)));
        }
    }

    /// Adds everything to a file's tensors.
    pub fn finish(self, label: &str, names: &[String], shapes: &[LayerShape], (h, w, c): (usize, usize, usize), to: &mut Checkpoint) {
        for (i, data) in self.pixels.into_iter().enumerate() {
            to.metadata.insert(format!("image {i}"), names[i].clone());
            to.tensors.insert(format!("{label}/image/{i}"), Tensor { shape: vec![h, w, c], data });
        }
        for (layer, values) in self.layers {
            let shape = &shapes[layer];
            let windows = shape.windows.as_ref().map(|w| w.count());
            let extents: Vec<usize> = windows.into_iter().chain([shape.heads, shape.total(), shape.total()]).collect();
            for (i, image) in values.chunks_exact(extents.iter().product()).enumerate() {
                let data = image.iter().map(|v| v.to_f32()).collect();
                to.tensors.insert(format!("{label}/{layer}/{i}"), Tensor { shape: extents.clone(), data });
            }
        }
    }
}
