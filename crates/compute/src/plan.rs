//! A finished plan: the operations in order, every buffer's place, and what a run costs.

use crate::ops::Op;
use crate::{Param, Shape};

/// A value that a plan computes: a handle with a shape. Its gradient, where it has one, is reached by the same handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Act {
    pub(crate) plan: u32,
    pub(crate) index: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct ActInfo {
    pub shape: Shape,
    /// Place of the value in the forward pass.
    pub value: Option<usize>,
    /// Place of the value that the backward pass computes again.
    pub again: Option<usize>,
    /// Place of the gradient.
    pub grad: Option<usize>,
}

/// How a backward step delivers an input's gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deliver {
    /// Nobody wants it.
    Skip,
    /// First delivery: overwrite.
    Set,
    /// Later delivery: add.
    Add,
    /// The input's gradient occupies the memory of the output's: change it in place.
    InPlace,
}

/// One step of a run.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub op: usize,
    pub kind: StepKind,
    /// Place of the step's scratch memory and its length.
    pub scratch: (usize, usize),
}

#[derive(Clone, Debug)]
pub(crate) enum StepKind {
    Forward,
    /// Computes a value again for the backward pass.
    Again,
    /// Delivery for each input, and whether each parameter's gradient is this plan's first.
    Backward {
        inputs: Vec<(Act, Deliver)>,
        params: Vec<(Param, bool)>,
    },
}

/// A parameter set of a plan.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub layout: u32,
    pub trained: bool,
}

/// What one run costs, counted from the operations, not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating point operations of the forward pass (a multiply-add is two).
    pub forward_flops: u64,
    /// Of the backward pass, values computed again included.
    pub backward_flops: u64,
    /// Elements of the arena.
    pub arena_elements: usize,
    /// Elements the arena would need if no memory were used twice.
    pub unshared_elements: usize,
}

/// Operations in order with every buffer's place: described once, run any number of times, see [`Planner`](crate::Planner).
#[derive(Debug)]
pub struct Plan {
    pub(crate) id: u32,
    pub(crate) acts: Vec<ActInfo>,
    pub(crate) ops: Vec<Op>,
    pub(crate) forward: Vec<Step>,
    pub(crate) backward: Vec<Step>,
    pub(crate) bound: Vec<Bound>,
    pub(crate) roots: Vec<Act>,
    /// Parameters of the trained set that no step delivers a gradient to.
    pub(crate) untouched: Vec<Param>,
    /// Leaf gradients to be filled by the caller.
    pub(crate) cost: Cost,
}

impl Plan {
    /// Elements of the arena this plan needs.
    pub fn arena_len(&self) -> usize {
        self.cost.arena_elements
    }

    /// What a run costs.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// The shape of a value.
    pub fn shape(&self, act: Act) -> Shape {
        assert_eq!(act.plan, self.id, "an activation of another plan");
        self.acts[act.index as usize].shape
    }

    /// Names of the operations of the forward pass, in order.
    pub fn op_names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.ops.iter().map(Op::name)
    }
}
