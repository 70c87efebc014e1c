//! Running a plan: the list forwards, then the list in reverse.

use std::ops::Range;

use crate::gemm::Operands;
use crate::plan::{Act, ActInfo, Deliver, Plan, Step, StepKind};
use crate::{Arena, DType, Device, Error, Grads, Param, Params, Real};

/// What the random numbers of a run depend on. Equal keys give equal drop path masks, whatever the batch is cut into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepKey {
    /// Seed of the run.
    pub seed: u64,
    /// Optimiser step.
    pub step: u64,
    /// Position of this batch's first sample in the step's whole batch, over micro-batches and ranks.
    pub first_sample: u64,
    /// Which view of the samples (crops of one image).
    pub view: u64,
}

/// Everything a run borrows.
#[derive(Debug)]
pub struct Cx<'a> {
    /// Where to run.
    pub device: &'a Device,
    /// Parameter sets in the order in which the planner was told of them.
    pub params: &'a [&'a Params],
    /// Values and gradients.
    pub arena: &'a mut Arena,
    /// What random numbers depend on.
    pub key: StepKey,
    /// Are drop paths active? (Training: yes.)
    pub train: bool,
    /// Gradient of every root: 1, or 1 / micro-batches.
    pub seed_grad: f64,
}

impl<'a> Cx<'a> {
    /// A training run with gradient 1 for its roots.
    pub fn new(device: &'a Device, params: &'a [&'a Params], arena: &'a mut Arena, key: StepKey) -> Self {
        Cx { device, params, arena, key, train: true, seed_grad: 1.0 }
    }
}

/// Most parameter sets in one plan: a student and several teachers.
pub(crate) const MAX_SETS: usize = 8;

/// What an operation sees while it runs.
pub(crate) struct Env<'a, T> {
    pub acts: Acts<'a, T>,
    pub params: Weights<'a, T>,
    pub grads: ParamGrads<'a, T>,
    pub key: StepKey,
    pub train: bool,
    /// What products round their operands to.
    pub operands: Operands,
    step: &'a Step,
}

/// Values, gradients and scratch of the current step.
pub(crate) struct Acts<'a, T> {
    arena: &'a mut [T],
    infos: &'a [ActInfo],
    backward: bool,
    scratch: (usize, usize),
}

/// A buffer an operation asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At {
    Value(Act),
    Grad(Act),
    Scratch,
    /// An empty slice, where an optional buffer is not there.
    Nothing,
}

impl<T: Real> Acts<'_, T> {
    fn range(&self, at: At) -> Range<usize> {
        let place = |start: Option<usize>, act: Act| {
            let start = start.expect("the scheduler gave it a place");
            start..start + self.infos[act.index as usize].shape.len()
        };
        match at {
            At::Value(a) => {
                let info = &self.infos[a.index as usize];
                place(if self.backward { info.again.or(info.value) } else { info.value }, a)
            }
            At::Grad(a) => place(self.infos[a.index as usize].grad, a),
            At::Nothing => 0..0,
            At::Scratch => self.scratch.0..self.scratch.0 + self.scratch.1,
        }
    }

    /// Several buffers at once. They never overlap: the scheduler placed them, and this checks it.
    pub fn split<const N: usize>(&mut self, at: [At; N]) -> [&mut [T]; N] {
        let ranges = at.map(|at| self.range(at));
        self.arena.get_disjoint_mut(ranges).expect("buffers of one step do not overlap")
    }
}

/// Parameter values by set.
pub(crate) struct Weights<'a, T> {
    sets: [&'a [T]; MAX_SETS],
    params: &'a [&'a Params],
}

impl<'a, T: Real> Weights<'a, T> {
    pub fn get(&self, p: Param) -> &'a [T] {
        let set = self.params.iter().position(|s| s.layout().id == p.layout).expect("checked at plan time");
        &self.sets[set][self.params[set].range(p)]
    }
}

/// Parameter gradients of the trained set.
pub(crate) struct ParamGrads<'a, T> {
    all: Option<&'a mut [T]>,
    layout: Option<&'a crate::Layout>,
    fresh: bool,
    step: &'a Step,
}

impl<T: Real> ParamGrads<'_, T> {
    /// Gradients of several trained parameters, and for each whether to add to what is there. None where it is not trained.
    pub fn split<const N: usize>(&mut self, params: [Param; N]) -> [Option<(&mut [T], bool)>; N] {
        let StepKind::Backward { params: delivered, .. } = &self.step.kind else { return [const { None }; N] };
        let (Some(all), Some(layout)) = (self.all.as_deref_mut(), self.layout) else { return [const { None }; N] };
        let fresh = self.fresh;
        let ranges = params.map(|p| if p.layout == layout.id { layout.range(p) } else { 0..0 });
        let slices = all.get_disjoint_mut(ranges).expect("parameters do not overlap");
        let mut slices = slices.into_iter();
        params.map(|p| {
            let slice = slices.next().expect("one for each");
            let first = delivered.iter().find(|(q, _)| *q == p)?.1;
            Some((slice, !(first && fresh)))
        })
    }

    /// Is this parameter's gradient wanted?
    pub fn wants(&self, p: Param) -> bool {
        matches!(&self.step.kind, StepKind::Backward { params, .. } if params.iter().any(|(q, _)| *q == p))
    }
}

impl<T: Real> Env<'_, T> {
    /// How to deliver the gradient of an input in this backward step.
    pub fn deliver(&self, input: Act) -> Deliver {
        match &self.step.kind {
            StepKind::Backward { inputs, .. } => inputs.iter().find(|(a, _)| *a == input).map_or(Deliver::Skip, |(_, d)| *d),
            _ => Deliver::Skip,
        }
    }
}

impl Plan {
    /// Runs the forward pass: outputs and losses are then in the arena.
    pub fn forward(&self, cx: &mut Cx) -> Result<(), Error> {
        self.check(cx)?;
        match cx.arena.device() {
            Some(_) => self.forward_cuda(cx),
            None => self.forward_here(cx, |_, _| {}),
        }
    }

    /// The forward pass on the CPU; calls `behind` after each step.
    pub(crate) fn forward_with(&self, cx: &mut Cx, behind: impl FnMut(&Step, &Arena)) -> Result<(), Error> {
        self.check(cx)?;
        self.forward_here(cx, behind)
    }

    fn forward_here(&self, cx: &mut Cx, behind: impl FnMut(&Step, &Arena)) -> Result<(), Error> {
        match cx.arena.dtype() {
            DType::F64 => self.walk::<f64>(&self.forward, cx, None, behind),
            _ => self.walk::<f32>(&self.forward, cx, None, behind),
        }
        Ok(())
    }

    /// As [`Plan::forward`]; `see(i, arena)` is called when `watched[i]` has been computed, before other values take its memory. So what
    /// is large and looked at once need not be [kept](crate::Planner::keep). Inputs are not watched: they are known.
    pub fn forward_watching(&self, cx: &mut Cx, watched: &[Act], mut see: impl FnMut(usize, &Arena)) -> Result<(), Error> {
        self.check(cx)?;
        watched.iter().for_each(|act| assert_eq!(act.plan, self.id, "an activation of another plan"));
        let mut outputs: Vec<(usize, usize)> = vec![];
        for (op, described) in self.ops.iter().enumerate() {
            let of_op = described.wiring().outputs;
            outputs.extend(watched.iter().enumerate().filter(|(_, act)| of_op.contains(act)).map(|(i, _)| (op, i)));
        }
        let mut next = outputs.into_iter().peekable();
        let behind = |step: &Step, arena: &Arena| {
            while let Some((_, i)) = next.next_if(|(op, _)| *op == step.op) {
                see(i, arena);
            }
        };
        match cx.arena.device() {
            Some(_) => self.forward_watching_cuda(cx, watched, behind),
            None => self.forward_here(cx, behind),
        }
    }

    /// Runs the backward pass after `forward`: overwrites `grads` if they were [reset](Grads::reset), adds to them otherwise.
    pub fn backward(&self, cx: &mut Cx, grads: &mut Grads) -> Result<(), Error> {
        self.backward_with(cx, grads, |_, _| {})
    }

    /// The same; on the CPU, calls `behind` after each step.
    pub(crate) fn backward_with(&self, cx: &mut Cx, grads: &mut Grads, behind: impl FnMut(&Step, &Arena)) -> Result<(), Error> {
        self.check(cx)?;
        self.check_grads(cx, grads)?;
        if cx.arena.device().is_some() {
            self.backward_cuda(cx, grads)?;
            grads.fresh = false;
            return Ok(());
        }
        let seed = cx.seed_grad;
        for &root in &self.roots {
            if let Some(at) = self.acts[root.index as usize].grad {
                cx.arena.buffer_mut().write(at..at + 1, &[seed]);
            }
        }
        match cx.arena.dtype() {
            DType::F64 => self.backward_in::<f64>(cx, grads, behind),
            _ => self.backward_in::<f32>(cx, grads, behind),
        }
        grads.fresh = false;
        Ok(())
    }

    pub(crate) fn check_grads(&self, cx: &Cx, grads: &Grads) -> Result<(), Error> {
        let trained = self.bound.iter().find(|b| b.trained).map(|b| b.layout);
        if Some(grads.layout().id) == trained && grads.dtype() == cx.arena.dtype().master() {
            return Ok(());
        }
        Err(Error::Mismatch {
            what: "gradients",
            expected: format!("of trained layout {trained:?} in {}", cx.arena.dtype().name()),
            found: format!("of layout {} in {}", grads.layout().id, grads.dtype().name()),
        })
    }

    fn backward_in<T: Real>(&self, cx: &mut Cx, grads: &mut Grads, behind: impl FnMut(&Step, &Arena)) {
        if grads.fresh {
            for &p in &self.untouched {
                let range = grads.layout().range(p);
                grads.all_mut::<T>()[range].fill(T::ZERO);
            }
        }
        self.walk::<T>(&self.backward, cx, Some(grads), behind);
    }

    /// Runs steps in order and calls `behind` after each.
    fn walk<T: Real>(&self, steps: &[Step], cx: &mut Cx, mut grads: Option<&mut Grads>, mut behind: impl FnMut(&Step, &Arena)) {
        let mut sets: [&[T]; MAX_SETS] = [&[]; MAX_SETS];
        cx.params.iter().zip(&mut sets).for_each(|(p, s)| *s = p.all::<T>());
        let layout = grads.as_ref().map(|g| g.layout().clone());
        let fresh = grads.as_ref().is_some_and(|g| g.fresh);
        let backward = grads.is_some();
        let rounds = cx.device.dtype() == DType::Bf16;
        for step in steps {
            let mut env = Env {
                acts: Acts { arena: cx.arena.buffer_mut().slice_mut::<T>(), infos: &self.acts, backward, scratch: step.scratch },
                params: Weights { sets, params: cx.params },
                grads: ParamGrads { all: grads.as_deref_mut().map(Grads::all_mut::<T>), layout: layout.as_deref(), fresh, step },
                key: cx.key,
                train: cx.train,
                operands: if rounds && self.narrow[step.op] { Operands::Bf16 } else { Operands::Exact },
                step,
            };
            match step.kind {
                StepKind::Backward { .. } => self.ops[step.op].backward(&mut env),
                _ => self.ops[step.op].forward(&mut env),
            }
            behind(step, cx.arena);
        }
    }

    /// Refuses what does not belong together; an arena that has not run yet moves to the device.
    pub(crate) fn check(&self, cx: &mut Cx) -> Result<(), Error> {
        cx.arena.check(self)?;
        cx.arena.move_to(cx.device, self)?;
        if !cx.params.iter().map(|p| p.layout().id).eq(self.bound.iter().map(|b| b.layout)) {
            let found: Vec<u32> = cx.params.iter().map(|p| p.layout().id).collect();
            let expected: Vec<u32> = self.bound.iter().map(|b| b.layout).collect();
            let (expected, found) = (format!("layouts {expected:?}"), format!("layouts {found:?}"));
            return Err(Error::Mismatch { what: "parameter sets", expected, found });
        }
        if let Some(p) = cx.params.iter().find(|p| p.dtype() != cx.arena.dtype().master()) {
            let (expected, found) = (cx.arena.dtype().name().into(), p.dtype().name().into());
            return Err(Error::Mismatch { what: "element type of parameters", expected, found });
        }
        Ok(())
    }
}
