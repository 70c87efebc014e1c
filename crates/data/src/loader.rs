//! The loader: which samples make up which batch, and how one batch is prepared. Threads are in `epoch.rs`.
//!
//! The order of an epoch is a permutation of (seed, epoch); a sample's views follow from (seed, epoch, index, view). So a batch has the
//! same bits however many threads there are, however far they run ahead, and wherever in the epoch one starts. Multi-crop (a few large
//! views and some small ones of each sample) is several [`Crop`]s; an image is decoded once for all of its views.

use std::fmt;
use std::iter::repeat_n;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::augment::{Augment, Scratch};
use crate::batch::{Batch, Pool};
use crate::epoch::Epoch;
use crate::error::{DataError, Result, check_setting};
use crate::random::{Purpose, SampleKey, Stream};
use crate::source::Source;

/// The settings of a [`Loader`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderConfig {
    /// Samples a batch.
    pub batch: usize,
    /// Whether each epoch has its own random order; otherwise that of the source.
    pub shuffle: bool,
    /// Whether an incomplete last batch is left out.
    pub drop_last: bool,
    /// Seed of the order and of the augmentation.
    pub seed: u64,
    /// Batches in the making or waiting at any time; no more than this many threads have work. Ignored if `workers` is 0.
    pub prefetch: usize,
    /// Threads that prepare batches; 0 prepares them in the caller's thread when they are asked for.
    pub workers: usize,
}

impl LoaderConfig {
    fn check(&self) -> Result<()> {
        check_setting(self.batch > 0, "batch", "at least 1", self.batch)?;
        check_setting(self.workers == 0 || self.prefetch > 0, "prefetch", "at least 1 where there are workers", self.prefetch)?;
        check_setting(self.workers <= 4096, "workers", "at most 4096", self.workers)?;
        check_setting(self.prefetch <= 4096, "prefetch", "at most 4096", self.prefetch)
    }
}

/// A group of views of each sample that are augmented alike.
#[derive(Clone, Debug)]
pub struct Crop {
    /// The augmentation; with it, the size.
    pub augment: Augment,
    /// The number of views, at least 1.
    pub views: usize,
}

/// Delivers a source, augmented, in batches. Cloning it is cheap: clones share the source and the recycled buffers.
#[derive(Clone)]
pub struct Loader {
    recipe: Arc<Recipe>,
}

impl Loader {
    /// A loader of one view of each sample of `source`.
    ///
    /// # Errors
    /// As [`Loader::multi_crop`].
    pub fn new(source: Arc<dyn Source>, augment: Augment, config: LoaderConfig) -> Result<Self> {
        Self::multi_crop(source, vec![Crop { augment, views: 1 }], config)
    }

    /// A loader of several views of each sample. They are numbered through the crops, those of the first crop first; the number is
    /// [`SampleKey::view`], so that crops added at the end change no view before them.
    ///
    /// # Errors
    /// A setting out of range, no crop or one without views, an empty source, channel counts of source and augmentations that differ,
    /// or a batch that `drop_last` leaves without any sample.
    pub fn multi_crop(source: Arc<dyn Source>, crops: Vec<Crop>, config: LoaderConfig) -> Result<Self> {
        config.check()?;
        check_setting(!crops.is_empty(), "crops", "at least 1", crops.len())?;
        let file = source.name().to_owned();
        if source.is_empty() {
            return Err(DataError::Empty { file });
        }
        let samples = config.batch.min(source.len());
        let mut bytes = Some(0usize);
        for Crop { augment, views } in &crops {
            check_setting(*views > 0, "views", "at least 1", views)?;
            let [expected, height, width] = augment.shape();
            if source.channels() != expected {
                return Err(DataError::Channels { file, expected, found: source.channels() });
            }
            let group = [*views, samples, expected, height, width].into_iter().try_fold(4usize, usize::checked_mul);
            bytes = bytes.zip(group).and_then(|(bytes, group)| bytes.checked_add(group));
        }
        let some = !config.drop_last || config.batch <= source.len();
        check_setting(some, "batch", "at most the number of samples if drop_last", config.batch)?;
        check_setting(bytes.is_some_and(|bytes| isize::try_from(bytes).is_ok()), "batch", "a size in memory", config.batch)?;
        let pool = Pool::new(config.prefetch + 2);
        Ok(Self { recipe: Arc::new(Recipe { source, crops, config, pool }) })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &LoaderConfig {
        &self.recipe.config
    }

    /// The source.
    #[must_use]
    pub fn source(&self) -> &Arc<dyn Source> {
        &self.recipe.source
    }

    /// The groups of views.
    #[must_use]
    pub fn crops(&self) -> &[Crop] {
        &self.recipe.crops
    }

    /// Batches an epoch.
    #[must_use]
    pub fn batches(&self) -> usize {
        self.recipe.batches()
    }

    /// The batches of an epoch from number `start_batch` on; none if that is past the end. Threads start at once.
    /// After an `Err` the iterator ends; a later `start_batch` passes over a batch that cannot be made.
    #[must_use]
    pub fn epoch(&self, epoch: u64, start_batch: usize) -> Epoch {
        let order = self.recipe.order(epoch);
        Epoch::start(Run { recipe: self.recipe.clone(), order, epoch, stop: AtomicBool::new(false) }, start_batch)
    }
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.recipe.source.name();
        f.debug_struct("Loader").field("source", &name).field("config", &self.recipe.config).finish_non_exhaustive()
    }
}

/// All that batches are made from.
pub(crate) struct Recipe {
    source: Arc<dyn Source>,
    crops: Vec<Crop>,
    pub(crate) config: LoaderConfig,
    pool: Arc<Pool>,
}

impl Recipe {
    pub(crate) fn batches(&self) -> usize {
        let (samples, batch) = (self.source.len(), self.config.batch);
        if self.config.drop_last { samples / batch } else { samples.div_ceil(batch) }
    }

    /// The source's indices in the order of an epoch.
    fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.source.len()).collect();
        if self.config.shuffle {
            Stream::new(self.config.seed, Purpose::Shuffle, [epoch, 0], 0).shuffle(&mut order);
        }
        order
    }
}

/// An epoch under way, shared by its threads.
pub(crate) struct Run {
    pub(crate) recipe: Arc<Recipe>,
    order: Vec<usize>,
    epoch: u64,
    /// Set when nobody wants batches any more.
    pub(crate) stop: AtomicBool,
}

impl Run {
    /// Makes batch `number`, which has to exist.
    pub(crate) fn prepare(&self, number: usize, scratch: &mut Scratch) -> Result<Batch> {
        let Recipe { source, crops, config, pool } = self.recipe.as_ref();
        let first = number * config.batch;
        let indices = &self.order[first..(first + config.batch).min(self.order.len())];
        let mut batch = Batch::from_pool(pool, self.epoch, number);
        batch.first = first;
        batch.set_groups(crops.iter().map(|crop| {
            let [channels, height, width] = crop.augment.shape();
            [crop.views, indices.len(), channels, height, width]
        }));
        batch.indices.extend_from_slice(indices);
        if source.num_classes() > 0 {
            for &index in indices {
                batch.labels.push(label(source.as_ref(), index)?);
            }
        }
        for (place, &index) in indices.iter().enumerate() {
            if self.stop.load(Ordering::Relaxed) {
                return Err(DataError::Worker { reason: "stopped".into() });
            }
            let image = source.image(index)?;
            if image.channels != source.channels() {
                let file = format!("{} sample {index}", source.name());
                return Err(DataError::Channels { file, expected: source.channels(), found: image.channels });
            }
            let views = crops.iter().flat_map(|crop| repeat_n(&crop.augment, crop.views));
            for (view, augment) in views.enumerate() {
                let key = SampleKey { seed: config.seed, epoch: self.epoch, index: index as u64, view: view as u64 };
                let size = augment.shape().iter().product::<usize>();
                augment.apply(&image, key, scratch, &mut batch.view_mut(view)[place * size..][..size])?;
            }
        }
        Ok(batch)
    }
}

/// The label of a sample that must have one.
fn label(source: &dyn Source, index: usize) -> Result<u32> {
    let file = || source.name().to_owned();
    let found = source.label(index).ok_or_else(|| DataError::Unlabelled { file: file(), index })?;
    let expected = source.num_classes();
    if (found as usize) < expected { Ok(found) } else { Err(DataError::Label { file: file(), index, expected, found }) }
}
