//! What a device can do at most, measured with the device's own clock: copies, matrix products, starts of kernels. And how much of its
//! memory this process has taken.

use std::sync::Arc;

use cudarc::driver::result;

use super::gemm::{Beside, Product, start_product};
use super::gpu::Gpu;
use super::memory::{DeviceBuffer, Event};
use super::run::{Grid, Kernel, Kind, Ptr, args, launch};
use super::{libraries, probe};
use crate::{DType, Device, Error, Stream};

/// A device and the libraries beside it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Card {
    /// Its name.
    pub name: String,
    /// Its compute capability, times ten.
    pub capability: u32,
    /// The version of CUDA that the driver runs.
    pub cuda: String,
    /// The compiler's version.
    pub nvrtc: String,
    /// Where cuBLASLt is.
    pub cublas_lt: libraries::Found,
}

/// Seconds: the median of several repeats, and the least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seconds {
    /// The median.
    pub median: f64,
    /// The least.
    pub least: f64,
}

fn gpu(device: &Device) -> Result<Arc<Gpu>, Error> {
    let ordinal = device.cuda_ordinal();
    Gpu::open(ordinal.ok_or(Error::Device { device: device.to_string(), why: "it is no CUDA device".into() })?)
}

/// What a CUDA device is. It is looked at and not opened: another process may have it for itself.
///
/// # Errors
/// A device that cannot be used.
pub fn card(ordinal: usize) -> Result<Card, Error> {
    let probed = probe::open(ordinal)?;
    let dotted = |(major, minor): (u32, u32)| format!("{major}.{minor}");
    Ok(Card {
        name: probed.name,
        capability: probed.capability,
        cuda: dotted(probed.driver),
        nvrtc: dotted(probed.nvrtc.version()),
        cublas_lt: probed.cublas_lt,
    })
}

/// Most bytes that this process has had of a device's memory at a time, since the start or [`reset_memory_peak`]; 0 on the CPU. What
/// driver and libraries take for themselves (some hundred MiB) is not in it.
pub fn memory_peak(device: &Device) -> u64 {
    gpu(device).map_or(0, |gpu| gpu.taken.peak())
}

/// Starts [`memory_peak`] anew from what is taken now.
pub fn reset_memory_peak(device: &Device) {
    if let Ok(gpu) = gpu(device) {
        gpu.taken.reset();
    }
}

/// Waits until a device has done all it was given; nothing on the CPU.
///
/// # Errors
/// Faults of kernels that ran before.
pub fn synchronise(device: &Device) -> Result<(), Error> {
    device.cuda_ordinal().map_or(Ok(()), |ordinal| Gpu::open(ordinal)?.synchronise())
}

/// Times `calls` calls of `start` together, `repeats` times after a warm-up: seconds a call.
fn timed(gpu: &Arc<Gpu>, repeats: usize, calls: usize, mut start: impl FnMut() -> Result<(), Error>) -> Result<Seconds, Error> {
    let (begin, end) = (Event::timing(gpu)?, Event::timing(gpu)?);
    let mut seconds = vec![];
    for repeat in 0..repeats + 2 {
        begin.record(gpu, gpu.stream)?;
        (0..calls).try_for_each(|_| start())?;
        end.record(gpu, gpu.stream)?;
        gpu.synchronise()?;
        if repeat >= 2 {
            seconds.push(begin.seconds_to(gpu, &end)? / calls as f64);
        }
    }
    seconds.sort_by(f64::total_cmp);
    Ok(Seconds { median: seconds[seconds.len() / 2], least: seconds[0] })
}

/// A copy of so many bytes from one place of the device's memory to another: each is read and written.
///
/// # Errors
/// A device that fails, or that does not have the memory.
pub fn measure_copy(device: &Device, bytes: usize, repeats: usize) -> Result<Seconds, Error> {
    let gpu = gpu(device)?;
    let _turn = gpu.enter()?;
    let (from, to) = (DeviceBuffer::new(&gpu, bytes)?, DeviceBuffer::new(&gpu, bytes)?);
    noise(&gpu, &from)?;
    timed(&gpu, repeats, 5, || {
        // SAFETY: both buffers are ours, as long as the copy, and live until it has been waited for.
        gpu.ok("cuMemcpyDtoDAsync", unsafe { result::memcpy_dtod_async(to.address(), from.address(), bytes, gpu.stream) })
    })
}

/// A product of two square matrices of random numbers: 2 n³ operations; sums are f32.
///
/// # Errors
/// As [`measure_copy`]; a type that the device does not have.
pub fn measure_product(device: &Device, n: usize, repeats: usize) -> Result<Seconds, Error> {
    let gpu = gpu(device)?;
    let kind = match device.dtype() {
        DType::F32 => Kind::F32,
        DType::Bf16 => Kind::Bf16,
        DType::F64 => return Err(gpu.error("f64 runs on the CPU only")),
    };
    let _turn = gpu.enter()?;
    let matrix = || DeviceBuffer::new(&gpu, n * n * kind.size());
    let (a, b, c) = (matrix()?, matrix()?, matrix()?);
    noise(&gpu, &a)?;
    noise(&gpu, &b)?;
    let at = |buffer: &DeviceBuffer| Ptr { address: buffer.address(), kind };
    let (a, b, c) = (at(&a), at(&b), at(&c));
    let product = Product { a, a_transposed: false, b, b_transposed: true, c, m: n, n, k: n, add: false, beside: Beside::Nothing };
    timed(&gpu, repeats, 3, || start_product(&gpu, product))
}

/// The start of a kernel that does nothing worth mentioning: seconds from one to the next.
///
/// # Errors
/// As [`measure_copy`].
pub fn measure_launch(device: &Device, repeats: usize) -> Result<Seconds, Error> {
    let gpu = gpu(device)?;
    let _turn = gpu.enter()?;
    let control = DeviceBuffer::zeroed(&gpu, 64)?;
    let to = Ptr { address: control.address(), kind: Kind::F32 };
    let args = args![to, 1u64, 2u64, 3u64, 4u64, 1f32];
    timed(&gpu, repeats, 200, || launch(&gpu, Kernel::plain("control", "control_set"), Grid::line(1), 32, 0, &args))
}

/// Fills memory with numbers between 1 and 2 of either sign, of f32 or of bf16: zeros would be faster to work on than what a model has.
fn noise(gpu: &Arc<Gpu>, to: &DeviceBuffer) -> Result<(), Error> {
    let mut random = Stream::new(&[11]);
    // Two bf16 side by side are also an f32 whose exponent is the second's.
    let half = |bits: u64| 0x3f80 | (bits & 0x807f) as u16;
    let block: Vec<u16> = (0..(1usize << 20).min(to.bytes() / 2)).map(|_| half((random.uniform() * 65536.0) as u64)).collect();
    let bytes: &[u8] = bytemuck::cast_slice(&block);
    to.upload(0, bytes)?;
    let mut filled = bytes.len();
    while filled < to.bytes() {
        let more = filled.min(to.bytes() - filled);
        // SAFETY: both ranges are the buffer's, and do not overlap.
        let answer = unsafe { result::memcpy_dtod_async(to.address() + filled as u64, to.address(), more, gpu.stream) };
        gpu.ok("cuMemcpyDtoDAsync", answer)?;
        filled += more;
    }
    Ok(())
}
