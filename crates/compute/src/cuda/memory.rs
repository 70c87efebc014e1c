//! Memory on a device, and memory of the host that a device can copy from while the host goes on.

use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::gpu::Gpu;
use crate::Error;

/// Bytes on a device, freed when they are dropped. Starts at a multiple of 256.
pub(crate) struct DeviceBuffer {
    gpu: Arc<Gpu>,
    address: u64,
    bytes: usize,
}

impl std::fmt::Debug for DeviceBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceBuffer({} bytes on {:?})", self.bytes, self.gpu)
    }
}

impl DeviceBuffer {
    /// So many bytes of anything.
    pub fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self, Error> {
        let _turn = gpu.enter()?;
        // SAFETY: the context is current; the address is used only while this lives.
        let address = unsafe { result::malloc_sync(bytes.max(16)) };
        let address = address.map_err(|_| {
            let (free, total) = result::mem_get_info().unwrap_or_default();
            let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
            let (wanted, free, total) = (mib(bytes), mib(free), mib(total));
            gpu.error(format!("{wanted:.0} MiB of device memory were refused: {free:.0} of {total:.0} MiB are free"))
        })?;
        gpu.taken.add(bytes);
        Ok(DeviceBuffer { gpu: gpu.clone(), address, bytes })
    }

    /// Zeros.
    pub fn zeroed(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self, Error> {
        let buffer = DeviceBuffer::new(gpu, bytes)?;
        buffer.fill(0)?;
        Ok(buffer)
    }

    /// Whose memory it is.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where it starts.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Every byte the same, behind all work that was started.
    pub fn fill(&self, byte: u8) -> Result<(), Error> {
        let _turn = self.gpu.enter()?;
        // SAFETY: the range is ours.
        self.gpu.ok("cuMemsetD8Async", unsafe { result::memset_d8_async(self.address, byte, self.bytes, self.gpu.stream) })
    }

    /// Copies from the host, and waits for it.
    pub fn upload(&self, offset: usize, from: &[u8]) -> Result<(), Error> {
        assert!(offset + from.len() <= self.bytes, "a copy within its memory");
        let _turn = self.gpu.enter()?;
        // SAFETY: the range is ours (asserted), and `from` lives until the copy is done.
        unsafe {
            self.gpu.ok("a copy to the device", result::memcpy_htod_async(self.address + offset as u64, from, self.gpu.stream))?;
        }
        self.gpu.synchronise()
    }

    /// Copies to the host behind all work that was started, and waits for it.
    pub fn download(&self, offset: usize, to: &mut [u8]) -> Result<(), Error> {
        assert!(offset + to.len() <= self.bytes, "a copy within its memory");
        let _turn = self.gpu.enter()?;
        // SAFETY: the range is ours (asserted), and `to` lives until the copy is done.
        unsafe {
            self.gpu.ok("a copy from the device", result::memcpy_dtoh_async(to, self.address + offset as u64, self.gpu.stream))?;
        }
        self.gpu.synchronise()
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        self.gpu.taken.remove(self.bytes);
        if let Ok(_turn) = self.gpu.enter() {
            // SAFETY: nobody else has the address; the driver waits for work that uses it.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// A moment in a stream.
pub(super) struct Event(sys::CUevent);

// SAFETY: a handle of the driver with one owner.
unsafe impl Send for Event {}
// SAFETY: as above; the driver's calls on it may come from any thread.
unsafe impl Sync for Event {}

impl Event {
    pub fn new(gpu: &Gpu) -> Result<Self, Error> {
        gpu.bind()?;
        Ok(Event(gpu.ok("cuEventCreate", result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING))?))
    }

    /// One that knows when it was.
    pub fn timing(gpu: &Gpu) -> Result<Self, Error> {
        gpu.bind()?;
        Ok(Event(gpu.ok("cuEventCreate", result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT))?))
    }

    /// From this one to a later one; both have happened.
    pub fn seconds_to(&self, gpu: &Gpu, later: &Event) -> Result<f64, Error> {
        type Elapsed = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;
        // SAFETY: the library is there (probed) and this is the function's type. cudarc calls one that drivers before 570 do not have.
        let elapsed = unsafe { sys::culib().get::<Elapsed>(b"cuEventElapsedTime\0") }.map_err(|e| gpu.error(e.to_string()))?;
        let mut milliseconds = 0.0;
        // SAFETY: both are this device's, were made with timing and have been waited for; the number lives as long as the call.
        gpu.ok("cuEventElapsedTime", unsafe { elapsed(&mut milliseconds, self.0, later.0) }.result())?;
        Ok(f64::from(milliseconds) / 1e3)
    }

    /// Marks the end of what the stream has been given.
    pub fn record(&self, gpu: &Gpu, stream: sys::CUstream) -> Result<(), Error> {
        // SAFETY: both are this device's.
        gpu.ok("cuEventRecord", unsafe { result::event::record(self.0, stream) })
    }

    /// Lets a stream wait for it.
    pub fn hold(&self, gpu: &Gpu, stream: sys::CUstream) -> Result<(), Error> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both are this device's.
        gpu.ok("cuStreamWaitEvent", unsafe { result::stream::wait_event(stream, self.0, flags) })
    }

    /// Lets this thread wait for it.
    pub fn wait(&self, gpu: &Gpu) -> Result<(), Error> {
        gpu.bind()?;
        // SAFETY: the event is this device's.
        gpu.ok("a copy to the device", unsafe { result::event::synchronize(self.0) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

/// f32 on the host that the device reads directly (page-locked).
pub(super) struct Pinned {
    at: *mut f32,
    len: usize,
    gpu: Arc<Gpu>,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for Pinned {}
// SAFETY: shared references only read.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Zeros.
    pub fn new(gpu: &Arc<Gpu>, len: usize) -> Result<Self, Error> {
        let _turn = gpu.enter()?;
        let bytes = (len * size_of::<f32>()).max(16);
        // SAFETY: the context is current; the memory is ours until it is freed, and is written before it is read.
        let at = unsafe {
            let at = gpu.ok("page-locked host memory", result::malloc_host(bytes, 0))?.cast::<u8>();
            at.write_bytes(0, bytes);
            at.cast::<f32>()
        };
        Ok(Pinned { at, len, gpu: gpu.clone() })
    }

    pub fn slice(&self) -> &[f32] {
        // SAFETY: `len` initialised floats that live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.at, self.len) }
    }

    pub fn slice_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and we are the only owner; who copies from it waits before it is changed (see `arena`).
        unsafe { std::slice::from_raw_parts_mut(self.at, self.len) }
    }

    /// Starts a copy to the device; the caller sees to it that this memory stays as it is until that is done.
    pub fn start_upload(&self, to: &DeviceBuffer, stream: sys::CUstream) -> Result<(), Error> {
        assert!(self.len * size_of::<f32>() <= to.bytes, "a copy within its memory");
        // SAFETY: both ranges are ours and as long as the copy.
        self.gpu.ok("a copy to the device", unsafe { result::memcpy_htod_async(to.address, self.slice(), stream) })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Ok(_turn) = self.gpu.enter() {
            // SAFETY: nobody else has it; the driver waits for copies from it.
            let _ = unsafe { result::free_host(self.at.cast()) };
        }
    }
}
