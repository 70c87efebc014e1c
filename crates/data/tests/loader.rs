//! The loader: equal bits whatever the threads, resume, errors, early ends, recycling.

mod support;

use std::collections::HashSet;
use std::sync::Arc;

use fd_data::{Augment, AugmentConfig, Batch, Crop, Geometry, Interpolation, Loader, LoaderConfig, Normalisation, Photometric, Source};
use support::{Numbered, message};

fn augment() -> Augment {
    Augment::new(AugmentConfig {
        geometry: Geometry::RandomResizedCrop {
            size: [4, 7],
            scale: [0.2, 1.0],
            ratio: fd_data::DEFAULT_RATIO,
            interpolation: Interpolation::Bicubic,
        },
        flip: 0.5,
        rand_augment: None,
        photometric: Photometric::default(),
        erase: 0.3,
        normalise: Normalisation::imagenet(),
    })
    .unwrap()
}

fn config() -> LoaderConfig {
    LoaderConfig { batch: 8, shuffle: true, drop_last: false, seed: 11, prefetch: 3, workers: 2 }
}

/// Two views of each sample.
fn loader(source: Numbered, config: LoaderConfig) -> Loader {
    Loader::multi_crop(Arc::new(source), vec![Crop { augment: augment(), views: 2 }], config).unwrap()
}

/// Everything a batch says, with its floats as bits.
type Seen = (usize, usize, [usize; 5], Vec<u32>, Vec<u32>, Vec<usize>);

fn seen(batch: &Batch) -> Seen {
    let bits = batch.images.iter().map(|v| v.to_bits()).collect();
    (batch.batch, batch.first, batch.shape, bits, batch.labels.clone(), batch.indices.clone())
}

fn epoch(config: LoaderConfig, epoch: u64, start: usize) -> Vec<Seen> {
    loader(Numbered::new(45), config).epoch(epoch, start).map(|batch| seen(&batch.unwrap())).collect()
}

#[test]
fn threads_and_prefetch_change_no_bit() {
    let expected = epoch(LoaderConfig { workers: 0, ..config() }, 1, 0);
    assert_eq!(expected.len(), 6);
    for (workers, prefetch) in [(0, 0), (1, 1), (1, 4), (2, 1), (3, 2), (4, 9), (9, 64)] {
        assert_eq!(epoch(LoaderConfig { workers, prefetch, ..config() }, 1, 0), expected, "{workers} workers, prefetch {prefetch}");
    }
    assert_ne!(epoch(config(), 2, 0), expected);
    assert_ne!(epoch(LoaderConfig { seed: 12, ..config() }, 1, 0), expected);
}

#[test]
fn an_epoch_resumes_anywhere() {
    let all = epoch(config(), 5, 0);
    for start in 0..=7 {
        for workers in [0, 1, 3] {
            assert_eq!(epoch(LoaderConfig { workers, ..config() }, 5, start), all[start.min(6)..], "from {start}");
        }
    }
}

#[test]
fn batches_hold_every_sample_once_with_its_label() {
    let batches = epoch(config(), 0, 0);
    let order: Vec<usize> = batches.iter().flat_map(|b| b.5.clone()).collect();
    assert_eq!(order.iter().collect::<HashSet<_>>().len(), 45);
    assert_ne!(order, (0..45).collect::<Vec<_>>());
    for (number, (batch, first, shape, bits, labels, indices)) in batches.into_iter().enumerate() {
        let len = if number == 5 { 5 } else { 8 };
        assert_eq!((batch, first, shape, bits.len()), (number, number * 8, [2, len, 3, 4, 7], 2 * len * 84));
        assert_eq!(labels, indices.iter().map(|i| (i % 2) as u32).collect::<Vec<_>>());
    }
    let whole = epoch(LoaderConfig { drop_last: true, ..config() }, 0, 0);
    assert_eq!(whole.len(), 5);
    let in_order = epoch(LoaderConfig { shuffle: false, ..config() }, 3, 0);
    assert_eq!(in_order.iter().flat_map(|b| b.5.clone()).collect::<Vec<_>>(), (0..45).collect::<Vec<_>>());
}

/// A view depends on its sample, not on the batch around it.
#[test]
fn batch_size_does_not_change_a_sample() {
    let flat = |batch| {
        let loader = Loader::new(Arc::new(Numbered::new(45)), augment(), LoaderConfig { batch, ..config() }).unwrap();
        loader.epoch(4, 0).flat_map(|batch| seen(&batch.unwrap()).3).collect::<Vec<_>>()
    };
    assert_eq!(flat(3), flat(20));
    let first = loader(Numbered::new(45), config()).epoch(0, 0).next().unwrap().unwrap();
    assert_ne!(first.view(0), first.view(1));
    assert_eq!((first.view(1).len(), first.view(2).len()), (8 * 84, 0));
}

#[test]
fn unlabelled_sources_give_no_labels() {
    let source = Numbered { classes: Vec::new(), ..Numbered::new(9) };
    let batch = loader(source, config()).epoch(0, 0).next().unwrap().unwrap();
    assert_eq!((batch.labels.len(), batch.len(), batch.is_empty()), (0, 8, false));
}

#[test]
fn an_error_arrives_in_its_place_and_ends_the_epoch() {
    for workers in [0, 1, 3] {
        let source = Numbered { bad: Some(20), ..Numbered::new(45) };
        let loader = loader(source, LoaderConfig { workers, shuffle: false, ..config() });
        let mut epoch = loader.epoch(0, 0);
        assert!(epoch.by_ref().take(2).all(|batch| batch.is_ok()));
        assert_eq!(message(epoch.next().unwrap()), "numbered 20: undecodable image: bad on purpose");
        assert!(epoch.next().is_none());
        assert_eq!(loader.epoch(0, 3).filter(|batch| batch.is_ok()).count(), 3);
    }
}

#[test]
fn a_panic_in_a_worker_is_an_error_not_a_hang() {
    let source = Numbered { deadly: Some(9), ..Numbered::new(45) };
    let loader = loader(source, LoaderConfig { shuffle: false, ..config() });
    let mut epoch = loader.epoch(0, 0);
    assert!(epoch.next().unwrap().is_ok());
    assert_eq!(message(epoch.next().unwrap()), "loader thread lost: sample 9 is deadly");
    assert!(epoch.next().is_none());
}

#[test]
fn leaving_early_stops_the_threads() {
    let source = Arc::new(Numbered::new(10_000));
    for taken in [0, 1, 5] {
        let loader = Loader::new(source.clone(), augment(), LoaderConfig { workers: 3, prefetch: 8, ..config() }).unwrap();
        let mut epoch = loader.epoch(0, 0);
        assert_eq!(epoch.by_ref().take(taken).filter(|batch| batch.is_ok()).count(), taken);
        drop(epoch);
        drop(loader);
        assert_eq!(Arc::strong_count(&source), 1, "a thread still holds the source");
    }
}

#[test]
fn buffers_come_back() {
    let loader = loader(Numbered::new(64), LoaderConfig { workers: 0, ..config() });
    let mut places = HashSet::new();
    for epoch in 0..3 {
        for batch in loader.epoch(epoch, 0) {
            places.insert(batch.unwrap().images.as_ptr());
        }
    }
    assert_eq!(places.len(), 1);
    let mut batch = loader.epoch(0, 0).next().unwrap().unwrap();
    let kept = std::mem::take(&mut batch.images);
    drop(batch);
    assert_eq!(kept.len(), 2 * 8 * 84);
}

#[test]
fn impossible_settings_are_refused() {
    let refused = |source: Numbered, config| message(Loader::new(Arc::new(source), augment(), config));
    let with = |change: &dyn Fn(&mut LoaderConfig)| {
        let mut changed = config();
        change(&mut changed);
        refused(Numbered::new(45), changed)
    };
    assert_eq!(with(&|c| c.batch = 0), "batch: expected at least 1, found 0");
    assert_eq!(with(&|c| c.prefetch = 0), "prefetch: expected at least 1 where there are workers, found 0");
    assert_eq!(with(&|c| c.workers = 5000), "workers: expected at most 4096, found 5000");
    let too_large = LoaderConfig { batch: 46, drop_last: true, ..config() };
    assert_eq!(refused(Numbered::new(45), too_large), "batch: expected at most the number of samples if drop_last, found 46");
    assert_eq!(refused(Numbered::new(0), config()), "numbered: expected at least one image, found none");
    let grey: Arc<dyn Source> = Arc::new(fd_data::FashionMnist::test().unwrap());
    assert_eq!(message(Loader::new(grey, augment(), config())), "fashion-mnist test: mixed channel counts: expected 3, found 1");
}
