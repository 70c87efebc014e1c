//! What a machine gives the toolkit, and what to do about what is missing.
//!
//! Everything is read from files: no library is loaded, no device opened, nothing measured. What is looked at is a [`Machine`], so that
//! tests look at trees of files made up for them.

mod engine;
mod gpu;
mod machine;
mod system;

pub use fd_compute::cuda::libraries::{Files, Found, Library};
use fd_compute::simd;
use serde::Serialize;

pub use gpu::Gpu;
pub use machine::Machine;
pub use system::{Cpu, Memory, System};

/// What a machine gives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The binary's version.
    pub version: &'static str,
    /// The operating system.
    pub system: System,
    /// Processor and threads.
    pub cpu: Cpu,
    /// Main memory.
    pub memory: Memory,
    /// What the engine got wrong in a small calculation; none: nothing.
    pub engine_fault: Option<String>,
    /// The side of the GPU.
    pub gpu: Gpu,
}

impl Report {
    /// Looks at a machine.
    pub fn of(machine: &Machine) -> Report {
        Report {
            version: env!("CARGO_PKG_VERSION"),
            system: System::of(machine),
            cpu: Cpu::of(machine),
            memory: Memory::of(machine),
            engine_fault: engine::fault(),
            gpu: Gpu::of(machine),
        }
    }

    /// Does what the processor needs work?
    pub fn usable(&self) -> bool {
        self.engine_fault.is_none()
    }
}

/// The instruction sets there are, lowest first, and the one in force.
fn levels() -> (Vec<&'static str>, &'static str) {
    (simd::Level::available().into_iter().map(simd::Level::name).collect(), simd::level().name())
}
