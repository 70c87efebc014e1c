//! Linear layer: y = x Wᵀ + b. x [.., I], W [O, I], b [O], y [.., O].
//!
//! dx = dy W, dW = dyᵀ x, db = column sums of dy.

pub(super) mod cuda;

use super::{Operation, Wiring, rows};
use crate::cuda::Run;
use crate::exec::{At, Env};
use crate::gemm::{Mat, MatMut, Product, Start};
use crate::plan::{Act, Deliver};
use crate::{Error, Param, Real};

/// The bias of a [linear layer](crate::Planner::linear).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// None.
    None,
    /// One vector as wide as the output.
    Full(Param),
    /// Query, key and value parts of a joint projection, each a third as wide as the output; what is absent is zero. (Adding one
    /// vector to all keys changes no attention: a key bias has no gradient and the paper's student none.)
    Qkv {
        /// Query part.
        q: Option<Param>,
        /// Key part.
        k: Option<Param>,
        /// Value part.
        v: Option<Param>,
    },
}

impl Bias {
    /// The parts and at which column of `width` each starts.
    pub(crate) fn parts(self, width: usize) -> impl Iterator<Item = (usize, Param)> {
        let parts = match self {
            Bias::None => [None; 3],
            Bias::Full(p) => [Some((0, p)), None, None],
            Bias::Qkv { q, k, v } => [q.map(|p| (0, p)), k.map(|p| (width / 3, p)), v.map(|p| (2 * width / 3, p))],
        };
        parts.into_iter().flatten()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub x: Act,
    pub w: Param,
    pub bias: Bias,
    pub y: Act,
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
}

impl Operation for Linear {
    const NAME: &'static str = "linear";

    fn wiring(&self) -> Wiring {
        let flops = 2 * (self.rows * self.inputs * self.outputs) as u64;
        let partial = if self.bias == Bias::None { 0 } else { (rows::tasks(self.rows, self.outputs) + 1) * self.outputs };
        Wiring {
            backward_reads: vec![self.x],
            params: std::iter::once(self.w).chain(self.bias.parts(self.outputs).map(|(_, p)| p)).collect(),
            scratch: (self.outputs, partial),
            device_scratch: self.device_scratch(),
            flops: (flops, flops),
            param_flops: flops,
            ..Wiring::new(&[self.x], self.y)
        }
    }

    fn forward<T: Real>(&self, env: &mut Env<T>) {
        let [x, y, bias] = env.acts.split([At::Value(self.x), At::Value(self.y), At::Scratch]);
        let start = if self.bias == Bias::None {
            Start::Zero
        } else {
            bias.fill(T::ZERO);
            for (at, p) in self.bias.parts(self.outputs) {
                let part = env.params.get(p);
                bias[at..at + part.len()].copy_from_slice(part);
            }
            Start::Row(bias)
        };
        let (x, w) = (Mat::new(x, self.rows, self.inputs), Mat::new(env.params.get(self.w), self.outputs, self.inputs));
        let product = Product { start, ..Product::all(env.operands, false) };
        product.run(x, w.t(), MatMut::new(y, self.rows, self.outputs));
    }

    fn backward<T: Real>(&self, env: &mut Env<T>) {
        let how = env.deliver(self.x);
        let (m, i, o, operands) = (self.rows, self.inputs, self.outputs, env.operands);
        if how != Deliver::Skip {
            let [dy, dx] = env.acts.split([At::Grad(self.y), At::Grad(self.x)]);
            let w = Mat::new(env.params.get(self.w), o, i);
            Product::all(operands, how == Deliver::Add).run(Mat::new(dy, m, o), w, MatMut::new(dx, m, i));
        }
        let [x, dy, partial] = env.acts.split([At::Value(self.x), At::Grad(self.y), At::Scratch]);
        if let [Some((dw, add))] = env.grads.split([self.w]) {
            Product::all(operands, add).run(Mat::new(dy, m, o).t(), Mat::new(x, m, i), MatMut::new(dw, o, i));
        }
        if self.bias.parts(o).any(|(_, p)| env.grads.wants(p)) {
            let (partial, total) = partial.split_at_mut(rows::tasks(m, o) * o);
            rows::column_partials(dy, o, partial);
            rows::reduce(partial, total, false);
            for (at, p) in self.bias.parts(o) {
                if let [Some((db, add))] = env.grads.split([p]) {
                    rows::scale_to(db, &total[at..at + db.len()], T::ONE, add);
                }
            }
        }
    }

    fn forward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_forward(run)
    }

    fn backward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_backward(run)
    }
}
