//! Interruption: SIGINT and SIGTERM set a flag, which training reads after every step; a second signal ends the process at once.

use std::fmt::{self, Display};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// A request to stop; its value is the signal's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: Ctrl-C.
    Interrupt = 2,
    /// SIGTERM: of a scheduler, of a machine that shuts down.
    Terminate = 15,
}

impl Signal {
    const ALL: [Signal; 2] = [Signal::Interrupt, Signal::Terminate];

    /// The exit code of a process that it ended: 130 or 143.
    pub fn exit_code(self) -> u8 {
        128 + self as u8
    }
}

impl Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Signal::Interrupt => "SIGINT",
            Signal::Terminate => "SIGTERM",
        })
    }
}

/// The number of the signal that came, 0 before; not there before [`install`].
static PENDING: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// Replaces what the signals do, for the rest of the process; once is enough. Elsewhere than on Unix nothing changes.
///
/// # Errors
/// Where the system refuses a handler.
pub fn install() -> std::io::Result<()> {
    let pending = Arc::<AtomicUsize>::default();
    if PENDING.set(pending.clone()).is_err() {
        return Ok(());
    }
    register(&pending)
}

#[cfg(unix)]
fn register(pending: &Arc<AtomicUsize>) -> std::io::Result<()> {
    use signal_hook::flag;
    let before = Arc::<std::sync::atomic::AtomicBool>::default();
    for signal in Signal::ALL {
        let number = signal as i32;
        // Actions run in this order: the first signal finds that none came before it.
        flag::register_conditional_shutdown(number, signal.exit_code().into(), before.clone())?;
        flag::register(number, before.clone())?;
        flag::register_usize(number, pending.clone(), signal as usize)?;
    }
    Ok(())
}

#[cfg(not(unix))]
fn register(_: &Arc<AtomicUsize>) -> std::io::Result<()> {
    Ok(())
}

/// The signal that asks this process to stop, if one has come.
pub fn requested() -> Option<Signal> {
    let number = PENDING.get()?.load(Ordering::Relaxed);
    Signal::ALL.into_iter().find(|&signal| signal as usize == number)
}
