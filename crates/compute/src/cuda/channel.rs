//! Numbers on their way from the host to the device, every step anew: page-locked memory, a copy on the second stream, memory on the
//! device. Nobody waits unless the one before has not arrived.

use std::sync::Arc;

use super::gpu::Gpu;
use super::memory::{DeviceBuffer, Event, Pinned};
use crate::Error;

pub(crate) struct Channel {
    gpu: Arc<Gpu>,
    host: Pinned,
    device: DeviceBuffer,
    state: State,
    /// The device has its copy; the host may change its own.
    copied: Event,
    /// The kernels that read the device's copy are behind us; it may change.
    taken: Event,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Taken,
    /// The host has changed it.
    Changed,
    /// Its copy has been started.
    Copying,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Channel({:?})", self.device)
    }
}

impl Channel {
    /// For so many f32.
    pub fn new(gpu: &Arc<Gpu>, len: usize) -> Result<Self, Error> {
        Ok(Channel {
            gpu: gpu.clone(),
            host: Pinned::new(gpu, len)?,
            device: DeviceBuffer::new(gpu, len * size_of::<f32>())?,
            state: State::Taken,
            copied: Event::new(gpu)?,
            taken: Event::new(gpu)?,
        })
    }

    /// What the host has written, if the device's kernels have not taken it yet.
    pub fn pending(&self) -> Option<&[f32]> {
        (self.state != State::Taken).then(|| self.host.slice())
    }

    /// Memory to write to; waits for the copy before, not for kernels.
    pub fn fill(&mut self) -> Result<&mut [f32], Error> {
        if self.state != State::Changed {
            self.copied.wait(&self.gpu)?;
        }
        self.state = State::Changed;
        Ok(self.host.slice_mut())
    }

    /// What has been written and is not on its way yet.
    pub fn written(&mut self) -> &mut [f32] {
        self.host.slice_mut()
    }

    /// Starts the copy of what has been filled.
    pub fn send(&mut self) -> Result<(), Error> {
        if self.state == State::Changed {
            let _turn = self.gpu.enter()?;
            self.taken.hold(&self.gpu, self.gpu.copies)?;
            self.host.start_upload(&self.device, self.gpu.copies)?;
            self.copied.record(&self.gpu, self.gpu.copies)?;
            self.state = State::Copying;
        }
        Ok(())
    }

    /// Where the kernels that `take` starts find what was written last.
    pub fn receive(&mut self, take: impl FnOnce(u64) -> Result<(), Error>) -> Result<(), Error> {
        self.send()?;
        self.copied.hold(&self.gpu, self.gpu.stream)?;
        take(self.device.address())?;
        self.taken.record(&self.gpu, self.gpu.stream)?;
        self.state = State::Taken;
        Ok(())
    }
}
