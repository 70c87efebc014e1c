//! Weights of other code: read from its files, and written for it.
//!
//! `fixtures/import` holds a file of each class, made with random weights by `tools/model_fixtures.py`.

mod export;
mod import;
mod mutate;

use std::path::{Path, PathBuf};

use fd_model::{Activation, ModelConfig};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/import")
}

fn fact(case: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder().join(format!("{case}.json"))).expect("the case")).expect("JSON")
}

fn cases() -> Vec<String> {
    let names = std::fs::read_dir(folder()).expect("fixtures").map(|e| e.expect("an entry").file_name().into_string().expect("a name"));
    let mut cases: Vec<String> = names.filter_map(|n| n.strip_suffix(".json").map(String::from)).collect();
    cases.sort();
    cases
}

/// The key of the model that a case's features are of.
fn key(fact: &Value) -> Option<&str> {
    fact["prefix"].as_str().and_then(|p| p.split('.').next()).filter(|k| *k == "teacher")
}

/// What is recognised, with what shapes cannot say taken from the case.
fn asked(found: &ModelConfig, fact: &Value) -> ModelConfig {
    let size = (fact["image"][1].as_u64().unwrap() as usize, fact["image"][2].as_u64().unwrap() as usize);
    let eps = fact["layer_norm_eps"].as_f64().unwrap();
    match found.clone().with_img_size(size) {
        ModelConfig::Vit(mut c) => {
            c.num_heads = fact["num_heads"].as_u64().unwrap() as usize;
            let activation = if fact["activation"] == "quick_gelu" { Activation::QuickGelu } else { Activation::Gelu };
            assert_eq!((c.activation, c.ln_eps), (activation, eps), "what the names say");
            c.into()
        }
        ModelConfig::Swin(mut c) => {
            assert_eq!(c.ln_eps, eps);
            c.window_size = fact["kwargs"]["window_size"].as_u64().unwrap() as usize;
            if let Some(windows) = fact["kwargs"]["pretrained_window_sizes"].as_array() {
                c.pretrained_windows = windows.iter().map(|w| w.as_u64().unwrap() as usize).collect();
            }
            c.into()
        }
    }
}
