//! Central differences in f64 against a plan's gradients, and a device against them.
#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

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

/// The nearest bf16: numbers that a device in bf16 gets unchanged, so that it sits on the same side of every kink.
fn exact(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let nearest = |x: f64| {
        let bits = (x as f32).to_bits();
        f64::from(f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000))
    };
    values.map(nearest).collect()
}

impl Case {
    pub fn params(&self, dtype: DType) -> Params {
        let mut params = Params::new(&self.layout, dtype);
        for (i, p) in self.layout.iter().enumerate() {
            // Matrices as an initialisation would scale them, so that scores and activations stay of order one.
            let shape = self.layout.shape(p);
            let scale = if shape.len() > 1 { (shape[1..].iter().product::<usize>() as f64).powf(-0.5) } else { 0.5 };
            let values = random(shape.iter().product(), 100 + i as u64);
            params.set(p, &exact(values.iter().map(|v| scale * v + 0.1 * scale)));
        }
        params
    }

    /// An arena full of NaN, then inputs: what reads memory before it is written shows.
    pub fn arena(&self, dtype: DType) -> Arena {
        self.filled(Arena::new(&self.plan, dtype))
    }

    fn filled(&self, mut arena: Arena) -> Arena {
        arena.poison();
        for (i, &act) in self.inputs.iter().chain(&self.constants).enumerate() {
            arena.write_f64(act, &exact(random(self.plan.shape(act).len(), 200 + i as u64).into_iter()));
        }
        arena
    }

    pub fn run(&self, params: &Params, arena: &mut Arena, grads: Option<&mut Grads>) -> f64 {
        self.run_on(&Device::CPU, params, arena, grads)
    }

    fn run_on(&self, device: &Device, params: &Params, arena: &mut Arena, grads: Option<&mut Grads>) -> f64 {
        let sets = [params];
        let mut cx = Cx::new(device, &sets, arena, self.key);
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
        self.read(&arena, &grads)
    }

    fn read(&self, arena: &Arena, grads: &Grads) -> Vec<Vec<f64>> {
        let of_params = self.layout.iter().map(|p| grads.to_f64(p));
        of_params.chain(self.inputs.iter().map(|&i| arena.grad_to_f64(i))).collect()
    }

    /// The loss and gradients on a device: of three runs (kernel by kernel, recorded, from the recording), which must agree bit for bit.
    pub fn on_device(&self, device: &Device) -> (f64, Vec<Vec<f64>>) {
        let (params, mut grads) = (self.params(DType::F32), Grads::new(&self.layout, DType::F32));
        let mut arena = self.filled(Arena::on(device, &self.plan).expect("memory on the device"));
        let mut first: Option<(f64, Vec<Vec<f64>>)> = None;
        for run in 0..3 {
            grads.reset();
            let loss = self.run_on(device, &params, &mut arena, Some(&mut grads));
            let found = (loss, self.read(&arena, &grads));
            let bits = |(loss, all): &(f64, Vec<Vec<f64>>)| -> Vec<u64> {
                [*loss].iter().chain(all.iter().flatten()).map(|x| x.to_bits()).collect()
            };
            assert!(first.as_ref().is_none_or(|first| bits(first) == bits(&found)), "run {run} differs from the first");
            first.get_or_insert(found);
        }
        first.expect("three runs")
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

/// The worst difference, relative to the largest number expected (or to `least`): NaN if there is one, which a maximum would pass over.
pub fn off(found: &[f64], expected: &[f64], least: f64) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(least, |m, x| m.max(x.abs()));
    let all = found.iter().zip(expected).map(|(f, e)| (f - e).abs() / scale);
    all.fold(0.0, |worst, x| if x > worst || x.is_nan() { x } else { worst })
}

/// The devices to test on, and how far from f64 they may be relative to a tensor's largest number: none, unless `FD_TEST_CUDA` says that
/// there is one (CI tests on an emulated one).
pub fn devices() -> Vec<(Device, f64)> {
    if std::env::var_os("FD_TEST_CUDA").is_none() {
        return vec![];
    }
    vec![(Device::cuda(0, DType::F32), 1e-5), (Device::cuda(0, DType::Bf16), 2e-2)]
}
