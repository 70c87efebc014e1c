//! From operations to steps and places: what the backward pass needs, when each buffer is alive, and where it lies.
//!
//! Time is the index of a step: the forward pass, then the backward pass. A value lives from the step that writes it to the last
//! that reads it; a value that is cheap to recompute (or lies in a `recompute` region) is dropped after the forward pass and computed
//! again just before the first backward step that needs it. A gradient lives from its first delivery to its producer's backward
//! step. Buffers whose lives do not meet share memory.

use std::collections::HashSet;

use crate::Param;
use crate::ops::{Op, Wiring};
use crate::plan::{self, Act, ActInfo, Deliver, Step, StepKind};

/// What the planner knows when model code has finished.
pub(crate) struct Described {
    pub acts: Vec<ActInfo>,
    pub ops: Vec<Op>,
    /// Is the operation inside a `recompute` region?
    pub again: Vec<bool>,
    pub keep: Vec<Act>,
    /// Activations that want a gradient although nothing before them is trained.
    pub wants_grad: Vec<Act>,
    pub roots: Vec<Act>,
    /// Activations whose gradient the caller fills.
    pub leaves: Vec<Act>,
    pub trained: Option<u32>,
}

pub(crate) struct Scheduled {
    pub acts: Vec<ActInfo>,
    pub forward: Vec<Step>,
    pub backward: Vec<Step>,
    pub touched: HashSet<Param>,
    pub arena: usize,
    pub unshared: usize,
    pub lives: Vec<Life>,
    pub held: Vec<Held>,
    /// Activations that stay f32 where the others are bf16.
    pub wide: Vec<bool>,
}

/// A buffer: when it is alive. Where it lies depends on the size of its elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    /// Elements.
    pub len: usize,
    pub from: usize,
    pub to: usize,
    /// Working memory of one step, in the processor's element type.
    pub scratch: bool,
}

#[derive(Default)]
struct Lives(Vec<Life>);

impl Lives {
    fn born(&mut self, len: usize, time: usize) -> usize {
        self.0.push(Life { len, from: time, to: time, scratch: false });
        self.0.len() - 1
    }

    fn scratch(&mut self, len: usize, time: usize) -> usize {
        self.0.push(Life { len, from: time, to: time, scratch: true });
        self.0.len() - 1
    }

    fn used(&mut self, life: usize, time: usize) {
        self.0[life].to = self.0[life].to.max(time);
    }
}

/// Per activation: which lives hold its forward value, its recomputed value and its gradient.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    pub value: Option<usize>,
    pub again: Option<usize>,
    pub grad: Option<usize>,
}

struct Scheduler<'a> {
    d: &'a Described,
    wiring: Vec<Wiring>,
    producer: Vec<Option<usize>>,
    needs_grad: Vec<bool>,
    held: Vec<Held>,
    lives: Lives,
    backward: Vec<Step>,
    scratch: Vec<usize>,
    touched: HashSet<Param>,
    wide: Vec<bool>,
}

/// Lays a described plan out.
pub(crate) fn schedule(d: Described) -> (Described, Scheduled) {
    let wiring: Vec<Wiring> = d.ops.iter().map(Op::wiring).collect();
    let mut producer = vec![None; d.acts.len()];
    for (i, w) in wiring.iter().enumerate() {
        w.outputs.iter().for_each(|o| producer[o.index as usize] = Some(i));
    }
    let mut s = Scheduler {
        needs_grad: needs_grad(&d, &wiring),
        d: &d,
        wiring,
        producer,
        held: vec![Held::default(); d.acts.len()],
        lives: Lives::default(),
        backward: vec![],
        scratch: vec![],
        touched: HashSet::new(),
        wide: plan::wide(&d.acts, &d.ops),
    };
    s.forward_lives();
    s.backward_steps();
    let scheduled = s.place();
    (d, scheduled)
}

/// An activation needs a gradient when something trained, or something that asked for one, lies before it.
fn needs_grad(d: &Described, wiring: &[Wiring]) -> Vec<bool> {
    let mut needs = vec![false; d.acts.len()];
    d.wants_grad.iter().for_each(|a| needs[a.index as usize] = true);
    for w in wiring {
        let trained = w.params.iter().any(|p| Some(p.layout) == d.trained);
        if trained || w.inputs.iter().any(|i| i.differentiable && needs[i.act.index as usize]) {
            needs[w.outputs[0].index as usize] = true;
        }
    }
    needs
}

impl Scheduler<'_> {
    fn len(&self, act: Act) -> usize {
        self.d.acts[act.index as usize].shape.len()
    }

    fn kept(&self, act: Act) -> bool {
        self.d.keep.contains(&act) || self.d.leaves.contains(&act) || self.d.roots.contains(&act)
    }

    fn now(&self) -> usize {
        self.d.ops.len() + self.backward.len()
    }

    fn forward_lives(&mut self) {
        for i in 0..self.d.acts.len() {
            if self.producer[i].is_none() {
                self.held[i].value = Some(self.lives.born(self.d.acts[i].shape.len(), 0));
            }
        }
        for time in 0..self.wiring.len() {
            for input in self.wiring[time].inputs.clone() {
                let life = self.held[input.act.index as usize].value.expect("inputs come before their operation");
                self.lives.used(life, time);
            }
            for output in self.wiring[time].outputs.clone() {
                self.held[output.index as usize].value = Some(self.lives.born(self.len(output), time));
            }
            let scratch = self.lives.scratch(self.wiring[time].scratch.0, time);
            self.scratch.push(scratch);
        }
    }

    /// Walks the operations in reverse and emits the backward steps, each preceded by the values it needs again.
    fn backward_steps(&mut self) {
        for &root in &self.d.roots {
            self.deliver_whole(root);
        }
        for &leaf in &self.d.leaves {
            self.deliver_whole(leaf);
        }
        for op in (0..self.d.ops.len()).rev() {
            let w = self.wiring[op].clone();
            let out = w.outputs[0];
            let wanted = w.inputs.iter().any(|i| i.differentiable && self.needs_grad[i.act.index as usize])
                || w.params.iter().any(|p| Some(p.layout) == self.d.trained);
            if !wanted || self.held[out.index as usize].grad.is_none() {
                continue;
            }
            for &need in &w.backward_reads {
                self.make_available(need);
            }
            self.emit_backward(op, &w);
        }
        // What was asked for is kept to the end, and so is everything the caller may read.
        let end = self.now();
        for act in self.d.wants_grad.iter().chain(&self.d.leaves).chain(&self.d.roots) {
            if let Some(grad) = self.held[act.index as usize].grad {
                self.lives.used(grad, end);
            }
        }
        for (i, held) in self.held.iter().enumerate() {
            let stays = [&self.d.keep, &self.d.leaves, &self.d.roots].iter().any(|acts| acts.iter().any(|a| a.index as usize == i));
            if let (true, Some(value)) = (stays || self.producer[i].is_none(), held.value) {
                self.lives.used(value, end);
            }
        }
    }

    /// A gradient that comes from outside: alive from the start of the backward pass.
    fn deliver_whole(&mut self, act: Act) {
        if self.needs_grad[act.index as usize] && self.held[act.index as usize].grad.is_none() {
            let life = self.lives.born(self.len(act), self.d.ops.len());
            self.held[act.index as usize].grad = Some(life);
        }
    }

    /// Sees to it that a value is there for the next step; the step itself prolongs its life.
    fn make_available(&mut self, act: Act) {
        let i = act.index as usize;
        let dropped = self.producer[i].filter(|&op| (self.wiring[op].cheap || self.d.again[op]) && !self.kept(act));
        if let Some(op) = dropped.filter(|_| self.held[i].again.is_none()) {
            let w = self.wiring[op].clone();
            w.inputs.iter().for_each(|input| self.make_available(input.act));
            let now = self.now();
            for &input in &w.inputs {
                let held = self.held[input.act.index as usize];
                let life = held.again.or(held.value).expect("made available");
                self.lives.used(life, now);
            }
            // A kept output stays where it is: the same bits are written over it.
            for &output in &w.outputs {
                if !self.kept(output) {
                    let life = self.lives.born(self.len(output), now);
                    self.held[output.index as usize].again = Some(life);
                }
            }
            let scratch = self.lives.scratch(w.scratch.0, now);
            self.scratch.push(scratch);
            self.backward.push(Step { op, kind: StepKind::Again, scratch: (0, w.scratch.0) });
        }
    }

    fn emit_backward(&mut self, op: usize, w: &Wiring) {
        let now = self.now();
        for &need in &w.backward_reads {
            let held = self.held[need.index as usize];
            self.lives.used(held.again.or(held.value).expect("made available"), now);
        }
        let out_grad = self.held[w.outputs[0].index as usize].grad.expect("checked by the caller");
        self.lives.used(out_grad, now);
        let mut inputs: Vec<(Act, Deliver)> = vec![];
        for input in &w.inputs {
            let i = input.act.index as usize;
            let seen = inputs.iter().any(|(act, _)| *act == input.act);
            let how = match self.held[i].grad {
                _ if !self.needs_grad[i] || !input.differentiable => Deliver::Skip,
                Some(life) => {
                    self.lives.used(life, now);
                    Deliver::Add
                }
                // The output's gradient is not read after this step, so an input of the same size and type may take its memory.
                None if w.in_place == Some(input.act) && !seen && self.may_take(w.outputs[0], input.act) => {
                    self.held[i].grad = Some(out_grad);
                    Deliver::InPlace
                }
                None => {
                    self.held[i].grad = Some(self.lives.born(self.len(input.act), now));
                    Deliver::Set
                }
            };
            inputs.push((input.act, how));
        }
        let trained = w.params.iter().copied().filter(|p| Some(p.layout) == self.d.trained);
        let params = trained.map(|p| (p, self.touched.insert(p))).collect();
        let scratch = self.lives.scratch(w.scratch.1, now);
        self.scratch.push(scratch);
        self.backward.push(Step { op, kind: StepKind::Backward { inputs, params }, scratch: (0, w.scratch.1) });
    }

    fn may_take(&self, output: Act, input: Act) -> bool {
        let same = self.wide[output.index as usize] == self.wide[input.index as usize];
        same && !self.d.wants_grad.contains(&output) && !self.d.leaves.contains(&output) && !self.d.roots.contains(&output)
    }

    fn place(mut self) -> Scheduled {
        const ALIGN: usize = 16;
        let lives = std::mem::take(&mut self.lives.0);
        let (at, arena) = places(&lives, |_, life| life.len.next_multiple_of(ALIGN));
        let unshared = lives.iter().map(|l| l.len.next_multiple_of(ALIGN)).sum();
        let place = |life: Option<usize>| life.map(|l| at[l]);
        let acts = self.d.acts.iter().zip(&self.held);
        let acts = acts.map(|(a, h)| ActInfo { value: place(h.value), again: place(h.again), grad: place(h.grad), ..a.clone() }).collect();
        let n = self.d.ops.len();
        let forward = (0..n).map(|op| {
            let scratch = (at[self.scratch[op]], self.wiring[op].scratch.0);
            Step { op, kind: StepKind::Forward, scratch }
        });
        let forward = forward.collect();
        let mut backward = std::mem::take(&mut self.backward);
        for (step, &life) in backward.iter_mut().zip(&self.scratch[n..]) {
            step.scratch.0 = at[life];
        }
        Scheduled { acts, forward, backward, touched: self.touched, arena, unshared, lives, held: self.held, wide: self.wide }
    }
}

/// Gives every life a place: largest first, each at the lowest address that is free for all of its life. `size(i, life)` is what life
/// `i` takes, alignment included; returns the places and the arena's size, in the same unit.
pub(crate) fn places(lives: &[Life], size: impl Fn(usize, &Life) -> usize) -> (Vec<usize>, usize) {
    let sizes: Vec<usize> = lives.iter().enumerate().map(|(i, l)| size(i, l)).collect();
    let mut order: Vec<usize> = (0..lives.len()).filter(|&i| sizes[i] > 0).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(sizes[i]), i));
    let mut places = vec![0; lives.len()];
    let mut placed: Vec<usize> = vec![];
    let mut end = 0;
    for i in order {
        let mut at = 0;
        for &j in &placed {
            let other = &lives[j];
            if other.from <= lives[i].to && lives[i].from <= other.to && places[j] < at + sizes[i] && at < places[j] + sizes[j] {
                at = places[j] + sizes[j];
            }
        }
        places[i] = at;
        end = end.max(at + sizes[i]);
        let position = placed.partition_point(|&j| places[j] <= at);
        placed.insert(position, i);
    }
    (places, end)
}
