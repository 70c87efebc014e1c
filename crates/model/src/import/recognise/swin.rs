//! What a Swin's names and shapes say.

use std::collections::BTreeSet;

use super::Reader;
use crate::names::Naming;
use crate::{BiasOutput, Coordinates, Head, SwinAttention, SwinConfig, SwinPosition, SwinVersion};

impl Reader<'_> {
    pub fn swin(&mut self) -> SwinConfig {
        let patch = self.shape("patch_embed.proj.weight").unwrap_or_default();
        let of = |axis: usize| patch.get(axis).copied().unwrap_or(0);
        let embed_dim = of(0);
        let stages = self.tensors.blocks.stages.keys().max().map_or(0, |s| s + 1);
        let depths: Vec<usize> = (0..stages).map(|s| self.tensors.blocks.stages.get(&s).copied().unwrap_or(0)).collect();
        let cosine = self.has("layers.0.blocks.0.attn.logit_scale");
        let shared = self.has("layers.0.rel_pos_bias.rpe_mlp.0.weight");
        let continuous = shared || self.has("layers.0.blocks.0.attn.rpe_mlp.0.weight");
        let merged = self.extent("layers.0.downsample.norm.weight", 0);
        let version = if merged == embed_dim.saturating_mul(2) || merged == 0 && cosine { SwinVersion::V2 } else { SwinVersion::V1 };
        let base = if version == SwinVersion::V2 { SwinConfig::version_2() } else { SwinConfig::default() };
        let ends: BTreeSet<usize> = (0..depths.iter().copied().max().unwrap_or(0))
            .filter(|i| (0..stages).any(|s| self.has(&format!("layers.{s}.blocks.{i}.enorm.weight"))))
            .collect();
        let head = if self.has("head.weight") && self.naming == Naming::Official && !self.has("norm.weight") {
            Head::MeanPool
        } else {
            Head::Features
        };
        let mut config = SwinConfig {
            patch_size: of(2),
            in_chans: of(1),
            embed_dim,
            num_heads: (0..stages).map(|s| self.swin_heads(s, cosine, continuous, shared)).collect(),
            depths,
            mlp_ratio: if embed_dim > 0 { self.extent("layers.0.blocks.0.mlp.fc1.weight", 0) as f64 / embed_dim as f64 } else { 0.0 },
            attention: if cosine { SwinAttention::Cosine } else { SwinAttention::Scaled },
            position: if continuous { SwinPosition::Mlp } else { SwinPosition::Table },
            shared_position: shared,
            coordinates: Coordinates::Norm8Log,
            bias_output: if continuous { BiasOutput::Sigmoid } else { BiasOutput::Plain },
            rpe_hidden_dim: match self
                .extent("layers.0.blocks.0.attn.rpe_mlp.0.weight", 0)
                .max(self.extent("layers.0.rel_pos_bias.rpe_mlp.0.weight", 0))
            {
                0 => 512,
                n => n,
            },
            qkv_bias: self.qkv_bias("layers.0.blocks.0."),
            absolute_position: self.has("absolute_pos_embed"),
            patch_norm: self.has("patch_embed.norm.weight"),
            mlp_norm_stages: (0..stages).filter(|s| self.has(&format!("layers.{s}.blocks.0.mlp.norm.weight"))).map(|s| s + 1).collect(),
            end_norm_interval: ends.first().map_or(0, |i| i + 1),
            version,
            head,
            ..base
        };
        self.swin_sizes(&mut config);
        config
    }

    fn swin_heads(&self, s: usize, cosine: bool, continuous: bool, shared: bool) -> usize {
        match () {
            () if cosine => self.extent(&format!("layers.{s}.blocks.0.attn.logit_scale"), 0),
            () if shared => self.extent(&format!("layers.{s}.rel_pos_bias.rpe_mlp.2.weight"), 0),
            () if continuous => self.extent(&format!("layers.{s}.blocks.0.attn.rpe_mlp.2.weight"), 0),
            () => self.extent(&format!("layers.{s}.blocks.0.attn.relative_position_bias_table"), 1),
        }
    }

    /// Windows and image size: from tables and from what some files keep though it is computed (coordinates, masks).
    fn swin_sizes(&mut self, config: &mut SwinConfig) {
        let side_of = |n: usize| (n.isqrt().pow(2) == n && n.isqrt() % 2 == 1).then(|| n.isqrt().div_ceil(2));
        let raw = |name: String, axis: usize| self.tensors.shapes.get(&name).and_then(|s| s.get(axis).copied()).unwrap_or(0);
        let sides: Vec<usize> = (0..config.depths.len())
            .map(|s| {
                let table = side_of(self.extent(&format!("layers.{s}.blocks.0.attn.relative_position_bias_table"), 0));
                let coordinates = raw(format!("layers.{s}.blocks.0.attn.relative_coords_table"), 1);
                table.unwrap_or(if coordinates % 2 == 1 { coordinates.div_ceil(2) } else { 0 })
            })
            .collect();
        let known = sides.iter().copied().max().filter(|s| *s > 0);
        // The mask of a shifted block has an entry a window.
        let windows = raw("layers.0.blocks.1.attn_mask".into(), 0);
        let mapped = known
            .filter(|_| windows > 0 && windows.isqrt().pow(2) == windows)
            .map(|w| w.saturating_mul(windows.isqrt()).saturating_mul(config.patch_size));
        // A window smaller than the others is its whole map.
        let clamped = (0..sides.len())
            .find(|&s| known.is_some_and(|k| sides[s] > 0 && sides[s] < k))
            .map(|s| sides[s].saturating_mul(config.patch_size) << s);
        let absolute = config.absolute_position.then(|| self.extent("absolute_pos_embed", 1).isqrt().saturating_mul(config.patch_size));
        let sizes: Vec<usize> = match absolute.or(mapped).or(clamped) {
            Some(size) => vec![size],
            None => [224, 256, 192, 384].into_iter().chain((3..10).map(|k| config.patch_size << k)).collect(),
        };
        let guesses: Vec<usize> = known.map_or(vec![7, 8, 16, 12, 24, 14, 4, 2], |w| vec![w]);
        let fits = |&(size, window): &(usize, usize)| {
            let other = SwinConfig { img_size: (size, size), window_size: window, ..config.clone() };
            let tables = sides.iter().enumerate().all(|(s, side)| *side == 0 || other.window_of(other.map_of(s)) == *side);
            tables && other.check().is_ok()
        };
        let found = guesses.iter().flat_map(|w| sizes.iter().map(move |s| (*s, *w))).find(fits);
        let (size, window) = found.unwrap_or((sizes[0], guesses[0]));
        (config.img_size, config.window_size) = ((size, size), window);
        if sizes.len() > 1 {
            self.assume(format!("img_size = [{size}, {size}] (no tensor's shape depends on it)"));
        }
        if known.is_none() {
            self.assume(format!("window_size = {window} (no tensor's shape depends on it, but every position bias does)"));
        }
    }
}
