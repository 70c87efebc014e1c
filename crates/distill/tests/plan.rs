//! `distill plan`: prices of every architecture and of tables, as text and as JSON, and the same code run for real on a small scale.

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use fd_compute::optim::{AdamW, Rate, clip_factor, grad_norm};
use fd_compute::{Arena, Cx, DType, Device, Grads, Params, StepKey, Stream};
use fd_distill::distillation::{Distillation, Engine, Projector};
use fd_distill::price::{Split, StepPrice};
use fd_distill::{Objective, table};
use fd_model::{Init, ModelConfig, PRESETS, SwinConfig, initialise, preset};
use serde_json::Value;

fn distill(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_distill"));
    command.args(args).current_dir(env!("CARGO_TARGET_TMPDIR")).env_remove("RUST_LOG").stdin(Stdio::null());
    command.output().unwrap()
}

fn text(args: &[&str]) -> String {
    let output = distill(&[&["plan"], args].concat());
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), err.as_str()), (Some(0), ""), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &[&str]) -> Value {
    let text = text(&[args, &["--json"]].concat());
    assert_eq!(text.lines().count(), 1, "one object: {text}");
    serde_json::from_str(&text).unwrap()
}

/// A mistake told in one line that holds all of `parts`.
fn refused(args: &[&str], parts: &[&str]) {
    let output = distill(&[&["plan"], args].concat());
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!((output.status.code(), out.as_str()), (Some(2), ""), "{args:?}: {err}");
    assert!(err.starts_with("error: ") && err.ends_with('\n') && err.lines().count() == 1, "{args:?}: {err:?}");
    for part in parts {
        assert!(err.contains(part), "{args:?}: `{part}` is not in {err}");
    }
}

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} is not a number in {value}"))
}

/// A number of the text is the JSON's, to its last printed digit (memory is rounded down to whole MiB).
fn same(cell: &str, expected: f64, what: &str) {
    let digits = cell.split_once('.').map_or(0, |(_, rest)| rest.len() as i32);
    let printed: f64 = cell.replace(',', "").parse().unwrap_or_else(|_| panic!("{what}: {cell} is not a number"));
    assert!((printed - expected).abs() <= 1.001 * 10f64.powi(-digits), "{what}: {cell} is not {expected}");
}

/// The same for memory: two cells, a number and its unit.
fn same_memory(cells: &[&str], bytes: f64, what: &str) {
    let unit = f64::from(match cells[1] {
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        other => panic!("{what}: {other}"),
    });
    same(cells[0], bytes / unit, what);
}

#[test]
fn every_architecture_is_priced_in_one_line() {
    let args = ["--tflops", "100", "--devices", "8", "--batch", "32"];
    let (all, said) = (json(&args), text(&args));
    let rows = all["architectures"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["architecture"]["name"].as_str().unwrap()).collect();
    assert_eq!((all["plan"].as_str(), &names[..]), (Some("overview"), &PRESETS[..]));
    assert!(said.lines().next().is_some_and(|head| head.contains("TFLOP a step of 32")), "{said}");
    for (row, line) in rows.iter().zip(said.lines().skip(1)) {
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells[0], row["architecture"]["name"].as_str().unwrap());
        same(cells[1], number(row, "/architecture/parameters") / 1e6, line);
        same(cells[3], number(row, "/architecture/tokens"), line);
        same(cells[5], number(row, "/forward_flops_per_image") / 1e9, line);
        same(cells[6], number(row, "/distillation_flops_per_image") / 1e9, line);
        same(cells[7], number(row, "/distillation_flops_per_step") / 1e12, line);
        same_memory(&cells[8..], number(row, "/bytes_at_batch_1"), line);
        assert_eq!(cells[10], row["teacher"].as_str().unwrap());
        same(cells[11], number(row, "/days"), line);
        let step = 32.0 * number(row, "/distillation_flops_per_image");
        assert!((number(row, "/distillation_flops_per_step") / step - 1.0).abs() < 1e-12, "{line}");
    }
    assert_eq!(text(&[&args[..], &["--all"]].concat()), said);
}

#[test]
fn each_architecture_is_priced_alone() {
    for name in PRESETS {
        let price = json(&[name, "--batch", "4", "--accumulate", "2"]);
        assert_eq!((price["plan"].as_str(), price["variants"].as_array().unwrap().len()), (Some("pair"), 4), "{name}");
        for variant in price["variants"].as_array().unwrap() {
            let part = |part: &str| number(variant, &format!("/bytes/{part}"));
            let parts = ["trained", "frozen", "gradients", "moments", "activations"].map(part);
            assert!(parts.iter().all(|bytes| *bytes > 0.0), "{name}: {variant}");
            assert_eq!(parts.iter().sum::<f64>(), part("total"), "{name}");
            assert_eq!((part("gradients"), part("moments")), (part("trained"), 2.0 * part("trained")), "{name}");
        }
    }
}

/// The paper's students and what is published of their sizes; the operations of ViT-B/16 are 2 x 17.6 G multiply-adds, attention
/// included, and a training step's three times that.
#[test]
fn prices_are_the_known_ones() {
    let close = |found: f64, expected: f64, tolerance: f64, what: &str| {
        assert!((found / expected - 1.0).abs() < tolerance, "{what}: {found}, expected {expected}");
    };
    let g = json(&["swinv2-g"]);
    close(number(&g, "/student/parameters"), 3.0e9, 0.01, "SwinV2-G");
    assert_eq!(g["teacher"]["name"], "swinv2-g");
    let b = json(&["vit-base"]);
    let flops = |part: &str| number(&b, &format!("/variants/0/flops_per_image/{part}"));
    close(flops("teacher_forward"), 35.2e9, 0.02, "teacher forward");
    close(flops("student_forward") + flops("student_backward"), 105.5e9, 0.02, "student forward and backward");
    assert_eq!((b["student"]["model"]["position"].as_str(), b["student"]["tokens"].as_u64()), (Some("shared-relative"), Some(197)));
    assert_eq!((b["student"]["model"]["layer_scale"].as_f64(), b["student"]["model"]["qkv_bias"].as_str()), (Some(0.1), Some("qv")));
    assert_eq!(b["teacher"]["model"]["position"].as_str(), Some("absolute"));
    // CLIP's student is a plain ViT, EsViT's Swin-B has a Swin v2 with windows of 14.
    let clip = json(&["clip-vit-l-14", "--batch", "1"]);
    assert_eq!((clip["teacher"]["model"]["pre_norm"].as_bool(), clip["student"]["model"].get("pre_norm")), (Some(true), None));
    for name in ["swin-b", "swinv2-b"] {
        let swin = json(&[name, "--batch", "1"]);
        assert_eq!((swin["teacher"]["name"].as_str(), swin["student"]["model"]["window_size"].as_u64()), (Some("swin-b"), Some(14)));
    }
    // Maps that differ, and only one CLS token: patches are compared.
    let mixed = json(&["vit-base", "--teacher", "swin-b", "--batch", "2"]);
    assert_eq!((mixed["objective"]["target"].as_str(), mixed["teacher"]["grid"][0].as_u64()), (Some("patches"), Some(7)));
}

#[test]
fn recomputing_costs_operations_and_accumulating_none() {
    for name in ["vit-base", "swinv2-b", "swinv2-g"] {
        let price = json(&[name, "--batch", "64", "--accumulate", "4"]);
        let of = |recompute: bool, accumulate: u64| {
            let variants = price["variants"].as_array().unwrap();
            let is = |v: &&Value| v["recompute"].as_bool() == Some(recompute) && v["accumulate"].as_u64() == Some(accumulate);
            let v = variants.iter().find(is).unwrap_or_else(|| panic!("{name}: {recompute} {accumulate}"));
            assert_eq!(v["micro_batch"].as_u64(), Some(64 / accumulate));
            (number(v, "/flops_per_step"), number(v, "/bytes/total"), number(v, "/bytes/activations"))
        };
        for n in [1, 4] {
            let ((flops, bytes, _), (more, fewer, _)) = (of(false, n), of(true, n));
            assert!(more > 1.1 * flops && more < 1.4 * flops && fewer < bytes, "{name}, {n} micro-batches");
        }
        for recompute in [false, true] {
            let ((flops, bytes, whole), (again, fewer, quarter)) = (of(recompute, 1), of(recompute, 4));
            // Only the position bias, which has no batch, is computed for every micro-batch.
            assert!((again / flops - 1.0).abs() < 2e-3 && again >= flops, "{name}: {flops} and {again}");
            assert!(fewer < bytes && quarter < 0.3 * whole, "{name}: {bytes} and {fewer}");
        }
    }
}

#[test]
fn days_are_operations_over_what_devices_sustain() {
    let args = ["vit-base", "--images", "1000000", "--epochs", "100", "--devices", "8"];
    let price = json(&[&args[..], &["--tflops", "50"]].concat());
    for variant in price["variants"].as_array().unwrap() {
        let expected = 1e6 * 100.0 * number(variant, "/flops_per_image/total") / (8.0 * 50e12) / 86400.0;
        assert!((number(variant, "/days") / expected - 1.0).abs() < 1e-12, "{variant}");
    }
    let price = json(&[&args[..], &["--images-per-second", "500"]].concat());
    for variant in price["variants"].as_array().unwrap() {
        let expected = 1e6 * 100.0 / (8.0 * 500.0) / 86400.0;
        assert!((number(variant, "/days") / expected - 1.0).abs() < 1e-12, "{variant}");
    }
    let (price, said) = (json(&args), text(&args));
    assert!(price["variants"].as_array().unwrap().iter().all(|v| v["days"].is_null()));
    assert!(said.contains("--tflops X") && said.contains("--images-per-second X") && !said.contains("\ndays "), "{said}");
}

#[test]
fn a_pair_is_told_in_numbers_of_the_json() {
    for args in [&["swinv2-g", "--tflops", "400", "--devices", "64"][..], &["vit-tiny", "--batch", "6", "--accumulate", "3"]] {
        let (price, said) = (json(args), text(args));
        let variants = price["variants"].as_array().unwrap();
        let cells = |name: &str| -> Vec<String> {
            let line = said.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {said}"));
            line.split_whitespace().map(String::from).collect()
        };
        for (name, key) in [("teacher forward", "teacher_forward"), ("student backward", "student_backward"), ("together", "total")] {
            let cells = cells(&format!("{name}, GFLOP an image"));
            assert_eq!(cells.len(), 4);
            cells.iter().zip(variants).for_each(|(c, v)| same(c, number(v, &format!("/flops_per_image/{key}")) / 1e9, name));
        }
        let step = cells(&format!("together, TFLOP a step of {}", price["batch"]));
        step.iter().zip(variants).for_each(|(c, v)| same(c, number(v, "/flops_per_step") / 1e12, "step"));
        for (name, key) in [("parameters, trained", "trained"), ("activations ", "activations"), ("memory together", "total")] {
            // The head begins as the line of activations does.
            let lines = said.lines().filter(|line| line.starts_with(name) && !line.starts_with("activations are"));
            let cells: Vec<&str> = lines.flat_map(|line| line[name.len()..].split_whitespace()).collect();
            assert_eq!(cells.len(), 8, "{said}");
            cells.chunks(2).zip(variants).for_each(|(c, v)| same_memory(c, number(v, &format!("/bytes/{key}")), name));
        }
        if args.contains(&"--tflops") {
            cells("days").iter().zip(variants).for_each(|(c, v)| same(c, number(v, "/days"), "days"));
        }
        same(&cells("student")[0], number(&price, "/student/parameters") / 1e6, "parameters");
        same(&cells("projector")[0], number(&price, "/projector_parameters") / 1e6, "projector");
    }
}

#[test]
fn a_table_is_priced_stage_by_stage() {
    let args = ["smoke", "--tflops", "0.1", "--devices", "2"];
    let (price, said) = (json(&args), text(&args));
    let stages = price["stages"].as_array().unwrap();
    let mut flops = 0.0;
    for (stage, line) in stages.iter().zip(said.lines().skip(1)) {
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells[0], stage["stage"].as_str().unwrap());
        same(cells[1], number(stage, "/stages"), line);
        same(cells[2], number(stage, "/steps"), line);
        same(cells[3], number(stage, "/flops_per_step") / 1e9, line);
        same(cells[4], number(stage, "/flops") / 1e12, line);
        same_memory(&cells[5..], number(stage, "/bytes"), line);
        same(cells[7], number(stage, "/days"), line);
        let (all, days) = (number(stage, "/flops"), number(stage, "/days"));
        assert!((number(stage, "/flops_per_step") * number(stage, "/steps") / all - 1.0).abs() < 1e-12);
        assert!((all / (2.0 * 0.1e12) / 86400.0 / days - 1.0).abs() < 1e-12);
        flops += all * number(stage, "/stages");
    }
    assert_eq!(flops, number(&price, "/flops"));
    let named = |name: &str| stages.iter().filter(|s| s["stage"] == name).count();
    assert!(["pretrain", "train-on", "distil", "fine-tune-600", "fine-tune-200"].iter().all(|name| named(name) > 0), "{said}");
    // What the table's own rehearsal says of the same stages.
    let rehearsal = distill(&["table", "--preset", "smoke", "--dry-run", "--threads", "1", "--out", "plan-rehearsed"]);
    let rehearsal = String::from_utf8(rehearsal.stdout).unwrap();
    let line = rehearsal.lines().find(|line| line.starts_with("distil DINO, seed 0")).unwrap();
    let distil = stages.iter().find(|s| s["stage"] == "distil").unwrap();
    assert!(line.contains(&format!(" {} ", distil["steps"])), "{line}: {distil}");
    let memory: Vec<&str> = line.split_whitespace().rev().take(2).collect();
    same_memory(&[memory[1], memory[0]], number(distil, "/bytes"), line);
}

#[test]
fn a_table_is_priced_for_images_and_teachers_that_are_not_there() {
    refused(&["small"], &["data.train", "--images N"]);
    let price = json(&["small", "--images", "50000", "--classes", "10", "--set", "distil.recipe.epochs=2"]);
    let distil = price["stages"].as_array().unwrap().iter().find(|s| s["stage"] == "distil").unwrap();
    assert_eq!((price["images"].as_u64(), price["classes"].as_u64()), (Some(50_000), Some(10)));
    assert_eq!(distil["steps"].as_u64(), Some(2 * (50_000 / 128)));
    // Weights are not opened, and no memory is too much.
    let smoke = include_str!("../../../experiments/tables/smoke.toml");
    let given = smoke.replace("name = \"DINO\"\n", "name = \"DINO\"\nweights = \"not-there.safetensors\"\n");
    assert_ne!(given, smoke);
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("plan-given.toml");
    std::fs::write(&file, given).unwrap();
    let large = ["--images", "20000000", "--set", "distil.recipe.batch=20000000", "--set", "columns=[\"probe-avg\"]"];
    let args = [&[file.to_str().unwrap()][..], &large].concat();
    let price = json(&args);
    let stages = price["stages"].as_array().unwrap();
    assert!(stages.iter().all(|s| s["stage"] != "pretrain" || s["of"][0] != "DINO"), "{price}");
    let distil = stages.iter().find(|s| s["stage"] == "distil").unwrap();
    assert!(number(distil, "/bytes") > 3e12, "{distil}");
    assert!(text(&args).contains(" GiB "));
}

#[test]
fn what_cannot_be_priced() {
    refused(&["swinv2-x"], &["swinv2-x", "swinv2-g", "vit-base", "main"]);
    refused(&["vit-base", "--teacher", "vit-bas"], &["teacher", "vit-bas", "vit-base"]);
    refused(&["vit-base", "--img-size", "225"], &["student vit-base", "`img_size`", "225", "patch_size 16"]);
    refused(&["vit-base", "--img-size", "240", "--teacher", "dinov2-b"], &["teacher dinov2-b", "`img_size`", "240"]);
    refused(&["swinv2-b", "--img-size", "256"], &["`window_size`", "14 x 14"]);
    refused(&["vit-tiny", "--img-size", "2048"], &["`img_size`", "16385 tokens"]);
    refused(&["vit-base", "--batch", "0"], &["--batch", "from 1 to"]);
    refused(&["vit-base", "--accumulate", "0"], &["--accumulate", "from 1 to"]);
    refused(&["vit-base", "--batch", "10", "--accumulate", "3"], &["accumulate: 3 does not divide a batch of 10"]);
    refused(&["vit-base", "--tflops", "1", "--images-per-second", "1"], &["--tflops", "--images-per-second"]);
    for wrong in ["0", "-1", "nan", "inf", "fast"] {
        refused(&["vit-base", &format!("--tflops={wrong}")], &["--tflops", wrong, "a number above 0"]);
    }
    refused(&["vit-base", "--devices", "0"], &["--devices"]);
    refused(&["vit-base", "--all"], &["--all"]);
    refused(&["vit-base", "--set", "distil.recipe.batch=1"], &["--set", "a table"]);
    refused(&["--teacher", "vit-base"], &["--teacher", "overview"]);
    refused(&["--images-per-second", "5"], &["--images-per-second", "overview"]);
    refused(&["smoke", "--teacher", "vit-base"], &["--teacher", "not with a table"]);
    refused(&["smoke", "--batch", "8"], &["--batch", "--set distil.recipe"]);
    refused(&["smoke", "--images-per-second", "8"], &["--images-per-second", "not with a table"]);
    refused(&["smoke", "--classes", "8"], &["--classes", "--images"]);
    refused(&["smoke", "--images", "20000001"], &["--images", "20000000"]);
    refused(&["smoke", "--set", "distil.recipe.epoch=1"], &["smoke.toml", "nearest: `distil.recipe.epochs`"]);
    refused(&["smoke", "--set", "student.num_heads=7"], &["num_heads"]);
    refused(&["smoke", "--set", "distil.recipe.accumulate=7"], &["distil.recipe.accumulate: 7 does not divide"]);
    refused(&["gone.toml"], &["gone.toml", "No such file"]);
}

/// Nothing of a model's size is allocated: three billion parameters fit a gigabyte of address space with room to spare.
#[cfg(target_os = "linux")]
#[test]
fn the_largest_model_is_priced_quickly_and_in_little_memory() {
    let start = Instant::now();
    let mut shell = Command::new("sh");
    let script = "ulimit -v 1000000 && exec \"$0\" plan swinv2-g --batch 128 --threads 1";
    let output = shell.args(["-c", script, env!("CARGO_BIN_EXE_distill")]).output().unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("2,997.8 M"), "{output:?}");
    let seconds = start.elapsed().as_secs_f64();
    assert!(seconds < 10.0, "{seconds} s");
}

/// SwinV2-G fits the plan, and runs real steps, reduced in width and depth, through the same code.
#[test]
fn the_largest_model_runs_reduced_in_width_and_depth() {
    let ModelConfig::Swin(full) = preset("swinv2-g").unwrap() else { panic!("a Swin") };
    let reduced = SwinConfig {
        img_size: (64, 64),
        embed_dim: 32,
        depths: vec![2, 2, 6, 4],
        num_heads: vec![1, 2, 4, 8],
        window_size: 4,
        ..full.clone()
    };
    let pair = |config: &SwinConfig| {
        let (student, teacher) = (ModelConfig::Swin(config.clone()).with_drop_path(0.1), ModelConfig::Swin(config.clone()));
        Distillation::new(&student, &teacher, Projector::Linear {}, Objective::PAPER).unwrap()
    };
    let (large, small) = (pair(&full).plan(128, Engine::Fused).unwrap(), pair(&reduced));
    let teacher = ModelConfig::Swin(reduced);
    for recompute in [false, true] {
        let fd = small.clone().with_recompute(recompute);
        let step = fd.plan(4, Engine::Fused).unwrap();
        // Nothing is left out of the reduced model: both plans consist of the same operations.
        let kinds = |plan: &fd_compute::Plan| plan.op_names().collect::<BTreeSet<_>>();
        assert_eq!(kinds(&large.plan), kinds(&step.plan));
        let (mut trained, mut frozen) = (Params::new(&fd.trained, DType::F32), Params::new(&fd.frozen[0], DType::F32));
        for (seed, prefix) in ["encoder.", "decoder."].into_iter().enumerate() {
            initialise(&mut trained, prefix, &teacher, Init::Official, seed as u64);
        }
        initialise(&mut frozen, "", &teacher, Init::Official, 2);
        let (mut grads, mut arena) = (Grads::new(&fd.trained, DType::F32), Arena::new(&step.plan, DType::F32));
        let price = StepPrice::of(&fd, Split { recompute, accumulate: 1, micro_batch: 4 }).unwrap();
        assert_eq!(price.bytes.activations, 4 * step.plan.arena_len() as u64);
        let mut random = Stream::new(&[3]);
        arena.value_mut::<f32>(step.images).iter_mut().for_each(|x| *x = random.normal() as f32);
        let mut adam = AdamW::new(&fd.trained, DType::F32, (0.9, 0.999), 1e-8);
        let rates: Vec<Rate> = fd.trained.iter().map(|param| Rate { param, lr: 1e-3, weight_decay: 0.05 }).collect();
        let mut losses = vec![];
        for i in 0..2 {
            let before: Vec<Vec<f64>> = fd.trained.iter().map(|p| trained.to_f64(p)).collect();
            let sets = [&trained, &frozen];
            let mut cx = Cx::new(&Device::CPU, &sets, &mut arena, StepKey { step: i, ..StepKey::default() });
            step.plan.forward(&mut cx).unwrap();
            losses.push(step.loss.value(&step.plan, &mut cx).unwrap().0);
            grads.reset();
            step.plan.backward(&mut cx, &mut grads).unwrap();
            let norm = grad_norm(&grads);
            assert!(norm.is_finite() && norm > 0.0, "step {i}: gradient norm {norm}");
            adam.step(&mut trained, &grads, &rates, clip_factor(norm, Some(3.0))).unwrap();
            let changed = fd.trained.iter().zip(&before).filter(|(p, before)| trained.to_f64(*p) != **before).count();
            assert_eq!(changed, fd.trained.iter().count(), "step {i}: every parameter learns");
        }
        assert!(losses.iter().all(|loss| loss.is_finite() && *loss > 0.0), "{losses:?}");
        assert!(losses[1] < losses[0], "{losses:?}");
    }
}

#[test]
fn the_tables_that_come_with_the_binary_can_be_named() {
    assert!(["main", "smoke", "small"].iter().all(|name| table::embedded(name).is_some()));
    assert_eq!(json(&["main"])["name"], "main");
}
