//! What each step of a plan costs: counted (operations and bytes, from shapes alone) and measured.

use std::time::Instant;

use crate::plan::{Act, Deliver, Plan, Step, StepKind};
use crate::{Cx, DType, Error, Grads};

/// In which part of a run a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pass {
    /// The forward pass.
    Forward,
    /// A value that the backward pass computes again.
    Again,
    /// A gradient.
    Backward,
}

/// What a step costs, counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepCost {
    /// The operation's name.
    pub op: &'static str,
    /// Where in a run it is.
    pub pass: Pass,
    /// The shape of what the operation computes.
    pub shape: crate::Shape,
    /// Floating point operations; a multiply-add is two.
    pub flops: u64,
    /// Bytes of memory that must be read and written if every operand is touched once.
    pub bytes: u64,
}

impl Plan {
    /// The cost of every step, forwards and then backwards, where activations are of a type.
    pub fn step_costs(&self, dtype: DType) -> Vec<StepCost> {
        self.forward.iter().chain(&self.backward).map(|step| self.step_cost(step, dtype)).collect()
    }

    fn step_cost(&self, step: &Step, dtype: DType) -> StepCost {
        let (op, w) = (&self.ops[step.op], self.ops[step.op].wiring());
        let size = |a: Act| {
            let wide = self.wide[a.index as usize] && dtype == DType::Bf16;
            (self.acts[a.index as usize].shape.len() * if wide { 4 } else { dtype.size() }) as u64
        };
        let out = w.outputs[0];
        let narrow = dtype == DType::Bf16 && !self.wide[out.index as usize];
        let params = self.weights[step.op];
        let weights = params * if narrow { 2 } else { dtype.master().size() as u64 };
        let (pass, flops, bytes) = match &step.kind {
            StepKind::Backward { inputs, params: delivered } => {
                let to_inputs = inputs.iter().any(|(_, how)| *how != Deliver::Skip);
                let flops = w.flops.1 * u64::from(to_inputs || w.param_flops == 0) + w.param_flops * u64::from(!delivered.is_empty());
                let gradients: u64 = inputs
                    .iter()
                    .map(|(a, how)| match how {
                        Deliver::Skip => 0,
                        Deliver::Set | Deliver::InPlace => size(*a),
                        Deliver::Add => 2 * size(*a),
                    })
                    .sum();
                let read: u64 = w.backward_reads.iter().map(|a| size(*a)).sum();
                let grads = if delivered.is_empty() { 0 } else { params * dtype.master().size() as u64 };
                (Pass::Backward, flops, size(out) + read + gradients + weights + grads)
            }
            kind => {
                let read: u64 = w.inputs.iter().map(|i| size(i.act)).sum();
                let written: u64 = w.outputs.iter().map(|a| size(*a)).sum();
                let pass = if let StepKind::Forward = kind { Pass::Forward } else { Pass::Again };
                (pass, w.flops.0, read + written + weights)
            }
        };
        StepCost { op: op.name(), pass, shape: self.acts[out.index as usize].shape, flops, bytes }
    }

    /// Runs forwards and backwards step by step, and measures each: seconds, in the order of [`step_costs`](Plan::step_costs).
    ///
    /// # Errors
    /// Those of a run.
    pub fn profile(&self, cx: &mut Cx, grads: &mut Grads) -> Result<Vec<f64>, Error> {
        if cx.device.cuda_ordinal().is_some() {
            return self.profile_cuda(cx, grads);
        }
        let mut seconds = vec![];
        let mut last = Instant::now();
        let mut behind = |last: &mut Instant| {
            seconds.push(last.elapsed().as_secs_f64());
            *last = Instant::now();
        };
        self.forward_with(cx, |_, _| behind(&mut last))?;
        last = Instant::now();
        self.backward_with(cx, grads, |_, _| behind(&mut last))?;
        Ok(seconds)
    }
}
