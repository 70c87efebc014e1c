//! A part of a source: chosen samples, or the same number of every class.

use std::sync::Arc;

use crate::error::{DataError, Result};
use crate::fingerprint::Fingerprint;
use crate::random::{Purpose, Stream};
use crate::source::{Image8, Source, check_index};

/// A source restricted to some of its samples, in the order given. Classes and their names stay those of the whole.
#[derive(Clone)]
pub struct Subset {
    source: Arc<dyn Source>,
    indices: Vec<usize>,
}

impl Subset {
    /// The samples at `indices`, which may repeat.
    ///
    /// # Errors
    /// [`DataError::Index`] if one is past the end.
    pub fn new(source: Arc<dyn Source>, indices: Vec<usize>) -> Result<Self> {
        indices.iter().try_for_each(|&index| check_index(source.as_ref(), index))?;
        Ok(Self { source, indices })
    }

    /// `per_class` samples of every class, in the order of the source. Which ones depends on `seed` only, and a larger subset of the
    /// same seed contains the smaller one.
    ///
    /// # Errors
    /// [`DataError::Unlabelled`] without labels; [`DataError::TooFew`] if a class is smaller than `per_class`;
    /// [`DataError::Label`] if a label is not below the number of classes.
    pub fn balanced(source: Arc<dyn Source>, per_class: usize, seed: u64) -> Result<Self> {
        let file = || source.name().to_owned();
        let mut members = vec![Vec::new(); source.num_classes()];
        for index in 0..source.len() {
            let label = source.label(index).ok_or_else(|| DataError::Unlabelled { file: file(), index })?;
            let expected = members.len();
            let class = usize::try_from(label).ok().and_then(|class| members.get_mut(class));
            class.ok_or_else(|| DataError::Label { file: file(), index, expected, found: label })?.push(index);
        }
        let mut indices = Vec::with_capacity(per_class.saturating_mul(members.len()).min(source.len()));
        for (class, mut all) in members.into_iter().enumerate() {
            if all.len() < per_class {
                return Err(DataError::TooFew { file: file(), class, expected: per_class, found: all.len() });
            }
            Stream::new(seed, Purpose::Subset, [0, 0], class as u64).shuffle(&mut all);
            indices.extend_from_slice(&all[..per_class]);
        }
        indices.sort_unstable();
        Ok(Self { source, indices })
    }

    /// The chosen samples as indices of the whole.
    #[must_use]
    pub fn indices(&self) -> &[usize] {
        &self.indices
    }
}

impl Source for Subset {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn image(&self, index: usize) -> Result<Image8<'_>> {
        check_index(self, index)?;
        self.source.image(self.indices[index])
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.source.label(*self.indices.get(index)?)
    }

    fn num_classes(&self) -> usize {
        self.source.num_classes()
    }

    fn channels(&self) -> usize {
        self.source.channels()
    }

    fn name(&self) -> &str {
        self.source.name()
    }

    fn class_names(&self) -> &[String] {
        self.source.class_names()
    }

    /// The whole's fingerprint and the indices.
    fn fingerprint(&self) -> Result<[u8; 32]> {
        let mut fingerprint = Fingerprint::new("subset", self.channels());
        fingerprint.bytes(&self.source.fingerprint()?);
        fingerprint.number(self.indices.len());
        self.indices.iter().for_each(|&index| fingerprint.number(index));
        Ok(fingerprint.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FashionMnist;

    #[test]
    fn balanced_subsets_are_balanced_nested_and_seeded() {
        let source: Arc<dyn Source> = Arc::new(FashionMnist::train().unwrap());
        let take = |per_class, seed| Subset::balanced(source.clone(), per_class, seed).unwrap();
        let (small, large) = (take(3, 5), take(20, 5));
        assert_eq!((small.len(), large.len(), large.num_classes()), (30, 200, 10));
        for class in 0..10 {
            assert_eq!((0..large.len()).filter(|&i| large.label(i) == Some(class)).count(), 20);
        }
        assert!(small.indices().iter().all(|i| large.indices().contains(i)));
        assert!(large.indices().is_sorted());
        assert_eq!(large.indices(), take(20, 5).indices());
        assert_ne!(large.indices(), take(20, 6).indices());
        assert_eq!(large.image(7).unwrap(), source.image(large.indices()[7]).unwrap());
    }

    #[test]
    fn impossible_subsets_are_refused() {
        let source: Arc<dyn Source> = Arc::new(FashionMnist::train().unwrap());
        let error = Subset::balanced(source.clone(), 601, 0).err().unwrap().to_string();
        assert_eq!(error, "fashion-mnist train: class 0: expected at least 601 samples, found 600");
        let error = Subset::new(source.clone(), vec![0, 6_000]).err().unwrap().to_string();
        assert_eq!(error, "fashion-mnist train: no sample 6000: expected an index less than 6000");
        let pair = Subset::new(source, vec![9, 9]).unwrap();
        assert!(pair.image(2).is_err() && pair.label(2).is_none());
    }
}
