//! Residual branches on a device.

use super::{DropPath, Residual};
use crate::Error;
use crate::cuda::{Grid, Kernel, Kind, Ptr, Run, args};
use crate::ops::linear::cuda::start_add_up;
use crate::ops::rows::cuda::{Tiles, start_deliver};
use crate::plan::Deliver;

const FILE: &str = "residual";
/// Elements of a sample that a block of the forward kernel works on.
const PART: usize = 8192;

/// The kernels' number of a delivery.
fn number(how: Deliver) -> u32 {
    match how {
        Deliver::Skip | Deliver::InPlace => 0,
        Deliver::Set => 1,
        Deliver::Add => 2,
    }
}

impl Residual {
    /// Bytes of working memory: γ's column sums by chunk.
    pub(super) fn device_scratch(&self) -> (usize, usize) {
        let sums = Tiles::of(self.rows, self.cols).chunks * self.cols * size_of::<f32>();
        (0, if self.gamma.is_some() { sums } else { 0 })
    }

    /// What the factor is made of (null: it is 1), the site and the rate.
    fn drop_path(&self, run: &Run) -> (Ptr, u32, f64) {
        match self.drop.filter(|d| run.train() && d.rate > 0.0) {
            Some(DropPath { rate, site }) => (run.control(), site, rate),
            None => (Ptr::NULL, 0, 0.0),
        }
    }

    pub(super) fn start_forward(&self, run: &mut Run) -> Result<(), Error> {
        let [x, y, out] = [self.x, self.y, self.out].map(|a| run.value(a));
        let gamma = self.gamma.map_or(Ptr::NULL, |g| run.master(g));
        let (control, site, rate) = self.drop_path(run);
        let name = match (x.kind, y.kind) {
            (Kind::F32, Kind::Bf16) => "residual_forward_wide_x",
            (Kind::Bf16, Kind::F32) => "residual_forward_wide_y",
            _ => "residual_forward",
        };
        let each = self.rows / self.batch * self.cols;
        let grid = Grid(self.batch as u32, each.div_ceil(PART).max(1) as u32, 1);
        run.launch(Kernel::of(FILE, name, out.kind), grid, 256, 32, &args![x, y, gamma, out, control, site, rate, each, self.cols])
    }

    pub(super) fn start_backward(&self, run: &mut Run) -> Result<(), Error> {
        let (how_x, how_y) = (run.deliver(self.x), run.deliver(self.y));
        let dgamma = self.gamma.and_then(|g| run.param_grad(g));
        let dout = run.grad(self.out);
        // The kernel delivers an x of out's type; of another type it is a copy of its own.
        let dx = if number(how_x) > 0 { run.grad(self.x) } else { Ptr { kind: dout.kind, ..Ptr::NULL } };
        let (in_kernel, apart) = if dx.kind == dout.kind { (how_x, Deliver::Skip) } else { (Deliver::Skip, how_x) };
        if how_y != Deliver::Skip || dgamma.is_some() || number(in_kernel) > 0 {
            let dy = if how_y == Deliver::Skip { Ptr::NULL } else { run.grad(self.y) };
            let y = if dgamma.is_some() { run.value(self.y) } else { dy };
            let gamma = self.gamma.map_or(Ptr::NULL, |g| run.master(g));
            let partial = if dgamma.is_some() { run.scratch() } else { Ptr::NULL };
            let wide_y = y != Ptr::NULL && y.kind != dout.kind;
            let name = if wide_y { "residual_backward_wide_y" } else { "residual_backward" };
            let (control, site, rate) = self.drop_path(run);
            let (tiles, per_sample) = (Tiles::of(self.rows, self.cols), self.rows / self.batch);
            let args = args![
                dout,
                y,
                gamma,
                dy,
                number(how_y),
                dx,
                number(in_kernel),
                partial,
                control,
                site,
                rate,
                self.rows,
                self.cols,
                per_sample,
                tiles.width,
                tiles.chunk
            ];
            run.launch(Kernel::of(FILE, name, dout.kind), tiles.grid(), Tiles::BLOCK, Tiles::SHARED, &args)?;
            if let Some(dgamma) = dgamma {
                start_add_up(run, partial, (tiles.chunks, self.cols), (0, self.cols), dgamma)?;
            }
        }
        start_deliver(run, apart, dx, dout, self.rows * self.cols)
    }
}
