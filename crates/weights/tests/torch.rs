//! Files that PyTorch, TorchScript and the safetensors library wrote, read back exactly: all tensors and no others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fd_weights::{Container, WeightFile};

/// What the writer knew of one file.
#[derive(serde::Deserialize)]
struct Expected {
    container: String,
    tensors: BTreeMap<String, Tensor>,
    notes: BTreeMap<String, String>,
}

#[derive(serde::Deserialize)]
struct Tensor {
    dtype: String,
    shape: Vec<usize>,
    values: Vec<f64>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch")
}

fn json<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let text = std::fs::read(fixtures().join(name)).expect("a fixture");
    serde_json::from_slice(&text).expect("valid JSON")
}

fn called(container: Container) -> &'static str {
    match container {
        Container::Safetensors => "safetensors",
        Container::TorchZip => "torch-zip",
        Container::TorchLegacy => "torch-legacy",
        Container::TorchScript => "torchscript",
    }
}

#[test]
fn every_file_reads_back_exactly() {
    let expected: BTreeMap<String, Expected> = json("expected.json");
    for (name, expected) in expected {
        let file = WeightFile::open(&fixtures().join(&name)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(called(file.container()), expected.container, "{name}");
        let (found, wanted): (Vec<_>, Vec<_>) = (file.entries().keys().collect(), expected.tensors.keys().collect());
        assert_eq!(found, wanted, "{name}");
        for (tensor, wanted) in &expected.tensors {
            let entry = &file.entries()[tensor];
            assert_eq!((&entry.shape, entry.dtype.to_string()), (&wanted.shape, wanted.dtype.clone()), "{name}: {tensor}");
            // Decimal digits of a 32-bit float name it, not the 64-bit float nearest to them.
            let exact = |value: f64| if wanted.dtype == "f32" { f64::from(value as f32) } else { value };
            let values: Vec<f64> = wanted.values.iter().map(|&value| exact(value)).collect();
            assert_eq!(file.read_f64(tensor).expect("readable"), values, "{name}: {tensor}");
        }
        for (note, value) in &expected.notes {
            assert_eq!(file.notes().get(note), Some(value), "{name}: {note}");
        }
    }
}

#[test]
fn no_file_lies_there_unread() {
    let expected: BTreeMap<String, Expected> = json("expected.json");
    let files = std::fs::read_dir(fixtures()).expect("a folder").map(|entry| entry.expect("readable").file_name());
    let files = files.map(|name| name.into_string().expect("UTF-8")).filter(|name| name.contains(".p") || name.ends_with(".safetensors"));
    for name in files {
        assert!(expected.contains_key(&name), "{name}");
    }
}

#[test]
fn hostile_files_are_refused_by_name() {
    let hostile: BTreeMap<String, String> = json("hostile/hostile.json");
    assert!(!hostile.is_empty());
    for (name, culprit) in hostile {
        let path = fixtures().join("hostile").join(&name);
        let message = WeightFile::open(&path).expect_err(&name).to_string();
        assert!(message.starts_with(&format!("{}: ", path.display())), "{message}");
        assert!(message.contains(&culprit), "{name}: expected `{culprit}` in: {message}");
        println!("{message}");
    }
    assert!(!Path::new("/tmp/fd_owned").exists(), "something was run");
}
