//! Relative position bias on a device, in f32: it depends on parameters alone.

use super::{Operation, RelativeBias};
use crate::Error;
use crate::cuda::{Grid, Kernel, Kind, Run, args};
use crate::plan::Deliver;

const FILE: &str = "relative_bias";

impl RelativeBias {
    /// Where each table row's places in the bias start, and the places; in order.
    fn places(&self, rows: usize) -> (Vec<u32>, Vec<u32>) {
        let mut starts = vec![0; rows + 1];
        self.index.iter().for_each(|&row| starts[row as usize + 1] += 1);
        (0..rows).for_each(|row| starts[row + 1] += starts[row]);
        let mut places: Vec<u32> = (0..self.index.len() as u32).collect();
        places.sort_by_key(|&i| self.index[i as usize]);
        (starts, places)
    }

    fn check(&self, run: &Run) -> Result<(), Error> {
        match run.kind(Self::NAME, &[self.table, self.y])? {
            Kind::F32 => Ok(()),
            Kind::Bf16 => {
                let why = "a relative position bias that is computed from a plan's input has no kernel in bf16";
                Err(Error::Device { device: "cuda".into(), why: why.into() })
            }
        }
    }

    pub(super) fn start_forward(&self, run: &mut Run) -> Result<(), Error> {
        self.check(run)?;
        let index = run.table(0, || self.index.to_vec())?;
        let (table, y, pairs) = (run.value(self.table), run.value(self.y), self.index.len());
        let grid = Grid(pairs.div_ceil(256) as u32, self.heads as u32, 1);
        run.launch(Kernel::plain(FILE, "relative_bias_forward"), grid, 256, 0, &args![table, index, y, pairs, self.heads])
    }

    pub(super) fn start_backward(&self, run: &mut Run) -> Result<(), Error> {
        let how = run.deliver(self.table);
        if how == Deliver::Skip {
            return Ok(());
        }
        self.check(run)?;
        let (rows, pairs) = (run.len(self.table) / self.heads, self.index.len());
        let starts = run.table(1, || self.places(rows).0)?;
        let places = run.table(2, || self.places(rows).1)?;
        let (dy, dtable) = (run.grad(self.y), run.grad(self.table));
        let args = args![dy, starts, places, dtable, rows, pairs, self.heads, how == Deliver::Add];
        run.launch(Kernel::plain(FILE, "relative_bias_backward"), Grid::cover(rows * self.heads, 8), 256, 0, &args)
    }
}
