//! Which architecture a file's names and shapes are of.

mod swin;
mod vit;

use std::collections::BTreeMap;

use fd_weights::WeightFile;

use crate::describe::{Statistics, summary};
use crate::names::{Foreign, Form, Naming};
use crate::presets::nearest;
use crate::{ModelConfig, QkvBias};

/// A model of a file.
#[derive(Clone, Debug)]
pub struct Found {
    /// What stands before its tensors' names: nothing, or a path that ends in a dot.
    pub root: String,
    /// Whose names they are.
    pub naming: Naming,
    /// What names and shapes say it is: an encoder of features, or a fine-tuned classifier where there is no norm over all tokens.
    pub config: ModelConfig,
    /// Statistics of the channels it was trained with, if the file says so.
    pub normalise: Option<Statistics>,
    /// What the file does not say and is taken from what such models usually are.
    pub assumed: Vec<String>,
}

impl Found {
    /// The statistics of the channels: the file's, or those that models of this family were trained with.
    pub fn statistics(&self) -> Statistics {
        self.normalise.clone().unwrap_or_else(|| Statistics::usual(&self.config))
    }

    /// Its place in words: `teacher.backbone`, or `(top)`.
    pub fn place(&self) -> &str {
        if self.root.is_empty() { "(top)" } else { self.root.trim_end_matches('.') }
    }

    /// Is `key` a run of whole parts of its path?
    pub fn lies_at(&self, key: &str) -> bool {
        format!(".{}", self.root).contains(&format!(".{}.", key.trim_matches('.')))
    }

    /// One line: the nearest preset, sizes, names.
    pub fn summary(&self) -> String {
        let like = nearest(&self.config).map(|name| format!("{name}: ")).unwrap_or_default();
        format!("{like}{}", summary(&self.config))
    }

    pub(super) fn recognise(file: &WeightFile, root: &str) -> Found {
        let tensors = Tensors::below(file, root);
        let naming = tensors.naming();
        let mut reader = Reader { file, root, tensors: &tensors, naming, assumed: vec![] };
        let (stated, normalise) = crate::describe::stated(file.notes());
        let config = match stated.filter(|config| root.is_empty() && reader.is_of(config)) {
            Some(config) => config,
            None if tensors.blocks.stages.is_empty() => ModelConfig::Vit(reader.vit()),
            None => ModelConfig::Swin(reader.swin()),
        };
        let assumed = reader.assumed;
        Found { root: root.into(), naming, config, normalise: normalise.filter(|_| root.is_empty()), assumed }
    }
}

/// A model's tensors, by their names without the root.
pub(super) struct Tensors {
    /// Name and shape; DINOv2's chunked blocks (`blocks.0.3.`) are called as if they were not.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// Its name in the file, where that is another.
    pub chunked: BTreeMap<String, String>,
    blocks: Blocks,
}

#[derive(Default)]
struct Blocks {
    /// Blocks of each stage of a Swin.
    stages: BTreeMap<usize, usize>,
}

impl Tensors {
    pub fn below(file: &WeightFile, root: &str) -> Tensors {
        let others: Vec<String> = super::roots::find(file).into_iter().filter(|r| r.len() > root.len() && r.starts_with(root)).collect();
        let mut tensors = Tensors { shapes: BTreeMap::new(), chunked: BTreeMap::new(), blocks: Blocks::default() };
        for (name, entry) in file.entries() {
            let Some(short) = name.strip_prefix(root) else { continue };
            if others.iter().any(|r| name.starts_with(r.as_str())) {
                continue;
            }
            let plain = unchunked(short).unwrap_or_else(|| short.to_string());
            if plain != short {
                tensors.chunked.insert(plain.clone(), short.to_string());
            }
            if let Some((stage, block)) = stage_and_block(&plain) {
                let blocks = tensors.blocks.stages.entry(stage).or_default();
                *blocks = (*blocks).max(block + 1);
            }
            tensors.shapes.insert(plain, entry.shape.clone());
        }
        tensors
    }

    fn has(&self, name: &str) -> bool {
        self.shapes.contains_key(name)
    }

    fn any(&self, part: &str) -> bool {
        self.shapes.keys().any(|name| name.contains(part))
    }

    fn naming(&self) -> Naming {
        let swin = !self.blocks.stages.is_empty();
        match () {
            () if self.has("conv1.weight") && self.has("class_embedding") => Naming::Clip,
            () if self.has("vision_model.embeddings.patch_embedding.weight") => Naming::HfClip,
            () if self.has("embeddings.patch_embeddings.projection.weight") && swin => Naming::HfSwin,
            () if self.has("embeddings.patch_embeddings.projection.weight") => {
                let dinov2 = self.any("layer_scale1.lambda1") || self.any(".norm1.weight");
                if dinov2 { Naming::HfDinoV2 } else { Naming::Hf }
            }
            () if swin => {
                let shifted = self.any("downsample.") && !self.any("layers.0.downsample.");
                match (shifted, self.any(".cpb_mlp.")) {
                    (true, _) => Naming::TimmSwin,
                    (false, true) => Naming::SwinV2,
                    (false, false) => Naming::Official,
                }
            }
            () if self.has("register_tokens") || self.any(".ls1.gamma") && self.has("mask_token") => Naming::DinoV2,
            () if self.any(".ls1.gamma") || self.has("reg_token") || self.has("norm_pre.weight") && !self.has("proj.weight") => {
                Naming::Timm
            }
            () => Naming::Official,
        }
    }
}

/// `blocks.<chunk>.<block>.rest` without the chunk.
fn unchunked(name: &str) -> Option<String> {
    let (chunk, rest) = name.strip_prefix("blocks.")?.split_once('.')?;
    let (block, _) = rest.split_once('.')?;
    (chunk.parse::<usize>().is_ok() && block.parse::<usize>().is_ok()).then(|| format!("blocks.{rest}"))
}

/// The numbers in `[encoder.]layers.<s>.blocks.<i>.`; larger ones than any model has are none.
fn stage_and_block(name: &str) -> Option<(usize, usize)> {
    let (s, rest) = name.strip_prefix("encoder.").unwrap_or(name).strip_prefix("layers.")?.split_once('.')?;
    let (i, _) = rest.strip_prefix("blocks.")?.split_once('.')?;
    let (s, i) = (s.parse().ok()?, i.parse().ok()?);
    (s < 8 && i < 1024).then_some((s, i))
}

/// Asks for tensors by our names.
struct Reader<'a> {
    file: &'a WeightFile,
    root: &'a str,
    tensors: &'a Tensors,
    naming: Naming,
    assumed: Vec<String>,
}

impl Reader<'_> {
    /// Our shape of a parameter, if every part of it is there.
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let foreign = self.naming.of(name)?;
        let mut shapes = foreign.parts.iter().map(|part| self.tensors.shapes.get(part));
        let mut shape = shapes.next()??.clone();
        for other in shapes {
            *shape.first_mut()? = shape.first()?.checked_add(*other?.first()?)?;
        }
        if foreign.form == Form::Transposed {
            shape.reverse();
        }
        Some(shape)
    }

    fn has(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }

    /// The extent `axis` of a parameter, 0 without it.
    fn extent(&self, name: &str, axis: usize) -> usize {
        self.shape(name).and_then(|s| s.get(axis).copied()).unwrap_or(0)
    }

    /// Has the file every tensor of this model, in its shape?
    fn is_of(&self, config: &ModelConfig) -> bool {
        let mut layout = fd_compute::Layout::builder();
        if crate::Model::declare(config, &mut layout, "").is_err() {
            return false;
        }
        let layout = layout.finish();
        layout.iter().all(|p| {
            let (name, shape) = (layout.name(p), layout.shape(p));
            let Some(foreign) = self.naming.of(name) else { return false };
            let fits = |form: Form| {
                let foreign = Foreign { form, ..foreign.clone() };
                let expected = foreign.shape(shape);
                foreign.parts.iter().all(|part| expected.is_some() && self.tensors.shapes.get(part) == expected.as_ref())
            };
            fits(foreign.form) || name == "pos_embed" && fits(Form::WithoutCls)
        })
    }

    fn assume(&mut self, what: String) {
        self.assumed.push(what);
    }

    fn qkv_bias(&self, block: &str) -> QkvBias {
        let has = |leaf: &str| self.has(&format!("{block}attn.{leaf}"));
        match (has("qkv.bias"), has("q_bias"), has("k_bias")) {
            (true, _, _) => QkvBias::Full,
            // timm keeps a key bias of zeros beside the others.
            (false, true, true) if self.naming == Naming::Official && self.zero(&format!("{block}attn.k_bias")) => QkvBias::Qv,
            (false, true, true) if self.naming == Naming::TimmSwin => QkvBias::Qv,
            (false, true, true) => QkvBias::Qkv,
            (false, true, false) => QkvBias::Qv,
            (false, false, _) => QkvBias::None,
        }
    }

    /// Is a tensor there, and zero throughout?
    fn zero(&self, name: &str) -> bool {
        self.file.read_f32(&format!("{}{name}", self.root)).is_ok_and(|values| values.iter().all(|v| *v == 0.0))
    }
}
