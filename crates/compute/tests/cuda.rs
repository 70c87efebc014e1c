//! Operations by rows, and optimisers, on a device against the processor: widths for every way in which kernels share rows among threads,
//! many chunks of rows, gradients that are set and added, operands of two types. Does nothing unless `FD_TEST_CUDA` says that there is a
//! device.

mod check;

use check::{Case, Described, case, random};
use fd_compute::optim::{AdamW, Rate, grad_norm};
use fd_compute::{Activation, Arena, Bias, Cx, DType, Device, Distance, DropPath, Error, Grads, Layout, Param, Params, Planner};

/// The loss and all gradients on every device against f64, relative to each tensor's largest number.
fn agrees(name: &str, shapes: &[&[usize]], describe: impl FnOnce(&mut Planner, &[Param]) -> Result<Described, Error>) {
    let devices = check::devices();
    if devices.is_empty() {
        return;
    }
    let case: Case = case(shapes, describe);
    let mut expected = vec![vec![case.run(&case.params(DType::F64), &mut case.arena(DType::F64), None)]];
    expected.extend(case.gradients(DType::F64));
    for (device, tolerance) in devices {
        let (loss, gradients) = case.on_device(&device);
        let found: Vec<_> = std::iter::once(vec![loss]).chain(gradients).collect();
        for (i, (expected, found)) in expected.iter().zip(&found).enumerate() {
            let worst = check::off(found, expected, 1e-6);
            assert!(worst < tolerance, "{name}: number {i} in {} on {device} differs from f64 by {worst:.1e}", device.dtype().name());
        }
    }
}

/// Rows of every kind: parts of a warp (96: a row is four threads), a warp of three and of four vectors, blocks, more than a block holds in
/// registers, and widths that vectors do not fit.
const WIDTHS: [usize; 10] = [8, 96, 384, 768, 1024, 1408, 1536, 4096, 8200, 773];

#[test]
fn norms_of_all_widths() {
    for cols in WIDTHS {
        let rows = if cols > 1024 { 5 } else { 37 };
        agrees(&format!("layer norm of {cols}"), &[&[cols], &[cols]], |p, w| {
            let x = p.input([rows, cols]);
            Ok((vec![x], vec![], p.layer_norm(x, Some((w[0], w[1])), 1e-5)?))
        });
        // The output's gradient is needed, dx is added to what the other reader delivered.
        agrees(&format!("whitening of {cols}, beside another reader"), &[], |p, _| {
            let x = p.input([rows, cols]);
            let y = p.layer_norm(x, None, 1e-5)?;
            Ok((vec![x], vec![], p.residual(y, x, None, None)?))
        });
        agrees(&format!("unit length of {cols}"), &[], |p, _| {
            let x = p.input([rows, cols]);
            let y = p.l2_normalise(x);
            Ok((vec![x], vec![], p.residual(y, x, None, None)?))
        });
    }
}

#[test]
fn norms_of_many_rows() {
    for (rows, cols) in [(3000, 96), (2000, 24), (40_000, 8), (700, 7)] {
        agrees(&format!("layer norm of {rows} rows of {cols}"), &[&[cols], &[cols]], |p, w| {
            let x = p.input([rows, cols]);
            Ok((vec![x], vec![], p.layer_norm(x, Some((w[0], w[1])), 1e-5)?))
        });
    }
    agrees("a norm whose input nothing trains", &[&[768], &[768]], |p, w| {
        let x = p.input([33, 768]);
        Ok((vec![], vec![x], p.layer_norm(x, Some((w[0], w[1])), 1e-5)?))
    });
    for (rows, cols) in [(300, 33), (37, 64)] {
        agrees("batch norm", &[], |p, _| {
            let x = p.input([rows, cols]);
            let y = p.batch_norm(x, 1e-2).0;
            Ok((vec![x], vec![], p.residual(y, x, None, None)?))
        });
    }
}

#[test]
fn activations_of_all_lengths() {
    for kind in [Activation::Gelu, Activation::QuickGelu, Activation::Relu, Activation::Sigmoid { height: 16.0 }] {
        for len in [1, 7, 8, 2048, 5003] {
            agrees(&format!("{kind:?} of {len}"), &[], |p, _| {
                let x = p.input([1, len]);
                Ok((vec![x], vec![], p.activation(x, kind)))
            });
            agrees(&format!("{kind:?} of {len}, beside another reader"), &[], |p, _| {
                let x = p.input([1, len]);
                let y = p.activation(x, kind);
                Ok((vec![x], vec![], p.residual(y, x, None, None)?))
            });
        }
    }
}

#[test]
fn residual_branches_of_all_widths() {
    let drop = Some(DropPath { rate: 0.4, site: 3 });
    for (shape, drop) in
        [([3, 5, 96], drop), ([2, 70, 768], drop), ([7, 3, 1536], None), ([5, 9, 77], drop), ([40, 1, 24], drop), ([2, 200, 7], None)]
    {
        let cols = shape[2];
        agrees(&format!("LayerScale of {shape:?}"), &[&[cols]], |p, w| {
            let (x, y) = (p.input(shape), p.input(shape));
            Ok((vec![x, y], vec![], p.residual(x, y, Some(w[0]), drop)?))
        });
        agrees(&format!("gradients added of {shape:?}"), &[&[cols]], |p, w| {
            let (x, y) = (p.input(shape), p.input(shape));
            let a = p.residual(x, y, Some(w[0]), drop)?;
            let b = p.residual(y, x, None, drop)?;
            Ok((vec![x, y], vec![], p.residual(a, b, None, None)?))
        });
    }
    // What does not depend on the batch is f32 beside bf16, on either side.
    for cols in [24, 7] {
        agrees("a parameter as x", &[&[12, cols], &[cols]], |p, w| {
            let (x, y) = (p.weight_as(w[0], [3, 4, cols])?, p.input([3, 4, cols]));
            Ok((vec![y], vec![], p.residual(x, y, Some(w[1]), drop)?))
        });
        agrees("a parameter as y", &[&[12, cols], &[cols]], |p, w| {
            let (x, y) = (p.input([3, 4, cols]), p.weight_as(w[0], [3, 4, cols])?);
            Ok((vec![x], vec![], p.residual(x, y, Some(w[1]), drop)?))
        });
        agrees("a parameter read twice", &[&[12, cols]], |p, w| {
            let (x, y) = (p.input([3, 4, cols]), p.weight_as(w[0], [3, 4, cols])?);
            let z = p.residual(x, y, None, drop)?;
            Ok((vec![x], vec![], p.residual(y, z, None, None)?))
        });
    }
}

#[test]
fn losses_of_all_widths() {
    let distances = [Distance::SmoothL1 { beta: 2.0 }, Distance::L1, Distance::Mse, Distance::Cosine];
    for cols in WIDTHS {
        for distance in distances {
            agrees(&format!("{distance:?} of {cols}"), &[], |p, _| {
                let (x, t) = (p.input([11, cols]), p.input([11, cols]));
                Ok((vec![x], vec![t], p.feature_loss(x, t, distance, Some(1e-5))?))
            });
        }
    }
    for (rows, cols) in [(9000, 8), (5000, 3)] {
        agrees(&format!("{rows} rows"), &[], |p, _| {
            let (x, t) = (p.input([rows, cols]), p.input([rows, cols]));
            Ok((vec![x], vec![t], p.feature_loss(x, t, Distance::Mse, None)?))
        });
    }
    // An f32 operand on either side, and several losses of one prediction.
    for cols in [24, 7] {
        agrees("a target that is a parameter", &[&[6, cols]], |p, w| {
            let (x, t) = (p.input([6, cols]), p.weight_as(w[0], [6, cols])?);
            Ok((vec![x], vec![], p.feature_loss(x, t, Distance::SmoothL1 { beta: 2.0 }, Some(1e-5))?))
        });
        agrees("a prediction that is a parameter", &[&[6, cols]], |p, w| {
            let (x, t) = (p.weight_as(w[0], [6, cols])?, p.input([6, cols]));
            Ok((vec![], vec![t], p.feature_loss(x, t, Distance::Cosine, None)?))
        });
        agrees("six losses", &[], |p, _| {
            let (x, t) = (p.input([6, cols]), p.input([6, cols]));
            let losses = [0.5, -0.25, 2.0, 1.0, 0.125, 3.0].map(|weight| (p.feature_loss(x, t, Distance::Mse, None), weight));
            let losses: Vec<_> = losses.into_iter().map(|(loss, weight)| loss.map(|l| (l, weight))).collect::<Result<_, _>>()?;
            Ok((vec![x], vec![t], p.weighted_sum(&losses)?))
        });
    }
}

#[test]
fn losses_on_logits() {
    for (rows, cols) in [(5, 10), (70, 33), (3, 1000), (2, 1)] {
        for temperature in [1.0, 3.0] {
            agrees(&format!("Kullback-Leibler of {cols}"), &[], |p, _| {
                let (x, t) = (p.input([rows, cols]), p.input([rows, cols]));
                Ok((vec![x], vec![t], p.kl_divergence(x, t, temperature)?))
            });
            agrees(&format!("soft cross-entropy of {cols}, added"), &[], |p, _| {
                let (x, t) = (p.input([rows, cols]), p.input([rows, cols]));
                let (a, b) = (p.soft_cross_entropy(x, t, temperature)?, p.feature_loss(x, t, Distance::Mse, None)?);
                Ok((vec![x], vec![t], p.weighted_sum(&[(a, 1.0), (b, 0.5)])?))
            });
        }
        // Made of bf16 logits, against probabilities in f32; and logits that are a parameter.
        agrees(&format!("cross-entropy of {cols}"), &[&[cols, 4]], |p, w| {
            let (x, t) = (p.input([rows, 4]), p.input([rows, cols]));
            let logits = p.linear(x, w[0], Bias::None)?;
            Ok((vec![x], vec![t], p.cross_entropy(logits, t)?))
        });
        agrees(&format!("logits of {cols} that are a parameter"), &[&[rows, cols]], |p, w| {
            let (logits, t) = (p.weight(w[0])?, p.input([rows, cols]));
            let t = p.activation(t, Activation::Relu);
            Ok((vec![], vec![t], p.cross_entropy(logits, t)?))
        });
    }
}

#[test]
fn biases_of_all_widths() {
    for (rows, outputs) in [(3, 8), (700, 48), (100, 768), (9, 1032), (300, 7), (5, 33), (1, 1)] {
        agrees(&format!("a bias of {outputs} over {rows} rows"), &[&[outputs, 8], &[outputs]], |p, w| {
            let x = p.input([rows, 8]);
            Ok((vec![x], vec![], p.linear(x, w[0], Bias::Full(w[1]))?))
        });
    }
}

#[test]
fn one_weight_of_two_layers() {
    agrees("one weight of two layers", &[&[18, 6]], |p, w| {
        let (a, b) = (p.input([8, 6]), p.input([8, 6]));
        let (y, z) = (p.linear(a, w[0], Bias::None)?, p.linear(b, w[0], Bias::None)?);
        Ok((vec![a, b], vec![], p.residual(y, z, None, None)?))
    });
}

/// Tensors of lengths that vectors fit and do not, one longer than a block works on.
fn layout() -> (std::sync::Arc<Layout>, Vec<Param>) {
    let mut builder = Layout::builder();
    let shapes: [&[usize]; 6] = [&[3], &[5000], &[64, 64], &[1], &[33, 129], &[16]];
    let params = shapes.iter().enumerate().map(|(i, s)| builder.add(format!("p{i}"), s)).collect();
    (builder.finish(), params)
}

fn values(layout: &Layout, p: Param, key: u64, scale: f64) -> Vec<f64> {
    random(layout.shape(p).iter().product(), key).iter().map(|x| f64::from((scale * x) as f32)).collect()
}

/// Parameters, gradients and an optimiser.
struct Trained {
    params: Params,
    grads: Grads,
    adamw: AdamW,
}

impl Trained {
    fn new(layout: &std::sync::Arc<Layout>) -> Self {
        let mut params = Params::new(layout, DType::F32);
        layout.iter().zip(300..).for_each(|(p, key)| params.set(p, &values(layout, p, key, 1.0)));
        Trained { params, grads: Grads::new(layout, DType::F32), adamw: AdamW::new(layout, DType::F32, (0.9, 0.99), 1e-8) }
    }

    /// Everything that a step changes.
    fn all(&self, layout: &Layout) -> Vec<f64> {
        let state = |p| [self.params.to_f64(p), self.adamw.state(p).0, self.adamw.state(p).1].concat();
        layout.iter().flat_map(state).collect()
    }
}

/// Gradients of squared distances from random targets, made on a device, where they stay.
fn gradients_of(layout: &std::sync::Arc<Layout>, device: &Device, t: &mut Trained, step: u64) {
    let mut p = Planner::new();
    p.train(layout);
    let params: Vec<Param> = layout.iter().collect();
    let mut targets = vec![];
    let mut losses = vec![];
    for (i, &w) in params.iter().enumerate() {
        let value = p.weight(w).expect("a parameter");
        let target = p.input(p.shape(value));
        targets.push(target);
        losses.push((p.feature_loss(value, target, Distance::Mse, None).expect("equal shapes"), 1.0 + i as f64));
    }
    let loss = p.weighted_sum(&losses).expect("losses");
    p.root(loss);
    let plan = p.finish().expect("a plan");
    let mut arena = match device.cuda_ordinal() {
        None => fd_compute::Arena::new(&plan, DType::F32),
        Some(_) => fd_compute::Arena::on(device, &plan).expect("memory on the device"),
    };
    targets.iter().zip(&params).for_each(|(&target, &w)| arena.write_f64(target, &values(layout, w, 400 + step, 1.0)));
    t.grads.reset();
    let sets = [&t.params];
    let mut cx = Cx::new(device, &sets, &mut arena, fd_compute::StepKey::default());
    plan.forward(&mut cx).expect("forward");
    plan.backward(&mut cx, &mut t.grads).expect("backward");
}

fn worst(a: &[f64], b: &[f64]) -> f64 {
    let scale = b.iter().fold(1e-6f64, |m, x| m.max(x.abs()));
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() / scale }).fold(0.0, |w, x| if x > w || x.is_nan() { x } else { w })
}

#[test]
fn optimiser_steps() {
    let (layout, params) = layout();
    for (device, _) in check::devices().into_iter().filter(|(d, _)| d.dtype() == DType::F32) {
        let (mut there, mut here) = (Trained::new(&layout), Trained::new(&layout));
        // One parameter is left out of the steps; the last step is given its factor.
        let rates: Vec<Rate> =
            params.iter().skip(1).zip(1..).map(|(&param, i)| Rate { param, lr: 0.01 * f64::from(i), weight_decay: 0.1 }).collect();
        for (step, max_norm) in [(0, None), (1, Some(0.05)), (2, Some(1e3))] {
            gradients_of(&layout, &device, &mut there, step);
            gradients_of(&layout, &Device::CPU, &mut here, step);
            let norms = [grad_norm(&there.grads), grad_norm(&here.grads)];
            assert!((norms[0] / norms[1] - 1.0).abs() < 1e-6, "{norms:?}");
            let stepped = there.adamw.step_clipped(&mut there.params, &there.grads, &rates, max_norm).expect("a step");
            assert_eq!(stepped, norms[0], "the norm of a step is the norm");
            here.adamw.step_clipped(&mut here.params, &here.grads, &rates, max_norm).expect("a step");
            let off = worst(&there.all(&layout), &here.all(&layout));
            assert!(off < 1e-5, "step {step}: {off:.1e}");
        }
        gradients_of(&layout, &device, &mut there, 3);
        gradients_of(&layout, &Device::CPU, &mut here, 3);
        there.adamw.step(&mut there.params, &there.grads, &rates, 0.3).expect("a step");
        here.adamw.step(&mut here.params, &here.grads, &rates, 0.3).expect("a step");
        assert!(worst(&there.all(&layout), &here.all(&layout)) < 1e-5);
        assert_eq!(there.params.to_f64(params[0]), values(&layout, params[0], 300, 1.0), "no rate, no change");
        assert_eq!((there.adamw.steps(), here.adamw.steps()), (4, 4));

        // One weight that is not a number makes one gradient so: nothing changes.
        let mut weights = there.params.to_f64(params[4]);
        weights[17] = f64::NAN;
        there.params.set(params[4], &weights);
        gradients_of(&layout, &device, &mut there, 4);
        let before = there.all(&layout);
        assert!(grad_norm(&there.grads).is_nan());
        assert!(there.adamw.step_clipped(&mut there.params, &there.grads, &rates, Some(1.0)).expect("no step").is_nan());
        assert!(before.iter().zip(there.all(&layout)).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert_eq!(there.adamw.steps(), 4);
    }
}

#[test]
fn moving_averages() {
    let (layout, _) = layout();
    for (device, _) in check::devices().into_iter().filter(|(d, _)| d.dtype() == DType::F32) {
        let (mut there, mut here) = (Trained::new(&layout), Trained::new(&layout));
        let mut slow = [there.params.clone(), there.params.clone()];
        layout.iter().for_each(|p| slow.iter_mut().for_each(|s| s.set(p, &values(&layout, p, 77, 2.0))));
        gradients_of(&layout, &device, &mut there, 0);
        gradients_of(&layout, &Device::CPU, &mut here, 0);
        for _ in 0..2 {
            slow[0].approach(&there.params, 0.25).expect("equal layouts");
            slow[1].approach(&here.params, 0.25).expect("equal layouts");
        }
        let [a, b]: [Vec<f64>; 2] = slow.map(|s| layout.iter().flat_map(|p| s.to_f64(p)).collect());
        assert!(worst(&a, &b) < 1e-6);
    }
}

/// A linear layer in bf16 multiplies by the shadow of its weight: after a step, and after a moving average, the rounded new weight.
#[test]
fn shadows_follow() {
    for (device, _) in check::devices().into_iter().filter(|(d, _)| d.dtype() == DType::Bf16) {
        let mut builder = Layout::builder();
        let w = builder.add("w", &[16, 16]);
        let layout = builder.finish();
        let mut p = Planner::new();
        p.train(&layout);
        let (x, target) = (p.input([16, 16]), p.input([16, 16]));
        let y = p.linear(x, w, Bias::None).expect("a layer");
        p.keep(y);
        let loss = p.feature_loss(y, target, Distance::Mse, None).expect("equal shapes");
        p.root(loss);
        let plan = p.finish().expect("a plan");
        let (mut params, mut grads) = (Params::new(&layout, DType::F32), Grads::new(&layout, DType::F32));
        params.set(w, &random(256, 1));
        let mut arena = fd_compute::Arena::on(&device, &plan).expect("memory on the device");
        // y = w transposed: the shadow itself.
        arena.write_f64(x, &(0..256).map(|i| f64::from(u8::from(i / 16 == i % 16))).collect::<Vec<_>>());
        arena.write_f64(target, &random(256, 2));
        let mut adamw = AdamW::new(&layout, DType::F32, (0.9, 0.99), 1e-8);
        let mut shadow = |params: &Params, grads: &mut Grads| {
            let sets = [params];
            let mut cx = Cx::new(&device, &sets, &mut arena, fd_compute::StepKey::default());
            plan.forward(&mut cx).expect("forward");
            grads.reset();
            plan.backward(&mut cx, grads).expect("backward");
            arena.to_f64(y)
        };
        let rounded = |params: &Params| {
            let all = params.to_f64(w);
            let nearest = |x: f64| {
                let bits = (x as f32).to_bits();
                f64::from(f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000))
            };
            (0..256).map(|i| nearest(all[i % 16 * 16 + i / 16])).collect::<Vec<f64>>()
        };
        assert_eq!(shadow(&params, &mut grads), rounded(&params));
        for _ in 0..3 {
            let before = params.to_f64(w);
            adamw.step_clipped(&mut params, &grads, &[Rate { param: w, lr: 0.1, weight_decay: 0.0 }], Some(1.0)).expect("a step");
            assert_ne!(shadow(&params, &mut grads), before);
            assert_eq!(shadow(&params, &mut grads), rounded(&params));
        }
        let mut slow = Params::new(&layout, DType::F32);
        shadow(&slow, &mut grads);
        slow.approach(&params, 0.5).expect("equal layouts");
        assert_eq!(shadow(&slow, &mut grads), rounded(&slow));
        assert_ne!(slow.to_f64(w), vec![0.0; 256]);
    }
}

#[test]
fn what_kernels_cannot_count_is_refused_before_anything_is_allocated() {
    for (device, _) in check::devices() {
        let mut p = Planner::new();
        let x = p.input([1 << 16, 1 << 15]);
        let y = p.l2_normalise(x);
        p.keep(y);
        let why = Arena::on(&device, &p.finish().expect("a plan")).expect_err("2^31 elements").to_string();
        assert!(why.contains("65536 x 32768") && why.contains("smaller batch"), "{why}");
    }
}
