//! An allocator that counts what is held.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

struct Counting;
static ON: AtomicBool = AtomicBool::new(false);
static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged. A vector that grows is an allocation and a release: the allocator may
// have to keep both for a moment, and so they are counted.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Layout) -> *mut u8 {
        if ON.load(Relaxed) {
            let held = HELD.fetch_add(memory.size(), Relaxed) + memory.size();
            MOST.fetch_max(held, Relaxed);
            LARGEST.fetch_max(memory.size(), Relaxed);
        }
        unsafe { System.alloc(memory) }
    }
    unsafe fn dealloc(&self, at: *mut u8, memory: Layout) {
        if ON.load(Relaxed) {
            HELD.fetch_sub(memory.size(), Relaxed);
        }
        unsafe { System.dealloc(at, memory) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What was allocated since the start.
pub struct Seen {
    pub largest: usize,
    pub held: usize,
}

pub fn start() {
    [&HELD, &MOST, &LARGEST].iter().for_each(|counter| counter.store(0, Relaxed));
    ON.store(true, Relaxed);
}

pub fn stop() -> Seen {
    ON.store(false, Relaxed);
    Seen { largest: LARGEST.load(Relaxed), held: MOST.load(Relaxed) }
}
