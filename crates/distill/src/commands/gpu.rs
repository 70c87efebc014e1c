//! `distill gpu-check` and `distill bench roofline`.

use std::io::Write;

use anyhow::Context as _;
use fd_distill::bench::{self, RooflineOptions};
use fd_distill::gpu_check::{self, GpuCheckOptions};

use super::{Outcome, Output};

/// Checks a GPU and measures it.
pub fn gpu_check(options: &GpuCheckOptions, out: &mut Output) -> anyhow::Result<Outcome> {
    Ok(if gpu_check::gpu_check(options, out)? { Outcome::Done } else { Outcome::CheckFailed })
}

/// Prints what a step would take at least.
pub fn roofline(options: &RooflineOptions, out: &mut Output) -> anyhow::Result<Outcome> {
    write!(out, "{}", bench::roofline(options)?.markdown()).and_then(|()| out.flush()).context("standard output")?;
    Ok(Outcome::Done)
}
