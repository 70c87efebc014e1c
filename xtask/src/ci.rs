//! All checks, one after the other; the first that fails ends it.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::cargo;

/// How a step ended.
enum Outcome {
    Passed,
    /// With this exit code.
    Failed(u8),
    /// Because of this.
    Skipped(String),
}

impl From<u8> for Outcome {
    fn from(code: u8) -> Outcome {
        if code == 0 { Outcome::Passed } else { Outcome::Failed(code) }
    }
}

type Step = (&'static str, fn() -> Result<Outcome>);

const STEPS: [Step; 10] = [
    ("format", format),
    ("clippy", clippy),
    ("doc", doc),
    ("kernels by NVRTC", kernels),
    ("test", test),
    ("kernels on an emulated device", emulated),
    ("removed barriers", barriers),
    ("reproduce-table --preset smoke", table),
    ("parity", parity),
    ("report in Chromium", report),
];

/// Is this a machine for checks, where nothing may be left out?
fn strict() -> bool {
    std::env::var_os("CI").is_some_and(|v| v == "true")
}

/// Runs the steps. With CI=true a step that is skipped counts as failed.
pub fn run() -> Result<u8> {
    let (start, mut lines) = (Instant::now(), vec![]);
    for (name, step) in STEPS {
        println!("ci: {name} …");
        let began = Instant::now();
        let outcome = step()?;
        let seconds = began.elapsed().as_secs_f64();
        let (word, stop) = match outcome {
            Outcome::Passed => ("ok".into(), None),
            Outcome::Failed(code) => (format!("FAILED (exit code {code})"), Some(code)),
            Outcome::Skipped(why) => (format!("skipped: {why}"), strict().then_some(1)),
        };
        lines.push(format!("ci: {name}: {word}, {seconds:.1} s"));
        if let Some(code) = stop {
            println!("{}\nci: stopped at `{name}`", lines.join("\n"));
            return Ok(code);
        }
    }
    println!("{}\nci: done in {:.1} s", lines.join("\n"), start.elapsed().as_secs_f64());
    Ok(0)
}

/// A tool of the toolchain that may not be installed.
fn with_component(tool: &str, args: &[&str]) -> Result<Outcome> {
    let found = cargo::status(cargo::cargo(&[tool, "--version"])?.stdout(Stdio::null()).stderr(Stdio::null()))?;
    if !found.success() {
        return Ok(Outcome::Skipped(format!("cargo {tool} is not installed")));
    }
    Ok(cargo::code(cargo::status(&mut cargo::cargo(args)?)?).into())
}

fn format() -> Result<Outcome> {
    with_component("fmt", &["fmt", "--all", "--check"])
}

fn clippy() -> Result<Outcome> {
    with_component("clippy", &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
}

fn doc() -> Result<Outcome> {
    let mut command = cargo::cargo(&["doc", "--quiet", "--workspace", "--no-deps"])?;
    Ok(cargo::code(cargo::status(command.env("RUSTDOCFLAGS", "-D warnings"))?).into())
}

/// Compiles the kernels for every architecture. With CI=true NVRTC is installed below the target directory if it is not there, where
/// the tests then find it. It comes before all tests, which would stop at this one.
fn kernels() -> Result<Outcome> {
    let mut script = Command::new("sh");
    script.arg(cargo::root().join("tools/nvrtc.sh")).args((!strict()).then_some("--check")).env("CARGO_TARGET_DIR", cargo::target()?);
    let found = script.output().context("sh cannot be run")?;
    if !found.status.success() {
        let said = String::from_utf8_lossy(&found.stderr);
        return Ok(Outcome::Skipped(said.lines().last().unwrap_or("there is no NVRTC").into()));
    }
    let mut test = cargo::cargo(&["test", "--quiet", "--package", "fd-compute", "--test", "nvrtc"])?;
    test.env("FD_NVRTC_DIR", String::from_utf8_lossy(&found.stdout).trim());
    Ok(cargo::code(cargo::status(&mut test)?).into())
}

fn test() -> Result<Outcome> {
    Ok(cargo::test(&[])?.into())
}

/// A script of `tools/`, which builds below the target directory.
fn script(name: &str) -> Result<Command> {
    let mut script = Command::new("bash");
    script.arg(cargo::root().join("tools").join(name)).env("CARGO_TARGET_DIR", cargo::target()?);
    Ok(script)
}

/// Why there is no emulated device, if there is none.
fn no_emulation() -> Result<Option<String>> {
    let Ok(found) = script("emulated_cuda.sh")?.arg("--check").output() else { return Ok(Some("bash is not there".into())) };
    Ok((!found.status.success()).then(|| String::from_utf8_lossy(&found.stderr).trim().into()))
}

/// What a device computes, held against the CPU: operations under three schedules, whole models, the binary's own check, a small table.
const ON_A_DEVICE: [(&str, &str); 7] = [
    ("fd-compute", "gradients"),
    ("fd-compute", "cuda"),
    ("fd-compute", "cuda_maps"),
    ("fd-compute", "attention_device"),
    ("fd-model", "devices"),
    ("fd-distill", "devices"),
    ("fd-distill", "gpu_check"),
];

/// Runs kernels on the CPU, by way of the driver's, NVRTC's and cuBLASLt's interfaces: nothing of the binary knows.
fn emulated() -> Result<Outcome> {
    if let Some(why) = no_emulation()? {
        return Ok(Outcome::Skipped(why));
    }
    // The emulation's own tests come first: that it finds what it is there to find.
    let code = cargo::code(cargo::status(script("emulated_cuda.sh")?.arg("--test"))?);
    if code != 0 {
        return Ok(Outcome::Failed(code));
    }
    let built = script("emulated_cuda.sh")?.stderr(Stdio::inherit()).output().context("bash cannot be run")?;
    if !built.status.success() {
        return Ok(Outcome::Failed(1));
    }
    let libraries = String::from_utf8_lossy(&built.stdout).trim().to_string();
    let on_a_device = |mut command: Command, schedule: &str| {
        command.env("LD_LIBRARY_PATH", &libraries).env("FD_TEST_CUDA", "1").env("FD_EMULATED_SCHEDULE", schedule);
        cargo::status(&mut command).map(cargo::code)
    };
    for schedule in ["0", "1", "42"] {
        for (package, test) in ON_A_DEVICE.iter().filter(|(package, _)| *package == "fd-compute" || schedule == "42") {
            let code = on_a_device(cargo::cargo(&["test", "--quiet", "--package", package, "--test", test])?, schedule)?;
            if code != 0 {
                return Ok(Outcome::Failed(code));
            }
        }
        // The products' own tests are beside them.
        let code = on_a_device(cargo::cargo(&["test", "--quiet", "--package", "fd-compute", "--lib", "gemm"])?, schedule)?;
        if code != 0 {
            return Ok(Outcome::Failed(code));
        }
    }
    let out = cargo::target()?.join("ci").join(format!("device-{}", std::process::id()));
    let mut table = cargo::Binary::Distill.command()?;
    table.args(["table", "--preset", "smoke", "--only", "DINO", "--device", "cuda:0", "--jobs", "1"]);
    table.args(["--set", "data.train_per_class=20", "--set", "data.test_per_class=5", "--out"]).arg(&out).stdout(Stdio::null());
    let code = on_a_device(table, "7")?;
    if code == 0 {
        let _ = std::fs::remove_dir_all(out);
    }
    Ok(code.into())
}

/// Leaves barriers out of kernels on an emulated device; the tests have to miss each.
fn barriers() -> Result<Outcome> {
    if let Some(why) = no_emulation()? {
        return Ok(Outcome::Skipped(why));
    }
    Ok(cargo::code(cargo::status(&mut script("barriers.sh")?)?).into())
}

fn table() -> Result<Outcome> {
    let out = cargo::target()?.join("ci").join(format!("smoke-{}", std::process::id()));
    let code = cargo::distill("table", &["--preset".into(), "smoke".into(), "--out".into(), out.clone().into()])?;
    if code == 0 {
        let _ = std::fs::remove_dir_all(out);
    }
    Ok(code.into())
}

fn parity() -> Result<Outcome> {
    let goldens = cargo::root().join("crates/model/tests/goldens");
    if !goldens.is_dir() {
        return Ok(Outcome::Skipped(format!("{} is not there", goldens.display())));
    }
    Ok(cargo::distill("parity", &[goldens.into()])?.into())
}

/// Opens a sample report in headless Chromium and uses it. With CI=true the browser is installed if it is not there.
fn report() -> Result<Outcome> {
    let tools = cargo::root().join("tools");
    if !Command::new("python3").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success()) {
        return Ok(Outcome::Skipped("python3 is not there".into()));
    }
    let mut browser = Command::new("sh");
    browser.arg(tools.join("browser.sh")).args((!strict()).then_some("--check"));
    let found = browser.output().context("sh cannot be run")?;
    if !found.status.success() {
        let said = String::from_utf8_lossy(&found.stderr);
        return Ok(Outcome::Skipped(said.lines().last().unwrap_or("there is no browser").into()));
    }
    let folder = cargo::target()?.join("ci/report");
    let mut example = cargo::cargo(&["run", "--quiet", "--package", "fd-analysis", "--example", "sample_report", "--"])?;
    let written = cargo::status(example.arg(&folder))?;
    if !written.success() {
        return Ok(cargo::code(written).into());
    }
    let mut test = Command::new("python3");
    test.arg(tools.join("report_in_chromium.py")).args([folder.join("report.html"), folder]);
    Ok(cargo::code(cargo::status(&mut test)?).into())
}
