//! Multi-crop: several groups of views a batch, each of its own size.

mod support;

use std::sync::Arc;

use fd_data::{
    Augment, AugmentConfig, Batch, Crop, Geometry, Interpolation, Jitter, Loader, LoaderConfig, Normalisation, Photometric, SampleKey,
    Scratch, Solarise, Source,
};
use support::{Numbered, message};

fn augment(size: [usize; 2], photometric: Photometric) -> Augment {
    let geometry =
        Geometry::RandomResizedCrop { size, scale: [0.2, 1.0], ratio: fd_data::DEFAULT_RATIO, interpolation: Interpolation::Bilinear };
    Augment::new(AugmentConfig { geometry, flip: 0.5, rand_augment: None, photometric, erase: 0.2, normalise: Normalisation::imagenet() })
        .unwrap()
}

/// Two large views, then one of the same size in other colours, then three small ones.
fn crops() -> Vec<Crop> {
    let jitter = Some(Jitter { prob: 0.8, brightness: 0.4, contrast: 0.4, saturation: 0.2, hue: 0.1 });
    let plain = Photometric { jitter, grayscale: 0.2, ..Photometric::default() };
    let solarised = Photometric { solarise: Some(Solarise { prob: 0.5, threshold: 128 }), ..plain.clone() };
    vec![
        Crop { augment: augment([6, 5], plain.clone()), views: 2 },
        Crop { augment: augment([6, 5], solarised), views: 1 },
        Crop { augment: augment([3, 2], plain), views: 3 },
    ]
}

fn config() -> LoaderConfig {
    LoaderConfig { batch: 4, shuffle: true, drop_last: false, seed: 9, prefetch: 2, workers: 0 }
}

fn epoch(crops: Vec<Crop>, config: LoaderConfig, start: usize) -> Vec<Batch> {
    let loader = Loader::multi_crop(Arc::new(Numbered::new(14)), crops, config).unwrap();
    assert_eq!(loader.batches(), 4);
    loader.epoch(2, start).map(Result::unwrap).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Shapes, groups and views are one buffer, seen three ways; what lies there is what the augmentation makes of each key.
#[test]
fn groups_hold_the_views_of_their_keys_in_order() {
    let (crops, source, mut scratch) = (crops(), Numbered::new(14), Scratch::default());
    let augments: Vec<&Augment> = crops.iter().flat_map(|crop| std::iter::repeat_n(&crop.augment, crop.views)).collect();
    let batches = epoch(crops.clone(), config(), 0);
    for batch in &batches {
        let n = if batch.batch == 3 { 2 } else { 4 };
        assert_eq!((batch.len(), batch.groups(), batch.shape), (n, 3, [2, n, 3, 6, 5]));
        assert_eq!([0, 1, 2, 3].map(|g| batch.group_shape(g)), [batch.shape, [1, n, 3, 6, 5], [3, n, 3, 3, 2], [0; 5]]);
        assert_eq!([0, 1, 2, 3].map(|g| batch.group(g)).concat(), batch.images);
        assert_eq!([0, 1, 2, 3, 4, 5, 6, usize::MAX].map(|v| batch.view(v)).concat(), batch.images);
        assert_eq!([0, 2, 3].map(|v| batch.view(v).len()), [n * 90, n * 90, n * 18]);
        for (view, augment) in augments.iter().enumerate() {
            for (place, &index) in batch.indices.iter().enumerate() {
                let mut expected = vec![f32::NAN; augment.shape().iter().product()];
                let key = SampleKey { seed: 9, epoch: 2, index: index as u64, view: view as u64 };
                augment.apply(&source.image(index).unwrap(), key, &mut scratch, &mut expected).unwrap();
                let found = &batch.view(view)[place * expected.len()..][..expected.len()];
                assert_eq!(bits(found), bits(&expected), "view {view} of sample {index}");
            }
        }
    }
}

/// Views with equal keys and augmentations are equal, whatever groups are around them.
#[test]
fn batches_equal_those_of_loaders_with_one_group() {
    let several = epoch(crops(), config(), 0);
    for (group, crop) in crops().into_iter().enumerate() {
        let before: usize = crops()[..group].iter().map(|c| c.views).sum();
        let alone = epoch(vec![Crop { views: before + crop.views, ..crop.clone() }], config(), 0);
        for (several, alone) in several.iter().zip(alone) {
            assert_eq!(several.indices, alone.indices);
            let expected: Vec<f32> = (before..before + crop.views).flat_map(|view| alone.view(view).to_vec()).collect();
            assert_eq!(bits(several.group(group)), bits(&expected), "group {group}");
        }
    }
    let one = Loader::new(Arc::new(Numbered::new(14)), crops().remove(0).augment, config()).unwrap();
    for (several, one) in several.iter().zip(one.epoch(2, 0)) {
        let one = one.unwrap();
        assert_eq!((one.groups(), one.shape[0], bits(&one.images)), (1, 1, bits(several.view(0))));
    }
}

#[test]
fn threads_and_the_start_change_no_bit() {
    let all: Vec<_> = epoch(crops(), config(), 0).iter().map(|b| (b.batch, bits(&b.images))).collect();
    assert_eq!(all.len(), 4);
    for (workers, start) in [(1, 0), (3, 0), (0, 2), (1, 1), (3, 3), (3, 4)] {
        let seen: Vec<_> = epoch(crops(), LoaderConfig { workers, ..config() }, start).iter().map(|b| (b.batch, bits(&b.images))).collect();
        assert_eq!(seen, all[start..], "{workers} workers from {start}");
    }
}

#[test]
fn a_view_can_be_changed_where_it_lies() {
    let mut batch = epoch(crops(), config(), 0).remove(0);
    let before = batch.images.clone();
    batch.view_mut(3).fill(7.0);
    assert!(batch.view_mut(6).is_empty());
    assert_eq!((&batch.images[..3 * 360], &batch.images[3 * 360 + 72..]), (&before[..3 * 360], &before[3 * 360 + 72..]));
    assert_eq!(batch.group(2)[..72], [7.0; 72]);
    // Without its images a batch has no views; nothing panics.
    let images = std::mem::take(&mut batch.images);
    assert_eq!((images.len(), batch.view(0), batch.group(2)), (3 * 360 + 3 * 72, &[][..], &[][..]));
}

#[test]
fn impossible_crops_are_refused() {
    let refused = |crops| message(Loader::multi_crop(Arc::new(Numbered::new(14)), crops, config()));
    let with_views = |views| vec![crops().remove(0), Crop { views, ..crops().remove(2) }];
    assert_eq!(refused(vec![]), "crops: expected at least 1, found 0");
    assert_eq!(refused(with_views(0)), "views: expected at least 1, found 0");
    assert_eq!(refused(with_views(usize::MAX)), "batch: expected a size in memory, found 4");
    assert_eq!(refused(with_views((isize::MAX as usize - 4 * 720) / (4 * 72) + 1)), "batch: expected a size in memory, found 4");
    let grey = AugmentConfig { normalise: Normalisation::fashion_mnist(), ..crops()[0].augment.config().clone() };
    let grey = Crop { augment: Augment::new(grey).unwrap(), views: 1 };
    assert_eq!(refused(vec![crops().remove(0), grey]), "numbered: mixed channel counts: expected 1, found 3");
}
