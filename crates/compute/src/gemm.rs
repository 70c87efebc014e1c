//! Matrix products: the `gemm` family of crates, held to the [SIMD level](crate::simd) in force.
//!
//! Work is split over threads by output tile only, never along the summed extent, so that 1 and n threads give equal bits.

use gemm_common::Parallelism;
use gemm_common::gemm::gemm_basic_generic;
use gemm_common::simd::MixedSimd;

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
        MatMut { data: data.as_mut_ptr(), rows, cols, row_stride, memory: std::marker::PhantomData }
    }

    /// A stripe of columns of a larger matrix, other stripes of which other tasks write.
    ///
    /// # Safety
    /// `data` must be valid for writes of `(rows - 1) * row_stride + cols` elements for `'a`, and nobody else may touch the `cols`
    /// elements of each row meanwhile.
    pub(crate) unsafe fn stripe(data: *mut T, rows: usize, cols: usize, row_stride: usize) -> Self {
        MatMut { data, rows, cols, row_stride, memory: std::marker::PhantomData }
    }
}

/// c = alpha · a · b, or c += alpha · a · b with `add`.
///
/// a: m x k, b: k x n, c: m x n. Panics when the extents disagree.
pub fn matmul<T: GemmReal>(alpha: T, a: Mat<T>, b: Mat<T>, add: bool, c: MatMut<T>, threads: Threads) {
    assert_eq!((a.cols, a.rows, b.cols), (b.rows, c.rows, c.cols), "extents of a matrix product");
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(rayon::current_num_threads()),
    };
    let _library = Library::enter(threads);
    // SAFETY: every matrix lies within its memory (checked when it was made), c is exclusively ours and cannot overlap a or b.
    // The library stores columns: c^T = b^T a^T has unit stride down its columns.
    unsafe {
        T::raw(Raw {
            m: c.cols,
            n: c.rows,
            k: a.cols,
            dst: c.data,
            dst_cs: c.row_stride as isize,
            add,
            lhs: b.data.as_ptr(),
            lhs_cs: b.row_stride as isize,
            lhs_rs: b.col_stride as isize,
            rhs: a.data.as_ptr(),
            rhs_cs: a.row_stride as isize,
            rhs_rs: a.col_stride as isize,
            alpha,
            parallelism,
        });
    }
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

/// A product as the library takes it: dst (m x n, columns contiguous) = alpha · lhs · rhs (+ dst).
#[doc(hidden)]
pub struct Raw<T> {
    m: usize,
    n: usize,
    k: usize,
    dst: *mut T,
    dst_cs: isize,
    add: bool,
    lhs: *const T,
    lhs_cs: isize,
    lhs_rs: isize,
    rhs: *const T,
    rhs_cs: isize,
    rhs_rs: isize,
    alpha: T,
    parallelism: Parallelism,
}

/// Element types the library multiplies.
pub trait GemmReal: Copy + 'static {
    /// # Safety
    /// All pointers, strides and extents of `r` must describe valid memory, and dst must not overlap lhs or rhs.
    #[doc(hidden)]
    unsafe fn raw(r: Raw<Self>);
}

macro_rules! gemm_real {
    ($t:ident, $kernels:ident) => {
        impl GemmReal for $t {
            unsafe fn raw(r: Raw<Self>) {
                macro_rules! at_level {
                    ($module:ident, $simd:ident, $lanes:expr) => {{
                        use $kernels::microkernel::$module::$t as kernel;
                        // SAFETY: the caller vouches for the memory; `level` for the instruction set.
                        unsafe {
                            gemm_basic_generic::<
                                _,
                                $t,
                                { $lanes },
                                { kernel::MR_DIV_N * $lanes },
                                { kernel::NR },
                                { kernel::MR_DIV_N },
                                { kernel::H_M },
                                { kernel::H_N },
                            >(
                                <gemm_common::simd::$simd as MixedSimd<$t, $t, $t, $t>>::try_new().expect("a level this machine has"),
                                r.m,
                                r.n,
                                r.k,
                                r.dst,
                                r.dst_cs,
                                1,
                                r.add,
                                r.lhs,
                                r.lhs_cs,
                                r.lhs_rs,
                                r.rhs,
                                r.rhs_cs,
                                r.rhs_rs,
                                1.0,
                                r.alpha,
                                false,
                                false,
                                false,
                                |a, b, c| a * b + c,
                                &kernel::UKR,
                                &kernel::H_UKR,
                                false,
                                r.parallelism,
                            )
                        }
                    }};
                }
                match crate::simd::level() {
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512 => at_level!(avx512f, V4, 64 / size_of::<$t>()),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx2 => at_level!(fma, V3, 32 / size_of::<$t>()),
                    _ => at_level!(scalar, Scalar, 1),
                }
            }
        }
    };
}

gemm_real!(f32, gemm_f32);
gemm_real!(f64, gemm_f64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stream;

    fn random(n: usize, key: u64) -> Vec<f64> {
        let mut s = Stream::new(&[key]);
        (0..n).map(|_| s.normal()).collect()
    }

    #[test]
    fn agrees_with_the_definition_for_all_transposes_and_strides() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (17, 33, 12), (64, 48, 130), (1, 40, 9), (50, 1, 20), (70, 200, 600)] {
            let (a, b) = (random(m * k, 1), random(k * n, 2));
            let expected = |i: usize, j: usize| (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum::<f64>();
            let at: Vec<f64> = (0..k * m).map(|i| a[(i % m) * k + i / m]).collect();
            let bt: Vec<f64> = (0..k * n).map(|i| b[(i % k) * n + i / k]).collect();
            let stride = n + 3;
            for (ma, mb) in [
                (Mat::new(&a, m, k), Mat::new(&b, k, n)),
                (Mat::new(&at, k, m).t(), Mat::new(&b, k, n)),
                (Mat::new(&a, m, k), Mat::new(&bt, n, k).t()),
                (Mat::new(&at, k, m).t(), Mat::new(&bt, n, k).t()),
            ] {
                let mut c = vec![1.0; m * stride];
                matmul(0.5, ma, mb, true, MatMut::strided(&mut c, m, n, stride), Threads::All);
                for i in 0..m {
                    for j in 0..stride {
                        let want = if j < n { 1.0 + 0.5 * expected(i, j) } else { 1.0 };
                        assert!(i + 1 == m && j >= n || (c[i * stride + j] - want).abs() < 1e-9, "{m} {n} {k} at {i} {j}");
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "within its memory")]
    fn a_matrix_larger_than_its_memory_is_refused() {
        Mat::new(&[0.0f32; 5], 2, 3);
    }
}
