//! Channels' factors and terms on a device.

use super::{ChannelAffine, Operation};
use crate::Error;
use crate::cuda::{Grid, Kernel, Ptr, Run, args};
use crate::plan::Deliver;

const FILE: &str = "channel_affine";
/// Elements of a channel that a block takes.
const PIECE: usize = 8192;

impl ChannelAffine {
    fn pairs(&self, run: &mut Run) -> Result<Ptr, Error> {
        run.table(0, || self.channels.iter().map(|&(scale, shift)| [scale as f32, shift as f32]).collect())
    }

    pub(super) fn start_forward(&self, run: &mut Run) -> Result<(), Error> {
        let kernel = Kernel::of(FILE, "channel_affine_forward", run.kind(Self::NAME, &[self.x, self.y])?);
        let (x, y, pairs, pieces) = (run.value(self.x), run.value(self.y), self.pairs(run)?, self.pixels.div_ceil(PIECE));
        let grid = Grid::line(run.len(self.x) / self.pixels * pieces);
        run.launch(kernel, grid, 256, 0, &args![x, pairs, y, self.channels.len(), self.pixels, pieces])
    }

    pub(super) fn start_backward(&self, run: &mut Run) -> Result<(), Error> {
        let how = run.deliver(self.x);
        if how == Deliver::Skip {
            return Ok(());
        }
        let kernel = Kernel::of(FILE, "channel_affine_backward", run.kind(Self::NAME, &[self.x, self.y])?);
        let (dy, dx, pairs, pieces) = (run.grad(self.y), run.grad(self.x), self.pairs(run)?, self.pixels.div_ceil(PIECE));
        let grid = Grid::line(run.len(self.x) / self.pixels * pieces);
        let args = args![dy, pairs, dx, self.channels.len(), self.pixels, pieces, how == Deliver::Add];
        run.launch(kernel, grid, 256, 0, &args)
    }
}
