//! Whole models against the processor in f64: features, losses and every gradient. On the processor with bf16 operands, and on a CUDA
//! device in f32 and bf16 if `FD_TEST_CUDA` says that there is one.

#[allow(dead_code, reason = "what this test does not use of it, another does")]
mod support;

use fd_compute::{DType, Device};
use fd_model::{
    Activation, Head, Mae, MaeConfig, Mask, ModelConfig, Position, QkvBias, SwinConfig, TextConfig, TextEncoder, VitConfig, random_mask,
};
use support::{BATCH, Case, Input, case, deviation, encoder, encoder_of, random};

/// Where, and how far from f64 each tensor may be, relative to its largest number.
fn devices() -> Vec<(Device, f64)> {
    let mut devices = vec![(Device::cpu(DType::Bf16), 2e-2)];
    if std::env::var_os("FD_TEST_CUDA").is_some() {
        devices.extend([(Device::cuda(0, DType::F32), 1e-4), (Device::cuda(0, DType::Bf16), 5e-2)]);
    }
    devices
}

fn on_devices(name: &str, describe: impl FnOnce() -> Case) {
    let mut case = describe();
    case.scale_matrices();
    let expected = case.run(DType::F64);
    let most = |of: &[f64]| of.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let largest = expected.params.values().map(|g| most(g)).fold(0.0, f64::max);
    for (device, tolerance) in devices() {
        let (found, dtype) = (case.run_on(&device), device.dtype());
        let mut worst = (0.0, String::new());
        for ((what, found), (_, expected)) in found.all().zip(expected.all()) {
            // What is 0 but for rounding (the gradient of a bias of keys) is held to the other gradients; so is that of a trained scale, a sum
            // in which nearly all cancels.
            let floor = if what.ends_with("logit_scale") { 1e-2 } else { 1e-3 };
            let off = deviation(found, expected, floor * largest);
            // An MLP of positions gets what is left of dS, whose rows are 0, summed over all windows: rounding queries and keys costs it more.
            let tolerance = if what.contains("rpe_mlp") { tolerance.max(4e-2) } else { tolerance };
            assert!(off <= tolerance, "{name} on {device} in {}: {what} is off by {off:.1e}", dtype.name());
            if off > worst.0 {
                worst = (off, what);
            }
        }
        println!("{name} on {device} in {}: {} is off by {:.1e}", dtype.name(), worst.1, worst.0);
    }
}

fn vit() -> VitConfig {
    VitConfig {
        img_size: (24, 16),
        patch_size: 4,
        embed_dim: 48,
        depth: 2,
        num_heads: 3,
        mlp_ratio: 2.0,
        position: Position::SharedRelative,
        qkv_bias: QkvBias::Qv,
        layer_scale: Some(0.5),
        drop_path_rate: 0.4,
        ..VitConfig::default()
    }
}

#[test]
fn vision_transformers() {
    let cases = [
        ("shared relative positions, LayerScale, drop path", vit()),
        ("relative positions a block, a mean, a classifier", {
            VitConfig { position: Position::Relative, head: Head::MeanPool, num_classes: 5, ..vit() }
        }),
        ("CLIP's", {
            let (activation, position) = (Activation::QuickGelu, Position::Absolute);
            VitConfig {
                activation,
                position,
                ln_eps: 1e-5,
                pre_norm: true,
                patch_bias: false,
                proj_dim: Some(7),
                layer_scale: None,
                ..vit()
            }
        }),
        ("registers", VitConfig { position: Position::Absolute, reg_tokens: 3, interpolate_offset: 0.1, qkv_bias: QkvBias::Full, ..vit() }),
        ("odd widths", VitConfig { embed_dim: 21, patch_size: 8, ..vit() }),
    ];
    for (name, config) in cases {
        on_devices(name, || encoder(&config.into()));
    }
    let config = VitConfig { position: Position::Absolute, reg_tokens: 3, ..vit() };
    on_devices("absolute positions on another grid", || encoder_of(&config.into(), (16, 32), false).expect("a model"));
    on_devices("computed again", || encoder_of(&vit().into(), vit().img_size, true).expect("a model"));
}

fn swin(base: SwinConfig) -> SwinConfig {
    SwinConfig {
        img_size: (32, 32),
        patch_size: 2,
        embed_dim: 16,
        depths: vec![2, 2],
        num_heads: vec![1, 2],
        window_size: 4,
        mlp_ratio: 2.0,
        rpe_hidden_dim: 24,
        drop_path_rate: 0.2,
        ..base
    }
}

#[test]
fn swins() {
    let cases = [
        ("version 1", swin(SwinConfig::default())),
        ("version 2", swin(SwinConfig::version_2())),
        ("version 2, a position MLP a stage", SwinConfig { shared_position: true, ..swin(SwinConfig::version_2()) }),
        ("absolute positions, a classifier", {
            SwinConfig { absolute_position: true, head: Head::MeanPool, num_classes: 3, ..swin(SwinConfig::default()) }
        }),
    ];
    for (name, config) in cases {
        on_devices(name, || encoder(&ModelConfig::from(config)));
    }
}

#[test]
fn masked_autoencoders() {
    let encoder = VitConfig { position: Position::SinCos, layer_scale: None, drop_path_rate: 0.0, qkv_bias: QkvBias::Full, ..vit() };
    let config = MaeConfig {
        mask_ratio: 0.75,
        decoder_embed_dim: 32,
        decoder_depth: 1,
        decoder_num_heads: 2,
        decoder_mlp_ratio: 2.0,
        norm_pix: Some(1e-6),
    };
    on_devices("an autoencoder", || {
        let declare = |layout: &mut _| Mae::declare(&config, &encoder, layout, "");
        let built = case(declare, |mae, p| {
            let images = p.input([BATCH, encoder.in_chans, encoder.img_size.0, encoder.img_size.1]);
            let pass = mae.plan(p, images)?;
            let (h, w) = encoder.grid();
            let masks: Vec<Mask> = (0..BATCH as u64).map(|i| random_mask(h * w, config.visible(h * w), true, &[7, i])).collect();
            let all = |of: fn(&Mask) -> &Vec<u32>| masks.iter().flat_map(of).map(|i| f64::from(*i)).collect::<Vec<_>>();
            let inputs = vec![
                Input::fixed(images, random(p.shape(images).len(), 1)),
                Input::fixed(pass.visible, all(|m| &m.visible)),
                Input::fixed(pass.restore, all(|m| &m.restore)),
                Input::fixed(pass.masked, all(|m| &m.masked)),
            ];
            Ok((inputs, vec![pass.loss, pass.prediction]))
        });
        built.expect("an autoencoder")
    });
}

#[test]
fn text_encoders() {
    let config =
        TextConfig { vocab_size: 50, context_length: 12, width: 32, layers: 2, heads: 2, mlp_ratio: 2.0, embed_dim: 24, ln_eps: 1e-5 };
    on_devices("a text encoder", || {
        let built = case(
            |layout: &mut _| TextEncoder::declare(&config, layout, "text."),
            |encoder, p| {
                let (words, end) = (p.input([BATCH, 12]), p.input([BATCH, 1]));
                let embedding = encoder.plan(p, words, end)?;
                // Numbers that bf16 does not hold would be other words.
                let text = random(12 * BATCH, 5).iter().map(|x| (x * 97.0).rem_euclid(50.0).floor()).collect();
                Ok((vec![Input::fixed(words, text), Input::fixed(end, vec![11.0, 5.0])], vec![embedding]))
            },
        );
        built.expect("an encoder of texts")
    });
}
