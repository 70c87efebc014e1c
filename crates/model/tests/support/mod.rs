//! Models in plans that end in a loss: their gradients, and central differences to hold them to.

use std::collections::BTreeMap;

use fd_compute::{Act, Arena, Cx, DType, Device, Distance, Error, Grads, Layout, LayoutBuilder, Params, Plan, Planner, StepKey, Stream};
use fd_model::{Model, ModelConfig, ModelError, Taps};

/// Images of a batch: drop path then keeps some samples and drops others.
pub const BATCH: usize = 2;

pub fn random(n: usize, key: u64) -> Vec<f64> {
    let mut s = Stream::new(&[key]);
    (0..n).map(|_| s.normal()).collect()
}

/// A value that is written before the forward pass.
pub struct Input {
    pub act: Act,
    pub values: Vec<f64>,
    /// Is its gradient asked for?
    pub differentiated: bool,
}

impl Input {
    /// Random numbers, to be differentiated.
    pub fn random(p: &mut Planner, shape: impl Into<fd_compute::Shape>, key: u64) -> Input {
        let act = p.input(shape);
        p.want_grad(act);
        Input { act, values: random(p.shape(act).len(), key), differentiated: true }
    }

    /// Given numbers without a gradient: indices, targets.
    pub fn fixed(act: Act, values: Vec<f64>) -> Input {
        Input { act, values, differentiated: false }
    }
}

/// A model with random parameters in a plan with a loss.
pub struct Case {
    /// In f64.
    pub params: Params,
    pub plan: Plan,
    pub inputs: Vec<Input>,
    pub outputs: Vec<Act>,
    pub loss: Act,
    pub key: StepKey,
}

/// What a run computes: the loss, the outputs, and gradients of parameters by name and of the differentiated inputs.
pub struct Found {
    pub loss: f64,
    pub outputs: Vec<Vec<f64>>,
    pub params: BTreeMap<String, Vec<f64>>,
    pub inputs: Vec<Vec<f64>>,
}

impl Found {
    /// Every number, by what it is.
    pub fn all(&self) -> impl Iterator<Item = (String, &[f64])> {
        let outputs = self.outputs.iter().map(|v| ("output".to_string(), &v[..]));
        let inputs = self.inputs.iter().map(|v| ("gradient of an input".to_string(), &v[..]));
        let loss = std::iter::once(("loss".to_string(), std::slice::from_ref(&self.loss)));
        loss.chain(outputs).chain(inputs).chain(self.params.iter().map(|(name, v)| (name.clone(), &v[..])))
    }

    pub fn bits(&self) -> Vec<u64> {
        self.all().flat_map(|(_, v)| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>()).collect()
    }
}

/// Builds a case of a model and what is described with it: the inputs, and outputs. The loss is the sum of the outputs, where one that is
/// not a scalar counts by its mean squared distance to a random target.
pub fn case<M>(
    declare: impl FnOnce(&mut LayoutBuilder) -> Result<M, ModelError>,
    describe: impl FnOnce(&M, &mut Planner) -> Result<(Vec<Input>, Vec<Act>), ModelError>,
) -> Result<Case, ModelError> {
    let mut layout = Layout::builder();
    let model = declare(&mut layout)?;
    let layout = layout.finish();
    let mut params = Params::new(&layout, DType::F64);
    for (i, p) in layout.iter().enumerate() {
        let name = layout.name(p);
        // Norms and the scales of cosine attention about 1, so that no branch is next to nothing.
        let about_one = name.contains("norm") && name.ends_with("weight") || name.ends_with("logit_scale");
        let values = random(layout.shape(p).iter().product(), 10 + i as u64);
        params.set(p, &values.iter().map(|v| 0.4 * v + f64::from(u8::from(about_one))).collect::<Vec<_>>());
    }
    let mut p = Planner::new();
    p.train(&layout);
    let (mut inputs, outputs) = describe(&model, &mut p)?;
    let mut terms = vec![];
    for (&output, key) in outputs.iter().zip(2..) {
        p.keep(output);
        terms.push(if p.shape(output).len() == 1 { output } else { distance_to_target(&mut p, output, &mut inputs, key)? });
    }
    let loss = match terms[..] {
        [only] => only,
        _ => p.weighted_sum(&terms.iter().map(|t| (*t, 1.0)).collect::<Vec<_>>())?,
    };
    p.root(loss);
    let key = StepKey { seed: 5, step: 3, first_sample: 7, view: 1 };
    Ok(Case { params, plan: p.finish()?, inputs, outputs, loss, key })
}

fn distance_to_target(p: &mut Planner, output: Act, inputs: &mut Vec<Input>, key: u64) -> Result<Act, Error> {
    let target = p.input(p.shape(output));
    inputs.push(Input::fixed(target, random(p.shape(target).len(), key)));
    p.feature_loss(output, target, Distance::Mse, None)
}

/// An encoder of images of a size: what its classifier says or its map, and the projected token where there is one.
pub fn encoder_of(config: &ModelConfig, size: (usize, usize), recompute: bool) -> Result<Case, ModelError> {
    let declare = |layout: &mut LayoutBuilder| Ok(Model::declare(config, layout, "")?.with_recompute(recompute));
    case(declare, |model, p| {
        let images = Input::random(p, [BATCH, config.in_chans(), size.0, size.1], 1);
        let features = model.plan(p, images.act, Taps::default())?;
        Ok((vec![images], [features.logits.unwrap_or(features.map())].into_iter().chain(features.projected).collect()))
    })
}

/// The same of images as it is configured for.
pub fn encoder(config: &ModelConfig) -> Case {
    encoder_of(config, config.img_size(), false).expect("a model")
}

impl Case {
    pub fn params_in(&self, dtype: DType) -> Params {
        let mut params = Params::new(self.params.layout(), dtype);
        self.params.layout().iter().for_each(|p| params.set(p, &self.params.to_f64(p)));
        params
    }

    /// An arena full of NaN, then inputs: what reads memory before it is written shows.
    pub fn arena(&self, dtype: DType) -> Arena {
        let mut arena = Arena::new(&self.plan, dtype);
        arena.poison();
        self.inputs.iter().for_each(|input| arena.write_f64(input.act, &input.values));
        arena
    }

    /// Runs forward; the loss.
    pub fn forward(&self, params: &Params, arena: &mut Arena) -> f64 {
        let sets = [params];
        self.plan.forward(&mut Cx::new(&Device::CPU, &sets, arena, self.key)).expect("forward");
        arena.scalar(self.loss)
    }

    /// Runs forward and backward.
    pub fn run(&self, dtype: DType) -> Found {
        let mut grads = Grads::new(self.params.layout(), dtype);
        self.pass(&Device::CPU, &self.params_in(dtype), &mut self.arena(dtype), &mut grads)
    }

    fn pass(&self, device: &Device, params: &Params, arena: &mut Arena, grads: &mut Grads) -> Found {
        let (layout, sets) = (self.params.layout(), [params]);
        let mut cx = Cx::new(device, &sets, arena, self.key);
        self.plan.forward(&mut cx).expect("forward");
        self.plan.backward(&mut cx, grads).expect("backward");
        let differentiated = self.inputs.iter().filter(|i| i.differentiated);
        Found {
            loss: arena.scalar(self.loss),
            outputs: self.outputs.iter().map(|o| arena.to_f64(*o)).collect(),
            params: layout.iter().map(|p| (layout.name(p).to_string(), grads.to_f64(p))).collect(),
            inputs: differentiated.map(|i| arena.grad_to_f64(i.act)).collect(),
        }
    }

    /// Makes matrices what an initialisation would: rounding to bf16 must not be what a network of chaotic activations makes of it.
    pub fn scale_matrices(&mut self) {
        for p in self.params.layout().clone().iter() {
            let (layout, values) = (self.params.layout(), self.params.to_f64(p));
            let (name, fan_in) = (layout.name(p), layout.shape(p).iter().skip(1).product::<usize>());
            if layout.shape(p).len() > 1 && name.ends_with("weight") {
                self.params.set(p, &values.iter().map(|v| 2.0 * v / (fan_in as f64).sqrt()).collect::<Vec<_>>());
            }
        }
    }

    /// Three runs on a device (kernel by kernel, recorded, from the recording), which must agree bit for bit.
    pub fn run_on(&self, device: &Device) -> Found {
        let (params, layout) = (self.params_in(DType::F32), self.params.layout());
        let mut grads = Grads::new(layout, DType::F32);
        let mut arena = Arena::on(device, &self.plan).expect("memory on the device");
        arena.poison();
        let mut first: Option<Found> = None;
        for turn in 0..3 {
            self.inputs.iter().for_each(|input| arena.write_f64(input.act, &input.values));
            grads.reset();
            let found = self.pass(device, &params, &mut arena, &mut grads);
            assert!(first.as_ref().is_none_or(|first| first.bits() == found.bits()), "run {turn} differs from the first");
            first.get_or_insert(found);
        }
        first.expect("three runs")
    }

    /// Holds every gradient to central differences, in f64.
    pub fn equals_central_differences(&self, name: &str) {
        let found = self.run(DType::F64);
        // Thousands of passes over tiny matrices: threads would only wait for each other.
        in_pool(1, || {
            let (mut params, mut arena) = (self.params.clone(), self.arena(DType::F64));
            let layout = params.layout().clone();
            for p in layout.iter() {
                let values = params.to_f64(p);
                let expected = central_differences(&values, |moved| {
                    params.set(p, moved);
                    self.forward(&params, &mut arena)
                });
                params.set(p, &values);
                compare(&format!("{name}: {}", layout.name(p)), &found.params[layout.name(p)], &expected);
            }
            for (input, found) in self.inputs.iter().filter(|i| i.differentiated).zip(&found.inputs) {
                let expected = central_differences(&input.values, |moved| {
                    arena.write_f64(input.act, moved);
                    self.forward(&params, &mut arena)
                });
                arena.write_f64(input.act, &input.values);
                compare(&format!("{name}: an input"), found, &expected);
            }
        });
    }
}

fn central_differences(values: &[f64], mut loss: impl FnMut(&[f64]) -> f64) -> Vec<f64> {
    const H: f64 = 1e-5;
    let mut moved = values.to_vec();
    let slope = |i: usize| {
        let mut at = |x: f64| {
            moved[i] = x;
            loss(&moved)
        };
        let slope = (at(values[i] + H) - at(values[i] - H)) / (2.0 * H);
        moved[i] = values[i];
        slope
    };
    (0..values.len()).map(slope).collect()
}

fn compare(what: &str, found: &[f64], expected: &[f64]) {
    let off = deviation(found, expected, 1e-4);
    assert!(off < 1e-5, "{what} off by {off:.1e}");
}

/// The largest difference over the largest number expected, which counts as `floor` if it is less.
pub fn deviation(found: &[f64], expected: &[f64], floor: f64) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(floor, |m, v| m.max(v.abs()));
    // `max` would lose a NaN.
    found.iter().zip(expected).map(|(a, b)| (a - b).abs() / scale).fold(0.0, |m: f64, d| if m.is_nan() || d <= m { m } else { d })
}

pub fn in_pool<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool").install(f)
}

/// What was said of a model that cannot be: one line.
pub fn refusal<T>(result: Result<T, ModelError>) -> String {
    let said = result.err().expect("a refusal").to_string();
    assert!(!said.contains('\n'), "one line: {said}");
    said
}
