//! Features of a folder of images: extracted once, in order, to a file that can be taken up again where it was left.
//!
//! Images are decoded and resized on all threads, a batch at a time, and go through a plan without a backward pass. Rows are written to
//! their places as they come, so that memory does not grow with the number of images. Beside the unfinished file (`OUT.part`) a small
//! one (`OUT.part.json`) says how far it is and of what it is; the same command goes on there, another one is refused.

mod sink;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fd_compute::{Device, Params};
use fd_data::{Augment, AugmentConfig, Folder, Geometry, Interpolation, Normalisation, Photometric, SampleKey, Scratch, Source};
use fd_model::{Model, Statistics};
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::asked::Opened;
pub use crate::evaluate::Output as Feature;
use crate::evaluate::{Outputs, Pass};
use crate::graph::hex;
use crate::progress::Progress;
use crate::{Error, interrupt};
use sink::Sink;

/// How an image becomes one of the model's size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fitting {
    /// The short side resized so that the crop in the middle is this share of it (the evaluation of ImageNet: 0.875).
    Crop(f64),
    /// All of it, whatever its aspect ratio.
    Stretch,
}

/// What to extract.
#[derive(Clone, Debug)]
pub struct FeatureOptions {
    /// A folder of images: flat, or a sub-folder a class.
    pub data: PathBuf,
    /// The file: `.safetensors`, or `.csv` for one row an image.
    pub out: PathBuf,
    /// What of the model, in order.
    pub features: Vec<Feature>,
    /// How images get the model's size.
    pub fitting: Fitting,
    /// Images a forward pass.
    pub batch: usize,
    /// Store f16 in place of f32.
    pub half: bool,
    /// Replace what is there.
    pub force: bool,
    /// Where it computes.
    pub device: Device,
}

/// What an extraction did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extracted {
    /// Images of the folder.
    pub images: usize,
    /// Of those, how many an earlier run had done.
    pub before: usize,
    /// Images a second, of the rest.
    pub images_per_second: f64,
}

/// The evaluation's view for a model.
///
/// # Errors
/// A share or statistics that cannot be.
pub fn view((h, w): (usize, usize), fitting: Fitting, normalise: &Statistics) -> Result<Augment, Error> {
    let (size, interpolation) = ([h, w], Interpolation::Bicubic);
    let geometry = match fitting {
        Fitting::Stretch => Geometry::Resize { size, interpolation },
        Fitting::Crop(share) if share > 0.0 && share <= 1.0 => {
            Geometry::CentreCrop { resize: (h.max(w) as f64 / share).round() as usize, size, interpolation }
        }
        Fitting::Crop(share) => return Err(Error::Usage(format!("--crop: {share} is not above 0 and at most 1"))),
    };
    let normalise = Normalisation { mean: normalise.mean.clone(), std: normalise.std.clone() };
    Ok(Augment::new(AugmentConfig { geometry, flip: 0.0, erase: 0.0, rand_augment: None, photometric: Photometric::default(), normalise })?)
}

/// Seconds between two notes of how far it is.
const NOTE_EVERY: Duration = Duration::from_secs(10);

/// Extracts features to a file.
///
/// # Errors
/// Weights that do not fit, a feature that the model does not have, an image that cannot be read, a file that cannot be written or is
/// there already; [`Error::Interrupted`] after a signal, and then the same call goes on.
pub fn extract(opened: &Opened, options: &FeatureOptions, progress: &mut Progress) -> Result<Extracted, Error> {
    let folder = Folder::open(&options.data, opened.model.in_chans())?;
    let augment = view(opened.model.img_size(), options.fitting, &opened.normalise)?;
    let (model, params) = opened.load()?;
    let n = folder.len();
    let mut pass = pass_of(opened, (&model, &params), &options.features, options.batch.min(n))?;
    let identity = identity(opened, options, &folder)?;
    let columns: Vec<(String, Vec<usize>)> = options.features.iter().enumerate().map(|(i, f)| (f.name(), pass.shape(i))).collect();
    let (mut sink, before) = Sink::open(&options.out, &folder, columns, options.half, &identity, options.force)?;
    progress.begin(0, &format!("features of {}", folder.name()), n as u64, n as f64);
    if before > 0 {
        progress.resume(0, before as u64);
    }
    let (start, mut noted, mut done) = (Instant::now(), Instant::now(), before);
    while done < n {
        if let Some(signal) = interrupt::requested() {
            sink.note(done)?;
            let folder = options.out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            return Err(Error::Interrupted { signal, checkpoints: Some(folder.to_path_buf()) });
        }
        let images = options.batch.min(n - done);
        if images != pass.batch() {
            pass = pass_of(opened, (&model, &params), &options.features, images)?;
        }
        fill(&mut pass, &folder, &augment, done)?;
        pass.run(&params, options.device)?;
        let values: Vec<&[f32]> = (0..options.features.len()).map(|i| pass.value(i)).collect();
        sink.write(done, images, &values)?;
        done += images;
        if noted.elapsed() >= NOTE_EVERY && done < n {
            sink.note(done)?;
            noted = Instant::now();
        }
        let speed = (done - before) as f64 / start.elapsed().as_secs_f64();
        progress.step(0, done as u64, format_args!("{speed:.1} images/s"));
    }
    let images_per_second = (n - before) as f64 / start.elapsed().as_secs_f64();
    sink.finish()?;
    progress.done(0, format_args!("{images_per_second:.1} images/s"));
    Ok(Extracted { images: n, before, images_per_second })
}

/// Everything that the file's content depends on.
fn identity(opened: &Opened, options: &FeatureOptions, folder: &Folder) -> Result<Value, Error> {
    let fitting = match options.fitting {
        Fitting::Crop(share) => json!(share),
        Fitting::Stretch => json!("stretch"),
    };
    Ok(json!({
        "weights": opened.sha256()?, "at": opened.found().root, "model": opened.model, "normalise": opened.normalise,
        "data": hex(&folder.fingerprint()?), "features": options.features.iter().map(|f| f.name()).collect::<Vec<_>>(),
        "crop": fitting, "batch": options.batch, "half": options.half, "simd": options.device.arithmetic(),
    }))
}

/// A pass over so many of the model's own images.
fn pass_of(opened: &Opened, (model, params): (&Model, &Params), features: &[Feature], batch: usize) -> Result<Pass, Error> {
    let (h, w) = opened.model.img_size();
    Pass::new(model, params, features, [batch, opened.model.in_chans(), h, w])
}

/// Decodes the images from number `first` on into a pass, on all threads.
///
/// # Errors
/// An image that cannot be read.
pub fn fill(pass: &mut Pass, source: &(impl Source + ?Sized), augment: &Augment, first: usize) -> Result<(), Error> {
    let each = augment.shape().iter().product::<usize>();
    let places = pass.images().par_chunks_exact_mut(each).enumerate();
    places.try_for_each_init(Scratch::default, |scratch, (i, place)| {
        let image = source.image(first + i)?;
        augment.apply(&image, SampleKey { seed: 0, epoch: 0, index: (first + i) as u64, view: 0 }, scratch, place)
    })?;
    Ok(())
}

/// Pooled features of a labelled folder in memory, for neighbours and probes.
///
/// # Errors
/// As [`extract`]; a folder without classes.
pub fn pooled(
    opened: &Opened,
    (model, params): (&Model, &Params),
    folder: &Arc<Folder>,
    how: (Feature, Fitting, usize),
    device: Device,
) -> Result<Outputs, Error> {
    let (feature, fitting, batch) = how;
    let augment = view(opened.model.img_size(), fitting, &opened.normalise)?;
    let mut all = Outputs { values: vec![], width: 0, labels: vec![] };
    let mut pass: Option<Pass> = None;
    let mut done = 0;
    while done < folder.len() {
        if let Some(signal) = interrupt::requested() {
            return Err(Error::Interrupted { signal, checkpoints: None });
        }
        let images = batch.min(folder.len() - done);
        let pass = match &mut pass {
            Some(pass) if pass.batch() == images => pass,
            other => other.insert(pass_of(opened, (model, params), &[feature], images)?),
        };
        fill(pass, folder.as_ref(), &augment, done)?;
        pass.run(params, device)?;
        all.values.extend_from_slice(pass.value(0));
        all.width = pass.shape(0).iter().product();
        done += images;
    }
    all.labels = (0..folder.len()).map_while(|i| folder.label(i)).collect();
    if all.labels.len() != folder.len() {
        return Err(Error::Usage(format!("{}: has no classes: neighbours need a sub-folder a class", folder.name())));
    }
    Ok(all)
}
