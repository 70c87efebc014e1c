//! Assembles a transformer's input: CLS token, register tokens, patches, positions added to CLS token and patches. x [B, n, C],
//! cls [C], registers [R, C], pos [n, C], or [n + 1, C] with a CLS token; y [B, N, C], N = n + R (+ 1).
//!
//! dx is the patches' part of dy; dcls, dregisters and dpos are sums over the batch in its order.

mod cuda;

use rayon::prelude::*;

use super::rows::add_to;
use super::{Operation, Wiring};
use crate::cuda::Run;
use crate::exec::{At, Env};
use crate::plan::{Act, Deliver};
use crate::{Error, Real};

#[derive(Clone, Debug)]
pub(crate) struct Tokens {
    pub x: Act,
    pub cls: Option<Act>,
    pub registers: Option<Act>,
    pub pos: Option<Act>,
    pub y: Act,
    pub patches: usize,
    /// R.
    pub register_tokens: usize,
    pub cols: usize,
}

impl Tokens {
    /// Elements of the CLS token, of the registers, of the patches of an image.
    fn extents(&self) -> [usize; 3] {
        let c = self.cols;
        [if self.cls.is_some() { c } else { 0 }, self.register_tokens * c, self.patches * c]
    }
}

impl Operation for Tokens {
    const NAME: &'static str = "tokens";

    fn wiring(&self) -> Wiring {
        let inputs: Vec<Act> = std::iter::once(self.x).chain(self.cls).chain(self.registers).chain(self.pos).collect();
        Wiring { exact: inputs[1..].to_vec(), ..Wiring::new(&inputs, self.y) }
    }

    fn forward<T: Real>(&self, env: &mut Env<T>) {
        let [lead, reg, patches] = self.extents();
        let at = |act: Option<Act>| act.map_or(At::Nothing, At::Value);
        let [x, cls, registers, pos, y] =
            env.acts.split([At::Value(self.x), at(self.cls), at(self.registers), at(self.pos), At::Value(self.y)]);
        let (cls, registers, pos) = (&*cls, &*registers, &*pos);
        x.par_chunks(patches).zip(y.par_chunks_mut(lead + reg + patches)).for_each(|(x, y)| {
            y[..lead].copy_from_slice(cls);
            y[lead..lead + reg].copy_from_slice(registers);
            y[lead + reg..].copy_from_slice(x);
            if !pos.is_empty() {
                add_to(&mut y[..lead], &pos[..lead]);
                add_to(&mut y[lead + reg..], &pos[lead..]);
            }
        });
    }

    fn backward<T: Real>(&self, env: &mut Env<T>) {
        let [lead, reg, patches] = self.extents();
        let image = lead + reg + patches;
        let how = env.deliver(self.x);
        if how != Deliver::Skip {
            let [dy, dx] = env.acts.split([At::Grad(self.y), At::Grad(self.x)]);
            dy.par_chunks(image).zip(dx.par_chunks_mut(patches)).for_each(|(dy, dx)| {
                if how == Deliver::Set {
                    dx.copy_from_slice(&dy[lead + reg..]);
                } else {
                    add_to(dx, &dy[lead + reg..]);
                }
            });
        }
        // Which part of an image's dy goes to which part of the input.
        let (cls, registers) = ([(0..lead, 0)], [(lead..lead + reg, 0)]);
        let pos = [(0..lead, 0), (lead + reg..image, lead)];
        for (input, parts) in [(self.cls, &cls[..]), (self.registers, &registers), (self.pos, &pos)] {
            let Some(input) = input.filter(|&i| env.deliver(i) != Deliver::Skip) else { continue };
            let how = env.deliver(input);
            let [dy, d] = env.acts.split([At::Grad(self.y), At::Grad(input)]);
            if how == Deliver::Set {
                d.fill(T::ZERO);
            }
            for dy in dy.chunks_exact(image) {
                for (from, to) in parts {
                    add_to(&mut d[*to..to + from.len()], &dy[from.clone()]);
                }
            }
        }
    }

    fn forward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_forward(run)
    }

    fn backward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_backward(run)
    }
}
