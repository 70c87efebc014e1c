//! Patches on a device.

use super::{Operation, Patchify};
use crate::Error;
use crate::cuda::{Grid, Kernel, Run, args};
use crate::plan::Deliver;

const FILE: &str = "patchify";

impl Patchify {
    pub(super) fn start_forward(&self, run: &mut Run) -> Result<(), Error> {
        let kernel = Kernel::of(FILE, "patchify_forward", run.kind(Self::NAME, &[self.x, self.y])?);
        let (x, y, rows) = (run.value(self.x), run.value(self.y), run.len(self.x) / self.width);
        let args = args![x, y, rows, self.channels, self.height, self.width, self.patch];
        run.launch(kernel, Grid::cover(rows, 8), 256, 0, &args)
    }

    pub(super) fn start_backward(&self, run: &mut Run) -> Result<(), Error> {
        let how = run.deliver(self.x);
        if how == Deliver::Skip {
            return Ok(());
        }
        let kernel = Kernel::of(FILE, "patchify_backward", run.kind(Self::NAME, &[self.x, self.y])?);
        let (dy, dx, rows) = (run.grad(self.y), run.grad(self.x), run.len(self.x) / self.width);
        let args = args![dy, dx, rows, self.channels, self.height, self.width, self.patch, how == Deliver::Add];
        run.launch(kernel, Grid::cover(rows, 8), 256, 0, &args)
    }
}
