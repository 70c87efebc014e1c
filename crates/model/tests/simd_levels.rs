//! Encoders in f32 and with bf16 operands against f64 at each instruction set, and equal bits over threads at each. One test: the level is the whole process's.

#[allow(dead_code, reason = "what this test does not use of it, another does")]
mod support;

use fd_compute::simd::{Level, force, level};
use fd_compute::{DType, Device};
use fd_model::{ModelConfig, Position, QkvBias, SwinConfig, VitConfig};
use support::{deviation, encoder, in_pool};

/// Widths that fill vectors, that leave rests, and that are smaller than one; more rows than one task works on.
fn configs() -> Vec<ModelConfig> {
    let swin = |base: SwinConfig| SwinConfig {
        img_size: (48, 96),
        patch_size: 2,
        embed_dim: 12,
        depths: vec![2, 2],
        num_heads: vec![1, 3],
        window_size: 3,
        drop_path_rate: 0.3,
        ..base
    };
    let vit = VitConfig {
        img_size: (64, 68),
        patch_size: 4,
        embed_dim: 36,
        depth: 3,
        num_heads: 2,
        position: Position::SharedRelative,
        qkv_bias: QkvBias::Qv,
        layer_scale: Some(0.1),
        drop_path_rate: 0.3,
        ..VitConfig::default()
    };
    vec![swin(SwinConfig::default()).into(), swin(SwinConfig { rpe_hidden_dim: 37, ..SwinConfig::version_2() }).into(), vit.into()]
}

#[test]
fn every_level_agrees_with_f64_and_repeats_over_threads() {
    let highest = level();
    for config in configs() {
        let case = encoder(&config);
        let expected = case.run(DType::F64);
        for level in Level::available() {
            assert!(force(level));
            let found = in_pool(1, || case.run(DType::F32));
            for threads in [2, 3] {
                assert_eq!(found.bits(), in_pool(threads, || case.run(DType::F32)).bits(), "{level:?}: {threads} threads");
            }
            for ((name, found), (_, expected)) in found.all().zip(expected.all()) {
                let off = deviation(found, expected, 1e-4);
                assert!(off < 1e-5, "{}, {level:?}: {name} off by {off:.1e}", config.kind());
            }
        }
    }
    for config in configs() {
        bf16_operands_at_every_level(&config);
    }
    assert!(force(highest));
    println!("levels run: {:?}", Level::available());
}

/// Rounded by the processor or by hand: within 2e-2 of f64 (4e-2 for what an MLP of positions gets of scores, see `devices.rs`), and equal
/// bits over threads.
fn bf16_operands_at_every_level(config: &ModelConfig) {
    let mut case = encoder(config);
    case.scale_matrices();
    let expected = case.run(DType::F64);
    let largest = expected.params.values().flatten().fold(0.0f64, |m, x| m.max(x.abs()));
    for level in Level::available() {
        assert!(force(level));
        let run = || case.run_on(&Device::cpu(DType::Bf16));
        let found = in_pool(1, run);
        assert_eq!(found.bits(), in_pool(3, run).bits(), "{level:?}, bf16: 3 threads");
        for ((name, found), (_, expected)) in found.all().zip(expected.all()) {
            let (off, tolerance) = (deviation(found, expected, 1e-3 * largest), if name.contains("rpe_mlp") { 4e-2 } else { 2e-2 });
            assert!(off < tolerance, "{}, {level:?}, bf16: {name} off by {off:.1e}", config.kind());
        }
    }
}
