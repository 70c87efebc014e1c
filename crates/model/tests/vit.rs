//! The planned ViT against dfdx (an independent implementation and autodiff) and against central differences, in f64.

use std::collections::BTreeMap;

use fd_compute::{Act, Arena, Cx, DType, Device, Distance, Grads, Layout, Params, Plan, Planner, StepKey, Stream};
use fd_model::reference::Reference;
use fd_model::{Activation, Head, Init, Position, QkvBias, Taps, Vit, VitConfig, initialise};

fn config(position: Position, qkv_bias: QkvBias, head: Head, cls_token: bool) -> VitConfig {
    VitConfig {
        img_size: (6, 9),
        patch_size: 3,
        in_chans: 2,
        embed_dim: 8,
        depth: 2,
        num_heads: 2,
        mlp_ratio: 2.0,
        position,
        qkv_bias,
        layer_scale: (position != Position::Absolute).then_some(0.7),
        cls_token,
        activation: if head == Head::Cls { Activation::QuickGelu } else { Activation::Gelu },
        ln_eps: 1e-6,
        head,
        num_classes: if head == Head::Features { 0 } else { 5 },
        drop_path_rate: 0.0,
        ..VitConfig::default()
    }
}

/// Every option at least once.
fn configs() -> Vec<VitConfig> {
    vec![
        config(Position::SharedRelative, QkvBias::Qv, Head::Features, true),
        config(Position::Absolute, QkvBias::Full, Head::Cls, true),
        config(Position::Relative, QkvBias::Qv, Head::MeanPool, true),
        config(Position::SharedRelative, QkvBias::Qkv, Head::Features, false),
        config(Position::None, QkvBias::None, Head::MeanPool, false),
        config(Position::AbsoluteSharedRelative, QkvBias::Qv, Head::Features, true),
        config(Position::AbsoluteRelative, QkvBias::Qkv, Head::MeanPool, false),
        config(Position::Absolute, QkvBias::None, Head::Features, false),
    ]
}

/// A model with random parameters, its plan with loss = mean squared distance of its output to a random target.
struct Built {
    params: Params,
    plan: Plan,
    images: Act,
    target: Act,
    output: Act,
    loss: Act,
}

fn random(n: usize, key: u64) -> Vec<f64> {
    let mut s = Stream::new(&[key]);
    (0..n).map(|_| s.normal()).collect()
}

fn build(config: &VitConfig) -> Built {
    let mut layout = Layout::builder();
    let vit = Vit::declare(config, &mut layout, "").expect("a valid model");
    let layout = layout.finish();
    let mut params = Params::new(&layout, DType::F64);
    for (i, p) in layout.iter().enumerate() {
        let norm = layout.name(p).contains("norm") && layout.name(p).ends_with("weight");
        let n = layout.shape(p).iter().product();
        params.set(p, &random(n, 10 + i as u64).iter().map(|v| 0.4 * v + f64::from(u8::from(norm))).collect::<Vec<_>>());
    }
    let mut p = Planner::new();
    p.train(&layout);
    let images = p.input([2, config.in_chans, config.img_size.0, config.img_size.1]);
    p.want_grad(images);
    let features = vit.plan(&mut p, images, Taps { blocks: true, attention: false }).expect("a plan");
    let output = features.logits.unwrap_or(features.map());
    let target = p.input(p.shape(output));
    let loss = p.feature_loss(output, target, Distance::Mse, None).expect("equal shapes");
    p.root(loss);
    Built { params, plan: p.finish().expect("a plan"), images, target, output, loss }
}

impl Built {
    fn arena(&self) -> Arena {
        let mut arena = Arena::new(&self.plan, DType::F64);
        arena.poison();
        for (act, key) in [(self.images, 1), (self.target, 2)] {
            arena.write_f64(act, &random(self.plan.shape(act).len(), key));
        }
        arena
    }

    fn loss(&self, params: &Params) -> f64 {
        let (mut arena, sets) = (self.arena(), [params]);
        self.plan.forward(&mut Cx::new(&Device::Cpu, &sets, &mut arena, StepKey::default())).expect("forward");
        arena.scalar(self.loss)
    }

    /// Output, gradients of the parameters by name, gradient of the images.
    fn gradients(&self) -> (Vec<f64>, BTreeMap<String, Vec<f64>>, Vec<f64>) {
        let (mut arena, sets) = (self.arena(), [&self.params]);
        let mut grads = Grads::new(self.params.layout(), DType::F64);
        let mut cx = Cx::new(&Device::Cpu, &sets, &mut arena, StepKey::default());
        self.plan.forward(&mut cx).expect("forward");
        self.plan.backward(&mut cx, &mut grads).expect("backward");
        let layout = self.params.layout();
        let of_params = layout.iter().map(|p| (layout.name(p).to_string(), grads.to_f64(p))).collect();
        (arena.to_f64(self.output), of_params, arena.grad_to_f64(self.images))
    }
}

fn worst(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-6f64, |m, v| m.max(v.abs()));
    found.iter().zip(expected).map(|(a, b)| (a - b).abs() / scale).fold(0.0, f64::max)
}

#[test]
fn equals_dfdx_forward_and_backward() {
    for config in configs() {
        let built = build(&config);
        let layout = built.params.layout();
        let weights = layout.iter().map(|p| (layout.name(p).to_string(), (layout.shape(p).to_vec(), built.params.to_f64(p)))).collect();
        let reference = Reference::<f64>::new(&config, &weights).expect("the same parameters");
        let images = reference.images(&random(2 * config.in_chans * config.img_size.0 * config.img_size.1, 1)).expect("images");
        let (output, of_params, of_images) = built.gradients();
        let target = random(output.len(), 2);
        let cotangent: Vec<f64> = output.iter().zip(&target).map(|(o, t)| 2.0 * (o - t) / output.len() as f64).collect();
        let expected = if config.head == Head::Features {
            reference.gradients_of_tokens(&images, &cotangent)
        } else {
            reference.gradients_of_logits(&images, &cotangent)
        };
        let expected = expected.expect("gradients");
        assert!(worst(&of_images, &expected.images) < 1e-10, "{config:?}: images");
        assert_eq!(of_params.len(), expected.weights.len());
        for (name, found) in &of_params {
            let off = if name.ends_with("k_bias") {
                found.iter().fold(0.0, |m: f64, v| m.max(v.abs()))
            } else {
                worst(found, &expected.weights[name])
            };
            assert!(off < 1e-10, "{config:?}: {name} off by {off:.1e}");
        }
    }
}

#[test]
fn equals_central_differences() {
    const H: f64 = 1e-5;
    for config in configs() {
        let built = build(&config);
        let (_, gradients, _) = built.gradients();
        let mut params = built.params.clone();
        let layout = params.layout().clone();
        for p in layout.iter() {
            let (name, values) = (layout.name(p), params.to_f64(p));
            let expected: Vec<f64> = (0..values.len())
                .map(|i| {
                    let mut at = |x: f64| {
                        let mut moved = values.clone();
                        moved[i] = x;
                        params.set(p, &moved);
                        built.loss(&params)
                    };
                    (at(values[i] + H) - at(values[i] - H)) / (2.0 * H)
                })
                .collect();
            params.set(p, &values);
            let scale = expected.iter().fold(1e-4f64, |m, v| m.max(v.abs()));
            let off = gradients[name].iter().zip(&expected).map(|(a, b)| (a - b).abs() / scale).fold(0.0, f64::max);
            assert!(off < 1e-5, "{config:?}: {name} off by {off:.1e}");
        }
    }
}

#[test]
fn absolute_positions_serve_another_image_size() {
    let config = config(Position::Absolute, QkvBias::Full, Head::Features, true);
    let mut layout = Layout::builder();
    let vit = Vit::declare(&config, &mut layout, "").expect("a valid model");
    let layout = layout.finish();
    let mut params = Params::new(&layout, DType::F64);
    initialise(&mut params, "", &config.clone().into(), Init::Xavier, 1);
    let mut p = Planner::new();
    p.train(&layout);
    let images = p.input([1, 2, 12, 6]);
    let tokens = vit.plan(&mut p, images, Taps::default()).expect("interpolated positions").map();
    p.leaf(tokens);
    let plan = p.finish().expect("a plan");
    let (mut arena, sets, mut grads) = (Arena::new(&plan, DType::F64), [&params], Grads::new(&layout, DType::F64));
    arena.write_f64(images, &random(2 * 12 * 6, 3));
    let mut cx = Cx::new(&Device::Cpu, &sets, &mut arena, StepKey::default());
    plan.forward(&mut cx).expect("forward");
    cx.arena.grad_mut::<f64>(tokens).copy_from_slice(&random(9 * 8, 4));
    plan.backward(&mut cx, &mut grads).expect("backward");
    let pos = layout.find("pos_embed").expect("positions");
    assert!(grads.to_f64(pos).iter().all(|g| g.is_finite()) && grads.to_f64(pos).iter().filter(|g| g.abs() > 1e-9).count() > 40);
}

#[test]
fn impossible_models_are_refused_by_key() {
    let good = config(Position::Absolute, QkvBias::Full, Head::Features, true);
    let refused = |change: &dyn Fn(&mut VitConfig)| {
        let mut config = good.clone();
        change(&mut config);
        let error = Vit::declare(&config, &mut Layout::builder(), "").expect_err("a refusal").to_string();
        assert!(!error.contains('\n'), "one line: {error}");
        error
    };
    assert!(refused(&|c| c.patch_size = 4).contains("`img_size`"));
    assert!(refused(&|c| c.patch_size = 0).contains("`patch_size`"));
    assert!(refused(&|c| c.num_heads = 3).contains("`num_heads`"));
    assert!(refused(&|c| c.depth = 0).contains("`depth`"));
    assert!(refused(&|c| c.ln_eps = f64::NAN).contains("`ln_eps`"));
    assert!(refused(&|c| c.drop_path_rate = 1.0).contains("`drop_path_rate`"));
    assert!(refused(&|c| c.num_classes = 3).contains("`num_classes`"));
    assert!(refused(&|c| (c.head, c.num_classes, c.cls_token) = (Head::Cls, 3, false)).contains("`head`"));
}
