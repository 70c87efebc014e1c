//! Matrix products, held to the [SIMD level](crate::simd) in force: by kernels of our own in f32 and with bf16 operands (`tiles`), by the
//! `gemm` family of crates for the rest (`library`).
//!
//! Work is split over threads by output tile only, never along the summed extent, so that 1 and n threads give equal bits.

mod library;
#[cfg(target_arch = "x86_64")]
mod pack;
#[cfg(target_arch = "x86_64")]
mod tiles;

pub use library::GemmReal;
use library::Raw;
#[cfg(target_arch = "x86_64")]
use tiles::{Begin, Job, Kernel, Operand};

use crate::Real;
#[cfg(target_arch = "x86_64")]
use crate::simd::Level;

/// How many threads a product may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// This one: inside a parallel region.
    One,
    /// All of the current rayon pool.
    All,
}

/// A matrix in somebody's memory: rows x cols with any strides.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// Rows one after the other.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Mat::strided(data, rows, cols, cols)
    }

    /// Rows `row_stride` elements apart.
    pub fn strided(data: &'a [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= data.len(), "matrix within its memory");
        Mat { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose: the same memory, read the other way.
    pub fn t(self) -> Self {
        Mat { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// A matrix to be written: rows one after the other, or `row_stride` apart.
#[derive(Debug)]
pub struct MatMut<'a, T> {
    data: *mut T,
    rows: usize,
    cols: usize,
    row_stride: usize,
    /// May the places between the rows be written, too?
    loose: bool,
    memory: std::marker::PhantomData<&'a mut [T]>,
}

impl<'a, T> MatMut<'a, T> {
    /// Rows one after the other.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        MatMut::strided(data, rows, cols, cols)
    }

    /// Rows `row_stride` elements apart.
    pub fn strided(data: &'a mut [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= data.len(), "matrix within its memory");
        MatMut { data: data.as_mut_ptr(), rows, cols, row_stride, loose: false, memory: std::marker::PhantomData }
    }

    /// The same with memory for whole rows, of which what lies behind the columns may be written, too, with anything: a row stride of whole
    /// vectors then saves what a rest costs.
    pub fn loose(data: &'a mut [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows * row_stride <= data.len(), "whole rows within their memory");
        MatMut { loose: true, ..MatMut::strided(data, rows, cols, row_stride) }
    }

    /// A stripe of columns of a larger matrix, other stripes of which other tasks write.
    ///
    /// # Safety
    /// `data` must be valid for writes of `(rows - 1) * row_stride + cols` elements for `'a`, and nobody else may touch the `cols`
    /// elements of each row meanwhile.
    pub(crate) unsafe fn stripe(data: *mut T, rows: usize, cols: usize, row_stride: usize) -> Self {
        MatMut { data, rows, cols, row_stride, loose: false, memory: std::marker::PhantomData }
    }
}

impl<T: Copy> MatMut<'_, T> {
    /// Sets every row.
    fn fill_rows(&mut self, row: &[T]) {
        for i in 0..self.rows {
            // SAFETY: the row lies in the memory, which is exclusively ours.
            unsafe { std::slice::from_raw_parts_mut(self.data.add(i * self.row_stride), self.cols) }.copy_from_slice(row);
        }
    }
}

/// What operands are rounded to before they are multiplied. Sums are in the element type in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Operands {
    /// Nothing.
    #[default]
    Exact,
    /// bf16; in f64, where things are proven, nothing.
    Bf16,
}

/// What a product is added to.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a, T> {
    /// Nothing.
    Zero,
    /// What c holds.
    C,
    /// One row for all: a bias.
    Row(&'a [T]),
}

/// c = start + alpha · a · b, and how.
pub struct Product<'a, T> {
    /// The factor.
    pub alpha: T,
    /// What operands are rounded to.
    pub operands: Operands,
    /// What it is added to.
    pub start: Start<'a, T>,
    /// Who works on it.
    pub threads: Threads,
}

/// c = alpha · a · b, or c += alpha · a · b with `add`.
///
/// a: m x k, b: k x n, c: m x n. Panics when the extents disagree.
pub fn matmul<T: GemmReal>(alpha: T, a: Mat<T>, b: Mat<T>, add: bool, c: MatMut<T>, threads: Threads) {
    let start = if add { Start::C } else { Start::Zero };
    Product { alpha, operands: Operands::Exact, start, threads }.run(a, b, c);
}

impl<T: Real> Product<'_, T> {
    /// Alone or added to c, on all threads.
    pub fn all(operands: Operands, add: bool) -> Self {
        let start = if add { Start::C } else { Start::Zero };
        Product { alpha: T::ONE, operands, start, threads: Threads::All }
    }
}

impl<T: GemmReal> Product<'_, T> {
    /// Does it. Panics when the extents disagree.
    pub fn run(&self, a: Mat<T>, b: Mat<T>, mut c: MatMut<T>) {
        assert_eq!((a.cols, a.rows, b.cols), (b.rows, c.rows, c.cols), "extents of a matrix product");
        if let Start::Row(row) = self.start {
            assert_eq!(row.len(), c.cols, "columns of a product's first row");
        }
        let _library = Library::enter(self.threads);
        if c.rows == 0 || c.cols == 0 || T::by_hand(self, a, b, &mut c) {
            return;
        }
        match self.operands {
            Operands::Exact => self.by_library(a, b, c),
            Operands::Bf16 => self.rounded_by_library(a, b, c),
        }
    }

    fn rounded_by_library(&self, a: Mat<T>, b: Mat<T>, c: MatMut<T>) {
        let (x, y) = (a.narrow(), b.narrow());
        self.by_library(Mat::new(&x, a.rows, a.cols), Mat::new(&y, b.rows, b.cols), c);
    }

    fn by_library(&self, a: Mat<T>, b: Mat<T>, mut c: MatMut<T>) {
        if let Start::Row(row) = self.start {
            c.fill_rows(row);
        }
        // SAFETY: every matrix lies within its memory (checked when it was made), c is exclusively ours and cannot overlap a or b.
        // The library stores columns: c^T = b^T a^T has unit stride down its columns.
        unsafe {
            T::raw(Raw {
                m: c.cols,
                n: c.rows,
                k: a.cols,
                dst: c.data,
                dst_cs: c.row_stride as isize,
                add: !matches!(self.start, Start::Zero),
                lhs: b.data.as_ptr(),
                lhs_cs: b.row_stride as isize,
                lhs_rs: b.col_stride as isize,
                rhs: a.data.as_ptr(),
                rhs_cs: a.row_stride as isize,
                rhs_rs: a.col_stride as isize,
                alpha: self.alpha,
                parallelism: self.threads.of_library(),
            });
        }
    }
}

impl<T: GemmReal> Mat<'_, T> {
    /// Rounded to bf16, rows one after the other.
    fn narrow(&self) -> Vec<T> {
        let at = |i: usize, j: usize| self.data[i * self.row_stride + j * self.col_stride].narrow();
        (0..self.rows).flat_map(|i| (0..self.cols).map(move |j| at(i, j))).collect()
    }
}

/// Does this machine multiply bf16, at the level in force?
pub(crate) fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return crate::simd::level() == Level::Avx512 && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Elements of c to which the library has other kernels, of scalar products.
#[cfg(target_arch = "x86_64")]
const SMALL: usize = 256;

/// Does a product by `tiles`, if they have it at this level; says whether it did. In f32 single rows and columns, sums of two and the
/// smallest are the library's.
#[cfg(target_arch = "x86_64")]
fn by_hand(p: &Product<f32>, a: Mat<f32>, b: Mat<f32>, c: &mut MatMut<f32>) -> bool {
    let kernel = match crate::simd::level() {
        Level::Avx512 if p.operands == Operands::Bf16 && has_bf16() => Kernel::Avx512Bf16,
        Level::Avx512 => Kernel::Avx512,
        Level::Avx2 => Kernel::Avx2,
        Level::Scalar => return false,
    };
    // SAFETY: the level says what the machine has.
    unsafe { by_kernel(kernel, p, a, b, c) }
}

/// # Safety
/// The machine must have the kernel's instructions.
#[cfg(target_arch = "x86_64")]
unsafe fn by_kernel(kernel: Kernel, p: &Product<f32>, a: Mat<f32>, b: Mat<f32>, c: &mut MatMut<f32>) -> bool {
    let of_library = c.rows.min(c.cols) < 2 || a.cols < 3 || c.rows * c.cols <= SMALL;
    if a.cols == 0 || (p.operands == Operands::Exact && of_library) {
        return false;
    }
    let begin = match p.start {
        Start::Zero => Begin::Zero,
        Start::C => Begin::C,
        Start::Row(row) => Begin::Row(row.as_ptr()),
    };
    let operand = |m: Mat<f32>| Operand { data: m.data.as_ptr(), rs: m.row_stride, cs: m.col_stride };
    let (a, b, k) = (operand(a), operand(b), a.cols);
    let (m, n, alpha, rounded) = (c.rows, c.cols, p.alpha, p.operands == Operands::Bf16);
    let job = Job {
        kernel,
        rounded,
        m,
        n,
        k,
        alpha,
        a,
        b,
        begin,
        c: c.data,
        c_rs: c.row_stride,
        loose: c.loose && !matches!(begin, Begin::Row(_)),
    };
    // SAFETY: matrices lie within their memory (checked when they were made), of whose strides one is 1; c is exclusively ours; the
    // instructions are the caller's promise.
    unsafe { job.run(p.threads) };
    true
}

/// Marks the time spent in the library, whose packing buffers are its own, for the test that counts our allocations. Nothing in release.
struct Library(#[cfg(debug_assertions)] Threads);

#[cfg(debug_assertions)]
mod inside {
    pub static ALL: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    thread_local! { pub static ONE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) }; }
}

impl Library {
    #[cfg(debug_assertions)]
    fn enter(threads: Threads) -> Self {
        Library::set(threads, true);
        Library(threads)
    }

    #[cfg(not(debug_assertions))]
    fn enter(_: Threads) -> Self {
        Library()
    }

    #[cfg(debug_assertions)]
    fn set(threads: Threads, on: bool) {
        match threads {
            Threads::One => inside::ONE.set(on),
            Threads::All => inside::ALL.store(on, std::sync::atomic::Ordering::SeqCst),
        }
    }
}

#[cfg(debug_assertions)]
impl Drop for Library {
    fn drop(&mut self) {
        Library::set(self.0, false);
    }
}

/// Is this thread, or the whole pool, in the matrix library? Known in builds with debug assertions only.
#[doc(hidden)]
pub fn inside_gemm_library() -> bool {
    #[cfg(debug_assertions)]
    return inside::ONE.get() || inside::ALL.load(std::sync::atomic::Ordering::SeqCst);
    #[cfg(not(debug_assertions))]
    return false;
}

#[cfg(test)]
mod tests;
