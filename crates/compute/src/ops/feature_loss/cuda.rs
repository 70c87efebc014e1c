//! Distances between features on a device.

use super::{Distance, FeatureLoss};
use crate::Error;
use crate::cuda::{Grid, Kernel, Kind, Run, args};
use crate::ops::rows::cuda::{Teams, start_total};
use crate::plan::Deliver;

const FILE: &str = "feature_loss";

impl FeatureLoss {
    /// Rows whose distances one block adds up: a few for each of its teams.
    fn chunk(&self, teams: Teams) -> usize {
        self.rows.div_ceil(4096).next_multiple_of(teams.count())
    }

    /// Bytes of working memory: a sum a chunk.
    pub(super) fn device_scratch(&self) -> (usize, usize) {
        (self.rows.div_ceil(self.chunk(Teams::of(self.cols))) * size_of::<f32>(), 0)
    }

    /// The kernels' number of the distance, its beta, and the whitening's epsilon (-1: none).
    fn function(&self) -> (u32, f32, f32) {
        let (distance, beta) = match self.distance {
            Distance::SmoothL1 { beta } => (0, beta as f32),
            Distance::L1 => (1, 0.0),
            Distance::Mse => (2, 0.0),
            Distance::Cosine => (3, 0.0),
        };
        (distance, beta, self.whiten.map_or(-1.0, |eps| eps as f32))
    }

    /// A kernel by its four names: rows in registers and any rows, for operands of one type and of two.
    fn kernel(teams: Teams, names: [&'static str; 4], pred: Kind, target: Kind) -> Kernel {
        let [registers, any] = if pred == target { [names[0], names[1]] } else { [names[2], names[3]] };
        teams.kernel(FILE, registers, any, pred)
    }

    pub(super) fn start_forward(&self, run: &mut Run) -> Result<(), Error> {
        let [pred, target, loss] = [self.pred, self.target, self.loss].map(|a| run.value(a));
        let (teams, partial, (distance, beta, eps)) = (Teams::of(self.cols), run.scratch(), self.function());
        let (chunk, chunks) = (self.chunk(teams), self.rows.div_ceil(self.chunk(teams)));
        let names = match target.kind {
            Kind::F32 => {
                ["feature_loss_forward", "feature_loss_forward_any", "feature_loss_forward_to_f32", "feature_loss_forward_any_to_f32"]
            }
            Kind::Bf16 => {
                ["feature_loss_forward", "feature_loss_forward_any", "feature_loss_forward_to_bf16", "feature_loss_forward_any_to_bf16"]
            }
        };
        let args = args![pred, target, partial, self.rows, self.cols, teams.lanes, chunk, distance, beta, eps];
        run.launch(Self::kernel(teams, names, pred.kind, target.kind), Grid::line(chunks), teams.block, Teams::SHARED, &args)?;
        start_total(run, partial, chunks, 1.0 / self.count(), loss)
    }

    pub(super) fn start_backward(&self, run: &mut Run) -> Result<(), Error> {
        let how = run.deliver(self.pred);
        if how == Deliver::Skip {
            return Ok(());
        }
        let [pred, target] = [self.pred, self.target].map(|a| run.value(a));
        let (seed, dpred) = (run.grad(self.loss), run.grad(self.pred));
        let (teams, (distance, beta, eps)) = (Teams::of(self.cols), self.function());
        let names = match target.kind {
            Kind::F32 => {
                ["feature_loss_backward", "feature_loss_backward_any", "feature_loss_backward_to_f32", "feature_loss_backward_any_to_f32"]
            }
            Kind::Bf16 => {
                ["feature_loss_backward", "feature_loss_backward_any", "feature_loss_backward_to_bf16", "feature_loss_backward_any_to_bf16"]
            }
        };
        let add = how == Deliver::Add;
        let args = args![pred, target, seed, self.count(), dpred, add, self.rows, self.cols, teams.lanes, distance, beta, eps];
        let grid = Grid::cover(self.rows, teams.count());
        run.launch(Self::kernel(teams, names, pred.kind, target.kind), grid, teams.block, Teams::SHARED, &args)
    }
}
