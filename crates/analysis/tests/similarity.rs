//! `analyze similarity` as users run it, held against features that are extracted and compared by other means.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use fd_analysis::similarity::SimilarityReport;
use fd_compute::Device;
use fd_data::Folder;
use fd_distill::asked::Asked;
use fd_distill::evaluate::Outputs;
use fd_distill::features::{Feature, Fitting, pooled};

/// A folder of one test, with images: flat, and two classes of them.
struct Scratch(PathBuf);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn weights(name: &str) -> String {
    repository().join("crates/model/tests/fixtures/import").join(name).display().to_string()
}

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("similarity-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let source = repository().join("crates/data/tests/fixtures/images");
        for folder in ["flat", "classes/a", "classes/b"] {
            std::fs::create_dir_all(path.join(folder)).unwrap();
        }
        for (i, image) in ["astronaut.png", "china.png", "flower.png", "jpeg420.jpg", "jpeggray.jpg"].into_iter().enumerate() {
            std::fs::copy(source.join(image), path.join("flat").join(image)).unwrap();
            std::fs::copy(source.join(image), path.join(["classes/a", "classes/b"][i % 2]).join(image)).unwrap();
        }
        Scratch(path)
    }

    fn analyze(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_analyze"));
        command.args(args).current_dir(&self.0).env_remove("RUST_LOG").stdin(Stdio::null()).output().unwrap()
    }

    fn report(&self, args: &[&str], out: &str) -> SimilarityReport {
        let output = self.analyze(&[&["similarity"], args, &["--out", out]].concat());
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&self.read(out, "similarity.json")).unwrap()
    }

    fn refused(&self, args: &[&str]) -> String {
        let output = self.analyze(&[&["similarity"], args].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{args:?}: {said}");
        said
    }

    fn read(&self, out: &str, name: &str) -> Vec<u8> {
        std::fs::read(self.0.join(out).join(name)).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn cka(report: &SimilarityReport, a: (&str, &str), b: (&str, &str)) -> Option<f64> {
    let found = report
        .cka
        .iter()
        .find(|p| (p.model_a.as_str(), p.layer_a.as_str(), p.model_b.as_str(), p.layer_b.as_str()) == (a.0, a.1, b.0, b.1));
    found.unwrap_or_else(|| panic!("{a:?} {b:?}")).cka
}

/// Centred features, column by column.
fn centred(x: &Outputs) -> Vec<Vec<f64>> {
    let n = x.values.len() / x.width;
    let column = |c: usize| {
        let column: Vec<f64> = (0..n).map(|i| f64::from(x.values[i * x.width + c])).collect();
        let mean = column.iter().sum::<f64>() / n as f64;
        column.into_iter().map(|v| v - mean).collect()
    };
    (0..x.width).map(column).collect()
}

/// ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖), entry by entry.
fn brute_force(x: &Outputs, y: &Outputs) -> f64 {
    let (x, y) = (centred(x), centred(y));
    let square = |a: &[Vec<f64>], b: &[Vec<f64>]| -> f64 {
        let product = |a: &Vec<f64>, b: &Vec<f64>| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>().powi(2);
        a.iter().map(|a| b.iter().map(|b| product(a, b)).sum::<f64>()).sum()
    };
    square(&x, &y) / (square(&x, &x) * square(&y, &y)).sqrt()
}

#[test]
fn layers_of_three_models() {
    let s = Scratch::new("models");
    let vit = weights("timm_vit.safetensors");
    let models = [format!("vit={vit}"), format!("same={vit}"), format!("swin={}", weights("timm_swin.safetensors"))];
    let args = [
        "--weights",
        &models[0],
        "--weights",
        &models[1],
        "--weights",
        &models[2],
        "--set",
        "vit=num_heads=2",
        "--set",
        "same=num_heads=2",
    ];
    let args = [&args[..], &["--data", "classes", "--probe-train", "classes", "--batch", "2"]].concat();
    let report = s.report(&args, "out");
    // A model and its copy agree in every layer, in both orders.
    let layers: Vec<&str> = report.features.iter().filter(|f| f.model == "vit").map(|f| f.layer.as_str()).collect();
    assert_eq!((layers.first(), layers.get(1), layers.last()), (Some(&"embedded"), Some(&"blocks.0"), Some(&"norm")));
    for layer in &layers {
        assert!((cka(&report, ("vit", layer), ("same", layer)).unwrap() - 1.0).abs() < 1e-12, "{layer}");
        assert_eq!(cka(&report, ("vit", layer), ("vit", layer)), Some(1.0));
    }
    assert!(report.cka.iter().all(|p| p.cka.is_some_and(|v| (0.0..=1.0 + 1e-12).contains(&v))));
    let pair = cka(&report, ("vit", "norm"), ("swin", "blocks.0"));
    assert_eq!(pair, cka(&report, ("swin", "blocks.0"), ("vit", "norm")));
    // Against features that another path extracts.
    let folder = Arc::new(Folder::open(&s.0.join("classes"), 3).unwrap());
    let outputs = [("timm_vit.safetensors", vec!["num_heads=2".to_string()]), ("timm_swin.safetensors", vec![])].map(|(file, sets)| {
        let opened = Asked { file: weights(file).into(), sets, ..Asked::default() }.open().unwrap();
        let (model, params) = opened.load().unwrap();
        let how = (Feature::MeanPatches, Fitting::Crop(0.875), 5);
        (pooled(&opened, (&model, &params), &folder, how, Device::CPU).unwrap(), opened.sha256().unwrap())
    });
    let expected = brute_force(&outputs[0].0, &outputs[1].0);
    let found = cka(&report, ("vit", "norm"), ("swin", "norm")).unwrap();
    assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    assert_eq!([&report.models[0].sha256, &report.models[2].sha256], [&outputs[0].1, &outputs[1].1]);
    for f in &report.features {
        assert_eq!((f.rows, f.plain.rank <= 4), (5, true), "five images span four directions: {f:?}");
        assert!(f.plain.effective_rank > 0.9 && f.plain.effective_rank < 4.001, "{f:?}");
        assert!(f.whitened.token_mean.abs() < 1e-6 && (0.5..1.0001).contains(&f.whitened.token_variance), "{f:?}");
        assert!(f.probe.is_some());
    }
    // Trained and tested on the same five images: the last layers know them.
    assert_eq!(report.features.iter().find(|f| f.model == "vit" && f.layer == "norm").unwrap().probe, Some(100.0));
    tables_and_figures(&s, &report);
    // The same bytes from another number of threads.
    let before = s.read("out", "similarity.json");
    let output = s.analyze(&[&["similarity", "--threads", "1"], &args[..], &["--out", "one"]].concat());
    assert!(output.status.success());
    assert_eq!(s.read("one", "similarity.json"), before);
}

fn tables_and_figures(s: &Scratch, report: &SimilarityReport) {
    let text = String::from_utf8(s.read("out", "cka.csv")).unwrap();
    assert!(text.starts_with("model_a,layer_a,model_b,layer_b,cka\nvit,embedded,vit,embedded,1\n"), "{text}");
    assert_eq!(text.lines().count(), 1 + report.features.len().pow(2));
    let text = String::from_utf8(s.read("out", "features.csv")).unwrap();
    let head = text.lines().next().unwrap();
    assert!(head.starts_with("model,layer,width,rows,tokens,probe,effective_rank,") && head.contains(",whitened_condition,"), "{head}");
    assert_eq!(text.lines().nth(1).unwrap().split(',').count(), head.split(',').count());
    for name in ["cka_figure.svg", "cka_figure.png", "cka_figure.csv", "layers_figure.svg", "layers_figure.png", "layers_figure.csv"] {
        assert!(s.read("out", name).len() > 500, "{name}");
    }
    let c = &report.conventions;
    assert!(c.estimator_text.contains("exact feature-space form") && c.rows_text.contains("patch tokens"), "{c:?}");
    assert_eq!((report.data.images, report.data.fingerprint.len(), c.cka_seen), (5, 64, 5));
}

#[test]
fn other_rows_and_the_other_estimator() {
    let s = Scratch::new("rows");
    let (vit, swin) = (format!("vit={}", weights("timm_vit.safetensors")), format!("swin={}", weights("timm_swin.safetensors")));
    let vit = ["--weights", &vit, "--set", "vit=num_heads=2", "--data", "flat"];
    let report =
        s.report(&[&vit[..], &["--rows", "cls", "--estimator", "minibatch", "--batch", "5", "--layers", "blocks.0,norm"]].concat(), "cls");
    assert_eq!((report.features.len(), report.conventions.cka_seen), (2, 1));
    assert!(report.conventions.estimator_text.contains("HSIC1"));
    let report = s.report(&[&vit[..], &["--weights", &swin, "--rows", "tokens", "--images", "3", "--seed", "1"]].concat(), "tokens");
    let tokens = |model: &str, layer: &str| report.features.iter().find(|f| f.model == model && f.layer == layer).unwrap().rows;
    assert_eq!((tokens("vit", "norm"), report.data.images), (48, 3));
    // A Swin's map is not that of a ViT: what cannot be compared is empty, not zero.
    let unlike = report.features.iter().find(|f| f.model == "swin" && f.rows != 48).unwrap();
    assert_eq!(cka(&report, ("vit", "norm"), ("swin", &unlike.layer)), None);
    assert!(cka(&report, ("vit", "norm"), ("vit", "blocks.0")).is_some());
}

#[test]
fn mistakes_are_one_line() {
    let s = Scratch::new("refused");
    let vit = format!("vit={}", weights("timm_vit.safetensors"));
    let swin = format!("swin={}", weights("timm_swin.safetensors"));
    let base = ["--weights", &vit, "--out", "out"];
    let with = |more: &[&str]| s.refused(&[&base[..], more].concat());
    assert!(with(&["--data", "nowhere"]).contains("nowhere"));
    assert!(with(&["--data", "flat", "--layers", "blocks.77"]).contains("`vit` has no blocks.77, only embedded"));
    assert!(with(&["--data", "flat", "--images", "6"]).contains("flat has 5"));
    assert!(with(&["--data", "flat", "--weights", &vit]).contains("`vit` stands there twice"));
    assert!(with(&["--data", "flat", "--key", "vti=teacher"]).contains("no --weights vti"));
    assert!(with(&["--data", "flat", "--weights", "x=nowhere.pth"]).contains("nowhere.pth"));
    assert!(with(&["--data", "flat", "--weights", &swin, "--rows", "cls"]).contains("`swin` has no CLS token"));
    assert!(with(&["--data", "flat", "--probe-train", "classes"]).contains("same classes"));
    assert!(with(&["--data", "flat", "--ridge", "0"]).contains("--ridge"));
    assert!(with(&["--data", "flat", "--estimator", "minibatch", "--batch", "3"]).contains("at least 4 rows"));
    assert!(with(&["--data", "fashion-mnist"]).contains("1 channels, a model of 3"));
    assert!(s.refused(&["--weights", "nolabel", "--data", "flat", "--out", "out"]).contains("LABEL"));
    assert!(!s.0.join("out").exists(), "nothing is left behind");
    s.report(&["--weights", &vit, "--data", "flat"], "there");
    assert!(s.refused(&["--weights", &vit, "--data", "flat", "--out", "there"]).contains("--force"));
}
