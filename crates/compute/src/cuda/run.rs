//! What an operation sees while it starts its kernels: where its operands lie on the device, and how to start work on them.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::result;

use super::gpu::Gpu;
use super::memory::DeviceBuffer;
use crate::plan::{Act, Deliver, Step, StepKind};
use crate::{Error, Param};

/// Type of elements on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    F32,
    Bf16,
}

impl Kind {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Kind::F32 => 4,
            Kind::Bf16 => 2,
        }
    }

    /// What kernels' names end in.
    pub fn name(self) -> &'static str {
        match self {
            Kind::F32 => "f32",
            Kind::Bf16 => "bf16",
        }
    }
}

/// An address on the device and what lies there. `Ptr::NULL` stands for an operand that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ptr {
    pub address: u64,
    pub kind: Kind,
}

impl Ptr {
    pub const NULL: Ptr = Ptr { address: 0, kind: Kind::F32 };

    /// So many elements further.
    pub fn at(self, elements: usize) -> Ptr {
        Ptr { address: self.address + (elements * self.kind.size()) as u64, ..self }
    }
}

/// A kernel: its file (`ops/FILE.cu`) and its name, to which the element type is added where there are instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kernel {
    pub file: &'static str,
    pub name: &'static str,
    pub kind: Option<Kind>,
}

impl Kernel {
    /// The kernel of exactly that name.
    pub fn plain(file: &'static str, name: &'static str) -> Self {
        Kernel { file, name, kind: None }
    }

    /// The instance for an element type: `NAME_f32` or `NAME_bf16`.
    pub fn of(file: &'static str, name: &'static str, kind: Kind) -> Self {
        Kernel { file, name, kind: Some(kind) }
    }

    pub fn symbol(&self) -> String {
        self.kind.map_or_else(|| self.name.to_string(), |kind| format!("{}_{}", self.name, kind.name()))
    }
}

/// An argument of a kernel: its bytes at the start of eight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arg(u64);

macro_rules! arg {
    ($($t:ty: $x:ident => $bits:expr),*) => { $(impl From<$t> for Arg { fn from($x: $t) -> Arg { Arg($bits) } })* };
}
arg! {
    Ptr: x => x.address, u64: x => x, f64: x => x.to_bits(), f32: x => u64::from(x.to_bits()), u32: x => u64::from(x),
    i32: x => u64::from(x as u32), bool: x => u64::from(x)
}

impl From<usize> for Arg {
    /// A 32-bit integer, as kernels count.
    fn from(x: usize) -> Arg {
        Arg(u64::from(u32::try_from(x).ok().filter(|x| i32::try_from(*x).is_ok()).expect("a count below 2^31")))
    }
}

/// `args![a, b]`: arguments of a kernel.
macro_rules! args {
    ($($x:expr),* $(,)?) => { [$($crate::cuda::Arg::from($x)),*] };
}
pub(crate) use args;

/// Blocks in x, y, z.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid(pub u32, pub u32, pub u32);

impl Grid {
    /// So many blocks in a row.
    pub fn line(blocks: usize) -> Self {
        Grid(u32::try_from(blocks).expect("blocks below 2^32"), 1, 1)
    }

    /// Enough blocks of `per` for `n`; at least one.
    pub fn cover(n: usize, per: usize) -> Self {
        Grid::line(n.div_ceil(per).max(1))
    }
}

/// Where an activation lies: bytes from the arena's start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub value: Option<usize>,
    pub again: Option<usize>,
    pub grad: Option<usize>,
    pub kind: Kind,
    pub len: usize,
}

/// A parameter set on the device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Set<'a> {
    pub params: &'a crate::Params,
    pub masters: u64,
    /// The bf16 shadow; 0 where the plan runs in f32.
    pub shadow: u64,
}

/// Gradients of the trained set on the device.
#[derive(Clone, Copy, Debug)]
pub(super) struct GradSet<'a> {
    pub layout: &'a crate::Layout,
    pub address: u64,
    pub fresh: bool,
}

/// One step of a plan on a device.
pub(crate) struct Run<'a> {
    pub(super) gpu: &'a Arc<Gpu>,
    pub(super) arena: u64,
    pub(super) places: &'a [Place],
    pub(super) scratch: u64,
    pub(super) control: u64,
    pub(super) tables: &'a mut HashMap<(usize, usize), DeviceBuffer>,
    pub(super) sets: &'a [Set<'a>],
    pub(super) grads: Option<GradSet<'a>>,
    pub(super) step: &'a Step,
    pub(super) backward: bool,
    pub(super) train: bool,
    /// Values this step may read; None where that is not checked.
    pub(super) readable: Option<Vec<Act>>,
}

impl Run<'_> {
    fn place(&self, act: Act, at: Option<usize>) -> Ptr {
        let at = at.expect("the scheduler gave it a place");
        Ptr { address: self.arena + at as u64, kind: self.places[act.index as usize].kind }
    }

    /// An activation's value, as this step sees it.
    pub fn value(&self, act: Act) -> Ptr {
        debug_assert!(self.readable.as_ref().is_none_or(|r| r.contains(&act)), "a backward step reads what its wiring does not say");
        let p = &self.places[act.index as usize];
        self.place(act, if self.backward { p.again.or(p.value) } else { p.value })
    }

    /// Elements of an activation.
    pub fn len(&self, act: Act) -> usize {
        self.places[act.index as usize].len
    }

    /// The one type of some operands.
    ///
    /// # Errors
    /// They are of two, for which the operation has no kernel.
    pub fn kind(&self, operation: &str, operands: &[Act]) -> Result<Kind, Error> {
        let kinds: Vec<Kind> = operands.iter().map(|a| self.places[a.index as usize].kind).collect();
        if kinds.iter().all(|k| *k == kinds[0]) {
            return Ok(kinds[0]);
        }
        Err(self.gpu.error(format!("{operation} has no kernel for operands of which only some are f32: {kinds:?}")))
    }

    /// The value, or null where there is none.
    pub fn optional(&self, act: Option<Act>) -> Ptr {
        act.map_or(Ptr::NULL, |a| self.value(a))
    }

    /// An activation's gradient.
    pub fn grad(&self, act: Act) -> Ptr {
        self.place(act, self.places[act.index as usize].grad)
    }

    /// How to deliver the gradient of an input in this backward step.
    pub fn deliver(&self, input: Act) -> Deliver {
        match &self.step.kind {
            StepKind::Backward { inputs, .. } => inputs.iter().find(|(a, _)| *a == input).map_or(Deliver::Skip, |(_, d)| *d),
            _ => Deliver::Skip,
        }
    }

    fn set(&self, p: Param) -> &Set<'_> {
        self.sets.iter().find(|s| s.params.layout().id == p.layout).expect("checked at plan time")
    }

    /// A parameter in f32.
    pub fn master(&self, p: Param) -> Ptr {
        let set = self.set(p);
        Ptr { address: set.masters, kind: Kind::F32 }.at(set.params.range(p).start)
    }

    /// A parameter as operands of that type multiply with it: the master, or its bf16 shadow.
    pub fn param(&self, p: Param, kind: Kind) -> Ptr {
        if kind == Kind::F32 {
            return self.master(p);
        }
        let set = self.set(p);
        assert!(set.shadow != 0, "bf16 operands occur in bf16 plans only");
        Ptr { address: set.shadow, kind }.at(set.params.range(p).start)
    }

    /// The gradient (f32) of a trained parameter, and whether to add to what is there. None where it is not wanted.
    pub fn param_grad(&self, p: Param) -> Option<(Ptr, bool)> {
        let StepKind::Backward { params: delivered, .. } = &self.step.kind else { return None };
        let grads = self.grads.filter(|g| g.layout.id == p.layout)?;
        let first = delivered.iter().find(|(q, _)| *q == p)?.1;
        let at = Ptr { address: grads.address, kind: Kind::F32 }.at(grads.layout.range(p).start);
        Some((at, !(first && grads.fresh)))
    }

    /// Is this parameter's gradient wanted?
    pub fn wants(&self, p: Param) -> bool {
        self.param_grad(p).is_some()
    }

    /// Are drop paths active?
    pub fn train(&self) -> bool {
        self.train
    }

    /// `kx::Control`: what changes from step to step.
    pub fn control(&self) -> Ptr {
        Ptr { address: self.control, kind: Kind::F32 }
    }

    /// The step's working memory, as many bytes as [`Wiring::device_scratch`](crate::ops) said.
    pub fn scratch(&self) -> Ptr {
        Ptr { address: self.scratch, kind: Kind::F32 }
    }

    /// Bytes that never change (an index, a sparse matrix), uploaded once a plan: number `slot` of this operation.
    pub fn table<T: bytemuck::NoUninit>(&mut self, slot: usize, make: impl FnOnce() -> Vec<T>) -> Result<Ptr, Error> {
        let key = (self.step.op, slot);
        if !self.tables.contains_key(&key) {
            let values = make();
            let bytes: &[u8] = bytemuck::cast_slice(&values);
            let buffer = DeviceBuffer::new(self.gpu, bytes.len())?;
            buffer.upload(0, bytes)?;
            self.tables.insert(key, buffer);
        }
        Ok(Ptr { address: self.tables[&key].address(), kind: Kind::F32 })
    }

    /// Bytes of dynamic shared memory that a block may have at most: 99 KiB on small devices, 227 KiB on Hopper.
    pub fn most_shared(&self) -> usize {
        self.gpu.most_shared()
    }

    /// Starts a kernel of `block` threads a block, with so many bytes of dynamic shared memory.
    pub fn launch(&mut self, kernel: Kernel, grid: Grid, block: u32, shared: usize, args: &[Arg]) -> Result<(), Error> {
        launch(self.gpu, kernel, grid, block, shared, args)
    }

    /// Copies elements from one operand to another of the same type.
    pub fn copy(&mut self, to: Ptr, from: Ptr, elements: usize) -> Result<(), Error> {
        assert_eq!(to.kind, from.kind, "a copy between operands of one type");
        // SAFETY: both ranges are operands', as the caller says.
        let answer = unsafe { result::memcpy_dtod_async(to.address, from.address, elements * to.kind.size(), self.gpu.stream) };
        self.gpu.ok("cuMemcpyDtoDAsync", answer)
    }
}

/// Starts a kernel; by one who has the device's queue.
pub(crate) fn launch(gpu: &Gpu, kernel: Kernel, grid: Grid, block: u32, shared: usize, args: &[Arg]) -> Result<(), Error> {
    let function = gpu.function(kernel, shared)?;
    let mut pointers: Vec<*mut c_void> = args.iter().map(|a| std::ptr::from_ref(&a.0).cast_mut().cast()).collect();
    // SAFETY: the arguments outlive the call, which copies them; their number and types are the kernel's, which every kernel's test on
    // the emulated device proves; operands are the scheduler's, which never overlap.
    let answer = unsafe {
        result::launch_kernel(
            function.handle,
            (grid.0, grid.1, grid.2),
            (block, 1, 1),
            u32::try_from(shared).expect("shared memory below 4 GB"),
            gpu.stream,
            &mut pointers,
        )
    };
    gpu.ok(&format!("starting {}", kernel.symbol()), answer)
}
