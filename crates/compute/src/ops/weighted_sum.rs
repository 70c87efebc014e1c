//! A sum of losses: y = Σ weight · x. x, y [1].
//!
//! dx = weight · dy.

mod cuda;

use super::{Operation, Wiring};
use crate::cuda::Run;
use crate::exec::{At, Env};
use crate::plan::{Act, Deliver};
use crate::{Error, Real};

#[derive(Clone, Debug)]
pub(crate) struct WeightedSum {
    pub terms: Vec<(Act, f64)>,
    pub y: Act,
}

impl Operation for WeightedSum {
    const NAME: &'static str = "weighted_sum";

    fn wiring(&self) -> Wiring {
        let inputs: Vec<Act> = self.terms.iter().map(|(x, _)| *x).collect();
        Wiring { exact: vec![self.y], flops: (2 * inputs.len() as u64, inputs.len() as u64), ..Wiring::new(&inputs, self.y) }
    }

    fn forward<T: Real>(&self, env: &mut Env<T>) {
        let mut sum = T::ZERO;
        for &(x, weight) in &self.terms {
            let [x] = env.acts.split([At::Value(x)]);
            sum += T::of(weight) * x[0];
        }
        let [y] = env.acts.split([At::Value(self.y)]);
        y[0] = sum;
    }

    fn backward<T: Real>(&self, env: &mut Env<T>) {
        for &(x, weight) in &self.terms {
            let how = env.deliver(x);
            if how == Deliver::Skip {
                continue;
            }
            let [dy, dx] = env.acts.split([At::Grad(self.y), At::Grad(x)]);
            let d = T::of(weight) * dy[0];
            dx[0] = if how == Deliver::Add { dx[0] + d } else { d };
        }
    }

    fn forward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_forward(run)
    }

    fn backward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_backward(run)
    }
}
