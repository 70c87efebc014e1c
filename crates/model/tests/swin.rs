//! The planned Swin of both versions: central differences in f64 for every option, recomputation, other image sizes, refusals.

#[allow(dead_code, reason = "what this test does not use of it, another does")]
mod support;

use fd_compute::{DType, Layout};
use fd_model::{
    BiasOutput, Coordinates, Head, Model, ModelConfig, Position, QkvBias, Swin, SwinAttention, SwinConfig, SwinPosition, VitConfig,
};
use support::{encoder, encoder_of, refusal};

/// Two stages: a map of 4 x 4 tokens in windows of 2, every second block shifted, then a map that is one window.
fn of(base: SwinConfig) -> SwinConfig {
    SwinConfig {
        img_size: (8, 8),
        patch_size: 2,
        in_chans: 2,
        embed_dim: 4,
        depths: vec![2, 2],
        num_heads: vec![1, 2],
        window_size: 2,
        mlp_ratio: 2.0,
        rpe_hidden_dim: 5,
        ..base
    }
}

fn version_1() -> SwinConfig {
    of(SwinConfig::default())
}

fn version_2() -> SwinConfig {
    of(SwinConfig::version_2())
}

/// Maps of 6 x 12 and 3 x 6 tokens, windows of 3.
fn odd_and_rectangular(base: SwinConfig) -> SwinConfig {
    SwinConfig { img_size: (12, 24), window_size: 3, ..base }
}

#[test]
fn equals_central_differences() {
    let cases = [
        ("version 1", version_1()),
        ("version 2, a position MLP a block", version_2()),
        ("version 2, a position MLP a stage", SwinConfig { shared_position: true, ..version_2() }),
        ("version 1, rectangular", odd_and_rectangular(version_1())),
        (
            "version 2, rectangular, pretrained with other windows",
            odd_and_rectangular(SwinConfig {
                coordinates: Coordinates::Linear,
                pretrained_windows: vec![4],
                bias_output: BiasOutput::Plain,
                ..version_2()
            }),
        ),
        ("one window a stage", SwinConfig { window_size: 7, ..version_1() }),
        ("no qkv bias", SwinConfig { qkv_bias: QkvBias::None, ..version_2() }),
        ("a classifier", SwinConfig { head: Head::MeanPool, num_classes: 3, ..version_1() }),
        (
            "absolute positions, norms in the MLPs and behind blocks, none behind the patches",
            SwinConfig {
                absolute_position: true,
                patch_norm: false,
                mlp_norm_stages: vec![2],
                end_norm_interval: 2,
                drop_path_rate: 0.4,
                ..version_2()
            },
        ),
        ("the first stage", SwinConfig { out_stage: Some(1), ..version_1() }),
        (
            "version 2 with version 1's attention and a table through a sigmoid",
            SwinConfig { attention: SwinAttention::Scaled, position: SwinPosition::Table, ..version_2() },
        ),
    ];
    for (name, config) in cases {
        encoder(&config.into()).equals_central_differences(name);
    }
}

#[test]
fn a_stage_that_is_not_handed_out_is_not_trained() {
    let found = encoder(&SwinConfig { out_stage: Some(1), ..version_2() }.into()).run(DType::F64);
    for (name, gradient) in &found.params {
        let later = name.starts_with("layers.1.") || name.starts_with("norm.") || name.contains("downsample");
        assert_eq!(gradient.iter().all(|g| *g == 0.0), later, "{name}");
    }
}

/// ln 100 is where a trained scale stops to count.
#[test]
fn scores_grow_up_to_a_hundred_times_the_cosine() {
    let mut case = encoder(&version_2().into());
    let name = "layers.1.blocks.0.attn.logit_scale";
    let scale = case.params.layout().find(name).expect("a scale a head");
    let mut with = |values: [f64; 2]| {
        case.params.set(scale, &values);
        case.run(DType::F64)
    };
    let (at, beyond) = (with([100f64.ln(), 0.5]), with([7.0, 0.5]));
    assert_eq!(at.outputs, beyond.outputs);
    assert!(beyond.params[name][0] == 0.0 && beyond.params[name][1] != 0.0 && at.params[name][0] != 0.0);
    case.equals_central_differences("a scale beyond its limit");
}

#[test]
fn smaller_images_use_a_part_of_the_position_bias() {
    let table = SwinConfig { img_size: (16, 16), window_size: 4, ..version_1() };
    let mlp = SwinConfig { img_size: (16, 16), window_size: 4, absolute_position: true, ..version_2() };
    for (name, config) in [("table", table), ("MLP", mlp)] {
        // A map of 4 x 2 in windows of 2 and one of 2 x 1 in windows of one token; maps of 8 x 4 and 4 x 2.
        for size in [(8, 4), (16, 8)] {
            let case = encoder_of(&config.clone().into(), size, false).expect("windows that fit");
            case.equals_central_differences(&format!("{name}, {size:?}"));
        }
    }
}

#[test]
fn images_that_windows_do_not_tile_are_refused() {
    let config = SwinConfig { img_size: (32, 32), window_size: 4, ..version_1() };
    let refused = |config: &SwinConfig, size| refusal(encoder_of(&config.clone().into(), size, false));
    for size in [(20, 20), (16, 20), (32, 24)] {
        let said = refused(&config, size);
        assert!(said.contains("window_size") && said.contains("do not tile"), "{size:?}: {said}");
    }
    // Windows of 4, where the tables are of windows of 2.
    let narrow = SwinConfig { img_size: (4, 8), ..config.clone() };
    assert!(refused(&narrow, (16, 16)).contains("`window_size`"));
    assert!(refused(&config, (33, 32)).contains("33 x 32"));
    assert!(refused(&config, (2, 2)).contains("cannot be halved"));
}

#[test]
fn impossible_swins_are_refused_by_key() {
    type Change = fn(&mut SwinConfig);
    let cases: [(&str, Change); 20] = [
        ("window_size", |c| c.img_size = (12, 12)),
        ("window_size", |c| c.window_size = 0),
        ("num_heads", |c| c.num_heads = vec![3, 2]),
        ("num_heads", |c| c.num_heads = vec![1, 0]),
        ("num_heads", |c| c.num_heads = vec![1]),
        ("depths", |c| c.depths = vec![]),
        ("depths", |c| c.depths = vec![2, 0]),
        ("img_size", |c| c.img_size = (9, 8)),
        ("img_size", |c| (c.img_size, c.window_size) = ((6, 6), 3)),
        ("patch_size", |c| c.patch_size = 0),
        ("shared_position", |c| c.shared_position = true),
        ("qkv_bias", |c| c.qkv_bias = QkvBias::Qkv),
        ("head", |c| (c.head, c.num_classes) = (Head::Cls, 3)),
        ("out_stage", |c| c.out_stage = Some(3)),
        ("out_stage", |c| c.out_stage = Some(0)),
        ("out_stage", |c| (c.head, c.num_classes, c.out_stage) = (Head::MeanPool, 3, Some(1))),
        ("num_classes", |c| c.num_classes = 3),
        ("num_classes", |c| c.head = Head::MeanPool),
        ("mlp_norm_stages", |c| c.mlp_norm_stages = vec![3]),
        ("drop_path_rate", |c| c.drop_path_rate = 1.0),
    ];
    for (key, change) in cases {
        let mut config = version_1();
        change(&mut config);
        let said = refusal(Swin::declare(&config, &mut Layout::builder(), ""));
        assert!(said.contains(&format!("`{key}`")), "{key}: {said}");
        assert_eq!(said, refusal(Model::declare(&config.into(), &mut Layout::builder(), "")));
    }
}

#[test]
fn recomputation_gives_equal_bits_and_takes_less_memory() {
    let swin = SwinConfig { img_size: (16, 16), depths: vec![3, 3], drop_path_rate: 0.4, ..version_2() };
    let vit = VitConfig {
        img_size: (16, 16),
        patch_size: 4,
        in_chans: 2,
        embed_dim: 12,
        depth: 4,
        num_heads: 3,
        position: Position::SharedRelative,
        layer_scale: Some(0.1),
        drop_path_rate: 0.4,
        ..VitConfig::default()
    };
    for config in [ModelConfig::from(swin), ModelConfig::from(vit)] {
        let [kept, again] = [false, true].map(|recompute| encoder_of(&config, config.img_size(), recompute).expect("a model"));
        let found = kept.run(DType::F32);
        assert_eq!(found.bits(), again.run(DType::F32).bits(), "{}", config.kind());
        // The masks are drawn again, not forgotten: without them the loss is another.
        let plain = encoder(&config.clone().with_drop_path(0.0)).run(DType::F32);
        assert_ne!(found.loss.to_bits(), plain.loss.to_bits());
        let (kept, again) = (kept.plan.cost(), again.plan.cost());
        assert!(again.arena_elements < kept.arena_elements, "{}: {again:?}, {kept:?}", config.kind());
        assert!(again.forward_flops + again.backward_flops > kept.forward_flops + kept.backward_flops);
    }
}
