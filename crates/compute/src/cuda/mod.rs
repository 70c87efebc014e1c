//! Plans on a CUDA device, through the driver's own interface: no toolkit at build time, and no CUDA library needed to start.
//!
//! `gpu` opens a device and owns its objects; `memory` is what lies on it; `store` keeps numbers on the host, on the device or on both;
//! `channel` carries what changes every step; `arena` is a plan's working memory there; `run` is what an operation sees while it starts its kernels; `gemm` are matrix products by
//! cuBLASLt; `walk` runs a plan's steps, as a graph from the third time on.
//!
//! Kernels lie beside their operations (`ops/*.cu`) and include only `ops/kx.h` and what several files share ([`HEADERS`]). NVRTC compiles them for the device that is there.

mod arena;
mod cache;
mod channel;
mod compile;
mod gemm;
mod gpu;
pub mod libraries;
mod measure;
mod memory;
mod needed;
mod nvrtc;
mod probe;
mod run;
mod sources;
mod store;
mod walk;

use std::sync::Arc;

use crate::Error;
pub(crate) use arena::{DeviceArena, Side};
pub use cache::Cache;
pub(crate) use channel::Channel;
pub use compile::{Target, compiled};
pub(crate) use gemm::{Beside, Product};
pub(crate) use gpu::Gpu;
pub use measure::{Card, Seconds, card, measure_copy, measure_launch, measure_product, memory_peak, reset_memory_peak, synchronise};
pub(crate) use memory::DeviceBuffer;
#[doc(hidden)]
pub use needed::needed;
pub use nvrtc::{Built, Nvrtc};
pub use probe::{Probed, open, probe};
pub(crate) use run::{Arg, Grid, Kernel, Kind, Ptr, Run, args, launch as start};
pub use sources::{HEADERS, SOURCES, Source};
pub(crate) use store::Store;

/// Rounds f32 to bf16, on the device, behind what has been started.
pub(crate) fn narrow(gpu: &Arc<Gpu>, from: u64, to: u64, len: usize) -> Result<(), Error> {
    let _turn = gpu.enter()?;
    arena::convert(gpu, Ptr { address: from, kind: Kind::F32 }, Ptr { address: to, kind: Kind::Bf16 }, len)
}
