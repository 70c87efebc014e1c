//! How many images a second one core prepares, and what the loader makes of several threads.
//!
//! `cargo run --release -p fd-data --example throughput [folder of photographs]`

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use fd_data::{
    Augment, AugmentConfig, Blur, DEFAULT_RATIO, FashionMnist, Folder, Geometry, Interpolation, Jitter, Loader, LoaderConfig,
    Normalisation, Photometric, RandAugment, Result, SampleKey, Scratch, Source,
};

fn main() -> Result<()> {
    let grey: Arc<dyn Source> = Arc::new(FashionMnist::test()?);
    for interpolation in [Interpolation::Bilinear, Interpolation::Bicubic] {
        let augment = augmentation([28, 28], [0.3, 1.0], interpolation, Normalisation::fashion_mnist())?;
        report(&format!("28 x 28 grey, {interpolation:?}"), grey.as_ref(), &augment, 100_000)?;
        report("    with jitter", grey.as_ref(), &coloured(&augment, false)?, 100_000)?;
        report("    with jitter and blur", grey.as_ref(), &coloured(&augment, true)?, 100_000)?;
        report("    with RandAugment", grey.as_ref(), &rand_augmented(&augment)?, 100_000)?;
    }
    let augment = augmentation([28, 28], [0.3, 1.0], Interpolation::Bilinear, Normalisation::fashion_mnist())?;
    for workers in [0, 1, 2] {
        let config = LoaderConfig { batch: 256, shuffle: true, drop_last: true, seed: 0, prefetch: 4, workers };
        let loader = Loader::new(grey.clone(), augment.clone(), config)?;
        let (start, mut images) = (Instant::now(), 0);
        for epoch in 0..10 {
            for batch in loader.epoch(epoch, 0) {
                images += batch?.len();
            }
        }
        println!("loader, {workers} workers: {:.0} images/s", images as f64 / start.elapsed().as_secs_f64());
    }
    if let Some(folder) = std::env::args_os().nth(1) {
        let photographs = Folder::open(Path::new(&folder), 3)?;
        let augment = augmentation([224, 224], [0.08, 1.0], Interpolation::Bilinear, Normalisation::imagenet())?;
        report("photographs to 224 x 224, decoding included", &photographs, &augment, photographs.len())?;
        report("    with jitter", &photographs, &coloured(&augment, false)?, photographs.len())?;
        report("    with jitter and blur", &photographs, &coloured(&augment, true)?, photographs.len())?;
        report("    with RandAugment", &photographs, &rand_augmented(&augment)?, photographs.len())?;
        let start = Instant::now();
        (0..photographs.len()).try_for_each(|index| photographs.image(index).map(drop))?;
        println!("of which decoding alone: {:.0} images/s", photographs.len() as f64 / start.elapsed().as_secs_f64());
    }
    Ok(())
}

fn augmentation(size: [usize; 2], scale: [f64; 2], interpolation: Interpolation, normalise: Normalisation) -> Result<Augment> {
    let geometry = Geometry::RandomResizedCrop { size, scale, ratio: DEFAULT_RATIO, interpolation };
    Augment::new(AugmentConfig { geometry, flip: 0.5, rand_augment: None, photometric: Photometric::default(), erase: 0.0, normalise })
}

/// The same with DINO's colours: jitter, or jitter and blur, of every view.
fn coloured(augment: &Augment, blur: bool) -> Result<Augment> {
    let jitter = Some(Jitter { prob: 1.0, brightness: 0.4, contrast: 0.4, saturation: 0.2, hue: 0.1 });
    let blur = blur.then_some(Blur { prob: 1.0, sigma: [0.1, 2.0] });
    let photometric = Photometric { jitter, grayscale: 0.2, blur, ..Photometric::default() };
    Augment::new(AugmentConfig { photometric, ..augment.config().clone() })
}

/// The same with the paper's RandAugment.
fn rand_augmented(augment: &Augment) -> Result<Augment> {
    let rand_augment = Some(RandAugment { layers: 2, magnitude: 9.0, magnitude_std: 0.5, prob: 0.5, interpolation: None });
    Augment::new(AugmentConfig { rand_augment, ..augment.config().clone() })
}

fn report(what: &str, source: &dyn Source, augment: &Augment, images: usize) -> Result<()> {
    let (mut scratch, mut out) = (Scratch::default(), vec![0.0; augment.shape().iter().product()]);
    let start = Instant::now();
    for index in 0..images {
        let key = SampleKey { seed: 0, epoch: 0, index: index as u64, view: 0 };
        augment.apply(&source.image(index % source.len())?, key, &mut scratch, &mut out)?;
    }
    println!("{what}: {:.0} images/s on one core", images as f64 / start.elapsed().as_secs_f64());
    Ok(())
}
