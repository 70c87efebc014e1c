//! Matrix products by cuBLASLt: descriptors and the algorithm are made once a shape and kept.
//!
//! The library stores columns; our matrices are rows. C = A B by rows is Cᵀ = Bᵀ Aᵀ by columns, so the operands change places.
//!
//! Shapes that the library has no algorithm for (which ones depends on its version and the device; odd leading dimensions of bf16 are
//! candidates) go to a kernel of our own (`ops/product.cu`), which is slow and knows every shape.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::{result, sys};

use super::gpu::Gpu;
use super::memory::DeviceBuffer;
use super::run::{Grid, Kernel, Kind, Ptr, Run, args, launch};
use crate::Error;

/// C [m, n] = op(A) [m, k] · op(B) [k, n] (+ C), all by rows without gaps. C is `c.kind`; A and B are of one type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    pub a: Ptr,
    /// A lies as [k, m].
    pub a_transposed: bool,
    pub b: Ptr,
    /// B lies as [n, k].
    pub b_transposed: bool,
    pub c: Ptr,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub add: bool,
    pub beside: Beside,
}

/// What a product does beside.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Beside {
    Nothing,
    /// Adds this [n], of C's type, to every row.
    Bias(Ptr),
    /// Sums every column of A, which lies as [k, m], to this [m], of C's type: the gradient of a bias, where A is the gradient of the
    /// output and C that of the weight.
    Sums(Ptr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shape {
    m: usize,
    n: usize,
    k: usize,
    transposed: (bool, bool),
    kinds: (Kind, Kind),
    add: bool,
    epilogue: sys::cublasLtEpilogue_t,
}

/// What a shape needs: made once.
struct Prepared {
    operation: sys::cublasLtMatmulDesc_t,
    /// Layouts of the library's A (our B), B (our A) and C.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// The library's handle, its workspace and what has been prepared.
pub(super) struct Lt {
    handle: sys::cublasLtHandle_t,
    workspace: Option<DeviceBuffer>,
    /// None: the library has no algorithm.
    prepared: HashMap<Shape, Option<Prepared>>,
}

/// Bytes the library may use between its own kernels; what NVIDIA recommends for Hopper.
static WORKSPACE: usize = 32 << 20;
/// Every operand starts at least at a multiple of this many bytes: parameters at 16 elements of bf16.
static ALIGNMENT: u32 = 32;
/// Parts of a sum over k are added up in f32, whatever C is.
static REDUCTION: u32 = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;

fn data_type(kind: Kind) -> sys::cudaDataType {
    match kind {
        Kind::F32 => sys::cudaDataType_t::CUDA_R_32F,
        Kind::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
    }
}

impl Lt {
    /// # Errors
    /// What the library says.
    pub fn new() -> Result<Self, String> {
        // The library was found before (`libraries::probe`).
        let handle = result::create_handle().map_err(|e| format!("cuBLASLt could not be opened: {e}"))?;
        Ok(Lt { handle, workspace: None, prepared: HashMap::new() })
    }

    /// Shapes that the library has no algorithm for.
    #[cfg(test)]
    fn refused(&self) -> usize {
        self.prepared.values().filter(|prepared| prepared.is_none()).count()
    }

    /// What a shape needs, or None if the library has no algorithm for it.
    fn prepare(&mut self, s: Shape) -> Result<Option<&Prepared>, String> {
        if !self.prepared.contains_key(&s) {
            let prepared = match prepare(self.handle, s) {
                Ok(prepared) => Some(prepared),
                Err(e) if is_refusal(e) => None,
                Err(e) => return Err(format!("preparing a product of {} x {} x {} failed: {e}", s.m, s.n, s.k)),
            };
            self.prepared.insert(s, prepared);
        }
        Ok(self.prepared[&s].as_ref())
    }
}

/// Is there no algorithm for this shape on this device, rather than something wrong?
fn is_refusal(e: result::CublasError) -> bool {
    matches!(e.0, sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED | sys::cublasStatus_t::CUBLAS_STATUS_ARCH_MISMATCH)
}

fn prepare(handle: sys::cublasLtHandle_t, s: Shape) -> Result<Prepared, result::CublasError> {
    use sys::cublasLtMatmulDescAttributes_t as Desc;
    use sys::cublasLtMatmulPreferenceAttributes_t as Pref;
    let operation = result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType_t::CUDA_R_32F)?;
    let (operand, out) = (data_type(s.kinds.0), data_type(s.kinds.1));
    // The library's A is our B: n x k by columns, stored as n x k or (transposed) k x n.
    let stored = |transposed: bool, rows: usize, cols: usize| {
        let (rows, cols) = if transposed { (cols, rows) } else { (rows, cols) };
        result::create_matrix_layout(operand, rows as u64, cols as u64, rows as i64)
    };
    let layouts = [
        stored(s.transposed.1, s.n, s.k)?,
        stored(s.transposed.0, s.k, s.m)?,
        result::create_matrix_layout(out, s.n as u64, s.m as u64, s.n as i64)?,
    ];
    let preference = result::create_matmul_pref()?;
    // SAFETY: descriptors are alive; every value has the size that its attribute wants.
    unsafe {
        set(operation, Desc::CUBLASLT_MATMUL_DESC_TRANSA, &i32::from(s.transposed.1))?;
        set(operation, Desc::CUBLASLT_MATMUL_DESC_TRANSB, &i32::from(s.transposed.0))?;
        if s.epilogue != sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT {
            set(operation, Desc::CUBLASLT_MATMUL_DESC_EPILOGUE, &s.epilogue)?;
            set(operation, Desc::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &out)?;
        }
        let prefer = |attribute, value: *const c_void, size| result::set_matmul_pref_attribute(preference, attribute, value, size);
        prefer(Pref::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (&raw const WORKSPACE).cast(), size_of::<usize>())?;
        prefer(Pref::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, (&raw const REDUCTION).cast(), size_of::<u32>())?;
        for operand in [
            Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            prefer(operand, (&raw const ALIGNMENT).cast(), size_of::<u32>())?;
        }
        let [a, b, c] = layouts;
        let best = result::get_matmul_algo_heuristic(handle, operation, a, b, c, c, preference);
        result::destroy_matmul_pref(preference)?;
        Ok(Prepared { operation, layouts, algorithm: best?.algo })
    }
}

/// # Safety
/// The descriptor is alive and the attribute is of type T.
unsafe fn set<T>(
    operation: sys::cublasLtMatmulDesc_t,
    attribute: sys::cublasLtMatmulDescAttributes_t,
    value: &T,
) -> Result<(), result::CublasError> {
    // SAFETY: the caller's promise.
    unsafe { result::set_matmul_desc_attribute(operation, attribute, std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

impl Run<'_> {
    /// Starts a matrix product.
    pub fn product(&mut self, p: Product) -> Result<(), Error> {
        start_product(self.gpu, p)
    }

    /// Starts a matrix product that makes sums beside, if the library has one; else nothing is started, and this is false.
    pub fn product_and_sums(&mut self, p: Product) -> Result<bool, Error> {
        start_library(self.gpu, p)
    }
}

/// Starts a matrix product, by one who has the device's queue: the library's, or where it has none, ours.
pub(super) fn start_product(gpu: &Arc<Gpu>, p: Product) -> Result<(), Error> {
    if start_library(gpu, p)? { Ok(()) } else { own_product(gpu, p) }
}

/// Starts the library's product; false if it has none.
fn start_library(gpu: &Arc<Gpu>, p: Product) -> Result<bool, Error> {
    assert_eq!(p.a.kind, p.b.kind, "operands of a product are of one type");
    use sys::cublasLtEpilogue_t as Epilogue;
    // The library's B is our A.
    let (epilogue, beside) = match p.beside {
        Beside::Nothing => (Epilogue::CUBLASLT_EPILOGUE_DEFAULT, None),
        Beside::Bias(bias) => (Epilogue::CUBLASLT_EPILOGUE_BIAS, Some(bias)),
        Beside::Sums(sums) => (Epilogue::CUBLASLT_EPILOGUE_BGRADB, Some(sums)),
    };
    assert!(beside.is_none_or(|b| b.kind == p.c.kind), "a bias, or its gradient, is of the product's type");
    let shape =
        Shape { m: p.m, n: p.n, k: p.k, transposed: (p.a_transposed, p.b_transposed), kinds: (p.a.kind, p.c.kind), add: p.add, epilogue };
    let mut lt = gpu.lt.lock().unwrap_or_else(|e| e.into_inner());
    if lt.workspace.is_none() {
        lt.workspace = Some(DeviceBuffer::new(gpu, WORKSPACE)?);
    }
    let workspace = lt.workspace.as_ref().map_or(0, DeviceBuffer::address);
    let handle = lt.handle;
    let Some(prepared) = lt.prepare(shape).map_err(|why| gpu.error(why))? else { return Ok(false) };
    let (one, beta) = (1.0f32, if p.add { 1.0f32 } else { 0.0 });
    let [a, b, c] = prepared.layouts;
    // SAFETY: descriptors are alive and describe operands of the scheduler's, which do not overlap; the stream is the device's.
    let answer = unsafe {
        let beside = beside.map_or(Ok(()), |bias| {
            set(prepared.operation, sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.address)
        });
        beside.and_then(|()| {
            result::matmul(
                handle,
                prepared.operation,
                (&raw const one).cast(),
                (&raw const beta).cast(),
                p.b.address as *const c_void,
                a,
                p.a.address as *const c_void,
                b,
                p.c.address as *const c_void,
                c,
                p.c.address as *mut c_void,
                c,
                &prepared.algorithm,
                workspace as *mut c_void,
                WORKSPACE,
                gpu.stream.cast(),
            )
        })
    };
    match answer {
        Err(e) if is_refusal(e) => {
            lt.prepared.insert(shape, None);
            Ok(false)
        }
        answer => answer.map(|()| true).map_err(|e| gpu.error(format!("a product of {} x {} x {} failed: {e}", p.m, p.n, p.k))),
    }
}

/// Starts our own kernel.
fn own_product(gpu: &Gpu, p: Product) -> Result<(), Error> {
    const TILE: usize = 64;
    const SHARED: usize = 2 * 16 * (TILE + 1) * size_of::<f32>();
    let kernel = match (p.a.kind, p.c.kind) {
        (Kind::Bf16, Kind::F32) => Kernel::plain("product", "product_bf16_to_f32"),
        (_, kind) => Kernel::of("product", "product", kind),
    };
    // Elements from one row, and from one place of the sum, to the next.
    let steps = |transposed: bool, rows: usize, k: usize| if transposed { (1, rows) } else { (k, 1) };
    let ((a_row, a_step), (b_row, b_step)) = (steps(p.a_transposed, p.m, p.k), steps(!p.b_transposed, p.n, p.k));
    let bias = if let Beside::Bias(bias) = p.beside { bias } else { Ptr::NULL };
    let args = args![p.a, a_row, a_step, p.b, b_row, b_step, p.c, bias, p.m, p.n, p.k, p.add];
    launch(gpu, kernel, Grid(p.m.div_ceil(TILE) as u32, p.n.div_ceil(TILE) as u32, 1), 256, SHARED, &args)
}

#[cfg(test)]
mod tests {
    use crate::{Act, Arena, Bias, Cx, DType, Device, Grads, Layout, Params, Plan, Planner, StepKey, Stream};

    fn random(n: usize, key: u64) -> Vec<f64> {
        let mut s = Stream::new(&[key]);
        (0..n).map(|_| s.normal()).collect()
    }

    /// Two layers on the same rows, so that gradients are set and added.
    fn layers(m: usize, k: usize, n: usize) -> (Plan, Params, [Act; 3]) {
        let mut layout = Layout::builder();
        let [w, v, b] = [("w", vec![n, k]), ("v", vec![n, k]), ("b", vec![n])].map(|(name, shape)| layout.add(name.to_string(), &shape));
        let layout = layout.finish();
        let mut p = Planner::new();
        p.train(&layout);
        let x = p.input([m, k]);
        p.want_grad(x);
        let y = p.linear(x, w, Bias::Full(b)).unwrap();
        let z = p.linear(x, v, Bias::None).unwrap();
        p.leaf(y);
        p.leaf(z);
        let mut params = Params::new(&layout, DType::F32);
        [w, v, b].into_iter().zip(1..).for_each(|(p, key)| params.set(p, &random(layout.shape(p).iter().product(), key)));
        (p.finish().unwrap(), params, [x, y, z])
    }

    /// Outputs and gradients.
    fn run(device: &Device, (plan, params, [x, y, z]): &(Plan, Params, [Act; 3])) -> Vec<Vec<f64>> {
        let mut arena = Arena::on(device, plan).unwrap();
        let mut grads = Grads::new(params.layout(), DType::F32);
        arena.write_f64(*x, &random(plan.shape(*x).len(), 7));
        let sets = [params];
        plan.forward(&mut Cx::new(device, &sets, &mut arena, StepKey::default())).unwrap();
        let mut found = vec![arena.to_f64(*y), arena.to_f64(*z)];
        for (act, key) in [(*y, 8), (*z, 9)] {
            let values = random(plan.shape(act).len(), key);
            arena.grad_mut::<f32>(act).iter_mut().zip(values).for_each(|(to, from)| *to = from as f32);
        }
        plan.backward(&mut Cx::new(device, &sets, &mut arena, StepKey::default()), &mut grads).unwrap();
        found.push(arena.grad_to_f64(*x));
        found.extend(params.layout().iter().map(|p| grads.to_f64(p)));
        found
    }

    #[test]
    fn our_own_products_equal_the_processors() {
        if std::env::var_os("FD_TEST_CUDA").is_none() {
            return;
        }
        for (m, k, n) in [(70, 33, 129), (64, 64, 64), (5, 1, 3), (130, 17, 1)] {
            let layers = layers(m, k, n);
            let expected = run(&Device::CPU, &layers);
            for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::Bf16, 2e-2)] {
                let device = Device::cuda(0, dtype);
                let gpu = crate::cuda::Gpu::open(0).unwrap();
                run(&device, &layers);
                // As if the library had refused what it was asked for.
                let refused = {
                    let mut lt = gpu.lt.lock().unwrap();
                    lt.prepared.values_mut().for_each(|prepared| *prepared = None);
                    lt.prepared.len()
                };
                for (found, expected) in run(&device, &layers).iter().zip(&expected) {
                    let scale = expected.iter().fold(1e-2f64, |m, x| m.max(x.abs()));
                    let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs() / scale);
                    let off = off.fold(0.0, |worst: f64, x| if x > worst || x.is_nan() { x } else { worst });
                    assert!(off < tolerance, "{m} x {k} x {n} in {}: off by {off:.1e}", dtype.name());
                }
                let lt = gpu.lt.lock().unwrap();
                assert_eq!((lt.prepared.len(), lt.refused()), (refused, refused), "the same shapes, remembered");
            }
        }
    }
}
