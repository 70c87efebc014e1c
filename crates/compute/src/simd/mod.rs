//! One source, three instruction sets: kernels are written once as plain loops and compiled for the baseline, AVX2 and
//! AVX-512; the level is chosen at run time.
//!
//! [`simd_fn!`](crate::simd_fn) turns a function into that: its body sees a type `S: Simd`, whose `fma` is a fused instruction
//! where the level has one. Loops over slices of equal, known length vectorise to the level's width; sums run in [`LANES`] fixed
//! partial sums, so that a level's result never depends on how the compiler unrolls.

pub mod math;

use std::sync::atomic::{AtomicU8, Ordering};

/// Partial sums of every reduction along a row.
pub const LANES: usize = 32;

/// An instruction set the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// What every x86-64 (or other) machine has.
    Scalar = 1,
    /// AVX2 with FMA.
    Avx2 = 2,
    /// AVX-512 F, VL, DQ, BW.
    Avx512 = 3,
}

impl Level {
    /// The levels this machine can run, lowest first.
    pub fn available() -> Vec<Level> {
        [Level::Scalar, Level::Avx2, Level::Avx512].into_iter().filter(|l| *l <= detect()).collect()
    }

    /// The name used by `--simd` and in run directories.
    pub fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        }
    }
}

static LEVEL: AtomicU8 = AtomicU8::new(0);

fn detect() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        let fma = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw");
        if fma && avx512 {
            return Level::Avx512;
        }
        if fma {
            return Level::Avx2;
        }
    }
    Level::Scalar
}

/// The level in force: the highest this machine has, unless [`force`] chose a lower one.
#[inline]
pub fn level() -> Level {
    match LEVEL.load(Ordering::Relaxed) {
        1 => Level::Scalar,
        2 => Level::Avx2,
        3 => Level::Avx512,
        _ => {
            let level = detect();
            LEVEL.store(level as u8, Ordering::Relaxed);
            level
        }
    }
}

/// Forces a level for the whole process (results repeat bit for bit only at one level). `false` when this machine lacks it, and
/// nothing changes.
pub fn force(level: Level) -> bool {
    let has = level <= detect();
    if has {
        LEVEL.store(level as u8, Ordering::Relaxed);
    }
    has
}

/// The level a kernel body is being compiled for.
pub trait Simd: Copy + Send + Sync + 'static {
    /// Does the level fuse multiply and add?
    const FMA: bool;
}

/// Baseline code generation.
#[derive(Clone, Copy)]
pub struct Baseline;
/// Code generation with fused multiply-add (AVX2 and AVX-512).
#[derive(Clone, Copy)]
pub struct Fused;

impl Simd for Baseline {
    const FMA: bool = false;
}
impl Simd for Fused {
    const FMA: bool = true;
}

/// Defines a function compiled once a level and dispatched at run time; see the [module](crate::simd).
#[macro_export]
macro_rules! simd_fn {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$t:ident: $bound:path>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name $(<$t: $bound>)? ($($arg: $ty),*) $(-> $out)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments, clippy::extra_unused_type_parameters)]
            fn body<S: $crate::simd::Simd $(, $t: $bound)?>($($arg: $ty),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2 $(<$t: $bound>)? ($($arg: $ty),*) $(-> $out)? { body::<$crate::simd::Fused $(, $t)?>($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx512 $(<$t: $bound>)? ($($arg: $ty),*) $(-> $out)? { body::<$crate::simd::Fused $(, $t)?>($($arg),*) }
            match $crate::simd::level() {
                // SAFETY: `level` returns Avx512 only where detection found its features.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx512 => unsafe { avx512 $(::<$t>)? ($($arg),*) },
                // SAFETY: `level` returns Avx2 only where detection found AVX2 and FMA.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx2 => unsafe { avx2 $(::<$t>)? ($($arg),*) },
                _ => body::<$crate::simd::Baseline $(, $t)?>($($arg),*),
            }
        }
    };
}
