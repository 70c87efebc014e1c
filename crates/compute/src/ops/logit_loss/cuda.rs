//! Losses on logits on a device.

use super::{LogitLoss, TargetForm};
use crate::Error;
use crate::cuda::{Grid, Kernel, Kind, Run, args};
use crate::ops::rows::cuda::start_total;
use crate::plan::Deliver;

const FILE: &str = "logit_loss";
/// 32 doubles.
const SHARED: usize = 256;

impl LogitLoss {
    /// Bytes of working memory: a loss a row.
    pub(super) fn device_scratch(&self) -> (usize, usize) {
        (self.rows * size_of::<f32>(), 0)
    }

    /// The kernels' number of the target's form.
    fn number(&self) -> u32 {
        match self.form {
            TargetForm::Probabilities => 0,
            TargetForm::Logits => 1,
            TargetForm::LogitsKl => 2,
        }
    }

    /// Threads of a row's block.
    fn block(&self) -> u32 {
        self.cols.next_multiple_of(32).min(256) as u32
    }

    pub(super) fn start_forward(&self, run: &mut Run) -> Result<(), Error> {
        let [z, t, loss] = [self.logits, self.target, self.loss].map(|a| run.value(a));
        let name = match (z.kind, t.kind) {
            (Kind::Bf16, Kind::F32) => "logit_loss_forward_to_f32",
            (Kind::F32, Kind::Bf16) => "logit_loss_forward_to_bf16",
            _ => "logit_loss_forward",
        };
        let rows = run.scratch();
        let args = args![z, t, rows, self.cols, self.temperature, self.number()];
        run.launch(Kernel::of(FILE, name, z.kind), Grid::line(self.rows), self.block(), SHARED, &args)?;
        start_total(run, rows, self.rows, self.temperature * self.temperature / self.rows as f64, loss)
    }

    pub(super) fn start_backward(&self, run: &mut Run) -> Result<(), Error> {
        let how = run.deliver(self.logits);
        if how == Deliver::Skip {
            return Ok(());
        }
        let [z, t] = [self.logits, self.target].map(|a| run.value(a));
        let (seed, dz) = (run.grad(self.loss), run.grad(self.logits));
        let name = match (z.kind, t.kind) {
            (Kind::Bf16, Kind::F32) => "logit_loss_backward_to_f32",
            (Kind::F32, Kind::Bf16) => "logit_loss_backward_to_bf16",
            _ => "logit_loss_backward",
        };
        let scale = self.temperature / self.rows as f64;
        let args = args![z, t, seed, scale, dz, how == Deliver::Add, self.cols, self.temperature, self.number()];
        run.launch(Kernel::of(FILE, name, z.kind), Grid::line(self.rows), self.block(), SHARED, &args)
    }
}
