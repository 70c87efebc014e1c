//! A training loop of one's own: a teacher from a file, the paper's student, any folder of images; no labels, no run directory.
//!
//! ```sh
//! cargo run --release -p fd-distill --example training_loop -- TEACHER DIR
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fd_compute::optim::{AdamW, clip_factor, grad_norm};
use fd_compute::{Arena, Cx, DType, Device, Grads, Params, StepKey};
use fd_data::{Augment, AugmentConfig, Folder, Geometry, Interpolation, Loader, LoaderConfig, Normalisation, Photometric};
use fd_distill::Objective;
use fd_distill::distillation::{Distillation, Engine, Projector};
use fd_distill::groups::Rates;
use fd_distill::schedule::Cosine;
use fd_distill::train::Loss;
use fd_model::{Allow, Checkpoint, Import, Init, initialise};

const STEPS: usize = 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [file, folder] = &args[..] else { return Err("usage: training_loop TEACHER DIR".into()) };

    // The teacher, and the paper's student of it, in one plan: whitened features, a linear layer, smooth L1.
    let import = Import::open(file)?;
    let found = import.choose(None)?;
    let (teacher, student) = (found.config.clone(), found.config.student().with_drop_path(0.1));
    let folder = Arc::new(Folder::open(folder, teacher.in_chans())?);
    let batch = 8.min(fd_data::Source::len(folder.as_ref()));
    let fd = Distillation::new(&student, &teacher, Projector::Linear {}, Objective::PAPER)?;
    let step = fd.plan(batch, Engine::Fused)?;
    let Loss::InPlan { total, .. } = step.loss else { return Err("the fused objective has its loss in the plan".into()) };
    let (mut trained, mut frozen) = (Params::new(&fd.trained, DType::F32), Params::new(&fd.frozen[0], DType::F32));
    import.fit(found, &teacher, &Allow::default())?.load(&mut frozen, "")?;
    for prefix in ["encoder.", "decoder."] {
        initialise(&mut trained, prefix, &student, Init::Official, 0);
    }

    // Both see the same view, normalised as the teacher was trained.
    let (size, statistics) = ([student.img_size().0, student.img_size().1], found.statistics());
    let geometry =
        Geometry::RandomResizedCrop { size, scale: [0.67, 1.0], ratio: [0.75, 4.0 / 3.0], interpolation: Interpolation::Bilinear };
    let normalise = Normalisation { mean: statistics.mean.clone(), std: statistics.std.clone() };
    let augment = Augment::new(AugmentConfig {
        geometry,
        flip: 0.5,
        erase: 0.0,
        rand_augment: None,
        photometric: Photometric::default(),
        normalise,
    })?;
    let config = LoaderConfig { batch, shuffle: true, drop_last: true, seed: 0, prefetch: 2, workers: 1 };
    let loader = Loader::new(folder, augment, config)?;

    let (mut grads, mut arena) = (Grads::new(&fd.trained, DType::F32), Arena::new(&step.plan, DType::F32));
    let mut adam = AdamW::new(&fd.trained, DType::F32, (0.9, 0.999), 1e-8);
    let schedule = Cosine { base_lr: 1e-3, warmup_lr: 1e-5, min_lr: 1e-5, steps: STEPS, warmup_steps: 2 };
    let mut rates = Rates::new(&fd.trained, 0.05, 1.0, schedule);
    let batches = (0..).flat_map(|epoch| loader.epoch(epoch, 0)).take(STEPS);
    for (i, images) in batches.enumerate() {
        arena.write::<f32>(step.images, images?.view(0));
        let sets = [&trained, &frozen];
        let mut cx = Cx::new(&Device::CPU, &sets, &mut arena, StepKey { step: i as u64, ..StepKey::default() });
        step.plan.forward(&mut cx)?;
        let loss = cx.arena.scalar(total);
        grads.reset();
        step.plan.backward(&mut cx, &mut grads)?;
        let clip = clip_factor(grad_norm(&grads), Some(3.0));
        adam.step(&mut trained, &grads, rates.update(i), clip)?;
        println!("step {i:3}  loss {:.4}", loss);
    }

    // The student alone; `distill convert` writes it for timm.
    let weights = Checkpoint::of(&trained, "encoder.").described(&student, Some(&statistics))?;
    weights.write(Path::new("student.safetensors"))?;
    println!("written: student.safetensors");
    Ok(())
}
