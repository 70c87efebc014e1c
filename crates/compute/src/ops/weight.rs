//! A parameter as an activation: y = W, for parameters that go through operations of their own (position tables, tokens).
//!
//! dW = dy.

use super::rows::cuda::start_deliver;
use super::rows::scale_to;
use super::{Operation, Wiring};
use crate::cuda::Run;
use crate::exec::{At, Env};
use crate::plan::{Act, Deliver};
use crate::{Error, Param, Real};

#[derive(Clone, Debug)]
pub(crate) struct Weight {
    pub w: Param,
    pub y: Act,
    pub len: usize,
}

impl Operation for Weight {
    const NAME: &'static str = "weight";

    fn wiring(&self) -> Wiring {
        Wiring { params: vec![self.w], ..Wiring::new(&[], self.y) }
    }

    fn forward<T: Real>(&self, env: &mut Env<T>) {
        let [y] = env.acts.split([At::Value(self.y)]);
        y.copy_from_slice(env.params.get(self.w));
    }

    fn backward<T: Real>(&self, env: &mut Env<T>) {
        let [dy] = env.acts.split([At::Grad(self.y)]);
        if let [Some((dw, add))] = env.grads.split([self.w]) {
            scale_to(dw, dy, T::ONE, add);
        }
    }

    fn forward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        let y = run.value(self.y);
        run.copy(y, run.master(self.w), self.len)
    }

    fn backward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        let dy = run.grad(self.y);
        run.param_grad(self.w)
            .map_or(Ok(()), |(dw, add)| start_deliver(run, if add { Deliver::Add } else { Deliver::Set }, dw, dy, self.len))
    }
}
