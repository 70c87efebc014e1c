//! Operations on rows of features: linear layers, activations, norms, residual branches, losses.

use std::sync::Arc;

use fd_compute::{Activation, Bias, Distance, DropPath, Error, Planner};

use super::{Case, Described, Fill, Size, sizes};

pub(super) fn cases(quick: bool) -> Vec<Case> {
    let mut all = vec![];
    for size in sizes(quick) {
        linear(size, &mut all);
        activations(size, &mut all);
        norms(size, &mut all);
        residual(size, &mut all);
        feature_losses(size, &mut all);
    }
    logit_losses(quick, &mut all);
    all
}

fn linear(Size { name, batch, tokens, width, .. }: Size, all: &mut Vec<Case>) {
    let tokens = [batch, tokens, width];
    let c = width;
    all.push(Case::new("linear", format!("{name}, C to 4C, bias"), &[("weight", &[4 * c, c]), ("bias", &[4 * c])], move |p, w| {
        let x = p.input(tokens);
        Ok(Described::plain(x, p.linear(x, w[0], Bias::Full(w[1]))?))
    }));
    let qkv: &[(&str, &[usize])] = &[("weight", &[3 * c, c]), ("q_bias", &[c]), ("v_bias", &[c])];
    all.push(Case::new("linear", format!("{name}, C to 3C, q and v bias"), qkv, move |p, w| {
        let x = p.input(tokens);
        Ok(Described::plain(x, p.linear(x, w[0], Bias::Qkv { q: Some(w[1]), k: None, v: Some(w[2]) })?))
    }));
    let two: &[(&str, &[usize])] = &[("weight", &[c, c]), ("other", &[c, c])];
    all.push(Case::new("linear", format!("{name}, x read twice"), two, move |p, w| {
        let x = p.input(tokens);
        let (a, b) = (p.linear(x, w[0], Bias::None)?, p.linear(x, w[1], Bias::None)?);
        Ok(Described::plain(x, p.residual(a, b, None, None)?))
    }));
}

fn activations(Size { name, batch, tokens, width, .. }: Size, all: &mut Vec<Case>) {
    let hidden = [batch, tokens, 4 * width];
    let kinds = [
        ("GELU", Activation::Gelu),
        ("quick GELU", Activation::QuickGelu),
        ("ReLU", Activation::Relu),
        ("sigmoid", Activation::Sigmoid { height: 16.0 }),
    ];
    for (kind, activation) in kinds {
        all.push(Case::new("activation", format!("{name}, {kind}"), &[], move |p, _| {
            let x = p.input(hidden);
            Ok(Described::plain(x, p.activation(x, activation)))
        }));
    }
}

fn norms(Size { name, batch, tokens, width, .. }: Size, all: &mut Vec<Case>) {
    let rows = [batch, tokens, width];
    all.push(Case::new("layer_norm", format!("{name}, affine"), &[("weight", &[width]), ("bias", &[width])], move |p, w| {
        let x = p.input(rows);
        Ok(Described::plain(x, p.layer_norm(x, Some((w[0], w[1])), 1e-6)?))
    }));
    let branch: &[(&str, &[usize])] = &[("weight", &[width]), ("bias", &[width])];
    all.push(Case::new("layer_norm", format!("{name}, in a residual branch"), branch, move |p, w| {
        let x = p.input(rows);
        let y = p.layer_norm(x, Some((w[0], w[1])), 1e-6)?;
        Ok(Described::plain(x, p.residual(x, y, None, None)?))
    }));
    all.push(Case::new("layer_norm", format!("{name}, whitening"), &[], move |p, _| {
        let x = p.input(rows);
        Ok(Described::plain(x, p.layer_norm(x, None, 1e-5)?))
    }));
    all.push(Case::new("l2_normalise", name, &[], move |p, _| {
        let x = p.input(rows);
        Ok(Described::plain(x, p.l2_normalise(x)))
    }));
    all.push(Case::new("batch_norm", name, &[], move |p, _| {
        let x = p.input([8 * batch, width]);
        let (y, mean, variance) = p.batch_norm(x, 1e-6);
        Ok(Described::plain(x, y).output("mean", mean).output("variance", variance))
    }));
}

fn residual(Size { name, batch, tokens, width, .. }: Size, all: &mut Vec<Case>) {
    let rows = [batch, tokens, width];
    let both = move |p: &mut Planner| (p.input(rows), p.input(rows));
    let described = |x, y, out| Described::plain(x, out).input("branch", y, Fill::Differentiated);
    for (kind, drop) in [("LayerScale", None), ("LayerScale, drop path", Some(DropPath { rate: 0.4, site: 3 }))] {
        all.push(Case::new("residual", format!("{name}, {kind}"), &[("gamma", &[width])], move |p, w| {
            let (x, y) = both(p);
            Ok(described(x, y, p.residual(x, y, Some(w[0]), drop)?))
        }));
    }
    all.push(Case::new("residual", format!("{name}, plain"), &[], move |p, _| {
        let (x, y) = both(p);
        Ok(described(x, y, p.residual(x, y, None, None)?))
    }));
    all.push(Case::new("constant", name, &[], move |p, _| {
        let x = p.input(rows);
        let values: Arc<[f64]> = (0..rows.iter().product::<usize>()).map(|i| (i % 17) as f64 / 8.0 - 1.0).collect();
        let constant = p.constant(rows, values)?;
        Ok(Described::plain(x, p.residual(x, constant, None, None)?))
    }));
}

fn feature_losses(Size { name, batch, tokens, width, .. }: Size, all: &mut Vec<Case>) {
    let rows = [batch, tokens, width];
    // The gradient of L1 jumps where prediction and target meet, and whitening would round on either side of it.
    let kinds = [
        ("smooth L1, whitened", Distance::SmoothL1 { beta: 2.0 }, Some(1e-5)),
        ("smooth L1", Distance::SmoothL1 { beta: 0.3 }, None),
        ("L1", Distance::L1, None),
        ("MSE, whitened", Distance::Mse, Some(1e-5)),
        ("cosine", Distance::Cosine, None),
        ("cosine, whitened", Distance::Cosine, Some(1e-5)),
    ];
    for (kind, distance, whiten) in kinds {
        all.push(Case::new("feature_loss", format!("{name}, {kind}"), &[], move |p, _| {
            let (x, target) = (p.input(rows), p.input(rows));
            let loss = p.feature_loss(x, target, distance, whiten)?;
            Ok(Described::default().input("prediction", x, Fill::Differentiated).input("target", target, Fill::Normal).output("loss", loss))
        }));
    }
    all.push(Case::new("weighted_sum", name, &[], move |p, _| {
        let (x, target) = (p.input(rows), p.input(rows));
        let (a, b) = (p.feature_loss(x, target, Distance::Mse, None)?, p.feature_loss(x, target, Distance::Cosine, None)?);
        let loss = p.weighted_sum(&[(a, 0.3), (b, 2.0)])?;
        Ok(Described::default().input("prediction", x, Fill::Differentiated).input("target", target, Fill::Normal).output("loss", loss))
    }));
}

fn logit_losses(quick: bool, all: &mut Vec<Case>) {
    for [batch, classes] in if quick { [[5, 10], [3, 37]] } else { [[128, 1000], [7, 37]] } {
        let mut case = |kind: &str, fill, loss: fn(&mut Planner, _, _) -> Result<_, Error>| {
            all.push(Case::new("logit_loss", format!("{batch} x {classes}, {kind}"), &[], move |p, _| {
                let (x, target) = (p.input([batch, classes]), p.input([batch, classes]));
                let loss = loss(p, x, target)?;
                Ok(Described::default().input("logits", x, Fill::Differentiated).input("target", target, fill).output("loss", loss))
            }));
        };
        case("cross-entropy", Fill::Probabilities, |p, x, t| p.cross_entropy(x, t));
        case("soft cross-entropy", Fill::Normal, |p, x, t| p.soft_cross_entropy(x, t, 1.0));
        case("Kullback-Leibler", Fill::Normal, |p, x, t| p.kl_divergence(x, t, 4.0));
    }
}
