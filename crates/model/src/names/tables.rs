//! The tables: ours → theirs, one a naming.

use super::{Foreign, Form, Naming};

/// (ours, theirs): a whole name, or a module's, whose `weight` and `bias` then follow.
type Pairs = &'static [(&'static str, &'static [&'static str])];

/// What a class calls our parameters.
#[derive(Clone, Copy)]
pub(super) struct Table {
    /// Path of a ViT's block.
    block: &'static str,
    /// Path of a Swin's stage, to which `blocks.{i}.` is added; the number added to the stage for patch merging.
    stage: Option<(&'static str, usize)>,
    in_block: Pairs,
    outside: Pairs,
    /// Is what no table lists unknown there (and not called as here)?
    closed: bool,
    transposed: &'static [&'static str],
    squeezed: &'static [&'static str],
}

/// Everything is called as here.
const OURS: Table = Table {
    block: "blocks.{i}.",
    stage: Some(("layers.{s}.", 0)),
    in_block: &[],
    outside: &[],
    closed: false,
    transposed: &[],
    squeezed: &[],
};

const LAYER_SCALE: Pairs = &[("gamma_1", &["ls1.gamma"]), ("gamma_2", &["ls2.gamma"])];
const CONTINUOUS: Pairs = &[("attn.rpe_mlp.0", &["attn.cpb_mlp.0"]), ("attn.rpe_mlp.2", &["attn.cpb_mlp.2"])];

const CLIP: Table = Table {
    block: "transformer.resblocks.{i}.",
    stage: None,
    in_block: &[
        ("norm1", &["ln_1"]),
        ("attn.qkv.weight", &["attn.in_proj_weight"]),
        ("attn.qkv.bias", &["attn.in_proj_bias"]),
        ("attn.proj", &["attn.out_proj"]),
        ("norm2", &["ln_2"]),
        ("mlp.fc1", &["mlp.c_fc"]),
        ("mlp.fc2", &["mlp.c_proj"]),
    ],
    outside: &[
        ("cls_token", &["class_embedding"]),
        ("pos_embed", &["positional_embedding"]),
        ("patch_embed.proj", &["conv1"]),
        ("norm_pre", &["ln_pre"]),
        ("norm", &["ln_post"]),
        ("proj.weight", &["proj"]),
    ],
    closed: true,
    transposed: &["proj.weight"],
    squeezed: &["cls_token", "pos_embed"],
};

const HF_ATTENTION: Pairs = &[
    ("attn.qkv", &["attention.attention.query", "attention.attention.key", "attention.attention.value"]),
    ("attn.q_bias", &["attention.attention.query.bias"]),
    ("attn.k_bias", &["attention.attention.key.bias"]),
    ("attn.v_bias", &["attention.attention.value.bias"]),
    ("attn.proj", &["attention.output.dense"]),
    ("attn.relative_position_bias_table", &["attention.attention.relative_position_bias.relative_position_bias_table"]),
];

const HF: Table = Table {
    block: "encoder.layer.{i}.",
    stage: None,
    in_block: &[
        ("norm1", &["layernorm_before"]),
        ("norm2", &["layernorm_after"]),
        ("mlp.fc1", &["intermediate.dense"]),
        ("mlp.fc2", &["output.dense"]),
        ("gamma_1", &["lambda_1"]),
        ("gamma_2", &["lambda_2"]),
    ],
    outside: &[
        ("cls_token", &["embeddings.cls_token"]),
        ("pos_embed", &["embeddings.position_embeddings"]),
        ("patch_embed.proj", &["embeddings.patch_embeddings.projection"]),
        ("norm", &["layernorm"]),
        ("rel_pos_bias.relative_position_bias_table", &["encoder.relative_position_bias.relative_position_bias_table"]),
    ],
    closed: true,
    transposed: &[],
    squeezed: &[],
};

const HF_DINOV2: Table = Table {
    in_block: &[
        ("norm1", &["norm1"]),
        ("norm2", &["norm2"]),
        ("mlp.fc1", &["mlp.fc1"]),
        ("mlp.fc2", &["mlp.fc2"]),
        ("gamma_1", &["layer_scale1.lambda1"]),
        ("gamma_2", &["layer_scale2.lambda1"]),
    ],
    outside: &[
        ("cls_token", &["embeddings.cls_token"]),
        ("reg_token", &["embeddings.register_tokens"]),
        ("pos_embed", &["embeddings.position_embeddings"]),
        ("patch_embed.proj", &["embeddings.patch_embeddings.projection"]),
        ("norm", &["layernorm"]),
    ],
    ..HF
};

const HF_CLIP: Table = Table {
    block: "vision_model.encoder.layers.{i}.",
    stage: None,
    in_block: &[
        ("norm1", &["layer_norm1"]),
        ("attn.qkv", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
        ("attn.proj", &["self_attn.out_proj"]),
        ("norm2", &["layer_norm2"]),
        ("mlp.fc1", &["mlp.fc1"]),
        ("mlp.fc2", &["mlp.fc2"]),
    ],
    outside: &[
        ("cls_token", &["vision_model.embeddings.class_embedding"]),
        ("pos_embed", &["vision_model.embeddings.position_embedding.weight"]),
        ("patch_embed.proj", &["vision_model.embeddings.patch_embedding"]),
        ("norm_pre", &["vision_model.pre_layrnorm"]),
        ("norm", &["vision_model.post_layernorm"]),
        ("proj.weight", &["visual_projection.weight"]),
    ],
    closed: true,
    transposed: &[],
    squeezed: &["cls_token", "pos_embed"],
};

const HF_SWIN: Table = Table {
    block: "",
    stage: Some(("encoder.layers.{s}.", 0)),
    in_block: &[
        ("norm1", &["layernorm_before"]),
        ("attn.qkv", &["attention.self.query", "attention.self.key", "attention.self.value"]),
        ("attn.q_bias", &["attention.self.query.bias"]),
        ("attn.v_bias", &["attention.self.value.bias"]),
        ("attn.proj", &["attention.output.dense"]),
        ("attn.relative_position_bias_table", &["attention.self.relative_position_bias_table"]),
        ("attn.logit_scale", &["attention.self.logit_scale"]),
        ("attn.rpe_mlp.0", &["attention.self.continuous_position_bias_mlp.0"]),
        ("attn.rpe_mlp.2", &["attention.self.continuous_position_bias_mlp.2"]),
        ("norm2", &["layernorm_after"]),
        ("mlp.fc1", &["intermediate.dense"]),
        ("mlp.fc2", &["output.dense"]),
    ],
    outside: &[
        ("patch_embed.proj", &["embeddings.patch_embeddings.projection"]),
        ("patch_embed.norm", &["embeddings.norm"]),
        ("absolute_pos_embed", &["embeddings.position_embeddings"]),
        ("downsample.reduction", &["downsample.reduction"]),
        ("downsample.norm", &["downsample.norm"]),
        ("norm", &["layernorm"]),
    ],
    closed: true,
    transposed: &[],
    squeezed: &[],
};

/// Where a parameter of ours stands.
enum Place {
    Block(usize),
    StageBlock(usize, usize),
    Stage(usize),
    Outside,
}

/// A name of ours, taken apart: where it stands, and what it is called there.
fn place(name: &str) -> (Place, &str) {
    let number = |text: &'_ str| text.parse::<usize>().ok();
    let indexed = |name: &'_ str, head: &str| {
        let (index, rest) = name.strip_prefix(head)?.split_once('.')?;
        Some((number(index)?, name.len() - rest.len()))
    };
    if let Some((i, at)) = indexed(name, "blocks.") {
        return (Place::Block(i), &name[at..]);
    }
    if let Some((s, at)) = indexed(name, "layers.") {
        let rest = &name[at..];
        return match indexed(rest, "blocks.") {
            Some((i, at)) => (Place::StageBlock(s, i), &rest[at..]),
            None => (Place::Stage(s), rest),
        };
    }
    (Place::Outside, name)
}

impl Table {
    pub fn of(naming: Naming) -> Table {
        match naming {
            Naming::Official => OURS,
            Naming::Clip => CLIP,
            Naming::DinoV2 => Table { in_block: LAYER_SCALE, outside: &[("reg_token", &["register_tokens"])], ..OURS },
            Naming::SwinV2 => Table { in_block: CONTINUOUS, ..OURS },
            Naming::Timm => Table { in_block: LAYER_SCALE, outside: &[("proj.weight", &["head.weight"])], ..OURS },
            Naming::TimmSwin => Table { in_block: CONTINUOUS, stage: Some(("layers.{s}.", 1)), outside: &[("head", &["head.fc"])], ..OURS },
            Naming::Hf => HF,
            Naming::HfDinoV2 => HF_DINOV2,
            Naming::HfClip => HF_CLIP,
            Naming::HfSwin => HF_SWIN,
        }
    }

    pub fn foreign(&self, name: &str) -> Option<Foreign> {
        let (place, rest) = place(name);
        let stage = |s: usize| self.stage.map(|(path, _)| path.replace("{s}", &s.to_string()));
        let (path, tables): (String, [Pairs; 2]) = match place {
            Place::Block(i) => (self.block.replace("{i}", &i.to_string()), [self.in_block, self.shared()]),
            Place::StageBlock(s, i) => (format!("{}blocks.{i}.", stage(s)?), [self.in_block, &[]]),
            Place::Stage(s) => {
                let shift = if rest.starts_with("downsample.") { self.stage?.1 } else { 0 };
                (stage(s + shift)?, [self.outside, &[]])
            }
            Place::Outside => (String::new(), [self.outside, &[]]),
        };
        let found = tables.into_iter().find_map(|table| look_up(table, rest));
        let names = if self.closed { found? } else { found.unwrap_or_else(|| vec![rest.to_string()]) };
        let form = match () {
            () if self.transposed.contains(&name) => Form::Transposed,
            () if self.squeezed.contains(&name) => Form::Squeezed,
            () => Form::Same,
        };
        Some(Foreign { parts: names.into_iter().map(|n| format!("{path}{n}")).collect(), form })
    }

    /// What transformers' ViTs have in common.
    fn shared(&self) -> Pairs {
        if self.block == HF.block { HF_ATTENTION } else { &[] }
    }
}

/// A whole name, or a module's with the leaf put behind it.
fn look_up(table: Pairs, name: &str) -> Option<Vec<String>> {
    let find = |name: &str| table.iter().find(|(ours, _)| *ours == name).map(|(_, theirs)| *theirs);
    if let Some(theirs) = find(name) {
        return Some(theirs.iter().map(|t| t.to_string()).collect());
    }
    let (module, leaf) = name.rsplit_once('.')?;
    find(module).map(|theirs| theirs.iter().map(|t| format!("{t}.{leaf}")).collect())
}
