//! Each instruction set against f64, and equal bits over threads at each. One test: the level is the whole process's.

mod check;

use check::{Case, case};
use fd_compute::simd::{Level, force, level};
use fd_compute::{Activation, Bias, DType, Distance, Scores, Span};

/// Widths that fill vectors, that leave rests, and that are smaller than one.
fn network(batch: usize, tokens: usize, heads: usize, width: usize) -> Case {
    let c = heads * width;
    case(&[&[c], &[c], &[3 * c, c], &[c], &[c], &[c, c], &[c], &[5 * c, c], &[5 * c], &[c, 5 * c]], |p, w| {
        let (x, bias, target) = (p.input([batch, tokens, c]), p.input([heads, tokens, tokens]), p.input([batch, tokens, c]));
        let h = p.layer_norm(x, Some((w[0], w[1])), 1e-6)?;
        let qkv = p.linear(h, w[2], Bias::Qkv { q: Some(w[3]), k: None, v: Some(w[4]) })?;
        let a = p.attention(qkv, Some(bias), heads, Scores::Scaled((width as f64).powf(-0.5)), Span::Whole)?;
        let a = p.linear(a, w[5], Bias::None)?;
        let x1 = p.residual(x, a, Some(w[6]), None)?;
        let h = p.linear(x1, w[7], Bias::Full(w[8]))?;
        let h = p.activation(h, Activation::Gelu);
        let y = p.linear(h, w[9], Bias::None)?;
        let y = p.residual(x1, y, None, None)?;
        let loss = p.feature_loss(y, target, Distance::SmoothL1 { beta: 2.0 }, Some(1e-5))?;
        Ok((vec![x, bias], vec![target], loss))
    })
}

#[test]
fn every_level_agrees_with_f64_and_repeats_over_threads() {
    let highest = level();
    for (batch, tokens, heads, width) in [(2, 17, 3, 16), (1, 1, 1, 1), (3, 50, 2, 5), (2, 33, 4, 32), (5, 7, 1, 37)] {
        let network = network(batch, tokens, heads, width);
        let expected = network.gradients(DType::F64);
        for level in Level::available() {
            assert!(force(level));
            let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            let found = pool(1).install(|| network.gradients(DType::F32));
            assert_eq!(found, pool(3).install(|| network.gradients(DType::F32)), "{level:?}: 1 and 3 threads");
            for (found, expected) in found.iter().zip(&expected) {
                let off = check::off(found, expected, 1e-4);
                assert!(off < 1e-5, "{level:?}, {batch} x {tokens} x {heads} x {width}: off by {off:.1e}");
            }
        }
    }
    assert!(force(highest));
    println!("levels run: {:?}", Level::available());
}
