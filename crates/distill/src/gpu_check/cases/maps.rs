//! Operations on images, maps and lists of tokens: patches, positions, gathers, pooling, merging, resizing.

use std::sync::Arc;

use fd_compute::{Pooling, Scores, Span};
use fd_model::{bilinear, relative_index};

use super::{Case, Described, Fill};

pub(super) fn cases(quick: bool) -> Vec<Case> {
    let mut all = vec![];
    images(quick, &mut all);
    tokens(quick, &mut all);
    positions(quick, &mut all);
    gathers(quick, &mut all);
    resized(quick, &mut all);
    all
}

fn images(quick: bool, all: &mut Vec<Case>) {
    // Batch, channels, height, width, patch.
    let shapes: &[[usize; 5]] =
        if quick { &[[2, 3, 8, 12, 4], [3, 1, 6, 6, 3]] } else { &[[2, 3, 224, 224, 16], [2, 3, 224, 224, 14], [2, 3, 56, 84, 7]] };
    for &[b, c, h, w, patch] in shapes {
        all.push(Case::new("patchify", format!("{h} x {w}, patch {patch}"), &[], move |p, _| {
            let x = p.input([b, c, h, w]);
            Ok(Described::plain(x, p.patchify(x, patch)?))
        }));
        all.push(Case::new("channel_affine", format!("{h} x {w}, {c} channels, batch {b}, patch {patch}"), &[], move |p, _| {
            let x = p.input([b, c, h, w]);
            let pairs: Arc<[(f64, f64)]> = (0..c).map(|i| (0.8 + 0.3 * i as f64, 0.1 - 0.2 * i as f64)).collect();
            Ok(Described::plain(x, p.channel_affine(x, pairs)?))
        }));
    }
}

fn tokens(quick: bool, all: &mut Vec<Case>) {
    // Batch, patches, width, registers.
    let shapes: &[[usize; 4]] = if quick { &[[2, 6, 20, 3]] } else { &[[3, 196, 768, 4], [2, 256, 1024, 4], [3, 35, 70, 3]] };
    for &[b, n, c, registers] in shapes {
        let params: &[(&str, &[usize])] = &[("cls_token", &[1, 1, c]), ("registers", &[1, registers, c]), ("pos_embed", &[1, n + 1, c])];
        all.push(Case::new("tokens", format!("CLS, registers, positions, {n} x {c}"), params, move |p, w| {
            let x = p.input([b, n, c]);
            let (cls, registers, pos) = (p.weight(w[0])?, p.weight(w[1])?, p.weight(w[2])?);
            Ok(Described::plain(x, p.tokens(x, Some(cls), Some(registers), Some(pos))?))
        }));
        all.push(Case::new("tokens", format!("positions alone, {n} x {c}"), &[("pos_embed", &[1, n, c])], move |p, w| {
            let x = p.input([b, n, c]);
            let pos = p.weight(w[0])?;
            Ok(Described::plain(x, p.tokens(x, None, None, Some(pos))?))
        }));
        all.push(Case::new("weight", format!("{n} x {c}"), &[("pos_embed", &[1, n, c])], move |p, w| {
            Ok(Described::default().output("value", p.weight(w[0])?))
        }));
        for (kind, how) in [
            ("mean", Pooling::Mean { skip: 0 }),
            ("mean of patches", Pooling::Mean { skip: 1 }),
            ("CLS", Pooling::Token(0)),
            ("patches", Pooling::After { skip: 1 }),
        ] {
            all.push(Case::new("pool", format!("{kind}, {n} x {c}"), &[], move |p, _| {
                let x = p.input([b, n + 1, c]);
                Ok(Described::plain(x, p.pool(x, how)?))
            }));
        }
    }
}

fn positions(quick: bool, all: &mut Vec<Case>) {
    // Side of the grid, heads, CLS token.
    let shapes: &[(usize, usize, bool)] = if quick { &[(3, 2, true)] } else { &[(14, 12, true), (16, 16, true), (7, 4, false)] };
    for &(side, heads, cls) in shapes {
        let n = side * side + usize::from(cls);
        let rows = (2 * side - 1).pow(2) + if cls { 3 } else { 0 };
        let table: &[(&str, &[usize])] = &[("table", &[rows, heads])];
        all.push(Case::new("relative_bias", format!("{n} tokens, {heads} heads"), table, move |p, w| {
            let table = p.weight(w[0])?;
            Ok(Described::default().output("bias", p.relative_bias(table, relative_index((side, side), cls).into(), n)?))
        }));
        all.push(Case::new("relative_bias", format!("{n} tokens, {heads} heads, in attention"), table, move |p, w| {
            let (x, table) = (p.input([2, n, 3 * heads * 32]), p.weight(w[0])?);
            let bias = p.relative_bias(table, relative_index((side, side), cls).into(), n)?;
            Ok(Described::plain(x, p.attention(x, Some(bias), heads, Scores::Scaled(0.18), Span::Whole)?))
        }));
    }
}

fn gathers(quick: bool, all: &mut Vec<Case>) {
    // Batch, rows, picked, width: MAE's visible patches, its decoder's order, words.
    let shapes: &[(&str, [usize; 4], bool)] = if quick {
        &[("MAE encoder", [2, 9, 3, 20], false), ("words", [2, 11, 5, 12], true)]
    } else {
        &[
            ("MAE encoder", [4, 196, 49, 768], false),
            ("MAE decoder", [4, 197, 196, 512], false),
            ("words", [4, 1000, 77, 512], true),
            ("odd", [3, 37, 19, 70], false),
        ]
    };
    for &(name, [b, rows, picked, c], shared) in shapes {
        all.push(Case::new("gather", format!("{name}, {picked} of {rows}"), &[], move |p, _| {
            let (x, index) = (p.input([if shared { 1 } else { b }, rows, c]), p.input([b, picked]));
            Ok(Described::plain(x, p.gather(x, index)?).input("index", index, Fill::Index(rows)))
        }));
    }
}

fn resized(quick: bool, all: &mut Vec<Case>) {
    // Batch, grid of the map, width, grid that it gets.
    type Grid = (usize, usize);
    let shapes: &[(usize, Grid, usize, Grid)] = if quick {
        &[(2, (4, 6), 10, (3, 3))]
    } else {
        &[(3, (14, 14), 768, (7, 7)), (2, (16, 16), 1024, (14, 14)), (3, (6, 4), 70, (5, 7))]
    };
    for &(b, from, c, to) in shapes {
        all.push(Case::new("sparse", format!("{}x{} to {}x{}", from.0, from.1, to.0, to.1), &[], move |p, _| {
            let x = p.input([b, 1 + from.0 * from.1, c]);
            Ok(Described::plain(x, p.sparse(x, Arc::new(bilinear(from, to, 1)))?))
        }));
        let params: &[(&str, &[usize])] = &[("pos_embed", &[1, from.0 * from.1, c])];
        all.push(Case::new("sparse", format!("positions, {}x{} to {}x{}", from.0, from.1, to.0, to.1), params, move |p, w| {
            let (x, table) = (p.input([b, to.0 * to.1, c]), p.weight(w[0])?);
            let pos = p.sparse(table, Arc::new(bilinear(from, to, 0)))?;
            Ok(Described::plain(x, p.tokens(x, None, None, Some(pos))?))
        }));
    }
    let merged: &[[usize; 4]] = if quick { &[[2, 4, 6, 5]] } else { &[[2, 56, 56, 128], [2, 14, 14, 512], [3, 6, 10, 35]] };
    for &[b, h, w, c] in merged {
        all.push(Case::new("patch_merge", format!("{h} x {w} x {c}"), &[], move |p, _| {
            let x = p.input([b, h * w, c]);
            Ok(Described::plain(x, p.patch_merge(x, (h, w))?))
        }));
    }
}
