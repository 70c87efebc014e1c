//! Weights for other code: an encoder's tensors under the names, and in the form, of a class of PyTorch's.

use std::collections::BTreeMap;

use fd_compute::Layout;

use crate::names::{Naming, Style};
use crate::{Checkpoint, Model, ModelConfig, ModelError, Statistics, Tensor};

/// Weights in other code's names.
#[derive(Clone, Debug)]
pub struct Export {
    /// The tensors, with the model's description as metadata.
    pub weights: Checkpoint,
    /// Whose names they have.
    pub naming: Naming,
}

/// An encoder's weights (our names, complete) in a style's names. What the class there has beside them and an encoder does not use (a
/// mask token, the bias of CLIP's projection) is added as zeros, so that strict loading succeeds.
///
/// # Errors
/// A model that no class of the style can be, in words; weights that are not those of the model.
pub fn export(mut weights: Checkpoint, model: &ModelConfig, normalise: Option<&Statistics>, style: Style) -> Result<Export, ModelError> {
    let naming = Naming::for_model(style, model).map_err(|why| ModelError::Config { key: "model", why })?;
    let mut layout = Layout::builder();
    Model::declare(model, &mut layout, "")?;
    let layout = layout.finish();
    let file = weights.source.clone();
    let known = |name: &String| layout.find(name).is_some();
    if let Some(tensor) = weights.tensors.keys().find(|name| !known(name)) {
        return Err(ModelError::Unexpected { file, tensor: tensor.clone() });
    }
    let mut out = BTreeMap::new();
    for p in layout.iter() {
        let (name, shape) = (layout.name(p), layout.shape(p));
        // Taken, not copied: a large model is in memory once.
        let tensor = weights.tensors.remove(name).ok_or_else(|| ModelError::Missing { file: file.clone(), tensor: name.into() })?;
        if tensor.shape != shape {
            return Err(ModelError::Shape { file, tensor: name.into(), expected: shape.into(), found: tensor.shape });
        }
        let no_name = || ModelError::Config { key: "model", why: format!("`{name}` has no place among {}", naming.title()) };
        let foreign = naming.of(name).ok_or_else(no_name)?;
        let part = foreign.shape(shape).ok_or_else(no_name)?;
        let mut values = foreign.to_theirs(tensor.data, shape);
        if foreign.parts.len() == 1 {
            out.extend(foreign.parts.into_iter().map(|name| (name, Tensor { shape: part.clone(), data: std::mem::take(&mut values) })));
            continue;
        }
        let each = values.len() / foreign.parts.len();
        for (name, values) in foreign.parts.into_iter().zip(values.chunks_exact(each.max(1))) {
            out.insert(name, Tensor { shape: part.clone(), data: values.to_vec() });
        }
    }
    complete(&mut out, model, naming);
    let metadata = [("format".to_string(), "pt".to_string())].into();
    let weights = Checkpoint { source: file, tensors: out, metadata }.described(model, normalise)?;
    Ok(Export { weights, naming })
}

/// What the class has beside an encoder's parameters.
fn complete(out: &mut BTreeMap<String, Tensor>, model: &ModelConfig, naming: Naming) {
    let ModelConfig::Vit(c) = model else { return };
    let mut zeros = |name: &str, shape: &[usize]| {
        out.insert(name.into(), Tensor { shape: shape.into(), data: vec![0.0; shape.iter().product()] });
    };
    match (naming, c.proj_dim) {
        (Naming::Timm, Some(dim)) => zeros("head.bias", &[dim]),
        (Naming::DinoV2, _) => zeros("mask_token", &[1, c.embed_dim]),
        (Naming::HfDinoV2, _) => zeros("embeddings.mask_token", &[1, c.embed_dim]),
        _ => {}
    }
    // timm gives positions to patches only where there are registers: the CLS token then carries its own.
    if naming == Naming::Timm && c.reg_tokens > 0 && c.cls_token {
        let width = c.embed_dim;
        let Some(mut pos) = out.remove("pos_embed") else { return };
        let own: Vec<f32> = pos.data.drain(..width.min(pos.data.len())).collect();
        if let Some(rows) = pos.shape.get_mut(1) {
            *rows = rows.saturating_sub(1);
        }
        if let Some(cls) = out.get_mut("cls_token") {
            cls.data.iter_mut().zip(own).for_each(|(c, p)| *c += p);
        }
        out.insert("pos_embed".into(), pos);
    }
}
