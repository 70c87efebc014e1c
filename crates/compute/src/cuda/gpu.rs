//! A device that has been opened: its context, two streams, loaded kernels, and the matrix library's handle.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use cudarc::driver::{result, sys};

use super::gemm::Lt;
use super::run::Kernel;
use super::{Cache, Nvrtc, SOURCES, Target, compiled, probe};
use crate::Error;

/// An opened device. One a process and ordinal, made by [`Gpu::open`].
pub(crate) struct Gpu {
    ordinal: usize,
    context: sys::CUcontext,
    /// Kernels and matrix products, in the order in which they were started.
    pub(super) stream: sys::CUstream,
    /// Copies from the host, beside them.
    pub(super) copies: sys::CUstream,
    nvrtc: Nvrtc,
    target: Target,
    /// Bytes of dynamic shared memory that a block may be allowed.
    most_shared: usize,
    cache: Cache,
    modules: Mutex<HashMap<&'static str, Module>>,
    functions: Mutex<HashMap<Kernel, Function>>,
    pub(super) lt: Mutex<Lt>,
    /// Who starts work: whole passes, one after the other.
    queue: Mutex<()>,
    /// The first fault that could not be returned where it was found.
    fault: Mutex<Option<Error>>,
    pub(super) taken: Taken,
}

/// Bytes of a device's memory that this process has, and has had at most.
#[derive(Debug, Default)]
pub(super) struct Taken {
    now: AtomicU64,
    most: AtomicU64,
}

impl Taken {
    pub fn add(&self, bytes: usize) {
        let now = self.now.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        self.most.fetch_max(now, Ordering::Relaxed);
    }

    pub fn remove(&self, bytes: usize) {
        self.now.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    pub fn peak(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    pub fn reset(&self) {
        self.most.store(self.now.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

struct Module(sys::CUmodule);

/// A loaded kernel and the dynamic shared memory it has been allowed.
#[derive(Clone, Copy)]
pub(super) struct Function {
    pub handle: sys::CUfunction,
    shared: usize,
}

// SAFETY: the driver's handles may be used from any thread that has made the context current, which every entry does (`enter`).
unsafe impl Send for Gpu {}
// SAFETY: as above; what changes is behind mutexes.
unsafe impl Sync for Gpu {}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gpu({})", self.ordinal)
    }
}

/// The context is current and no other thread starts work, until this is dropped. A thread may enter several times.
pub(crate) struct Entered<'a> {
    gpu: &'a Gpu,
    turn: Option<MutexGuard<'a, ()>>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if self.turn.is_some() {
            INSIDE.with_borrow_mut(|inside| inside.retain(|ordinal| *ordinal != self.gpu.ordinal));
        }
    }
}

thread_local! {
    /// The devices whose queue this thread has.
    static INSIDE: RefCell<Vec<usize>> = const { RefCell::new(vec![]) };
}

/// Dynamic shared memory a kernel may use without being allowed more.
const PLAIN_SHARED: usize = 48 << 10;

impl Gpu {
    /// The device of that ordinal; opened once a process.
    ///
    /// # Errors
    /// No driver, no such device, a driver that is too old, a library that is missing: one line each.
    pub fn open(ordinal: usize) -> Result<Arc<Gpu>, Error> {
        static OPEN: OnceLock<Mutex<HashMap<usize, Arc<Gpu>>>> = OnceLock::new();
        let mut open = OPEN.get_or_init(Mutex::default).lock().unwrap_or_else(|e| e.into_inner());
        if let Some(gpu) = open.get(&ordinal) {
            return Ok(gpu.clone());
        }
        let gpu = Arc::new(Gpu::new(ordinal)?);
        open.insert(ordinal, gpu.clone());
        Ok(gpu)
    }

    fn new(ordinal: usize) -> Result<Gpu, Error> {
        let probed = probe::open(ordinal)?;
        let failed = |what: &str, e: result::DriverError| Error::Device { device: format!("cuda:{ordinal}"), why: said(what, e) };
        let device = result::device::get(ordinal as i32).map_err(|e| failed("cuDeviceGet", e))?;
        // SAFETY: `device` is one that the driver gave us; the driver's library is there (probed).
        unsafe {
            let context = result::primary_ctx::retain(device).map_err(|e| failed("opening the device", e))?;
            result::ctx::set_current(context).map_err(|e| failed("cuCtxSetCurrent", e))?;
            let stream = || result::stream::create(result::stream::StreamKind::NonBlocking).map_err(|e| failed("cuStreamCreate", e));
            let (stream, copies) = (stream()?, stream()?);
            let most_shared = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
            let most_shared = result::device::get_attribute(device, most_shared).map_err(|e| failed("cuDeviceGetAttribute", e))?;
            let lt = Lt::new().map_err(|why| Error::Device { device: format!("cuda:{ordinal}"), why })?;
            Ok(Gpu {
                ordinal,
                context,
                stream,
                copies,
                nvrtc: probed.nvrtc,
                target: probed.target,
                most_shared: most_shared as usize,
                cache: Cache::here(),
                modules: Mutex::default(),
                functions: Mutex::default(),
                lt: Mutex::new(lt),
                queue: Mutex::default(),
                fault: Mutex::default(),
                taken: Taken::default(),
            })
        }
    }

    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// Bytes of dynamic shared memory that a block may have at most.
    pub fn most_shared(&self) -> usize {
        self.most_shared
    }

    /// An error of this device.
    pub fn error(&self, why: impl Into<String>) -> Error {
        Error::Device { device: format!("cuda:{}", self.ordinal), why: why.into() }
    }

    /// A driver's answer as a result: `what` says what was tried.
    pub(super) fn ok<T>(&self, what: &str, answer: Result<T, result::DriverError>) -> Result<T, Error> {
        answer.map_err(|e| self.error(said(what, e)))
    }

    /// Makes the context current on this thread and waits until no other thread starts work: what is started while a pass is recorded
    /// would become a part of it.
    pub fn enter(&self) -> Result<Entered<'_>, Error> {
        let mut entered = Entered { gpu: self, turn: None };
        if !INSIDE.with_borrow(|inside| inside.contains(&self.ordinal)) {
            entered.turn = Some(self.queue.lock().unwrap_or_else(|e| e.into_inner()));
            INSIDE.with_borrow_mut(|inside| inside.push(self.ordinal));
        }
        self.bind()?;
        Ok(entered)
    }

    /// Makes the context current on this thread.
    pub(super) fn bind(&self) -> Result<(), Error> {
        // SAFETY: the context is this device's and is never released.
        self.ok("cuCtxSetCurrent", unsafe { result::ctx::set_current(self.context) })
    }

    /// Waits until all that was started is done. Faults of kernels show here.
    pub fn synchronise(&self) -> Result<(), Error> {
        let _turn = self.enter()?;
        // SAFETY: the stream is this device's and lives as long as it.
        self.ok("a kernel", unsafe { result::stream::synchronize(self.stream) })
    }

    /// Keeps a fault for the next call that can return it.
    pub fn remember(&self, fault: Error) {
        self.fault.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(fault);
    }

    /// Fails if a fault was kept.
    pub fn check(&self) -> Result<(), Error> {
        match self.fault.lock().unwrap_or_else(|e| e.into_inner()).as_ref() {
            Some(fault) => Err(self.error(fault.to_string())),
            None => Ok(()),
        }
    }

    /// A kernel, compiled and loaded when it is asked for first, with leave to use so much dynamic shared memory.
    pub(super) fn function(&self, kernel: Kernel, shared: usize) -> Result<Function, Error> {
        let mut functions = self.functions.lock().unwrap_or_else(|e| e.into_inner());
        let mut function = match functions.get(&kernel) {
            Some(function) => *function,
            None => Function { handle: self.load(kernel)?, shared: PLAIN_SHARED },
        };
        if shared > function.shared {
            let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is loaded and stays so.
            let answer = unsafe { result::function::set_function_attribute(function.handle, most, shared as i32) };
            self.ok(&format!("{shared} bytes of shared memory for {}", kernel.symbol()), answer)?;
            function.shared = shared;
        }
        functions.insert(kernel, function);
        Ok(function)
    }

    fn load(&self, kernel: Kernel) -> Result<sys::CUfunction, Error> {
        let mut modules = self.modules.lock().unwrap_or_else(|e| e.into_inner());
        let module = match modules.get(kernel.file) {
            Some(module) => module.0,
            None => {
                let file = SOURCES.iter().find(|s| s.name.strip_suffix(".cu") == Some(kernel.file));
                let source = file.ok_or_else(|| self.error(format!("there is no kernel file {}.cu", kernel.file)))?;
                let image = compiled(&self.nvrtc, &self.cache, source, &self.target)?;
                // SAFETY: `image` is a CUBIN, or PTX that ends in 0; the driver copies it.
                let module = unsafe { result::module::load_data(image.as_ptr().cast()) };
                let module = self.ok(&format!("loading {}.cu", kernel.file), module)?;
                modules.insert(kernel.file, Module(module));
                module
            }
        };
        let symbol = kernel.symbol();
        let name = CString::new(symbol.clone()).expect("a name without 0");
        // SAFETY: the module is loaded and never unloaded.
        let function = unsafe { result::module::get_function(module, name) };
        self.ok(&format!("kernel {symbol} of {}.cu", kernel.file), function)
    }
}

/// What failed, in the driver's words.
fn said(what: &str, e: result::DriverError) -> String {
    let name = e.error_name().map_or_else(|_| format!("{:?}", e.0), |n| n.to_string_lossy().into_owned());
    let text = e.error_string().map_or_else(|_| String::new(), |n| format!(": {}", n.to_string_lossy()));
    format!("{what} failed: {name}{text}")
}
