//! Attention on a device against the CPU in f64, at sizes that fill several tiles, strips and groups: probabilities, output and gradients.

mod check;

use std::sync::Arc;

use check::{devices, off, random};
use fd_compute::{Act, Arena, Cx, DType, Device, Error, Grads, Layout, Params, Plan, Planner, Scores, Span, StepKey, Windows};

/// What is attended to, and how.
struct Case {
    name: &'static str,
    batch: usize,
    heads: usize,
    head_dim: usize,
    bias: bool,
    cosine: bool,
    span: Span,
    tokens: usize,
}

/// A plan of one attention and its probabilities, and where to find things.
struct Planned {
    plan: Plan,
    layout: Arc<Layout>,
    qkv: Act,
    bias: Option<Act>,
    y: Act,
    map: Act,
}

impl Case {
    /// All tokens to all, without cosine scores.
    fn whole(name: &'static str, batch: usize, tokens: usize, heads: usize, head_dim: usize, bias: bool) -> Case {
        Case { name, batch, heads, head_dim, bias, cosine: false, span: Span::Whole, tokens }
    }

    fn window(&self) -> usize {
        if let Span::Windows(w) = &self.span { w.tokens() } else { self.tokens }
    }

    fn plan(&self) -> Result<Planned, Error> {
        let mut builder = Layout::builder();
        let logit_scale = builder.add("logit_scale".to_string(), &[self.heads, 1, 1]);
        let layout = builder.finish();
        let mut p = Planner::new();
        p.train(&layout);
        let scores = if self.cosine { Scores::Cosine(logit_scale) } else { Scores::Scaled((self.head_dim as f64).powf(-0.5)) };
        let (n, h) = (self.window(), self.heads);
        let qkv = p.input([self.batch, self.tokens, 3 * h * self.head_dim]);
        let bias = self.bias.then(|| p.input([h, n, n]));
        [qkv].into_iter().chain(bias).for_each(|a| p.want_grad(a));
        let y = p.attention(qkv, bias, h, scores, self.span.clone())?;
        let map = p.attention_map(qkv, bias, h, scores, self.span.clone())?;
        p.leaf(y);
        p.keep(map);
        Ok(Planned { plan: p.finish()?, layout, qkv, bias, y, map })
    }

    /// Probabilities, output, and the gradients of qkv, of the bias and of the scales; with numbers that bf16 has.
    fn run(&self, planned: &Planned, device: &Device, mut arena: Arena, dtype: DType) -> Vec<(&'static str, Vec<f64>)> {
        let Planned { plan, layout, qkv, bias, y, map } = planned;
        let rounded = |act: Act, key: u64| random(plan.shape(act).len(), key).into_iter().map(to_bf16).collect::<Vec<f64>>();
        arena.poison();
        arena.write_f64(*qkv, &rounded(*qkv, 1));
        if let Some(bias) = bias {
            arena.write_f64(*bias, &random(plan.shape(*bias).len(), 2));
        }
        let (mut params, mut grads) = (Params::new(layout, dtype), Grads::new(layout, dtype));
        let logit_scale = layout.iter().next().expect("one parameter");
        // One of them above the clamp, where there are three.
        let scales: Vec<f64> = (0..self.heads).map(|h| [2.3, 3.1, 4.7][h % 3]).collect();
        params.set(logit_scale, &scales);
        let sets = [&params];
        plan.forward(&mut Cx::new(device, &sets, &mut arena, StepKey::default())).expect("forward");
        let dy = rounded(*y, 3);
        match dtype {
            DType::F64 => arena.grad_mut::<f64>(*y).copy_from_slice(&dy),
            _ => arena.grad_mut::<f32>(*y).iter_mut().zip(&dy).for_each(|(to, from)| *to = *from as f32),
        }
        plan.backward(&mut Cx::new(device, &sets, &mut arena, StepKey::default()), &mut grads).expect("backward");
        let mut found = vec![("probabilities", arena.to_f64(*map)), ("y", arena.to_f64(*y)), ("dqkv", arena.grad_to_f64(*qkv))];
        found.extend(bias.map(|b| ("dbias", arena.grad_to_f64(b))));
        if self.cosine {
            found.push(("dlogit_scale", grads.to_f64(logit_scale)));
        }
        found
    }

    fn proves(&self) {
        if devices().is_empty() {
            eprintln!("skipped: {}: FD_TEST_CUDA says that there is no device", self.name);
            return;
        }
        let planned = self.plan().expect("a valid description");
        let expected = self.run(&planned, &Device::CPU, Arena::new(&planned.plan, DType::F64), DType::F64);
        for (device, tolerance) in devices() {
            let arena = Arena::on(&device, &planned.plan).expect("memory on the device");
            let found = self.run(&planned, &device, arena, DType::F32);
            for ((what, found), (_, expected)) in found.iter().zip(&expected) {
                let off = off(found, expected, 1e-2);
                let dtype = device.dtype().name();
                println!("{}, {dtype}: {what} differs by {off:.1e}", self.name);
                assert!(off < tolerance, "{}: {what} in {dtype} differs from f64 by {off:.1e}", self.name);
            }
        }
    }
}

/// The nearest number of bf16.
fn to_bf16(x: f64) -> f64 {
    let bits = (x as f32).to_bits();
    f64::from(f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000))
}

fn windows(map: (usize, usize), side: usize, shift: usize) -> (usize, Span) {
    (map.0 * map.1, Span::Windows(Arc::new(Windows::new(map, side, shift).expect("windows that tile the map"))))
}

#[test]
fn whole_images() {
    Case::whole("ViT at 224 pixels", 2, 197, 2, 64, true).proves();
    Case::whole("no bias", 3, 65, 2, 64, false).proves();
    Case::whole("narrow heads", 2, 70, 3, 24, true).proves();
    Case::whole("heads that no vector load fits", 2, 37, 2, 13, true).proves();
    Case::whole("wide heads", 1, 50, 1, 80, true).proves();
    Case::whole("the widest heads", 1, 81, 2, 128, false).proves();
    Case::whole("more images than groups of the bias gradient", 1500, 2, 1, 8, true).proves();
    Case::whole("the same with several warps", 34, 17, 32, 8, true).proves();
}

#[test]
fn windows_and_causal() {
    for (name, shift, cosine, bias) in [
        ("Swin", 0, false, true),
        ("Swin, shifted", 3, false, true),
        ("Swin v2", 0, true, true),
        ("Swin v2, shifted", 2, true, true),
        ("cosine without a bias", 3, true, false),
    ] {
        let (tokens, span) = windows((14, 14), 7, shift);
        Case { name, batch: 2, heads: 3, head_dim: 32, bias, cosine, span, tokens }.proves();
    }
    let name = "text";
    Case { name, batch: 2, heads: 2, head_dim: 64, bias: false, cosine: false, span: Span::Causal, tokens: 77 }.proves();
}

#[test]
fn heads_that_are_too_wide_are_refused() {
    for (device, _) in devices() {
        let planned = Case::whole("", 1, 4, 1, 136, false).plan().expect("a valid description");
        let mut arena = Arena::on(&device, &planned.plan).expect("memory on the device");
        let params = Params::new(&planned.layout, DType::F32);
        let said = planned.plan.forward(&mut Cx::new(&device, &[&params], &mut arena, StepKey::default())).unwrap_err().to_string();
        assert!(said.contains("heads of 136") && said.contains("128"), "{said}");
    }
}
