//! Attention on a device: which kernels run, on how many blocks, with how much shared memory.
//!
//! Head widths between those that have kernels are padded with zeros. f32 kernels walk over square tiles; in bf16 a warp owns a strip of 16
//! tokens, and a block has as many warps as are needed and fit. The gradients of bias and scales are summed over groups of units by one
//! block each, and over the groups by kernels of their own: the number of groups depends on the shape only.

use super::{Attention, AttentionMap, Scores, Span};
use crate::cuda::{Arg, Grid, Kernel, Kind, Ptr, Run, args};
use crate::plan::{Act, Deliver};
use crate::{Error, Param};

/// What the kernels of rows and sums are in.
const ROWS: &str = "attention_rows";
/// Rows of a tile in shared memory, and of a warp's strip, of the bf16 kernels.
const TILE: usize = 64;
const STRIP: usize = 16;
/// Blocks that keep a large device busy.
const BLOCKS: usize = 1024;
/// Elements that the groups' gradients of a bias may take.
const PARTIAL: usize = 1 << 26;

/// Kernels of one padded head width.
struct Kernels {
    width: usize,
    forward: &'static str,
    means: &'static str,
    queries: &'static str,
    keys: &'static str,
}

macro_rules! kernels {
    ($($width:literal),*) => { [$(Kernels {
        width: $width,
        forward: concat!("attention_forward_", $width),
        means: concat!("attention_means_", $width),
        queries: concat!("attention_backward_queries_", $width),
        keys: concat!("attention_backward_keys_", $width),
    }),*] };
}

const KERNELS: [Kernels; 4] = kernels![32, 64, 80, 128];

/// Blocks of one kernel over the tiles of a window.
struct Tiling {
    tiles: usize,
    threads: u32,
    shared: usize,
    /// Row length of the sums of dS in shared memory; 0: they are in the partial sums' own memory.
    wide: usize,
}

impl Kernels {
    fn of(head_dim: usize) -> Result<&'static Kernels, Error> {
        let why = || format!("heads of {head_dim} are wider than the {} that a device has kernels for", KERNELS[KERNELS.len() - 1].width);
        KERNELS.iter().find(|k| head_dim <= k.width).ok_or_else(|| Error::Argument { op: "attention", why: why() })
    }

    fn kernel(&self, name: &'static str, kind: Kind) -> Kernel {
        let file = match kind {
            Kind::F32 => "attention",
            Kind::Bf16 if name == self.forward => "attention_bf16",
            Kind::Bf16 => "attention_bf16_backward",
        };
        Kernel::of(file, name, kind)
    }

    /// f32: `tiles` tiles of the head's width, and one of scores.
    fn square(&self, n: usize, tiles: usize) -> Tiling {
        let side = if self.width <= 64 { 16 } else { 8 };
        let rows = 4 * side;
        let shared = size_of::<f32>() * rows * (tiles * (self.width + 4) + rows + 4);
        Tiling { tiles: n.div_ceil(rows), threads: (side * side) as u32, shared, wide: 0 }
    }

    /// bf16: so many strips a warp, at most `warps` of them and as many as fit into `limit` bytes, beside two double tiles; and a row of the
    /// sums of dS for each token of a strip, unless even two warps' are too large.
    fn strips(&self, n: usize, strips: usize, warps: usize, sums: bool, limit: usize) -> Tiling {
        let row = 2 * (self.width + 8);
        let wide = if sums { n.next_multiple_of(STRIP) + 8 } else { 0 };
        let shared = |warps: usize, wide: usize| 4 * TILE * row + warps * STRIP * (strips * row + wide * size_of::<f32>());
        let all = n.div_ceil(STRIP);
        let wide = if shared(all.min(2), wide) <= limit { wide } else { 0 };
        let most = (1..=warps).rev().find(|w| shared(*w, wide) <= limit).unwrap_or(1);
        let warps = all.div_ceil(all.div_ceil(most));
        Tiling { tiles: all.div_ceil(warps), threads: 32 * warps as u32, shared: shared(warps, wide), wide }
    }
}

/// What every kernel is told.
struct Operands {
    qkv: Ptr,
    bias: Ptr,
    order: Ptr,
    regions: Ptr,
    logit_scale: Ptr,
    lengths: Ptr,
    /// Scale, causal.
    scores: [Arg; 2],
    /// Units, windows, tokens of an image, tokens of a window, heads, head width.
    sizes: [Arg; 6],
}

impl Operands {
    /// The arguments of the kernels of tiles, with those of one kernel before and behind.
    fn list(&self, own: &[Arg], more: &[Arg]) -> Vec<Arg> {
        let shared = args![self.order, self.regions, self.logit_scale, self.lengths];
        [&args![self.qkv, self.bias], own, &shared, &self.scores, &self.sizes, more].concat()
    }
}

impl Attention {
    /// Tokens of a window.
    fn window(&self) -> usize {
        self.span.extents(self.tokens).1
    }

    /// Rows of one head.
    fn rows(&self) -> usize {
        self.units() * self.heads * self.window()
    }

    /// Bytes of the lengths of queries and keys.
    fn lengths_bytes(&self) -> usize {
        if self.logit_scale().is_some() { 2 * self.rows() * size_of::<f32>() } else { 0 }
    }

    /// Groups of units whose sums are kept apart.
    fn device_groups(&self) -> usize {
        let n = self.window();
        let enough = BLOCKS.div_ceil(self.heads * n.div_ceil(TILE));
        enough.min(PARTIAL / (self.heads * n * n)).clamp(1, self.units())
    }

    /// Bytes of working memory: lengths; forward. Lengths, delta, partial sums of the scales (f64) and of the bias; backward.
    pub(super) fn device_scratch(&self) -> (usize, usize) {
        let n = self.window();
        let scales = if self.logit_scale().is_some() { self.scale_partials() * size_of::<f64>() } else { 0 };
        let bias = if self.bias.is_some() { self.device_groups() * self.heads * n * n * size_of::<f32>() } else { 0 };
        (self.lengths_bytes(), scales + self.lengths_bytes() + self.rows() * size_of::<f32>() + bias)
    }

    /// Partial sums of the scales' gradients, at most: a strip a block.
    fn scale_partials(&self) -> usize {
        self.device_groups() * self.window().div_ceil(STRIP) * self.heads
    }

    /// Operands of the kernels; starts the lengths of queries and keys where they are wanted.
    fn operands(&self, run: &mut Run, lengths: Ptr) -> Result<Operands, Error> {
        let (windows, n) = self.span.extents(self.tokens);
        let (mut order, mut regions) = (Ptr::NULL, Ptr::NULL);
        if let Span::Windows(w) = &self.span {
            order = run.table(0, || self.order.to_vec())?;
            if (0..windows).any(|i| !w.regions(i).is_empty()) {
                let of = |i: usize| if w.regions(i).is_empty() { vec![0; n] } else { w.regions(i).to_vec() };
                regions = run.table(1, || (0..windows).flat_map(of).collect())?;
            }
        }
        let (scale, logit_scale) = match self.scores {
            Scores::Scaled(scale) => (scale as f32, Ptr::NULL),
            Scores::Cosine(p) => (1.0, run.master(p)),
        };
        let operands = Operands {
            qkv: run.value(self.qkv),
            bias: run.optional(self.bias),
            order,
            regions,
            logit_scale,
            lengths: if logit_scale == Ptr::NULL { Ptr::NULL } else { lengths },
            scores: args![scale, matches!(self.span, Span::Causal)],
            sizes: args![self.units(), windows, self.tokens, n, self.heads, self.head_dim],
        };
        Ok(operands)
    }

    /// Starts the lengths of queries and keys (bf16: one over them), where they are wanted.
    fn start_lengths(&self, run: &mut Run, o: &Operands) -> Result<(), Error> {
        if o.lengths == Ptr::NULL {
            return Ok(());
        }
        let own = args![o.qkv, o.lengths, o.order, o.qkv.kind == Kind::Bf16];
        self.start_rows(run, "attention_lengths", o, &own)
    }

    /// A kernel with a warp for each row of each head.
    fn start_rows(&self, run: &mut Run, name: &'static str, o: &Operands, own: &[Arg]) -> Result<(), Error> {
        run.launch(Kernel::of(ROWS, name, o.qkv.kind), Grid::cover(self.rows(), 8), 256, 0, &[own, &o.sizes].concat())
    }

    pub(super) fn start_forward(&self, run: &mut Run) -> Result<(), Error> {
        let (kernels, n) = (Kernels::of(self.head_dim)?, self.window());
        let lengths = run.scratch();
        let o = self.operands(run, lengths)?;
        self.start_lengths(run, &o)?;
        let t = match o.qkv.kind {
            Kind::F32 => kernels.square(n, 3),
            Kind::Bf16 => kernels.strips(n, 1, if kernels.width <= 64 { 7 } else { 4 }, false, run.most_shared()),
        };
        let args = o.list(&args![run.value(self.y), run.value(self.lse)], &[]);
        let grid = Grid::line(t.tiles * self.heads * self.units());
        run.launch(kernels.kernel(kernels.forward, o.qkv.kind), grid, t.threads, t.shared, &args)
    }

    pub(super) fn start_backward(&self, run: &mut Run) -> Result<(), Error> {
        let bias = self.bias.filter(|b| run.deliver(*b) != Deliver::Skip);
        let scale = self.logit_scale().filter(|p| run.wants(*p));
        // Doubles first: they want the larger alignment.
        let scale_partial = run.scratch();
        let lengths = if self.logit_scale().is_some() { scale_partial.at(2 * self.scale_partials()) } else { scale_partial };
        let delta = lengths.at(self.lengths_bytes() / size_of::<f32>());
        let partial = delta.at(self.rows());
        let o = self.operands(run, lengths)?;
        self.start_lengths(run, &o)?;
        self.start_delta(run, &o, delta)?;
        let groups = if bias.is_some() || scale.is_some() { self.device_groups() } else { self.units() };
        let tiles = self.start_gradients(
            run,
            &o,
            delta,
            (bias.map_or(Ptr::NULL, |_| partial), scale.map_or(Ptr::NULL, |_| scale_partial)),
            groups,
        )?;
        self.start_sums(run, (bias, partial), (scale, scale_partial), groups, tiles)
    }

    /// delta: rowsum(P ∘ dP), of the probabilities that the gradients are made of. In bf16 rowsum(dy ∘ y) does for it where scores are not
    /// large.
    fn start_delta(&self, run: &mut Run, o: &Operands, delta: Ptr) -> Result<(), Error> {
        let dy = run.grad(self.y);
        if o.qkv.kind == Kind::Bf16 && o.lengths == Ptr::NULL {
            let own = args![run.value(self.y), dy, delta, o.order];
            return self.start_rows(run, "attention_delta", o, &own);
        }
        let (kernels, n) = (Kernels::of(self.head_dim)?, self.window());
        let t = match o.qkv.kind {
            Kind::F32 => kernels.square(n, 4),
            Kind::Bf16 => kernels.strips(n, 2, 4, false, run.most_shared()),
        };
        let args = o.list(&args![run.value(self.lse), dy, delta], &[]);
        let grid = Grid::line(t.tiles * self.heads * self.units());
        run.launch(kernels.kernel(kernels.means, o.qkv.kind), grid, t.threads, t.shared, &args)
    }

    /// Starts dq, dk and dv, and the groups' sums; the number of tiles of the latter.
    fn start_gradients(&self, run: &mut Run, o: &Operands, delta: Ptr, sums: (Ptr, Ptr), groups: usize) -> Result<usize, Error> {
        let (kernels, n, kind) = (Kernels::of(self.head_dim)?, self.window(), o.qkv.kind);
        let how = run.deliver(self.qkv);
        assert!(how != Deliver::Skip, "attention weights without trained projections are not differentiated");
        let add = how == Deliver::Add;
        let own = args![run.value(self.lse), delta, run.grad(self.y), run.grad(self.qkv)];
        let (queries, keys) = match kind {
            Kind::F32 => (kernels.square(n, 4), kernels.square(n, 4)),
            Kind::Bf16 => {
                let limit = run.most_shared();
                (kernels.strips(n, 2, 4, sums.0 != Ptr::NULL, limit), kernels.strips(n, 2, 4, false, limit))
            }
        };
        let more: &[Arg] = match kind {
            Kind::F32 => &args![groups, add],
            Kind::Bf16 => &args![groups, queries.wide, add],
        };
        let args = o.list(&[&own[..], &args![sums.0, sums.1]].concat(), more);
        let grid = Grid::line(queries.tiles * self.heads * groups);
        run.launch(kernels.kernel(kernels.queries, kind), grid, queries.threads, queries.shared, &args)?;
        let args = o.list(&own, &args![add]);
        let grid = Grid::line(keys.tiles * self.heads * self.units());
        run.launch(kernels.kernel(kernels.keys, kind), grid, keys.threads, keys.shared, &args)?;
        Ok(queries.tiles)
    }

    /// Starts the sums over groups.
    fn start_sums(
        &self,
        run: &mut Run,
        (bias, partial): (Option<Act>, Ptr),
        (scale, scale_partial): (Option<Param>, Ptr),
        groups: usize,
        tiles: usize,
    ) -> Result<(), Error> {
        if let Some(bias) = bias {
            let count = self.heads * self.window() * self.window();
            let args = args![partial, run.grad(bias), groups, count, run.deliver(bias) == Deliver::Add];
            run.launch(Kernel::plain(ROWS, "attention_sum_bias"), Grid::cover(count, 256), 256, 0, &args)?;
        }
        if let Some((p, (to, add))) = scale.and_then(|p| Some((p, run.param_grad(p)?))) {
            let args = args![scale_partial, run.master(p), to, groups * tiles, self.heads, add];
            run.launch(Kernel::plain(ROWS, "attention_sum_scale"), Grid::line(self.heads), 256, 256 * size_of::<f64>(), &args)?;
        }
        Ok(())
    }
}

impl AttentionMap {
    pub(super) fn start_forward(&self, run: &mut Run) -> Result<(), Error> {
        let a = &self.of;
        let o = a.operands(run, Ptr::NULL)?;
        let own = args![o.qkv, o.bias, run.value(a.y), run.value(a.lse), o.order, o.regions, o.logit_scale];
        let shared = size_of::<f32>() * (32 + a.head_dim + a.window());
        let args = [&own[..], &o.scores, &o.sizes].concat();
        run.launch(Kernel::of(ROWS, "attention_map", o.qkv.kind), Grid::line(a.rows()), 128, shared, &args)
    }
}
