//! The pre-norm transformer block, which the ViT, MAE's decoder and CLIP's text encoder share.

use fd_compute::{Act, Bias, DropPath, LayoutBuilder, Param, Planner, Scores, Span};

use crate::{Activation, ModelError, QkvBias};

/// What a block is made of.
#[derive(Clone, Debug)]
pub(crate) struct BlockSpec {
    /// Width C.
    pub dim: usize,
    pub heads: usize,
    /// Width of the MLP's hidden layer.
    pub hidden: usize,
    pub qkv_bias: QkvBias,
    pub layer_scale: bool,
    /// Rows of a relative position bias table of its own.
    pub table_rows: Option<usize>,
    pub activation: Activation,
    pub ln_eps: f64,
}

/// Weight and bias.
pub(crate) type Pair = (Param, Param);

/// A block's parameters, under the official ViT's names.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    spec: BlockSpec,
    norm1: Pair,
    qkv: Param,
    qkv_bias: Bias,
    pub table: Option<Param>,
    proj: Pair,
    gamma: Option<(Param, Param)>,
    norm2: Pair,
    fc1: Pair,
    fc2: Pair,
}

/// Declares parameters under a prefix.
pub(crate) struct Declare<'a> {
    pub layout: &'a mut LayoutBuilder,
    pub prefix: String,
}

impl Declare<'_> {
    pub fn add(&mut self, name: &str, shape: &[usize]) -> Param {
        self.layout.add(format!("{}{name}", self.prefix), shape)
    }

    /// `<name>.weight` of this shape and `<name>.bias` of its first extent.
    pub fn pair(&mut self, name: &str, shape: &[usize]) -> Pair {
        (self.add(&format!("{name}.weight"), shape), self.add(&format!("{name}.bias"), &shape[..1]))
    }

    /// The same with `<part>` put behind the prefix.
    pub fn below(&mut self, part: &str) -> Declare<'_> {
        Declare { prefix: format!("{}{part}", self.prefix), layout: self.layout }
    }

    /// The biases of a joint projection to queries, keys and values of width `dim` each.
    pub fn qkv_bias(&mut self, kind: QkvBias, dim: usize) -> Bias {
        match kind {
            QkvBias::None => Bias::None,
            QkvBias::Full => Bias::Full(self.add("attn.qkv.bias", &[3 * dim])),
            QkvBias::Qv | QkvBias::Qkv => {
                let (q, v) = (Some(self.add("attn.q_bias", &[dim])), Some(self.add("attn.v_bias", &[dim])));
                Bias::Qkv { q, k: (kind == QkvBias::Qkv).then(|| self.add("attn.k_bias", &[dim])), v }
            }
        }
    }
}

impl Block {
    pub fn declare(spec: &BlockSpec, d: &mut Declare) -> Block {
        let (c, hidden) = (spec.dim, spec.hidden);
        let gamma = spec.layer_scale.then(|| (d.add("gamma_1", &[c]), d.add("gamma_2", &[c])));
        let norm1 = d.pair("norm1", &[c]);
        let qkv_bias = d.qkv_bias(spec.qkv_bias, c);
        let table = spec.table_rows.map(|rows| d.add("attn.relative_position_bias_table", &[rows, spec.heads]));
        let qkv = d.add("attn.qkv.weight", &[3 * c, c]);
        let proj = d.pair("attn.proj", &[c, c]);
        let norm2 = d.pair("norm2", &[c]);
        let (fc1, fc2) = (d.pair("mlp.fc1", &[hidden, c]), d.pair("mlp.fc2", &[c, hidden]));
        Block { spec: spec.clone(), norm1, qkv, qkv_bias, table, proj, gamma, norm2, fc1, fc2 }
    }

    /// x + drop(γ₁ · attention(norm1 x)), then x + drop(γ₂ · mlp(norm2 x)); with the attention's probabilities if they are tapped.
    pub fn plan(
        &self,
        p: &mut Planner,
        x: Act,
        bias: Option<Act>,
        span: &Span,
        drop: Option<DropPath>,
        tap: bool,
    ) -> Result<(Act, Option<Act>), ModelError> {
        let spec = &self.spec;
        let scores = Scores::Scaled(((spec.dim / spec.heads) as f64).powf(-0.5));
        let h = p.layer_norm(x, Some(self.norm1), spec.ln_eps)?;
        let qkv = p.linear(h, self.qkv, self.qkv_bias)?;
        let map = tap.then(|| p.attention_map(qkv, bias, spec.heads, scores, span.clone())).transpose()?;
        let h = p.attention(qkv, bias, spec.heads, scores, span.clone())?;
        let h = p.linear(h, self.proj.0, Bias::Full(self.proj.1))?;
        let x = p.residual(x, h, self.gamma.map(|g| g.0), drop)?;
        let h = p.layer_norm(x, Some(self.norm2), spec.ln_eps)?;
        let h = p.linear(h, self.fc1.0, Bias::Full(self.fc1.1))?;
        let h = p.activation(h, spec.activation.of_compute());
        let h = p.linear(h, self.fc2.0, Bias::Full(self.fc2.1))?;
        let second = drop.map(|d| DropPath { site: d.site + 1, ..d });
        Ok((p.residual(x, h, self.gamma.map(|g| g.1), second)?, map))
    }
}

impl Activation {
    pub(crate) fn of_compute(self) -> fd_compute::Activation {
        match self {
            Activation::Gelu => fd_compute::Activation::Gelu,
            Activation::QuickGelu => fd_compute::Activation::QuickGelu,
        }
    }
}

/// A linear layer to another width and one block there: a projector that sees the whole image, for students narrower than their teacher
/// (the *wide last block* of arXiv 2511.15572).
#[derive(Clone, Debug)]
pub struct WideBlock {
    lift: Pair,
    block: Block,
}

impl WideBlock {
    /// Adds its parameters under `prefix`: `lift.*` from width `from` to `to`, and `block.*` of so many heads.
    ///
    /// # Errors
    /// Heads that do not divide `to`.
    pub fn declare(layout: &mut LayoutBuilder, prefix: &str, from: usize, to: usize, heads: usize) -> Result<WideBlock, ModelError> {
        if heads == 0 || !to.is_multiple_of(heads) {
            return Err(ModelError::Config { key: "projector.heads", why: format!("{heads} heads do not divide the width {to}") });
        }
        let mut d = Declare { layout, prefix: prefix.into() };
        let lift = d.pair("lift", &[to, from]);
        let spec = BlockSpec {
            dim: to,
            heads,
            hidden: 4 * to,
            qkv_bias: QkvBias::Full,
            layer_scale: false,
            table_rows: None,
            activation: Activation::Gelu,
            ln_eps: 1e-6,
        };
        Ok(WideBlock { lift, block: Block::declare(&spec, &mut d.below("block.")) })
    }

    /// Tokens [B, N, from] to [B, N, to].
    pub fn plan(&self, p: &mut Planner, x: Act) -> Result<Act, ModelError> {
        let x = p.linear(x, self.lift.0, Bias::Full(self.lift.1))?;
        Ok(self.block.plan(p, x, None, &Span::Whole, None, false)?.0)
    }
}
