//! Architectures by the names the field has for them.
//!
//! All are encoders of features without drop path, at the image size they were published with; any key, the image size among them, may be
//! set otherwise. Sizes are of the papers that introduced them: ViT (Dosovitskiy et al. 2021; tiny and small from DeiT), Swin (Liu et
//! al. 2021), Swin v2 (Liu et al. 2022; T, S and B as the official distillation code trains them, at 224 pixels; L and G as they were
//! pretrained, at 192 pixels with windows of 12), CLIP (Radford et al. 2021), DINOv2 (Oquab et al. 2023).

use crate::{Activation, ModelConfig, ModelError, Position, SwinConfig, VitConfig};

/// All names [`preset`] knows.
pub const PRESETS: [&str; 20] = [
    "vit-tiny",
    "vit-small",
    "vit-base",
    "vit-large",
    "vit-huge",
    "swin-t",
    "swin-s",
    "swin-b",
    "swin-l",
    "swinv2-t",
    "swinv2-s",
    "swinv2-b",
    "swinv2-l",
    "swinv2-g",
    "clip-vit-b-32",
    "clip-vit-b-16",
    "clip-vit-l-14",
    "dinov2-s",
    "dinov2-b",
    "dinov2-l",
];

/// The architecture of that name.
///
/// # Errors
/// A name that is not in [`PRESETS`]; the message lists those near it.
pub fn preset(name: &str) -> Result<ModelConfig, ModelError> {
    let unknown = || ModelError::Config { key: "preset", why: format!("no `{name}`; there are {}", PRESETS.join(", ")) };
    let (family, size) = name.split_once('-').ok_or_else(unknown)?;
    let config = match family {
        "vit" => vit(size).map(ModelConfig::Vit),
        "swin" => swin(SwinConfig::default(), size).map(ModelConfig::Swin),
        "swinv2" => swin_v2(size).map(ModelConfig::Swin),
        "clip" => clip(size).map(ModelConfig::Vit),
        "dinov2" => dinov2(size).map(ModelConfig::Vit),
        _ => None,
    };
    config.ok_or_else(unknown)
}

/// The preset that a model is one of, but for the size of its images, its positions and its head.
pub(crate) fn nearest(model: &ModelConfig) -> Option<&'static str> {
    let like = |name: &&&str| match (preset(name), model) {
        (Ok(ModelConfig::Vit(p)), ModelConfig::Vit(c)) => {
            let dinov2 = |c: &VitConfig| c.layer_scale.is_some() && c.position == Position::Absolute;
            let sizes = |c: &VitConfig| (c.embed_dim, c.depth, c.num_heads, c.patch_size, c.pre_norm);
            sizes(&p) == sizes(c) && dinov2(&p) == dinov2(c)
        }
        (Ok(ModelConfig::Swin(p)), ModelConfig::Swin(c)) => {
            (p.embed_dim, &p.depths, &p.num_heads, p.version) == (c.embed_dim, &c.depths, &c.num_heads, c.version)
        }
        _ => false,
    };
    PRESETS.iter().find(like).copied()
}

/// The heads that ViTs of this width have.
pub(crate) fn heads_of(width: usize) -> Option<usize> {
    ["tiny", "small", "base", "large", "huge"].into_iter().filter_map(vit).find(|c| c.embed_dim == width).map(|c| c.num_heads)
}

fn sized(embed_dim: usize, depth: usize, num_heads: usize) -> VitConfig {
    VitConfig { embed_dim, depth, num_heads, ..VitConfig::default() }
}

fn vit(size: &str) -> Option<VitConfig> {
    Some(match size {
        "tiny" => sized(192, 12, 3),
        "small" => sized(384, 12, 6),
        "base" => sized(768, 12, 12),
        "large" => sized(1024, 24, 16),
        "huge" => VitConfig { patch_size: 14, ..sized(1280, 32, 16) },
        _ => return None,
    })
}

fn swin(base: SwinConfig, size: &str) -> Option<SwinConfig> {
    let (embed_dim, third, heads) = match size {
        "t" => (96, 6, 3),
        "s" => (96, 18, 3),
        "b" => (128, 18, 4),
        "l" => (192, 18, 6),
        _ => return None,
    };
    let num_heads = (0..4).map(|s| heads << s).collect();
    Some(SwinConfig { embed_dim, depths: vec![2, 2, third, 2], num_heads, ..base })
}

fn swin_v2(size: &str) -> Option<SwinConfig> {
    let base = SwinConfig::version_2();
    let pretrained = SwinConfig { img_size: (192, 192), window_size: 12, ..base.clone() };
    match size {
        // The paper's student of EsViT.
        "b" => Some(SwinConfig { window_size: 14, ..swin(base, size)? }),
        "l" => swin(pretrained, size),
        // 3 billion parameters; one more norm on the main branch every six blocks.
        "g" => Some(SwinConfig {
            embed_dim: 512,
            depths: vec![2, 2, 42, 4],
            num_heads: vec![16, 32, 64, 128],
            end_norm_interval: 6,
            ..pretrained
        }),
        _ => swin(base, size),
    }
}

/// CLIP's visual encoder: a norm before the blocks, no bias in the patch embedding, its own GELU, the image embedding's projection.
fn clip(size: &str) -> Option<VitConfig> {
    let (base, patch_size, proj_dim) = match size {
        "vit-b-32" => (sized(768, 12, 12), 32, 512),
        "vit-b-16" => (sized(768, 12, 12), 16, 512),
        "vit-l-14" => (sized(1024, 24, 16), 14, 768),
        _ => return None,
    };
    Some(VitConfig { patch_size, proj_dim: Some(proj_dim), ..clip_options(base) })
}

/// What tells CLIP's visual encoders from other ViTs, but for their sizes.
pub(crate) fn clip_options(base: VitConfig) -> VitConfig {
    VitConfig { activation: Activation::QuickGelu, ln_eps: 1e-5, pre_norm: true, patch_bias: false, ..base }
}

fn dinov2(size: &str) -> Option<VitConfig> {
    let base = match size {
        "s" => sized(384, 12, 6),
        "b" => sized(768, 12, 12),
        "l" => sized(1024, 24, 16),
        _ => return None,
    };
    Some(VitConfig { img_size: (518, 518), patch_size: 14, layer_scale: Some(1e-5), interpolate_offset: 0.1, ..base })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Model;
    use fd_compute::Layout;

    /// Published parameter counts, in millions, of the encoders without a classifier.
    #[test]
    fn parameter_counts_are_the_published_ones() {
        let millions = [
            ("vit-tiny", 5.5),
            ("vit-small", 21.7),
            ("vit-base", 85.8),
            ("vit-large", 303.3),
            ("vit-huge", 630.8),
            ("swin-t", 27.5),
            ("swin-s", 48.8),
            ("swin-b", 86.7),
            ("swin-l", 195.0),
            ("swinv2-g", 3000.0),
            ("clip-vit-b-16", 86.2),
            ("clip-vit-l-14", 304.0),
            ("dinov2-s", 22.1),
            ("dinov2-b", 86.6),
            ("dinov2-l", 304.4),
        ];
        for (name, expected) in millions {
            let mut layout = Layout::builder();
            Model::declare(&preset(name).unwrap(), &mut layout, "").unwrap();
            let found = layout.finish().count() as f64 / 1e6;
            assert!((found / expected - 1.0).abs() < 0.01, "{name}: {found:.2} M, expected {expected}");
        }
    }

    #[test]
    fn every_preset_can_be_built_and_a_wrong_name_lists_them() {
        for name in PRESETS {
            preset(name).unwrap().check().unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        assert!(preset("swin-g").unwrap_err().to_string().contains("swinv2-g"));
        assert!(preset("resnet50").unwrap_err().to_string().contains("vit-base"));
    }
}
