//! Several real steps of a distillation: losses, gradient norms, learning rates, and the parameters `p{k}.*` after step k.

use fd_compute::optim::{AdamW, clip_factor, grad_norm};
use fd_compute::{Cx, DType, Grads, StepKey};

use super::Stop;
use super::checks::{Checks, EXACT, error, tolerance};
use super::distillation::Pair;
use super::kind::{TeacherClass, TrainingOptions, cosine, options, teacher_class};
use crate::distillation::Engine;
use crate::groups::Rates;

pub(super) fn run(checks: &mut Checks) -> Result<(), Stop> {
    let o: TrainingOptions = options(&checks.golden().json)?;
    let class = o.cls.as_deref().map_or(Ok(TeacherClass::Plain), teacher_class)?;
    if let Some(count) = o.accumulation_steps.filter(|&count| count > 1) {
        return Err(Stop::Unknown(format!("`accumulation_steps` is {count}")));
    }
    let mut pair = Pair::read(checks, class, o.loss.as_deref(), o.ln_tgt_eps)?;
    let ([steps, batch, chans, height, width], images) = checks.input::<5>("in.images")?;
    let config = pair.student();
    if (chans, (height, width)) != (config.in_chans(), config.img_size()) {
        return Err(Stop::Failed(format!("`in.images` of {chans} x {height} x {width} do not fit the student")));
    }
    let said = o.steps.unwrap_or(steps);
    checks.require(said == steps, || format!("`steps` is {said}, `in.images` has {steps}"));

    let schedule = cosine((o.base_lr, o.warmup_lr, o.min_lr), o.epochs, o.warmup_epochs, o.n_iter_per_epoch);
    let mut rates = Rates::new(&pair.fd.trained, o.weight_decay, o.layer_decay.unwrap_or(1.0), schedule);
    let mut adamw = AdamW::new(&pair.fd.trained, DType::F32, o.betas.unwrap_or((0.9, 0.999)), o.eps.unwrap_or(1e-8));
    let mut grads = Grads::new(&pair.fd.trained, DType::F32);
    let step = pair.fd.plan(batch, Engine::Fused)?;
    let mut arena = checks.arena(&step.plan)?;
    let (mut losses, mut norms, mut lrs) = (vec![], vec![], vec![]);
    for (i, images) in images.chunks_exact(batch * chans * height * width).enumerate() {
        arena.write_f64(step.images, images);
        let sets = [&pair.trained, &pair.frozen];
        let device = checks.device();
        let mut cx = Cx::new(&device, &sets, &mut arena, StepKey::default());
        step.plan.forward(&mut cx)?;
        losses.push(step.loss.value(&step.plan, &mut cx)?.0);
        grads.reset();
        step.plan.backward(&mut cx, &mut grads)?;
        let norm = grad_norm(&grads);
        norms.push(norm);
        lrs.push(schedule.at(i, 1.0));
        let clip = clip_factor(norm, o.clip_grad.filter(|&max| max > 0.0));
        adamw.step(&mut pair.trained, &grads, rates.update(i), clip)?;
        compare_params(checks, &pair, i + 1)?;
    }
    let f32s = o.losses_f32.as_deref().unwrap_or(&o.losses);
    let within = |step| tolerance(deviation(f32s, &o.losses, step));
    checks.compare_numbers("losses", &losses, &o.losses, within);
    checks.compare_numbers("losses_f32", &losses, f32s, within);
    checks.compare_numbers("grad_norms", &norms, &o.grad_norms, within);
    checks.compare_numbers("lrs", &lrs, &o.lrs, |_| EXACT);
    Ok(())
}

/// How far PyTorch's f32 losses are off, at any step but this one: a wrong number does not get itself a tolerance.
fn deviation(f32s: &[f64], losses: &[f64], step: usize) -> f64 {
    let pairs = f32s.iter().zip(losses).enumerate().filter(|(i, _)| *i != step);
    pairs.map(|(_, (f, l))| error(&[*f], &[*l], f64::MIN_POSITIVE)).fold(0.0, f64::max)
}

fn compare_params(checks: &mut Checks, pair: &Pair, steps: usize) -> Result<(), Stop> {
    if checks.below(&format!("p{steps}.")).next().is_none() {
        return Ok(());
    }
    let layout = &pair.fd.trained;
    for p in layout.iter() {
        checks.compare(&format!("p{steps}.{}", layout.name(p)), layout.shape(p), &pair.trained.to_f64(p))?;
    }
    Ok(())
}
