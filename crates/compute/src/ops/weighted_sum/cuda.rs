//! Sums of losses on a device.

use super::WeightedSum;
use crate::Error;
use crate::cuda::{Grid, Kernel, Kind, Ptr, Run, args};
use crate::plan::{Act, Deliver};

const FILE: &str = "weighted_sum";
/// Terms of one start of the kernel.
const TERMS: usize = 4;

impl WeightedSum {
    pub(super) fn start_forward(&self, run: &mut Run) -> Result<(), Error> {
        let y = run.value(self.y);
        for (i, terms) in self.terms.chunks(TERMS).enumerate() {
            let term = |k: usize| terms.get(k).map_or((Ptr::NULL, 0.0), |&(x, weight): &(Act, f64)| (run.value(x), weight as f32));
            let [(x0, w0), (x1, w1), (x2, w2), (x3, w3)] = [term(0), term(1), term(2), term(3)];
            let narrow = (0..terms.len()).map(|k| u32::from(term(k).0.kind == Kind::Bf16) << k).sum::<u32>();
            let args = args![y, terms.len(), i > 0, narrow, x0, x1, x2, x3, w0, w1, w2, w3];
            run.launch(Kernel::plain(FILE, "weighted_sum_forward"), Grid::line(1), 32, 0, &args)?;
        }
        Ok(())
    }

    pub(super) fn start_backward(&self, run: &mut Run) -> Result<(), Error> {
        let dy = run.grad(self.y);
        for &(x, weight) in &self.terms {
            let how = run.deliver(x);
            if how != Deliver::Skip {
                let dx = run.grad(x);
                let args = args![dy, dx, weight as f32, how == Deliver::Add];
                run.launch(Kernel::of(FILE, "weighted_sum_backward", dx.kind), Grid::line(1), 32, 0, &args)?;
            }
        }
        Ok(())
    }
}
