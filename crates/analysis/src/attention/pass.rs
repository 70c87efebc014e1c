//! A forward pass whose attention is watched.

use fd_compute::{Act, Arena, Cx, DType, Device, Params, Plan, Planner, StepKey};
use fd_model::{Model, Taps};

use crate::Error;

/// A plan for batches of one size.
pub(crate) struct Pass {
    plan: Plan,
    images: Act,
    attention: Vec<Act>,
    arena: Arena,
    batch: usize,
}

impl Pass {
    /// Plans images [B, C, H, W].
    ///
    /// # Errors
    /// Images that the model cannot take.
    pub fn new(model: &Model, params: &Params, shape: [usize; 4]) -> Result<Pass, Error> {
        let mut p = Planner::new();
        p.bind(params.layout());
        let images = p.input(shape);
        let features = model.plan(&mut p, images, Taps { blocks: false, attention: true })?;
        let plan = p.finish()?;
        Ok(Pass { arena: Arena::new(&plan, DType::F32), plan, images, attention: features.attention, batch: shape[0] })
    }

    /// Images B.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Where the images go [B, C, H, W].
    pub fn images(&mut self) -> &mut [f32] {
        self.arena.value_mut::<f32>(self.images)
    }

    /// Runs it; `see(layer, attention)` gets each layer's probabilities [B W, H, N, N] as they are computed.
    ///
    /// # Errors
    /// Those of the device.
    pub fn run(&mut self, params: &Params, device: Device, mut see: impl FnMut(usize, &[f32])) -> Result<(), Error> {
        let sets = [params];
        let mut cx = Cx { train: false, ..Cx::new(&device, &sets, &mut self.arena, StepKey::default()) };
        let attention = &self.attention;
        Ok(self.plan.forward_watching(&mut cx, attention, |layer, arena| see(layer, arena.value::<f32>(attention[layer])))?)
    }
}
