//! A finished plan: the operations in order, every buffer's place, and what a run costs.

use crate::ops::Op;
use crate::schedule::{Held, Life};
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
    pub(crate) cost: Cost,
    /// What the arena of a device is laid out from.
    pub(crate) lives: Vec<Life>,
    pub(crate) held: Vec<Held>,
    /// Activations that stay f32 where the others are bf16.
    pub(crate) wide: Vec<bool>,
    /// Operations whose products may round their operands: not those on parameters alone.
    pub(crate) narrow: Vec<bool>,
    /// Elements of the parameters of each operation.
    pub(crate) weights: Vec<u64>,
}

/// Which activations are never rounded to bf16: statistics and losses, indices and targets that are inputs, and all that does not depend
/// on the plan's inputs (position tables, tokens and what is made of them alone), which is small and read by every block.
pub(crate) fn wide(acts: &[ActInfo], ops: &[Op]) -> Vec<bool> {
    let (mut wide, mut fixed, mut computed) = (vec![false; acts.len()], vec![false; acts.len()], vec![false; acts.len()]);
    let wirings: Vec<_> = ops.iter().map(Op::wiring).collect();
    wirings.iter().flat_map(|w| &w.outputs).for_each(|o| computed[o.index as usize] = true);
    for exact in wirings.iter().flat_map(|w| &w.exact).filter(|a| !computed[a.index as usize]) {
        wide[exact.index as usize] = true;
    }
    for w in &wirings {
        let of_fixed = w.inputs.iter().all(|i| fixed[i.act.index as usize]);
        for (i, output) in w.outputs.iter().enumerate() {
            fixed[output.index as usize] = of_fixed;
            wide[output.index as usize] = of_fixed || i > 0 || w.exact.contains(output);
        }
    }
    wide
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::{Distance, Error, Layout, Planner};

    #[test]
    fn what_depends_on_an_input_is_narrow_whatever_it_is_looked_up_in() -> Result<(), Error> {
        let mut layout = Layout::builder();
        let w = layout.add("vocabulary".to_string(), &[4, 3]);
        let layout = layout.finish();
        let mut p = Planner::new();
        p.train(&layout);
        let table = p.weight_as(w, [1, 4, 3])?;
        let (words, places) = (p.input([2, 5]), p.constant([1, 5], Arc::from([0.0, 1.0, 2.0, 3.0, 3.0]))?);
        let (embedded, positions) = (p.gather(table, words)?, p.gather(table, places)?);
        let tokens = p.tokens(embedded, None, None, Some(positions))?;
        let target = p.input([2, 5, 3]);
        let loss = p.feature_loss(tokens, target, Distance::Mse, None)?;
        let total = p.weighted_sum(&[(loss, 2.0)])?;
        p.root(total);
        let plan = p.finish()?;
        let wide = |act: crate::Act| plan.wide[act.index as usize];
        assert!([table, words, places, positions, loss, total].into_iter().all(wide));
        assert!(![embedded, tokens].into_iter().any(wide));
        Ok(())
    }
}
