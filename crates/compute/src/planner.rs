//! Describing a computation: model code calls these methods once, forward only, and gets a [`Plan`]. The operations themselves are
//! in `describe`.

mod describe;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::exec::MAX_SETS;
use crate::ops::Op;
use crate::plan::{ActInfo, Bound, Cost, Deliver, Step, StepKind};
use crate::schedule::{Described, schedule};
use crate::{Act, Error, Layout, Param, Plan, Shape};

/// Collects operations, checking every shape, and lays them out.
#[derive(Debug)]
pub struct Planner {
    id: u32,
    acts: Vec<ActInfo>,
    ops: Vec<Op>,
    again: Vec<bool>,
    recomputing: bool,
    bound: Vec<Bound>,
    layouts: Vec<Arc<Layout>>,
    keep: Vec<Act>,
    wants_grad: Vec<Act>,
    roots: Vec<Act>,
    leaves: Vec<Act>,
}

impl Default for Planner {
    fn default() -> Self {
        Planner::new()
    }
}

fn refuse<T>(op: &'static str, why: impl Into<String>) -> Result<T, Error> {
    Err(Error::Argument { op, why: why.into() })
}

fn misfit<T>(op: &'static str, operand: &'static str, expected: impl Into<Shape>, found: Shape) -> Result<T, Error> {
    Err(Error::Shape { op, operand, expected: expected.into().to_string(), found: found.to_string() })
}

impl Planner {
    /// Nothing described yet.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Planner {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            acts: vec![],
            ops: vec![],
            again: vec![],
            recomputing: false,
            bound: vec![],
            layouts: vec![],
            keep: vec![],
            wants_grad: vec![],
            roots: vec![],
            leaves: vec![],
        }
    }

    /// Declares a set of parameters that stays as it is. The order of these calls is that of [`Cx::params`](crate::Cx).
    pub fn bind(&mut self, layout: &Arc<Layout>) {
        self.add_set(layout, false);
    }

    /// Declares the set of parameters that is trained: one a plan.
    pub fn train(&mut self, layout: &Arc<Layout>) {
        assert!(self.bound.iter().all(|b| !b.trained), "a plan trains one set of parameters");
        self.add_set(layout, true);
    }

    fn add_set(&mut self, layout: &Arc<Layout>, trained: bool) {
        assert!(self.bound.len() < MAX_SETS, "at most {MAX_SETS} parameter sets in a plan");
        assert!(self.bound.iter().all(|b| b.layout != layout.id), "a layout is declared once");
        self.bound.push(Bound { layout: layout.id, trained });
        self.layouts.push(layout.clone());
    }

    fn act(&mut self, shape: impl Into<Shape>) -> Act {
        self.acts.push(ActInfo { shape: shape.into(), value: None, again: None, grad: None });
        Act { plan: self.id, index: self.acts.len() as u32 - 1 }
    }

    fn push(&mut self, op: Op) {
        self.ops.push(op);
        self.again.push(self.recomputing);
    }

    /// The shape of a value described so far.
    pub fn shape(&self, act: Act) -> Shape {
        assert_eq!(act.plan, self.id, "an activation of another plan");
        self.acts[act.index as usize].shape
    }

    fn param_shape(&self, op: &'static str, p: Param) -> Result<&[usize], Error> {
        let layout = self.layouts.iter().find(|l| l.id == p.layout).ok_or(Error::UnboundLayout { op })?;
        Ok(layout.shape(p))
    }

    fn param_len(&self, op: &'static str, operand: &'static str, p: Param, len: usize) -> Result<(), Error> {
        let found: usize = self.param_shape(op, p)?.iter().product();
        if found == len { Ok(()) } else { misfit(op, operand, [len], [found].into()) }
    }

    /// A value that the caller writes into the arena before `forward`.
    pub fn input(&mut self, shape: impl Into<Shape>) -> Act {
        self.act(shape)
    }

    /// Keeps a value readable after `forward`.
    pub fn keep(&mut self, act: Act) {
        self.keep.push(act);
    }

    /// Asks for the gradient of an input, readable after `backward`.
    pub fn want_grad(&mut self, act: Act) {
        self.wants_grad.push(act);
    }

    /// Declares a scalar as (part of) the loss: `backward` starts from it with [`Cx::seed_grad`](crate::Cx).
    pub fn root(&mut self, loss: Act) {
        self.roots.push(loss);
    }

    /// Declares a value that leaves the plan for a loss defined elsewhere: kept after `forward`, and its gradient is written by the
    /// caller before `backward`.
    pub fn leaf(&mut self, act: Act) {
        self.leaves.push(act);
    }

    /// Activation checkpointing: of what the closure describes, only values used outside it are kept; the rest is computed again in the
    /// backward pass, to the same bits.
    pub fn recompute<R>(&mut self, describe: impl FnOnce(&mut Planner) -> R) -> R {
        let (outer, first) = (std::mem::replace(&mut self.recomputing, true), self.ops.len());
        let result = describe(self);
        self.recomputing = outer;
        // The region's last operation writes what the next one reads.
        if let (false, Some(last)) = (outer, (first..self.ops.len()).next_back()) {
            self.again[last] = false;
        }
        result
    }

    /// Lays everything out.
    pub fn finish(self) -> Result<Plan, Error> {
        if let Some(found) = self.roots.iter().map(|a| self.shape(*a)).find(|s| s.len() != 1) {
            return misfit("root", "loss", [1], found);
        }
        for op in &self.ops {
            let inputs = op.wiring().inputs;
            if (1..inputs.len()).any(|i| inputs[..i].iter().any(|a| a.act == inputs[i].act)) {
                return refuse(op.name(), "the same value is given as two operands");
            }
        }
        let trained = self.bound.iter().find(|b| b.trained).map(|b| b.layout);
        let Planner { id, acts, ops, again, keep, wants_grad, roots, leaves, bound, layouts, .. } = self;
        let (d, s) = schedule(Described { acts, ops, again, keep, wants_grad, roots, leaves, trained });
        let flops = |steps: &[Step]| {
            let of = |step: &Step| {
                let w = d.ops[step.op].wiring();
                let StepKind::Backward { inputs, params } = &step.kind else { return w.flops.0 };
                let to_inputs = inputs.iter().any(|(_, how)| *how != Deliver::Skip);
                w.flops.1 * u64::from(to_inputs || w.param_flops == 0) + w.param_flops * u64::from(!params.is_empty())
            };
            steps.iter().map(of).sum()
        };
        let cost = Cost {
            forward_flops: flops(&s.forward),
            backward_flops: flops(&s.backward),
            arena_elements: s.arena,
            unshared_elements: s.unshared,
        };
        let trained_layout = layouts.iter().find(|l| Some(l.id) == trained);
        let untouched = trained_layout.map_or(vec![], |l| l.iter().filter(|p| !s.touched.contains(p)).collect());
        let elements = |p: &Param| layouts.iter().find(|l| l.id == p.layout).map_or(0, |l| l.range(*p).len() as u64);
        let weights = d.ops.iter().map(|op| op.wiring().params.iter().map(elements).sum()).collect();
        let (lives, held, wide) = (s.lives, s.held, s.wide);
        let narrow = d.ops.iter().map(|op| !wide[op.wiring().outputs[0].index as usize]).collect();
        Ok(Plan {
            id,
            acts: s.acts,
            ops: d.ops,
            forward: s.forward,
            backward: s.backward,
            bound,
            roots: d.roots,
            untouched,
            cost,
            lives,
            held,
            wide,
            narrow,
            weights,
        })
    }
}
