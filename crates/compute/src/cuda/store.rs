//! Numbers that lie on the host, on a device, or on both: parameters, gradients, moments.
//!
//! What was changed last is the truth; the other side is dropped then, and comes back when it is asked for. So training on a device
//! moves nothing, and whoever reads (a checkpoint, an analysis) sees the numbers as if they had always been here.

use std::sync::{Arc, OnceLock};

use super::gpu::Gpu;
use super::memory::DeviceBuffer;
use crate::arena::Buffer;
use crate::{DType, Error, Real};

#[derive(Debug)]
pub(crate) struct Store {
    dtype: DType,
    len: usize,
    host: OnceLock<Buffer>,
    device: OnceLock<DeviceBuffer>,
}

impl Clone for Store {
    fn clone(&self) -> Self {
        Store { dtype: self.dtype, len: self.len, host: self.host().clone().into(), device: OnceLock::new() }
    }
}

impl Store {
    /// Zeros.
    pub fn zeroed(dtype: DType, len: usize) -> Self {
        Store { dtype, len, host: Buffer::zeroed(dtype, len).into(), device: OnceLock::new() }
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The numbers on the host. A device that fails to give them is remembered as faulty, and they are NaN.
    pub fn host(&self) -> &Buffer {
        self.host.get_or_init(|| {
            let mut buffer = Buffer::zeroed(self.dtype, self.len);
            if let Some(device) = self.device.get()
                && let Err(fault) = device.download(0, buffer.bytes_mut())
            {
                device.gpu().remember(fault);
                buffer.fill_nan();
            }
            buffer
        })
    }

    /// The same, to be changed.
    pub fn host_mut(&mut self) -> &mut Buffer {
        self.host();
        self.device.take();
        self.host.get_mut().expect("filled above")
    }

    pub fn slice<T: Real>(&self) -> &[T] {
        self.host().slice()
    }

    pub fn slice_mut<T: Real>(&mut self) -> &mut [T] {
        self.host_mut().slice_mut()
    }

    /// The numbers on a device.
    pub fn device(&self, gpu: &Arc<Gpu>) -> Result<&DeviceBuffer, Error> {
        if self.dtype != DType::F32 {
            return Err(gpu.error(format!("{} runs on the CPU only", self.dtype.name())));
        }
        if let Some(device) = self.device.get() {
            if !Arc::ptr_eq(device.gpu(), gpu) {
                return Err(gpu.error("these numbers lie on another device"));
            }
            return Ok(device);
        }
        let buffer = DeviceBuffer::new(gpu, self.len * size_of::<f32>())?;
        buffer.upload(0, self.host().bytes())?;
        Ok(self.device.get_or_init(|| buffer))
    }

    /// The same, to be changed by work that is started.
    pub fn device_mut(&mut self, gpu: &Arc<Gpu>) -> Result<&DeviceBuffer, Error> {
        self.device(gpu)?;
        self.host.take();
        Ok(self.device.get().expect("made above"))
    }

    /// The device on which the numbers are now, if they are on one.
    pub fn on(&self) -> Option<&Arc<Gpu>> {
        self.device.get().map(DeviceBuffer::gpu)
    }
}
