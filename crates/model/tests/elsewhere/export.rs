//! What is written for other code is what was proven in that code, and is read again to the last bit.

use std::collections::BTreeMap;

use fd_model::names::{Naming, Style, huggingface_config, python};
use fd_model::{Allow, Checkpoint, Import, ModelConfig, Statistics, export, preset};
use fd_weights::WeightFile;
use serde_json::Value;

use crate::{asked, cases, fact, folder, key};

/// Every fixture's encoder under our names, as the case says it is built; none where there is no norm over all tokens.
fn encoders() -> impl Iterator<Item = (String, ModelConfig, Statistics, Checkpoint)> {
    cases().into_iter().filter_map(|case| {
        let fact = fact(&case);
        let import = Import::open(&folder().join(fact["weights"].as_str().expect("a file"))).expect("a weight file");
        let found = import.choose(key(&fact)).expect("a model");
        let config = asked(&found.config, &fact);
        let weights = import.fit(found, &config, &Allow::default()).expect("a fit").checkpoint().ok()?;
        Some((case, config, found.statistics(), weights))
    })
}

/// What PyTorch said of our exports (`tools/prove_exports.py`): each was loaded strictly by the class it is for, and gave the features of
/// the class that the weights are from.
#[test]
fn the_files_that_were_proven_in_pytorch_are_written_again() {
    let text = include_str!("../fixtures/proven_exports.json");
    let proofs: BTreeMap<String, Value> = serde_json::from_str(text).expect("proofs");
    let mut again = 0;
    for (case, config, normalise, weights) in encoders() {
        for (style, name) in [(Style::Timm, "timm"), (Style::Hf, "hf")] {
            let Some(proof) = proofs.get(&format!("{case} {name}")) else { continue };
            let bytes = export(weights.clone(), &config, Some(&normalise), style).unwrap().weights.to_bytes().unwrap();
            let sum = WeightFile::from_bytes(&case, bytes).unwrap().sha256().unwrap();
            assert_eq!(
                Some(sum.as_str()),
                proof["sha256"].as_str(),
                "{case} {name}: not the file that was proven; run tools/prove_exports.py"
            );
            assert!(proof["difference"].as_f64().unwrap() < 2e-5);
            again += 1;
        }
    }
    assert_eq!((again, proofs.len()), (46, 46));
}

#[test]
fn what_is_written_is_read_again_to_the_last_bit() {
    let mut written = 0;
    for (name, config, _, weights) in encoders() {
        for style in [Style::Official, Style::Timm, Style::Hf] {
            let export = match export(weights.clone(), &config, None, style) {
                Ok(export) => export,
                Err(e) => {
                    // Fine-tuned classifiers have no place among transformers' encoders, registers without LayerScale none in DINOv2's.
                    assert!(e.to_string().contains("model key `model`"), "{name}: {e}");
                    continue;
                }
            };
            let import = Import::of(WeightFile::from_bytes(&name, export.weights.to_bytes().unwrap()).unwrap());
            let found = import.choose(None).unwrap_or_else(|e| panic!("{name} as {style:?}: {e}"));
            assert_eq!(found.config, config, "{name} as {style:?}: the file says what it is");
            assert!(found.assumed.is_empty(), "{name} as {style:?}: {:?}", found.assumed);
            let again =
                import.fit(found, &config, &Allow::default()).unwrap().checkpoint().unwrap_or_else(|e| panic!("{name} as {style:?}: {e}"));
            // timm has no position for the CLS token beside registers: it is in the token, for good.
            let folded = |tensor: &str| name.contains("reg4") && style == Style::Timm && (tensor == "cls_token" || tensor == "pos_embed");
            for (tensor, values) in &weights.tensors {
                assert!(folded(tensor) || again.tensors[tensor] == *values, "{name} as {style:?}: {tensor}");
            }
            assert_eq!(again.tensors.len(), weights.tensors.len());
            written += 1;
        }
    }
    assert!(written >= 55, "{written}");
}

#[test]
fn names_are_those_of_files_that_these_classes_wrote() {
    // A file of the class itself, and the style that gives its names back; what a class has beside an encoder is left out of account.
    let same = [
        ("timm_vit", Style::Timm),
        ("timm_vit_layer_scale", Style::Timm),
        ("timm_vit_reg4", Style::Timm),
        ("timm_beit_shared", Style::Timm),
        ("timm_swin", Style::Timm),
        ("timm_swinv2", Style::Timm),
        ("hf_vit", Style::Hf),
        ("hf_dinov2", Style::Hf),
        ("hf_dinov2_reg4", Style::Hf),
        ("hf_clip_vision", Style::Hf),
        ("hf_beit_shared", Style::Hf),
        ("hf_swin", Style::Hf),
        ("hf_swinv2", Style::Hf),
        ("dinov2_reg4", Style::Official),
        ("swinv2_microsoft", Style::Official),
    ];
    for (name, config, _, weights) in encoders() {
        let Some((_, style)) = same.iter().find(|(case, _)| *case == name) else { continue };
        let export = export(weights.clone(), &config, None, *style).unwrap();
        let file = WeightFile::open(&folder().join(fact(&name)["weights"].as_str().unwrap())).unwrap();
        for (tensor, values) in &export.weights.tensors {
            let entry = file.entries().iter().find(|(n, _)| **n == *tensor || n.ends_with(&format!("model.{tensor}")));
            let (found, entry) = entry.unwrap_or_else(|| panic!("{name}: no `{tensor}` in the class's own file"));
            assert_eq!(entry.shape, values.shape, "{name}: {tensor}");
            let mask = tensor.ends_with("mask_token");
            let folded = name == "timm_vit_reg4" && (tensor == "cls_token" || tensor == "pos_embed");
            assert!(mask || folded || file.read_f32(found).unwrap() == values.data, "{name}: {tensor}");
        }
    }
}

#[test]
fn an_impossible_class_is_refused_with_the_reason() {
    let naming = |model: &ModelConfig, style| Naming::for_model(style, model);
    let ModelConfig::Vit(base) = preset("vit-small").unwrap() else { panic!("a ViT") };
    let relative = fd_model::VitConfig { position: fd_model::Position::SharedRelative, ..base.clone() };
    assert!(naming(&relative.into(), Style::Timm).unwrap_err().contains("no key bias"));
    let mixture = fd_model::SwinConfig { attention: fd_model::SwinAttention::Cosine, ..fd_model::SwinConfig::default() };
    assert!(naming(&mixture.into(), Style::Hf).unwrap_err().contains("all options of version 1"));
    let sines = fd_model::VitConfig { position: fd_model::Position::SinCos, ..base };
    assert!(naming(&sines.into(), Style::Timm).unwrap_err().contains("stored"));
}

#[test]
fn other_code_is_told_how_to_load_it() {
    let student = preset("vit-base").unwrap().student();
    let naming = Naming::for_model(Style::Timm, &student).unwrap();
    let said = python(&student, naming, "student.safetensors").unwrap();
    for part in ["Beit(", "use_abs_pos_emb=False", "use_shared_rel_pos_bias=True", "init_values=0.1", "strict=True"] {
        assert!(said.contains(part), "{said}");
    }
    let naming = Naming::for_model(Style::Hf, &student).unwrap();
    let config = huggingface_config(&student, naming).unwrap();
    assert_eq!((config["model_type"].as_str(), config["use_shared_relative_position_bias"].as_bool()), (Some("beit"), Some(true)));
}
