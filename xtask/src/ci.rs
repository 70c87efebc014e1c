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

const STEPS: [Step; 7] = [
    ("format", format),
    ("clippy", clippy),
    ("doc", doc),
    ("test", test),
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

fn test() -> Result<Outcome> {
    Ok(cargo::test(&[])?.into())
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
