//! The images that a landscape is measured on: few enough to be kept in memory, decoded, the same ones for every model.

use std::path::PathBuf;
use std::sync::Arc;

use fd_compute::Device;
use fd_data::{Augment, DataSpec, Folder, Loader, LoaderConfig, Source, Split, Subset, open};
use fd_distill::Error;
use fd_distill::recipe::{Views, plain_view};
use fd_distill::table::Context;
use serde::{Deserialize, Serialize};

use super::subject::{Run, Subject};

/// Where images come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataChoice {
    /// The run's own.
    Run(Split),
    /// A data set.
    Spec(DataSpec),
    /// A folder with a sub-folder a class, in the models' channels.
    Folder(PathBuf),
}

/// Which of them, and how they are seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// Images, as many of every class as can be; 0: all.
    pub images: usize,
    /// Which ones, and how they are augmented.
    pub seed: u64,
    /// See them as the run's fine-tuning does, by one draw; otherwise whole.
    pub augment: bool,
}

/// A data set that is open and the part of it that is measured on.
pub struct Data {
    source: Arc<dyn Source>,
    /// Classes that a model has to have.
    pub classes: usize,
    views: Option<Views>,
    seed: u64,
}

impl Data {
    /// Opens it, for models of `channels` if it is a folder.
    ///
    /// # Errors
    /// Data that cannot be read, have no labels, or only one class; a class with too few images.
    pub fn open(choice: &DataChoice, run: Option<&Run>, selection: &Selection, channels: usize, device: Device) -> Result<Data, Error> {
        let (source, classes): (Arc<dyn Source>, usize) = match (choice, run) {
            (DataChoice::Run(split), Some(run)) => {
                let context = Context::new(run.config.clone(), device)?;
                (if *split == Split::Train { context.train } else { context.test }, context.classes)
            }
            (DataChoice::Run(_), None) => return Err(Error::Usage("--data: say on which images, or --run".into())),
            (DataChoice::Spec(spec), _) => open(spec).map(|source| (source.clone(), source.num_classes()))?,
            (DataChoice::Folder(path), _) => {
                let folder = Folder::open(path, channels)?;
                let classes = folder.num_classes();
                (Arc::new(folder), classes)
            }
        };
        let views = match (selection.augment, run) {
            (false, _) => None,
            (true, Some(run)) => Some(run.column.train.views.clone()),
            (true, None) => return Err(Error::Usage("--augment: the augmentation is that of a run's fine-tuning: needs --run".into())),
        };
        let refuse = |why: String| Err(Error::Usage(format!("{}: {why}", source.name())));
        if source.num_classes() == 0 {
            return refuse("has no labels: a loss needs them".into());
        }
        let source = subset(&source, selection)?;
        let mut seen: Vec<u32> = (0..source.len()).filter_map(|i| source.label(i)).collect();
        seen.sort_unstable();
        seen.dedup();
        if seen.len() < 2 {
            return refuse(format!("{} images of one class: a classifier's loss and accuracy need at least two", source.len()));
        }
        Ok(Data { source, classes, views, seed: selection.seed })
    }

    /// The images that are measured on.
    pub fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        self.source.name()
    }

    /// SHA-256 of the images that are measured on, and their labels.
    ///
    /// # Errors
    /// Images that cannot be read.
    pub fn fingerprint(&self) -> Result<String, Error> {
        Ok(self.source.fingerprint()?.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// Refuses a model that is not for these images.
    ///
    /// # Errors
    /// A model of other classes or channels.
    pub fn check(&self, subject: &Subject) -> Result<(), Error> {
        let config = &subject.config;
        let misfit = |what: &str, model: usize, data: usize| {
            let why = format!("is a model of {model} {what}, {} has {data}", self.name());
            Err(Error::File { path: subject.file.clone(), why })
        };
        if config.num_classes() != self.classes {
            return misfit("classes", config.num_classes(), self.classes);
        }
        if config.in_chans() != self.source.channels() {
            return misfit("channels", config.in_chans(), self.source.channels());
        }
        Ok(())
    }

    /// The images as a model sees them.
    ///
    /// # Errors
    /// Images that cannot be read.
    pub fn seen_by(&self, subject: &Subject) -> Result<Images, Error> {
        let config = &subject.config;
        let view = match &self.views {
            Some(views) => views.augment(config.img_size(), &subject.normalise)?,
            None => plain_view(config.img_size(), &subject.normalise)?,
        };
        self.decode(view)
    }

    fn decode(&self, view: Augment) -> Result<Images, Error> {
        let [c, h, w] = view.shape();
        let config = LoaderConfig { batch: 64, shuffle: false, drop_last: false, seed: self.seed, prefetch: 2, workers: 1 };
        let loader = Loader::new(self.source.clone(), view, config)?;
        let mut images = Images { pixels: Vec::with_capacity(self.source.len() * c * h * w), labels: vec![], shape: [c, h, w] };
        for batch in loader.epoch(0, 0) {
            let batch = batch?;
            images.pixels.extend_from_slice(batch.view(0));
            images.labels.extend_from_slice(&batch.labels);
        }
        Ok(images)
    }
}

/// As many images of every class as can be, the first classes one more where they do not divide; all if there are not more.
fn subset(source: &Arc<dyn Source>, selection: &Selection) -> Result<Arc<dyn Source>, Error> {
    let (wanted, classes) = (selection.images, source.num_classes());
    if wanted == 0 || wanted >= source.len() {
        return Ok(source.clone());
    }
    let balanced = |per_class: usize| Subset::balanced(source.clone(), per_class, selection.seed);
    let (fewer, more) = (balanced(wanted / classes)?, balanced(wanted.div_ceil(classes))?);
    // The larger one of a seed contains the smaller one.
    let extra = (wanted % classes) as u32;
    let taken = |i: &usize| fewer.indices().binary_search(i).is_ok() || source.label(*i).is_some_and(|label| label < extra);
    let indices = more.indices().iter().copied().filter(taken).collect();
    Ok(Arc::new(Subset::new(source.clone(), indices)?))
}

/// Images in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    /// Normalised values `[N, C, H, W]`.
    pub pixels: Vec<f32>,
    /// Classes `[N]`.
    pub labels: Vec<u32>,
    /// `[C, H, W]`.
    pub shape: [usize; 3],
}

impl Images {
    /// Batches of at most `batch` images: their pixels and their labels.
    pub fn batches(&self, batch: usize) -> impl Iterator<Item = (&[f32], &[u32])> {
        let values = batch * self.shape.iter().product::<usize>();
        self.pixels.chunks(values).zip(self.labels.chunks(batch))
    }

    /// The different sizes of these batches: the full one, and that of the last if it is smaller.
    pub fn batch_sizes(&self, batch: usize) -> Vec<usize> {
        let (full, rest) = (batch.min(self.labels.len()), self.labels.len() % batch);
        if rest == 0 || full < batch { vec![full] } else { vec![full, rest] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fd_data::FashionMnist;

    #[test]
    fn subsets_are_balanced_to_one_image_and_nested() {
        let source: Arc<dyn Source> = Arc::new(FashionMnist::test().unwrap());
        let take = |images, seed| subset(&source, &Selection { images, seed, augment: false }).unwrap();
        for images in [3, 10, 256, 9_999] {
            let part = take(images, 0);
            let of = |class| (0..part.len()).filter(|&i| part.label(i) == Some(class)).count();
            let counts: Vec<usize> = (0..10).map(of).collect();
            assert_eq!(counts.iter().sum::<usize>(), images);
            assert!(counts.iter().all(|n| [images / 10, images.div_ceil(10)].contains(n)), "{counts:?}");
        }
        assert_eq!((take(0, 0).len(), take(20_000, 0).len()), (10_000, 10_000));
        assert_ne!(take(40, 0).image(0).unwrap(), take(40, 1).image(0).unwrap());
    }

    #[test]
    fn batches_cover_all_images() {
        for (n, batch, sizes) in [(10, 4, vec![4, 2]), (8, 4, vec![4]), (3, 4, vec![3]), (4, 4, vec![4])] {
            let images = Images { pixels: vec![0.5; n * 6], labels: vec![1; n], shape: [1, 2, 3] };
            assert_eq!(images.batch_sizes(batch), sizes);
            assert_eq!(images.batches(batch).map(|(p, l)| p.len() / 6 + l.len()).sum::<usize>(), 2 * n);
        }
    }
}
