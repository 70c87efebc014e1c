//! `cargo xtask`: builds the binaries and calls them. No logic of its own.

mod cargo;
mod ci;

use std::process::ExitCode;

use anyhow::Result;

const USAGE: &str = "\
usage: cargo xtask TASK [ARGUMENTS]

  reproduce-table [ARGS]  the main table: `distill table ARGS` (--preset smoke for seconds instead of minutes, --preset paper for the paper's rows)
  sweep FILE [ARGS]       an ablation: `distill sweep FILE ARGS`, such as `sweep experiments/sweeps/target.toml`
  plan [CONFIG] [ARGS]    what a distillation or a table would cost: `distill plan CONFIG ARGS`, such as `plan swinv2-g --tflops 400 --devices 64`
  config [ARGS] [PREFIX]  every key of a table's configuration: `distill config ARGS`, such as `config distil.recipe`
  inspect, convert, features, knn, init, run, …
                          weight files and runs of your own: `distill TASK ARGS`, such as `inspect FILE`
  plots [RUN] [ARGS]      every figure of the paper for a finished table, and report.html: `analyze plots RUN ARGS`
  analyze ANALYSIS [ARGS] what trained models do: `analyze ANALYSIS ARGS`, such as `analyze attention --weights FILE --data DIR --out DIR`
  doctor [--json]         what this machine gives, and what to do about what is missing: `distill doctor`
  status [DIR]            how the runs below runs/ stand: `distill status DIR`
  parity DIR              our engine against a folder of golden vectors: `distill parity DIR`
  gpu-check [ARGS]        a GPU's numbers and its speed: `distill gpu-check ARGS`, such as `gpu-check --torch tools/torch_fd_step.py`
  bench ARGS              speed: `distill bench ARGS`, such as `bench fd-step --preset mini`
  test [ARGS]             `cargo test --workspace ARGS`
  ci                      everything that has to hold: format, lints, docs, kernels compiled by NVRTC, tests, barriers left out, a small table, parity, a report in Chromium";

fn main() -> ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    let (task, rest) = match args.split_first() {
        Some((task, rest)) => (task.to_string_lossy().into_owned(), rest),
        None => (String::new(), &[][..]),
    };
    let result: Result<u8> = match task.as_str() {
        "reproduce-table" => cargo::become_distill("table", rest),
        "sweep" | "run" | "init" | "plan" | "config" | "status" | "inspect" | "convert" | "features" | "knn" | "parity" | "bench"
        | "gpu-check" | "doctor" => cargo::become_distill(&task, rest),
        "analyze" => cargo::Binary::Analyze.take_over(rest),
        "plots" => cargo::Binary::Analyze.take_over(&[&["plots".into()], rest].concat()),
        "test" => cargo::test(rest),
        "ci" => ci::run(),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(0)
        }
        other => {
            eprintln!("error: unknown task `{other}`\n\n{USAGE}");
            Ok(2)
        }
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::from(2)
        }
    }
}
