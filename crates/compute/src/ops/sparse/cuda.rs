//! Sparse matrices on a device: the rows' pairs one after the other, and so the transpose's.

use super::{Operation, Sparse, SparseMap};
use crate::Error;
use crate::cuda::{Grid, Kernel, Ptr, Run, args};
use crate::plan::Deliver;

const FILE: &str = "sparse";

impl Sparse {
    /// The transpose's rows; each row's pairs in the order of the columns.
    fn transposed(&self) -> Vec<Vec<(u32, f64)>> {
        let mut rows = vec![vec![]; self.inputs];
        for (at, row) in (0..).zip(&self.rows) {
            row.iter().for_each(|&(i, weight)| rows[i as usize].push((at, weight)));
        }
        rows
    }
}

/// Where each row's pairs start, their columns, their weights: tables `slot` and the next two.
fn upload(run: &mut Run, slot: usize, rows: impl Fn() -> Vec<Vec<(u32, f64)>>) -> Result<[Ptr; 3], Error> {
    let starts = run.table(slot, || {
        let ends = rows().into_iter().scan(0u32, |end, row| {
            *end += row.len() as u32;
            Some(*end)
        });
        std::iter::once(0).chain(ends).collect()
    })?;
    let columns = run.table(slot + 1, || rows().concat().iter().map(|(column, _)| *column).collect())?;
    let weights = run.table(slot + 2, || rows().concat().iter().map(|(_, weight)| *weight as f32).collect())?;
    Ok([starts, columns, weights])
}

impl SparseMap {
    pub(super) fn start_forward(&self, run: &mut Run) -> Result<(), Error> {
        let kernel = Kernel::of(FILE, "sparse", run.kind(Self::NAME, &[self.x, self.y])?);
        let [starts, columns, weights] = upload(run, 0, || self.matrix.rows.clone())?;
        let (x, y, outputs, inputs) = (run.value(self.x), run.value(self.y), self.matrix.outputs(), self.matrix.inputs());
        let rows = self.batch * outputs;
        let args = args![x, starts, columns, weights, y, rows, outputs, inputs, self.cols, false];
        run.launch(kernel, Grid::cover(rows, 8), 256, 0, &args)
    }

    pub(super) fn start_backward(&self, run: &mut Run) -> Result<(), Error> {
        let how = run.deliver(self.x);
        if how == Deliver::Skip {
            return Ok(());
        }
        let kernel = Kernel::of(FILE, "sparse", run.kind(Self::NAME, &[self.x, self.y])?);
        let [starts, columns, weights] = upload(run, 3, || self.matrix.transposed())?;
        let (dy, dx, outputs, inputs) = (run.grad(self.y), run.grad(self.x), self.matrix.inputs(), self.matrix.outputs());
        let rows = self.batch * outputs;
        let args = args![dy, starts, columns, weights, dx, rows, outputs, inputs, self.cols, how == Deliver::Add];
        run.launch(kernel, Grid::cover(rows, 8), 256, 0, &args)
    }
}
