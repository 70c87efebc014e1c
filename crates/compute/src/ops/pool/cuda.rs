//! Pooling on a device.

use super::{Operation, Pool, Pooling};
use crate::Error;
use crate::cuda::{Grid, Kernel, Run, args};
use crate::plan::Deliver;

const FILE: &str = "pool";

impl Pool {
    /// The first pooled token and how many there are.
    fn pooled(&self) -> (usize, usize) {
        let (_, _, elements) = self.extents();
        (elements.start / self.cols, elements.len() / self.cols)
    }

    fn is_mean(&self) -> bool {
        matches!(self.how, Pooling::Mean { .. })
    }

    pub(super) fn start_forward(&self, run: &mut Run) -> Result<(), Error> {
        let kind = run.kind(Self::NAME, &[self.x, self.y])?;
        let (x, y, rows, (from, count)) = (run.value(self.x), run.value(self.y), run.len(self.y) / self.cols, self.pooled());
        if !self.is_mean() {
            let args = args![x, y, rows, self.tokens, from, count, self.cols];
            return run.launch(Kernel::of(FILE, "pool_some", kind), Grid::cover(rows, 8), 256, 0, &args);
        }
        const TILE: usize = 32 * 8;
        let grid = Grid(rows as u32, self.cols.div_ceil(TILE) as u32, 1);
        let args = args![x, y, self.tokens, from, count, self.cols, 1.0 / count as f32];
        run.launch(Kernel::of(FILE, "pool_mean", kind), grid, 256, 8 * TILE * size_of::<f32>(), &args)
    }

    pub(super) fn start_backward(&self, run: &mut Run) -> Result<(), Error> {
        let how = run.deliver(self.x);
        if how == Deliver::Skip {
            return Ok(());
        }
        let kernel = Kernel::of(FILE, "pool_backward", run.kind(Self::NAME, &[self.x, self.y])?);
        let (dy, dx, rows, (from, count)) = (run.grad(self.y), run.grad(self.x), run.len(self.x) / self.cols, self.pooled());
        let weight = if self.is_mean() { 1.0 / count as f32 } else { 1.0 };
        let args = args![dy, dx, rows, self.tokens, from, count, self.cols, self.is_mean(), weight, how == Deliver::Add];
        run.launch(kernel, Grid::cover(rows, 8), 256, 0, &args)
    }
}
