//! `distill features` and `distill knn`.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use fd_compute::Device;
use fd_data::{Folder, Source};
use fd_distill::Error;
use fd_distill::asked::{Asked, Opened};
use fd_distill::features::{self, Feature, FeatureOptions, Fitting};
use fd_distill::probe::{Knn, knn as neighbours};
use fd_distill::progress::Progress;

use super::{Outcome, Output};

/// Extracts features to a file.
pub fn features(asked: &Asked, wanted: Option<Vec<Feature>>, mut options: FeatureOptions, out: &mut Output) -> anyhow::Result<Outcome> {
    let opened = asked.open()?;
    say(&opened)?;
    let usual = || if opened.model.cls_token() { vec![Feature::Cls, Feature::MeanPatches] } else { vec![Feature::MeanPatches] };
    options.features = wanted.unwrap_or_else(usual);
    if let Some(twice) = options.features.iter().enumerate().find_map(|(i, f)| options.features[..i].contains(f).then_some(f)) {
        return Err(Error::Usage(format!("--features: {} stands there twice", twice.name())).into());
    }
    // One step of progress an image.
    let mut progress = Progress::new(1.0);
    let done = features::extract(&opened, &options, &mut progress)?;
    let before = if done.before > 0 { format!(", {} of them by an earlier run", done.before) } else { String::new() };
    let names = options.features.iter().map(|f| f.name()).collect::<Vec<_>>().join(", ");
    writeln!(out, "{}: {names} of {} images{before}; {:.1} images/s", options.out.display(), done.images, done.images_per_second)
        .and_then(|()| out.flush())
        .context("standard output")?;
    Ok(Outcome::Done)
}

/// What was found goes to standard error: what is assumed, left aside or interpolated has to be seen.
fn say(opened: &Opened) -> anyhow::Result<()> {
    let report = opened.fit()?.report();
    let _ = writeln!(std::io::stderr(), "{}", report.trim_end());
    Ok(())
}

/// What `distill knn` compares.
#[derive(Clone, Debug)]
pub struct KnnOptions {
    /// The weights.
    pub asked: Asked,
    /// Training images.
    pub train: PathBuf,
    /// Test images.
    pub test: PathBuf,
    /// Neighbours and temperature.
    pub numbers: Knn,
    /// What is compared.
    pub feature: Option<Feature>,
    /// How images get the model's size.
    pub fitting: Fitting,
    /// Images a forward pass.
    pub batch: usize,
    /// Where it computes.
    pub device: Device,
}

/// Nearest neighbours of a frozen model's features.
pub fn knn(options: &KnnOptions, out: &mut Output) -> anyhow::Result<Outcome> {
    options.numbers.check()?;
    let opened = options.asked.open()?;
    say(&opened)?;
    let feature = options.feature.unwrap_or(if opened.model.cls_token() { Feature::Cls } else { Feature::MeanPatches });
    if matches!(feature, Feature::Tokens | Feature::Embedded | Feature::Block(_) | Feature::Logits) {
        return Err(Error::Usage("--feature: neighbours compare one row an image: cls, mean or projected".into()).into());
    }
    let open = |path: &PathBuf| Folder::open(path, opened.model.in_chans()).map(Arc::new);
    let (train, test) = (open(&options.train)?, open(&options.test)?);
    if train.class_names() != test.class_names() {
        let why = format!("{} and {} do not have the same classes", train.name(), test.name());
        return Err(Error::Usage(why).into());
    }
    let (model, params) = opened.load()?;
    let of = |folder: &Arc<Folder>| {
        features::pooled(&opened, (&model, &params), folder, (feature, options.fitting, options.batch), options.device)
    };
    let (known, asked) = (of(&train)?, of(&test)?);
    let votes = neighbours(&options.numbers, &known, &asked, train.num_classes());
    writeln!(
        out,
        "{}-NN, {}: {:.2} % of {} test images, {} training images of {} classes",
        options.numbers.k.min(train.len()),
        feature.name(),
        votes.accuracy(),
        test.len(),
        train.len(),
        train.num_classes()
    )
    .and_then(|()| out.flush())
    .context("standard output")?;
    Ok(Outcome::Done)
}
