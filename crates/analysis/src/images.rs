//! The images that models are shown: some of a folder's, or of the embedded Fashion-MNIST, in the evaluation's plain view.

use std::path::Path;
use std::sync::Arc;

use fd_compute::Stream;
use fd_data::{Augment, DataSpec, Folder, SampleKey, Scratch, Source, Split, Subset, open};
use fd_distill::features::{Fitting, view};
use fd_model::Statistics;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Which images.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Where they come from.
    pub data: Origin,
    /// How many; none: all.
    pub size: Option<usize>,
    /// The first so many in order, or with a seed others, drawn without replacement.
    pub seed: Option<u64>,
    /// How they get a model's size. Fashion-MNIST's are taken whole.
    pub fitting: Fitting,
}

/// Where images come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A folder of images (flat, or a sub-folder a class), or `fashion-mnist` (its test images) or `fashion-mnist:train`.
    Named(String),
    /// A configuration's.
    Spec(DataSpec),
}

/// A data set that is open.
struct OpenData {
    source: Arc<dyn Source>,
    /// Files below the folder, if it is one.
    files: Vec<String>,
    /// Are its images resized whole, whatever is said?
    whole: bool,
}

impl Origin {
    /// Opens it, for models of `channels`.
    fn open(&self, channels: usize) -> Result<OpenData, Error> {
        let embedded =
            |spec: &DataSpec| Ok(OpenData { source: open(spec)?, files: vec![], whole: matches!(spec, DataSpec::FashionMnist { .. }) });
        let split = |name: &str| match name {
            "fashion-mnist" | "fashion-mnist:test" => Some(Split::Test),
            "fashion-mnist:train" => Some(Split::Train),
            _ => None,
        };
        let path = match self {
            Origin::Spec(DataSpec::Folder { path, .. }) => path.as_path(),
            Origin::Spec(spec) => return embedded(spec),
            Origin::Named(name) => match split(name) {
                Some(split) => return embedded(&DataSpec::FashionMnist { split }),
                None => Path::new(name),
            },
        };
        let folder = Folder::open(path, channels)?;
        let below = |file: &std::path::PathBuf| file.strip_prefix(folder.root()).unwrap_or(file).display().to_string();
        let files = folder.files().iter().map(below).collect();
        Ok(OpenData { source: Arc::new(folder), files, whole: false })
    }
}

/// What a report says of its images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataNote {
    /// The folder or data set.
    pub source: String,
    /// SHA-256 of what was chosen of it.
    pub fingerprint: String,
    /// How many images were shown.
    pub images: usize,
    /// Of how many.
    pub of: usize,
    /// The seed of the draw; none for the first in order.
    pub seed: Option<u64>,
    /// Share of the short side that the crop in the middle keeps; none where images are resized whole.
    pub crop: Option<f64>,
}

/// Chosen images, ready to be shown to models of one number of channels.
pub struct Images {
    subset: Subset,
    names: Vec<String>,
    fitting: Fitting,
    /// What a report says of them.
    pub note: DataNote,
}

impl Choice {
    /// Opens the data and chooses.
    ///
    /// # Errors
    /// Data that cannot be read, fewer images than asked for, other channels than `channels`.
    pub fn open(&self, channels: usize) -> Result<Images, Error> {
        let OpenData { source, files, whole } = self.data.open(channels)?;
        let name = source.name().to_string();
        if source.channels() != channels {
            let why = format!("--data {name}: its images have {} channels, the model {channels}", source.channels());
            return Err(Error::Usage(why));
        }
        let of = source.len();
        let images = self.size.unwrap_or(of);
        if images > of {
            return Err(Error::Usage(format!("--size {images}: {name} holds {of} images")));
        }
        let indices = self.seed.map_or_else(|| (0..images).collect(), |seed| draw(of, images, seed));
        let names = indices.iter().map(|&i| files.get(i).cloned().unwrap_or_else(|| i.to_string())).collect();
        let subset = Subset::new(source, indices)?;
        let fitting = if whole { Fitting::Stretch } else { self.fitting };
        let crop = if let Fitting::Crop(share) = fitting { Some(share) } else { None };
        let fingerprint = subset.fingerprint()?.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Images { subset, names, fitting, note: DataNote { source: name, fingerprint, images, of, seed: self.seed, crop } })
    }
}

/// `n` of `0..of` without replacement, in order; more of the same seed contain fewer.
fn draw(of: usize, n: usize, seed: u64) -> Vec<usize> {
    let (mut all, mut random): (Vec<usize>, _) = ((0..of).collect(), Stream::named(seed, "images"));
    for i in 0..n {
        let other = i + ((of - i) as f64 * random.uniform()) as usize;
        all.swap(i, other.min(of - 1));
    }
    all.truncate(n);
    all.sort_unstable();
    all
}

impl Images {
    /// How many.
    pub fn len(&self) -> usize {
        self.subset.len()
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Each one's file below the folder, or its number.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The view of them for a model of these image sizes and statistics.
    ///
    /// # Errors
    /// A share or statistics that cannot be.
    pub fn view(&self, img_size: (usize, usize), normalise: &Statistics) -> Result<Augment, Error> {
        Ok(view(img_size, self.fitting, normalise)?)
    }

    /// Decodes the images from number `first` on, on all threads, into `out` [B, C, H, W].
    ///
    /// # Errors
    /// A file that cannot be read or decoded.
    pub fn decode(&self, first: usize, view: &Augment, out: &mut [f32]) -> Result<(), Error> {
        let each = view.shape().iter().product::<usize>();
        out.par_chunks_exact_mut(each).enumerate().try_for_each_init(Scratch::default, |scratch, (i, place)| {
            let image = self.subset.image(first + i)?;
            view.apply(&image, SampleKey { seed: 0, epoch: 0, index: (first + i) as u64, view: 0 }, scratch, place)
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_nested_seeded_and_in_order() {
        let (few, many) = (draw(50, 5, 1), draw(50, 20, 1));
        assert!(few.iter().all(|i| many.contains(i)) && many.is_sorted() && many.windows(2).all(|w| w[0] < w[1]));
        assert_ne!(many, draw(50, 20, 2));
        assert_eq!(draw(50, 50, 3), (0..50).collect::<Vec<_>>());
        assert!(draw(50, 0, 3).is_empty());
    }

    #[test]
    fn what_was_chosen_is_said() {
        let choice = Choice { data: Origin::Named("fashion-mnist".into()), size: Some(7), seed: Some(3), fitting: Fitting::Crop(0.875) };
        let images = choice.open(1).unwrap();
        assert_eq!((images.len(), images.note.images, images.note.of, images.note.crop), (7, 7, 10_000, None));
        assert_eq!(images.names().len(), 7);
        assert!(choice.open(3).err().unwrap().to_string().contains("1 channels"));
        let more = Choice { size: Some(10_001), ..choice };
        assert_eq!(more.open(1).err().unwrap().to_string(), "--size 10001: fashion-mnist test holds 10000 images");
    }
}
