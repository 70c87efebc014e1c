//! What the heads of trained transformers attend to: how far, how alike they are, in what patterns (the paper's section 4).
//!
//! With A the attention after softmax of one head and image, [N, N], P the pixels between neighbouring tokens, n the patches:
//!
//! - **distance** of a head: mean over images and patch queries of Σ_k A_qk P |pos(q) - pos(k)|, in pixels;
//! - **entropy**: mean of -Σ_k a ln a over rows a, each divided by its sum; **nmi** (arXiv 2305.00729): I(q; k) / √(H(q) H(k)) of the joint
//!   distribution a_qk / n, a mean over images;
//! - **similarity** of a layer: mean over images of the mean cosine between two heads' matrices;
//! - the **averaged map**: mean over images and heads of A. **Diagonal**: R² of its projection on functions of (dx, dy), that is relative
//!   positions; **column**: the share of its variance between columns, that is fixed key positions;
//! - **CLS attention**: what share of the CLS query's attention goes to patches, how it is spread, and to which.
//!
//! CLS and registers are no patches: their rows and columns are dropped and the rest of each row is divided by its sum
//! ([`Conventions`] says otherwise). In windows, a query sees its window: sums go over windows as over images, distances are those in the
//! image, also where a shift brought opposite edges together, and the averaged map is that of the windows whose tokens lie side by side.
//!
//! Images stream through in batches, and of a batch one layer's probabilities exist at a time.

mod keep;
mod pass;
mod report;
mod score;
mod shape;
mod tally;
#[cfg(test)]
mod tests;
mod write;

use std::sync::Arc;
use std::time::Instant;

use fd_compute::Device;
use fd_distill::asked::{Asked, Opened};
use fd_distill::interrupt;
use fd_distill::progress::Progress;
use fd_model::Checkpoint;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::images::{Choice, Images};
use keep::Keeper;
use pass::Pass;
pub use report::{AttentionReport, HeadAttention, LayerAttention, ModelAttention};
use score::Patterns;
use shape::Distances;
pub(crate) use shape::LayerShape;
use tally::{Means, Tally};
pub use write::{Written, refuse_to_replace, write};

/// Elements of one layer's attention that a batch may have where it is not said how many images it is of: 64 MiB.
const ELEMENTS: usize = 1 << 24;
/// And images.
const IMAGES: usize = 8;
/// Most elements of one image's attention in a layer: 8 GiB.
const MOST_ELEMENTS: usize = 1 << 31;

/// What becomes of the rows and columns of tokens that are no patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpecialTokens {
    /// They are left out.
    Dropped,
    /// They stay. Having no place, they count as 0 pixels in distances, and patterns are those among the patches.
    Kept,
}

impl SpecialTokens {
    /// As files have it.
    pub fn name(self) -> &'static str {
        match self {
            SpecialTokens::Dropped => "dropped",
            SpecialTokens::Kept => "kept",
        }
    }
}

/// What is done about tokens that are no patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conventions {
    /// CLS and registers.
    pub special_tokens: SpecialTokens,
    /// Is what is left of a row divided by its sum? Entropies and mutual information need that and always have it.
    pub renormalised: bool,
}

impl Default for Conventions {
    fn default() -> Conventions {
        Conventions { special_tokens: SpecialTokens::Dropped, renormalised: true }
    }
}

impl Conventions {
    /// In words.
    pub fn in_words(self) -> String {
        let special = match (self.special_tokens, self.renormalised) {
            (SpecialTokens::Dropped, true) => "CLS and registers dropped, rows renormalised",
            (SpecialTokens::Dropped, false) => "CLS and registers dropped, rows not renormalised (for entropy and nmi they are)",
            (SpecialTokens::Kept, _) => "CLS and registers kept, at 0 pixels from all; patterns among patches",
        };
        format!("{special}; means over images, queries and windows")
    }

    /// Of so many special tokens, how many are left out.
    fn skip(self, special: usize) -> usize {
        if self.special_tokens == SpecialTokens::Dropped { special } else { 0 }
    }

    /// What a row is multiplied by whose used part has this sum. A row that is nothing stays nothing.
    fn scale(self, sum: f64) -> f64 {
        if !self.renormalised {
            1.0
        } else if sum == 0.0 {
            0.0
        } else {
            1.0 / sum
        }
    }
}

/// What to analyse.
#[derive(Clone, Debug)]
pub struct AttentionOptions {
    /// Models and their labels.
    pub models: Vec<(String, Asked)>,
    /// The images.
    pub images: Choice,
    /// About CLS and registers.
    pub conventions: Conventions,
    /// Which layers, from 0; none: all.
    pub layers: Option<Vec<usize>>,
    /// Images a forward pass; none: as many as keep a layer's attention small.
    pub batch: Option<usize>,
    /// Average maps by head, too.
    pub head_maps: bool,
    /// Of how many images the attention itself is kept.
    pub keep_images: usize,
    /// Where it computes.
    pub device: Device,
}

/// What an analysis found.
#[derive(Clone, Debug)]
pub struct Analysis {
    /// Numbers.
    pub report: AttentionReport,
    /// Averaged maps: `<label>/<layer>/map` [n, n] (all N tokens where special tokens are kept), with `head_maps` `<label>/<layer>/heads`
    /// [H, n, n], and the CLS query's attention `<label>/<layer>/cls` [H, rows, columns].
    pub maps: Checkpoint,
    /// Single images, see [`AttentionOptions::keep_images`]: `<label>/image/<i>` [rows, columns, channels] from 0 to 255 as the model sees it,
    /// `<label>/<layer>/<i>` [H, N, N] or [W, H, n, n], as the softmax leaves it.
    pub kept: Option<Checkpoint>,
    /// How fast each model's pass was.
    pub speeds: Vec<Speed>,
}

/// How long a model's pass took. (Not in the report, which is the same bytes each time.)
#[derive(Clone, Copy, Debug, Default)]
pub struct Speed {
    /// Images.
    pub images: usize,
    /// Seconds, all in all.
    pub seconds: f64,
    /// Of those, until images were decoded and had their size.
    pub decoding: f64,
}

impl std::fmt::Display for Speed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate = |seconds: f64| self.images as f64 / seconds.max(1e-9);
        write!(f, "{:.1} images/s, {:.1} but for decoding", rate(self.seconds), rate(self.seconds - self.decoding))
    }
}

/// Analyses models one after the other. `told` gets each label with what its file left open.
///
/// # Errors
/// Weights that do not fit, data that cannot be read, layers that are not there, attention that is not finite.
pub fn analyse(options: &AttentionOptions, progress: &mut Progress, mut told: impl FnMut(&str, &str)) -> Result<Analysis, Error> {
    // Whatever can be refused is, before the first model runs.
    let mut opened = vec![];
    for (label, asked) in &options.models {
        opened.push(Ready::new(label, asked, options, &mut told).map_err(|e| about(label, e))?);
    }
    let (mut models, mut speeds) = (vec![], vec![]);
    let (mut maps, mut kept) = (Checkpoint::default(), Checkpoint::default());
    let units = opened.len() as f64;
    for (i, ready) in opened.iter().enumerate() {
        progress.begin(i, ready.label, ready.images.len() as u64, 1.0 / units);
        let start = Instant::now();
        let mut speed = Speed { images: ready.images.len(), ..Speed::default() };
        let mut one = One { ready, options, maps: &mut maps, kept: &mut kept, speed: &mut speed };
        models.push(one.run(progress, i).map_err(|e| about(ready.label, e))?);
        speed.seconds = start.elapsed().as_secs_f64();
        progress.done(i, speed);
        speeds.push(speed);
    }
    let none = || Error::Usage("no model: give --weights FILE or --run NAME".into());
    let data = opened.first().ok_or_else(none)?.images.note.clone();
    let (conventions, in_words) = (options.conventions, options.conventions.in_words());
    let report = AttentionReport { conventions, in_words, data, models };
    [&mut maps, &mut kept].into_iter().for_each(|file| write::describe(file, &report));
    let kept = Some(kept).filter(|_| options.keep_images > 0);
    Ok(Analysis { report, maps, kept, speeds })
}

fn about(label: &str, e: Error) -> Error {
    match e {
        // A signal is nobody's mistake.
        Error::Distill(error) if !matches!(error, fd_distill::Error::Interrupted { .. }) => Error::Of { model: label.to_string(), error },
        other => other,
    }
}

/// The layers that are asked for, in order.
fn chosen(label: &str, shapes: &[LayerShape], wanted: Option<&[usize]>) -> Result<Vec<usize>, Error> {
    let Some(wanted) = wanted else { return Ok((0..shapes.len()).collect()) };
    if let Some(&layer) = wanted.iter().find(|l| **l >= shapes.len()) {
        let why = format!("it has {} layers, from 0 on", shapes.len());
        return Err(Error::Layer { model: label.to_string(), layer, why });
    }
    Ok((0..shapes.len()).filter(|layer| wanted.contains(layer)).collect())
}

/// A model that fits its file, with the images that it is shown.
struct Ready<'a> {
    label: &'a str,
    opened: Opened,
    images: Images,
    shapes: Vec<LayerShape>,
    layers: Vec<usize>,
}

impl<'a> Ready<'a> {
    fn new(label: &'a str, asked: &Asked, options: &AttentionOptions, told: &mut impl FnMut(&str, &str)) -> Result<Ready<'a>, Error> {
        let opened = asked.open()?;
        let fit = opened.fit()?;
        fit.check()?;
        told(label, fit.report().trim_end());
        let shapes = LayerShape::of(&opened.model)?;
        if let Some((layer, shape)) = shapes.iter().enumerate().find(|(_, s)| elements(s) > MOST_ELEMENTS) {
            let why =
                format!("{} tokens that see each other, {} heads: more than 8 GiB; make --img-size smaller", shape.total(), shape.heads);
            return Err(Error::Usage(format!("{label}: layer {layer}: {why}")));
        }
        let layers = chosen(label, &shapes, options.layers.as_deref())?;
        let images = options.images.open(opened.model.in_chans())?;
        drop(fit);
        Ok(Ready { label, opened, images, shapes, layers })
    }
}

/// One model's analysis.
struct One<'a> {
    ready: &'a Ready<'a>,
    options: &'a AttentionOptions,
    maps: &'a mut Checkpoint,
    kept: &'a mut Checkpoint,
    speed: &'a mut Speed,
}

impl One<'_> {
    fn run(&mut self, progress: &mut Progress, id: usize) -> Result<ModelAttention, Error> {
        let (Ready { label, opened, images, shapes, layers }, options) = (self.ready, self.options);
        let mut tallies = tallies(shapes, layers, options);
        let view = images.view(opened.model.img_size(), &opened.normalise)?;
        let (model, params) = opened.load()?;
        let batch = options.batch.unwrap_or_else(|| usual_batch(shapes)).min(images.len()).max(1);
        let ((h, w), channels) = (opened.model.img_size(), opened.model.in_chans());
        let mut keeper = Keeper::new(options.keep_images.min(images.len()), layers);
        let mut pass: Option<Pass> = None;
        for first in (0..images.len()).step_by(batch) {
            if let Some(signal) = interrupt::requested() {
                return Err(fd_distill::Error::Interrupted { signal, checkpoints: None }.into());
            }
            let count = batch.min(images.len() - first);
            let pass = match &mut pass {
                Some(pass) if pass.batch() == count => pass,
                other => {
                    *other = None;
                    other.insert(Pass::new(&model, &params, [count, channels, h, w])?)
                }
            };
            let start = Instant::now();
            images.decode(first, &view, pass.images())?;
            self.speed.decoding += start.elapsed().as_secs_f64();
            keeper.images(first, pass.images(), &opened.normalise, count);
            pass.run(&params, options.device, |layer, p| {
                if let Some(tally) = &mut tallies[layer] {
                    tally.add(p);
                    keeper.attention(first, count, layer, p);
                }
            })?;
            progress.step(id, (first + count) as u64, "");
        }
        keeper.finish(label, images.names(), shapes, (h, w, channels), self.kept);
        let layers = tallies.into_iter().enumerate().filter_map(|(i, tally)| Some((i, tally?)));
        let layers = layers.map(|(i, tally)| self.layer(i, tally)).collect::<Result<_, _>>()?;
        Ok(ModelAttention {
            label: label.to_string(),
            file: opened.file.clone(),
            sha256: opened.sha256()?,
            model: opened.model.clone(),
            normalise: opened.normalise.clone(),
            batch,
            simd: fd_compute::simd::level().name().into(),
            layers,
        })
    }

    /// A layer's means, as the report has them, and its maps.
    fn layer(&mut self, layer: usize, tally: Tally) -> Result<LayerAttention, Error> {
        let (shape, Means { heads, similarity, maps, cls }) = (tally.shape.clone(), tally.means());
        let (used, n) = (shape.total() - self.options.conventions.skip(shape.special), shape.patches());
        let head = |head: usize, sums: &tally::HeadSums| {
            let finite = [sums.distance, sums.entropy, sums.to_cls, sums.cls_entropy].iter().all(|v| v.is_finite());
            let of_cls = |value: f64| Some(value).filter(|_| shape.cls);
            let found = HeadAttention {
                head,
                distance_px: sums.distance,
                entropy: sums.entropy,
                nmi: Some(sums.mutual_information).filter(|_| used > 1),
                cls_attention: of_cls(sums.cls_attention),
                cls_entropy: of_cls(sums.cls_entropy),
                to_cls: of_cls(sums.to_cls),
                to_registers: Some(sums.to_registers).filter(|_| shape.special > usize::from(shape.cls)),
            };
            if finite { Ok(found) } else { Err(Error::NotFinite { model: self.ready.label.to_string(), layer, head }) }
        };
        let heads: Vec<HeadAttention> = heads.iter().enumerate().map(|(i, sums)| head(i, sums)).collect::<Result<_, _>>()?;
        let mean = mean_of(&maps, used * used);
        // Patterns are among patches: the last n rows and columns.
        let patches: Vec<f64> = mean.chunks_exact(used).skip(used - n).flat_map(|row| &row[used - n..]).copied().collect();
        let patterns = Patterns::of(&patches, shape.grid());
        write::add_maps(self.maps, (self.ready.label, layer), &shape, (used, &mean), &maps, &cls);
        Ok(LayerAttention {
            layer,
            stage: shape.stage,
            map: shape.map,
            window: shape.windows.as_ref().map(|w| w.side()),
            shift: shape.windows.as_ref().map_or(0, |w| w.shift()),
            pixels: shape.pixels,
            similarity,
            diagonal: patterns.map(|p| p.diagonal),
            column: patterns.map(|p| p.column),
            heads,
        })
    }
}

/// Empty sums for every layer that is wanted.
fn tallies(shapes: &[LayerShape], wanted: &[usize], options: &AttentionOptions) -> Vec<Option<Tally>> {
    let mut known: Vec<(&LayerShape, Arc<Distances>)> = vec![];
    let mut tally = |shape| {
        let found = known.iter().find(|(other, _)| *other == shape).map(|(_, distances)| distances.clone());
        let distances = found.unwrap_or_else(|| Arc::new(Distances::new(shape)));
        known.push((shape, distances.clone()));
        Tally::new(shape.clone(), distances, options.conventions, options.head_maps)
    };
    shapes.iter().enumerate().map(|(layer, shape)| wanted.contains(&layer).then(|| tally(shape))).collect()
}

/// Images a forward pass where it is not said.
fn usual_batch(shapes: &[LayerShape]) -> usize {
    let most = shapes.iter().map(elements).max().unwrap_or(1);
    (ELEMENTS / most.max(1)).clamp(1, IMAGES)
}

/// Elements of one image's attention in a layer.
fn elements(shape: &LayerShape) -> usize {
    [shape.count(), shape.heads, shape.total(), shape.total()].into_iter().fold(1, usize::saturating_mul)
}

/// The mean of the maps that lie one after the other.
fn mean_of(maps: &[f64], len: usize) -> Vec<f64> {
    let count = (maps.len() / len) as f64;
    (0..len).map(|i| maps.iter().skip(i).step_by(len).sum::<f64>() / count).collect()
}
