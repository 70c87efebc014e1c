//! Operations that move rows (patches, tokens, maps, tables) on a device against the processor in f64: widths that vectors of 16 bytes fit
//! and widths they do not, several images, gradients that are set and added. Numbers are ones that bf16 holds, so that little is left to
//! rounding. Does nothing unless `FD_TEST_CUDA` says that there is a device.

mod check;

use std::sync::Arc;

use fd_compute::{Act, Arena, Cx, DType, Device, Error, Grads, Layout, Params, Planner, Pooling, Shape, Sparse, StepKey};

type Describe<'a> = dyn Fn(&mut Planner, &[fd_compute::Param]) -> Result<Described, Error> + 'a;

/// Inputs with their values (differentiated: those before the number), and outputs.
struct Described {
    inputs: Vec<(Act, Vec<f64>)>,
    differentiated: usize,
    outputs: Vec<Act>,
}

/// Random numbers of eight bits.
fn numbers(n: usize, key: u64) -> Vec<f64> {
    check::random(n, key).iter().map(|x| f64::from(f32::from_bits((*x as f32).to_bits() & 0xffff_0000))).collect()
}

/// An input of such numbers.
fn input(p: &mut Planner, shape: impl Into<Shape>, key: u64) -> (Act, Vec<f64>) {
    let act = p.input(shape);
    (act, numbers(p.shape(act).len(), key))
}

/// Outputs, then gradients, of three runs that give the same bits.
fn run(device: &Device, describe: &Describe<'_>, shapes: &[&[usize]]) -> Vec<Vec<f64>> {
    let mut builder = Layout::builder();
    let weights: Vec<_> = shapes.iter().enumerate().map(|(i, s)| builder.add(format!("p{i}"), s)).collect();
    let layout = builder.finish();
    let mut p = Planner::new();
    p.train(&layout);
    let d = describe(&mut p, &weights).expect("a valid description");
    d.inputs[..d.differentiated].iter().for_each(|(act, _)| p.want_grad(*act));
    d.outputs.iter().for_each(|act| p.leaf(*act));
    let plan = p.finish().expect("a plan");

    let dtype = if device.cuda_ordinal().is_some() { DType::F32 } else { DType::F64 };
    let mut params = Params::new(&layout, dtype);
    weights.iter().zip(50..).for_each(|(w, key)| params.set(*w, &numbers(layout.shape(*w).iter().product(), key)));
    let mut grads = Grads::new(&layout, dtype);
    let mut arena = match dtype {
        DType::F64 => Arena::new(&plan, dtype),
        _ => Arena::on(device, &plan).expect("memory on the device"),
    };
    arena.poison();
    let mut found: Option<Vec<Vec<f64>>> = None;
    for turn in 0..3 {
        d.inputs.iter().for_each(|(act, values)| arena.write_f64(*act, values));
        grads.reset();
        let sets = [&params];
        plan.forward(&mut Cx::new(device, &sets, &mut arena, StepKey::default())).expect("forward");
        let outputs: Vec<_> = d.outputs.iter().map(|act| arena.to_f64(*act)).collect();
        for (act, key) in d.outputs.iter().zip(90..) {
            let values = numbers(plan.shape(*act).len(), key);
            match dtype {
                DType::F64 => arena.grad_mut::<f64>(*act).copy_from_slice(&values),
                _ => arena.grad_mut::<f32>(*act).iter_mut().zip(&values).for_each(|(to, from)| *to = *from as f32),
            }
        }
        plan.backward(&mut Cx::new(device, &sets, &mut arena, StepKey::default()), &mut grads).expect("backward");
        let of_inputs = d.inputs[..d.differentiated].iter().map(|(act, _)| arena.grad_to_f64(*act));
        let all: Vec<_> = outputs.into_iter().chain(of_inputs).chain(weights.iter().map(|w| grads.to_f64(*w))).collect();
        let bits = |all: &[Vec<f64>]| all.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(found.as_ref().is_none_or(|first| bits(first) == bits(&all)), "run {turn} differs from the first");
        found.get_or_insert(all);
    }
    found.expect("three runs")
}

fn same(name: &str, describe: impl Fn(&mut Planner) -> Result<Described, Error>) {
    same_with(name, &[], |p, _| describe(p));
}

/// The same with trained parameters of these shapes.
fn same_with(name: &str, shapes: &[&[usize]], describe: impl Fn(&mut Planner, &[fd_compute::Param]) -> Result<Described, Error>) {
    let devices = check::devices();
    if devices.is_empty() {
        return;
    }
    let expected = run(&Device::CPU, &describe, shapes);
    for (device, _) in devices {
        // A number is rounded when it is stored, and once more when something is added to it.
        let tolerance = if device.dtype() == DType::Bf16 { 8e-3 } else { 1e-6 };
        for (i, (found, expected)) in run(&device, &describe, shapes).iter().zip(&expected).enumerate() {
            assert_eq!(found.len(), expected.len());
            let scale = expected.iter().filter(|x| x.is_finite()).fold(1e-2f64, |m, x| m.max(x.abs()));
            let off = |(a, b): (&f64, &f64)| if a.is_nan() && b.is_nan() { 0.0 } else { (a - b).abs() / scale };
            let worst = found.iter().zip(expected).map(off).fold(0.0, |m: f64, x| if m.is_nan() || x <= m { m } else { x });
            assert!(worst <= tolerance, "{name}: number {i} in {} is off by {worst:.1e}", device.dtype().name());
        }
    }
}

#[test]
fn patches_of_images() {
    for (images, size, patch, other) in [(3, (32, 48), 16, 8), (2, (6, 12), 3, 2), (2, (8, 8), 1, 4)] {
        same(&format!("patches of {patch} and {other}"), |p| {
            let x = input(p, [images, 3, size.0, size.1], 1);
            let outputs = vec![p.patchify(x.0, patch)?, p.patchify(x.0, other)?];
            Ok(Described { inputs: vec![x], differentiated: 1, outputs })
        });
    }
}

#[test]
fn channels_of_images() {
    for (channels, size) in [(3, (112, 96)), (2, (100, 100)), (5, (7, 7)), (147, (1, 24))] {
        same("channels", |p| {
            let x = input(p, [2, channels, size.0, size.1], 1);
            let pairs = |key| numbers(2 * channels, key).chunks(2).map(|c| (c[0], c[1])).collect::<Arc<[_]>>();
            let outputs = vec![p.channel_affine(x.0, pairs(7))?, p.channel_affine(x.0, pairs(8))?];
            Ok(Described { inputs: vec![x], differentiated: 1, outputs })
        });
    }
}

#[test]
fn merged_patches() {
    for cols in [1, 5, 96, 768] {
        same(&format!("merged patches of {cols}"), |p| {
            let x = input(p, [3, 24, cols], 1);
            let outputs = vec![p.patch_merge(x.0, (4, 6))?, p.patch_merge(x.0, (12, 2))?];
            Ok(Described { inputs: vec![x], differentiated: 1, outputs })
        });
    }
}

/// An index [batch, picked] of rows below `rows`, of which about a part is `common`.
fn index(p: &mut Planner, (batch, picked): (usize, usize), rows: usize, common: f64, key: u64) -> (Act, Vec<f64>) {
    let draw = check::random(2 * batch * picked, key);
    let of = |pair: &[f64]| if (pair[0] * 97.0).rem_euclid(1.0) < common { 1.0 } else { (pair[1] * 971.0).rem_euclid(rows as f64).floor() };
    (p.input([batch, picked]), draw.chunks(2).map(of).collect())
}

#[test]
fn rows_by_index() {
    for (batch, rows, picked, cols, common) in
        [(3, 197, 49, 768, 0.0), (3, 50, 197, 64, 0.75), (2, 5, 70, 7, 0.5), (2, 9, 300, 1, 0.9), (1, 3, 2000, 260, 0.4)]
    {
        let name = format!("{picked} of {rows} rows of {cols}");
        same(&name, |p| {
            let (x, i, j) =
                (input(p, [batch, rows, cols], 1), index(p, (batch, picked), rows, common, 2), index(p, (batch, 4), rows, 0.0, 3));
            let outputs = vec![p.gather(x.0, i.0)?, p.gather(x.0, j.0)?];
            Ok(Described { inputs: vec![x, i, j], differentiated: 1, outputs })
        });
        same(&format!("{name}, shared"), |p| {
            let (x, i) = (input(p, [1, rows, cols], 1), index(p, (batch, picked), rows, common, 2));
            let outputs = vec![p.gather(x.0, i.0)?];
            Ok(Described { inputs: vec![x, i], differentiated: 1, outputs })
        });
    }
    for cols in [512, 7] {
        // In bf16 the vocabulary stays f32, and what is looked up does not.
        same_with(&format!("a vocabulary of {cols}"), &[&[50, cols]], |p, w| {
            let (i, x) = (index(p, (4, 77), 50, 0.6, 2), input(p, [4, 77, cols], 3));
            let table = p.weight_as(w[0], [1, 50, cols])?;
            let words = p.gather(table, i.0)?;
            let outputs = vec![words, p.tokens(x.0, None, None, None)?];
            Ok(Described { inputs: vec![x, i], differentiated: 1, outputs })
        });
    }
    same("an index that names no row", |p| {
        let x = input(p, [2, 4, 16], 1);
        let i = (p.input([2, 5]), vec![0.0, 4.0, -1.0, f64::NAN, 3.0, 1e9, -0.5, 2.0, 2.0, 1.0]);
        let outputs = vec![p.gather(x.0, i.0)?];
        Ok(Described { inputs: vec![x, i], differentiated: 1, outputs })
    });
}

#[test]
fn tokens_around_patches() {
    for (batch, patches, registers, cols) in [(19, 9, 2, 768), (9, 4, 0, 5), (2, 6, 3, 264), (1, 1, 1, 1), (3, 2, 1, 70)] {
        same(&format!("tokens of {cols}"), |p| {
            let (x, cls, pos) = (input(p, [batch, patches, cols], 1), input(p, [1, 1, cols], 2), input(p, [1, patches + 1, cols], 4));
            let mut inputs = vec![x, cls, pos];
            if registers > 0 {
                inputs.push(input(p, [1, registers, cols], 3));
            }
            let (x, cls, pos, reg) = (inputs[0].0, inputs[1].0, inputs[2].0, inputs.get(3).map(|r| r.0));
            let all = p.tokens(x, Some(cls), reg, Some(pos))?;
            let outputs = vec![all, p.tokens(x, Some(cls), None, None)?, p.tokens(x, None, reg, None)?, p.tokens(x, None, None, None)?];
            Ok(Described { differentiated: inputs.len(), inputs, outputs })
        });
    }
}

#[test]
fn fewer_tokens() {
    for (tokens, cols) in [(37, 768), (5, 7), (197, 70), (2, 1)] {
        same(&format!("{tokens} tokens of {cols}"), |p| {
            let x = input(p, [3, tokens, cols], 1);
            let how = [
                Pooling::Mean { skip: 0 },
                Pooling::Mean { skip: 1 },
                Pooling::Token(0),
                Pooling::Token(tokens - 1),
                Pooling::After { skip: 1 },
            ];
            let outputs = how.into_iter().map(|how| p.pool(x.0, how)).collect::<Result<_, _>>()?;
            Ok(Described { inputs: vec![x], differentiated: 1, outputs })
        });
        for how in [Pooling::Mean { skip: 1 }, Pooling::Token(1), Pooling::After { skip: 1 }] {
            same(&format!("{how:?} of {tokens} tokens of {cols}"), |p| {
                let x = input(p, [3, tokens, cols], 1);
                let outputs = vec![p.pool(x.0, how)?];
                Ok(Described { inputs: vec![x], differentiated: 1, outputs })
            });
        }
    }
}

#[test]
fn sparse_maps() {
    let matrix = |inputs: usize, outputs: usize, key: u64| {
        let draw = check::random(outputs * 8, key);
        let row = |r: usize| {
            let pair = |i: usize| {
                let x = draw[r * 8 + i];
                (((x * 97.0).rem_euclid(inputs as f64)) as u32, f64::from(x as f32))
            };
            (0..r % 4).map(pair).collect()
        };
        Arc::new(Sparse::new(inputs, (0..outputs).map(row).collect()))
    };
    for cols in [1, 7, 96, 768] {
        same(&format!("a sparse matrix over rows of {cols}"), |p| {
            let (x, y) = (input(p, [3, 11, cols], 1), input(p, [11, cols], 2));
            let outputs = vec![p.sparse(x.0, matrix(11, 17, 3))?, p.sparse(x.0, matrix(11, 6, 4))?, p.sparse(y.0, matrix(11, 5, 5))?];
            Ok(Described { inputs: vec![x, y], differentiated: 2, outputs })
        });
    }
    same("an empty matrix", |p| {
        let x = input(p, [2, 3, 8], 1);
        let outputs = vec![p.sparse(x.0, Arc::new(Sparse::new(3, vec![vec![]; 4])))?];
        Ok(Described { inputs: vec![x], differentiated: 1, outputs })
    });
}

#[test]
fn biases_of_relative_positions() {
    for (tokens, rows, heads) in [(14, 20, 3), (1, 1, 1), (50, 9, 12)] {
        same(&format!("a bias of {rows} rows for {tokens} tokens"), |p| {
            let table = input(p, [rows, heads], 1);
            let index: Vec<u32> = check::random(tokens * tokens, 2).iter().map(|x| (x * 97.0).rem_euclid(rows as f64) as u32).collect();
            let other: Vec<u32> = index.iter().rev().copied().collect();
            let outputs = vec![p.relative_bias(table.0, index.into(), tokens)?, p.relative_bias(table.0, other.into(), tokens)?];
            Ok(Described { inputs: vec![table], differentiated: 1, outputs })
        });
    }
}
