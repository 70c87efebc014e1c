//! The linear layer on a device: products by cuBLASLt, with the bias in their epilogue.

use super::{Bias, Linear};
use crate::Error;
use crate::cuda::{Beside, Grid, Kernel, Product, Ptr, Run, args};
use crate::ops::rows::cuda::Tiles;
use crate::plan::Deliver;

const FILE: &str = "linear";

/// Bytes of the partial column sums of x [rows, cols].
pub(crate) fn column_sums_scratch(rows: usize, cols: usize) -> usize {
    Tiles::of(rows, cols).chunks * cols * size_of::<f32>()
}

/// Starts partial column sums of x [rows, cols] into `partial`, and says how many there are.
pub(crate) fn start_column_sums(run: &mut Run, x: Ptr, partial: Ptr, rows: usize, cols: usize) -> Result<usize, Error> {
    let tiles = Tiles::of(rows, cols);
    let args = args![x, partial, rows, cols, tiles.width, tiles.chunk];
    run.launch(Kernel::of(FILE, "linear_column_sums", x.kind), tiles.grid(), Tiles::BLOCK, Tiles::SHARED, &args)?;
    Ok(tiles.chunks)
}

/// Starts `out` = the sums over chunks of columns at..at + len of partial [chunks, cols] (f32), set or added.
pub(crate) fn start_add_up(
    run: &mut Run,
    partial: Ptr,
    (chunks, cols): (usize, usize),
    (at, len): (usize, usize),
    (out, add): (Ptr, bool),
) -> Result<(), Error> {
    let args = args![partial, out, chunks, cols, at, len, add];
    run.launch(Kernel::plain(FILE, "linear_add_up"), Grid::cover(len, 32), 256, 256 * size_of::<f32>(), &args)
}

impl Linear {
    /// Bytes of working memory: the joint bias; the column sums.
    pub(super) fn device_scratch(&self) -> (usize, usize) {
        let joint = if let Bias::Qkv { .. } = self.bias { self.outputs * size_of::<f32>() } else { 0 };
        (joint, if self.bias == Bias::None { 0 } else { column_sums_scratch(self.rows, self.outputs) })
    }

    pub(super) fn start_forward(&self, run: &mut Run) -> Result<(), Error> {
        let (x, y) = (run.value(self.x), run.value(self.y));
        let bias = match self.bias {
            Bias::None => Beside::Nothing,
            Bias::Full(p) => Beside::Bias(run.param(p, y.kind)),
            Bias::Qkv { q, k, v } => {
                let [q, k, v] = [q, k, v].map(|p| p.map_or(Ptr::NULL, |p| run.param(p, y.kind)));
                let joint = Ptr { kind: y.kind, ..run.scratch() };
                let args = args![q, k, v, joint, self.outputs / 3, self.outputs];
                run.launch(Kernel::of(FILE, "linear_joint_bias", y.kind), Grid::cover(self.outputs, 256), 256, 0, &args)?;
                Beside::Bias(joint)
            }
        };
        let w = run.param(self.w, x.kind);
        let (m, n, k) = (self.rows, self.outputs, self.inputs);
        run.product(Product { a: x, a_transposed: false, b: w, b_transposed: true, c: y, m, n, k, add: false, beside: bias })
    }

    pub(super) fn start_backward(&self, run: &mut Run) -> Result<(), Error> {
        let (how, dy) = (run.deliver(self.x), run.grad(self.y));
        let (m, i, o) = (self.rows, self.inputs, self.outputs);
        if how != Deliver::Skip {
            let (w, dx) = (run.param(self.w, dy.kind), run.grad(self.x));
            let add = how == Deliver::Add;
            let (a, b, c, beside) = (dy, w, dx, Beside::Nothing);
            run.product(Product { a, a_transposed: false, b, b_transposed: false, c, m, n: i, k: o, add, beside })?;
        }
        let biased = self.bias.parts(o).any(|(_, p)| run.wants(p));
        // Column sums of dy [chunks, O]: of the product that makes dW, where the library has such a one, else of a kernel.
        let (sums, mut chunks) = (run.scratch(), None);
        if let Some((dw, add)) = run.param_grad(self.w) {
            let (a, b, c) = (dy, run.value(self.x), dw);
            let product = |beside| Product { a, a_transposed: true, b, b_transposed: false, c, m: o, n: i, k: m, add, beside };
            if biased && run.product_and_sums(product(Beside::Sums(sums)))? {
                chunks = Some(1);
            } else {
                run.product(product(Beside::Nothing))?;
            }
        }
        if biased {
            let chunks = match chunks {
                Some(chunks) => chunks,
                None => start_column_sums(run, dy, sums, m, o)?,
            };
            let width = if let Bias::Full(_) = self.bias { o } else { o / 3 };
            for (at, p) in self.bias.parts(o) {
                if let Some(to) = run.param_grad(p) {
                    start_add_up(run, sums, (chunks, o), (at, width), to)?;
                }
            }
        }
        Ok(())
    }
}
