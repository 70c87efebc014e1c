//! A file's model held against the one that is asked for.

mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fd_compute::{Layout, Params};
use fd_weights::WeightFile;

use super::recognise::Tensors;
use super::{Found, Health, Import};
use crate::names::{Foreign, Form, Naming};
use crate::{Checkpoint, Head, Model, ModelConfig, ModelError, Resized, Tensor};

/// What is not refused.
#[derive(Clone, Debug, Default)]
pub struct Allow {
    /// Names (ours or the file's; `*` at the end stands for any rest) of tensors that may be missing, left over, of another shape or not
    /// finite. A parameter without its tensor keeps the value it has.
    pub names: Vec<String>,
    /// Position tables of another grid or window: interpolate them.
    pub interpolate: bool,
}

impl Allow {
    fn names(&self, name: &str) -> bool {
        self.names.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        })
    }
}

/// A tensor that is not simply read.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// The model needs it, the file has it not.
    Missing {
        /// Our name.
        tensor: String,
        /// What it is called in such a file.
        theirs: String,
    },
    /// The file has it, the model has no place for it.
    Unexpected {
        /// Its name in the file.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Another shape than the model needs.
    Reshaped {
        /// Its name in the file.
        tensor: String,
        /// The shape that the model needs there.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// Not a float.
    Type {
        /// Its name in the file.
        tensor: String,
        /// Its type.
        found: String,
    },
    /// A position table for another grid or window, made to fit.
    Interpolated(Resized),
    /// Not part of an encoder, and known as that.
    Aside {
        /// Its name in the file.
        tensor: String,
        /// What it is.
        what: &'static str,
    },
}

/// What holding a file against a model found. Nothing has been read yet but position tables that are interpolated.
#[derive(Debug)]
pub struct Fit<'a> {
    file: &'a WeightFile,
    found: &'a Found,
    asked: ModelConfig,
    layout: Arc<Layout>,
    /// Our name, and the tensors in the file that it is read from.
    read: Vec<(String, Foreign)>,
    /// What is not simply read, and whether that was allowed by name.
    rows: Vec<(Row, bool)>,
    resized: BTreeMap<String, Tensor>,
    outside: BTreeMap<String, usize>,
    allow: Allow,
}

impl<'a> Fit<'a> {
    pub(super) fn of(import: &'a Import, found: &'a Found, asked: &ModelConfig, allow: &Allow) -> Result<Fit<'a>, ModelError> {
        let mut layout = Layout::builder();
        Model::declare(asked, &mut layout, "")?;
        let mut fit = Fit {
            file: &import.file,
            found,
            asked: asked.clone(),
            layout: layout.finish(),
            read: vec![],
            rows: vec![],
            resized: BTreeMap::new(),
            outside: BTreeMap::new(),
            allow: allow.clone(),
        };
        let tensors = Tensors::below(&import.file, &found.root);
        let mut used = BTreeSet::new();
        let mut tables = vec![];
        for p in fit.layout.clone().iter() {
            let (name, shape) = (fit.layout.name(p).to_string(), fit.layout.shape(p).to_vec());
            fit.parameter(&tensors, &name, &shape, &mut used, &mut tables);
        }
        fit.interpolate(tables)?;
        fit.left_over(&tensors, &used);
        Ok(fit)
    }

    fn push(&mut self, row: Row, names: &[&str]) {
        let allowed = names.iter().any(|name| self.allow.names(name));
        self.rows.push((row, allowed));
    }

    /// One parameter of the model: read, missing, misshapen, or a table that may be interpolated.
    fn parameter(&mut self, tensors: &Tensors, name: &str, shape: &[usize], used: &mut BTreeSet<String>, tables: &mut Vec<String>) {
        let Some(mut foreign) = self.found.naming.of(name) else {
            return self.push(Row::Missing { tensor: name.into(), theirs: "(no name there)".into() }, &[name]);
        };
        let absent: Vec<&String> = foreign.parts.iter().filter(|part| !tensors.shapes.contains_key(*part)).collect();
        if !absent.is_empty() {
            let theirs = absent.iter().map(|part| format!("{}{part}", self.found.root)).collect::<Vec<_>>().join(", ");
            used.extend(foreign.parts.iter().cloned());
            return self.push(Row::Missing { tensor: name.into(), theirs }, &[name]);
        }
        if name == "pos_embed" && foreign.form == Form::Same {
            // Where there is no position for the CLS token (registers, or none at all), it is zero.
            let patches = Foreign { form: Form::WithoutCls, ..foreign.clone() };
            let found = tensors.shapes.get(&patches.parts[0]);
            if self.asked.cls_token() && patches.shape(shape).as_ref() == found {
                foreign = patches;
            }
        }
        let expected = foreign.shape(shape);
        used.extend(foreign.parts.iter().cloned());
        for part in &mut foreign.parts {
            let found = &tensors.shapes[part];
            *part = format!("{}{}", self.found.root, tensors.chunked.get(part).unwrap_or(part));
            if expected.as_ref() != Some(found) {
                let table = name.contains("pos_embed") || name.ends_with("relative_position_bias_table");
                if table && self.allow.interpolate {
                    return tables.push(name.to_string());
                }
                let row = Row::Reshaped { tensor: part.clone(), expected: expected.unwrap_or_default(), found: found.clone() };
                let part = part.clone();
                return self.push(row, &[name, &part]);
            }
            let dtype = self.file.entries().get(part).map(|e| e.dtype);
            if let Some(dtype) = dtype.filter(|d| !d.is_float()) {
                let part = part.clone();
                return self.push(Row::Type { tensor: part.clone(), found: dtype.to_string() }, &[name, &part]);
            }
        }
        self.read.push((name.to_string(), foreign));
    }

    /// Position tables of another size, all of which have to be interpolated together.
    fn interpolate(&mut self, tables: Vec<String>) -> Result<(), ModelError> {
        if tables.is_empty() {
            return Ok(());
        }
        let mut weights = Checkpoint { source: self.file.source().into(), ..Checkpoint::default() };
        for name in tables {
            let Some(foreign) = self.found.naming.of(&name) else { continue };
            let part = format!("{}{}", self.found.root, foreign.name());
            let mut shape = self.file.entries().get(&part).map(|e| e.shape.clone()).unwrap_or_default();
            // CLIP leaves out leading extents of 1.
            let ours = self.layout.find(&name).map_or(shape.len(), |p| self.layout.shape(p).len());
            while shape.len() < ours {
                shape.insert(0, 1);
            }
            let data = self.file.read_f32(&part)?;
            weights.tensors.insert(name, Tensor { shape, data });
        }
        let resized = weights.resize_positions(&self.asked, None)?;
        self.rows.extend(resized.into_iter().map(|r| (Row::Interpolated(r), true)));
        self.resized = weights.tensors;
        Ok(())
    }

    /// What nothing of the model was read from.
    fn left_over(&mut self, tensors: &Tensors, used: &BTreeSet<String>) {
        for (short, shape) in tensors.shapes.iter().filter(|(name, _)| !used.contains(*name)) {
            let tensor = format!("{}{}", self.found.root, tensors.chunked.get(short).unwrap_or(short));
            match self.aside(short) {
                Some(what) => self.rows.push((Row::Aside { tensor, what }, true)),
                None => self.push(Row::Unexpected { tensor: tensor.clone(), shape: shape.clone() }, &[short, &tensor]),
            }
        }
        for name in self.file.entries().keys().filter(|name| !name.starts_with(&self.found.root)) {
            let top = name.split('.').take(2).collect::<Vec<_>>().join(".");
            *self.outside.entry(top).or_default() += 1;
        }
    }

    /// Known parts of such files that no encoder has.
    fn aside(&self, name: &str) -> Option<&'static str> {
        let starts = |heads: &[&str]| heads.iter().any(|head| name.starts_with(head));
        let ends = |tails: &[&str]| tails.iter().any(|tail| name.ends_with(tail));
        let features = match &self.asked {
            ModelConfig::Vit(c) => c.head == Head::Features,
            ModelConfig::Swin(c) => c.head == Head::Features,
        };
        match () {
            () if ends(&["relative_position_index", "relative_coords_table", "attn_mask", "position_ids"]) => Some("computed anew"),
            () if ends(&["attn.k_bias"]) && self.zero(name) => Some("zeros"),
            () if features && starts(&["head.", "head_dist.", "classifier.", "fc.", "pooler.", "last_layer.", "lm_head."]) => {
                Some("a head")
            }
            () if name == "mask_token" || name == "embeddings.mask_token" || starts(&["decoder", "mask_token"]) => Some("of pretraining"),
            () if self.found.naming == Naming::HfClip && (starts(&["text_model.", "text_projection."]) || name == "logit_scale") => {
                Some("CLIP's text encoder")
            }
            () => None,
        }
    }

    fn zero(&self, name: &str) -> bool {
        self.file.read_f32(&format!("{}{name}", self.found.root)).is_ok_and(|v| v.iter().all(|v| *v == 0.0))
    }

    /// The model of the file.
    pub fn found(&self) -> &Found {
        self.found
    }

    /// What is not simply read, and whether that was allowed.
    pub fn rows(&self) -> &[(Row, bool)] {
        &self.rows
    }

    /// Rows that stand against loading.
    pub fn refused(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|(_, allowed)| !allowed).map(|(row, _)| row)
    }

    /// One parameter's values as we store them.
    fn values(&self, name: &str, foreign: &Foreign, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let mut values = match foreign.parts.as_slice() {
            [one] => self.file.read_f32(one)?,
            parts => {
                let mut all = Vec::with_capacity(shape.iter().product());
                parts.iter().try_for_each(|part| self.file.read_f32(part).map(|v| all.extend(v)))?;
                all
            }
        };
        let broken = values.iter().filter(|v| !v.is_finite()).count();
        if broken > 0 && !self.allow.names(name) && !foreign.parts.iter().any(|part| self.allow.names(part)) {
            let (file, tensor) = (self.file.source().to_string(), foreign.name());
            return Err(ModelError::NotFinite { file, tensor, count: broken });
        }
        values = foreign.to_ours(values, shape);
        Ok(values)
    }

    /// Calls `each` with every parameter that the file gives: our name, our shape, its values; one at a time.
    fn for_each(&self, mut each: impl FnMut(&str, &[usize], Vec<f32>)) -> Result<(), ModelError> {
        self.check()?;
        for (name, foreign) in &self.read {
            let Some(p) = self.layout.find(name) else { continue };
            let shape = self.layout.shape(p);
            each(name, shape, self.values(name, foreign, shape)?);
        }
        self.resized.iter().for_each(|(name, tensor)| each(name, &tensor.shape, tensor.data.clone()));
        Ok(())
    }

    /// The weights under our names, with the model's description.
    ///
    /// # Errors
    /// Those of [`Fit::check`]; numbers that are not finite; a file that cannot be read.
    pub fn checkpoint(&self) -> Result<Checkpoint, ModelError> {
        let mut weights = Checkpoint { source: self.file.source().into(), ..Checkpoint::default() };
        self.for_each(|name, shape, data| drop(weights.tensors.insert(name.into(), Tensor { shape: shape.to_vec(), data })))?;
        weights.described(&self.asked, Some(&self.found.statistics()))
    }

    /// The head that stands beside an encoder in a file with official names (`head.`), such as a classifier to train on with.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn head(&self) -> Result<BTreeMap<String, Tensor>, ModelError> {
        let mut head = BTreeMap::new();
        let root = &self.found.root;
        for (name, entry) in self.file.entries().iter().filter(|_| self.found.naming == Naming::Official) {
            let short = name.strip_prefix(root).filter(|short| short.starts_with("head."));
            if let Some(short) = short.filter(|_| entry.dtype.is_float()) {
                head.insert(short.to_string(), Tensor { shape: entry.shape.clone(), data: self.file.read_f32(name)? });
            }
        }
        Ok(head)
    }

    /// Reads the weights into parameters whose layout calls them `<prefix><our name>`; of the file, one tensor is in memory at a time.
    ///
    /// # Errors
    /// Those of [`Fit::checkpoint`]; then some parameters may have been set already.
    pub fn load(&self, params: &mut Params, prefix: &str) -> Result<(), ModelError> {
        let layout = params.layout().clone();
        let mut missing = None;
        self.for_each(|name, _, data| match layout.find(&format!("{prefix}{name}")) {
            Some(p) => params.set(p, &data.into_iter().map(f64::from).collect::<Vec<_>>()),
            None => missing = Some(name.to_string()),
        })?;
        match missing {
            Some(tensor) => Err(ModelError::Unexpected { file: self.file.source().into(), tensor }),
            None => Ok(()),
        }
    }

    /// Reads every tensor once and keeps none. Returns the names of matrices that hold one value throughout: untouched by training, or
    /// lost.
    ///
    /// # Errors
    /// Those of [`Fit::checkpoint`].
    pub fn verify(&self) -> Result<Vec<String>, ModelError> {
        let mut constant = vec![];
        self.for_each(|name, shape, data| {
            if shape.iter().filter(|n| **n > 1).count() > 1 && Health::of_values(data.into_iter().map(f64::from)).constant() {
                constant.push(name.to_string());
            }
        })?;
        Ok(constant)
    }
}
