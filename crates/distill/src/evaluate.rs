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
    let mut plans: Vec<Inference<N>> = vec![];
    let mut all = wanted.map(|_| Outputs { values: vec![], width: 0, labels: vec![] });
    for batch in loader.epoch(0, 0) {
        if let Some(signal) = interrupt::requested() {
            return Err(Error::Interrupted { signal, checkpoints: None });
        }
        let batch = batch?;
        let (n, shape) = (batch.len(), batch.shape);
        if plans.iter().all(|p| p.batch != n) {
            plans.push(Inference::new(vit, params, wanted, [n, shape[2], shape[3], shape[4]])?);
        }
        let Some(Inference { plan, images, out, arena, .. }) = plans.iter_mut().find(|p| p.batch == n) else { continue };
        arena.write::<f32>(*images, batch.view(0));
        let sets = [params];
        let mut cx = Cx { train: false, ..Cx::new(&device, &sets, arena, StepKey::default()) };
        plan.forward(&mut cx)?;
        for (all, out) in all.iter_mut().zip(out) {
            all.values.extend_from_slice(arena.value::<f32>(*out));
            all.width = plan.shape(*out).cols();
            all.labels.extend_from_slice(&batch.labels);
        }
    }
    Ok(all)
}

/// A forward pass for batches of one size.
struct Inference<const N: usize> {
    batch: usize,
    plan: Plan,
    images: Act,
    out: [Act; N],
    arena: Arena,
}

impl<const N: usize> Inference<N> {
    fn new(vit: &Model, params: &Params, wanted: [Output; N], shape: [usize; 4]) -> Result<Self, Error> {
        let mut p = Planner::new();
        p.bind(params.layout());
        let images = p.input(shape);
        let features = vit.plan(&mut p, images, Taps::default())?;
        let skip = usize::from(vit.config().cls_token());
        let mut out = [images; N];
        for (out, wanted) in out.iter_mut().zip(wanted) {
            *out = match wanted {
                Output::Logits => features.logits.ok_or_else(|| Error::Usage("this model has no classifier".into()))?,
                Output::MeanPatches => p.pool(features.map(), Pooling::Mean { skip })?,
                Output::Cls if skip == 1 => p.pool(features.map(), Pooling::Token(0))?,
                Output::Cls => return Err(Error::Usage("this model has no CLS token".into())),
            };
            p.keep(*out);
        }
        let plan = p.finish()?;
        Ok(Inference { batch: shape[0], arena: Arena::new(&plan, DType::F32), plan, images, out })
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
