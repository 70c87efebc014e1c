//! Every operation's gradient in f64 against central differences, and in f32 against f64.

mod check;

use std::sync::Arc;

use check::{Case, Described, case};
use fd_compute::{Act, Activation, Bias, DType, Distance, DropPath, Error, Param, Planner, Pooling, Scores, Span, Sparse, Windows};

fn proves(name: &str, shapes: &[&[usize]], describe: impl FnOnce(&mut Planner, &[Param]) -> Result<(Vec<Act>, Act), Error>) {
    proves_with(name, shapes, |p, w| describe(p, w).map(|(inputs, out)| (inputs, vec![], out)));
}

/// The same with inputs that are not differentiated.
fn proves_with(name: &str, shapes: &[&[usize]], describe: impl FnOnce(&mut Planner, &[Param]) -> Result<Described, Error>) {
    let case: Case = case(shapes, describe);
    let worst = case.worst();
    assert!(worst < 1e-5, "{name}: worst relative error of a gradient {worst:.1e}");
    for (single, double) in case.gradients(DType::F32).iter().zip(case.gradients(DType::F64)) {
        let off = check::off(single, &double, 1e-2);
        assert!(off < 1e-5, "{name}: f32 differs from f64 by {off:.1e}");
    }
    for (device, tolerance) in check::devices() {
        let double = case.gradients(DType::F64);
        let (_, found) = case.on_device(&device);
        for (i, (found, double)) in found.iter().zip(&double).enumerate() {
            let off = check::off(found, double, 1e-2);
            assert!(off < tolerance, "{name}: gradient {i} in {} on {device} differs from f64 by {off:.1e}", device.dtype().name());
        }
    }
}

#[test]
fn linear() {
    proves("no bias", &[&[5, 7]], |p, w| {
        let x = p.input([2, 3, 7]);
        Ok((vec![x], p.linear(x, w[0], Bias::None)?))
    });
    proves("bias", &[&[5, 7], &[5]], |p, w| {
        let x = p.input([2, 3, 7]);
        Ok((vec![x], p.linear(x, w[0], Bias::Full(w[1]))?))
    });
    proves("query and value bias", &[&[12, 7], &[4], &[4]], |p, w| {
        let x = p.input([5, 7]);
        Ok((vec![x], p.linear(x, w[0], Bias::Qkv { q: Some(w[1]), k: None, v: Some(w[2]) })?))
    });
    proves("an input read twice", &[&[7, 7], &[7, 7], &[7]], |p, w| {
        let x = p.input([4, 7]);
        let (a, b) = (p.linear(x, w[0], Bias::Full(w[2]))?, p.linear(x, w[1], Bias::Full(w[2]))?);
        Ok((vec![x], p.residual(a, b, None, None)?))
    });
}

#[test]
fn activations() {
    for kind in [Activation::Gelu, Activation::QuickGelu, Activation::Relu, Activation::Sigmoid { height: 16.0 }] {
        proves("in place", &[], |p, _| {
            let x = p.input([3, 11]);
            Ok((vec![x], p.activation(x, kind)))
        });
        proves("between layers", &[&[9, 4], &[9], &[4, 9]], |p, w| {
            let x = p.input([6, 4]);
            let h = p.linear(x, w[0], Bias::Full(w[1]))?;
            let a = p.activation(h, kind);
            Ok((vec![x], p.linear(a, w[2], Bias::None)?))
        });
        proves("an input read twice", &[], |p, _| {
            let x = p.input([3, 11]);
            let y = p.activation(x, kind);
            Ok((vec![x], p.residual(x, y, None, None)?))
        });
    }
}

#[test]
fn layer_norm() {
    for cols in [1, 7, 32, 70] {
        proves("affine", &[&[cols], &[cols]], |p, w| {
            let x = p.input([2, 3, cols]);
            Ok((vec![x], p.layer_norm(x, Some((w[0], w[1])), 0.1)?))
        });
        proves("whitening", &[], |p, _| {
            let x = p.input([4, cols]);
            Ok((vec![x], p.layer_norm(x, None, 0.1)?))
        });
    }
    proves("inside a residual branch", &[&[7], &[7]], |p, w| {
        let x = p.input([4, 7]);
        let y = p.layer_norm(x, Some((w[0], w[1])), 1e-6)?;
        Ok((vec![x], p.residual(x, y, None, None)?))
    });
    // Several tasks: more rows than one works on.
    proves_with("many rows", &[&[2], &[2]], |p, w| {
        let x = p.input([2050, 2]);
        Ok((vec![], vec![x], p.layer_norm(x, Some((w[0], w[1])), 0.5)?))
    });
}

#[test]
fn attention() {
    for (heads, n, d) in [(1, 1, 2), (2, 5, 3), (3, 33, 2)] {
        proves("with a bias", &[], |p, _| {
            let (qkv, bias) = (p.input([2, n, 3 * heads * d]), p.input([heads, n, n]));
            Ok((vec![qkv, bias], p.attention(qkv, Some(bias), heads, Scores::Scaled(0.6), Span::Whole)?))
        });
        proves("without", &[], |p, _| {
            let qkv = p.input([2, n, 3 * heads * d]);
            Ok((vec![qkv], p.attention(qkv, None, heads, Scores::Scaled(0.6), Span::Whole)?))
        });
    }
    proves("more images than groups of the bias gradient", &[], |p, _| {
        let (qkv, bias) = (p.input([19, 2, 6]), p.input([1, 2, 2]));
        Ok((vec![qkv, bias], p.attention(qkv, Some(bias), 1, Scores::Scaled(0.6), Span::Whole)?))
    });
    proves("one bias and one projection read by two blocks", &[&[18, 6]], |p, w| {
        let (x, bias) = (p.input([2, 4, 6]), p.input([2, 4, 4]));
        let qkv = p.linear(x, w[0], Bias::None)?;
        let a = p.attention(qkv, Some(bias), 2, Scores::Scaled(0.6), Span::Whole)?;
        let x2 = p.residual(x, a, None, None)?;
        let qkv2 = p.linear(x2, w[0], Bias::None)?;
        let (b, c) = (
            p.attention(qkv2, Some(bias), 2, Scores::Scaled(0.6), Span::Whole)?,
            p.attention(qkv2, None, 2, Scores::Scaled(0.3), Span::Whole)?,
        );
        Ok((vec![x, bias], p.residual(b, c, None, None)?))
    });
}

fn windows(map: (usize, usize), side: usize, shift: usize) -> Span {
    Span::Windows(Arc::new(Windows::new(map, side, shift).expect("windows that tile the map")))
}

#[test]
fn attention_in_windows() {
    // Square and rectangular maps, odd windows, shifts of one and more, one window as large as the map.
    for (map, side, shift, heads, d) in
        [((4, 4), 2, 1, 2, 3), ((3, 6), 3, 0, 1, 4), ((6, 3), 3, 1, 2, 2), ((9, 6), 3, 2, 1, 2), ((2, 2), 2, 0, 2, 3)]
    {
        let (n, tokens) = (side * side, map.0 * map.1);
        proves("windows with a bias", &[], |p, _| {
            let (qkv, bias) = (p.input([2, tokens, 3 * heads * d]), p.input([heads, n, n]));
            Ok((vec![qkv, bias], p.attention(qkv, Some(bias), heads, Scores::Scaled(0.6), windows(map, side, shift))?))
        });
        proves("windows without", &[], |p, _| {
            let qkv = p.input([2, tokens, 3 * heads * d]);
            Ok((vec![qkv], p.attention(qkv, None, heads, Scores::Scaled(0.6), windows(map, side, shift))?))
        });
        proves("windows of cosine scores", &[&[heads, 1, 1]], |p, w| {
            let (qkv, bias) = (p.input([2, tokens, 3 * heads * d]), p.input([heads, n, n]));
            Ok((vec![qkv, bias], p.attention(qkv, Some(bias), heads, Scores::Cosine(w[0]), windows(map, side, shift))?))
        });
    }
    proves("one input and one bias for a plain and a shifted block", &[&[12, 4], &[2, 1, 1]], |p, w| {
        let (x, bias) = (p.input([2, 16, 4]), p.input([2, 4, 4]));
        let qkv = p.linear(x, w[0], Bias::None)?;
        let a = p.attention(qkv, Some(bias), 2, Scores::Cosine(w[1]), windows((4, 4), 2, 0))?;
        let b = p.attention(qkv, Some(bias), 2, Scores::Cosine(w[1]), windows((4, 4), 2, 1))?;
        Ok((vec![x, bias], p.residual(a, b, None, None)?))
    });
}

#[test]
fn cosine_and_causal_attention() {
    for (heads, n, d) in [(1, 1, 2), (2, 5, 3), (3, 18, 2)] {
        proves("cosine", &[&[heads]], |p, w| {
            let qkv = p.input([2, n, 3 * heads * d]);
            Ok((vec![qkv], p.attention(qkv, None, heads, Scores::Cosine(w[0]), Span::Whole)?))
        });
        proves("causal", &[], |p, _| {
            let (qkv, bias) = (p.input([2, n, 3 * heads * d]), p.input([heads, n, n]));
            Ok((vec![qkv, bias], p.attention(qkv, Some(bias), heads, Scores::Scaled(0.6), Span::Causal)?))
        });
    }
}

#[test]
fn rows_by_index() {
    let index = |p: &mut Planner, values: &[f64], batch: usize| {
        p.constant([batch, values.len() / batch], Arc::from(values)).expect("values that fill the shape")
    };
    proves("of every sample", &[], |p, _| {
        let (x, rows) = (p.input([2, 4, 3]), index(p, &[2.0, 0.0, 2.0, 3.0, 1.0, 1.0], 2));
        Ok((vec![x], p.gather(x, rows)?))
    });
    proves("shared, and one repeated", &[], |p, _| {
        let (x, rows) = (p.input([1, 4, 3]), index(p, &[2.0, 0.0, 2.0, 3.0, 1.0, 1.0], 2));
        Ok((vec![x], p.gather(x, rows)?))
    });
    proves("of something read elsewhere", &[], |p, _| {
        let (x, rows) = (p.input([2, 3, 2]), index(p, &[2.0, 0.0, 2.0, 1.0, 1.0, 0.0], 2));
        let y = p.gather(x, rows)?;
        Ok((vec![x], p.residual(y, x, None, None)?))
    });
}

#[test]
fn maps_and_images() {
    proves("patch merging", &[&[5, 12]], |p, w| {
        let x = p.input([2, 8, 3]);
        let y = p.patch_merge(x, (4, 2))?;
        Ok((vec![x], p.linear(y, w[0], Bias::None)?))
    });
    proves("patch merging of something read elsewhere", &[], |p, _| {
        let x = p.input([2, 8, 3]);
        let (y, z) = (p.patch_merge(x, (2, 4))?, p.patch_merge(x, (4, 2))?);
        Ok((vec![x], p.residual(y, z, None, None)?))
    });
    proves("a map resized", &[], |p, _| {
        let x = p.input([3, 4, 2]);
        let m = Sparse::new(4, vec![vec![(0, 1.0)], vec![(1, 0.25), (3, 0.75)], vec![(1, 0.5), (2, 0.5)]]);
        Ok((vec![x], p.sparse(x, Arc::new(m))?))
    });
    proves("normalised in another way", &[], |p, _| {
        let x = p.input([2, 3, 2, 2]);
        Ok((vec![x], p.channel_affine(x, Arc::from([(0.5, 0.1), (2.0, -0.3), (1.0, 0.0)]))?))
    });
    proves("register tokens", &[&[1, 1, 4], &[1, 3, 4], &[1, 7, 4]], |p, w| {
        let x = p.input([2, 6, 4]);
        let (cls, registers, pos) = (p.weight(w[0])?, p.weight(w[1])?, p.weight(w[2])?);
        Ok((vec![x], p.tokens(x, Some(cls), Some(registers), Some(pos))?))
    });
    proves_with("a sum of losses", &[], |p, _| {
        let (x, t) = (p.input([2, 3]), p.input([2, 3]));
        let (a, b) = (p.feature_loss(x, t, Distance::Mse, None)?, p.feature_loss(x, t, Distance::L1, None)?);
        Ok((vec![x], vec![t], p.weighted_sum(&[(a, 0.3), (b, 2.0)])?))
    });
}

#[test]
fn residual() {
    for drop in [None, Some(DropPath { rate: 0.4, site: 3 })] {
        proves("LayerScale", &[&[6]], |p, w| {
            let (x, y) = (p.input([5, 2, 6]), p.input([5, 2, 6]));
            Ok((vec![x, y], p.residual(x, y, Some(w[0]), drop)?))
        });
        proves("plain", &[], |p, _| {
            let (x, y) = (p.input([5, 2, 6]), p.input([5, 2, 6]));
            Ok((vec![x, y], p.residual(x, y, None, drop)?))
        });
    }
}

#[test]
fn residual_branches_without_and_with_other_readers() {
    proves_with("a branch that nothing trains", &[&[6]], |p, w| {
        let (x, y) = (p.input([5, 2, 6]), p.input([5, 2, 6]));
        Ok((vec![x], vec![y], p.residual(x, y, Some(w[0]), None)?))
    });
    proves("a branch read twice", &[&[6]], |p, w| {
        let (x, y) = (p.input([5, 2, 6]), p.input([5, 2, 6]));
        let a = p.residual(x, y, Some(w[0]), None)?;
        Ok((vec![x, y], p.residual(y, a, None, None)?))
    });
    proves("the branch's later reader delivers first", &[&[6]], |p, w| {
        let (x, y) = (p.input([5, 2, 6]), p.input([5, 2, 6]));
        let a = p.residual(x, y, Some(w[0]), None)?;
        Ok((vec![x, y], p.residual(a, y, Some(w[0]), None)?))
    });
}

#[test]
fn tokens_positions_and_patches() {
    proves("CLS and positions", &[&[1, 1, 4], &[1, 7, 4]], |p, w| {
        let x = p.input([2, 6, 4]);
        let (cls, pos) = (p.weight(w[0])?, p.weight(w[1])?);
        Ok((vec![x], p.tokens(x, Some(cls), None, Some(pos))?))
    });
    proves("neither", &[], |p, _| {
        let x = p.input([2, 6, 4]);
        Ok((vec![x], p.tokens(x, None, None, None)?))
    });
    proves("interpolated positions", &[&[3, 4]], |p, w| {
        let x = p.input([2, 4, 4]);
        let m = Sparse::new(3, vec![vec![(0, 1.0)], vec![(0, 0.5), (1, 0.5)], vec![(2, -0.3), (1, 1.3)], vec![]]);
        let table = p.weight(w[0])?;
        let pos = p.sparse(table, Arc::new(m))?;
        Ok((vec![x], p.tokens(x, None, None, Some(pos))?))
    });
    proves("patches", &[&[5, 2, 2, 2]], |p, w| {
        let x = p.input([2, 2, 4, 6]);
        let patches = p.patchify(x, 2)?;
        Ok((vec![x], p.linear(patches, w[0], Bias::None)?))
    });
    proves("relative bias", &[&[5, 3]], |p, w| {
        let qkv = p.input([2, 2, 18]);
        let table = p.weight(w[0])?;
        let bias = p.relative_bias(table, Arc::from([4, 0, 2, 4]), 2)?;
        Ok((vec![qkv], p.attention(qkv, Some(bias), 3, Scores::Scaled(0.6), Span::Whole)?))
    });
}

#[test]
fn pooling() {
    for how in [Pooling::Mean { skip: 0 }, Pooling::Mean { skip: 1 }, Pooling::Token(2), Pooling::After { skip: 1 }] {
        proves("pool", &[], |p, _| {
            let x = p.input([3, 4, 5]);
            Ok((vec![x], p.pool(x, how)?))
        });
        proves("pool of something read elsewhere", &[&[5], &[5]], |p, w| {
            let x = p.input([3, 4, 5]);
            let (pooled, normed) = (p.pool(x, how)?, p.layer_norm(x, Some((w[0], w[1])), 0.1)?);
            let (a, b) = (p.l2_normalise(pooled), p.pool(normed, how)?);
            Ok((vec![x], p.residual(a, b, None, None)?))
        });
    }
}

#[test]
fn normalisation() {
    proves("unit length", &[], |p, _| {
        let x = p.input([3, 40]);
        Ok((vec![x], p.l2_normalise(x)))
    });
    proves("batch norm", &[], |p, _| {
        let x = p.input([6, 5]);
        Ok((vec![x], p.batch_norm(x, 1e-2).0))
    });
}

#[test]
fn feature_losses() {
    let distances = [Distance::SmoothL1 { beta: 2.0 }, Distance::SmoothL1 { beta: 0.3 }, Distance::L1, Distance::Mse, Distance::Cosine];
    for distance in distances {
        for whiten in [None, Some(1e-5)] {
            proves_with("feature loss", &[], |p, _| {
                let (x, t) = (p.input([2, 3, 37]), p.input([2, 3, 37]));
                Ok((vec![x], vec![t], p.feature_loss(x, t, distance, whiten)?))
            });
        }
    }
}

#[test]
fn logit_losses() {
    // Any non-negative weights: the gradient holds for masses other than 1.
    proves_with("cross-entropy", &[], |p, _| {
        let (x, t) = (p.input([4, 7]), p.input([4, 7]));
        Ok((vec![x], vec![t], p.cross_entropy(x, t)?))
    });
    for temperature in [1.0, 4.0] {
        proves_with("soft cross-entropy", &[], |p, _| {
            let (x, t) = (p.input([4, 7]), p.input([4, 7]));
            Ok((vec![x], vec![t], p.soft_cross_entropy(x, t, temperature)?))
        });
        proves_with("Kullback-Leibler", &[], |p, _| {
            let (x, t) = (p.input([4, 7]), p.input([4, 7]));
            Ok((vec![x], vec![t], p.kl_divergence(x, t, temperature)?))
        });
    }
}
