//! Central differences in f64 against a plan's gradients.

use std::sync::Arc;

use fd_compute::{
    Act, Arena, Cx, DType, Device, Distance, Error, Grads, Layout, LayoutBuilder, Param, Params, Plan, Planner, StepKey, Stream,
};

/// What a case describes: inputs to fill (and to differentiate) and a value, from which a loss is made.
pub struct Case {
    pub layout: Arc<Layout>,
    pub plan: Plan,
    pub inputs: Vec<Act>,
    pub constants: Vec<Act>,
    pub loss: Act,
    pub key: StepKey,
}

/// Inputs to differentiate, other inputs, and the output.
pub type Described = (Vec<Act>, Vec<Act>, Act);

/// Builds a case; `describe` gets the planner and the parameters of `shapes`. A loss is made of an output that is not a scalar.
pub fn case(shapes: &[&[usize]], describe: impl FnOnce(&mut Planner, &[Param]) -> Result<Described, Error>) -> Case {
    let mut builder: LayoutBuilder = Layout::builder();
    let params: Vec<Param> = shapes.iter().enumerate().map(|(i, s)| builder.add(format!("p{i}"), s)).collect();
    let layout = builder.finish();
    let mut p = Planner::new();
    p.train(&layout);
    let (inputs, mut constants, out) = describe(&mut p, &params).expect("a valid description");
    inputs.iter().for_each(|&i| p.want_grad(i));
    let mut loss = out;
    if p.shape(out).len() != 1 {
        let target = p.input(p.shape(out));
        constants.push(target);
        loss = p.feature_loss(out, target, Distance::Mse, None).expect("equal shapes");
    }
    p.root(loss);
    let plan = p.finish().expect("a scalar root");
    Case { layout, plan, inputs, constants, loss, key: StepKey { seed: 5, step: 3, first_sample: 7, view: 1 } }
}

pub fn random(n: usize, key: u64) -> Vec<f64> {
    let mut s = Stream::new(&[key]);
    (0..n).map(|_| s.normal()).collect()
}

impl Case {
    pub fn params(&self, dtype: DType) -> Params {
        let mut params = Params::new(&self.layout, dtype);
        for (i, p) in self.layout.iter().enumerate() {
            // Matrices as an initialisation would scale them, so that scores and activations stay of order one.
            let shape = self.layout.shape(p);
            let scale = if shape.len() > 1 { (shape[1..].iter().product::<usize>() as f64).powf(-0.5) } else { 0.5 };
            let values: Vec<f64> = random(shape.iter().product(), 100 + i as u64).iter().map(|v| scale * v + 0.1 * scale).collect();
            params.set(p, &values);
        }
        params
    }

    /// An arena full of NaN, then inputs: what reads memory before it is written shows.
    pub fn arena(&self, dtype: DType) -> Arena {
        let mut arena = Arena::new(&self.plan, dtype);
        arena.poison();
        for (i, &act) in self.inputs.iter().chain(&self.constants).enumerate() {
            arena.write_f64(act, &random(self.plan.shape(act).len(), 200 + i as u64));
        }
        arena
    }

    pub fn run(&self, params: &Params, arena: &mut Arena, grads: Option<&mut Grads>) -> f64 {
        let sets = [params];
        let mut cx = Cx::new(&Device::Cpu, &sets, arena, self.key);
        self.plan.forward(&mut cx).expect("forward");
        if let Some(grads) = grads {
            self.plan.backward(&mut cx, grads).expect("backward");
        }
        arena.scalar(self.loss)
    }

    /// Gradients of all parameters, then of all inputs.
    pub fn gradients(&self, dtype: DType) -> Vec<Vec<f64>> {
        let (params, mut arena, mut grads) = (self.params(dtype), self.arena(dtype), Grads::new(&self.layout, dtype));
        self.run(&params, &mut arena, Some(&mut grads));
        let of_params = self.layout.iter().map(|p| grads.to_f64(p));
        of_params.chain(self.inputs.iter().map(|&i| arena.grad_to_f64(i))).collect()
    }

    /// The worst difference between gradients and central differences, relative to each tensor's largest gradient.
    pub fn worst(&self) -> f64 {
        const H: f64 = 1e-5;
        let found = self.gradients(DType::F64);
        let mut params = self.params(DType::F64);
        let mut worst: f64 = 0.0;
        let mut compare = |found: &[f64], expected: &[f64]| {
            let scale = expected.iter().fold(1e-3f64, |m, g| m.max(g.abs()));
            for (f, e) in found.iter().zip(expected) {
                assert!(f.is_finite(), "a gradient that is not finite");
                worst = worst.max((f - e).abs() / scale);
            }
        };
        for (i, p) in self.layout.iter().enumerate() {
            let values = params.to_f64(p);
            let expected: Vec<f64> = (0..values.len())
                .map(|j| {
                    let mut at = |x: f64| {
                        let mut moved = values.clone();
                        moved[j] = x;
                        params.set(p, &moved);
                        self.run(&params, &mut self.arena(DType::F64), None)
                    };
                    (at(values[j] + H) - at(values[j] - H)) / (2.0 * H)
                })
                .collect();
            params.set(p, &values);
            compare(&found[i], &expected);
        }
        for (i, &act) in self.inputs.iter().enumerate() {
            let values = self.arena(DType::F64).to_f64(act);
            let expected: Vec<f64> = (0..values.len())
                .map(|j| {
                    let at = |x: f64| {
                        let (mut arena, mut moved) = (self.arena(DType::F64), values.clone());
                        moved[j] = x;
                        arena.write_f64(act, &moved);
                        self.run(&params, &mut arena, None)
                    };
                    (at(values[j] + H) - at(values[j] - H)) / (2.0 * H)
                })
                .collect();
            compare(&found[self.layout.iter().len() + i], &expected);
        }
        worst
    }
}
