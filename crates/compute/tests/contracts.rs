//! What the crate promises of every run: equal bits over threads, repeats, recomputation and memory reuse; masks that do not depend on how
//! a batch is cut; errors instead of panics.

mod check;

use check::{Case, case, random};
use fd_compute::{
    Act, Activation, Arena, Bias, Cx, DType, Device, Distance, DropPath, Error, Grads, Layout, Param, Params, Planner, Scores, Span,
    StepKey, uniform,
};

const B: usize = 3;
const N: usize = 5;
const C: usize = 12;

/// Shapes of one pre-norm block with LayerScale: norm, qkv, projection, gamma, norm, two layers of the MLP, gamma.
fn block_shapes() -> Vec<&'static [usize]> {
    vec![&[C], &[C], &[3 * C, C], &[C, C], &[C], &[C], &[C], &[C], &[4 * C, C], &[4 * C], &[C, 4 * C], &[C]]
}

fn block(p: &mut Planner, w: &[Param], x: Act, bias: Act, site: u32) -> Result<Act, Error> {
    let drop = |site| Some(DropPath { rate: 0.3, site });
    let h = p.layer_norm(x, Some((w[0], w[1])), 1e-6)?;
    let qkv = p.linear(h, w[2], Bias::None)?;
    let a = p.attention(qkv, Some(bias), 3, Scores::Scaled(0.35), Span::Whole)?;
    let a = p.linear(a, w[3], Bias::Full(w[4]))?;
    let x = p.residual(x, a, Some(w[5]), drop(site))?;
    let h = p.layer_norm(x, Some((w[6], w[7])), 1e-6)?;
    let h = p.linear(h, w[8], Bias::Full(w[9]))?;
    let h = p.activation(h, Activation::Gelu);
    let h = p.linear(h, w[10], Bias::None)?;
    p.residual(x, h, Some(w[11]), drop(site + 1))
}

fn network(recompute: bool) -> Case {
    network_of(B, N, recompute)
}

/// Three blocks that share weights and a bias, with or without recomputation.
fn network_of(batch: usize, tokens: usize, recompute: bool) -> Case {
    case(&block_shapes(), |p, w| {
        let (mut x, bias) = (p.input([batch, tokens, C]), p.input([3, tokens, tokens]));
        let first = x;
        for i in 0..3 {
            x = if recompute { p.recompute(|p| block(p, w, x, bias, 2 * i))? } else { block(p, w, x, bias, 2 * i)? };
        }
        Ok((vec![first, bias], vec![], x))
    })
}

fn bits(gradients: &[Vec<f64>]) -> Vec<Vec<u64>> {
    gradients.iter().map(|g| g.iter().map(|v| v.to_bits()).collect()).collect()
}

fn in_pool<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool").install(f)
}

#[test]
fn a_network_passes_the_gradient_check_with_and_without_recomputation() {
    for recompute in [false, true] {
        let worst = network(recompute).worst();
        assert!(worst < 1e-5, "recompute {recompute}: {worst:.1e}");
    }
}

#[test]
fn equal_bits_over_threads_and_repeats() {
    let network = network_of(40, 17, false);
    let one = bits(&in_pool(1, || network.gradients(DType::F32)));
    for threads in [1, 2, 3, 5] {
        assert_eq!(one, bits(&in_pool(threads, || network.gradients(DType::F32))), "{threads} threads");
    }
}

#[test]
fn recomputation_gives_equal_bits_and_takes_less_memory() {
    let (kept, again) = (network(false), network(true));
    assert_eq!(bits(&kept.gradients(DType::F32)), bits(&again.gradients(DType::F32)));
    let (kept, again) = (kept.plan.cost(), again.plan.cost());
    assert!(again.arena_elements < kept.arena_elements && kept.arena_elements < kept.unshared_elements);
    assert!(again.backward_flops > kept.backward_flops);
}

#[test]
fn keeping_values_changes_no_gradient() {
    // Every value of the network is kept in turn, recomputed ones and their neighbours among them.
    let described = |keep: Option<usize>| {
        case(&block_shapes(), |p, w| {
            let (x, bias) = (p.input([B, N, C]), p.input([3, N, N]));
            let h = p.layer_norm(x, Some((w[0], w[1])), 1e-6)?;
            let qkv = p.linear(h, w[2], Bias::None)?;
            let a = p.attention(qkv, Some(bias), 3, Scores::Scaled(0.35), Span::Whole)?;
            let a = p.recompute(|p| p.linear(a, w[3], Bias::Full(w[4])))?;
            let r = p.residual(x, a, Some(w[5]), None)?;
            let f = p.linear(r, w[8], Bias::Full(w[9]))?;
            let g = p.activation(f, Activation::Gelu);
            let out = p.linear(g, w[10], Bias::None)?;
            let last = p.layer_norm(out, Some((w[6], w[7])), 1e-6)?;
            keep.into_iter().for_each(|i| p.keep([h, qkv, a, r, f, g, out, last][i]));
            Ok((vec![x, bias], vec![], last))
        })
    };
    let expected = bits(&described(None).gradients(DType::F32));
    for i in 0..8 {
        assert_eq!(expected, bits(&described(Some(i)).gradients(DType::F32)), "value {i}");
    }
}

#[test]
fn running_twice_in_one_arena_changes_nothing() {
    let network = network(true);
    let (params, mut arena) = (network.params(DType::F32), network.arena(DType::F32));
    let mut grads = Grads::new(&network.layout, DType::F32);
    let mut run = || {
        grads.reset();
        let loss = network.run(&params, &mut arena, Some(&mut grads));
        let all: Vec<Vec<f64>> = network.layout.iter().map(|p| grads.to_f64(p)).collect();
        (loss.to_bits(), bits(&all))
    };
    let first = run();
    assert_eq!(first, run());
}

#[test]
fn gradients_add_until_they_are_reset() {
    let network = network(false);
    let (params, mut arena) = (network.params(DType::F64), network.arena(DType::F64));
    let mut grads = Grads::new(&network.layout, DType::F64);
    let once = network.gradients(DType::F64);
    network.run(&params, &mut arena, Some(&mut grads));
    network.run(&params, &mut arena, Some(&mut grads));
    for (p, once) in network.layout.iter().zip(&once) {
        assert!(grads.to_f64(p).iter().zip(once).all(|(two, one)| (two - 2.0 * one).abs() <= 1e-12 * (1.0 + one.abs())));
    }
    grads.reset();
    network.run(&params, &mut arena, Some(&mut grads));
    for (p, once) in network.layout.iter().zip(&once) {
        assert_eq!(&grads.to_f64(p), once);
    }
}

#[test]
fn a_parameter_that_nothing_reads_has_gradient_zero() {
    let unused = case(&[&[3, 4], &[7]], |p, w| {
        let x = p.input([2, 4]);
        Ok((vec![x], vec![], p.linear(x, w[0], Bias::None)?))
    });
    let (params, mut arena) = (unused.params(DType::F32), unused.arena(DType::F32));
    let mut grads = Grads::new(&unused.layout, DType::F32);
    let second = unused.layout.iter().nth(1).expect("two parameters");
    grads.set(second, &[9.0; 7]);
    unused.run(&params, &mut arena, Some(&mut grads));
    assert_eq!(grads.to_f64(second), [0.0; 7]);
}

/// out = x + drop(y) for a batch; x = 0, y = 1, so that out is the mask.
fn masks(batch: usize, key: StepKey) -> Vec<f64> {
    let mut p = Planner::new();
    let (x, y) = (p.input([batch, 2, 3]), p.input([batch, 2, 3]));
    let out = p.residual(x, y, None, Some(DropPath { rate: 0.4, site: 11 })).expect("equal shapes");
    p.keep(out);
    let plan = p.finish().expect("a plan");
    let mut arena = Arena::new(&plan, DType::F32);
    arena.value_mut::<f32>(y).fill(1.0);
    plan.forward(&mut Cx::new(&Device::CPU, &[], &mut arena, key)).expect("forward");
    arena.to_f64(out)
}

#[test]
fn drop_path_masks_do_not_depend_on_how_a_batch_is_cut() {
    let key = StepKey { seed: 1, step: 9, first_sample: 0, view: 0 };
    let whole = masks(64, key);
    let parts: Vec<f64> = (0..4).flat_map(|i| masks(16, StepKey { first_sample: 16 * i, ..key })).collect();
    assert_eq!(whole, parts);
    let dropped = whole.chunks(6).filter(|s| s[0] == 0.0).count();
    assert!((10..45).contains(&dropped), "{dropped} of 64 dropped at rate 0.4");
    assert!(whole.chunks(6).all(|s| s.iter().all(|v| *v == s[0]) && (s[0] == 0.0 || (s[0] - 1.0 / 0.6).abs() < 1e-6)));
    for other in [StepKey { seed: 2, ..key }, StepKey { step: 8, ..key }, StepKey { view: 1, ..key }] {
        assert_ne!(whole, masks(64, other));
    }
    assert_ne!(uniform(&[1, 9, 11, 0, 0]), uniform(&[1, 9, 12, 0, 0]));
}

#[test]
fn drop_path_is_off_outside_training() {
    let c = network(false);
    let (params, mut arena) = (c.params(DType::F32), c.arena(DType::F32));
    let sets = [&params];
    let mut run = |train, step| {
        let key = StepKey { step, ..c.key };
        c.plan.forward(&mut Cx { train, ..Cx::new(&Device::CPU, &sets, &mut arena, key) }).expect("forward");
        arena.scalar(c.loss)
    };
    assert_eq!(run(false, 0), run(false, 1));
    assert_ne!(run(true, 0), run(true, 1));
}

#[test]
fn watched_values_are_seen_before_their_memory_serves_others() {
    let run = |keep: bool| {
        let mut p = Planner::new();
        let input = p.input([3, 32]);
        let mut acts = vec![];
        for _ in 0..6 {
            acts.push(p.activation(acts.last().copied().unwrap_or(input), Activation::Gelu));
        }
        acts.iter().filter(|_| keep).for_each(|&act| p.keep(act));
        let plan = p.finish().expect("a plan");
        let mut arena = Arena::new(&plan, DType::F64);
        arena.write_f64(input, &(0..96).map(|i| 0.05 * f64::from(i) - 2.0).collect::<Vec<_>>());
        let (watched, mut seen) = ([acts[4], acts[0], acts[2]], vec![]);
        let mut cx = Cx::new(&Device::CPU, &[], &mut arena, StepKey::default());
        plan.forward_watching(&mut cx, &watched, |i, arena| seen.push((i, arena.to_f64(watched[i])))).expect("forward");
        let kept: Vec<_> = acts.iter().filter(|_| keep).map(|&act| arena.to_f64(act)).collect();
        (seen, kept, plan.arena_len())
    };
    let ((seen, _, small), (same, kept, large)) = (run(false), run(true));
    assert_eq!(seen, [(1, kept[0].clone()), (2, kept[2].clone()), (0, kept[4].clone())]);
    assert!(seen == same && small < large, "{small} of {large} elements");
}

#[test]
fn a_frozen_set_gets_no_backward_step() {
    let (mut a, mut b) = (Layout::builder(), Layout::builder());
    let (teacher, student) = (a.add("w", &[5, 4]), b.add("w", &[5, 4]));
    let (a, b) = (a.finish(), b.finish());
    let mut p = Planner::new();
    p.train(&b);
    p.bind(&a);
    let x = p.input([3, 4]);
    let target = p.linear(x, teacher, Bias::None).expect("shapes");
    let y = p.linear(x, student, Bias::None).expect("shapes");
    let loss = p.feature_loss(y, target, Distance::Mse, None).expect("shapes");
    p.root(loss);
    let cost = p.finish().expect("a plan").cost();
    // Forward: two products and the loss. Backward: the gradient of the student's weight (nobody wants x's).
    assert_eq!(cost.forward_flops, 2 * 120 + 12 * 15);
    assert_eq!(cost.backward_flops, 120 + 12 * 15);
}

#[test]
fn misfits_are_errors_that_say_what_and_where() {
    let mut layout = Layout::builder();
    let w = layout.add("w", &[5, 4]);
    let layout = layout.finish();
    let mut other = Layout::builder();
    let foreign = other.add("v", &[5, 4]);
    let mut p = Planner::new();
    p.train(&layout);
    let x = p.input([2, 3]);
    let image = p.input([1, 3, 30, 32]);
    let tokens = p.input([2, 5, 12]);
    let said = |e: Result<Act, Error>| e.expect_err("a refusal").to_string();
    assert_eq!(said(p.linear(x, w, Bias::None)), "linear: x has shape 2 x 3, expected 2 x 4");
    assert!(said(p.linear(x, foreign, Bias::None)).contains("neither bound nor trained"));
    assert!(said(p.patchify(image, 4)).contains("30 x 32"));
    assert!(said(p.attention(tokens, None, 5, Scores::Scaled(1.0), Span::Whole)).contains("5 heads"));
    assert!(said(p.residual(x, tokens, None, None)).contains("expected 2 x 3"));
    assert!(said(p.residual(x, x, None, Some(DropPath { rate: 1.0, site: 0 }))).contains("rate 1"));
    assert!(said(p.feature_loss(x, x, Distance::SmoothL1 { beta: 0.0 }, None)).contains("beta"));
    p.residual(x, x, None, None).expect("refused when finished");
    assert_eq!(p.finish().expect_err("an operand given twice").to_string(), "residual: the same value is given as two operands");
}

#[test]
fn a_run_with_foreign_or_mistyped_memory_is_an_error() {
    let (a, b) = (network(false), network(false));
    let (params, mut arena) = (a.params(DType::F32), b.arena(DType::F32));
    let sets = [&params];
    assert!(a.plan.forward(&mut Cx::new(&Device::CPU, &sets, &mut arena, a.key)).is_err(), "an arena of another plan");
    assert!(a.plan.forward(&mut Cx::new(&Device::CPU, &[], &mut a.arena(DType::F32), a.key)).is_err(), "no parameters");
    let foreign = [&b.params(DType::F32)];
    assert!(a.plan.forward(&mut Cx::new(&Device::CPU, &foreign, &mut a.arena(DType::F32), a.key)).is_err(), "foreign parameters");
    assert!(a.plan.forward(&mut Cx::new(&Device::CPU, &sets, &mut a.arena(DType::F64), a.key)).is_err(), "f32 parameters in f64");
    assert!(a.plan.forward(&mut Cx::new(&Device::cuda(99, DType::F32), &sets, &mut a.arena(DType::F32), a.key)).is_err(), "no such device");
    let mut grads = Grads::new(&b.layout, DType::F32);
    assert!(a.plan.backward(&mut Cx::new(&Device::CPU, &sets, &mut a.arena(DType::F32), a.key), &mut grads).is_err(), "foreign gradients");
}

#[test]
fn writing_parameters_counts_versions() {
    let mut layout = Layout::builder();
    let w = layout.add("w", &[2]);
    let mut params = Params::new(&layout.finish(), DType::F32);
    let start = params.version();
    params.set(w, &random(2, 1));
    params.write::<f32, _>(|all| all[0] = 1.0);
    assert_eq!((params.version(), params.to_f64(w)[0]), (start + 2, 1.0));
}
