//! Takes findings down: a line each on standard output, and all of them in a file that is whole at any time.

use std::io::Write;
use std::path::PathBuf;

use fd_compute::DType;

use super::report::{Ceilings, Check, Findings, Kernels, Skipped, Steps};
use super::{Section, say};
use crate::Error;

/// The findings of a section so far.
pub(super) struct Record<'a, W: Write> {
    section: Section,
    file: PathBuf,
    scale: f64,
    out: &'a mut W,
    findings: Findings,
}

/// The worst disagreement of something with what it should be.
#[derive(Clone, Debug, Default)]
pub(super) struct Worst {
    /// Relative to the largest number of its tensor; NaN where there is one.
    error: f64,
    /// Error over tolerance: what decides which is the worst.
    share: f64,
    tolerance: f64,
    what: String,
}

impl Worst {
    /// Holds a tensor against what it should be: |found - expected| relative to the largest |expected|.
    pub fn compare(&mut self, what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
        if found.len() != expected.len() {
            self.see(&format!("{what}: {} numbers, not {}", found.len(), expected.len()), f64::NAN, tolerance);
            return;
        }
        let worse = |a: f64, b: f64| if a.is_nan() || b <= a { a } else { b };
        let largest = expected.iter().map(|e| e.abs()).fold(0.0, worse);
        let off = found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0.0, worse);
        // Where all is zero any difference is one too many.
        let error = if off == 0.0 { 0.0 } else { off / largest };
        self.see(what, error, tolerance);
    }

    /// Takes an error into account.
    pub fn see(&mut self, what: &str, error: f64, tolerance: f64) {
        let share = error / tolerance;
        if self.what.is_empty() || share.is_nan() || share > self.share {
            (self.error, self.share, self.tolerance, self.what) = (error, share, tolerance, what.into());
        }
    }
}

/// A finding that nothing could be compared for.
pub(super) fn failure(section: Section, name: &str, case: &str, dtype: &str, why: &str) -> Check {
    let (name, case, dtype) = (name.into(), case.into(), dtype.into());
    // One line, whatever a library said.
    let what = why.split_whitespace().collect::<Vec<_>>().join(" ");
    Check { section, name, case, dtype, passed: false, worst: None, tolerance: 0.0, what }
}

/// A finding in a line.
pub(super) fn line(c: &Check) -> String {
    let verdict = if c.passed { "ok" } else { "FAIL" };
    let error = match c.worst {
        Some(worst) if c.tolerance > 0.0 || worst > 0.0 => format!("{worst:.1e} of {:.1e}  ", c.tolerance),
        _ => String::new(),
    };
    format!("{:<10}  {:<14}  {:<42}  {:<4}  {verdict:<4}  {error}{}", c.section, c.name, c.case, c.dtype, c.what)
}

impl<'a, W: Write> Record<'a, W> {
    pub fn new(section: Section, file: PathBuf, scale: f64, out: &'a mut W) -> Self {
        Record { section, file, scale, out, findings: Findings::default() }
    }

    /// Writes what there is.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.findings.write(&self.file)
    }

    fn push(&mut self, check: Check) -> Result<(), Error> {
        say(self.out, format_args!("{}", line(&check)))?;
        self.findings.checks.push(check);
        self.finish()
    }

    /// A comparison, or why there was none.
    pub fn check(&mut self, name: &str, case: &str, dtype: DType, result: Result<Worst, Error>) -> Result<(), Error> {
        let check = match result {
            Err(e) => failure(self.section, name, case, dtype.name(), &e.to_string()),
            Ok(w) => {
                let tolerance = self.scale * w.tolerance;
                // Written so that a NaN fails.
                let passed = w.error <= tolerance;
                let (name, case, dtype) = (name.into(), case.into(), dtype.name().into());
                let worst = Some(w.error).filter(|e| e.is_finite());
                Check { section: self.section, name, case, dtype, passed, worst, tolerance, what: w.what }
            }
        };
        self.push(check)
    }

    /// Something that holds or does not: `Err` says why not.
    pub fn holds(&mut self, name: &str, case: &str, dtype: DType, result: Result<String, String>) -> Result<(), Error> {
        let check = match result {
            Err(why) => failure(self.section, name, case, dtype.name(), &why),
            Ok(what) => {
                let (name, case, dtype) = (name.into(), case.into(), dtype.name().into());
                Check { section: self.section, name, case, dtype, passed: true, worst: None, tolerance: 0.0, what }
            }
        };
        self.push(check)
    }

    /// Something that is left out.
    pub fn skip(&mut self, what: &str, why: &str) -> Result<(), Error> {
        say(self.out, format_args!("{:<10}  {what}: left out: {why}", self.section))?;
        self.findings.skipped.push(Skipped { section: self.section, what: what.into(), why: why.into() });
        self.finish()
    }

    /// The ceilings.
    pub fn ceilings(&mut self, c: Ceilings) -> Result<(), Error> {
        let Ceilings { copy_gb_s, product_bf16_tflop_s, product_bf16_side, product_f32_tflop_s, product_f32_side, launch_us } = c;
        say(
            self.out,
            format_args!(
                "{:<10}  copy {copy_gb_s:.1} GB/s; bf16 {product_bf16_side}^3 {product_bf16_tflop_s:.3} TFLOP/s; f32 {product_f32_side}^3 \
                 {product_f32_tflop_s:.3} TFLOP/s; {launch_us:.2} µs a launch",
                self.section
            ),
        )?;
        self.findings.ceilings = Some(c);
        self.finish()
    }

    /// A profile.
    pub fn kernels(&mut self, k: Kernels) -> Result<(), Error> {
        let total: f64 = k.groups.iter().map(|g| g.seconds).sum();
        let first = k.groups.first().map_or(String::new(), |g| format!(", most of it {} {}: {:.3} ms", g.op, g.pass, g.seconds * 1e3));
        let Kernels { preset, batch, dtype, .. } = &k;
        say(self.out, format_args!("{:<10}  {preset} batch {batch} {dtype}: {:.3} ms{first}", self.section, total * 1e3))?;
        self.findings.kernels.push(k);
        self.finish()
    }

    /// A step, or one that is there already with more of PyTorch's.
    pub fn steps(&mut self, s: Steps) -> Result<(), Error> {
        let Steps { preset, batch, dtype, ours, torch } = &s;
        let what = format!("{preset} batch {batch} {dtype}");
        match torch.last() {
            None => say(
                self.out,
                format_args!(
                    "{:<10}  {what}: {:.1} images/s, {:.3} ms (least {:.3}), {} MiB",
                    self.section, ours.images_per_second, ours.step_ms, ours.step_ms_min, ours.peak_device_mb
                ),
            ),
            Some(v) => {
                let told = |l: &super::Line| format!("{:.1} images/s, {} MiB", l.images_per_second, l.peak_device_mb);
                let told = v.line.as_ref().map_or_else(|| v.why.clone().unwrap_or_default(), told);
                say(self.out, format_args!("{:<10}  {what}, PyTorch {}: {told}", self.section, v.name))
            }
        }?;
        let same = |t: &Steps| (&t.preset, t.batch, &t.dtype) == (preset, *batch, dtype);
        match self.findings.steps.iter().position(same) {
            Some(at) => self.findings.steps[at] = s,
            None => self.findings.steps.push(s),
        }
        self.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_what_is_nearest_to_or_furthest_past_its_tolerance() {
        let mut worst = Worst::default();
        worst.compare("a", &[1.0, 2.5], &[1.0, 2.0], 1.0);
        worst.compare("b", &[1.0, 2.0], &[1.0, 2.0], 1e-9);
        assert_eq!((worst.error, worst.what.as_str()), (0.25, "a"));
        worst.compare("c", &[1.1], &[1.0], 1e-3);
        assert_eq!(worst.what, "c");
        worst.compare("all zero", &[0.0], &[0.0], 1e-3);
        worst.compare("not zero", &[1e-30], &[0.0], 1e-3);
        assert_eq!((worst.error, worst.what.as_str()), (f64::INFINITY, "not zero"));
        worst.compare("none", &[f64::NAN], &[1.0], 1e-3);
        worst.compare("later", &[9.0], &[1.0], 1e-3);
        assert!(worst.error.is_nan() && worst.what == "none");
    }

    #[test]
    fn what_is_no_number_fails_and_is_written() {
        let file = std::env::temp_dir().join(format!("fd-gpu-check-{}.json", std::process::id()));
        let mut out = vec![];
        let mut record = Record::new(Section::Ops, file.clone(), 1.0, &mut out);
        let mut worst = Worst::default();
        worst.compare("y", &[f64::NAN], &[1.0], 1e-5);
        record.check("linear", "odd", DType::F32, Ok(worst)).unwrap();
        record.holds("linear", "odd", DType::F32, Err("two\nlines".into())).unwrap();
        let found = Findings::read(&file);
        std::fs::remove_file(file).unwrap();
        assert!(!found.passed() && found.checks.len() == 2 && found.checks[0].worst.is_none(), "{found:?}");
        let out = String::from_utf8(out).unwrap();
        assert!(out.lines().count() == 2 && out.lines().all(|l| l.contains("FAIL")), "{out}");
    }
}
