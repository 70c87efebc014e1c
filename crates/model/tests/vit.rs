//! The planned ViT against dfdx (an independent implementation and autodiff) and against central differences, in f64.

#[allow(dead_code, reason = "what this test does not use of it, another does")]
mod support;

use fd_compute::{Arena, Cx, DType, Device, Grads, Layout, Params, Planner, StepKey};
use fd_model::reference::Reference;
use fd_model::{Activation, Head, Init, Position, QkvBias, Taps, Vit, VitConfig, initialise};
use support::{deviation, encoder, random, refusal};

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

#[test]
fn equals_dfdx_forward_and_backward() {
    for config in configs() {
        let case = encoder(&config.clone().into());
        let layout = case.params.layout();
        let weights = layout.iter().map(|p| (layout.name(p).to_string(), (layout.shape(p).to_vec(), case.params.to_f64(p)))).collect();
        let reference = Reference::<f64>::new(&config, &weights).expect("the same parameters");
        let [images, target] = &case.inputs[..] else { panic!("images and a target") };
        let images = reference.images(&images.values).expect("images");
        let found = case.run(DType::F64);
        let output = &found.outputs[0];
        let cotangent: Vec<f64> = output.iter().zip(&target.values).map(|(o, t)| 2.0 * (o - t) / output.len() as f64).collect();
        let expected = if config.head == Head::Features {
            reference.gradients_of_tokens(&images, &cotangent)
        } else {
            reference.gradients_of_logits(&images, &cotangent)
        };
        let expected = expected.expect("gradients");
        assert!(deviation(&found.inputs[0], &expected.images, 1e-6) < 1e-10, "{config:?}: images");
        assert_eq!(found.params.len(), expected.weights.len());
        for (name, found) in &found.params {
            let off = if name.ends_with("k_bias") {
                found.iter().fold(0.0, |m: f64, v| m.max(v.abs()))
            } else {
                deviation(found, &expected.weights[name], 1e-6)
            };
            assert!(off < 1e-10, "{config:?}: {name} off by {off:.1e}");
        }
    }
}

#[test]
fn equals_central_differences() {
    for config in configs() {
        encoder(&config.clone().into()).equals_central_differences(&format!("{config:?}"));
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
    let mut cx = Cx::new(&Device::CPU, &sets, &mut arena, StepKey::default());
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
        refusal(Vit::declare(&config, &mut Layout::builder(), ""))
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
