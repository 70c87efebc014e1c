//! Features of one model, batch by batch: every layer's tokens, and the rows that are made of them.

use fd_compute::{Device, Params};
use fd_data::{Augment, Source};
use fd_distill::asked::Opened;
use fd_distill::evaluate::{Output, Pass};
use fd_distill::features::{Fitting, fill, view};
use fd_distill::{Error, WHITEN_EPS};
use fd_model::{Model, ModelConfig};
use rayon::prelude::*;

use super::RowsOf;
use super::moments::Rows;
use super::statistics::{TokenSums, mean_and_variance};

/// A layer of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// `embedded`, `blocks.N` or `norm`.
    pub name: String,
    output: Output,
    /// Tokens before the patches: CLS and registers.
    skip: usize,
    /// Patches.
    pub patches: usize,
    /// Channels.
    pub width: usize,
}

/// A model with its weights and its view of the images.
pub struct Encoder {
    /// What it is called.
    pub label: String,
    model: Model,
    params: Params,
    config: ModelConfig,
    augment: Augment,
    pass: Option<Pass>,
    /// Its layers, in the order of the forward pass.
    pub layers: Vec<Layer>,
    rows_of: RowsOf,
    device: Device,
}

/// One layer's rows of a batch, before and after whitening of the tokens.
pub struct Features {
    /// As they are.
    pub plain: Rows,
    /// Of tokens whitened each by its own mean and variance.
    pub whitened: Rows,
}

impl Encoder {
    /// Loads the weights.
    ///
    /// # Errors
    /// Weights that do not fit; CLS rows of a model without a CLS token; a layer that it does not have.
    pub fn new(
        label: &str,
        opened: &Opened,
        rows_of: RowsOf,
        wanted: &[String],
        fitting: Fitting,
        device: Device,
    ) -> Result<Encoder, Error> {
        if rows_of == RowsOf::Cls && !opened.model.cls_token() {
            return Err(Error::Usage(format!("--rows cls: `{label}` has no CLS token")));
        }
        let augment = view(opened.model.img_size(), fitting, &opened.normalise)?;
        let (model, params) = opened.load()?;
        let (config, label) = (opened.model.clone(), label.to_string());
        let mut encoder = Encoder { label, model, params, config, augment, pass: None, layers: vec![], rows_of, device };
        let mut layers = encoder.all_layers()?;
        if let Some(missing) = wanted.iter().find(|w| layers.iter().all(|l| l.name != **w)) {
            let names = layers.iter().map(|l| l.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(Error::Usage(format!("--layers: `{}` has no {missing}, only {names}", encoder.label)));
        }
        layers.retain(|l| wanted.is_empty() || wanted.contains(&l.name));
        encoder.layers = layers;
        Ok(encoder)
    }

    /// Every layer that the model has: the plan of one image knows their shapes.
    fn all_layers(&self) -> Result<Vec<Layer>, Error> {
        let (cls, registers) = match &self.config {
            ModelConfig::Vit(c) => (usize::from(c.cls_token), c.reg_tokens),
            ModelConfig::Swin(_) => (0, 0),
        };
        let blocks = match &self.config {
            ModelConfig::Vit(c) => c.depth,
            ModelConfig::Swin(c) => c.depths[..c.out_stage()].iter().sum(),
        };
        let mut wanted = vec![(Output::Embedded, "embedded".to_string(), cls + registers)];
        wanted.extend((0..blocks).map(|i| (Output::Block(i), Output::Block(i).name(), cls + registers)));
        if self.has_norm() {
            wanted.push((Output::Tokens, "norm".into(), cls));
        }
        let outputs: Vec<Output> = wanted.iter().map(|w| w.0).collect();
        let pass = self.plan(&outputs, 1)?;
        let layer = |(i, (output, name, skip)): (usize, (Output, String, usize))| {
            let shape = pass.shape(i);
            Layer { name, output, skip, patches: shape[0] - skip, width: shape[1] }
        };
        Ok(wanted.into_iter().enumerate().map(layer).collect())
    }

    /// Is what is handed out behind a norm of its own?
    fn has_norm(&self) -> bool {
        match &self.config {
            ModelConfig::Vit(c) => c.head != fd_model::Head::MeanPool,
            ModelConfig::Swin(c) => c.out_stage() == c.depths.len(),
        }
    }

    fn plan(&self, outputs: &[Output], batch: usize) -> Result<Pass, Error> {
        let (h, w) = self.config.img_size();
        Pass::new(&self.model, &self.params, outputs, [batch, self.config.in_chans(), h, w])
    }

    /// Channels of its images.
    pub fn in_chans(&self) -> usize {
        self.config.in_chans()
    }

    /// Rows an image of a layer.
    pub fn rows_an_image(&self, layer: &Layer) -> usize {
        if self.rows_of == RowsOf::Tokens { layer.patches } else { 1 }
    }

    /// Features of `images` images from number `first` on, one a layer. `tokens` get each layer's tokens, before and after whitening.
    ///
    /// # Errors
    /// An image that cannot be read.
    pub fn batch(
        &mut self,
        source: &dyn Source,
        first: usize,
        images: usize,
        tokens: &mut [[TokenSums; 2]],
    ) -> Result<Vec<Features>, Error> {
        if self.pass.as_ref().is_none_or(|p| p.batch() != images) {
            let outputs: Vec<Output> = self.layers.iter().map(|l| l.output).collect();
            self.pass = Some(self.plan(&outputs, images)?);
        }
        let Some(pass) = &mut self.pass else { return Ok(vec![]) };
        fill(pass, source, &self.augment, first)?;
        pass.run(&self.params, self.device)?;
        let (pass, rows_of) = (&*pass, self.rows_of);
        let each = self.layers.par_iter().zip(tokens).enumerate();
        Ok(each.map(|(i, (layer, sums))| layer.rows(pass.value(i), rows_of, sums)).collect())
    }
}

impl Layer {
    /// The rows of a batch of tokens [B, N, C].
    fn rows(&self, values: &[f32], rows_of: RowsOf, [plain_sums, whitened_sums]: &mut [TokenSums; 2]) -> Features {
        let width = self.width;
        let mut features = [vec![], vec![]];
        for image in values.chunks_exact((self.skip + self.patches) * width) {
            let (tokens, count) = match rows_of {
                RowsOf::Cls => (&image[..width], 1),
                RowsOf::Mean | RowsOf::Tokens => (&image[self.skip * width..], self.patches),
            };
            let starts = features.each_ref().map(Vec::len);
            for token in tokens.chunks_exact(width) {
                let token: Vec<f64> = token.iter().map(|x| f64::from(*x)).collect();
                let whitened = whiten(&token);
                plain_sums.add(&token);
                whitened_sums.add(&whitened);
                for ((row, start), token) in features.iter_mut().zip(starts).zip([token, whitened]) {
                    if rows_of == RowsOf::Mean && row.len() > start {
                        row[start..].iter_mut().zip(token).for_each(|(r, x)| *r += x);
                    } else {
                        row.extend(token);
                    }
                }
            }
            if rows_of == RowsOf::Mean {
                let mean = |(row, start): (&mut Vec<f64>, usize)| row[start..].iter_mut().for_each(|r| *r /= count as f64);
                features.iter_mut().zip(starts).for_each(mean);
            }
        }
        let [plain, whitened] = features.map(|values| Rows { values, width });
        Features { plain, whitened }
    }
}

/// A token less its mean over its standard deviation, as the target of feature distillation.
fn whiten(token: &[f64]) -> Vec<f64> {
    let (mean, variance) = mean_and_variance(token);
    let scale = (variance + WHITEN_EPS).sqrt().recip();
    token.iter().map(|x| (x - mean) * scale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_made_of_the_right_tokens() {
        let layer = Layer { name: "x".into(), output: Output::Tokens, skip: 2, patches: 2, width: 2 };
        // Two images: CLS, a register, two patches.
        let values: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let rows = |rows_of| {
            let mut sums = [TokenSums::new(2), TokenSums::new(2)];
            let features = layer.rows(&values, rows_of, &mut sums);
            assert_eq!(features.plain.len(), features.whitened.len());
            (features, sums[0].tokens())
        };
        let (mean, tokens) = rows(RowsOf::Mean);
        assert_eq!((mean.plain.values, tokens), (vec![5.0, 6.0, 13.0, 14.0], 4));
        assert!(mean.whitened.values.iter().all(|x| (x.abs() - 1.0).abs() < 1e-4), "{:?}", mean.whitened.values);
        assert_eq!(rows(RowsOf::Cls).0.plain.values, [0.0, 1.0, 8.0, 9.0]);
        assert_eq!(rows(RowsOf::Tokens).0.plain.values, [4.0, 5.0, 6.0, 7.0, 12.0, 13.0, 14.0, 15.0]);
    }
}
