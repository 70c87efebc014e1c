//! Values and gradients of a model's parameters.

use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use crate::cuda::{DeviceBuffer, Gpu, Store};
use crate::optim::CHUNK;
use crate::{DType, Device, Error, Layout, Param, Real};

/// A model's parameters: one buffer behind a [`Layout`]. Values change only through [`write`](Params::write), which counts versions,
/// and by optimisers. Where a plan or an optimiser works on them on a device they lie there, and come back when they are read.
#[derive(Debug)]
pub struct Params {
    layout: Arc<Layout>,
    values: Store,
    /// The values in bf16 on the device, once a plan has asked for them.
    shadow: OnceLock<DeviceBuffer>,
    version: u64,
}

impl Clone for Params {
    fn clone(&self) -> Self {
        Params { layout: self.layout.clone(), values: self.values.clone(), shadow: OnceLock::new(), version: self.version }
    }
}

impl Params {
    /// All zero.
    pub fn new(layout: &Arc<Layout>, dtype: DType) -> Self {
        Params { layout: layout.clone(), values: Store::zeroed(dtype, layout.len), shadow: OnceLock::new(), version: 0 }
    }

    /// The layout.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Element type of the values.
    pub fn dtype(&self) -> DType {
        self.values.dtype()
    }

    /// Grows with every [`write`](Params::write): what was derived from the values (a bf16 shadow, a cache) compares it.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A parameter's values; `T` must be the element type.
    pub fn get<T: Real>(&self, p: Param) -> &[T] {
        &self.values.slice::<T>()[self.layout.range(p)]
    }

    /// A parameter's values, widened.
    pub fn to_f64(&self, p: Param) -> Vec<f64> {
        self.values.host().read(self.layout.range(p))
    }

    /// Sets one parameter's values, rounding to the element type. The lengths must agree.
    pub fn set(&mut self, p: Param, values: &[f64]) {
        let range = self.layout.range(p);
        assert_eq!(range.len(), values.len(), "{}: {} values for {}", self.layout.name(p), values.len(), range.len());
        self.changed().write(range, values);
    }

    /// Changes values: the closure sees the whole buffer, parameter by parameter at [`Params::range`].
    pub fn write<T: Real, R>(&mut self, change: impl FnOnce(&mut [T]) -> R) -> R {
        change(self.changed().slice_mut::<T>())
    }

    /// The values on the host, about to change.
    fn changed(&mut self) -> &mut crate::arena::Buffer {
        self.version += 1;
        self.shadow.take();
        self.values.host_mut()
    }

    /// Where a parameter lies in the buffer that [`write`](Params::write) hands out.
    pub fn range(&self, p: Param) -> std::ops::Range<usize> {
        self.layout.range(p)
    }

    /// Moves every value by a share of its way to another set's: self ← self + rate · (other - self), the exponential moving average
    /// of a momentum teacher with rate = 1 - momentum. Both sets must be of one layout and element type.
    ///
    /// # Errors
    /// Sets of different layouts or types.
    pub fn approach(&mut self, other: &Params, rate: f64) -> Result<(), Error> {
        if self.layout.id != other.layout.id || self.dtype() != other.dtype() {
            let name = |p: &Params| format!("layout {} in {}", p.layout.id, p.dtype().name());
            return Err(Error::Mismatch { what: "moving average", expected: name(self), found: name(other) });
        }
        match (self.dtype(), other.values.on().cloned()) {
            (DType::F64, _) => approach(self.changed().slice_mut::<f64>(), other.all(), rate),
            (_, None) => approach(self.changed().slice_mut::<f32>(), other.all(), rate as f32),
            (_, Some(gpu)) => {
                let from = other.on_device(&gpu)?;
                let (to, shadow) = self.on_device_mut(&gpu)?;
                crate::optim::cuda::approach(&gpu, to, shadow, from, rate as f32, self.layout.len)?;
            }
        }
        Ok(())
    }

    pub(crate) fn all<T: Real>(&self) -> &[T] {
        self.values.slice::<T>()
    }

    /// Where the f32 values lie on a device.
    pub(crate) fn on_device(&self, gpu: &Arc<Gpu>) -> Result<u64, Error> {
        Ok(self.values.device(gpu)?.address())
    }

    /// Where their bf16 shadow lies.
    pub(crate) fn shadow(&self, gpu: &Arc<Gpu>) -> Result<u64, Error> {
        if let Some(shadow) = self.shadow.get() {
            return Ok(shadow.address());
        }
        let shadow = DeviceBuffer::new(gpu, self.layout.len * 2)?;
        crate::cuda::narrow(gpu, self.on_device(gpu)?, shadow.address(), self.layout.len)?;
        Ok(self.shadow.get_or_init(|| shadow).address())
    }

    /// Where the values and, if there is one, their shadow lie, to be changed by work that is started: both, or the shadow is lost.
    pub(crate) fn on_device_mut(&mut self, gpu: &Arc<Gpu>) -> Result<(u64, Option<u64>), Error> {
        self.version += 1;
        Ok((self.values.device_mut(gpu)?.address(), self.shadow.get().map(DeviceBuffer::address)))
    }
}

fn approach<T: Real>(to: &mut [T], from: &[T], rate: T) {
    let chunks = to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK));
    chunks.for_each(|(to, from)| to.iter_mut().zip(from).for_each(|(a, &b)| *a = *a + rate * (b - *a)));
}

/// Gradients of a trained model's parameters, in the same layout.
#[derive(Clone, Debug)]
pub struct Grads {
    layout: Arc<Layout>,
    values: Store,
    /// Does the next backward pass overwrite (a step's first micro-batch) or add?
    pub(crate) fresh: bool,
}

impl Grads {
    /// Room for the gradients of a layout.
    pub fn new(layout: &Arc<Layout>, dtype: DType) -> Self {
        Grads { layout: layout.clone(), values: Store::zeroed(dtype, layout.len), fresh: true }
    }

    /// The layout.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.values.dtype()
    }

    /// Starts a step: the next backward pass overwrites, those after it add. Costs nothing.
    pub fn reset(&mut self) {
        self.fresh = true;
    }

    /// A parameter's gradient.
    pub fn get<T: Real>(&self, p: Param) -> &[T] {
        &self.values.slice::<T>()[self.layout.range(p)]
    }

    /// A parameter's gradient, widened.
    pub fn to_f64(&self, p: Param) -> Vec<f64> {
        self.values.host().read(self.layout.range(p))
    }

    /// Adds to a parameter's gradient: for what is differentiated outside a plan. Call it after the step's first backward pass.
    pub fn add(&mut self, p: Param, values: &[f64]) {
        let range = self.layout.range(p);
        let sum: Vec<f64> = self.values.host().read(range.clone()).iter().zip(values).map(|(a, b)| a + b).collect();
        self.values.host_mut().write(range, &sum);
    }

    /// Brings them to a device, if it is one: the optimiser works where the gradients are.
    ///
    /// # Errors
    /// A device that cannot be used, or whose memory is full.
    pub fn place(&self, device: &Device) -> Result<(), Error> {
        device.cuda_ordinal().map_or(Ok(()), |ordinal| self.on_device(&Gpu::open(ordinal)?).map(drop))
    }

    /// Sets a parameter's gradient.
    pub fn set(&mut self, p: Param, values: &[f64]) {
        self.values.host_mut().write(self.layout.range(p), values);
    }

    pub(crate) fn all<T: Real>(&self) -> &[T] {
        self.values.slice::<T>()
    }

    pub(crate) fn all_mut<T: Real>(&mut self) -> &mut [T] {
        self.values.slice_mut::<T>()
    }

    /// The device they lie on, if they do.
    pub(crate) fn on(&self) -> Option<&Arc<Gpu>> {
        self.values.on()
    }

    /// Where they lie on a device.
    pub(crate) fn on_device(&self, gpu: &Arc<Gpu>) -> Result<u64, Error> {
        Ok(self.values.device(gpu)?.address())
    }

    /// The same, to be changed by work that is started.
    pub(crate) fn on_device_mut(&mut self, gpu: &Arc<Gpu>) -> Result<u64, Error> {
        Ok(self.values.device_mut(gpu)?.address())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moving_average_by_hand() {
        let mut layout = Layout::builder();
        let w = layout.add("w", &[2]);
        let layout = layout.finish();
        let (mut slow, mut fast) = (Params::new(&layout, DType::F32), Params::new(&layout, DType::F32));
        fast.set(w, &[8.0, -4.0]);
        slow.approach(&fast, 0.25).unwrap();
        assert_eq!(slow.to_f64(w), [2.0, -1.0]);
        slow.approach(&fast, 1.0).unwrap();
        assert_eq!(slow.to_f64(w), [8.0, -4.0]);
        let mut other = Layout::builder();
        other.add("w", &[2]);
        assert!(slow.approach(&Params::new(&other.finish(), DType::F32), 0.5).is_err());
        assert!(slow.approach(&Params::new(&layout, DType::F64), 0.5).is_err());
    }
}
