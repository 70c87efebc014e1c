//! Files are recognised and read strictly, and the features are those of the code that wrote them.

use fd_compute::{Arena, Cx, DType, Device, Layout, Params, Planner, StepKey};
use fd_model::{Allow, Import, Model, ModelConfig, Row, Taps, preset};
use safetensors::SafeTensors;

use crate::{asked, cases, fact, folder, key};

fn numbers(file: &SafeTensors, name: &str) -> Option<Vec<f32>> {
    let view = file.tensor(name).ok()?;
    Some(view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// The largest difference over the largest value.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let most = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / most
}

/// (tokens, projected token) of a model for images.
fn forward(config: &ModelConfig, params: &Params, model: &Model, images: &[f32]) -> (Vec<f32>, Option<Vec<f32>>) {
    let mut p = Planner::new();
    p.bind(params.layout());
    let (h, w) = config.img_size();
    let input = p.input([2, config.in_chans(), h, w]);
    let features = model.plan(&mut p, input, Taps::default()).expect("a plan");
    let (map, projected) = (features.map(), features.projected);
    p.keep(map);
    projected.iter().for_each(|act| p.keep(*act));
    let plan = p.finish().expect("a plan");
    let mut arena = Arena::new(&plan, DType::F32);
    arena.write::<f32>(input, images);
    let sets = [params];
    plan.forward(&mut Cx { train: false, ..Cx::new(&Device::CPU, &sets, &mut arena, StepKey::default()) }).expect("a pass");
    (arena.value::<f32>(map).to_vec(), projected.map(|act| arena.value::<f32>(act).to_vec()))
}

#[test]
fn features_are_those_of_the_class_that_the_weights_are_of() {
    let mut compared = 0;
    for case in cases() {
        let fact = fact(&case);
        let import = Import::open(&folder().join(fact["weights"].as_str().unwrap())).unwrap_or_else(|e| panic!("{case}: {e}"));
        let found = import.choose(key(&fact)).unwrap_or_else(|e| panic!("{case}: {e}"));
        let config = asked(&found.config, &fact);
        // Classes whose only final norm belongs to a pooled token.
        if fact["final_norm"].as_str().is_some_and(|n| n == "pooler.layernorm" || n == "fc_norm") {
            continue;
        }
        let mut layout = Layout::builder();
        let model = Model::declare(&config, &mut layout, "").unwrap();
        let mut params = Params::new(&layout.finish(), DType::F32);
        let fit = import.fit(found, &config, &Allow::default()).unwrap();
        fit.load(&mut params, "").unwrap_or_else(|e| panic!("{case}: {e}\n{}", fit.report()));
        let bytes = std::fs::read(folder().join(format!("{case}.features.safetensors"))).expect("features");
        let expected = SafeTensors::deserialize(&bytes).expect("features");
        let (tokens, projected) = forward(&config, &params, &model, &numbers(&expected, "image").expect("images"));
        let off = difference(&tokens, &numbers(&expected, "tokens").expect("tokens"));
        assert!(off < 1e-5, "{case}: tokens are off by {off}");
        // timm's CLIP with a bias in its projection has a classifier: see below.
        if let Some(wanted) = numbers(&expected, "projected").filter(|_| case != "timm_vit_clip") {
            let off = difference(&projected.unwrap_or_else(|| panic!("{case}: no projection")), &wanted);
            assert!(off < 1e-5, "{case}: the projection is off by {off}");
        }
        compared += 1;
    }
    assert!(compared >= 23, "only {compared} cases");
}

#[test]
fn a_head_with_a_bias_is_no_projection_in_timms_clip() {
    let path = folder().join("timm_vit_clip.safetensors");
    let import = Import::open(&path).unwrap();
    let ModelConfig::Vit(c) = &import.models()[0].config else { panic!("a ViT") };
    assert_eq!(c.proj_dim, None);
    // With a bias of zeros it is one, and gives what timm gives less its bias.
    let mut weights = fd_model::Checkpoint::read(&path).unwrap();
    let values = &mut weights.tensors.get_mut("head.bias").unwrap().data;
    let bias = std::mem::take(values);
    values.resize(bias.len(), 0.0);
    let import = Import::of(fd_weights::WeightFile::from_bytes("zero", weights.to_bytes().unwrap()).unwrap());
    let found = &import.models()[0];
    let config = asked(&found.config, &fact("timm_vit_clip"));
    let mut layout = Layout::builder();
    let model = Model::declare(&config, &mut layout, "").unwrap();
    let mut params = Params::new(&layout.finish(), DType::F32);
    import.fit(found, &config, &Allow::default()).unwrap().load(&mut params, "").unwrap();
    let bytes = std::fs::read(folder().join("timm_vit_clip.features.safetensors")).expect("features");
    let expected = SafeTensors::deserialize(&bytes).expect("features");
    let (_, projected) = forward(&config, &params, &model, &numbers(&expected, "image").expect("images"));
    let with_bias: Vec<f32> = projected.unwrap().iter().zip(bias.iter().cycle()).map(|(p, b)| p + b).collect();
    assert!(difference(&with_bias, &numbers(&expected, "projected").unwrap()) < 1e-5);
}

fn refusal(case: &str, change: impl FnOnce(&ModelConfig) -> ModelConfig) -> String {
    let fact = fact(case);
    let import = Import::open(&folder().join(fact["weights"].as_str().unwrap())).unwrap();
    let found = import.choose(key(&fact)).unwrap();
    let config = change(&asked(&found.config, &fact));
    let said = import.fit(found, &config, &Allow::default()).unwrap().check().unwrap_err().to_string();
    assert!(!said.contains('\n') && said.contains(fact["weights"].as_str().unwrap()), "{said}");
    said
}

fn vit(config: &ModelConfig, change: impl FnOnce(&mut fd_model::VitConfig)) -> ModelConfig {
    let ModelConfig::Vit(mut c) = config.clone() else { panic!("a ViT") };
    change(&mut c);
    c.into()
}

#[test]
fn a_file_that_is_something_else_is_refused_and_what_would_fit_is_said() {
    let width = refusal("timm_vit", |c| vit(c, |c| c.embed_dim = 64));
    assert!(width.contains("embed_dim = 32 (asked: 64)") && width.contains("`cls_token`") && !width.contains("num_heads ="), "{width}");
    let patch = refusal("timm_vit", |c| vit(c, |c| (c.patch_size, c.img_size) = (16, (64, 64))));
    assert!(patch.contains("patch_size = 8 (asked: 16)"), "{patch}");
    let block = refusal("timm_vit", |c| vit(c, |c| c.depth = 3));
    assert!(block.contains("`blocks.2.") && block.contains("depth = 2 (asked: 3)"), "{block}");
    let less = refusal("hf_vit", |c| vit(c, |c| c.depth = 1));
    assert!(less.contains("unexpected: `encoder.layer.1.") && less.contains("depth = 2 (asked: 1)"), "{less}");
    let dino = refusal("clip_openai", |_| preset("vit-base").unwrap());
    assert!(dino.contains("a norm before the blocks") && dino.contains("pre_norm = true") && dino.contains("asked for vit-base"), "{dino}");
    let swin = refusal("timm_swin", |_| preset("vit-base").unwrap());
    assert!(swin.contains("Swin v1") && swin.contains("kind = swin (asked: vit)"), "{swin}");
}

#[test]
fn a_missing_block_and_a_stranger_are_named() {
    let import = Import::open(&folder().join("timm_vit.safetensors")).unwrap();
    let mut weights = import.fit(&import.models()[0], &import.models()[0].config, &Allow::default()).unwrap().checkpoint().unwrap();
    weights.metadata.clear();
    weights.tensors.retain(|name, _| !name.starts_with("blocks.0."));
    let stranger = weights.tensors["norm.bias"].clone();
    weights.tensors.insert("blocks.1.attn.gate".into(), stranger);
    let file = fd_weights::WeightFile::from_bytes("mine", weights.to_bytes().unwrap()).unwrap();
    let import = Import::of(file);
    let found = import.choose(None).unwrap();
    let fit = import.fit(found, &import.models()[0].config, &Allow::default()).unwrap();
    let said = fit.check().unwrap_err().to_string();
    assert!(said.starts_with("mine: ") && said.contains("missing: `blocks.0.") && said.contains("`blocks.1.attn.gate`"), "{said}");
    assert_eq!(fit.refused().filter(|row| matches!(row, Row::Missing { .. })).count(), 12, "{}", fit.report());
    // Allowed by name, they are not refused.
    let allow = Allow { names: vec!["blocks.0.*".into(), "blocks.1.attn.gate".into()], interpolate: false };
    import.fit(found, &found.config, &allow).unwrap().check().unwrap();
}

#[test]
fn one_of_several_models_has_to_be_chosen() {
    let import = Import::open(&folder().join("dino_training.pth")).unwrap();
    let said = import.choose(None).unwrap_err().to_string();
    assert!(said.contains("`student.module.backbone`") && said.contains("`teacher.backbone`"), "{said}");
    assert_eq!(import.choose(Some("student")).unwrap().root, "student.module.backbone.");
    let said = import.choose(Some("model")).unwrap_err().to_string();
    assert!(said.contains("no model at `model`") && said.contains("teacher.backbone"), "{said}");
    let only = Import::open(&folder().join("timm_vit.safetensors")).unwrap();
    assert!(only.choose(Some("teacher")).unwrap_err().to_string().contains("holds no model at `teacher`"));
}

#[test]
fn numbers_that_are_none_are_refused_by_name() {
    let import = Import::open(&folder().join("timm_vit.safetensors")).unwrap();
    let config = &import.models()[0].config;
    let mut weights = import.fit(&import.models()[0], config, &Allow::default()).unwrap().checkpoint().unwrap();
    weights.tensors.get_mut("blocks.1.mlp.fc1.weight").unwrap().data[7] = f32::NAN;
    weights.tensors.get_mut("blocks.0.attn.proj.weight").unwrap().data.fill(0.0);
    let import = Import::of(fd_weights::WeightFile::from_bytes("mine", weights.to_bytes().unwrap()).unwrap());
    let fit = import.fit(&import.models()[0], config, &Allow::default()).unwrap();
    let said = fit.checkpoint().unwrap_err().to_string();
    assert!(said.contains("`blocks.1.mlp.fc1.weight` holds 1 values that are not finite"), "{said}");
    let allow = Allow { names: vec!["blocks.1.mlp.fc1.weight".into()], interpolate: false };
    let constant = import.fit(&import.models()[0], config, &allow).unwrap().verify().unwrap();
    assert_eq!(constant, ["blocks.0.attn.proj.weight"]);
}

/// A checkpoint of the official distillation code: the student, its projector and the frozen teacher in one file.
#[test]
fn a_student_is_told_from_the_teacher_beside_it() {
    let weights = |case: &str| {
        let import = Import::open(&folder().join(fact(case)["weights"].as_str().unwrap())).unwrap();
        let found = &import.models()[0];
        let weights = import.fit(found, &found.config, &Allow::default()).unwrap().checkpoint().unwrap();
        (weights, found.config.clone())
    };
    let ((student, config), (teacher, _)) = (weights("timm_beit_shared"), weights("timm_vit"));
    let mut release = fd_model::Checkpoint::default();
    for (prefix, part) in [("model.encoder.", &student), ("model.feature_model.", &teacher)] {
        release.tensors.extend(part.tensors.iter().map(|(name, t)| (format!("{prefix}{name}"), t.clone())));
    }
    let projector = fd_model::Tensor { shape: vec![32, 32, 1], data: vec![0.5; 1024] };
    release.tensors.insert("model.decoder.0.weight".into(), projector);
    let import = Import::of(fd_weights::WeightFile::from_bytes("release.pth", release.to_bytes().unwrap()).unwrap());
    let said = import.choose(None).unwrap_err().to_string();
    assert!(said.contains("`model.encoder` (ViT") && said.contains("`model.feature_model` (ViT"), "{said}");
    let found = import.choose(Some("encoder")).unwrap();
    let fit = import.fit(found, &config, &Allow::default()).unwrap();
    assert_eq!(fit.checkpoint().unwrap().tensors, student.tensors);
    assert!(fit.report().contains("model.decoder (1)") && fit.report().contains("model.feature_model (30)"), "{}", fit.report());
    // Asked for the other one by mistake, the file is refused.
    let swapped = import.fit(import.choose(Some("feature_model")).unwrap(), &config, &Allow::default()).unwrap();
    let said = swapped.check().unwrap_err().to_string();
    assert!(said.contains("position = \"absolute\" (asked: \"shared-relative\")"), "{said}");
}
