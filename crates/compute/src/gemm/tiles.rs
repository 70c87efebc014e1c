//! Matrix products by hand, for f32 on AVX2 and AVX-512 and for bf16 operands on AVX-512: c = start + alpha · a · b.
//!
//! c is cut into tiles whose sums stay in registers. A tile reads *units* of four bytes: one f32, or two bf16 that follow each other along
//! k; so both types share all of the code but one instruction. b is packed into panels as wide as a tile unless it can be read where it
//! lies; a is read where it lies if its rows are contiguous and need no rounding. k is cut into blocks (see `depth`), whose sums are added
//! to c in their order: sizes and order are functions of the shape alone, so one instruction set gives the same bits on every machine and on
//! any number of threads. In f32 they are the bits of the `gemm` crates, whose order is the same.
//!
//! Tasks are rectangles of c, each of which packs what it reads; [`grid`] weighs packing twice against threads that wait.

use rayon::prelude::*;

use super::Threads;
use super::pack::{Form, across, along, rows as along_rows};

/// Most of k that is summed in registers, in f32.
const DEPTH: usize = 512;
/// Bytes of a that stay in the second-level cache while the panels of b pass by.
const BAND: usize = 384 << 10;
/// A matrix b whose rows are at most so many bytes apart is read where it lies.
const NEAR: usize = 2048;

/// The instructions a product is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// f32, 6 x 16.
    Avx2,
    /// f32, 8 x 48.
    Avx512,
    /// Pairs of bf16, 8 x 48.
    Avx512Bf16,
}

impl Kernel {
    /// Rows of a tile, lanes of a vector, vectors of a row.
    fn tile(self) -> (usize, usize, usize) {
        match self {
            Kernel::Avx2 => (6, 8, 2),
            Kernel::Avx512 | Kernel::Avx512Bf16 => (8, 16, 3),
        }
    }
}

/// What is added to a product.
#[derive(Clone, Copy, Debug)]
pub(super) enum Begin {
    Zero,
    /// What c holds.
    C,
    /// One row for all.
    Row(*const f32),
}

/// An operand: where element (0, 0) lies, and how far the next row and the next column are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operand {
    pub data: *const f32,
    pub rs: usize,
    pub cs: usize,
}

/// A product of m x k by k x n; one of each operand's strides is 1, and so is c's from column to column.
#[derive(Clone, Copy)]
pub(super) struct Job {
    pub kernel: Kernel,
    /// Are operands rounded to bf16 first?
    pub rounded: bool,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub alpha: f32,
    pub a: Operand,
    pub b: Operand,
    pub begin: Begin,
    pub c: *mut f32,
    pub c_rs: usize,
    /// May what lies behind a row's last column be written, up to the next row?
    pub loose: bool,
}

// SAFETY: whoever makes a job vouches for its memory as long as it runs; its tasks write disjoint rectangles of c.
unsafe impl Sync for Job {}

/// One tile: `k` units; begins with rows at `begin` unless that is null.
struct Tile {
    k: usize,
    a: *const u32,
    a_rs: usize,
    a_cs: usize,
    b: *const u32,
    b_rs: usize,
    alpha: f32,
    begin: *const f32,
    begin_rs: usize,
    c: *mut f32,
    c_rs: usize,
}

thread_local! {
    static PACKED: std::cell::RefCell<[Vec<u32>; 2]> = const { std::cell::RefCell::new([Vec::new(), Vec::new()]) };
}

fn grown(v: &mut Vec<u32>, len: usize) -> &mut [u32] {
    if v.len() < len {
        v.resize(len, 0);
    }
    &mut v[..len]
}

/// Cuts c into (rows, columns) of a task: what takes the slowest thread least time, where bringing an element into the cache, or packing
/// it, costs as much as some multiply-adds.
fn grid(job: &Job, threads: usize) -> (usize, usize) {
    const TASK: usize = 1 << 17;
    const TRANSPOSED: usize = 32;
    const COPIED: usize = 12;
    const READ: usize = 3;
    let (rows, lanes, vectors) = job.kernel.tile();
    let (m, n, k) = (job.m, job.n, job.k);
    if threads == 1 || m * n * k < TASK {
        return (m, n);
    }
    let pack_a = if job.a_is_read_in_place() { READ } else { COPIED };
    let pack_b = if job.b_is_read_in_place() {
        READ
    } else if job.b.cs == 1 {
        COPIED
    } else {
        TRANSPOSED
    };
    let cuts = |extent: usize, step: usize| (1..=4 * threads).map(move |parts| extent.div_ceil(parts).next_multiple_of(step).min(extent));
    let cost = |(h, w): (usize, usize)| {
        let tasks = m.div_ceil(h) * n.div_ceil(w);
        let task = k * (h.next_multiple_of(rows) * w.next_multiple_of(lanes) + h * pack_a + w * pack_b) + TASK;
        task * tasks.div_ceil(threads)
    };
    let all = cuts(m, rows).flat_map(|h| cuts(n, lanes * vectors).map(move |w| (h, w)));
    all.min_by_key(|&cut| cost(cut)).expect("one at least")
}

impl Job {
    fn form(&self) -> Form {
        match (self.rounded, self.kernel) {
            (false, _) => Form::Exact,
            (true, Kernel::Avx512Bf16) => Form::Pairs,
            (true, _) => Form::Rounded,
        }
    }

    fn a_is_read_in_place(&self) -> bool {
        !self.rounded && (self.a.cs == 1 || 4 * self.a.cs <= NEAR)
    }

    fn b_is_read_in_place(&self) -> bool {
        !self.rounded && self.b.cs == 1 && 4 * self.b.rs <= NEAR && self.n.is_multiple_of(self.kernel.tile().1)
    }

    /// How much of k is summed at a time: parts of one size, but for small products. Pairs take half the room, so that c need not be
    /// read again so often; where k is long (the gradient of a weight) what is packed has to stay in the cache.
    fn depth(&self) -> usize {
        let most = if self.form() == Form::Pairs && self.k <= 8 * DEPTH { 2 * DEPTH } else { DEPTH };
        if self.m.max(self.n) <= 64 { most.min(self.k) } else { self.k.div_ceil(self.k.div_ceil(most)) }
    }

    /// Does it.
    ///
    /// # Safety
    /// Operands and c must be valid as described, c must not overlap them, nobody else may touch it, and the machine must have the
    /// kernel's instructions.
    pub unsafe fn run(&self, threads: Threads) {
        let threads = if threads == Threads::One { 1 } else { rayon::current_num_threads() };
        let (h, w) = grid(self, threads);
        let (down, right) = (self.m.div_ceil(h), self.n.div_ceil(w));
        let task = |i: usize| {
            let (top, left) = (i / right * h, i % right * w);
            // SAFETY: the caller's promise; rectangles of two tasks do not overlap.
            unsafe { self.rectangle(top..self.m.min(top + h), left..self.n.min(left + w)) };
        };
        if down * right == 1 { task(0) } else { (0..down * right).into_par_iter().with_max_len(1).for_each(task) }
    }

    /// One task.
    ///
    /// # Safety
    /// As [`run`](Job::run).
    unsafe fn rectangle(&self, down: std::ops::Range<usize>, right: std::ops::Range<usize>) {
        let (form, (rows, lanes, vectors)) = (self.form(), self.kernel.tile());
        let depth = self.depth();
        let width = right.len().next_multiple_of(lanes);
        PACKED.with_borrow_mut(|[a_memory, b_memory]| {
            for at in (0..self.k).step_by(depth) {
                let deep = depth.min(self.k - at);
                let units = form.units(deep);
                // SAFETY: the columns and this block's rows lie in b.
                let source = unsafe { self.b.data.add(at * self.b.rs + right.start * self.b.cs) };
                // Panel by panel, or where it lies.
                let (b, b_rs) = if self.b_is_read_in_place() {
                    (source.cast::<u32>(), Some(self.b.rs))
                } else {
                    let packed = grown(b_memory, units * width);
                    for left in (0..right.len()).step_by(lanes * vectors) {
                        let panel = &mut packed[left * units..];
                        let cols = (lanes * vectors).min(right.len() - left);
                        let wide = cols.next_multiple_of(lanes);
                        // SAFETY: as above.
                        unsafe {
                            if self.b.cs == 1 {
                                across(form, source.add(left), self.b.rs, deep, cols, wide, panel);
                            } else {
                                along(form, source.add(left * self.b.cs), self.b.cs, deep, cols, wide, panel);
                            }
                        }
                    }
                    (packed.as_ptr(), None)
                };
                let tall = (BAND / (4 * units)).next_multiple_of(rows);
                for top in down.clone().step_by(tall) {
                    let high = tall.min(down.end - top);
                    // SAFETY: these rows and this block's columns lie in a.
                    let source = unsafe { self.a.data.add(top * self.a.rs + at * self.a.cs) };
                    let (a, a_rs, a_cs) = if self.a_is_read_in_place() {
                        (source.cast::<u32>(), self.a.rs, self.a.cs)
                    } else if self.a.cs == 1 {
                        let packed = grown(a_memory, units * high);
                        // SAFETY: as above.
                        unsafe { along_rows(form, source, self.a.rs, high, deep, packed) };
                        (packed.as_ptr(), units, 1)
                    } else {
                        let packed = grown(a_memory, units * high);
                        // SAFETY: as above.
                        unsafe { across(form, source, self.a.cs, deep, high, high, packed) };
                        (packed.as_ptr(), 1, high)
                    };
                    let band = Band { top, high, left: right.start, wide: right.len(), units, first: at == 0 };
                    // SAFETY: packed memory holds what was packed into it; the rest is the caller's promise.
                    unsafe { self.band(&band, (a, a_rs, a_cs), (b, b_rs)) };
                }
            }
        });
    }

    /// Some rows of a task, one block of k.
    ///
    /// # Safety
    /// As [`run`](Job::run), for what the band says.
    unsafe fn band(&self, band: &Band, (a, a_rs, a_cs): (*const u32, usize, usize), (b, b_rs): (*const u32, Option<usize>)) {
        let (most, lanes, vectors) = self.kernel.tile();
        for left in (0..band.wide).step_by(lanes * vectors) {
            let cols = (lanes * vectors).min(band.wide - left);
            let wide = cols.next_multiple_of(lanes);
            // SAFETY: a panel of whole vectors starts here, or a row of b that has as many columns.
            let b = unsafe { b.add(if b_rs.is_some() { left } else { left * band.units }) };
            for down in (0..band.high).step_by(most) {
                let rows = most.min(band.high - down);
                let (row, col) = (band.top + down, band.left + left);
                // SAFETY: within c.
                let c = unsafe { self.c.add(row * self.c_rs + col) };
                let (begin, begin_rs) = match self.begin {
                    _ if !band.first => (c.cast_const(), self.c_rs),
                    Begin::Zero => (std::ptr::null(), 0),
                    Begin::C => (c.cast_const(), self.c_rs),
                    // SAFETY: within the row.
                    Begin::Row(start) => (unsafe { start.add(col) }, 0),
                };
                // SAFETY: within a.
                let a = unsafe { a.add(down * a_rs) };
                let tile = Tile {
                    k: band.units,
                    a,
                    a_rs,
                    a_cs,
                    b,
                    b_rs: b_rs.unwrap_or(wide),
                    alpha: self.alpha,
                    begin,
                    begin_rs,
                    c,
                    c_rs: self.c_rs,
                };
                let whole = cols == wide || (self.loose && col + wide <= self.c_rs);
                // SAFETY: rows and columns of the tile lie in c; a tile that would reach beyond them goes through memory of its own.
                unsafe { if whole { self.kernel.run(&tile, rows, wide / lanes) } else { self.ragged(tile, rows, cols, wide) } }
            }
        }
    }

    /// A tile whose last vector reaches beyond c's last column.
    ///
    /// # Safety
    /// As [`run`](Job::run) for `rows` and `cols` of the tile.
    unsafe fn ragged(&self, tile: Tile, rows: usize, cols: usize, wide: usize) {
        let (mut begin, mut sums) = ([0.0f32; MOST], [0.0f32; MOST]);
        for r in 0..rows {
            if !tile.begin.is_null() {
                // SAFETY: `cols` elements of each of these rows are there.
                let from = unsafe { std::slice::from_raw_parts(tile.begin.add(r * tile.begin_rs), cols) };
                begin[r * wide..r * wide + cols].copy_from_slice(from);
            }
        }
        let from = if tile.begin.is_null() { tile.begin } else { begin.as_ptr() };
        let inside = Tile { begin: from, begin_rs: wide, c: sums.as_mut_ptr(), c_rs: wide, ..tile };
        // SAFETY: both arrays hold the tile.
        unsafe { self.kernel.run(&inside, rows, wide / self.kernel.tile().1) };
        for r in 0..rows {
            // SAFETY: as above, of c.
            unsafe { std::slice::from_raw_parts_mut(tile.c.add(r * tile.c_rs), cols) }.copy_from_slice(&sums[r * wide..r * wide + cols]);
        }
    }
}

/// Elements of the largest tile.
const MOST: usize = 8 * 48;

/// Rows `top..top + high` and columns `left..left + wide` of c, and a block of k in units: is it the first?
struct Band {
    top: usize,
    high: usize,
    left: usize,
    wide: usize,
    units: usize,
    first: bool,
}

impl Kernel {
    /// One tile of so many rows and vectors.
    ///
    /// # Safety
    /// The tile's memory must be valid, and the machine must have the instructions.
    unsafe fn run(self, t: &Tile, rows: usize, vectors: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Kernel::Avx2 => avx2::run(t, rows, vectors),
                Kernel::Avx512 => avx512::run(t, rows, vectors),
                Kernel::Avx512Bf16 => avx512_bf16::run(t, rows, vectors),
            }
        }
    }
}

macro_rules! tiles {
    ($name:ident, $features:literal, $vector:ty, $lanes:literal, ($($rows:literal)*) x $vectors:tt,
     $zero:ident, $load:ident, $store:ident, $splat:ident, $mul:ident, $fma:ident, |$units:ident| $loaded:expr, |$unit:ident| $broadcast:expr,
     |$a:ident, $b:ident, $sum:ident| $step:expr) => {
        mod $name {
            use std::arch::x86_64::*;

            use super::Tile;

            /// # Safety
            /// As [`super::Kernel::run`].
            #[target_feature(enable = $features)]
            pub unsafe fn run(t: &Tile, rows: usize, vectors: usize) {
                // SAFETY: the caller's promise.
                unsafe { tiles!(@vectors t, rows, vectors, ($($rows)*), $vectors) }
            }

            /// # Safety
            /// As [`super::Kernel::run`], for R rows and V vectors.
            #[target_feature(enable = $features)]
            unsafe fn tile<const R: usize, const V: usize>(t: &Tile) {
                let mut sums: [[$vector; V]; R] = [[$zero(); V]; R];
                let (mut a, mut b) = (t.a, t.b);
                // c's lines come while the sums are made.
                for r in 0..R {
                    for v in 0..V {
                        _mm_prefetch::<_MM_HINT_T0>(t.c.wrapping_add(r * t.c_rs + v * $lanes).cast());
                    }
                }
                for _ in 0..t.k {
                    // SAFETY: k units of V vectors lie behind b, k units of R rows behind a.
                    let bs: [_; V] = std::array::from_fn(|v| unsafe { let $units = b.add(v * $lanes); $loaded });
                    for r in 0..R {
                        // SAFETY: as above.
                        let $a = { let $unit = unsafe { *a.add(r * t.a_rs) }; $broadcast };
                        for v in 0..V {
                            let ($b, $sum) = (bs[v], sums[r][v]);
                            sums[r][v] = $step;
                        }
                    }
                    // SAFETY: at most one step behind the last unit, and not read then.
                    (a, b) = (a.wrapping_add(t.a_cs), b.wrapping_add(t.b_rs));
                }
                let alpha = $splat(t.alpha);
                for r in 0..R {
                    for v in 0..V {
                        // SAFETY: R rows of V vectors lie in c, and in `begin` unless it is null.
                        unsafe {
                            let done = if t.begin.is_null() {
                                $mul(alpha, sums[r][v])
                            } else {
                                $fma(alpha, sums[r][v], $load(t.begin.add(r * t.begin_rs + v * $lanes)))
                            };
                            $store(t.c.add(r * t.c_rs + v * $lanes), done);
                        }
                    }
                }
            }
        }
    };
    (@vectors $t:ident, $r:ident, $v:ident, $rows:tt, ($($vectors:literal)*)) => {
        match $v {
            $($vectors => tiles!(@rows $t, $r, $vectors, $rows),)*
            _ => unreachable!("panels are no wider"),
        }
    };
    (@rows $t:ident, $r:ident, $vectors:literal, ($($rows:literal)*)) => {
        match $r {
            $($rows => tile::<$rows, $vectors>($t),)*
            _ => unreachable!("tiles are no higher"),
        }
    };
}

tiles!(
    avx512, "avx512f", __m512, 16, (1 2 3 4 5 6 7 8) x (1 2 3), _mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps,
    _mm512_mul_ps, _mm512_fmadd_ps, |p| _mm512_loadu_ps(p.cast()), |u| _mm512_set1_ps(f32::from_bits(u)), |a, b, sum| _mm512_fmadd_ps(a, b, sum)
);
tiles!(
    avx512_bf16, "avx512f,avx512bf16", __m512, 16, (1 2 3 4 5 6 7 8) x (1 2 3), _mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps,
    _mm512_set1_ps, _mm512_mul_ps, _mm512_fmadd_ps, |p| _mm512_loadu_si512(p.cast()), |u| _mm512_set1_epi32(u.cast_signed()),
    // SAFETY: both are 512 bits of any content.
    |a, b, sum| _mm512_dpbf16_ps(sum, unsafe { std::mem::transmute::<__m512i, __m512bh>(a) }, unsafe { std::mem::transmute::<__m512i, __m512bh>(b) })
);
tiles!(
    avx2, "avx2,fma", __m256, 8, (1 2 3 4 5 6) x (1 2), _mm256_setzero_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_mul_ps,
    _mm256_fmadd_ps, |p| _mm256_loadu_ps(p.cast()), |u| _mm256_set1_ps(f32::from_bits(u)), |a, b, sum| _mm256_fmadd_ps(a, b, sum)
);
