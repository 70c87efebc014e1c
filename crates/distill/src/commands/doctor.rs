//! `distill doctor`.

use std::io::Write;

use anyhow::Context as _;
use fd_distill::doctor::{Gpu, Library, Machine, Report};
use fd_distill::run_dir::git_revision;
use serde::Serialize;

use super::columns::beside;
use super::{Outcome, Output};

/// A name and what there is to say of it, line by line.
type Line = (String, Vec<String>);

/// Looks at this machine and says what it gives.
pub fn doctor(json: bool, out: &mut Output) -> anyhow::Result<Outcome> {
    let (report, commit) = (Report::of(&Machine::here()), git_revision());
    let text = if json { in_json(&report, commit.as_deref())? } else { told(&report, commit.as_deref()) };
    writeln!(out, "{text}").and_then(|()| out.flush()).context("standard output")?;
    Ok(if report.usable() { Outcome::Done } else { Outcome::CheckFailed })
}

fn in_json(report: &Report, commit: Option<&str>) -> anyhow::Result<String> {
    #[derive(Serialize)]
    struct Line<'a> {
        #[serde(flatten)]
        report: &'a Report,
        /// Of the current folder.
        commit: Option<&'a str>,
    }
    Ok(serde_json::to_string(&Line { report, commit })?)
}

fn told(report: &Report, commit: Option<&str>) -> String {
    let blocks = [general(report, commit), gpu(report)];
    let width = blocks.iter().flatten().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let line = |(name, said): &Line| {
        let names = std::iter::once(name.as_str()).chain(std::iter::repeat(""));
        said.iter().zip(names).map(|(text, name)| beside(&[name, text], &[width, 112])).collect::<Vec<_>>().join("\n")
    };
    blocks.iter().map(|lines| lines.iter().map(line).collect::<Vec<_>>().join("\n")).collect::<Vec<_>>().join("\n\n")
}

fn general(report: &Report, commit: Option<&str>) -> Vec<Line> {
    let (cpu, system) = (&report.cpu, &report.system);
    let unknown = || String::from("unknown");
    let kernel = system.kernel.as_ref().map_or(String::new(), |k| format!(", kernel {k}"));
    let wsl = if system.wsl { ", inside Windows (WSL)" } else { "" };
    let allowed = cpu.cores.map_or_else(unknown, |n| n.to_string());
    let quota = cpu.quota.map_or(String::new(), |cores| format!(", the control group allows the time of {cores}"));
    let mut threads = vec![format!("{} in use; cores allowed: {allowed}{quota}", cpu.threads)];
    if cpu.quota.is_some_and(|cores| cores + 0.5 < cpu.threads as f64) {
        threads.push("→ more threads than the control group has time for: --threads N".into());
    }
    let mut simd = vec![format!("{} in force; there are {}", cpu.simd, cpu.simd_available.join(", "))];
    if cpu.simd_available.last().is_some_and(|best| *best != cpu.simd) {
        simd.push("→ --simd holds it below what there is".into());
    }
    let gibibytes = |bytes: Option<u64>| bytes.map_or_else(unknown, |b| format!("{:.1} GiB", b as f64 / f64::from(1 << 30)));
    let memory = &report.memory;
    let limit = memory.limit.map_or(String::new(), |_| format!(", the control group allows {}", gibibytes(memory.limit)));
    let engine = report.engine_fault.as_ref().map_or("calculates as it should".into(), |why| format!("BROKEN: {why}"));
    let mut lines: Vec<Line> = vec![
        ("distill".into(), vec![report.version.into()]),
        ("commit".into(), vec![commit.map_or("no git repository in this folder".into(), |c| format!("{c} (checked out in this folder)"))]),
        ("system".into(), vec![format!("{}{kernel}, {}{wsl}", system.name, system.arch)]),
        ("processor".into(), vec![cpu.model.clone().unwrap_or_else(unknown)]),
        ("instruction set".into(), simd),
        ("threads".into(), threads),
        ("memory".into(), vec![format!("{}, {} available{limit}", gibibytes(memory.total), gibibytes(memory.available))]),
        ("engine".into(), vec![engine]),
    ];
    if report.engine_fault.is_some() {
        lines.push((String::new(), vec!["→ try --simd scalar; please report it with these lines".into()]));
    }
    lines
}

fn gpu(report: &Report) -> Vec<Line> {
    let Gpu { driver, models, devices, advice, libraries, missing, notes } = &report.gpu;
    let verdict = match missing.as_slice() {
        [] => "what --device cuda:0 needs is here".into(),
        missing => format!("everything is computed on the processor: no {}", missing.join(", no ")),
    };
    let mut lines: Vec<Line> = vec![("GPU".into(), vec![verdict])];
    let names: Vec<String> = devices.iter().map(|d| d.display().to_string()).collect();
    let devices = if names.is_empty() { "not found".into() } else { names.join(", ") };
    let models = if models.is_empty() { String::new() } else { format!(" ({})", models.join(", ")) };
    lines.push(("NVIDIA driver".into(), vec![driver.clone().unwrap_or("not found".into())]));
    let advice = advice.iter().map(|text| format!("→ {text}"));
    lines.push(("NVIDIA devices".into(), std::iter::once(format!("{devices}{models}")).chain(advice).collect()));
    lines.extend(libraries.iter().map(library));
    if !notes.is_empty() {
        lines.push(("notes".into(), notes.clone()));
    }
    lines
}

fn library(library: &Library) -> Line {
    let mut said: Vec<String> = vec![];
    match library.found.split_first() {
        None => said.push("not found".into()),
        Some((first, others)) => {
            let version = first.version.as_deref().unwrap_or("unknown version");
            said.push(format!("{version}, {} ({})", first.path.display(), first.by));
            let others = others
                .iter()
                .map(|f| format!("also {}, {} ({})", f.version.as_deref().unwrap_or("unknown version"), f.path.display(), f.by));
            said.extend(others);
        }
    }
    said.extend(library.unusable.iter().map(|what| format!("unusable: {what}")));
    said.extend(library.advice.iter().map(|what| format!("→ {what}")));
    (format!("{} ({})", library.name, library.purpose), said)
}
