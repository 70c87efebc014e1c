//! Describing a computation: model code calls these methods once, forward only, and gets a [`Plan`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::exec::MAX_SETS;
use crate::ops::{self, Bias, Distance, DropPath, GeluKind, Op, Pooling, Sparse, TargetForm};
use crate::plan::{ActInfo, Bound, Cost, Step, StepKind};
use crate::schedule::{Described, schedule};
use crate::{Act, Error, Layout, Param, Plan, Shape};

/// Collects operations, checking every shape, and lays them out.
#[derive(Debug)]
pub struct Planner {
    id: u32,
    acts: Vec<ActInfo>,
    ops: Vec<Op>,
    again: Vec<bool>,
    recomputing: bool,
    bound: Vec<Bound>,
    layouts: Vec<Arc<Layout>>,
    keep: Vec<Act>,
    wants_grad: Vec<Act>,
    roots: Vec<Act>,
    leaves: Vec<Act>,
}

impl Default for Planner {
    fn default() -> Self {
        Planner::new()
    }
}

fn refuse<T>(op: &'static str, why: impl Into<String>) -> Result<T, Error> {
    Err(Error::Argument { op, why: why.into() })
}

fn misfit<T>(op: &'static str, operand: &'static str, expected: impl Into<Shape>, found: Shape) -> Result<T, Error> {
    Err(Error::Shape { op, operand, expected: expected.into().to_string(), found: found.to_string() })
}

impl Planner {
    /// Nothing described yet.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Planner {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            acts: vec![],
            ops: vec![],
            again: vec![],
            recomputing: false,
            bound: vec![],
            layouts: vec![],
            keep: vec![],
            wants_grad: vec![],
            roots: vec![],
            leaves: vec![],
        }
    }

    /// Declares a set of parameters that stays as it is. The order of these calls is that of [`Cx::params`](crate::Cx).
    pub fn bind(&mut self, layout: &Arc<Layout>) {
        self.add_set(layout, false);
    }

    /// Declares the set of parameters that is trained: one a plan.
    pub fn train(&mut self, layout: &Arc<Layout>) {
        assert!(self.bound.iter().all(|b| !b.trained), "a plan trains one set of parameters");
        self.add_set(layout, true);
    }

    fn add_set(&mut self, layout: &Arc<Layout>, trained: bool) {
        assert!(self.bound.len() < MAX_SETS, "at most {MAX_SETS} parameter sets in a plan");
        assert!(self.bound.iter().all(|b| b.layout != layout.id), "a layout is declared once");
        self.bound.push(Bound { layout: layout.id, trained });
        self.layouts.push(layout.clone());
    }

    fn act(&mut self, shape: impl Into<Shape>) -> Act {
        self.acts.push(ActInfo { shape: shape.into(), value: None, again: None, grad: None });
        Act { plan: self.id, index: self.acts.len() as u32 - 1 }
    }

    fn push(&mut self, op: Op) {
        self.ops.push(op);
        self.again.push(self.recomputing);
    }

    /// The shape of a value described so far.
    pub fn shape(&self, act: Act) -> Shape {
        assert_eq!(act.plan, self.id, "an activation of another plan");
        self.acts[act.index as usize].shape
    }

    fn param_shape(&self, op: &'static str, p: Param) -> Result<&[usize], Error> {
        let layout = self.layouts.iter().find(|l| l.id == p.layout).ok_or(Error::UnboundLayout { op })?;
        Ok(layout.shape(p))
    }

    fn param_len(&self, op: &'static str, operand: &'static str, p: Param, len: usize) -> Result<(), Error> {
        let found: usize = self.param_shape(op, p)?.iter().product();
        if found == len { Ok(()) } else { misfit(op, operand, [len], [found].into()) }
    }

    /// A value that the caller writes into the arena before `forward`.
    pub fn input(&mut self, shape: impl Into<Shape>) -> Act {
        self.act(shape)
    }

    /// Keeps a value readable after `forward`.
    pub fn keep(&mut self, act: Act) {
        self.keep.push(act);
    }

    /// Asks for the gradient of an input, readable after `backward`.
    pub fn want_grad(&mut self, act: Act) {
        self.wants_grad.push(act);
    }

    /// Declares a scalar as (part of) the loss: `backward` starts from it with [`Cx::seed_grad`](crate::Cx).
    pub fn root(&mut self, loss: Act) {
        self.roots.push(loss);
    }

    /// Declares a value that leaves the plan for a loss defined elsewhere: kept after `forward`, and its gradient is written by the
    /// caller before `backward`.
    pub fn leaf(&mut self, act: Act) {
        self.leaves.push(act);
    }

    /// Activation checkpointing: of what the closure describes, only values used outside it are kept; the rest is computed again in the
    /// backward pass, to the same bits.
    pub fn recompute<R>(&mut self, describe: impl FnOnce(&mut Planner) -> R) -> R {
        let (outer, first) = (std::mem::replace(&mut self.recomputing, true), self.ops.len());
        let result = describe(self);
        self.recomputing = outer;
        // The region's last operation writes what the next one reads.
        if let (false, Some(last)) = (outer, (first..self.ops.len()).next_back()) {
            self.again[last] = false;
        }
        result
    }

    /// A parameter as a value, for parameters that go through operations of their own: the parameter's shape.
    pub fn weight(&mut self, w: Param) -> Result<Act, Error> {
        let shape = self.param_shape("weight", w)?;
        let (rows, cols) = (shape[..shape.len().saturating_sub(1)].iter().product::<usize>(), shape.last().copied().unwrap_or(1));
        let y = self.act([rows, cols]);
        self.push(Op::Weight(ops::Weight { w, y }));
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

    /// The MLP's activation.
    pub fn gelu(&mut self, x: Act, kind: GeluKind) -> Act {
        let shape = self.shape(x);
        let y = self.act(shape);
        self.push(Op::Gelu(ops::Gelu { x, kind, y, len: shape.len() }));
        y
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

    /// Multi-head attention on qkv [B, N, 3C] with an optional bias [H, N, N]: [B, N, C]. Scores are scaled by `scale`.
    pub fn attention(&mut self, qkv: Act, bias: Option<Act>, heads: usize, scale: f64) -> Result<Act, Error> {
        let [batch, tokens, width] = self.attention_extents(qkv, bias, heads)?;
        let (y, lse) = (self.act([batch, tokens, width / 3]), self.act([batch, heads, tokens]));
        let head_dim = width / 3 / heads;
        self.push(Op::Attention(ops::Attention { qkv, bias, y, lse, batch, tokens, heads, head_dim, scale }));
        Ok(y)
    }

    /// The attention's probabilities [B, H, N, N], computed beside it for analyses; no gradient goes through them.
    pub fn attention_map(&mut self, qkv: Act, bias: Option<Act>, heads: usize, scale: f64) -> Result<Act, Error> {
        let [batch, tokens, width] = self.attention_extents(qkv, bias, heads)?;
        let (y, lse) = (self.act([batch, heads, tokens, tokens]), self.act([batch, heads, tokens]));
        let head_dim = width / 3 / heads;
        let of = ops::Attention { qkv, bias, y, lse, batch, tokens, heads, head_dim, scale };
        self.push(Op::AttentionMap(ops::AttentionMap { of }));
        Ok(y)
    }

    fn attention_extents(&self, qkv: Act, bias: Option<Act>, heads: usize) -> Result<[usize; 3], Error> {
        const OP: &str = "attention";
        let shape = self.shape(qkv);
        let &[batch, tokens, width] = shape.dims() else { return refuse(OP, format!("qkv of shape {shape}, expected B x N x 3C")) };
        if heads == 0 || width % (3 * heads) != 0 {
            return refuse(OP, format!("{heads} heads do not divide a width of {width} / 3"));
        }
        if let Some(bias) = bias.map(|b| self.shape(b)).filter(|b| b.dims() != [heads, tokens, tokens]) {
            return misfit(OP, "bias", [heads, tokens, tokens], bias);
        }
        Ok([batch, tokens, width])
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

    /// CLS token (C values) in front of the patches x [B, n, C], positions [N, C] added.
    pub fn tokens(&mut self, x: Act, cls: Option<Act>, pos: Option<Act>) -> Result<Act, Error> {
        const OP: &str = "tokens";
        let shape = self.shape(x);
        let &[b, n, c] = shape.dims() else { return refuse(OP, format!("patches of shape {shape}, expected B x n x C")) };
        let total = n + usize::from(cls.is_some());
        if let Some(found) = cls.map(|a| self.shape(a)).filter(|s| s.len() != c) {
            return misfit(OP, "cls token", [c], found);
        }
        if let Some(found) = pos.map(|a| self.shape(a)).filter(|s| s.len() != total * c) {
            return misfit(OP, "positions", [total, c], found);
        }
        let y = self.act([b, total, c]);
        self.push(Op::Tokens(ops::Tokens { x, cls, pos, y, patches: n, cols: c }));
        Ok(y)
    }

    /// y = M x over rows: x [R, C] to [S, C].
    pub fn sparse(&mut self, x: Act, matrix: Arc<Sparse>) -> Result<Act, Error> {
        let shape = self.shape(x);
        if shape.rows() != matrix.inputs() {
            return misfit("sparse", "x", [matrix.inputs(), shape.cols()], shape);
        }
        let y = self.act([matrix.outputs(), shape.cols()]);
        self.push(Op::SparseMap(ops::SparseMap { x, matrix, y, cols: shape.cols() }));
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

    /// Lays everything out.
    pub fn finish(self) -> Result<Plan, Error> {
        if let Some(found) = self.roots.iter().map(|a| self.shape(*a)).find(|s| s.len() != 1) {
            return misfit("root", "loss", [1], found);
        }
        for op in &self.ops {
            let inputs = op.wiring().inputs;
            if (1..inputs.len()).any(|i| inputs[..i].iter().any(|a| a.act == inputs[i].act)) {
                return refuse(op.name(), "the same value is given as two operands");
            }
        }
        let trained = self.bound.iter().find(|b| b.trained).map(|b| b.layout);
        let Planner { id, acts, ops, again, keep, wants_grad, roots, leaves, bound, layouts, .. } = self;
        let (d, s) = schedule(Described { acts, ops, again, keep, wants_grad, roots, leaves, trained });
        let flops = |steps: &[Step]| {
            let of = |step: &Step| {
                let (forward, backward) = d.ops[step.op].wiring().flops;
                if let StepKind::Backward { .. } = step.kind { backward } else { forward }
            };
            steps.iter().map(of).sum()
        };
        let cost = Cost {
            forward_flops: flops(&s.forward),
            backward_flops: flops(&s.backward),
            arena_elements: s.arena,
            unshared_elements: s.unshared,
        };
        let trained_layout = layouts.iter().find(|l| Some(l.id) == trained);
        let untouched = trained_layout.map_or(vec![], |l| l.iter().filter(|p| !s.touched.contains(p)).collect());
        Ok(Plan { id, acts: s.acts, ops: d.ops, forward: s.forward, backward: s.backward, bound, roots: d.roots, untouched, cost })
    }
}
