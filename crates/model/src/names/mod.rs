//! What other code calls the same parameters, and how it stores them.
//!
//! Inside this workspace a parameter is called as the official distillation code calls it, whatever family the model is of. A
//! [`Naming`] is one class's names: forwards it says where a tensor of ours comes from ([`Naming::of`]), so that reading, writing and
//! recognising a file are one table a class.

mod elsewhere;
mod tables;

use crate::{ModelConfig, Position, QkvBias};
pub use elsewhere::{huggingface_config, python};
use tables::Table;

/// Whose names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Naming {
    /// The official distillation code's, which are ours; DINO, DeiT, MAE, BEiT, Swin v1 and timm's `Beit` have the same.
    Official,
    /// OpenAI's CLIP's visual encoder's (`class_embedding`, `transformer.resblocks.{i}.ln_1.weight`).
    Clip,
    /// DINOv2's (`blocks.{i}.ls1.gamma`, `register_tokens`).
    DinoV2,
    /// Swin v2's own release's (`attn.cpb_mlp`).
    SwinV2,
    /// timm's `VisionTransformer`'s (`blocks.{i}.ls1.gamma`, `reg_token`; CLIP's projection is its `head`).
    Timm,
    /// timm's `SwinTransformer`'s and `SwinTransformerV2`'s (patch merging belongs to the stage after it).
    TimmSwin,
    /// transformers' `ViTModel`'s, `BeitModel`'s and `ViTMAEModel`'s (`encoder.layer.{i}.attention.attention.query.weight`).
    Hf,
    /// transformers' `Dinov2Model`'s.
    HfDinoV2,
    /// transformers' `CLIPVisionModelWithProjection`'s.
    HfClip,
    /// transformers' `SwinModel`'s and `Swinv2Model`'s.
    HfSwin,
}

/// In whose names weights are asked for; the class follows from the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// The names of the code that published the architecture.
    Official,
    /// timm's.
    Timm,
    /// Hugging Face transformers'.
    Hf,
}

/// A parameter elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The tensors it is stored in: one, or several whose rows follow each other (query, key, value).
    pub parts: Vec<String>,
    /// How.
    pub form: Form,
}

/// How a tensor is stored elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is here.
    Same,
    /// A matrix stored [in, out].
    Transposed,
    /// Without our leading extents of 1.
    Squeezed,
    /// Without our first row, which is then zero: positions of patches alone.
    WithoutCls,
}

impl Foreign {
    /// The shape of each part there, from our shape of the whole; none where the rows cannot be shared out.
    pub fn shape(&self, ours: &[usize]) -> Option<Vec<usize>> {
        let mut shape = ours.to_vec();
        match self.form {
            Form::Same => {}
            Form::Transposed => shape.reverse(),
            Form::WithoutCls => *shape.iter_mut().rev().nth(1)? = shape.iter().rev().nth(1)?.checked_sub(1)?,
            Form::Squeezed => drop(shape.drain(..shape.iter().take_while(|n| **n == 1).count())),
        }
        if self.parts.len() > 1 {
            let rows = shape.first_mut()?;
            if !rows.is_multiple_of(self.parts.len()) {
                return None;
            }
            *rows /= self.parts.len();
        }
        Some(shape)
    }

    /// Values there, parts one after the other, as we store them; `shape` is ours.
    pub fn to_ours<T: Copy + Default>(&self, values: Vec<T>, shape: &[usize]) -> Vec<T> {
        match (self.form, shape) {
            (Form::Transposed, &[rows, cols]) => transpose(&values, cols, rows),
            (Form::WithoutCls, &[.., cols]) => std::iter::repeat_n(T::default(), cols).chain(values).collect(),
            _ => values,
        }
    }

    /// Our values of `shape` as they are stored there.
    pub fn to_theirs<T: Copy>(&self, values: Vec<T>, shape: &[usize]) -> Vec<T> {
        match (self.form, shape) {
            (Form::Transposed, &[rows, cols]) => transpose(&values, rows, cols),
            (Form::WithoutCls, &[.., cols]) => values.into_iter().skip(cols).collect(),
            _ => values,
        }
    }

    /// Its name, or names, for messages.
    pub fn name(&self) -> String {
        self.parts.join(" + ")
    }
}

impl Naming {
    /// All of them.
    pub const ALL: [Naming; 10] = [
        Naming::Official,
        Naming::Clip,
        Naming::DinoV2,
        Naming::SwinV2,
        Naming::Timm,
        Naming::TimmSwin,
        Naming::Hf,
        Naming::HfDinoV2,
        Naming::HfClip,
        Naming::HfSwin,
    ];

    /// What our parameter `name` is called there; none where they have no such parameter.
    pub fn of(self, name: &str) -> Option<Foreign> {
        Table::of(self).foreign(name)
    }

    /// Whose names these are, in words.
    pub fn title(self) -> &'static str {
        match self {
            Naming::Official => "official names",
            Naming::Clip => "OpenAI CLIP's names",
            Naming::DinoV2 => "DINOv2's names",
            Naming::SwinV2 => "Swin v2's official names",
            Naming::Timm => "timm's names",
            Naming::TimmSwin => "timm's Swin names",
            Naming::Hf => "transformers' ViT names",
            Naming::HfDinoV2 => "transformers' DINOv2 names",
            Naming::HfClip => "transformers' CLIP names",
            Naming::HfSwin => "transformers' Swin names",
        }
    }

    /// The class of a style that a model is written as.
    ///
    /// # Errors
    /// What no class there can express, in words.
    pub fn for_model(style: Style, model: &ModelConfig) -> Result<Naming, String> {
        let ModelConfig::Vit(c) = model else {
            let published = matches!(model, ModelConfig::Swin(c) if c.is_published());
            let continuous = matches!(model, ModelConfig::Swin(c) if c.position == crate::SwinPosition::Mlp);
            return match style {
                Style::Official => Ok(if continuous && published { Naming::SwinV2 } else { Naming::Official }),
                _ if !published => Err("only Swins with all options of version 1, or all of version 2, have a class there".into()),
                Style::Timm => Ok(Naming::TimmSwin),
                Style::Hf => Ok(Naming::HfSwin),
            };
        };
        let relative = c.position.relative() || c.position.shared();
        // Only the BEiT classes have relative positions and query and value biases apart.
        let beit = relative || c.qkv_bias != QkvBias::Full;
        if beit && style != Style::Official {
            let refuse = |what: &str| Err(format!("a ViT with relative positions or with query and value biases is a BEiT there, {what}"));
            if c.qkv_bias == QkvBias::Full || c.qkv_bias == QkvBias::Qkv {
                return refuse("which has no key bias (qkv_bias = \"qv\" or \"none\")");
            }
            if !c.cls_token || c.reg_tokens > 0 || c.pre_norm || c.proj_dim.is_some() || !c.patch_bias {
                return refuse("which has a CLS token, no registers, no norm before the blocks and no projection");
            }
        }
        if c.position == Position::SinCos && style != Style::Official {
            return Err("sine and cosine positions are no parameter of ours; there they are stored".into());
        }
        let clip = c.pre_norm || c.proj_dim.is_some() || !c.patch_bias;
        if clip && style != Style::Timm && !(c.pre_norm && !c.patch_bias && c.cls_token && c.layer_scale.is_none()) {
            return Err("a ViT with some of CLIP's options only has no class there".into());
        }
        Ok(match style {
            Style::Official if clip => Naming::Clip,
            Style::Official if c.layer_scale.is_some() && !beit => Naming::DinoV2,
            Style::Official => Naming::Official,
            Style::Timm if beit => Naming::Official,
            Style::Timm => Naming::Timm,
            Style::Hf if clip => Naming::HfClip,
            Style::Hf if (c.layer_scale.is_some() || c.reg_tokens > 0) && !beit => Naming::HfDinoV2,
            Style::Hf => Naming::Hf,
        })
    }
}

/// A matrix [rows, cols] as [cols, rows].
pub fn transpose<T: Copy>(values: &[T], rows: usize, cols: usize) -> Vec<T> {
    (0..cols).flat_map(|j| (0..rows).map(move |i| values[i * cols + j])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(naming: Naming, name: &str) -> Option<String> {
        naming.of(name).map(|f| f.name())
    }

    #[test]
    fn clips_names() {
        assert_eq!(of(Naming::Clip, "blocks.11.mlp.fc2.bias").as_deref(), Some("transformer.resblocks.11.mlp.c_proj.bias"));
        assert_eq!(of(Naming::Clip, "cls_token").as_deref(), Some("class_embedding"));
        assert!(Naming::Clip.of("blocks.0.gamma_1").is_none() && Naming::Clip.of("layers.0.blocks.1.norm1.bias").is_none());
        let proj = Naming::Clip.of("proj.weight").unwrap();
        assert_eq!((proj.name().as_str(), proj.shape(&[512, 768])), ("proj", Some(vec![768, 512])));
        assert_eq!(Naming::Clip.of("pos_embed").unwrap().shape(&[1, 197, 768]), Some(vec![197, 768]));
        assert_eq!(Naming::Clip.of("norm.bias").unwrap().shape(&[768]), Some(vec![768]));
        assert_eq!(transpose(&[1, 2, 3, 4, 5, 6], 2, 3), [1, 4, 2, 5, 3, 6]);
        let there = proj.to_theirs(vec![1, 2, 3, 4, 5, 6], &[2, 3]);
        assert_eq!((&there[..], proj.to_ours(there.clone(), &[2, 3])), (&[1, 4, 2, 5, 3, 6][..], vec![1, 2, 3, 4, 5, 6]));
    }

    #[test]
    fn a_joint_projection_is_three_there() {
        let qkv = Naming::Hf.of("blocks.3.attn.qkv.weight").unwrap();
        assert_eq!(qkv.parts[1], "encoder.layer.3.attention.attention.key.weight");
        assert_eq!(qkv.shape(&[12, 4]), Some(vec![4, 4]));
        assert_eq!(qkv.shape(&[13, 4]), None);
        assert_eq!(of(Naming::Hf, "blocks.3.attn.q_bias").as_deref(), Some("encoder.layer.3.attention.attention.query.bias"));
    }

    #[test]
    fn patch_merging_belongs_to_the_next_stage_in_timm() {
        assert_eq!(of(Naming::TimmSwin, "layers.0.downsample.norm.bias").as_deref(), Some("layers.1.downsample.norm.bias"));
        assert_eq!(of(Naming::TimmSwin, "layers.2.blocks.1.attn.rpe_mlp.0.bias").as_deref(), Some("layers.2.blocks.1.attn.cpb_mlp.0.bias"));
        assert_eq!(of(Naming::HfSwin, "layers.2.blocks.1.norm2.bias").as_deref(), Some("encoder.layers.2.blocks.1.layernorm_after.bias"));
        assert_eq!(of(Naming::Official, "layers.0.downsample.norm.bias").as_deref(), Some("layers.0.downsample.norm.bias"));
    }
}
