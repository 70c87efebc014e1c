//! Attention: whole (ViT), causal (text), in windows with and without a shift (Swin), of cosines (Swin v2).

use std::sync::Arc;

use fd_compute::{Bias, Scores, Span, Windows};

use super::{Case, Described, Fill, Size, sizes};

pub(super) fn cases(quick: bool) -> Vec<Case> {
    let mut all = vec![];
    for size in sizes(quick) {
        whole(size, &mut all);
    }
    // Batch, side of the map, side of the windows, shift, heads of 32.
    let windows: &[(usize, usize, usize, usize, usize)] = if quick {
        &[(2, 6, 3, 0, 1), (2, 6, 3, 1, 2)]
    } else {
        &[(2, 28, 7, 0, 4), (2, 28, 7, 3, 4), (2, 24, 12, 0, 4), (2, 24, 12, 6, 8), (4, 7, 7, 0, 24), (3, 15, 5, 2, 3)]
    };
    for &shape in windows {
        in_windows(shape, &mut all);
    }
    let [batch, tokens, heads, head_dim] = if quick { [2, 9, 2, 16] } else { [4, 77, 8, 64] };
    let qkv = [batch, tokens, 3 * heads * head_dim];
    all.push(Case::new("attention", format!("causal, {tokens} tokens"), &[], move |p, _| {
        let x = p.input(qkv);
        Ok(Described::plain(x, p.attention(x, None, heads, Scores::Scaled(scale(head_dim)), Span::Causal)?))
    }));
    all
}

fn scale(head_dim: usize) -> f64 {
    (head_dim as f64).powf(-0.5)
}

fn whole(Size { name, batch, tokens, width, heads }: Size, all: &mut Vec<Case>) {
    let (qkv, square) = ([batch, tokens, 3 * width], [heads, tokens, tokens]);
    let scores = Scores::Scaled(scale(width / heads));
    let with_bias = |x, bias, y| Described::plain(x, y).input("bias", bias, Fill::Differentiated);
    all.push(Case::new("attention", format!("{name}, bias"), &[], move |p, _| {
        let (x, bias) = (p.input(qkv), p.input(square));
        Ok(with_bias(x, bias, p.attention(x, Some(bias), heads, scores, Span::Whole)?))
    }));
    all.push(Case::new("attention", format!("{name}, no bias"), &[], move |p, _| {
        let x = p.input(qkv);
        Ok(Described::plain(x, p.attention(x, None, heads, scores, Span::Whole)?))
    }));
    all.push(Case::new("attention", format!("{name}, a bias read twice"), &[("weight", &[3 * width, width])], move |p, w| {
        let (x, bias) = (p.input(qkv), p.input(square));
        let a = p.attention(x, Some(bias), heads, scores, Span::Whole)?;
        let again = p.linear(a, w[0], Bias::None)?;
        let b = p.attention(again, Some(bias), heads, scores, Span::Whole)?;
        Ok(with_bias(x, bias, p.residual(a, b, None, None)?))
    }));
    all.push(Case::new("attention", format!("{name}, cosine"), &[("logit_scale", &[heads, 1, 1])], move |p, w| {
        let x = p.input(qkv);
        Ok(Described::plain(x, p.attention(x, None, heads, Scores::Cosine(w[0]), Span::Whole)?))
    }));
    all.push(Case::new("attention_map", format!("{name}, bias"), &[], move |p, _| {
        let (x, bias) = (p.input(qkv), p.input(square));
        let y = p.attention(x, Some(bias), heads, scores, Span::Whole)?;
        let map = p.attention_map(x, Some(bias), heads, scores, Span::Whole)?;
        Ok(with_bias(x, bias, y).output("probabilities", map))
    }));
}

fn in_windows((batch, map, side, shift, heads): (usize, usize, usize, usize, usize), all: &mut Vec<Case>) {
    let (tokens, n, width) = (map * map, side * side, 32 * heads);
    let (qkv, square) = ([batch, tokens, 3 * width], [heads, n, n]);
    // Windows that do not tile the map would be a mistake in the table above: a test builds every case.
    let span = move || Windows::new((map, map), side, shift).map(|w| Span::Windows(Arc::new(w)));
    let with_bias = |x, bias, y| Described::plain(x, y).input("bias", bias, Fill::Differentiated);
    let name = format!("windows of {side}, shift {shift}, {heads} heads");
    all.push(Case::new("attention", name.clone(), &[], move |p, _| {
        let (x, bias) = (p.input(qkv), p.input(square));
        Ok(with_bias(x, bias, p.attention(x, Some(bias), heads, Scores::Scaled(scale(32)), span()?)?))
    }));
    all.push(Case::new("attention", format!("{name}, cosine"), &[("logit_scale", &[heads, 1, 1])], move |p, w| {
        let (x, bias) = (p.input(qkv), p.input(square));
        Ok(with_bias(x, bias, p.attention(x, Some(bias), heads, Scores::Cosine(w[0]), span()?)?))
    }));
    all.push(Case::new("attention_map", name, &[], move |p, _| {
        let (x, bias) = (p.input(qkv), p.input(square));
        let y = p.attention(x, Some(bias), heads, Scores::Scaled(scale(32)), span()?)?;
        let map = p.attention_map(x, Some(bias), heads, Scores::Scaled(scale(32)), span()?)?;
        Ok(with_bias(x, bias, y).output("probabilities", map))
    }));
}
