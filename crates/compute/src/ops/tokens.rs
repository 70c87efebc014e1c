//! Assembles a transformer's input: the CLS token in front of the patches, positions added. x [B, n, C], cls [C], pos [N, C] with
//! N = n, or n + 1 with a CLS token; y [B, N, C].
//!
//! dx is the patches' part of dy; dcls and dpos are sums over the batch in its order.

use rayon::prelude::*;

use super::rows::add_to;
use super::{Operation, Wiring};
use crate::Real;
use crate::exec::{At, Env};
use crate::plan::{Act, Deliver};

#[derive(Clone, Debug)]
pub(crate) struct Tokens {
    pub x: Act,
    pub cls: Option<Act>,
    pub pos: Option<Act>,
    pub y: Act,
    pub patches: usize,
    pub cols: usize,
}

impl Tokens {
    /// Elements in front of the patches of an image.
    fn lead(&self) -> usize {
        if self.cls.is_some() { self.cols } else { 0 }
    }

    fn image(&self) -> usize {
        self.lead() + self.patches * self.cols
    }
}

impl Operation for Tokens {
    const NAME: &'static str = "tokens";

    fn wiring(&self) -> Wiring {
        let inputs: Vec<Act> = std::iter::once(self.x).chain(self.cls).chain(self.pos).collect();
        Wiring::new(&inputs, self.y)
    }

    fn forward<T: Real>(&self, env: &mut Env<T>) {
        let (lead, image) = (self.lead(), self.image());
        let at = |act: Option<Act>| act.map_or(At::Nothing, At::Value);
        let [x, cls, pos, y] = env.acts.split([At::Value(self.x), at(self.cls), at(self.pos), At::Value(self.y)]);
        let (cls, pos) = (&*cls, &*pos);
        x.par_chunks(image - lead).zip(y.par_chunks_mut(image)).for_each(|(x, y)| {
            y[..lead].copy_from_slice(cls);
            y[lead..].copy_from_slice(x);
            if !pos.is_empty() {
                add_to(y, pos);
            }
        });
    }

    fn backward<T: Real>(&self, env: &mut Env<T>) {
        let (lead, image) = (self.lead(), self.image());
        let how = env.deliver(self.x);
        if how != Deliver::Skip {
            let [dy, dx] = env.acts.split([At::Grad(self.y), At::Grad(self.x)]);
            dy.par_chunks(image).zip(dx.par_chunks_mut(image - lead)).for_each(|(dy, dx)| {
                if how == Deliver::Set {
                    dx.copy_from_slice(&dy[lead..]);
                } else {
                    add_to(dx, &dy[lead..]);
                }
            });
        }
        for (input, len) in [(self.cls, lead), (self.pos, image)] {
            let Some(input) = input.filter(|&i| env.deliver(i) != Deliver::Skip) else { continue };
            let how = env.deliver(input);
            let [dy, d] = env.acts.split([At::Grad(self.y), At::Grad(input)]);
            if how == Deliver::Set {
                d.fill(T::ZERO);
            }
            dy.chunks_exact(image).for_each(|dy| add_to(d, &dy[..len]));
        }
    }
}
