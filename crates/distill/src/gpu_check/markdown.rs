//! The report for people: a page of tables in Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Section;
use super::report::{Ceilings, Check, Kernels, Report, Steps};

/// The page.
pub(super) fn page(r: &Report) -> String {
    let mut text = format!("# gpu-check: {}\n\n", if r.findings.passed() { "all checks hold" } else { "CHECKS FAIL" });
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".into());
    let card = &r.card;
    let (major, minor) = (card.capability / 10, card.capability % 10);
    let lt = card.cublas_lt.version.clone().unwrap_or_else(|| card.cublas_lt.path.display().to_string());
    let facts = [
        ("date", r.date.clone()),
        ("card", format!("{} ({}), compute capability {major}.{minor}", card.name, r.device)),
        ("driver", format!("{}, CUDA {}", known(&r.driver), card.cuda)),
        ("NVRTC, cuBLASLt", format!("{}, {lt}", card.nvrtc)),
        ("version, commit", format!("{}, {}", r.version, known(&r.commit))),
        ("took", format!("{:.0} s{}", r.seconds, if r.quick { ", small shapes (`--quick`)" } else { "" })),
    ];
    text += "| | |\n|:--|:--|\n";
    facts.iter().for_each(|(name, value)| row(&mut text, &[(*name).into(), value.clone()]));
    checks(&mut text, &r.findings.checks);
    if let Some(c) = &r.findings.ceilings {
        ceilings(&mut text, c);
    }
    r.findings.kernels.iter().for_each(|k| kernels(&mut text, k, r.findings.ceilings.as_ref()));
    if !r.findings.steps.is_empty() {
        steps(&mut text, &r.findings.steps, r.findings.ceilings.as_ref());
    }
    if !r.findings.skipped.is_empty() {
        head(&mut text, "Left out", &["section", "what", "why"]);
        r.findings.skipped.iter().for_each(|s| row(&mut text, &[s.section.to_string(), s.what.clone(), s.why.clone()]));
    }
    text
}

fn row(text: &mut String, cells: &[String]) {
    let cells: Vec<String> = cells.iter().map(|c| c.replace('|', "\\|").replace('\n', " ")).collect();
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

/// A heading and a table's head: texts to the left, and to the right what begins with `#`.
fn head(text: &mut String, title: &str, names: &[&str]) {
    let _ = write!(text, "\n## {title}\n\n");
    row(text, &names.iter().map(|n| n.trim_start_matches('#').to_string()).collect::<Vec<_>>());
    let lines: Vec<&str> = names.iter().map(|n| if n.starts_with('#') { "--:" } else { ":--" }).collect();
    let _ = writeln!(text, "|{}|", lines.join("|"));
}

/// A line for each name and type: how many cases, how many failed, the worst; then every one that failed.
fn checks(text: &mut String, all: &[Check]) {
    if all.is_empty() {
        return;
    }
    head(text, "Checks", &["section", "what", "type", "#cases", "#failed", "#worst error", "#tolerance", "where"]);
    let mut groups: BTreeMap<(Section, &str, &str), Vec<&Check>> = BTreeMap::new();
    all.iter().for_each(|c| groups.entry((c.section, &c.name, &c.dtype)).or_default().push(c));
    for ((section, name, dtype), group) in &groups {
        let failed = group.iter().filter(|c| !c.passed).count();
        let share = |c: &Check| match (c.passed, c.worst) {
            (true, worst) => worst.map_or(0.0, |w| w / c.tolerance),
            (false, worst) => worst.map_or(f64::INFINITY, |w| w / c.tolerance),
        };
        let worst = group.iter().max_by(|a, b| share(a).total_cmp(&share(b))).expect("a group has a check");
        let number = |x: Option<f64>| x.map_or("–".into(), |x| format!("{x:.1e}"));
        let cells = [
            section.to_string(),
            name.to_string(),
            dtype.to_string(),
            group.len().to_string(),
            failed.to_string(),
            number(worst.worst),
            number(Some(worst.tolerance).filter(|t| *t > 0.0)),
            format!("{}: {}", worst.case, worst.what),
        ];
        row(text, &cells);
    }
    let failed: Vec<&Check> = all.iter().filter(|c| !c.passed).collect();
    if !failed.is_empty() {
        head(text, "Failed", &["section", "what", "case", "type", "where, or why"]);
        for c in failed {
            let error = c.worst.map_or(String::new(), |w| format!("{w:.1e} of {:.1e}, ", c.tolerance));
            row(text, &[c.section.to_string(), c.name.clone(), c.case.clone(), c.dtype.clone(), format!("{error}{}", c.what)]);
        }
    }
}

fn ceilings(text: &mut String, c: &Ceilings) {
    head(text, "Ceilings", &["what", "#measured"]);
    let mut line = |what: String, measured: String| row(text, &[what, measured]);
    line("copy on the device, read and written".into(), format!("{:.1} GB/s", c.copy_gb_s));
    line(format!("product in bf16, {}³", c.product_bf16_side), format!("{:.1} TFLOP/s", c.product_bf16_tflop_s));
    line(format!("product in f32, {}³", c.product_f32_side), format!("{:.1} TFLOP/s", c.product_f32_tflop_s));
    line("from one start of a kernel to the next".into(), format!("{:.2} µs", c.launch_us));
}

fn kernels(text: &mut String, k: &Kernels, ceilings: Option<&Ceilings>) {
    let title = format!("Where the time goes: {}, batch {}, {}", k.preset, k.batch, k.dtype);
    head(text, &title, &["operation", "pass", "#steps", "#ms", "#share", "#GB/s", "#TFLOP/s", "#of the nearer ceiling"]);
    let total: f64 = k.groups.iter().map(|g| g.seconds).sum();
    for g in &k.groups {
        let (gb_s, tflop_s) = (g.bytes / g.seconds / 1e9, g.flops / g.seconds / 1e12);
        let reached = ceilings.map(|c| 100.0 * (gb_s / c.copy_gb_s).max(tflop_s / c.product(&k.dtype)));
        let cells = [
            g.op.clone(),
            g.pass.clone(),
            g.steps.to_string(),
            format!("{:.3}", g.seconds * 1e3),
            format!("{:.1} %", 100.0 * g.seconds / total),
            format!("{gb_s:.1}"),
            format!("{tflop_s:.2}"),
            reached.map_or("–".into(), |r| format!("{r:.1} %")),
        ];
        row(text, &cells);
    }
    let all = [String::from("all"), String::new(), k.groups.iter().map(|g| g.steps).sum::<usize>().to_string()];
    let rest = [format!("{:.3}", total * 1e3), "100.0 %".into(), String::new(), String::new(), String::new()];
    row(text, &[&all[..], &rest[..]].concat());
    text.push_str("\nOperation by operation, each by the device's clock with what its start costs; the optimiser by the host's.\n");
}

fn steps(text: &mut String, all: &[Steps], ceilings: Option<&Ceilings>) {
    let names = ["preset", "#batch", "type", "whose", "#images/s", "#ms", "#least ms", "#MiB", "#TFLOP/s", "#of the product's ceiling"];
    head(text, "Steps of feature distillation", &names);
    for s in all {
        let tflop_s = s.ours.gflops / 1e3;
        let what = [s.preset.clone(), s.batch.to_string(), s.dtype.clone()];
        let mut line = |whose: String, l: &super::Line, tflop_s: f64| {
            let reached = ceilings.map_or("–".into(), |c| format!("{:.1} %", 100.0 * tflop_s / c.product(&s.dtype)));
            let numbers = [l.images_per_second, l.step_ms, l.step_ms_min].map(|x| format!("{x:.2}"));
            let rest = [l.peak_device_mb.to_string(), format!("{tflop_s:.2}"), reached];
            row(text, &[&what[..], &[whose], &numbers[..], &rest[..]].concat());
        };
        line("ours".into(), &s.ours, tflop_s);
        // The same operations in another time.
        for (v, l) in s.torch.iter().filter_map(|v| Some((v, v.line.as_ref()?))) {
            line(format!("{}, {}", l.engine, v.name), l, tflop_s * l.images_per_second / s.ours.images_per_second);
        }
    }
    if all.iter().any(|s| !s.torch.is_empty()) {
        compared(text, all);
    }
}

fn compared(text: &mut String, all: &[Steps]) {
    head(text, "Beside PyTorch's fastest", &["preset", "#batch", "type", "fastest", "#images/s, ours to it", "#memory, ours to it"]);
    for s in all {
        let Some((v, l)) = s.best() else { continue };
        let ratio = format!("{:.2}", s.ours.images_per_second / l.images_per_second);
        let memory = format!("{:.2}", s.ours.peak_device_mb as f64 / l.peak_device_mb.max(1) as f64);
        row(text, &[s.preset.clone(), s.batch.to_string(), s.dtype.clone(), v.name.clone(), ratio, memory]);
    }
    let failed: Vec<String> = all
        .iter()
        .flat_map(|s| s.torch.iter().filter_map(move |v| Some(format!("{} batch {}, {}: {}", s.preset, s.batch, v.name, v.why.as_ref()?))))
        .collect();
    if !failed.is_empty() {
        let _ = write!(text, "\nPyTorch's that failed:\n\n");
        failed.iter().for_each(|f| {
            let _ = writeln!(text, "- {f}");
        });
    }
}
