//! Attention alone, forward and backward, per floating-point operation: the ViT's beside Swin's windows.

use std::time::Instant;

use fd_compute::{Act, Arena, Cx, DType, Device, Grads, Layout, Params, Plan, Planner, Scores, Span, StepKey, Stream, Windows};
use serde::Serialize;

use super::rounded;
use crate::Error;

/// One line of JSON.
#[derive(Serialize)]
struct Line {
    bench: &'static str,
    shape: &'static str,
    heads: usize,
    head_dim: usize,
    /// Tokens that see each other.
    tokens: usize,
    threads: usize,
    forward_gflops: f64,
    backward_gflops: f64,
    gflops: f64,
}

/// A shape: images, side of the map, heads, width of a head, and side and shift of the windows.
struct Shape {
    name: &'static str,
    batch: usize,
    side: usize,
    heads: usize,
    head_dim: usize,
    windows: Option<(usize, usize)>,
    cosine: bool,
}

const SHAPES: [Shape; 6] = [
    Shape { name: "vit, head width 64", batch: 8, side: 14, heads: 12, head_dim: 64, windows: None, cosine: false },
    Shape { name: "vit, head width 32", batch: 8, side: 14, heads: 12, head_dim: 32, windows: None, cosine: false },
    Shape { name: "swin, windows of 7", batch: 8, side: 28, heads: 6, head_dim: 32, windows: Some((7, 0)), cosine: false },
    Shape { name: "swin, windows of 7, shifted", batch: 8, side: 28, heads: 6, head_dim: 32, windows: Some((7, 3)), cosine: false },
    Shape { name: "swin v2, windows of 7, shifted", batch: 8, side: 28, heads: 6, head_dim: 32, windows: Some((7, 3)), cosine: true },
    Shape { name: "swin v2, windows of 14, shifted", batch: 8, side: 28, heads: 6, head_dim: 32, windows: Some((14, 7)), cosine: true },
];

/// Measures every shape, or those whose name contains `only`; one line of JSON each. Call it from a rayon pool of the wanted size.
pub fn attention(repeats: usize, only: &str) -> Result<Vec<String>, Error> {
    let lines: Vec<String> =
        SHAPES.iter().filter(|s| s.name.contains(only)).map(|s| measure(s, repeats.max(1))).collect::<Result<_, _>>()?;
    if lines.is_empty() {
        let names: Vec<&str> = SHAPES.iter().map(|s| s.name).collect();
        return Err(Error::Usage(format!("--only {only}: there are {}", names.join("; "))));
    }
    Ok(lines)
}

fn measure(shape: &Shape, repeats: usize) -> Result<String, Error> {
    let &Shape { name, batch, side, heads, head_dim, windows, cosine } = shape;
    let tokens = side * side;
    let mut layout = Layout::builder();
    let scores = match cosine {
        true => Scores::Cosine(layout.add("logit_scale", &[heads])),
        false => Scores::Scaled((head_dim as f64).powf(-0.5)),
    };
    let layout = layout.finish();
    let mut p = Planner::new();
    p.train(&layout);
    let qkv = p.input([batch, tokens, 3 * heads * head_dim]);
    let (span, n) = match windows {
        Some((window, shift)) => (Span::Windows(Windows::new((side, side), window, shift)?.into()), window * window),
        None => (Span::Whole, tokens),
    };
    let bias = p.input([heads, n, n]);
    p.want_grad(qkv);
    p.want_grad(bias);
    let y = p.attention(qkv, Some(bias), heads, scores, span)?;
    p.leaf(y);
    let plan = p.finish()?;
    let (forward, backward) = times(&plan, &layout, [qkv, bias], y, repeats)?;
    let cost = plan.cost();
    let gflops = |flops: u64, seconds: f64| rounded(flops as f64 / seconds / 1e9);
    let line = Line {
        bench: "attention",
        shape: name,
        heads,
        head_dim,
        tokens: n,
        threads: rayon::current_num_threads(),
        forward_gflops: gflops(cost.forward_flops, forward),
        backward_gflops: gflops(cost.backward_flops, backward),
        gflops: gflops(cost.forward_flops + cost.backward_flops, forward + backward),
    };
    serde_json::to_string(&line).map_err(|e| Error::Usage(e.to_string()))
}

/// Median seconds of a forward and of a backward pass.
fn times(plan: &Plan, layout: &std::sync::Arc<Layout>, inputs: [Act; 2], y: Act, repeats: usize) -> Result<(f64, f64), Error> {
    let (params, mut grads) = (Params::new(layout, DType::F32), Grads::new(layout, DType::F32));
    let (mut arena, mut random) = (Arena::new(plan, DType::F32), Stream::new(&[3]));
    for act in inputs {
        arena.value_mut::<f32>(act).iter_mut().for_each(|x| *x = random.normal() as f32);
    }
    let (mut forward, mut backward) = (vec![], vec![]);
    // The first pass touches the memory.
    for _ in 0..=repeats {
        let sets = [&params];
        let mut cx = Cx::new(&Device::CPU, &sets, &mut arena, StepKey::default());
        let start = Instant::now();
        plan.forward(&mut cx)?;
        forward.push(start.elapsed().as_secs_f64());
        cx.arena.grad_mut::<f32>(y).fill(0.01);
        grads.reset();
        let start = Instant::now();
        plan.backward(&mut cx, &mut grads)?;
        backward.push(start.elapsed().as_secs_f64());
    }
    let median = |times: &mut Vec<f64>| {
        times.remove(0);
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    Ok((median(&mut forward), median(&mut backward)))
}
