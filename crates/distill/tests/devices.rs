//! `--device` on machines whose driver is there and cannot be used: an emulated driver plays them. Named, a device is refused in one line
//! with exit code 2; `auto` is then the processor, and says why when it is asked to say more. Needs a C++ compiler: without one the
//! tests say that they are skipped, and fail with CI=true.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The folder of the emulated libraries, built if they are not there.
fn emulated() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/emulated_cuda.sh");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let built = Command::new("bash").arg(script).env("CARGO_TARGET_DIR", target).stdin(Stdio::null()).output();
    match built {
        Ok(out) if out.status.success() => Some(PathBuf::from(String::from_utf8(out.stdout).unwrap().trim())),
        other => {
            let why = other.map_or_else(|e| e.to_string(), |out| String::from_utf8_lossy(&out.stderr).into_owned());
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "with CI=true nothing may be left out: {why}");
            eprintln!("skipped: {}", why.lines().last().unwrap_or("no emulated driver"));
            None
        }
    }
}

fn distill(libraries: &Path, driver: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_distill"));
    command.args(args).env("LD_LIBRARY_PATH", libraries).env("FD_EMULATED_DRIVER", driver);
    command.env_remove("RUST_LOG").env_remove("CUDA_VISIBLE_DEVICES").stdin(Stdio::null()).output().unwrap()
}

/// The smallest thing that computes.
const STEP: [&str; 12] = ["bench", "fd-step", "--preset", "mini", "--batch", "1", "--steps", "1", "--warmup", "0", "--threads", "1"];

#[test]
fn a_device_that_cannot_be_used_is_one_line_or_the_processor() {
    let Some(libraries) = emulated() else { return };
    let nothing = PathBuf::from("/nonexistent");
    let mut cases = vec![
        (&libraries, "no-device", 0, "the driver reports no device"),
        (&libraries, "no-devices", 0, "the driver reports no device"),
        (&libraries, "old", 0, "driver 11.8 is older than 12.0, which this program needs"),
        (&libraries, "broken", 0, "opening the device failed: CUDA_ERROR_UNKNOWN"),
        (&libraries, "", 5, "there is 1 device; cuda:5 is not one of them"),
    ];
    // Where there is a driver the loader knows it.
    if fd_distill::doctor::Report::of(&fd_distill::doctor::Machine::here()).gpu.libraries[0].found.is_empty() {
        cases.push((&nothing, "", 0, "no NVIDIA driver (libcuda.so.1 could not be loaded)"));
    }
    for (libraries, driver, ordinal, why) in cases {
        let device = format!("cuda:{ordinal}");
        let output = distill(libraries, driver, &[&STEP[..], &["--device", &device]].concat());
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!((output.status.code(), out.as_str(), err.lines().count()), (Some(2), "", 1), "{driver}: {err}");
        assert!(err.starts_with(&format!("error: device {device}: {why}")), "{driver}: {err}");
        if ordinal == 0 {
            let output = distill(libraries, driver, &[&STEP[..], &["--device", "auto", "-v"]].concat());
            let err = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(0), "{driver}: {err}");
            assert!(err.contains(&format!("computing on the CPU: device cuda:0: {why}")), "{driver}: {err}");
            // Not asked to say more it says nothing.
            let quiet = distill(libraries, driver, &STEP);
            assert_eq!((quiet.status.code(), quiet.stderr.len()), (Some(0), 0), "{driver}");
        }
    }
}

#[test]
fn what_only_reads_opens_no_device() {
    let Some(libraries) = emulated() else { return };
    for args in [&["doctor", "--device", "cuda:0"][..], &["config", "--device", "cuda:0", "train"], &["status", "/nonexistent"]] {
        let (broken, without) = (distill(&libraries, "no-device", args), distill(Path::new("/nonexistent"), "", args));
        assert!(!String::from_utf8_lossy(&broken.stderr).contains("device"), "{args:?}: {broken:?}");
        assert_eq!(broken.status.code(), without.status.code(), "{args:?}: {broken:?}");
    }
}
