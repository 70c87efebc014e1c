//! A plan's working memory on a device, and the way in and out of it.
//!
//! Inputs are written to page-locked memory and copied on a second stream, beside the kernels of the step before; what is read comes
//! over when it is asked for and stays until the next run.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use cudarc::driver::result;

use super::channel::Channel;
use super::gpu::Gpu;
use super::memory::DeviceBuffer;
use super::run::{Grid, Kernel, Kind, Place, Ptr, args, launch};
use super::walk::Recorded;
use crate::arena::Buffer;
use crate::plan::{Act, Plan};
use crate::schedule::places;
use crate::{DType, Error};

/// A value, or its gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Value,
    Grad,
}

pub(crate) struct DeviceArena {
    pub(super) gpu: Arc<Gpu>,
    dtype: DType,
    pub(super) memory: DeviceBuffer,
    pub(super) places: Vec<Place>,
    pub(super) scratch: DeviceBuffer,
    pub(super) control: DeviceBuffer,
    pub(super) tables: HashMap<(usize, usize), DeviceBuffer>,
    /// What has been read since the last run, by activation: value and gradient.
    copies: Vec<[OnceLock<Buffer>; 2]>,
    staged: HashMap<(u32, Side), Channel>,
    /// Where inputs are written that the device refused.
    lost: Vec<f32>,
    /// The forward and the backward pass as graphs.
    pub(super) recorded: [Recorded; 2],
}

impl std::fmt::Debug for DeviceArena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceArena({:?}, {:?})", self.memory, self.dtype)
    }
}

/// Buffers start at multiples of this many bytes.
const ALIGN: usize = 256;

impl DeviceArena {
    pub fn new(gpu: &Arc<Gpu>, plan: &Plan, dtype: DType) -> Result<Self, Error> {
        let narrow = match dtype {
            DType::F32 => Kind::F32,
            DType::Bf16 => Kind::Bf16,
            DType::F64 => return Err(gpu.error("f64 runs on the CPU only")),
        };
        // Kernels count elements in 32 bits.
        if let Some(shape) = plan.acts.iter().map(|a| a.shape).find(|s| i32::try_from(s.len()).is_err()) {
            return Err(gpu.error(format!("an activation of {shape} has 2^31 elements or more: use a smaller batch")));
        }
        let kinds: Vec<Kind> = plan.wide.iter().map(|wide| if *wide { Kind::F32 } else { narrow }).collect();
        let (places, bytes) = layout(plan, &kinds);
        let needs = plan.ops.iter().map(|op| op.wiring().device_scratch).map(|(f, b)| f.max(b)).max().unwrap_or(0);
        Ok(DeviceArena {
            gpu: gpu.clone(),
            dtype,
            memory: DeviceBuffer::new(gpu, bytes)?,
            copies: places.iter().map(|_| [OnceLock::new(), OnceLock::new()]).collect(),
            places,
            scratch: DeviceBuffer::new(gpu, needs)?,
            control: DeviceBuffer::zeroed(gpu, 64)?,
            tables: HashMap::new(),
            staged: HashMap::new(),
            lost: vec![],
            recorded: Default::default(),
        })
    }

    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes it takes on the device.
    pub fn bytes(&self) -> usize {
        self.memory.bytes() + self.scratch.bytes()
    }

    /// Every value NaN.
    pub fn poison(&mut self) -> Result<(), Error> {
        self.memory.fill(0xff)?;
        self.scratch.fill(0xff)
    }

    /// What was read belongs to the run before.
    pub(super) fn forget(&mut self) {
        self.copies.iter_mut().flatten().for_each(|copy| drop(copy.take()));
    }

    /// The copy of one value is no longer what the device has.
    pub(super) fn forget_value(&mut self, act: Act) {
        self.copies[act.index as usize][0].take();
    }

    fn at(&self, act: Act, side: Side) -> Ptr {
        let place = &self.places[act.index as usize];
        let at = match side {
            Side::Value => place.value.expect("a value that the plan stores"),
            Side::Grad => place.grad.expect("an activation with a gradient"),
        };
        Ptr { address: self.memory.address() + at as u64, kind: place.kind }
    }

    /// A value or gradient on the host, in f32. Faults of the device are remembered, and the numbers are NaN.
    pub fn read(&self, act: Act, side: Side) -> &Buffer {
        let place = &self.places[act.index as usize];
        self.copies[act.index as usize][side as usize].get_or_init(|| {
            let mut buffer = Buffer::zeroed(DType::F32, place.len);
            let answer = match self.staged.get(&(act.index, side)).and_then(Channel::pending) {
                Some(written) => {
                    buffer.slice_mut::<f32>().copy_from_slice(written);
                    Ok(())
                }
                None => self.download(act, side, buffer.slice_mut()),
            };
            if let Err(fault) = answer {
                self.gpu.remember(fault);
                buffer.fill_nan();
            }
            buffer
        })
    }

    fn download(&self, act: Act, side: Side, to: &mut [f32]) -> Result<(), Error> {
        let from = self.at(act, side);
        let offset = (from.address - self.memory.address()) as usize;
        match from.kind {
            Kind::F32 => self.memory.download(offset, bytemuck::cast_slice_mut(to)),
            Kind::Bf16 => {
                let mut bits = vec![0u16; to.len()];
                self.memory.download(offset, bytemuck::cast_slice_mut(&mut bits))?;
                to.iter_mut().zip(bits).for_each(|(x, b)| *x = f32::from_bits(u32::from(b) << 16));
                Ok(())
            }
        }
    }

    /// Memory to write an input to. It is copied when the plan runs, or by [`send`](DeviceArena::send). Where the device refuses it, the
    /// fault is remembered, and the next run returns it.
    pub fn fill(&mut self, act: Act, side: Side) -> &mut [f32] {
        match self.stage(act, side) {
            Ok(()) => self.staged.get_mut(&(act.index, side)).expect("just staged").written(),
            Err(fault) => {
                self.gpu.remember(fault);
                self.lost.resize(self.places[act.index as usize].len, 0.0);
                &mut self.lost
            }
        }
    }

    fn stage(&mut self, act: Act, side: Side) -> Result<(), Error> {
        self.at(act, side);
        self.copies[act.index as usize][side as usize].take();
        let key = (act.index, side);
        if !self.staged.contains_key(&key) {
            self.staged.insert(key, Channel::new(&self.gpu, self.places[act.index as usize].len)?);
        }
        self.staged.get_mut(&key).map_or(Ok(()), |channel| channel.fill().map(drop))
    }

    /// Starts the copy of an input that has been filled, beside what the device is doing.
    pub fn send(&mut self, act: Act, side: Side) {
        if let Some(Err(fault)) = self.staged.get_mut(&(act.index, side)).map(Channel::send) {
            self.gpu.remember(fault);
        }
    }

    /// Brings inputs that have changed to their places; by the one who has the queue.
    pub(super) fn take_inputs(&mut self, wanted: Side) -> Result<(), Error> {
        let changed = self.staged.iter().filter(|((_, side), c)| *side == wanted && c.pending().is_some());
        let mut changed: Vec<u32> = changed.map(|((index, _), _)| *index).collect();
        changed.sort_unstable();
        for index in changed {
            let place = &self.places[index as usize];
            let at = if wanted == Side::Value { place.value } else { place.grad }.expect("it was staged for its place");
            let (to, len) = (Ptr { address: self.memory.address() + at as u64, kind: place.kind }, place.len);
            let channel = self.staged.get_mut(&(index, wanted)).expect("listed above");
            let gpu = &self.gpu;
            channel.receive(|from| convert(gpu, Ptr { address: from, kind: Kind::F32 }, to, len))?;
        }
        Ok(())
    }
}

/// Copies f32 to a place of either type.
pub(super) fn convert(gpu: &Gpu, from: Ptr, to: Ptr, len: usize) -> Result<(), Error> {
    if to.kind == Kind::F32 {
        // SAFETY: both ranges are the caller's and as long as the copy.
        let answer = unsafe { result::memcpy_dtod_async(to.address, from.address, len * size_of::<f32>(), gpu.stream) };
        return gpu.ok("cuMemcpyDtoDAsync", answer);
    }
    launch(gpu, Kernel::plain("convert", "convert_to_bf16"), Grid::cover(len, 2048), 256, 0, &args![from, to, len])
}

/// Where everything lies, in bytes, and how much that takes. Working memory of the processor's kernels is left out.
fn layout(plan: &Plan, kinds: &[Kind]) -> (Vec<Place>, usize) {
    let mut size = vec![0; plan.lives.len()];
    for (held, kind) in plan.held.iter().zip(kinds) {
        for life in [held.value, held.again, held.grad].into_iter().flatten() {
            size[life] = size[life].max((plan.lives[life].len * kind.size()).next_multiple_of(ALIGN));
        }
    }
    let (at, bytes) = places(&plan.lives, |i, life| if life.scratch { 0 } else { size[i] });
    let place = |life: Option<usize>| life.map(|l| at[l]);
    let acts = plan.acts.iter().zip(&plan.held).zip(kinds);
    let places = acts.map(|((act, held), kind)| Place {
        value: place(held.value),
        again: place(held.again),
        grad: place(held.grad),
        kind: *kind,
        len: act.shape.len(),
    });
    (places.collect(), bytes)
}
