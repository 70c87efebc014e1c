//! One method an operation: checks the operands' shapes and records it.

use std::sync::Arc;

use super::{Planner, misfit, refuse};
use crate::ops::{self, Activation, Bias, Distance, DropPath, Op, Pooling, Scores, Span, Sparse, TargetForm};
use crate::{Act, Error, Param, Shape};

impl Planner {
    /// A parameter as a value, for parameters that go through operations of their own: a matrix of its last extent's columns.
    pub fn weight(&mut self, w: Param) -> Result<Act, Error> {
        let shape = self.param_shape("weight", w)?;
        let (rows, cols) = (shape[..shape.len().saturating_sub(1)].iter().product::<usize>(), shape.last().copied().unwrap_or(1));
        self.weight_as(w, [rows, cols])
    }

    /// The same in another shape of as many elements.
    pub fn weight_as(&mut self, w: Param, shape: impl Into<Shape>) -> Result<Act, Error> {
        let shape = shape.into();
        self.param_len("weight", "parameter", w, shape.len())?;
        let y = self.act(shape);
        self.push(Op::Weight(ops::Weight { w, y, len: shape.len() }));
        Ok(y)
    }

    /// Image patches: [B, C, H, W] to [B, H/P · W/P, C·P·P].
    pub fn patchify(&mut self, x: Act, patch: usize) -> Result<Act, Error> {
        let shape = self.shape(x);
        let &[b, c, h, w] = shape.dims() else {
            return refuse("patchify", format!("image batch of shape {shape}, expected B x C x H x W"));
        };
        if patch == 0 || h % patch != 0 || w % patch != 0 {
            return refuse("patchify", format!("images of {h} x {w} are not a multiple of patch size {patch}"));
        }
        let y = self.act([b, (h / patch) * (w / patch), c * patch * patch]);
        self.push(Op::Patchify(ops::Patchify { x, y, channels: c, height: h, width: w, patch }));
        Ok(y)
    }

    /// y = x Wᵀ + b over the last extent; the weight's first extent is the output's width, the product of the others the input's.
    pub fn linear(&mut self, x: Act, w: Param, bias: Bias) -> Result<Act, Error> {
        const OP: &str = "linear";
        let shape = self.shape(x);
        let weight = self.param_shape(OP, w)?;
        let (outputs, inputs) = (weight[0], weight[1..].iter().product::<usize>());
        if shape.cols() != inputs {
            return misfit(OP, "x", shape.with_cols(inputs), shape);
        }
        for (_, p) in bias.parts(outputs) {
            let width = if let Bias::Full(_) = bias { outputs } else { outputs / 3 };
            self.param_len(OP, "bias", p, width)?;
        }
        let y = self.act(shape.with_cols(outputs));
        self.push(Op::Linear(ops::Linear { x, w, bias, y, rows: shape.rows(), inputs, outputs }));
        Ok(y)
    }

    /// Numbers that never change.
    pub fn constant(&mut self, shape: impl Into<Shape>, values: Arc<[f64]>) -> Result<Act, Error> {
        let shape = shape.into();
        if shape.len() != values.len() {
            return misfit("constant", "values", [values.len()], shape);
        }
        let y = self.act(shape);
        self.push(Op::Constant(ops::Constant { values, y }));
        Ok(y)
    }

    /// A function of every element.
    pub fn activation(&mut self, x: Act, kind: Activation) -> Act {
        let shape = self.shape(x);
        let y = self.act(shape);
        self.push(Op::Activate(ops::Activate { x, kind, y, len: shape.len() }));
        y
    }

    /// y = scale · x + shift with a pair for every channel of images [B, C, H, W] (or [B, C, anything]).
    pub fn channel_affine(&mut self, x: Act, channels: Arc<[(f64, f64)]>) -> Result<Act, Error> {
        let shape = self.shape(x);
        let [_, c, pixels @ ..] = shape.dims() else {
            return refuse("channel_affine", format!("image batch of shape {shape}, expected B x C x H x W"));
        };
        if *c != channels.len() {
            return misfit("channel_affine", "channels", [*c], [channels.len()].into());
        }
        let pixels = pixels.iter().product();
        let y = self.act(shape);
        self.push(Op::ChannelAffine(ops::ChannelAffine { x, y, channels, pixels }));
        Ok(y)
    }

    /// Rows of x [B, N, C] (or [1, N, C] for all samples) by `index` [B, K], whole numbers below N: [B, K, C].
    pub fn gather(&mut self, x: Act, index: Act) -> Result<Act, Error> {
        const OP: &str = "gather";
        let (shape, index_shape) = (self.shape(x), self.shape(index));
        let &[samples, rows, cols] = shape.dims() else { return refuse(OP, format!("rows of shape {shape}, expected B x N x C")) };
        let &[batch, picked] = index_shape.dims() else { return refuse(OP, format!("index of shape {index_shape}, expected B x K")) };
        if samples != batch && samples != 1 {
            return misfit(OP, "x", [batch, rows, cols], shape);
        }
        let y = self.act([batch, picked, cols]);
        self.push(Op::Gather(ops::Gather { x, index, y, shared: samples == 1, rows, picked, cols }));
        Ok(y)
    }

    /// Patch merging of a map of (height, width) tokens: [B, H·W, C] to [B, H/2·W/2, 4C].
    pub fn patch_merge(&mut self, x: Act, (height, width): (usize, usize)) -> Result<Act, Error> {
        const OP: &str = "patch_merge";
        let shape = self.shape(x);
        let &[batch, tokens, cols] = shape.dims() else { return refuse(OP, format!("tokens of shape {shape}, expected B x N x C")) };
        if tokens != height * width {
            return misfit(OP, "x", [batch, height * width, cols], shape);
        }
        if height % 2 != 0 || width % 2 != 0 {
            return refuse(OP, format!("a map of {height} x {width} tokens cannot be halved"));
        }
        let y = self.act([batch, tokens / 4, 4 * cols]);
        self.push(Op::PatchMerge(ops::PatchMerge { x, y, height, width, cols }));
        Ok(y)
    }

    /// Σ weight · x of scalars.
    pub fn weighted_sum(&mut self, terms: &[(Act, f64)]) -> Result<Act, Error> {
        if let Some(found) = terms.iter().map(|(x, _)| self.shape(*x)).find(|s| s.len() != 1) {
            return misfit("weighted_sum", "x", [1], found);
        }
        let y = self.act([1]);
        self.push(Op::WeightedSum(ops::WeightedSum { terms: terms.to_vec(), y }));
        Ok(y)
    }

    /// LayerNorm over the last extent, with weight and bias or (whitening) without.
    pub fn layer_norm(&mut self, x: Act, affine: Option<(Param, Param)>, eps: f64) -> Result<Act, Error> {
        let shape = self.shape(x);
        if let Some((w, b)) = affine {
            self.param_len("layer_norm", "weight", w, shape.cols())?;
            self.param_len("layer_norm", "bias", b, shape.cols())?;
        }
        let (y, mean, rstd) = (self.act(shape), self.act([shape.rows()]), self.act([shape.rows()]));
        self.push(Op::LayerNorm(ops::LayerNorm { x, affine, eps, y, mean, rstd, rows: shape.rows(), cols: shape.cols() }));
        Ok(y)
    }

    /// BatchNorm without affine part in training mode over [B, C]; returns (y, mean, variance).
    pub fn batch_norm(&mut self, x: Act, eps: f64) -> (Act, Act, Act) {
        let shape = self.shape(x);
        let (y, mean, var) = (self.act(shape), self.act([shape.cols()]), self.act([shape.cols()]));
        self.push(Op::BatchNorm(ops::BatchNorm { x, eps, y, mean, var, rows: shape.rows(), cols: shape.cols() }));
        (y, mean, var)
    }

    /// Multi-head attention on qkv [B, N, 3C]: [B, N, C]; `bias` [H, n, n] for the n tokens that see each other (all N, or a window's).
    pub fn attention(&mut self, qkv: Act, bias: Option<Act>, heads: usize, scores: Scores, span: Span) -> Result<Act, Error> {
        let mut op = self.attention_op(qkv, bias, heads, scores, span)?;
        let shape = self.shape(qkv);
        op.y = self.act(shape.with_cols(shape.cols() / 3));
        let y = op.y;
        self.push(Op::Attention(op));
        Ok(y)
    }

    /// The attention's probabilities [B W, H, n, n] (W windows of n tokens; one of N where there are none), computed beside it for
    /// analyses; no gradient goes through them.
    pub fn attention_map(&mut self, qkv: Act, bias: Option<Act>, heads: usize, scores: Scores, span: Span) -> Result<Act, Error> {
        let mut of = self.attention_op(qkv, bias, heads, scores, span)?;
        let (windows, n) = of.span.extents(of.tokens);
        of.y = self.act([of.batch * windows, heads, n, n]);
        let y = of.y;
        self.push(Op::AttentionMap(ops::AttentionMap { of }));
        Ok(y)
    }

    /// All but the output, which is qkv until it is set.
    fn attention_op(&mut self, qkv: Act, bias: Option<Act>, heads: usize, scores: Scores, span: Span) -> Result<ops::Attention, Error> {
        const OP: &str = "attention";
        let shape = self.shape(qkv);
        let &[batch, tokens, width] = shape.dims() else { return refuse(OP, format!("qkv of shape {shape}, expected B x N x 3C")) };
        if heads == 0 || width % (3 * heads) != 0 {
            return refuse(OP, format!("{heads} heads do not divide a width of {width} / 3"));
        }
        let (windows, n) = span.extents(tokens);
        if windows * n != tokens {
            return misfit(OP, "qkv", [batch, windows * n, width], shape);
        }
        if let Some(bias) = bias.map(|b| self.shape(b)).filter(|b| b.dims() != [heads, n, n]) {
            return misfit(OP, "bias", [heads, n, n], bias);
        }
        if let Scores::Cosine(p) = scores {
            self.param_len(OP, "logit_scale", p, heads)?;
        }
        let order = match (&span, scores) {
            (Span::Windows(w), _) => (0..windows).flat_map(|i| w.members(i)).copied().collect(),
            (Span::Whole, Scores::Scaled(_)) => Arc::from([]),
            _ => (0..tokens as u32).collect(),
        };
        let lse = self.act([batch * windows, heads, n]);
        Ok(ops::Attention { qkv, bias, y: qkv, lse, batch, tokens, heads, head_dim: width / 3 / heads, scores, span, order })
    }

    /// x + drop path (γ ∘ y); the drop path's random numbers depend on the first extent's index.
    pub fn residual(&mut self, x: Act, y: Act, gamma: Option<Param>, drop: Option<DropPath>) -> Result<Act, Error> {
        const OP: &str = "residual";
        let shape = self.shape(x);
        if self.shape(y) != shape {
            return misfit(OP, "y", shape, self.shape(y));
        }
        if let Some(g) = gamma {
            self.param_len(OP, "gamma", g, shape.cols())?;
        }
        if let Some(d) = drop.filter(|d| !(0.0..1.0).contains(&d.rate)) {
            return refuse(OP, format!("drop path rate {} is not in 0..1", d.rate));
        }
        let out = self.act(shape);
        let batch = shape.dims()[0];
        self.push(Op::Residual(ops::Residual { x, y, gamma, drop, out, batch, rows: shape.rows(), cols: shape.cols() }));
        Ok(out)
    }

    /// CLS token (C values) and register tokens [R, C] in front of the patches x [B, n, C]; positions [n, C], or [n + 1, C] with a CLS
    /// token, added to all but the registers.
    pub fn tokens(&mut self, x: Act, cls: Option<Act>, registers: Option<Act>, pos: Option<Act>) -> Result<Act, Error> {
        const OP: &str = "tokens";
        let shape = self.shape(x);
        let &[b, n, c] = shape.dims() else { return refuse(OP, format!("patches of shape {shape}, expected B x n x C")) };
        let total = n + usize::from(cls.is_some());
        if let Some(found) = cls.map(|a| self.shape(a)).filter(|s| s.len() != c) {
            return misfit(OP, "cls token", [c], found);
        }
        if let Some(found) = registers.map(|a| self.shape(a)).filter(|s| s.cols() != c) {
            return misfit(OP, "register tokens", [found.rows(), c], found);
        }
        if let Some(found) = pos.map(|a| self.shape(a)).filter(|s| s.len() != total * c) {
            return misfit(OP, "positions", [total, c], found);
        }
        let register_tokens = registers.map_or(0, |a| self.shape(a).rows());
        let y = self.act([b, total + register_tokens, c]);
        self.push(Op::Tokens(ops::Tokens { x, cls, registers, pos, y, patches: n, register_tokens, cols: c }));
        Ok(y)
    }

    /// y = M x over the rows of every sample: x [B, R, C] to [B, S, C], or [R, C] to [S, C].
    pub fn sparse(&mut self, x: Act, matrix: Arc<Sparse>) -> Result<Act, Error> {
        let shape = self.shape(x);
        let (batch, rows) = match *shape.dims() {
            [batch, rows, _] => (Some(batch), rows),
            _ => (None, shape.rows()),
        };
        if rows != matrix.inputs() {
            return misfit("sparse", "x", [matrix.inputs(), shape.cols()], shape);
        }
        let (outputs, cols) = (matrix.outputs(), shape.cols());
        let y = match batch {
            Some(b) => self.act([b, outputs, cols]),
            None => self.act([outputs, cols]),
        };
        self.push(Op::SparseMap(ops::SparseMap { x, matrix, y, batch: batch.unwrap_or(1), cols }));
        Ok(y)
    }

    /// Relative position bias [H, N, N] from a table [R, H] and the row of every token pair.
    pub fn relative_bias(&mut self, table: Act, index: Arc<[u32]>, tokens: usize) -> Result<Act, Error> {
        const OP: &str = "relative_bias";
        let shape = self.shape(table);
        if index.len() != tokens * tokens || index.iter().any(|&r| r as usize >= shape.rows()) {
            return refuse(OP, format!("an index of {} entries does not fit {tokens} tokens and a table of {shape}", index.len()));
        }
        let heads = shape.cols();
        let y = self.act([heads, tokens, tokens]);
        self.push(Op::RelativeBias(ops::RelativeBias { table, index, y, heads }));
        Ok(y)
    }

    /// Fewer tokens: their mean, one of them, or all but the first.
    pub fn pool(&mut self, x: Act, how: Pooling) -> Result<Act, Error> {
        const OP: &str = "pool";
        let shape = self.shape(x);
        let &[b, n, c] = shape.dims() else { return refuse(OP, format!("tokens of shape {shape}, expected B x N x C")) };
        let y = match how {
            Pooling::Mean { skip } if skip < n => self.act([b, c]),
            Pooling::Token(t) if t < n => self.act([b, c]),
            Pooling::After { skip } if skip < n => self.act([b, n - skip, c]),
            _ => return refuse(OP, format!("{how:?} of {n} tokens")),
        };
        self.push(Op::Pool(ops::Pool { x, how, y, tokens: n, cols: c }));
        Ok(y)
    }

    /// Rows of unit length.
    pub fn l2_normalise(&mut self, x: Act) -> Act {
        let shape = self.shape(x);
        let y = self.act(shape);
        self.push(Op::L2Normalise(ops::L2Normalise { x, y, rows: shape.rows(), cols: shape.cols() }));
        y
    }

    /// Mean distance between features; `whiten` normalises the target's rows first, with that epsilon.
    pub fn feature_loss(&mut self, pred: Act, target: Act, distance: Distance, whiten: Option<f64>) -> Result<Act, Error> {
        const OP: &str = "feature_loss";
        let shape = self.shape(pred);
        if self.shape(target) != shape {
            return misfit(OP, "target", shape, self.shape(target));
        }
        if let Distance::SmoothL1 { beta } = distance
            && !(beta > 0.0 && beta.is_finite())
        {
            return refuse(OP, format!("beta {beta} must be positive"));
        }
        let loss = self.act([1]);
        let (rows, cols) = (shape.rows(), shape.cols());
        self.push(Op::FeatureLoss(ops::FeatureLoss { pred, target, distance, whiten, loss, rows, cols }));
        Ok(loss)
    }

    /// Cross-entropy of logits [B, K] with given probabilities [B, K], mean over the batch.
    pub fn cross_entropy(&mut self, logits: Act, probabilities: Act) -> Result<Act, Error> {
        self.logit_loss("cross_entropy", logits, probabilities, TargetForm::Probabilities, 1.0)
    }

    /// Cross-entropy with the softmax of a teacher's logits at a temperature, times T².
    pub fn soft_cross_entropy(&mut self, logits: Act, teacher: Act, temperature: f64) -> Result<Act, Error> {
        self.logit_loss("soft_cross_entropy", logits, teacher, TargetForm::Logits, temperature)
    }

    /// Kullback-Leibler divergence from the softmax of a teacher's logits at a temperature, times T².
    pub fn kl_divergence(&mut self, logits: Act, teacher: Act, temperature: f64) -> Result<Act, Error> {
        self.logit_loss("kl_divergence", logits, teacher, TargetForm::LogitsKl, temperature)
    }

    fn logit_loss(&mut self, op: &'static str, logits: Act, target: Act, form: TargetForm, temperature: f64) -> Result<Act, Error> {
        let shape = self.shape(logits);
        if self.shape(target) != shape {
            return misfit(op, "target", shape, self.shape(target));
        }
        if !(temperature > 0.0 && temperature.is_finite()) {
            return refuse(op, format!("temperature {temperature} must be positive"));
        }
        let loss = self.act([1]);
        let (rows, cols) = (shape.rows(), shape.cols());
        self.push(Op::LogitLoss(ops::LogitLoss { logits, target, form, temperature, loss, rows, cols }));
        Ok(loss)
    }
}
