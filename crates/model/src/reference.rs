//! The plain vision transformer in dfdx: what the model *is*, in as few lines as it takes.
//!
//! This file is the specification. The engine that trains (`fd-compute`) is fused, threaded and hard to read; this one is none of
//! that: every line is a formula, and dfdx differentiates it. Wherever the two disagree, the engine is wrong. Start at
//! [`Reference::forward`] and read down; the arithmetic below it is in [`ops`], the names and shapes of the weights in
//! [`shapes`], the way from a loss to its gradients in [`Reference::gradients`].
//!
//! ```text
//! images [B, c, H, W] → patches, a linear layer each → [CLS] + patches (+ pos_embed)      tokens [B, N, C]
//! a block:   x ← x + γ₁ · Attention(LayerNorm(x))
//!            x ← x + γ₂ · Mlp(LayerNorm(x))
//! attention: softmax(q kᵀ / √D + bias[token, token]) v      per head; the bias says how far the tokens lie apart
//! then:      features: norm(x)     mean-pool: head(fc_norm(mean of patches))     cls: head(norm(x)[CLS])
//! ```
//!
//! Two idioms of dfdx are all one has to know:
//! - a tensor's last parameter is its *tape*: `OwnedTape` writes down how to go back, `NoneTape` only computes;
//! - `x.retaped::<T>()` is a second handle on the value `x`, with a tape of its own that is still empty. A residual branch starts
//!   from such a handle; where it meets `x` again the two tapes are merged. So every write-down happens exactly once.
//!
//! Drop path is off: the reference is deterministic. Nothing here is fast.
//!
//! ```
//! use std::collections::BTreeMap;
//! use fd_model::{Activation, Head, Position, QkvBias, VitConfig};
//! use fd_model::reference::{Reference, shapes};
//!
//! let config = VitConfig {
//!     img_size: (8, 12), patch_size: 4, in_chans: 1, embed_dim: 6, depth: 1, num_heads: 2, mlp_ratio: 2.0,
//!     position: Position::SharedRelative, qkv_bias: QkvBias::Qv, layer_scale: Some(0.1), cls_token: true,
//!     activation: Activation::Gelu, ln_eps: 1e-6, head: Head::Features, num_classes: 0, drop_path_rate: 0.0,
//!     ..VitConfig::default()
//! };
//! let weights: BTreeMap<_, _> = shapes(&config).into_iter()
//!     .map(|(name, shape)| { let n = shape.iter().product(); (name, (shape, vec![0.5; n])) }).collect();
//! let vit = Reference::<f64>::new(&config, &weights)?;
//! let images = vit.images(&vec![1.0; 2 * 8 * 12])?; // a batch of 2
//! let tokens = vit.forward(images)?.tokens.expect("an encoder of features has tokens");
//! assert_eq!(tokens.as_vec().len(), 2 * 7 * 6); // [B, 1 + 2 · 3, C]
//! # Ok::<(), fd_model::ModelError>(())
//! ```

use std::collections::BTreeMap;

use dfdx::shapes::{Axes2, Axes4, Axes6, Axis, Dtype, HasShape, Shape};
use dfdx::tensor::{Cpu, NoneTape, SplitTape, Tape, Tensor, TensorFromVec};
use dfdx::tensor_ops::{BroadcastTo, Device, GatherTo, MeanTo, PermuteTo, ReshapeTo, TryConcatAlong, TryMatMul};

use crate::{Activation, Head, ModelError, QkvBias, VitConfig};

mod gradients;
pub mod ops;
mod weights;

pub use gradients::Gradients;
pub use weights::{check_shapes, shapes};

/// Images, [B, c, H, W].
pub type Images<E, T = NoneTape> = Tensor<(usize, usize, usize, usize), E, Cpu, T>;
/// Tokens, [B, N, C].
pub type Tokens<E, T = NoneTape> = Tensor<(usize, usize, usize), E, Cpu, T>;
/// Attention of every head, [B, H, N, N]: row = query, column = key; a row sums to 1.
pub type Attention<E> = Tensor<(usize, usize, usize, usize), E, Cpu>;
/// What every head adds to its scores, [H, N, N]: row = query, column = key.
pub type PositionBias<E, T = NoneTape> = Tensor<(usize, usize, usize), E, Cpu, T>;
/// A vector an image, [B, C].
pub type Rows<E, T = NoneTape> = Tensor<(usize, usize), E, Cpu, T>;

/// A vision transformer with its weights. `E` is `f32` or, for proofs, `f64`.
pub struct Reference<E: Dtype> {
    config: VitConfig,
    /// By official name, each one flat: `weight` gives it its shape.
    weights: BTreeMap<String, Tensor<(usize,), E, Cpu>>,
    device: Cpu,
}

/// Everything worth looking at in one forward pass. The values carry no tape; the one tape of the pass lies beside them: put it on
/// the value that a loss is made of, `output.tokens.put_tape(output.tape)`.
pub struct Output<E: Dtype, T> {
    /// The patches after the linear layer, before CLS and position: [B, N without CLS, C].
    pub patch_embed: Tokens<E>,
    /// Each block's attention, after softmax.
    pub attentions: Vec<Attention<E>>,
    /// Each block's output.
    pub blocks: Vec<Tokens<E>>,
    /// The last block's output, before any norm.
    pub tokens_prenorm: Tokens<E>,
    /// After `norm`; with [`Head::MeanPool`] there is none.
    pub tokens: Option<Tokens<E>>,
    /// What `head` reads: after `fc_norm` ([`Head::MeanPool`]) or the CLS token after `norm` ([`Head::Cls`]).
    pub pooled: Option<Rows<E>>,
    /// One number a class, [B, classes]; not with [`Head::Features`].
    pub logits: Option<Rows<E>>,
    /// The way back through all of it.
    pub tape: T,
}

impl<E: Dtype> Reference<E>
where
    Cpu: Device<E>,
{
    /// The model of `config` with these weights: official name → (shape, values in row-major order).
    ///
    /// # Errors
    /// A configuration that cannot be built; a tensor that is missing, of another shape, or no part of the model.
    pub fn new(config: &VitConfig, weights: &BTreeMap<String, (Vec<usize>, Vec<f64>)>) -> Result<Self, ModelError> {
        weights::check(config, weights)?;
        let device = Cpu::default();
        let tensor = |values: &Vec<f64>| device.tensor_from_vec(values.iter().map(|&v| ops::number(v)).collect(), (values.len(),));
        let weights = weights.iter().map(|(name, (_, values))| (name.clone(), tensor(values))).collect();
        Ok(Self { config: config.clone(), weights, device })
    }

    /// What the model is made of.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// A batch of images from their values in the order NCHW; the batch is as large as the values last.
    ///
    /// # Errors
    /// Values that do not make whole images of the configured size.
    pub fn images(&self, values: &[f64]) -> Result<Images<E>, ModelError> {
        let (chans, (height, width)) = (self.config.in_chans, self.config.img_size);
        let one = chans * height * width;
        if values.is_empty() || !values.len().is_multiple_of(one) {
            let why = format!("{} values do not make images of {chans} x {height} x {width}", values.len());
            return Err(ModelError::Config { key: "img_size", why });
        }
        let shape = (values.len() / one, chans, height, width);
        Ok(self.device.tensor_from_vec(values.iter().map(|&v| ops::number(v)).collect(), shape))
    }

    /// Images [B, c, H, W] → everything. `T` decides whether the way back is written down (see [`Reference::gradients`]).
    ///
    /// # Errors
    /// Images of another size than the configured one.
    pub fn forward<T: Tape<E, Cpu>>(&self, images: Images<E, T>) -> Result<Output<E, T>, ModelError> {
        self.check_images(&images)?;
        let x = self.patch_embed(images);
        let patch_embed = x.retaped::<NoneTape>();

        let x = self.prepend_cls(x);
        let mut x = self.add_position(x);

        let (mut attentions, mut blocks) = (Vec::new(), Vec::new());
        for i in 0..self.config.depth {
            let (y, attention) = self.attention(i, self.layer_norm(&format!("blocks.{i}.norm1"), x.retaped::<T>()));
            x = x + self.layer_scale(&format!("blocks.{i}.gamma_1"), y);
            let y = self.mlp(i, self.layer_norm(&format!("blocks.{i}.norm2"), x.retaped::<T>()));
            x = x + self.layer_scale(&format!("blocks.{i}.gamma_2"), y);
            attentions.push(attention);
            blocks.push(x.retaped::<NoneTape>());
        }

        let tokens_prenorm = x.retaped::<NoneTape>();
        let (tokens, pooled, logits, tape) = match self.config.head {
            Head::Features => {
                let (tokens, tape) = self.layer_norm("norm", x).split_tape();
                (Some(tokens), None, None, tape)
            }
            Head::Cls => {
                let x = self.layer_norm("norm", x);
                let tokens = x.retaped::<NoneTape>();
                let (pooled, logits, tape) = self.classify(x.slice((.., 0..1, ..)));
                (Some(tokens), Some(pooled), Some(logits), tape)
            }
            Head::MeanPool => {
                let first_patch = usize::from(self.config.cls_token);
                let mean = x.slice((.., first_patch.., ..)).mean::<(usize, usize), Axis<1>>();
                let (batch, width) = *mean.shape();
                let x = self.layer_norm("fc_norm", mean.reshape_like(&(batch, 1, width)));
                let (pooled, logits, tape) = self.classify(x);
                (None, Some(pooled), Some(logits), tape)
            }
        };
        Ok(Output { patch_embed, attentions, blocks, tokens_prenorm, tokens, pooled, logits, tape })
    }

    /// Cuts the images into patches, row by row, and takes each through one linear layer: [B, c, H, W] → [B, h·w, C]. This is a
    /// convolution whose stride is its kernel.
    fn patch_embed<T: Tape<E, Cpu>>(&self, images: Images<E, T>) -> Tokens<E, T> {
        let ((batch, chans, ..), (h, w), p) = (*images.shape(), self.config.grid(), self.config.patch_size);
        let patches = images
            .reshape_like(&(batch, chans, h, p, w, p))
            .permute::<_, Axes6<0, 2, 4, 1, 3, 5>>() // [B, h, w, c, p, p]: a patch's pixels in the order of the kernel's
            .reshape_like(&(batch, h * w, chans * p * p));
        self.linear("patch_embed.proj", patches, self.config.embed_dim)
    }

    /// [B, N - 1, C] → [B, N, C]: the CLS token comes first.
    fn prepend_cls<T: Tape<E, Cpu>>(&self, patches: Tokens<E, T>) -> Tokens<E, T> {
        if !self.config.cls_token {
            return patches;
        }
        let (batch, _, width) = *patches.shape();
        let cls = self.weight::<_, T>("cls_token", (1, width)).broadcast_like::<_, Axis<0>>(&(batch, 1, width));
        (cls, patches).concat_along(Axis::<1>)
    }

    /// Adds one learned vector a token.
    fn add_position<T: Tape<E, Cpu>>(&self, x: Tokens<E, T>) -> Tokens<E, T> {
        if !self.config.position.absolute() {
            return x;
        }
        let (batch, n, width) = *x.shape();
        x + self.weight::<_, T>("pos_embed", (n, width)).broadcast_like::<_, Axis<0>>(&(batch, n, width))
    }

    /// Multi-head self-attention of block `i`, and the attention itself.
    fn attention<T: Tape<E, Cpu>>(&self, i: usize, x: Tokens<E, T>) -> (Tokens<E, T>, Attention<E>) {
        let (batch, n, width) = *x.shape();
        let (heads, head_dim) = (self.config.num_heads, self.config.head_dim());
        let split_heads = |y: Tokens<E, T>| y.reshape_like(&(batch, n, heads, head_dim)).permute::<_, Axes4<0, 2, 1, 3>>();

        let k = split_heads(self.project(i, Projection::Key, x.retaped::<T>()));
        let v = split_heads(self.project(i, Projection::Value, x.retaped::<T>()));
        let q = split_heads(self.project(i, Projection::Query, x));

        let mut scores = (q * ops::number::<E>((head_dim as f64).powf(-0.5))).matmul(k.permute::<_, Axes4<0, 1, 3, 2>>());
        if let Some(bias) = self.position_bias::<T>(i) {
            scores = scores + bias.broadcast_like::<_, Axis<0>>(&(batch, heads, n, n));
        }
        let attention = scores.softmax::<Axis<3>>();
        let tap = attention.retaped::<NoneTape>();

        let y = attention.matmul(v).permute::<_, Axes4<0, 2, 1, 3>>().reshape_like(&(batch, n, width));
        (self.linear(&format!("blocks.{i}.attn.proj"), y, width), tap)
    }

    /// Queries, keys or values: C of the 3C rows of `attn.qkv.weight`, and the bias if the model has one for them.
    fn project<T: Tape<E, Cpu>>(&self, i: usize, which: Projection, x: Tokens<E, T>) -> Tokens<E, T> {
        let width = self.config.embed_dim;
        let rows = which as usize * width..(which as usize + 1) * width;
        let own_bias = |name| Some(self.weight(&format!("blocks.{i}.attn.{name}"), (width,)));
        let bias = match (self.config.qkv_bias, which) {
            (QkvBias::None, _) | (QkvBias::Qv, Projection::Key) => None,
            (QkvBias::Full, _) => Some(self.weight(&format!("blocks.{i}.attn.qkv.bias"), (3 * width,)).slice((rows.clone(),))),
            (QkvBias::Qv | QkvBias::Qkv, Projection::Query) => own_bias("q_bias"),
            (QkvBias::Qkv, Projection::Key) => own_bias("k_bias"),
            (QkvBias::Qv | QkvBias::Qkv, Projection::Value) => own_bias("v_bias"),
        };
        let weight = self.weight(&format!("blocks.{i}.attn.qkv.weight"), (3 * width, width)).slice((rows, ..));
        ops::linear(x, weight, bias)
    }

    /// What block `i` adds to the scores of every image, [H, N, N], looked up in its own table or in the one that all blocks share
    /// (whose gradient then adds up by itself); none without relative positions.
    pub fn position_bias<T: Tape<E, Cpu>>(&self, i: usize) -> Option<PositionBias<E, T>> {
        let position = self.config.position;
        if !position.relative() && !position.shared() {
            return None;
        }
        let owner = if position.shared() { "rel_pos_bias".to_owned() } else { format!("blocks.{i}.attn") };
        let table = format!("{owner}.relative_position_bias_table");
        let (n, heads, rows) = (self.config.tokens(), self.config.num_heads, weights::table_rows(&self.config));
        let index = ops::relative_position_index(self.config.grid(), self.config.cls_token);
        let index = self.device.tensor_from_vec(index, (n * n,));
        let bias = self.weight::<_, T>(&table, (rows, heads)).gather(index); // [N·N, H]
        Some(bias.permute::<_, Axes2<1, 0>>().reshape_like(&(heads, n, n)))
    }

    /// Two linear layers with an activation between them.
    fn mlp<T: Tape<E, Cpu>>(&self, i: usize, x: Tokens<E, T>) -> Tokens<E, T> {
        let x = self.linear(&format!("blocks.{i}.mlp.fc1"), x, self.config.hidden_dim());
        let x = match self.config.activation {
            Activation::Gelu => ops::gelu(x),
            Activation::QuickGelu => ops::quick_gelu(x),
        };
        self.linear(&format!("blocks.{i}.mlp.fc2"), x, self.config.embed_dim)
    }

    /// The pooled vector [B, 1, C] of each image → that vector as a row, its logits, the tape.
    fn classify<T: Tape<E, Cpu>>(&self, x: Tokens<E, T>) -> (Rows<E>, Rows<E>, T) {
        let ((batch, _, width), classes) = (*x.shape(), self.config.num_classes);
        let pooled = x.retaped::<NoneTape>().reshape_like(&(batch, width));
        let (logits, tape) = self.linear("head", x, classes).reshape_like(&(batch, classes)).split_tape();
        (pooled, logits, tape)
    }

    fn linear<T: Tape<E, Cpu>>(&self, name: &str, x: Tokens<E, T>, outputs: usize) -> Tokens<E, T> {
        let (_, _, inputs) = *x.shape();
        let (weight, bias) = (self.weight(&format!("{name}.weight"), (outputs, inputs)), self.weight(&format!("{name}.bias"), (outputs,)));
        ops::linear(x, weight, Some(bias))
    }

    fn layer_norm<T: Tape<E, Cpu>>(&self, name: &str, x: Tokens<E, T>) -> Tokens<E, T> {
        let width = (self.config.embed_dim,);
        let (weight, bias) = (self.weight(&format!("{name}.weight"), width), self.weight(&format!("{name}.bias"), width));
        ops::layer_norm(x, weight, bias, self.config.ln_eps)
    }

    /// Scales every channel of a residual branch (`gamma_1`, `gamma_2`), if the model does that.
    fn layer_scale<T: Tape<E, Cpu>>(&self, name: &str, y: Tokens<E, T>) -> Tokens<E, T> {
        if self.config.layer_scale.is_none() {
            return y;
        }
        let shape = *y.shape();
        y * self.weight::<_, T>(name, (self.config.embed_dim,)).broadcast_like::<_, Axes2<0, 1>>(&shape)
    }

    /// A weight in the shape it is used in, with an empty tape, so that whatever happens to it is written down. `new` has checked
    /// that each one the model needs is there and has as many values.
    fn weight<S: Shape, T: Tape<E, Cpu>>(&self, name: &str, shape: S) -> Tensor<S, E, Cpu, T> {
        self.weights[name].retaped::<T>().reshape_like(&shape)
    }

    fn check_images<T>(&self, images: &Images<E, T>) -> Result<(), ModelError> {
        let (batch, chans, height, width) = *images.shape();
        if batch > 0 && chans == self.config.in_chans && (height, width) == self.config.img_size {
            return Ok(());
        }
        let (expected, (h, w)) = (self.config.in_chans, self.config.img_size);
        let why = format!("images are {batch} x {chans} x {height} x {width}, the model takes {expected} x {h} x {w}");
        Err(ModelError::Config { key: "img_size", why })
    }
}

/// The order of the three in `attn.qkv`.
#[derive(Clone, Copy)]
enum Projection {
    Query,
    Key,
    Value,
}
