//! PyTorch's step beside ours: variants of `torch_fd_step.py`, each in a process of its own and for so long and no longer.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::Job;
use super::child::Child;
use super::record::Record;
use super::report::{Line, Steps, Variant};
use super::steps::parse;
use crate::Error;
use crate::bench::Preset;

/// A variant's name, what it is given, and how long it may take: what compiles takes minutes.
struct Wanted {
    name: &'static str,
    arguments: &'static [&'static str],
    seconds: u64,
}

const VARIANTS: [Wanted; 6] = [
    Wanted { name: "sdpa, compiled", arguments: &["--attention=sdpa", "--compile=default"], seconds: 120 },
    Wanted { name: "sdpa", arguments: &["--attention=sdpa"], seconds: 60 },
    Wanted { name: "eager", arguments: &["--attention=eager"], seconds: 60 },
    Wanted { name: "sdpa, max-autotune", arguments: &["--attention=sdpa", "--compile=max-autotune"], seconds: 240 },
    Wanted { name: "eager, compiled", arguments: &["--attention=eager", "--compile=default"], seconds: 120 },
    Wanted { name: "flex, compiled", arguments: &["--attention=flex", "--compile=default"], seconds: 120 },
];

/// Runs the variants for a step that has been measured, and records each.
pub(super) fn compare(job: &Job, script: &Path, preset: Preset, mut steps: Steps, record: &mut Record<impl Write>) -> Result<(), Error> {
    for wanted in &VARIANTS {
        let limit = job.left().min(Duration::from_secs(wanted.seconds));
        // Starting Python and PyTorch alone takes this long.
        if limit < Duration::from_secs(if job.quick() { 1 } else { 15 }) {
            let what = format!("{} batch {} {}, PyTorch {}", steps.preset, steps.batch, steps.dtype, wanted.name);
            record.skip(&what, &format!("{:.0} s are left", limit.as_secs_f64()))?;
            continue;
        }
        let result = variant(job, script, preset, &steps, wanted, limit)?;
        let (line, why) = match result {
            Ok(line) => (Some(line), None),
            Err(why) => (None, Some(why)),
        };
        steps.torch.push(Variant { name: wanted.name.into(), line, why });
        record.steps(steps.clone())?;
    }
    Ok(())
}

/// What the script printed, or why it did not.
fn variant(
    job: &Job,
    script: &Path,
    preset: Preset,
    steps: &Steps,
    wanted: &Wanted,
    limit: Duration,
) -> Result<Result<Line, String>, Error> {
    let folder = std::env::temp_dir();
    let file = |ending: &str| folder.join(format!("fd-gpu-check-{}.{ending}", std::process::id()));
    let (out, err) = (file("out"), file("err"));
    let create = |path: &Path| File::create(path).map_err(|e| Error::File { path: path.to_path_buf(), why: e.to_string() });
    let mut command = Command::new("python3");
    command.arg(script).args(["--preset", preset.name()]).arg(format!("--batch={}", steps.batch));
    command.arg(format!("--device=cuda:{}", job.options.ordinal)).arg(format!("--dtype={}", steps.dtype));
    command.args(wanted.arguments).args(["--steps=30", "--warmup=5"]);
    let ended = Child::other(command, "python3", create(&out)?, create(&err)?)?.wait(limit)?;
    let read = |path: &Path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        let _ = std::fs::remove_file(path);
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (out, err) = (read(&out), read(&err));
    let last = |text: &str| text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default().trim().to_string();
    Ok(match ended.trouble() {
        Some(why) if last(&err).is_empty() => Err(why),
        Some(why) => Err(format!("{why}: {}", last(&err).chars().take(200).collect::<String>())),
        None => parse(&last(&out)).map_err(|e| e.to_string()),
    })
}
