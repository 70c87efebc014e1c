//! Running a finished model over a data set: logits and accuracy, features for a probe.

use fd_compute::{Act, Arena, Cx, DType, Device, Params, Plan, Planner, Pooling, StepKey};
use fd_data::{Augment, Loader, LoaderConfig, Source};
use fd_model::{Model, Taps};
use std::sync::Arc;

use crate::{Error, interrupt};

/// Images a forward pass.
const BATCH: usize = 250;

/// What to read off a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Logits `[K]`.
    Logits,
    /// The mean of the patch tokens after the final norm `[C]`.
    MeanPatches,
    /// The CLS token after the final norm `[C]`.
    Cls,
    /// All tokens after the final norm, the CLS token first [N, C].
    Tokens,
    /// CLIP's image embedding `[D]`.
    Projected,
    /// All tokens as the first block reads them [N, C].
    Embedded,
    /// All tokens behind a block (from 0), before any final norm [N, C].
    Block(usize),
}

impl Output {
    /// What it is called in files and on the command line.
    pub fn name(self) -> String {
        match self {
            Output::Logits => "logits".into(),
            Output::MeanPatches => "mean".into(),
            Output::Cls => "cls".into(),
            Output::Tokens => "tokens".into(),
            Output::Projected => "projected".into(),
            Output::Embedded => "embedded".into(),
            Output::Block(i) => format!("blocks.{i}"),
        }
    }
}

impl std::str::FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Output, String> {
        let block = || text.strip_prefix("blocks.").and_then(|n| n.parse().ok()).map(Output::Block);
        let known = [Output::Logits, Output::MeanPatches, Output::Cls, Output::Tokens, Output::Projected, Output::Embedded];
        let found = known.into_iter().find(|output| output.name() == text).or_else(block);
        found.ok_or_else(|| "expected cls, mean, tokens, projected, logits, embedded or blocks.N".into())
    }
}

/// Rows of features (or logits) with their labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Outputs {
    /// Row by row, in the order of the source.
    pub values: Vec<f32>,
    /// Width of a row.
    pub width: usize,
    /// Class of each row.
    pub labels: Vec<u32>,
}

/// A data set in its own order, unaugmented.
pub fn in_order(source: &Arc<dyn Source>, view: Augment) -> Result<Loader, Error> {
    let batch = BATCH.min(source.len().max(1));
    let config = LoaderConfig { batch, shuffle: false, drop_last: false, seed: 0, prefetch: 4, workers: 1 };
    Ok(Loader::new(source.clone(), view, config)?)
}

/// One pass over the data set: what is asked for, in that order.
pub fn outputs<const N: usize>(
    vit: &Model,
    params: &Params,
    wanted: [Output; N],
    loader: &Loader,
    device: Device,
) -> Result<[Outputs; N], Error> {
    let mut passes: Vec<Pass> = vec![];
    let mut all = wanted.map(|_| Outputs { values: vec![], width: 0, labels: vec![] });
    for batch in loader.epoch(0, 0) {
        if let Some(signal) = interrupt::requested() {
            return Err(Error::Interrupted { signal, checkpoints: None });
        }
        let batch = batch?;
        let [_, n, c, h, w] = batch.shape;
        if passes.iter().all(|p| p.batch() != n) {
            passes.push(Pass::new(vit, params, &wanted, [n, c, h, w])?);
        }
        let Some(pass) = passes.iter_mut().find(|p| p.batch() == n) else { continue };
        pass.images().copy_from_slice(batch.view(0));
        pass.run(params, device)?;
        for (i, all) in all.iter_mut().enumerate() {
            all.values.extend_from_slice(pass.value(i));
            all.width = pass.shape(i).iter().product();
            all.labels.extend_from_slice(&batch.labels);
        }
    }
    Ok(all)
}

/// A forward pass for batches of one size.
pub struct Pass {
    plan: Plan,
    images: Act,
    out: Vec<Act>,
    arena: Arena,
}

impl Pass {
    /// Plans what is wanted of images [B, C, H, W].
    ///
    /// # Errors
    /// What this model does not have.
    pub fn new(model: &Model, params: &Params, wanted: &[Output], shape: [usize; 4]) -> Result<Pass, Error> {
        let mut p = Planner::new();
        p.bind(params.layout());
        let images = p.input(shape);
        let blocks = wanted.iter().any(|w| matches!(w, Output::Block(_)));
        let features = model.plan(&mut p, images, Taps { blocks, attention: false })?;
        let refuse = |what: String| Error::Usage(format!("this model has no {what}"));
        let skip = usize::from(features.cls);
        let mut out = vec![];
        for wanted in wanted {
            let act = match *wanted {
                Output::Logits => features.logits.ok_or_else(|| refuse("classifier".into()))?,
                Output::MeanPatches => p.pool(features.map(), Pooling::Mean { skip })?,
                Output::Cls if features.cls => p.pool(features.map(), Pooling::Token(0))?,
                Output::Cls => return Err(refuse("CLS token".into())),
                Output::Tokens => features.map(),
                Output::Embedded => features.embedded,
                Output::Projected => features.projected.ok_or_else(|| refuse("projection".into()))?,
                Output::Block(i) => {
                    *features.blocks.get(i).ok_or_else(|| refuse(format!("block {i}: there are {}, from 0 on", features.blocks.len())))?
                }
            };
            p.keep(act);
            out.push(act);
        }
        let plan = p.finish()?;
        Ok(Pass { arena: Arena::new(&plan, DType::F32), plan, images, out })
    }

    /// Images B.
    pub fn batch(&self) -> usize {
        self.plan.shape(self.images).dims()[0]
    }

    /// Where the images go [B, C, H, W].
    pub fn images(&mut self) -> &mut [f32] {
        self.arena.value_mut::<f32>(self.images)
    }

    /// Runs it.
    ///
    /// # Errors
    /// Those of the device.
    pub fn run(&mut self, params: &Params, device: Device) -> Result<(), Error> {
        let sets = [params];
        let mut cx = Cx { train: false, ..Cx::new(&device, &sets, &mut self.arena, StepKey::default()) };
        Ok(self.plan.forward(&mut cx)?)
    }

    /// The `i`-th of what is wanted, image by image.
    pub fn value(&self, i: usize) -> &[f32] {
        self.arena.value::<f32>(self.out[i])
    }

    /// Its shape, of one image.
    pub fn shape(&self, i: usize) -> Vec<usize> {
        self.plan.shape(self.out[i]).dims()[1..].to_vec()
    }
}

impl Outputs {
    /// The class of the greatest logit of each row, the first of equals.
    pub fn top(&self) -> Vec<u32> {
        let top = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]).then(b.cmp(&a)));
        self.values.chunks_exact(self.width).map(|row| top(row).unwrap_or(0) as u32).collect()
    }

    /// Are these logits right? One answer a row.
    pub fn hits(&self) -> Vec<bool> {
        self.top().iter().zip(&self.labels).map(|(top, label)| top == label).collect()
    }

    /// Top-1 accuracy in percent.
    pub fn accuracy(&self) -> f64 {
        let hits = self.hits();
        100.0 * hits.iter().filter(|h| **h).count() as f64 / hits.len().max(1) as f64
    }
}

/// The images themselves as rows: the control under a probe.
pub fn pixels(loader: &Loader) -> Result<Outputs, Error> {
    let mut all = Outputs { values: vec![], width: 0, labels: vec![] };
    for batch in loader.epoch(0, 0) {
        let batch = batch?;
        all.values.extend_from_slice(batch.view(0));
        all.width = batch.shape[2] * batch.shape[3] * batch.shape[4];
        all.labels.extend_from_slice(&batch.labels);
    }
    Ok(all)
}
