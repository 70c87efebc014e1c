//! What a ViT's names and shapes say.

use std::collections::BTreeSet;

use super::Reader;
use crate::names::Naming;
use crate::{Activation, Head, Position, VitConfig};

impl Reader<'_> {
    pub fn vit(&mut self) -> VitConfig {
        let patch = self.shape("patch_embed.proj.weight").unwrap_or_default();
        let of = |axis: usize| patch.get(axis).copied().unwrap_or(0);
        let (embed_dim, patch_size) = (of(0), of(2));
        let blocks = self.vit_blocks();
        // Of a file with a block missing, another one says what they are like.
        let (depth, block) = (blocks.last().map_or(0, |i| i + 1), format!("blocks.{}.", blocks.first().unwrap_or(&0)));
        let clip = matches!(self.naming, Naming::Clip | Naming::HfClip) || self.has("norm_pre.weight");
        let (absolute, shared) = (self.has("pos_embed"), self.has("rel_pos_bias.relative_position_bias_table"));
        let relative = self.has(&format!("{block}attn.relative_position_bias_table"));
        let position = match (absolute, shared, relative) {
            (true, true, _) => Position::AbsoluteSharedRelative,
            (true, false, true) => Position::AbsoluteRelative,
            (true, false, false) => Position::Absolute,
            (false, true, _) => Position::SharedRelative,
            (false, false, true) => Position::Relative,
            (false, false, false) => Position::None,
        };
        let head = if self.has("norm.weight") || !self.has("fc_norm.weight") { Head::Features } else { Head::MeanPool };
        let hidden = self.extent(&format!("{block}mlp.fc1.weight"), 0);
        let proj_dim = self.shape("proj.weight").and_then(|s| s.first().copied()).filter(|_| self.projects());
        let mut config = VitConfig {
            patch_size,
            in_chans: of(1),
            embed_dim,
            depth,
            mlp_ratio: if embed_dim > 0 { hidden as f64 / embed_dim as f64 } else { 0.0 },
            position,
            qkv_bias: self.qkv_bias(&block),
            cls_token: self.has("cls_token"),
            reg_tokens: self.extent("reg_token", 1),
            pre_norm: self.has("norm_pre.weight"),
            patch_bias: self.has("patch_embed.proj.bias"),
            proj_dim,
            head,
            num_classes: if head == Head::MeanPool { self.extent("head.weight", 0) } else { 0 },
            ..VitConfig::default()
        };
        let tables = ["rel_pos_bias.relative_position_bias_table".into(), format!("{block}attn.relative_position_bias_table")];
        let table = tables.into_iter().find(|name| self.has(name));
        config.num_heads = self.vit_heads(&config, table.as_deref());
        config.img_size = self.vit_size(&config, table.as_deref());
        self.vit_unwritten(&mut config, clip, &block);
        config
    }

    /// Is the matrix where a projection of the CLS token would lie one? (timm calls it as it calls a classifier, with a bias of zeros.)
    fn projects(&self) -> bool {
        self.naming != Naming::Timm || self.has("norm_pre.weight") && (!self.tensors.has("head.bias") || self.zero("head.bias"))
    }

    /// The numbers of the blocks that there are.
    fn vit_blocks(&self) -> BTreeSet<usize> {
        // What stands before and behind a block's number in their names.
        let mark = self.naming.of("blocks.7.norm1.weight").map(|f| f.name()).unwrap_or_default();
        let (head, tail) = mark.split_once('7').unwrap_or((&mark, ""));
        let (head, tail) = (head, tail.split_once('.').map_or("", |_| "."));
        let index = |name: &str| name.strip_prefix(head)?.split_once(tail)?.0.parse::<usize>().ok().filter(|i| *i < 1024);
        self.tensors.shapes.keys().filter_map(|name| index(name)).collect()
    }

    fn vit_heads(&mut self, config: &VitConfig, table: Option<&str>) -> usize {
        if let Some(table) = table {
            return self.extent(table, 1);
        }
        let heads = match crate::presets::heads_of(config.embed_dim) {
            Some(heads) => heads,
            None => (config.embed_dim / 64).max(1),
        };
        self.assume(format!("num_heads = {heads} (no tensor's shape depends on it)"));
        heads
    }

    fn vit_size(&mut self, config: &VitConfig, table: Option<&str>) -> (usize, usize) {
        let extra = usize::from(config.cls_token);
        // CLIP stores positions without a leading extent.
        let rows = self.shape("pos_embed").and_then(|s| s.iter().rev().nth(1).copied());
        let side = match (rows, table) {
            // Positions of patches alone are told apart by being a square.
            (Some(rows), _) => rows.checked_sub(extra).map(|n| match [n, rows].into_iter().find(|n| n.isqrt().pow(2) == *n) {
                Some(square) => (square.isqrt(), true),
                None => (n.isqrt(), false),
            }),
            (None, Some(table)) => self.extent(table, 0).checked_sub(if config.cls_token { 3 } else { 0 }).map(|n| {
                let root = n.isqrt();
                (root.div_ceil(2), root * root == n && root % 2 == 1)
            }),
            (None, None) => None,
        };
        let sides = |patches: usize| (patches.saturating_mul(config.patch_size), patches.saturating_mul(config.patch_size));
        match side {
            Some((patches, true)) => sides(patches),
            Some((patches, false)) => {
                let (h, w) = sides(patches);
                self.assume(format!("img_size = [{h}, {w}] (its positions are not of a square grid: say which)"));
                (h, w)
            }
            None => {
                let (h, w) = sides(224usize.checked_div(config.patch_size).unwrap_or(0));
                self.assume(format!("img_size = [{h}, {w}] (nothing depends on it)"));
                (h, w)
            }
        }
    }

    /// What no tensor says: the class that uses these names does.
    fn vit_unwritten(&mut self, config: &mut VitConfig, clip: bool, block: &str) {
        if clip {
            (config.activation, config.ln_eps) = (Activation::QuickGelu, 1e-5);
            self.assume("activation = \"quick-gelu\", ln_eps = 1e-5 (OpenAI's CLIP; others of its kind have the exact GELU)".into());
        } else if self.naming == Naming::Hf {
            config.ln_eps = 1e-12;
            self.assume("ln_eps = 1e-12 (the default of transformers' ViT and BEiT)".into());
        }
        if self.has(&format!("{block}gamma_1")) {
            let dinov2 = matches!(self.naming, Naming::DinoV2 | Naming::HfDinoV2 | Naming::Timm);
            // Where it started does not matter to trained weights.
            config.layer_scale = Some(if dinov2 { 1e-5 } else { 0.1 });
            // transformers interpolates by sizes, DINOv2's own code by a factor with an offset.
            config.interpolate_offset = if self.naming == Naming::DinoV2 && config.reg_tokens == 0 { 0.1 } else { 0.0 };
        }
    }
}
