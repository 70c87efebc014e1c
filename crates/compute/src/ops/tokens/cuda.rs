//! Tokens and positions on a device.

use super::{Operation, Tokens};
use crate::Error;
use crate::cuda::{Grid, Kernel, Kind, Ptr, Run, args};
use crate::plan::{Act, Deliver};

const FILE: &str = "tokens";

impl Tokens {
    /// The type of x and y; tokens and positions are f32.
    fn kind(&self, run: &Run) -> Result<Kind, Error> {
        for act in [self.cls, self.registers, self.pos].into_iter().flatten() {
            if run.kind(Self::NAME, &[act])? != Kind::F32 {
                let why = "tokens or positions that are computed from a plan's input have no kernel in bf16";
                return Err(Error::Device { device: "cuda".into(), why: why.into() });
            }
        }
        run.kind(Self::NAME, &[self.x, self.y])
    }

    pub(super) fn start_forward(&self, run: &mut Run) -> Result<(), Error> {
        let kernel = Kernel::of(FILE, "tokens_forward", self.kind(run)?);
        let (x, y, rows) = (run.value(self.x), run.value(self.y), run.len(self.y) / self.cols);
        let [cls, registers, pos] = [self.cls, self.registers, self.pos].map(|act| run.optional(act));
        let lead = usize::from(self.cls.is_some());
        let args = args![x, cls, registers, pos, y, rows, lead, self.register_tokens, self.patches, self.cols];
        run.launch(kernel, Grid::cover(rows, 8), 256, 0, &args)
    }

    pub(super) fn start_backward(&self, run: &mut Run) -> Result<(), Error> {
        let (kind, dy) = (self.kind(run)?, run.grad(self.y));
        let before = usize::from(self.cls.is_some()) + self.register_tokens;
        let how = run.deliver(self.x);
        if how != Deliver::Skip {
            let (dx, rows) = (run.grad(self.x), run.len(self.x) / self.cols);
            let args = args![dy, dx, rows, before, self.patches, self.cols, how == Deliver::Add];
            run.launch(Kernel::of(FILE, "tokens_backward", kind), Grid::cover(rows, 8), 256, 0, &args)?;
        }
        self.start_sums(run, Kernel::of(FILE, "tokens_sums", kind), dy)
    }

    /// Sums over the batch.
    fn start_sums(&self, run: &mut Run, kernel: Kernel, dy: Ptr) -> Result<(), Error> {
        let wanted = |run: &Run, act: Option<Act>| match act.map(|a| (a, run.deliver(a))) {
            None | Some((_, Deliver::Skip)) => (Ptr::NULL, false),
            Some((act, how)) => (run.grad(act), how == Deliver::Add),
        };
        let [(dcls, add_cls), (dreg, add_reg), (dpos, add_pos)] = [self.cls, self.registers, self.pos].map(|act| wanted(run, act));
        if [dcls, dreg, dpos] == [Ptr::NULL; 3] {
            return Ok(());
        }
        let lead = usize::from(self.cls.is_some());
        let n = lead + self.register_tokens + self.patches;
        let batch = run.len(self.y) / (n * self.cols);
        let blocks = if dpos == Ptr::NULL { lead + self.register_tokens } else { n };
        const TILE: usize = 32 * 8;
        let grid = Grid(blocks as u32, self.cols.div_ceil(TILE) as u32, 1);
        let args = args![dy, dcls, dreg, dpos, batch, n, lead, self.register_tokens, self.cols, add_cls, add_reg, add_pos];
        run.launch(kernel, grid, 256, 8 * TILE * size_of::<f32>(), &args)
    }
}
