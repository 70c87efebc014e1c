//! Activations on a device.

use super::{Activate, Activation};
use crate::Error;
use crate::cuda::{Grid, Kernel, Run, args};
use crate::plan::Deliver;

const FILE: &str = "activation";
/// Elements a block works on.
const BLOCK: usize = 2048;

impl Activate {
    /// The kernels' number of the function, and its height.
    fn function(&self) -> (u32, f32) {
        match self.kind {
            Activation::Gelu => (0, 1.0),
            Activation::QuickGelu => (1, 1.0),
            Activation::Relu => (2, 1.0),
            Activation::Sigmoid { height } => (3, height as f32),
        }
    }

    pub(super) fn start_forward(&self, run: &mut Run) -> Result<(), Error> {
        let (x, y, (kind, height)) = (run.value(self.x), run.value(self.y), self.function());
        let kernel = Kernel::of(FILE, "activation_forward", x.kind);
        run.launch(kernel, Grid::cover(self.len, BLOCK), 256, 0, &args![x, y, self.len as u64, kind, height])
    }

    pub(super) fn start_backward(&self, run: &mut Run) -> Result<(), Error> {
        let how = run.deliver(self.x);
        if how == Deliver::Skip {
            return Ok(());
        }
        // In place, dx is dy.
        let (x, dy, dx, (kind, height)) = (run.value(self.x), run.grad(self.y), run.grad(self.x), self.function());
        let kernel = Kernel::of(FILE, "activation_backward", x.kind);
        let args = args![x, dy, dx, self.len as u64, how == Deliver::Add, kind, height];
        run.launch(kernel, Grid::cover(self.len, BLOCK), 256, 0, &args)
    }
}
