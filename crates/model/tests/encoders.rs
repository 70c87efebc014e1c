//! DINOv2, CLIP, MAE and the wide projector: central differences in f64, what they compute by hand, what they refuse.

#[allow(dead_code, reason = "what this test does not use of it, another does")]
mod support;

use std::collections::HashSet;

use fd_compute::{DType, Layout, Planner};
use fd_model::names::Naming;
use fd_model::{
    Activation, Head, Mae, MaeConfig, Mask, Model, ModelConfig, Position, TextConfig, TextEncoder, VitConfig, WideBlock, preset,
    random_mask,
};
use support::{BATCH, Case, Found, Input, case, encoder, encoder_of, random, refusal};

fn tiny() -> VitConfig {
    VitConfig { img_size: (4, 6), patch_size: 2, in_chans: 2, embed_dim: 4, depth: 2, num_heads: 2, mlp_ratio: 2.0, ..VitConfig::default() }
}

fn clip() -> VitConfig {
    VitConfig { activation: Activation::QuickGelu, ln_eps: 1e-5, pre_norm: true, patch_bias: false, proj_dim: Some(3), ..tiny() }
}

fn dinov2() -> VitConfig {
    VitConfig { layer_scale: Some(1e-5), reg_tokens: 2, interpolate_offset: 0.1, ..tiny() }
}

#[test]
fn encoders_of_other_families_equal_central_differences() {
    let cases = [
        ("registers", dinov2()),
        ("registers without a CLS token", VitConfig { cls_token: false, ..dinov2() }),
        ("registers and a mean", VitConfig { head: Head::MeanPool, num_classes: 3, ..dinov2() }),
        ("CLIP", clip()),
        ("sine and cosine", VitConfig { position: Position::SinCos, ..tiny() }),
        ("sine and cosine without a CLS token", VitConfig { position: Position::SinCos, cls_token: false, ..tiny() }),
    ];
    for (name, config) in cases {
        encoder(&config.into()).equals_central_differences(name);
    }
    for (name, config) in [("registers", dinov2()), ("sine and cosine", VitConfig { position: Position::SinCos, ..tiny() })] {
        let case = encoder_of(&config.into(), (6, 4), false).expect("another image size");
        case.equals_central_differences(&format!("{name} on another grid"));
    }
}

#[test]
fn registers_are_seen_and_not_handed_out() {
    let [with, without] = [2, 0].map(|reg_tokens| encoder(&VitConfig { reg_tokens, ..dinov2() }.into()));
    assert_eq!(with.plan.shape(with.outputs[0]).dims(), [BATCH, 7, 4]);
    assert_eq!(with.plan.shape(with.outputs[0]), without.plan.shape(without.outputs[0]));
    let found = with.run(DType::F64);
    assert!(found.params["reg_token"].iter().all(|g| *g != 0.0));
}

#[test]
fn clips_parameters_have_names_of_their_own_there() {
    let Ok(ModelConfig::Vit(full)) = preset("clip-vit-b-16") else { panic!("a ViT") };
    let config = VitConfig { img_size: (32, 32), embed_dim: 16, depth: 3, num_heads: 2, proj_dim: Some(8), ..full };
    let mut layout = Layout::builder();
    Model::declare(&config.into(), &mut layout, "").expect("a model");
    let layout = layout.finish();
    let of = |name: &str| Naming::Clip.of(name).unwrap_or_else(|| panic!("{name} has no name in CLIP")).name();
    let theirs: HashSet<String> = layout.iter().map(|p| of(layout.name(p))).collect();
    assert_eq!(theirs.len(), layout.iter().len(), "two parameters of one name");
}

const PATCHES: usize = 6;

/// What is masked of every image of a batch.
fn masks(cls: bool, config: &MaeConfig, step: u64) -> Vec<Mask> {
    (0..BATCH as u64).map(|sample| random_mask(PATCHES, config.visible(PATCHES), cls, &[7, step, sample])).collect()
}

fn tiny_mae(norm_pix: Option<f64>) -> MaeConfig {
    MaeConfig { mask_ratio: 0.5, decoder_embed_dim: 4, decoder_depth: 1, decoder_num_heads: 2, decoder_mlp_ratio: 2.0, norm_pix }
}

/// An autoencoder whose only output is its loss; the prediction is kept beside it.
fn autoencoder(config: &MaeConfig, encoder: &VitConfig, step: u64) -> (Case, fd_compute::Act) {
    let mut prediction = None;
    let declare = |layout: &mut _| Mae::declare(config, encoder, layout, "");
    let built = case(declare, |mae, p| {
        let images = p.input([BATCH, encoder.in_chans, encoder.img_size.0, encoder.img_size.1]);
        let pass = mae.plan(p, images)?;
        p.keep(pass.prediction);
        prediction = Some(pass.prediction);
        let masks = masks(encoder.cls_token, config, step);
        let all = |of: fn(&Mask) -> &Vec<u32>| masks.iter().flat_map(of).map(|i| f64::from(*i)).collect::<Vec<_>>();
        let pixels = random(p.shape(images).len(), 1);
        // The images are the target too, which has no gradient: theirs would not be the loss's.
        let inputs = vec![
            Input::fixed(images, pixels),
            Input::fixed(pass.visible, all(|m| &m.visible)),
            Input::fixed(pass.restore, all(|m| &m.restore)),
            Input::fixed(pass.masked, all(|m| &m.masked)),
        ];
        Ok((inputs, vec![pass.loss]))
    });
    (built.expect("an autoencoder"), prediction.expect("described"))
}

fn sin_cos_encoder(cls_token: bool) -> VitConfig {
    VitConfig { position: Position::SinCos, cls_token, ..tiny() }
}

#[test]
fn autoencoders_equal_central_differences() {
    for (name, encoder, norm_pix) in [
        ("as published", sin_cos_encoder(true), Some(1e-6)),
        ("pixels as they are, no CLS token", sin_cos_encoder(false), None),
        ("learned positions", tiny(), Some(1e-6)),
    ] {
        autoencoder(&tiny_mae(norm_pix), &encoder, 0).0.equals_central_differences(name);
    }
}

/// Pixels of a patch in the order (channel, row, column), from an image batch [B, C, H, W].
fn patch(images: &[f64], config: &VitConfig, image: usize, index: usize) -> Vec<f64> {
    let ((h, w), side) = (config.img_size, config.patch_size);
    let (top, left) = (index / (w / side) * side, index % (w / side) * side);
    let pixel = |c: usize, i: usize| images[((image * config.in_chans + c) * h + top + i / side) * w + left + i % side];
    (0..config.in_chans).flat_map(|c| (0..side * side).map(move |i| (c, i))).map(|(c, i)| pixel(c, i)).collect()
}

#[test]
fn an_autoencoders_loss_by_hand() {
    for norm_pix in [None, Some(1e-6), Some(0.3)] {
        for cls in [true, false] {
            let (config, encoder) = (tiny_mae(norm_pix), sin_cos_encoder(cls));
            let (case, prediction) = autoencoder(&config, &encoder, 0);
            let mut arena = case.arena(DType::F64);
            let loss = case.forward(&case.params, &mut arena);
            let (predicted, images) = (arena.to_f64(prediction), &case.inputs[0].values);
            let (pixels, mut squares) = (encoder.in_chans * encoder.patch_size.pow(2), vec![]);
            for (image, mask) in masks(cls, &config, 0).iter().enumerate() {
                for &masked in &mask.masked {
                    let target = patch(images, &encoder, image, masked as usize);
                    let mean = target.iter().sum::<f64>() / pixels as f64;
                    let variance = target.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (pixels - 1) as f64;
                    let (shift, scale) = norm_pix.map_or((0.0, 1.0), |eps| (mean, (variance + eps).sqrt()));
                    let found = &predicted[(image * PATCHES + masked as usize) * pixels..][..pixels];
                    squares.extend(found.iter().zip(&target).map(|(f, t)| (f - (t - shift) / scale).powi(2)));
                }
            }
            assert_eq!(squares.len(), BATCH * PATCHES / 2 * pixels);
            let expected = squares.iter().sum::<f64>() / squares.len() as f64;
            assert!((loss / expected - 1.0).abs() < 1e-12, "{norm_pix:?}, CLS {cls}: {loss}, by hand {expected}");
        }
    }
}

#[test]
fn what_is_masked_matters_and_is_not_seen() {
    let (config, encoder) = (tiny_mae(None), sin_cos_encoder(true));
    let losses: HashSet<u64> = (0..4).map(|step| autoencoder(&config, &encoder, step).0.run(DType::F64).loss.to_bits()).collect();
    assert_eq!(losses.len(), 4);
    // Other pixels in a masked patch change the loss, but no prediction.
    let (case, prediction) = autoencoder(&config, &encoder, 0);
    let mut arena = case.arena(DType::F64);
    let loss = case.forward(&case.params, &mut arena);
    let before = arena.to_f64(prediction);
    let hidden = masks(true, &config, 0)[0].masked[0] as usize;
    let mut images = case.inputs[0].values.clone();
    images[hidden / 3 * 2 * 6 + hidden % 3 * 2] += 1.0;
    arena.write_f64(case.inputs[0].act, &images);
    assert_ne!(case.forward(&case.params, &mut arena), loss);
    assert_eq!(arena.to_f64(prediction), before);
}

#[test]
fn impossible_autoencoders_are_refused_by_key() {
    let refused = |config: MaeConfig, encoder: VitConfig| {
        let mut layout = Layout::builder();
        refusal(Mae::declare(&config, &encoder, &mut layout, "").and_then(|mae| {
            let mut p = Planner::new();
            p.train(&layout.finish());
            let images = p.input([1, 2, 4, 6]);
            mae.plan(&mut p, images)
        }))
    };
    let good = || tiny_mae(None);
    for position in [Position::Relative, Position::SharedRelative, Position::AbsoluteRelative, Position::AbsoluteSharedRelative] {
        assert!(refused(good(), VitConfig { position, ..tiny() }).contains("`position`"));
    }
    assert!(refused(good(), VitConfig { reg_tokens: 1, ..tiny() }).contains("`reg_tokens`"));
    for mask_ratio in [0.0, 1.0, 0.95, -0.5, f64::NAN] {
        assert!(refused(MaeConfig { mask_ratio, ..good() }, tiny()).contains("`mask_ratio`"), "{mask_ratio}");
    }
    assert!(refused(MaeConfig { decoder_num_heads: 3, ..good() }, tiny()).contains("`decoder_num_heads`"));
    assert!(refused(MaeConfig { decoder_depth: 0, ..good() }, tiny()).contains("`decoder_depth`"));
    assert!(refused(MaeConfig { decoder_embed_dim: 0, ..good() }, tiny()).contains("`decoder_embed_dim`"));
    assert!(refused(MaeConfig { decoder_mlp_ratio: 0.0, ..good() }, tiny()).contains("`decoder_mlp_ratio`"));
    assert!(refused(MaeConfig { norm_pix: Some(0.0), ..good() }, tiny()).contains("`norm_pix`"));
    assert!(refused(good(), VitConfig { num_heads: 3, ..tiny() }).contains("`num_heads`"));
    // Images of 4 x 6: masks of another grid would name other patches.
    for img_size in [(6, 4), (2, 12), (4, 8)] {
        assert!(refused(good(), VitConfig { img_size, ..tiny() }).contains("`img_size`"), "{img_size:?}");
    }
}

fn tiny_text() -> TextConfig {
    TextConfig { vocab_size: 7, context_length: 5, width: 4, layers: 2, heads: 2, mlp_ratio: 2.0, embed_dim: 3, ln_eps: 1e-5 }
}

/// Two texts and where they end.
fn text(words: [[u8; 5]; BATCH], ends: [u8; BATCH]) -> Case {
    let config = tiny_text();
    let declare = |layout: &mut _| TextEncoder::declare(&config, layout, "text.");
    let built = case(declare, |encoder, p| {
        let (tokens, end) = (p.input([BATCH, 5]), p.input([BATCH, 1]));
        let embedding = encoder.plan(p, tokens, end)?;
        let numbers = |all: &[u8]| all.iter().map(|w| f64::from(*w)).collect::<Vec<_>>();
        Ok((vec![Input::fixed(tokens, numbers(words.as_flattened())), Input::fixed(end, numbers(&ends))], vec![embedding]))
    });
    built.expect("an encoder of texts")
}

#[test]
fn text_encoders_equal_central_differences() {
    // One text fills the context, one does not; a word that comes twice, one that never does.
    text([[1, 4, 4, 2, 6], [1, 0, 6, 0, 0]], [4, 2]).equals_central_differences("text");
}

#[test]
fn words_behind_the_end_do_not_matter() {
    let embeddings = |case: Case| {
        let Found { outputs, .. } = case.run(DType::F64);
        [outputs[0][..3].to_vec(), outputs[0][3..].to_vec()]
    };
    let [first, second] = embeddings(text([[1, 4, 4, 2, 6], [1, 0, 6, 0, 0]], [4, 2]));
    assert_eq!(embeddings(text([[1, 4, 4, 2, 6], [1, 0, 6, 3, 5]], [4, 2])), [first.clone(), second.clone()]);
    for changed in [[2, 0, 6, 0, 0], [1, 3, 6, 0, 0], [1, 0, 5, 0, 0]] {
        let [same, other] = embeddings(text([[1, 4, 4, 2, 6], changed], [4, 2]));
        assert_eq!(same, first);
        assert_ne!(other, second, "{changed:?}");
    }
    // The same words in another order, and an end elsewhere.
    assert_ne!(embeddings(text([[1, 4, 4, 2, 6], [0, 1, 6, 0, 0]], [4, 2]))[1], second);
    assert_ne!(embeddings(text([[1, 4, 4, 2, 6], [1, 0, 6, 0, 0]], [4, 3]))[1], second);
}

#[test]
fn impossible_text_encoders_are_refused_by_key() {
    type Change = fn(&mut TextConfig);
    let cases: [(&str, Change); 8] = [
        ("vocab_size", |c| c.vocab_size = 0),
        ("context_length", |c| c.context_length = 0),
        ("width", |c| c.width = 0),
        ("layers", |c| c.layers = 0),
        ("embed_dim", |c| c.embed_dim = 0),
        ("heads", |c| c.heads = 3),
        ("mlp_ratio", |c| c.mlp_ratio = f64::NAN),
        ("ln_eps", |c| c.ln_eps = 0.0),
    ];
    for (key, change) in cases {
        let mut config = tiny_text();
        change(&mut config);
        let said = refusal(TextEncoder::declare(&config, &mut Layout::builder(), ""));
        assert!(said.contains(&format!("`{key}`")), "{key}: {said}");
    }
    let mut layout = Layout::builder();
    let encoder = TextEncoder::declare(&tiny_text(), &mut layout, "").expect("an encoder");
    let mut p = Planner::new();
    p.train(&layout.finish());
    let (words, end) = (p.input([1, 6]), p.input([1, 1]));
    assert!(refusal(encoder.plan(&mut p, words, end)).contains("`context_length`"));
}

#[test]
fn a_wide_block_equals_central_differences() {
    let declare = |layout: &mut _| WideBlock::declare(layout, "decoder.", 3, 6, 2);
    let built = case(declare, |wide, p| {
        let x = Input::random(p, [BATCH, 4, 3], 1);
        let y = wide.plan(p, x.act)?;
        Ok((vec![x], vec![y]))
    });
    let case = built.expect("a projector");
    assert_eq!(case.plan.shape(case.outputs[0]).dims(), [BATCH, 4, 6]);
    case.equals_central_differences("a wide block");
    for heads in [0, 4] {
        assert!(refusal(WideBlock::declare(&mut Layout::builder(), "", 3, 6, heads)).contains("`projector.heads`"));
    }
}
