//! Names of the same parameter in other code: what a checkpoint calls it, and whether it is stored the other way round.
//!
//! Inside this workspace a parameter is called as the official distillation code calls it, whatever family the model is of.

/// Whose names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// The official distillation code's, which are ours.
    Official,
    /// OpenAI's CLIP's visual encoder's (`class_embedding`, `transformer.resblocks.{i}.ln_1.weight`).
    Clip,
}

/// A parameter elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Its name.
    pub name: String,
    /// Is the matrix stored [in, out]?
    pub transposed: bool,
    /// Is it stored without our leading extents of 1?
    pub squeezed: bool,
}

impl Foreign {
    /// Its shape there, from ours.
    pub fn shape(&self, ours: &[usize]) -> Vec<usize> {
        let mut shape = ours.to_vec();
        if self.transposed {
            shape.reverse();
        }
        let ones = if self.squeezed { shape.iter().take_while(|n| **n == 1).count() } else { 0 };
        shape.split_off(ones)
    }
}

/// (ours, CLIP's) of a block.
const CLIP_BLOCK: [(&str, &str); 12] = [
    ("norm1.weight", "ln_1.weight"),
    ("norm1.bias", "ln_1.bias"),
    ("attn.qkv.weight", "attn.in_proj_weight"),
    ("attn.qkv.bias", "attn.in_proj_bias"),
    ("attn.proj.weight", "attn.out_proj.weight"),
    ("attn.proj.bias", "attn.out_proj.bias"),
    ("norm2.weight", "ln_2.weight"),
    ("norm2.bias", "ln_2.bias"),
    ("mlp.fc1.weight", "mlp.c_fc.weight"),
    ("mlp.fc1.bias", "mlp.c_fc.bias"),
    ("mlp.fc2.weight", "mlp.c_proj.weight"),
    ("mlp.fc2.bias", "mlp.c_proj.bias"),
];

/// (ours, CLIP's) of the rest.
const CLIP: [(&str, &str); 8] = [
    ("cls_token", "class_embedding"),
    ("pos_embed", "positional_embedding"),
    ("patch_embed.proj.weight", "conv1.weight"),
    ("norm_pre.weight", "ln_pre.weight"),
    ("norm_pre.bias", "ln_pre.bias"),
    ("norm.weight", "ln_post.weight"),
    ("norm.bias", "ln_post.bias"),
    ("proj.weight", "proj"),
];

impl Naming {
    /// What our parameter `name` is called there; none where they have no such parameter.
    pub fn of(self, name: &str) -> Option<Foreign> {
        let plain = |name: String| Foreign { name, transposed: false, squeezed: false };
        if self == Naming::Official {
            return Some(plain(name.to_string()));
        }
        if let Some((index, rest)) = name.strip_prefix("blocks.").and_then(|n| n.split_once('.')) {
            let (_, theirs) = CLIP_BLOCK.iter().find(|(ours, _)| *ours == rest)?;
            return Some(plain(format!("transformer.resblocks.{index}.{theirs}")));
        }
        let (_, theirs) = CLIP.iter().find(|(ours, _)| *ours == name)?;
        let squeezed = matches!(name, "cls_token" | "pos_embed");
        Some(Foreign { name: (*theirs).to_string(), transposed: name == "proj.weight", squeezed })
    }
}

/// A matrix [rows, cols] as [cols, rows].
pub fn transpose<T: Copy>(values: &[T], rows: usize, cols: usize) -> Vec<T> {
    (0..cols).flat_map(|j| (0..rows).map(move |i| values[i * cols + j])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clips_names() {
        let of = |name: &str| Naming::Clip.of(name).map(|f| f.name);
        assert_eq!(of("blocks.11.mlp.fc2.bias").as_deref(), Some("transformer.resblocks.11.mlp.c_proj.bias"));
        assert_eq!(of("cls_token").as_deref(), Some("class_embedding"));
        assert!(of("blocks.0.gamma_1").is_none() && of("patch_embed.proj.bias").is_none());
        let proj = Naming::Clip.of("proj.weight").unwrap();
        assert_eq!((proj.name.as_str(), proj.shape(&[512, 768])), ("proj", vec![768, 512]));
        assert_eq!(Naming::Clip.of("pos_embed").unwrap().shape(&[1, 197, 768]), [197, 768]);
        assert_eq!(Naming::Clip.of("norm.bias").unwrap().shape(&[768]), [768]);
        assert_eq!(transpose(&[1, 2, 3, 4, 5, 6], 2, 3), [1, 4, 2, 5, 3, 6]);
    }
}
