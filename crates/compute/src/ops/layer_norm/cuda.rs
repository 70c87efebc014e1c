//! LayerNorm on a device.

use super::LayerNorm;
use crate::Error;
use crate::cuda::{Grid, Ptr, Run, args};
use crate::ops::linear::cuda::start_add_up;
use crate::ops::rows::cuda::Teams;
use crate::plan::Deliver;

const FILE: &str = "layer_norm";

impl LayerNorm {
    /// Backwards a thread has column sums beside its share of a row: fewer vectors, or they would not fit the registers.
    fn backward_teams(&self) -> Teams {
        Teams::with(self.cols, [2, 3])
    }

    /// Rows that a block works on backwards: as many blocks as a large device runs at once, 16 warps a multiprocessor.
    fn chunk(&self, teams: Teams) -> usize {
        let blocks = 264 * 256 / teams.block as usize;
        self.rows.div_ceil(blocks).next_multiple_of(teams.count()).max(2 * teams.count())
    }

    /// Bytes of working memory: the column sums of dy x̂ and dy, by chunk.
    pub(super) fn device_scratch(&self) -> (usize, usize) {
        let chunks = self.rows.div_ceil(self.chunk(self.backward_teams()));
        (0, if self.affine.is_some() { chunks * 2 * self.cols * size_of::<f32>() } else { 0 })
    }

    pub(super) fn start_forward(&self, run: &mut Run) -> Result<(), Error> {
        let [x, y, mean, rstd] = [self.x, self.y, self.mean, self.rstd].map(|a| run.value(a));
        let [w, b] = self.affine.map_or([Ptr::NULL; 2], |(w, b)| [run.master(w), run.master(b)]);
        let teams = Teams::of(self.cols);
        let kernel = teams.kernel(FILE, "layer_norm_forward", "layer_norm_forward_any", x.kind);
        let args = args![x, w, b, y, mean, rstd, self.rows, self.cols, teams.lanes, self.eps as f32];
        run.launch(kernel, Grid::cover(self.rows, teams.count()), teams.block, Teams::SHARED, &args)
    }

    pub(super) fn start_backward(&self, run: &mut Run) -> Result<(), Error> {
        let (dx, how) = match run.deliver(self.x) {
            Deliver::Skip => (Ptr::NULL, 0),
            Deliver::Set => (run.grad(self.x), 1),
            Deliver::Add => (run.grad(self.x), 2),
            Deliver::InPlace => unreachable!("never offered"),
        };
        let wanted = self.affine.and_then(|(w, b)| Some((run.param_grad(w)?, run.param_grad(b)?)));
        if how == 0 && wanted.is_none() {
            return Ok(());
        }
        let [x, mean, rstd] = [self.x, self.mean, self.rstd].map(|a| run.value(a));
        let (dy, w) = (run.grad(self.y), self.affine.map_or(Ptr::NULL, |(w, _)| run.master(w)));
        let partial = if wanted.is_some() { run.scratch() } else { Ptr::NULL };
        let (teams, cols) = (self.backward_teams(), self.cols);
        let (chunk, chunks) = (self.chunk(teams), self.rows.div_ceil(self.chunk(teams)));
        let registers = if teams.vectors == 2 { "layer_norm_backward_2" } else { "layer_norm_backward_3" };
        let kernel = teams.kernel(FILE, registers, "layer_norm_backward_any", x.kind);
        // Column sums of the warps of a block that has several teams.
        let shared = if teams.lanes > 32 { 0 } else { teams.block as usize / 32 * cols * size_of::<f32>() };
        let args = args![x, dy, w, mean, rstd, dx, how, partial, self.rows, cols, teams.lanes, chunk];
        run.launch(kernel, Grid::line(chunks), teams.block, shared.max(Teams::SHARED), &args)?;
        if let Some((dw, db)) = wanted {
            start_add_up(run, partial, (chunks, 2 * cols), (0, cols), dw)?;
            start_add_up(run, partial, (chunks, 2 * cols), (cols, cols), db)?;
        }
        Ok(())
    }
}
