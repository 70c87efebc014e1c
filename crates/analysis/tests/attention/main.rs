//! `analyze attention` as users run it, against attention by its definition in double precision.

mod models;
mod reference;

use std::collections::BTreeMap;

use fd_analysis::attention::AttentionReport;
use fd_analysis::images::Choice;
use fd_distill::features::Fitting;
use fd_model::{Checkpoint, Model, ModelConfig, Statistics};
use models::Scratch;
use reference::{Window, expected, patterns};

/// What single precision may do to a number, relative.
const TOLERANCE: f64 = 2e-5;

fn near(found: &str, want: f64, what: &str) {
    let found: f64 = found.parse().unwrap_or_else(|_| panic!("{what}: `{found}`"));
    assert!((found - want).abs() <= TOLERANCE * want.abs().max(1e-2), "{what}: {found}, expected {want}");
}

/// Every layer's windows, image by image.
fn by_definition(scratch: &Scratch, (model, params): (&Model, &fd_compute::Params), size: usize) -> Vec<Vec<Vec<Window>>> {
    let choice = Choice {
        data: fd_analysis::images::Origin::Named(scratch.path("photos").display().to_string()),
        size: Some(size),
        seed: None,
        fitting: Fitting::Crop(0.875),
    };
    let images = choice.open(3).unwrap();
    let view = images.view(model.config().img_size(), &Statistics::imagenet()).unwrap();
    let mut pixels = vec![0.0; view.shape().iter().product()];
    (0..size)
        .map(|i| {
            images.decode(i, &view, &mut pixels).unwrap();
            reference::attention(model, params, &pixels)
        })
        .collect()
}

fn check(name: &str, config: &ModelConfig, flags: &[&str], conventions: (bool, bool)) {
    let scratch = Scratch::new(name);
    let (model, params) = scratch.model("m.safetensors", config, 7);
    let args =
        ["attention", "--weights", "m.safetensors", "--data", "photos", "--size", "3", "--batch", "2", "--head-maps", "--out", "out"];
    scratch.says(&[&args, flags].concat());
    let images = by_definition(&scratch, (&model, &params), 3);
    let (heads, layers) = (scratch.csv("out/attention.csv"), scratch.csv("out/layers.csv"));
    let maps = Checkpoint::read(&scratch.path("out/maps.safetensors")).unwrap();
    assert_eq!(layers.len(), images[0].len());
    for (layer, row) in layers.iter().enumerate() {
        let what = format!("{name}, layer {layer}");
        let of_layer: Vec<&Vec<Window>> = images.iter().map(|image| &image[layer]).collect();
        let want = expected(&of_layer, conventions, config.cls_token(), row["pixels"].parse().unwrap());
        near(&row["similarity"], want.similarity, &what);
        let (diagonal, column) = patterns(&want.patches, want.columns);
        near(&row["diagonal"], diagonal, &what);
        near(&row["column"], column, &what);
        let rows: Vec<&BTreeMap<String, String>> = heads.iter().filter(|r| r["layer"] == layer.to_string()).collect();
        assert_eq!(rows.len(), want.heads.len());
        for (row, numbers) in rows.iter().zip(&want.heads) {
            numbers.iter().for_each(|(column, value)| near(&row[*column], *value, &format!("{what}, head {}, {column}", row["head"])));
            let filled = row.values().filter(|v| !v.is_empty()).count();
            assert_eq!(filled, 3 + numbers.len() + 2, "{what}: label, layer, head, numbers, conventions");
        }
        let map = &maps.tensors[&format!("m/{layer}/map")];
        assert_eq!(map.shape, [want.map.len(); 2]);
        map.data.iter().zip(want.map.concat()).for_each(|(found, want)| assert!((f64::from(*found) - want).abs() < 2e-6, "{what}, map"));
        let each = &maps.tensors[&format!("m/{layer}/heads")].data;
        let average = |i: usize| each.iter().skip(i).step_by(map.data.len()).sum::<f32>() / rows.len() as f32;
        assert!(map.data.iter().enumerate().all(|(i, v)| (v - average(i)).abs() < 1e-6));
    }
}

#[test]
fn a_vit_equals_its_definition_whatever_the_conventions() {
    check("renormalised", &models::absolute(), &[], (true, true));
    check("dropped", &models::absolute(), &["--no-renormalise"], (true, false));
    check("kept", &models::absolute(), &["--keep-cls"], (false, false));
}

#[test]
fn position_biases_registers_and_no_cls_token() {
    check("student", &models::student(), &[], (true, true));
    check("no-cls", &models::without_cls(), &[], (true, true));
    check("registers", &models::with_registers(), &[], (true, true));
    check("registers-kept", &models::with_registers(), &["--keep-cls"], (false, false));
}

#[test]
fn swins_of_both_versions_with_shifted_windows() {
    check("swin", &models::swin(), &[], (true, true));
    check("swin-v2", &models::swin_v2(), &[], (true, true));
}

#[test]
fn several_models_on_any_number_of_threads_give_the_same_bytes() {
    let scratch = Scratch::new("several");
    scratch.model("a.safetensors", &models::absolute(), 1);
    scratch.model("runs/mini/weights/dino-seed0.safetensors", &models::swin(), 2);
    let run = |out: &str, more: &[&str]| {
        let args =
            ["attention", "--weights", "before, FD=a.safetensors", "--run", "mini", "--data", "photos", "--keep-images", "3", "--out", out];
        scratch.says(&[&args, more].concat())
    };
    let said = run("one", &["--threads", "1"]);
    run("two", &["--threads", "2"]);
    for file in ["attention.csv", "layers.csv", "maps.safetensors", "images.safetensors", "attention.json"] {
        let read = |out: &str| std::fs::read(scratch.path(out).join(file)).unwrap();
        assert!(read("one") == read("two"), "{file}");
    }
    let report: AttentionReport = serde_json::from_slice(&std::fs::read(scratch.path("one/attention.json")).unwrap()).unwrap();
    let labels: Vec<&str> = report.models.iter().map(|m| m.label.as_str()).collect();
    assert_eq!((labels, report.data.images), (vec!["before, FD", "mini/dino-seed0"], 5));
    assert!(said.contains(&report.in_words) && said.contains("rows renormalised") && said.contains("5 images of photos"), "{said}");
    let csv = std::fs::read_to_string(scratch.path("one/attention.csv")).unwrap();
    assert!(csv.starts_with("model,layer,head,distance_px,") && csv.contains("\n\"before, FD\",0,0,") && csv.ends_with(",dropped,true\n"));
    let kept = Checkpoint::read(&scratch.path("one/images.safetensors")).unwrap();
    assert_eq!(kept.tensors["before, FD/1/2"].shape, [3, 82, 82]);
    assert_eq!(kept.tensors["mini/dino-seed0/3/0"].shape, [4, 4, 16, 16]);
    assert_eq!((&kept.tensors["before, FD/image/0"].shape, kept.metadata["image 0"].as_str()), (&vec![36, 36, 3], "astronaut.png"));
    let rows = kept.tensors["before, FD/1/2"].data.chunks(82).map(|row| row.iter().sum::<f32>());
    assert!(rows.into_iter().all(|sum| (sum - 1.0).abs() < 5e-3), "whole rows, in half precision");
}

#[test]
fn layers_and_images_are_chosen() {
    let scratch = Scratch::new("chosen");
    scratch.model("m.safetensors", &models::absolute(), 1);
    let base = ["attention", "--weights", "m.safetensors", "--data", "photos"];
    let run = |out: &str, more: &[&str]| {
        scratch.says(&[&base[..], &["--out", out], more].concat());
        (scratch.csv(&format!("{out}/attention.csv")), std::fs::read(scratch.path(out).join("attention.json")).unwrap())
    };
    let (all, _) = run("all", &["--size", "2", "--seed", "4"]);
    let (last, json) = run("last", &["--size", "2", "--seed", "4", "--layers", "1"]);
    assert_eq!(last, all[3..], "a layer's numbers do not depend on which others are asked for");
    let report: AttentionReport = serde_json::from_slice(&json).unwrap();
    assert_eq!((report.data.seed, report.data.images, report.data.of), (Some(4), 2, 5));
    assert_eq!(report.models[0].layers.len(), 1);
    assert_ne!(run("first", &["--size", "2", "--layers", "1"]).0, last);
    // Another size: positions are interpolated.
    let (larger, json) = run("larger", &["--img-size", "40,48"]);
    let report: AttentionReport = serde_json::from_slice(&json).unwrap();
    assert_eq!((larger.len(), report.models[0].layers[0].map), (6, (10, 12)));
}

#[test]
fn mistakes_are_one_line_and_leave_nothing() {
    let scratch = Scratch::new("mistakes");
    let (_, params) = scratch.model("m.safetensors", &models::absolute(), 1);
    scratch.model("v2.safetensors", &models::swin_v2(), 1);
    let mut broken = Checkpoint::of(&params, "").described(&models::absolute(), None).unwrap();
    broken.tensors.get_mut("blocks.1.attn.qkv.weight").unwrap().data[5] = f32::NAN;
    broken.write(&scratch.path("nan.safetensors")).unwrap();
    std::fs::create_dir_all(scratch.path("empty")).unwrap();
    std::fs::write(scratch.path("file"), "x").unwrap();
    let refused = |weights: &str, more: &[&str]| {
        let all = [&["attention", "--weights", weights, "--out", "out"], more].concat();
        let said = scratch.refused(&all);
        assert!(!scratch.path("out").exists(), "{said}");
        said
    };
    let data = ["--data", "photos"];
    let with = |more: &[&'static str]| [&data, more].concat();
    for (said, words) in [
        (refused("none.safetensors", &data), ["none", "none.safetensors"]),
        (refused("nan.safetensors", &data), ["blocks.1.attn.qkv.weight", "nan"]),
        (refused("nan.safetensors", &with(&["--allow", "blocks.1.attn.qkv.weight"])), ["layer 1", "not finite"]),
        (refused("m.safetensors", &with(&["--layers", "0,2"])), ["m: layer 2 has no attention", "2 layers"]),
        (refused("m.safetensors", &with(&["--size", "6"])), ["--size 6", "5 images"]),
        (refused("m.safetensors", &with(&["--set", "embed_dim=24"])), ["m: ", "m.safetensors"]),
        (refused("m.safetensors", &with(&["--img-size", "35"])), ["35", "img_size"]),
        (refused("m.safetensors", &with(&["--img-size", "800"])), ["m: ", "40001 tokens"]),
        (
            refused("v2.safetensors", &with(&["--set", "window_size=512", "--img-size", "1024"])),
            ["v2: layer 0: 262144 tokens", "--img-size"],
        ),
        (refused("m.safetensors", &["--data", "fashion-mnist"]), ["--data fashion-mnist", "the model 3"]),
        (refused("m.safetensors", &["--data", "empty"]), ["m: ", "empty"]),
        (refused("m.safetensors", &with(&["--run", "mini"])), ["--run mini", "no run"]),
        (refused("m.safetensors", &with(&["--weights", "m.safetensors"])), ["`m`", "LABEL=FILE"]),
        (refused("m.safetensors", &with(&["--keep-cls", "--no-renormalise"])), ["--keep-cls", "--no-renormalise"]),
        (scratch.refused(&["attention", "--data", "photos", "--out", "out"]), ["--weights", "required"]),
        (scratch.refused(&["attention", "--weights", "m.safetensors", "--data", "photos", "--out", "file"]), ["file", "directory"]),
    ] {
        assert!(words.iter().all(|word| said.contains(word)), "{said}: expected {words:?}");
    }
    let args = ["attention", "--weights", "m.safetensors", "--data", "photos", "--out", "out"];
    scratch.says(&args);
    assert!(scratch.refused(&args).contains("--force"));
    scratch.says(&[&args[..], &["--force"]].concat());
}
