//! Every operation on the device against its CPU twin in f32: outputs, loss, gradients of inputs and parameters.
//!
//! For bf16 both sides get inputs and parameters that are rounded to it, so that what is left is what the kernels do.

use std::io::Write;

use fd_compute::{Arena, Cx, DType, Device, Grads, Params, StepKey, Stream};

use super::Job;
use super::cases::{Built, Case, Fill, cases};
use super::record::{Record, Worst};
use crate::Error;

/// What may be: relative to a tensor's largest number.
fn tolerance(dtype: DType) -> f64 {
    if dtype == DType::Bf16 { 2e-2 } else { 1e-5 }
}

pub(super) fn run(job: &Job, op: Option<&str>, record: &mut Record<impl Write>) -> Result<(), Error> {
    let all = cases(job.quick());
    for case in all.iter().filter(|c| op.is_none_or(|op| c.op == op)) {
        for dtype in [DType::F32, DType::Bf16] {
            let what = format!("{} ({})", case.name, dtype.name());
            if job.left().is_zero() {
                record.skip(&format!("{} {what}", case.op), "the time is over")?;
                continue;
            }
            record.check(case.op, &case.name, dtype, compare(case, &job.device(dtype)))?;
        }
    }
    Ok(())
}

/// Named tensors.
type Tensors = Vec<(String, Vec<f64>)>;

fn compare(case: &Case, device: &Device) -> Result<Worst, Error> {
    let built = case.build()?;
    let round = device.dtype() == DType::Bf16;
    let (expected, found) = (run_on(&built, &Device::CPU, round)?, run_on(&built, device, round)?);
    let mut worst = Worst::default();
    for ((name, expected), (_, found)) in expected.iter().zip(&found) {
        worst.compare(name, found, expected, tolerance(device.dtype()));
    }
    Ok(worst)
}

/// Outputs, the loss, gradients of parameters, gradients of inputs.
fn run_on(built: &Built, device: &Device, round: bool) -> Result<Tensors, Error> {
    let mut params = Params::new(&built.layout, DType::F32);
    for (i, p) in built.layout.iter().enumerate() {
        let shape = built.layout.shape(p);
        // Matrices as an initialisation would scale them, so that scores and activations stay of order one.
        let scale = if shape.len() == 2 { (shape[1] as f64).powf(-0.5) } else { 0.5 };
        let values: Vec<f64> = normal(shape.iter().product(), 100 + i as u64).iter().map(|v| scale * v + 0.1 * scale).collect();
        params.set(p, &rounded(values, round));
    }
    let mut arena = Arena::on(device, &built.plan)?;
    // Whatever is read before it is written shows.
    arena.poison();
    for (i, &(_, act, fill)) in built.inputs.iter().enumerate() {
        let shape = built.plan.shape(act);
        arena.write_f64(act, &rounded(values(fill, shape.len(), shape.cols(), 200 + i as u64), round));
    }
    let mut grads = Grads::new(&built.layout, DType::F32);
    let sets = [&params];
    let key = StepKey { seed: 5, step: 3, first_sample: 7, view: 1 };
    let mut cx = Cx { seed_grad: built.elements as f64, ..Cx::new(device, &sets, &mut arena, key) };
    built.plan.forward(&mut cx)?;
    let mut all: Tensors = built.outputs.iter().map(|(name, act)| (name.to_string(), cx.arena.to_f64(*act))).collect();
    all.push(("the loss".into(), cx.arena.to_f64(built.loss)));
    built.plan.backward(&mut cx, &mut grads)?;
    all.extend(built.layout.iter().map(|p| (format!("gradient of {}", built.layout.name(p)), grads.to_f64(p))));
    let differentiated = built.inputs.iter().filter(|(_, _, fill)| *fill == Fill::Differentiated);
    all.extend(differentiated.map(|(name, act, _)| (format!("gradient of {name}"), arena.grad_to_f64(*act))));
    // A fault that a reading could not return.
    fd_compute::cuda::synchronise(device)?;
    Ok(all)
}

fn normal(n: usize, key: u64) -> Vec<f64> {
    let mut s = Stream::new(&[key]);
    (0..n).map(|_| s.normal()).collect()
}

fn values(fill: Fill, n: usize, cols: usize, key: u64) -> Vec<f64> {
    let mut values = normal(n, key);
    match fill {
        Fill::Differentiated | Fill::Normal => {}
        Fill::Index(below) => {
            let mut s = Stream::new(&[key]);
            values.iter_mut().for_each(|v| *v = (s.uniform() * below as f64).floor());
        }
        Fill::Probabilities => values.chunks_mut(cols).for_each(|row| {
            row.iter_mut().for_each(|v| *v = v.exp());
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|v| *v /= sum);
        }),
    }
    values
}

/// To bf16, if that is wanted: to the nearest, of two the even one. Whole numbers (indices) above 256 do not survive it and are kept.
fn rounded(values: Vec<f64>, to_bf16: bool) -> Vec<f64> {
    let round = |v: f64| if v.fract() == 0.0 { v } else { half::bf16::from_f64(v).to_f64() };
    if to_bf16 { values.into_iter().map(round).collect() } else { values }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The comparison itself: a case agrees with itself, and one that is computed from other numbers does not.
    #[test]
    fn cases_run_on_the_cpu_and_differ_where_they_should() {
        for case in cases(true) {
            let built = case.build().unwrap();
            let [whole, again, round] = [false, false, true].map(|round| run_on(&built, &Device::CPU, round).unwrap());
            assert!(whole.iter().all(|(name, v)| !v.is_empty() && v.iter().all(|x| x.is_finite()) && !name.is_empty()), "{}", case.name);
            assert!(whole.iter().skip(1).any(|(_, v)| v.iter().any(|x| *x != 0.0)), "{} {}: all zero", case.op, case.name);
            assert_eq!(whole, again, "{} {}", case.op, case.name);
            assert_ne!(whole, round, "{} {}: rounding changes nothing", case.op, case.name);
        }
    }
}
