//! A parameter as an activation: y = W, for parameters that go through operations of their own (position tables, tokens).
//!
//! dW = dy.

use super::rows::scale_to;
use super::{Operation, Wiring};
use crate::exec::{At, Env};
use crate::plan::Act;
use crate::{Param, Real};

#[derive(Clone, Debug)]
pub(crate) struct Weight {
    pub w: Param,
    pub y: Act,
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
}
