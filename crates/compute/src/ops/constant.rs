//! Fixed numbers as a value: coordinates of a position bias, sine and cosine positions. y of any shape; there is no gradient.

use std::sync::Arc;

use super::{Operation, Wiring};
use crate::cuda::Run;
use crate::exec::{At, Env};
use crate::plan::Act;
use crate::{Error, Real};

#[derive(Clone, Debug)]
pub(crate) struct Constant {
    pub values: Arc<[f64]>,
    pub y: Act,
}

impl Operation for Constant {
    const NAME: &'static str = "constant";

    fn wiring(&self) -> Wiring {
        Wiring { cheap: true, ..Wiring::new(&[], self.y) }
    }

    fn forward<T: Real>(&self, env: &mut Env<T>) {
        let [y] = env.acts.split([At::Value(self.y)]);
        y.iter_mut().zip(&*self.values).for_each(|(y, v)| *y = T::of(*v));
    }

    fn backward<T: Real>(&self, _: &mut Env<T>) {}

    fn forward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        let values = run.table(0, || self.values.iter().map(|v| *v as f32).collect())?;
        run.copy(run.value(self.y), values, self.values.len())
    }

    fn backward_cuda(&self, _: &mut Run) -> Result<(), Error> {
        Ok(())
    }
}
