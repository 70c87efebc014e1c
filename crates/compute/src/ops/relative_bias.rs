//! Relative position bias: bias[h, i, j] = table[index[i, j], h]. table [R, H], index [N, N], bias [H, N, N].
//!
//! dtable[r, h] = sum of dbias[h, i, j] over index[i, j] = r, in the order of (i, j). One bias may be read by every block; the
//! scheduler then adds up dbias and this runs once.

mod cuda;

use std::sync::Arc;

use rayon::prelude::*;

use super::{Operation, Wiring};
use crate::cuda::Run;
use crate::exec::{At, Env};
use crate::plan::{Act, Deliver};
use crate::{Error, Real};

#[derive(Clone, Debug)]
pub(crate) struct RelativeBias {
    pub table: Act,
    pub index: Arc<[u32]>,
    pub y: Act,
    pub heads: usize,
}

impl Operation for RelativeBias {
    const NAME: &'static str = "relative_bias";

    fn wiring(&self) -> Wiring {
        Wiring { exact: vec![self.table, self.y], ..Wiring::new(&[self.table], self.y) }
    }

    fn forward<T: Real>(&self, env: &mut Env<T>) {
        let [table, y] = env.acts.split([self.table, self.y].map(At::Value));
        let (table, heads) = (&*table, self.heads);
        y.par_chunks_mut(self.index.len()).enumerate().for_each(|(h, y)| {
            y.iter_mut().zip(&*self.index).for_each(|(y, &row)| *y = table[row as usize * heads + h]);
        });
    }

    fn backward<T: Real>(&self, env: &mut Env<T>) {
        let how = env.deliver(self.table);
        if how == Deliver::Skip {
            return;
        }
        let [dy, dtable] = env.acts.split([At::Grad(self.y), At::Grad(self.table)]);
        if how == Deliver::Set {
            dtable.fill(T::ZERO);
        }
        for (h, dy) in dy.chunks_exact(self.index.len()).enumerate() {
            dy.iter().zip(&*self.index).for_each(|(d, &row)| dtable[row as usize * self.heads + h] += *d);
        }
    }

    fn forward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_forward(run)
    }

    fn backward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_backward(run)
    }
}
