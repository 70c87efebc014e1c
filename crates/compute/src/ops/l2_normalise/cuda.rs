//! Rows of unit length on a device.

use super::L2Normalise;
use crate::Error;
use crate::cuda::{Grid, Run, args};
use crate::ops::rows::cuda::Teams;
use crate::plan::Deliver;

const FILE: &str = "l2_normalise";

impl L2Normalise {
    pub(super) fn start_forward(&self, run: &mut Run) -> Result<(), Error> {
        let (x, y, teams) = (run.value(self.x), run.value(self.y), Teams::of(self.cols));
        let kernel = teams.kernel(FILE, "l2_normalise_forward", "l2_normalise_forward_any", x.kind);
        let grid = Grid::cover(self.rows, teams.count());
        run.launch(kernel, grid, teams.block, Teams::SHARED, &args![x, y, self.rows, self.cols, teams.lanes])
    }

    pub(super) fn start_backward(&self, run: &mut Run) -> Result<(), Error> {
        let how = run.deliver(self.x);
        if how == Deliver::Skip {
            return Ok(());
        }
        let (x, dy, dx, teams) = (run.value(self.x), run.grad(self.y), run.grad(self.x), Teams::of(self.cols));
        let kernel = teams.kernel(FILE, "l2_normalise_backward", "l2_normalise_backward_any", x.kind);
        let args = args![x, dy, dx, how == Deliver::Add, self.rows, self.cols, teams.lanes];
        run.launch(kernel, Grid::cover(self.rows, teams.count()), teams.block, Teams::SHARED, &args)
    }
}
