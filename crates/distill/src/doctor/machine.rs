//! What a report is made from.

use fd_compute::cuda::libraries::Files;

/// A machine to look at: this one, or a tree of files in its place.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its files, environment variables and the processor's architecture.
    pub files: Files,
    /// The operating system, as Rust names it.
    pub os: String,
    /// Cores that the process may use.
    pub cores: Option<usize>,
    /// Threads that the engine uses.
    pub threads: usize,
}

impl Machine {
    /// This one.
    pub fn here() -> Machine {
        Machine {
            files: Files::here(),
            os: std::env::consts::OS.into(),
            cores: std::thread::available_parallelism().ok().map(Into::into),
            threads: rayon::current_num_threads(),
        }
    }
}
