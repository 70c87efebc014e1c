//! The one buffer a plan's values and gradients live in.

use std::collections::HashSet;
use std::ops::Range;

use crate::cuda::{DeviceArena, Gpu, Side};
use crate::{Act, DType, Device, Error, Plan, Real};

#[derive(Clone, Copy, Debug, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Typed memory that starts on a cache line. Pages are taken from the system when they are first touched.
#[derive(Clone, Debug)]
pub(crate) struct Buffer {
    lines: Vec<Line>,
    len: usize,
    dtype: DType,
}

impl Buffer {
    pub fn zeroed(dtype: DType, len: usize) -> Self {
        let lines = (len * dtype.size()).div_ceil(size_of::<Line>());
        Buffer { lines: bytemuck::allocation::zeroed_vec(lines), len, dtype }
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn slice<T: Real>(&self) -> &[T] {
        assert_eq!(T::DTYPE, self.dtype, "element type of a buffer");
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }

    pub fn slice_mut<T: Real>(&mut self) -> &mut [T] {
        assert_eq!(T::DTYPE, self.dtype, "element type of a buffer");
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }

    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.len * self.dtype.size()]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let bytes = self.len * self.dtype.size();
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..bytes]
    }

    pub fn fill_nan(&mut self) {
        match self.dtype {
            DType::F64 => self.slice_mut::<f64>().fill(f64::NAN),
            _ => self.slice_mut::<f32>().fill(f32::NAN),
        }
    }

    pub fn read(&self, range: Range<usize>) -> Vec<f64> {
        match self.dtype {
            DType::F64 => self.slice::<f64>()[range].to_vec(),
            _ => self.slice::<f32>()[range].iter().map(|&x| f64::from(x)).collect(),
        }
    }

    pub fn write(&mut self, range: Range<usize>, values: &[f64]) {
        match self.dtype {
            DType::F64 => self.slice_mut::<f64>()[range].copy_from_slice(values),
            _ => self.slice_mut::<f32>()[range].iter_mut().zip(values).for_each(|(x, &v)| *x = v as f32),
        }
    }
}

/// Working memory of a [`Plan`]: inputs are written into it, outputs read from it. It moves to the device on which its plan runs first;
/// what is read is then copied to the host when it is asked for, and stays there until the next run.
#[derive(Debug)]
pub struct Arena {
    memory: Memory,
    pub(crate) plan: u32,
    places: Vec<Place>,
}

#[derive(Debug)]
enum Memory {
    Host(Buffer),
    Device(Box<DeviceArena>),
}

#[derive(Clone, Copy, Debug)]
struct Place {
    value: Option<usize>,
    grad: Option<usize>,
    len: usize,
}

impl Arena {
    /// Working memory on the host: [`Plan::arena_len`] elements of f32 or f64.
    pub fn new(plan: &Plan, dtype: DType) -> Self {
        Arena::with(plan, Memory::Host(Buffer::zeroed(dtype, plan.arena_len())))
    }

    /// Working memory on a device, in its element type.
    ///
    /// # Errors
    /// A device that cannot be used, too little memory on it.
    pub fn on(device: &Device, plan: &Plan) -> Result<Self, Error> {
        Ok(match device.cuda_ordinal() {
            None => Arena::new(plan, device.activations()),
            Some(ordinal) => Arena::with(plan, Memory::Device(Box::new(DeviceArena::new(&Gpu::open(ordinal)?, plan, device.dtype())?))),
        })
    }

    fn with(plan: &Plan, memory: Memory) -> Self {
        let places = plan.acts.iter().map(|a| Place { value: a.value, grad: a.grad, len: a.shape.len() }).collect();
        Arena { memory, plan: plan.id, places }
    }

    pub(crate) fn device(&self) -> Option<&DeviceArena> {
        if let Memory::Device(d) = &self.memory { Some(d) } else { None }
    }

    pub(crate) fn device_mut(&mut self) -> Option<&mut DeviceArena> {
        if let Memory::Device(d) = &mut self.memory { Some(d) } else { None }
    }

    pub(crate) fn buffer_mut(&mut self) -> &mut Buffer {
        let Memory::Host(buffer) = &mut self.memory else { unreachable!("asked for on the host only") };
        buffer
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match &self.memory {
            Memory::Host(buffer) => buffer.dtype(),
            Memory::Device(d) => d.dtype(),
        }
    }

    /// Bytes it takes where it lies.
    pub fn bytes(&self) -> usize {
        match &self.memory {
            Memory::Host(buffer) => buffer.bytes().len(),
            Memory::Device(d) => d.bytes(),
        }
    }

    /// Fills everything with NaN: a run that reads memory before it is written then shows it. For tests.
    pub fn poison(&mut self) {
        match &mut self.memory {
            Memory::Host(buffer) => buffer.fill_nan(),
            Memory::Device(d) => d.poison().expect("memory that was just allocated"),
        }
    }

    fn place(&self, act: Act) -> Place {
        assert_eq!(act.plan, self.plan, "an activation of another plan");
        self.places[act.index as usize]
    }

    /// Where a value or gradient can be read: its buffer on the host, and its place there.
    fn readable(&self, act: Act, side: Side) -> (&Buffer, Range<usize>) {
        let place = self.place(act);
        match &self.memory {
            Memory::Host(buffer) => (buffer, place.range(side)),
            Memory::Device(d) => (d.read(act, side), 0..place.len),
        }
    }

    /// A value: of an input, of an output that was kept, or of anything before it is overwritten. On a device `T` is f32.
    pub fn value<T: Real>(&self, act: Act) -> &[T] {
        let (buffer, range) = self.readable(act, Side::Value);
        &buffer.slice::<T>()[range]
    }

    /// An input's memory, to be filled before `forward`.
    pub fn value_mut<T: Real>(&mut self, act: Act) -> &mut [T] {
        self.writable(act, Side::Value)
    }

    fn writable<T: Real>(&mut self, act: Act, side: Side) -> &mut [T] {
        let range = self.place(act).range(side);
        match &mut self.memory {
            Memory::Host(buffer) => &mut buffer.slice_mut::<T>()[range],
            Memory::Device(d) => bytemuck::cast_slice_mut(d.fill(act, side)),
        }
    }

    /// Copies values into an input. On a device the copy is on its way when this returns.
    pub fn write<T: Real>(&mut self, act: Act, values: &[T]) {
        self.value_mut::<T>(act).copy_from_slice(values);
        if let Memory::Device(d) = &mut self.memory {
            d.send(act, Side::Value);
        }
    }

    /// Copies values into an input, rounding to the element type.
    pub fn write_f64(&mut self, act: Act, values: &[f64]) {
        let place = self.place(act);
        assert_eq!(place.len, values.len(), "length of an input");
        match &mut self.memory {
            Memory::Host(buffer) => buffer.write(place.range(Side::Value), values),
            Memory::Device(d) => d.fill(act, Side::Value).iter_mut().zip(values).for_each(|(x, v)| *x = *v as f32),
        }
    }

    /// A value, widened.
    pub fn to_f64(&self, act: Act) -> Vec<f64> {
        let (buffer, range) = self.readable(act, Side::Value);
        buffer.read(range)
    }

    /// The one element of a scalar, such as a loss.
    pub fn scalar(&self, act: Act) -> f64 {
        self.to_f64(act)[0]
    }

    /// A gradient: of an input that asked for one, or a leaf's, which is written before `backward`.
    pub fn grad<T: Real>(&self, act: Act) -> &[T] {
        let (buffer, range) = self.readable(act, Side::Grad);
        &buffer.slice::<T>()[range]
    }

    /// The gradient of a leaf (see [`Planner::leaf`](crate::Planner::leaf)), to be filled before `backward`.
    pub fn grad_mut<T: Real>(&mut self, act: Act) -> &mut [T] {
        self.writable(act, Side::Grad)
    }

    /// A gradient, widened.
    pub fn grad_to_f64(&self, act: Act) -> Vec<f64> {
        let (buffer, range) = self.readable(act, Side::Grad);
        buffer.read(range)
    }

    pub(crate) fn check(&self, plan: &Plan) -> Result<(), Error> {
        if self.plan == plan.id {
            return Ok(());
        }
        Err(Error::Mismatch { what: "arena", expected: format!("of plan {}", plan.id), found: format!("of plan {}", self.plan) })
    }

    /// Brings it to where the plan is to run, with the inputs that have been written.
    pub(crate) fn move_to(&mut self, device: &Device, plan: &Plan) -> Result<(), Error> {
        let here = self.device().map(|d| d.gpu().ordinal());
        let Some(ordinal) = device.cuda_ordinal().filter(|_| here.is_none()) else {
            if here == device.cuda_ordinal() {
                return Ok(());
            }
            let found = here.map_or("cpu".into(), |n| format!("cuda:{n}"));
            return Err(Error::Mismatch { what: "device of the arena", expected: device.to_string(), found });
        };
        let gpu = Gpu::open(ordinal)?;
        if self.dtype() != DType::F32 {
            return Err(gpu.error(format!("{} runs on the CPU only", self.dtype().name())));
        }
        let mut there = DeviceArena::new(&gpu, plan, device.dtype())?;
        let computed: HashSet<u32> = plan.ops.iter().flat_map(|op| op.wiring().outputs).map(|a| a.index).collect();
        for index in (0..plan.acts.len() as u32).filter(|i| !computed.contains(i)) {
            let act = Act { plan: plan.id, index };
            there.fill(act, Side::Value).copy_from_slice(self.value::<f32>(act));
        }
        self.memory = Memory::Device(Box::new(there));
        Ok(())
    }
}

impl Place {
    fn range(&self, side: Side) -> Range<usize> {
        let at = match side {
            Side::Value => self.value.expect("a value that the plan stores"),
            Side::Grad => self.grad.expect("an activation with a gradient"),
        };
        at..at + self.len
    }
}
