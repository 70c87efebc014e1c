//! Patch merging on a device.

use super::{Operation, PatchMerge};
use crate::Error;
use crate::cuda::{Grid, Kernel, Run, args};
use crate::plan::Deliver;

const FILE: &str = "patch_merge";

impl PatchMerge {
    pub(super) fn start_forward(&self, run: &mut Run) -> Result<(), Error> {
        let kernel = Kernel::of(FILE, "patch_merge_forward", run.kind(Self::NAME, &[self.x, self.y])?);
        let (x, y, rows) = (run.value(self.x), run.value(self.y), run.len(self.x) / self.cols);
        run.launch(kernel, Grid::cover(rows, 8), 256, 0, &args![x, y, rows, self.width, self.cols])
    }

    pub(super) fn start_backward(&self, run: &mut Run) -> Result<(), Error> {
        let how = run.deliver(self.x);
        if how == Deliver::Skip {
            return Ok(());
        }
        let kernel = Kernel::of(FILE, "patch_merge_backward", run.kind(Self::NAME, &[self.x, self.y])?);
        let (dy, dx, rows) = (run.grad(self.y), run.grad(self.x), run.len(self.x) / self.cols);
        run.launch(kernel, Grid::cover(rows, 8), 256, 0, &args![dy, dx, rows, self.width, self.cols, how == Deliver::Add])
    }
}
