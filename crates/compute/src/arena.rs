//! The one buffer a plan's values and gradients live in.

use std::ops::Range;

use crate::{Act, DType, Error, Plan, Real};

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

    pub fn read(&self, range: Range<usize>) -> Vec<f64> {
        match self.dtype {
            DType::F32 => self.slice::<f32>()[range].iter().map(|&x| f64::from(x)).collect(),
            DType::F64 => self.slice::<f64>()[range].to_vec(),
        }
    }

    pub fn write(&mut self, range: Range<usize>, values: &[f64]) {
        match self.dtype {
            DType::F32 => self.slice_mut::<f32>()[range].iter_mut().zip(values).for_each(|(x, &v)| *x = v as f32),
            DType::F64 => self.slice_mut::<f64>()[range].copy_from_slice(values),
        }
    }
}

/// Working memory of a [`Plan`]: inputs are written into it, outputs read from it.
#[derive(Debug)]
pub struct Arena {
    pub(crate) buffer: Buffer,
    pub(crate) plan: u32,
    places: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    value: Option<usize>,
    grad: Option<usize>,
    len: usize,
}

impl Arena {
    /// Working memory for a plan: [`Plan::arena_len`] elements.
    pub fn new(plan: &Plan, dtype: DType) -> Self {
        let places = plan.acts.iter().map(|a| Place { value: a.value, grad: a.grad, len: a.shape.len() }).collect();
        Arena { buffer: Buffer::zeroed(dtype, plan.arena_len()), plan: plan.id, places }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.buffer.dtype()
    }

    /// Fills everything with NaN: a run that reads memory before it is written then shows it. For tests.
    pub fn poison(&mut self) {
        match self.dtype() {
            DType::F32 => self.buffer.slice_mut::<f32>().fill(f32::NAN),
            DType::F64 => self.buffer.slice_mut::<f64>().fill(f64::NAN),
        }
    }

    fn place(&self, act: Act) -> Place {
        assert_eq!(act.plan, self.plan, "an activation of another plan");
        self.places[act.index as usize]
    }

    fn value_range(&self, act: Act) -> Range<usize> {
        let place = self.place(act);
        let at = place.value.expect("a value that the plan stores");
        at..at + place.len
    }

    fn grad_range(&self, act: Act) -> Range<usize> {
        let place = self.place(act);
        let at = place.grad.expect("an activation with a gradient");
        at..at + place.len
    }

    /// A value: of an input, of an output that was kept, or of anything before it is overwritten.
    pub fn value<T: Real>(&self, act: Act) -> &[T] {
        &self.buffer.slice::<T>()[self.value_range(act)]
    }

    /// An input's memory, to be filled before `forward`.
    pub fn value_mut<T: Real>(&mut self, act: Act) -> &mut [T] {
        let range = self.value_range(act);
        &mut self.buffer.slice_mut::<T>()[range]
    }

    /// Copies values into an input.
    pub fn write<T: Real>(&mut self, act: Act, values: &[T]) {
        self.value_mut::<T>(act).copy_from_slice(values);
    }

    /// Copies values into an input, rounding to the element type.
    pub fn write_f64(&mut self, act: Act, values: &[f64]) {
        let range = self.value_range(act);
        assert_eq!(range.len(), values.len(), "length of an input");
        self.buffer.write(range, values);
    }

    /// A value, widened.
    pub fn to_f64(&self, act: Act) -> Vec<f64> {
        self.buffer.read(self.value_range(act))
    }

    /// The one element of a scalar, such as a loss.
    pub fn scalar(&self, act: Act) -> f64 {
        self.to_f64(act)[0]
    }

    /// A gradient: of an input that asked for one, or a leaf's, which is written before `backward`.
    pub fn grad<T: Real>(&self, act: Act) -> &[T] {
        &self.buffer.slice::<T>()[self.grad_range(act)]
    }

    /// The gradient of a leaf (see [`Planner::leaf`](crate::Planner::leaf)), to be filled before `backward`.
    pub fn grad_mut<T: Real>(&mut self, act: Act) -> &mut [T] {
        let range = self.grad_range(act);
        &mut self.buffer.slice_mut::<T>()[range]
    }

    /// A gradient, widened.
    pub fn grad_to_f64(&self, act: Act) -> Vec<f64> {
        self.buffer.read(self.grad_range(act))
    }

    pub(crate) fn check(&self, plan: &Plan) -> Result<(), Error> {
        if self.plan == plan.id {
            return Ok(());
        }
        Err(Error::Mismatch { what: "arena", expected: format!("of plan {}", plan.id), found: format!("of plan {}", self.plan) })
    }
}
