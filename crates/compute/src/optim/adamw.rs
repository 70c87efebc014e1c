//! AdamW (Loshchilov and Hutter 2019): m, v running means of g and g²; w -= lr · (wd · w + m̂ / (√v̂ + eps)).

use std::sync::Arc;

use rayon::prelude::*;

use super::{CHUNK, Rate, clip_factor, grad_norm};
use crate::cuda::Store;
use crate::{DType, Error, Grads, Layout, Param, Params, Real, simd_fn};

/// Adam with decoupled weight decay and its state, in the layout of the trained parameters.
#[derive(Clone, Debug)]
pub struct AdamW {
    pub(super) layout: Arc<Layout>,
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    pub(super) eps: f64,
    step: u64,
    pub(super) m: Store,
    pub(super) v: Store,
    pub(super) kept: OnDevice,
}

/// What the optimiser keeps on a device: a clone makes its own.
#[derive(Debug, Default)]
pub(super) struct OnDevice(pub Option<super::cuda::Kept>);

impl Clone for OnDevice {
    fn clone(&self) -> Self {
        OnDevice(None)
    }
}

/// How gradients are clipped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Clip {
    /// To a norm, if one is given.
    Norm(Option<f64>),
    /// By a factor.
    Factor(f64),
}

/// What one step needs of its numbers.
#[derive(Clone, Copy)]
struct Factors<T> {
    clip: T,
    beta1: T,
    beta2: T,
    /// 1 - beta, subtracted in double precision: in f32, 1 - 0.999 is off by 1e-5.
    rest1: T,
    rest2: T,
    decay: T,
    step_size: T,
    correction: T,
    eps: T,
}

simd_fn! {
    fn update<T: Real>(f: Factors<T>, w: &mut [T], g: &[T], m: &mut [T], v: &mut [T]) {
        let n = w.len();
        let (g, m, v) = (&g[..n], &mut m[..n], &mut v[..n]);
        for i in 0..n {
            let g = g[i] * f.clip;
            m[i] = T::fma::<S>(f.beta1, m[i], f.rest1 * g);
            v[i] = T::fma::<S>(f.beta2, v[i], f.rest2 * g * g);
            w[i] = w[i] * f.decay - f.step_size * m[i] / (v[i].sqrt() * f.correction + f.eps);
        }
    }
}

impl AdamW {
    /// State of zeros.
    pub fn new(layout: &Arc<Layout>, dtype: DType, (beta1, beta2): (f64, f64), eps: f64) -> Self {
        let zero = || Store::zeroed(dtype, layout.len);
        AdamW { layout: layout.clone(), beta1, beta2, eps, step: 0, m: zero(), v: zero(), kept: OnDevice::default() }
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// The running means (m, v) of one parameter.
    pub fn state(&self, p: Param) -> (Vec<f64>, Vec<f64>) {
        let range = self.layout.range(p);
        (self.m.host().read(range.clone()), self.v.host().read(range))
    }

    /// Restores the state of one parameter, as read by [`state`](AdamW::state).
    pub fn set_state(&mut self, p: Param, m: &[f64], v: &[f64]) {
        let range = self.layout.range(p);
        self.m.host_mut().write(range.clone(), m);
        self.v.host_mut().write(range, v);
    }

    /// Restores the number of steps taken.
    pub fn set_steps(&mut self, steps: u64) {
        self.step = steps;
    }

    /// One step with gradients multiplied by `clip` (see [`clip_factor`](super::clip_factor)); parameters that `rates` leaves out
    /// stay as they are.
    pub fn step(&mut self, params: &mut Params, grads: &Grads, rates: &[Rate], clip: f64) -> Result<(), Error> {
        self.check(params, grads)?;
        self.step += 1;
        match (params.dtype(), grads.on().cloned()) {
            (DType::F64, _) => self.step_in::<f64>(params, grads, rates, clip),
            (_, None) => self.step_in::<f32>(params, grads, rates, clip),
            (_, Some(gpu)) => return self.step_cuda(&gpu, params, grads, rates, Clip::Factor(clip)).map(drop),
        }
        Ok(())
    }

    /// One step with gradients clipped to `max_norm`, unless their norm is not finite: then nothing changes. Returns the norm before
    /// clipping. On a device norm, clipping and step are started together, and then waited for.
    pub fn step_clipped(&mut self, params: &mut Params, grads: &Grads, rates: &[Rate], max_norm: Option<f64>) -> Result<f64, Error> {
        let Some(gpu) = grads.on().cloned() else {
            let norm = grad_norm(grads);
            if norm.is_finite() {
                self.step(params, grads, rates, clip_factor(norm, max_norm))?;
            }
            return Ok(norm);
        };
        self.check(params, grads)?;
        self.step += 1;
        let norm = self.step_cuda(&gpu, params, grads, rates, Clip::Norm(max_norm))?;
        self.step -= u64::from(!norm.is_finite());
        Ok(norm)
    }

    fn check(&self, params: &Params, grads: &Grads) -> Result<(), Error> {
        if params.layout().id == self.layout.id && grads.layout().id == self.layout.id && params.dtype() == grads.dtype() {
            return Ok(());
        }
        let (expected, found) = (format!("layout {}", self.layout.id), format!("layout {}", params.layout().id));
        Err(Error::Mismatch { what: "optimiser", expected, found })
    }

    /// 1 - beta^t for both betas.
    pub(super) fn bias_corrections(&self) -> (f64, f64) {
        let t = self.step as i32;
        (1.0 - self.beta1.powi(t), 1.0 - self.beta2.powi(t))
    }

    fn step_in<T: Real>(&mut self, params: &mut Params, grads: &Grads, rates: &[Rate], clip: f64) {
        let (bias1, bias2) = self.bias_corrections();
        let (m, v) = (self.m.slice_mut::<T>(), self.v.slice_mut::<T>());
        let layout = &self.layout;
        params.write::<T, _>(|values| {
            for rate in rates {
                let factors = Factors {
                    clip: T::of(clip),
                    beta1: T::of(self.beta1),
                    beta2: T::of(self.beta2),
                    rest1: T::of(1.0 - self.beta1),
                    rest2: T::of(1.0 - self.beta2),
                    decay: T::of(1.0 - rate.lr * rate.weight_decay),
                    step_size: T::of(rate.lr / bias1),
                    correction: T::of(1.0 / bias2.sqrt()),
                    eps: T::of(self.eps),
                };
                let r = layout.range(rate.param);
                let (w, m, v) = (&mut values[r.clone()], &mut m[r.clone()], &mut v[r]);
                let chunks = (w.par_chunks_mut(CHUNK), grads.get::<T>(rate.param).par_chunks(CHUNK));
                let state = (m.par_chunks_mut(CHUNK), v.par_chunks_mut(CHUNK));
                (chunks.0, chunks.1, state.0, state.1).into_par_iter().for_each(|(w, g, m, v)| update(factors, w, g, m, v));
            }
        });
    }
}
