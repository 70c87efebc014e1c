//! `analyze similarity`: how alike the layers of several models are on the same images, how many directions their features use, how
//! their tokens are scaled, and what a linear probe reads off every layer.
//!
//! All of it is one pass over the images: each batch goes through every model, and sums in f64 take it up ([`cka`], [`statistics`]). With
//! labelled training images a pass over those comes first, one model after the other, for the probes ([`ridge`]).

pub mod cka;
pub mod eigen;
mod extract;
mod figures;
pub mod moments;
mod report;
pub mod ridge;
pub mod statistics;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use fd_compute::{Device, Stream};
use fd_data::{DataSpec, Folder, Source, Split, Subset, open};
use fd_distill::asked::{Asked, Opened};
use fd_distill::features::Fitting;
use fd_distill::progress::Progress;
use fd_distill::{Error, interrupt};
use rand::seq::SliceRandom;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use cka::{Cka, Estimator};
use extract::{Encoder, Features};
use moments::Rows;
pub use report::{Conventions, DataReport, FeatureReport, ModelReport, Pair, ProbeReport, SimilarityReport};
use ridge::{Ridge, RidgeSums};
use statistics::{LayerSums, TokenSums};

/// What one row of features is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowsOf {
    /// The mean of an image's patch tokens.
    Mean,
    /// An image's CLS token.
    Cls,
    /// Every patch token: many rows an image.
    Tokens,
}

impl RowsOf {
    fn describe(self) -> &'static str {
        match self {
            RowsOf::Mean => "a row is the mean of an image's patch tokens",
            RowsOf::Cls => "a row is an image's CLS token",
            RowsOf::Tokens => "a row is a patch token; CLS and register tokens are left out",
        }
    }
}

/// Images: a folder, or the embedded data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Images {
    /// A folder of images: flat, or a sub-folder a class.
    Folder(PathBuf),
    /// Fashion-MNIST.
    FashionMnist(Split),
    /// A configuration's.
    Spec(DataSpec),
}

impl FromStr for Images {
    type Err = std::convert::Infallible;

    /// `fashion-mnist` (its test images), `fashion-mnist-train`, or a folder.
    fn from_str(text: &str) -> Result<Images, Self::Err> {
        Ok(match text {
            "fashion-mnist" => Images::FashionMnist(Split::Test),
            "fashion-mnist-train" => Images::FashionMnist(Split::Train),
            path => Images::Folder(path.into()),
        })
    }
}

impl Images {
    fn open(&self, channels: usize) -> Result<Arc<dyn Source>, Error> {
        let source: Arc<dyn Source> = match self {
            Images::Folder(path) => Arc::new(Folder::open(path, channels)?),
            Images::FashionMnist(split) => open(&DataSpec::FashionMnist { split: *split })?,
            Images::Spec(spec) => open(spec)?,
        };
        if source.channels() != channels {
            let (found, name) = (source.channels(), source.name());
            return Err(Error::Usage(format!("{name}: images of {found} channels, a model of {channels}")));
        }
        Ok(source)
    }

    /// Some of them: `count` drawn by the seed, in their order; all without a count.
    fn some(&self, channels: usize, count: Option<usize>, seed: u64) -> Result<Arc<dyn Source>, Error> {
        let source = self.open(channels)?;
        let Some(count) = count else { return Ok(source) };
        if count > source.len() {
            return Err(Error::Usage(format!("--images {count}: {} has {}", source.name(), source.len())));
        }
        let mut order: Vec<usize> = (0..source.len()).collect();
        order.shuffle(&mut Stream::named(seed, "similarity.images"));
        order.truncate(count);
        order.sort_unstable();
        Ok(Arc::new(Subset::new(source, order)?))
    }
}

/// What to compare.
#[derive(Clone, Debug)]
pub struct SimilarityOptions {
    /// Models by name, in the order of the report.
    pub models: Vec<(String, Asked)>,
    /// The images.
    pub data: Images,
    /// So many of them, drawn by the seed; none: all.
    pub images: Option<usize>,
    /// Draws the images.
    pub seed: u64,
    /// What a row is.
    pub rows: RowsOf,
    /// How CKA is computed.
    pub estimator: Estimator,
    /// Layers by name; empty: all.
    pub layers: Vec<String>,
    /// Images a forward pass, which are the minibatch of [`Estimator::Minibatch`].
    pub batch: usize,
    /// How images get the model's size.
    pub fitting: Fitting,
    /// Labelled images to train probes on; those of `data` then are what they are tested on.
    pub probe: Option<Images>,
    /// The probes' λ, relative to features of variance 1.
    pub ridge: f64,
    /// Where it computes.
    pub device: Device,
}

/// Compares layers; writes nothing.
///
/// # Errors
/// Weights that do not fit, images that cannot be read, options that do not go together; [`Error::Interrupted`] after a signal.
pub fn similarity(options: &SimilarityOptions, progress: &mut Progress) -> Result<SimilarityReport, Error> {
    check(options)?;
    let opened = options.models.iter().map(|(_, asked)| asked.open()).collect::<Result<Vec<_>, _>>()?;
    let encoder = |((label, _), opened): (&(String, Asked), &Opened)| {
        Encoder::new(label, opened, options.rows, &options.layers, options.fitting, options.device)
    };
    let mut encoders = options.models.iter().zip(&opened).map(encoder).collect::<Result<Vec<_>, _>>()?;
    let sources = Sources::open(options, &encoders)?;
    let probes = match &sources.train {
        Some(train) => Some(probes(options, &mut encoders, train, progress)?),
        None => None,
    };
    let mut sums = Running::new(options, &encoders, probes)?;
    let n = sources.data[0].len();
    progress.begin(options.models.len(), "similarity", n as u64, n as f64);
    for (first, images) in batches(n, options.batch) {
        stop_if_asked()?;
        sums.batch(&mut encoders, &sources.data, first, images)?;
        progress.step(options.models.len(), (first + images) as u64, "");
    }
    progress.done(options.models.len(), format_args!("{n} images"));
    report::report(options, &opened, &encoders, &sources, &sums)
}

fn check(options: &SimilarityOptions) -> Result<(), Error> {
    let usage = |why: String| Err(Error::Usage(why));
    if options.models.is_empty() {
        return usage("--weights: which models?".into());
    }
    let labels: Vec<&String> = options.models.iter().map(|(label, _)| label).collect();
    if let Some(twice) = labels.iter().enumerate().find_map(|(i, l)| labels[..i].contains(l).then_some(l)) {
        return usage(format!("--weights: `{twice}` stands there twice"));
    }
    if options.probe.is_some() && options.rows == RowsOf::Tokens {
        return usage("--probe-train: a probe reads one row an image: --rows mean or cls".into());
    }
    if !(options.ridge > 0.0 && options.ridge.is_finite()) {
        return usage(format!("--ridge: {} is not above 0", options.ridge));
    }
    Ok(())
}

/// Images as each model reads them (their channels may differ), and those for the probes.
struct Sources {
    data: Vec<Arc<dyn Source>>,
    train: Option<Vec<Arc<dyn Source>>>,
}

impl Sources {
    fn open(options: &SimilarityOptions, encoders: &[Encoder]) -> Result<Sources, Error> {
        let some = |e: &Encoder| options.data.some(e.in_chans(), options.images, options.seed);
        let data = encoders.iter().map(some).collect::<Result<Vec<_>, _>>()?;
        let Some(train) = &options.probe else { return Ok(Sources { data, train: None }) };
        let train = encoders.iter().map(|e| train.open(e.in_chans())).collect::<Result<Vec<_>, _>>()?;
        let (a, b) = (&train[0], &data[0]);
        if a.num_classes() < 2 || a.class_names() != b.class_names() {
            let why = format!("{} and {} do not have the same classes, two or more", a.name(), b.name());
            return Err(Error::Usage(format!("--probe-train: {why}")));
        }
        Ok(Sources { data, train: Some(train) })
    }
}

fn stop_if_asked() -> Result<(), Error> {
    interrupt::requested().map_or(Ok(()), |signal| Err(Error::Interrupted { signal, checkpoints: None }))
}

/// First image and number of images of every batch.
fn batches(n: usize, batch: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).step_by(batch.max(1)).map(move |first| (first, batch.max(1).min(n - first)))
}

fn labels(source: &dyn Source, first: usize, images: usize) -> Vec<u32> {
    (first..first + images).map(|i| source.label(i).unwrap_or(0)).collect()
}

/// A probe for every layer of every model.
fn probes(
    options: &SimilarityOptions,
    encoders: &mut [Encoder],
    train: &[Arc<dyn Source>],
    progress: &mut Progress,
) -> Result<Vec<Vec<Ridge>>, Error> {
    let mut all = vec![];
    for (at, (encoder, source)) in encoders.iter_mut().zip(train).enumerate() {
        let (n, classes) = (source.len(), source.num_classes());
        let mut sums: Vec<RidgeSums> = encoder.layers.iter().map(|l| RidgeSums::new(l.width, classes)).collect();
        let mut tokens = token_sums(encoder);
        progress.begin(at, &format!("probes of {}", encoder.label), n as u64, n as f64);
        for (first, images) in batches(n, options.batch) {
            stop_if_asked()?;
            let labels = labels(source.as_ref(), first, images);
            let features = encoder.batch(source.as_ref(), first, images, &mut tokens)?;
            sums.par_iter_mut().zip(&features).for_each(|(sums, f)| sums.add(&f.plain, &labels));
            progress.step(at, (first + images) as u64, "");
        }
        progress.done(at, format_args!("{n} images"));
        all.push(sums.par_iter().map(|s| s.solve(options.ridge)).collect());
    }
    Ok(all)
}

fn token_sums(encoder: &Encoder) -> Vec<[TokenSums; 2]> {
    encoder.layers.iter().map(|l| [TokenSums::new(l.width), TokenSums::new(l.width)]).collect()
}

/// All sums over the images.
struct Running {
    cka: Cka,
    estimator: Estimator,
    batch: usize,
    /// A layer: before and after whitening.
    layers: Vec<[LayerSums; 2]>,
    /// The same, model by model.
    tokens: Vec<Vec<[TokenSums; 2]>>,
    probes: Option<Vec<Ridge>>,
    hits: Vec<usize>,
}

impl Running {
    fn new(options: &SimilarityOptions, encoders: &[Encoder], probes: Option<Vec<Vec<Ridge>>>) -> Result<Running, Error> {
        let layers = || encoders.iter().flat_map(|e| e.layers.iter().map(move |l| (e, l)));
        let widths: Vec<usize> = layers().map(|(_, l)| l.width).collect();
        let rows: Vec<usize> = layers().map(|(e, l)| e.rows_an_image(l)).collect();
        Ok(Running {
            cka: Cka::new(options.estimator, &widths, |a, b| rows[a] == rows[b])?,
            estimator: options.estimator,
            batch: options.batch,
            layers: widths.iter().map(|w| [LayerSums::new(*w), LayerSums::new(*w)]).collect(),
            tokens: encoders.iter().map(token_sums).collect(),
            probes: probes.map(|p| p.into_iter().flatten().collect()),
            hits: vec![0; widths.len()],
        })
    }

    /// Takes up the same images of every model.
    fn batch(&mut self, encoders: &mut [Encoder], sources: &[Arc<dyn Source>], first: usize, images: usize) -> Result<(), Error> {
        let mut features: Vec<Features> = vec![];
        for ((encoder, source), tokens) in encoders.iter_mut().zip(sources).zip(&mut self.tokens) {
            features.extend(encoder.batch(source.as_ref(), first, images, tokens)?);
        }
        self.layers.par_iter_mut().zip(&features).for_each(|([plain, whitened], f)| {
            plain.add(&f.plain);
            whitened.add(&f.whitened);
        });
        if let Some(probes) = &self.probes {
            let labels = labels(sources[0].as_ref(), first, images);
            let hits = |(probe, f): (&Ridge, &Features)| probe.classes(&f.plain).iter().zip(&labels).filter(|(a, b)| a == b).count();
            let hits: Vec<usize> = probes.par_iter().zip(&features).map(hits).collect();
            self.hits.iter_mut().zip(hits).for_each(|(all, new)| *all += new);
        }
        if self.estimator == Estimator::Minibatch && images < self.batch && first > 0 {
            // An average of equal batches: the last, smaller one is left out.
            return Ok(());
        }
        let rows: Vec<Rows> = features.into_iter().map(|f| f.plain).collect();
        self.cka.add(&rows)
    }
}

/// The tables that [`write()`] writes.
const TABLES: [&str; 3] = ["cka.csv", "features.csv", "similarity.json"];

/// Refuses a folder that has results already, before anything is computed.
///
/// # Errors
/// [`Error::File`], unless `force`.
pub fn refuse_existing(folder: &Path, force: bool) -> Result<(), Error> {
    match TABLES.iter().map(|name| folder.join(name)).find(|path| !force && path.exists()) {
        Some(path) => Err(Error::File { path, why: "is there already; --force replaces it".into() }),
        None => Ok(()),
    }
}

/// Writes `cka.csv`, `features.csv`, `similarity.json` and the figures into a folder, each file whole or not at all; their paths. What is
/// there is replaced.
///
/// # Errors
/// [`Error::File`]: one that cannot be written.
pub fn write(report: &SimilarityReport, folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let texts = [report.cka_csv()?, report.features_csv()?, report.json()?];
    let mut paths = figures::write(report, folder)?;
    // The tables last: where they are, all is.
    for (name, text) in TABLES.iter().zip(texts) {
        let path = folder.join(name);
        fd_distill::run_dir::write_file(&path, text.as_bytes())?;
        paths.push(path);
    }
    Ok(paths)
}
