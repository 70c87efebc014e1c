//! The optimiser's passes on a device: the gradient's norm, AdamW with clipping and the bf16 shadow, the moving average. One pass over
//! memory each.

use std::sync::Arc;

use super::adamw::Clip;
use super::{AdamW, Rate};
use crate::cuda::{Channel, DeviceBuffer, Gpu, Grid, Kernel, args, start};
use crate::{Error, Grads, Params};

/// A tensor in one step of AdamW: `Tensor` of `optim.cu`.
#[derive(Clone, Copy, Debug, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C)]
struct Tensor {
    /// First element in the buffers, and how many.
    at: u64,
    len: u64,
    /// The first block that works on it.
    block: u32,
    padding: u32,
    decay: f32,
    step_size: f32,
}

/// What the optimiser keeps on the device between steps.
#[derive(Debug)]
pub(super) struct Kept {
    tensors: Channel,
    scratch: DeviceBuffer,
}

/// Elements a block of AdamW's kernel works on.
const BLOCK: usize = 4096;
/// Blocks whose sums the norm is made of.
const PARTIALS: usize = 1024;
/// Bytes of [`Kept::scratch`]: the sums, then the norm (f64) and the factor that clips (f32; NaN: no step).
const SCRATCH: usize = (PARTIALS + 2) * size_of::<f64>();

/// Starts the norm over all gradients, in double precision and fixed order, and the factor that clips it: behind the sums in `scratch`.
fn start_norm(gpu: &Arc<Gpu>, grads: &Grads, max_norm: Option<f64>, scratch: u64) -> Result<(), Error> {
    let from = grads.on_device(gpu)?;
    let (len, max) = (grads.layout().len as u64, max_norm.unwrap_or(f64::INFINITY));
    start(gpu, Kernel::plain("optim", "optim_square_sums"), Grid::line(PARTIALS), 256, 256, &args![from, scratch, len])?;
    start(gpu, Kernel::plain("optim", "optim_norm"), Grid::line(1), 256, 256, &args![scratch, PARTIALS, max])
}

fn read_norm(scratch: &DeviceBuffer) -> Result<f64, Error> {
    let mut norm = [0f64];
    scratch.download(PARTIALS * size_of::<f64>(), bytemuck::cast_slice_mut(&mut norm))?;
    Ok(norm[0])
}

/// Euclidean norm over all gradients; waits for the device.
pub(crate) fn grad_norm(gpu: &Arc<Gpu>, grads: &Grads) -> Result<f64, Error> {
    let _turn = gpu.enter()?;
    gpu.check()?;
    let scratch = DeviceBuffer::new(gpu, SCRATCH)?;
    start_norm(gpu, grads, None, scratch.address())?;
    read_norm(&scratch)
}

/// to ← to + rate · (from - to), and the bf16 shadow of `to`.
pub(crate) fn approach(gpu: &Arc<Gpu>, to: u64, shadow: Option<u64>, from: u64, rate: f32, len: usize) -> Result<(), Error> {
    let _turn = gpu.enter()?;
    let args = args![to, from, shadow.unwrap_or(0), rate, len as u64];
    start(gpu, Kernel::plain("optim", "optim_approach"), Grid::cover(len, BLOCK), 256, 0, &args)
}

impl AdamW {
    /// One step as [`AdamW::step_clipped`] says it; the norm is read when all has been started.
    pub(super) fn step_cuda(
        &mut self,
        gpu: &Arc<Gpu>,
        params: &mut Params,
        grads: &Grads,
        rates: &[Rate],
        clip: Clip,
    ) -> Result<f64, Error> {
        let _turn = gpu.enter()?;
        gpu.check()?;
        let mut kept = match self.kept.0.take() {
            Some(kept) => kept,
            None => {
                let words = self.layout.entries.len() * size_of::<Tensor>() / size_of::<f32>();
                Kept { tensors: Channel::new(gpu, words)?, scratch: DeviceBuffer::new(gpu, SCRATCH)? }
            }
        };
        let blocks = self.tensors(rates, bytemuck::cast_slice_mut(kept.tensors.fill()?));
        let scratch = kept.scratch.address();
        let (factor, given) = match clip {
            Clip::Norm(max) => {
                start_norm(gpu, grads, max, scratch)?;
                (scratch + ((PARTIALS + 1) * size_of::<f64>()) as u64, 1.0)
            }
            Clip::Factor(factor) => (0, factor as f32),
        };
        let g = grads.on_device(gpu)?;
        let (m, v) = (self.m.device_mut(gpu)?.address(), self.v.device_mut(gpu)?.address());
        let (w, shadow) = params.on_device_mut(gpu)?;
        let [beta1, beta2, rest1, rest2] = [self.beta1, self.beta2, 1.0 - self.beta1, 1.0 - self.beta2].map(|b| b as f32);
        let (correction, eps) = ((1.0 / self.bias_corrections().1.sqrt()) as f32, self.eps as f32);
        kept.tensors.receive(|table| {
            let shadow = shadow.unwrap_or(0);
            let args = args![w, shadow, g, m, v, table, rates.len(), factor, given, beta1, beta2, rest1, rest2, correction, eps];
            start(gpu, Kernel::plain("optim", "optim_adamw"), Grid::line(blocks), 256, 0, &args)
        })?;
        let norm = if let Clip::Norm(_) = clip { read_norm(&kept.scratch)? } else { 0.0 };
        self.kept.0 = Some(kept);
        Ok(norm)
    }

    /// Fills the kernel's table, and says how many blocks there are.
    fn tensors(&self, rates: &[Rate], table: &mut [Tensor]) -> usize {
        let step = 1.0 / self.bias_corrections().0;
        let mut block = 0;
        for (rate, tensor) in rates.iter().zip(table) {
            let range = self.layout.range(rate.param);
            let (decay, step_size) = ((1.0 - rate.lr * rate.weight_decay) as f32, (rate.lr * step) as f32);
            let (at, len) = (range.start as u64, range.len() as u64);
            *tensor = Tensor { at, len, block: block as u32, padding: 0, decay, step_size };
            block += range.len().div_ceil(BLOCK);
        }
        block
    }
}
