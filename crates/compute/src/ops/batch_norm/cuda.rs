//! BatchNorm on a device.

use super::BatchNorm;
use crate::Error;
use crate::cuda::{Grid, Kernel, Run, args};
use crate::plan::Deliver;

const FILE: &str = "batch_norm";
/// A float for each of a block's threads.
const SHARED: usize = 256 * size_of::<f32>();

impl BatchNorm {
    pub(super) fn start_forward(&self, run: &mut Run) -> Result<(), Error> {
        let [x, y, mean, var] = [self.x, self.y, self.mean, self.var].map(|a| run.value(a));
        let args = args![x, y, mean, var, self.rows, self.cols, self.eps as f32];
        run.launch(Kernel::of(FILE, "batch_norm_forward", x.kind), Grid::cover(self.cols, 32), 256, SHARED, &args)
    }

    pub(super) fn start_backward(&self, run: &mut Run) -> Result<(), Error> {
        let how = run.deliver(self.x);
        if how == Deliver::Skip {
            return Ok(());
        }
        let [y, var] = [self.y, self.var].map(|a| run.value(a));
        let (dy, dx) = (run.grad(self.y), run.grad(self.x));
        let args = args![y, var, dy, dx, how == Deliver::Add, self.rows, self.cols, self.eps as f32];
        run.launch(Kernel::of(FILE, "batch_norm_backward", y.kind), Grid::cover(self.cols, 32), 256, SHARED, &args)
    }
}
