//! Rows by index on a device.

use super::{Gather, Operation};
use crate::Error;
use crate::cuda::{Grid, Kernel, Kind, Run, args};
use crate::plan::Deliver;

const FILE: &str = "gather";

impl Gather {
    /// The instance for the types of x and y: rows of a table that is f32 (a vocabulary) may become bf16.
    fn kernel(&self, run: &Run, plain: &'static str, mixed: &'static str) -> Result<Kernel, Error> {
        match [self.x, self.y].map(|act| run.kind(Self::NAME, &[act])) {
            [Ok(Kind::F32), Ok(Kind::Bf16)] => Ok(Kernel::plain(FILE, mixed)),
            _ => Ok(Kernel::of(FILE, plain, run.kind(Self::NAME, &[self.x, self.y])?)),
        }
    }

    pub(super) fn start_forward(&self, run: &mut Run) -> Result<(), Error> {
        let kernel = self.kernel(run, "gather_forward", "gather_forward_f32_to_bf16")?;
        let (x, index, y, picks) = (run.value(self.x), run.value(self.index), run.value(self.y), run.len(self.index));
        let args = args![x, index, y, picks, self.picked, self.rows, self.cols, self.shared];
        run.launch(kernel, Grid::cover(picks, 8), 256, 0, &args)
    }

    pub(super) fn start_backward(&self, run: &mut Run) -> Result<(), Error> {
        let how = run.deliver(self.x);
        if how == Deliver::Skip {
            return Ok(());
        }
        let kernel = self.kernel(run, "gather_backward", "gather_backward_f32_to_bf16")?;
        let (index, dy, dx, picks) = (run.value(self.index), run.grad(self.y), run.grad(self.x), run.len(self.index));
        let (lists, picks) = if self.shared { (1, picks) } else { (picks / self.picked, self.picked) };
        // Columns of a warp, and room for eight of them and as many counts.
        const TILE: usize = 32 * 8;
        let shared = 8 * (TILE + 1) * size_of::<f32>();
        let grid = Grid((lists * self.rows).div_ceil(8) as u32, self.cols.div_ceil(TILE) as u32, 1);
        run.launch(kernel, grid, 256, shared, &args![index, dy, dx, lists, picks, self.rows, self.cols, how == Deliver::Add])
    }
}
