//! The reference against PyTorch's numbers (`goldens/`) and against itself (central differences), in f64.

use std::collections::BTreeMap;
use std::path::Path;

use dfdx::prelude::{Axis, Cpu, HasShape, MeanTo, OwnedTape, PutTape, Rank0, ReshapeTo, SumTo, Tensor, TensorFromVec};
use fd_model::goldens::{Golden, Part, Tensors, config_from_kwargs};
use fd_model::reference::{Gradients, Output, Reference, Rows, Tokens, ops, shapes};
use fd_model::{Activation, Head, ModelConfig, ModelError, Position, QkvBias, VitConfig};

/// The goldens are f64 results rounded to f32, so 6e-8 is what an exact reference shows.
const TOLERANCE: f64 = 1e-6;

type Checked<T = ()> = Result<T, ModelError>;
type Scalar = Tensor<Rank0, f64, Cpu, OwnedTape<f64, Cpu>>;

fn golden(case: &str) -> Checked<(Golden, Reference<f64>)> {
    let golden = Golden::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens"), case)?;
    let ModelConfig::Vit(config) = golden.config(Part::Model)?.config else { panic!("{case}: a plain ViT") };
    let reference = Reference::new(&config, &golden.weights(Part::Model))?;
    Ok((golden, reference))
}

/// max |found - expected| / max |expected|.
fn deviation(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0, |m: f64, e| m.max(e.abs()));
    // `max` would lose a NaN.
    let worst = found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0.0, |m: f64, d| if m.is_nan() || d <= m { m } else { d });
    worst / largest.max(f64::MIN_POSITIVE)
}

/// Compares one tensor after the other and remembers the worst.
struct Comparison<'a> {
    golden: &'a Golden,
    compared: usize,
    worst: (f64, String),
}

impl<'a> Comparison<'a> {
    fn new(golden: &'a Golden) -> Self {
        Self { golden, compared: 0, worst: (0.0, String::new()) }
    }

    fn check(&mut self, name: &str, found: &[f64]) -> Checked {
        let off = deviation(found, self.golden.values(name)?);
        assert!(off <= TOLERANCE, "{}: `{name}` is {off:e} off", self.golden.case);
        self.compared += 1;
        if off > self.worst.0 {
            self.worst = (off, name.to_owned());
        }
        Ok(())
    }

    /// Everything between the images and the tokens or logits.
    fn forward(&mut self, vit: &Reference<f64>) -> Checked {
        let images = vit.images(self.golden.values("in.image")?)?;
        let output = vit.forward(images)?;
        self.check("out.patch_embed", &output.patch_embed.as_vec())?;
        for (i, (block, attention)) in output.blocks.iter().zip(&output.attentions).enumerate() {
            self.check(&format!("out.attn{i}"), &attention.as_vec())?;
            self.check(&format!("out.block{i}"), &block.as_vec())?;
        }
        let last = [
            ("out.tokens_prenorm", Some(output.tokens_prenorm.as_vec())),
            ("out.tokens", output.tokens.as_ref().map(Tensor::as_vec)),
            ("out.cls", output.tokens.map(|t| t.slice((.., 0..1, ..)).as_vec())),
            ("out.pooled", output.pooled.map(|t| t.as_vec())),
            ("out.logits", output.logits.map(|t| t.as_vec())),
        ];
        for (name, value) in last {
            if let (Some(value), true) = (value, self.golden.tensors.contains_key(name)) {
                self.check(name, &value)?;
            }
        }
        if let (Some(bias), true) = (vit.position_bias::<OwnedTape<_, _>>(0), self.golden.tensors.contains_key("out.rel_pos_bias")) {
            self.check("out.rel_pos_bias", &bias.as_vec())?;
        }
        Ok(())
    }

    /// The loss and the gradient of every weight.
    fn backward(&mut self, gradients: &Gradients) -> Checked {
        self.check("loss.f64", &[gradients.loss])?;
        let expected = self.golden.below("g.");
        assert_eq!(expected.keys().collect::<Vec<_>>(), gradients.weights.keys().collect::<Vec<_>>());
        for (name, gradient) in &gradients.weights {
            if name.ends_with("k_bias") {
                // Softmax does not see a key bias: its gradient is 0, and both sides are rounding errors.
                let largest = gradient.iter().chain(&expected[name].1).fold(0.0, |m: f64, g| m.max(g.abs()));
                assert!(largest < 1e-12, "{}: gradient of `{name}` is {largest:e}, expected 0", self.golden.case);
            } else {
                self.check(&format!("g.{name}"), gradient)?;
            }
        }
        Ok(())
    }

    fn report(&self) {
        println!("{}: {} tensors, worst {:.2e} in {}", self.golden.case, self.compared, self.worst.0, self.worst.1);
    }
}

/// mean of d²/4 where |d| <= 2, |d| - 1 elsewhere: dfdx's Huber error over its own beta.
fn smooth_l1_beta2(output: Output<f64, OwnedTape<f64, Cpu>>, target: &[f64]) -> Scalar {
    let tokens = output.tokens.expect("an encoder of features has tokens");
    let target: Tokens<f64> = tokens.device().tensor_from_vec(target.to_vec(), *tokens.shape());
    let count = target.as_vec().len();
    (tokens.put_tape(output.tape).huber_error(target, 2.0) / 2.0).reshape_like(&(count,)).mean::<Rank0, _>()
}

/// - mean over images of Σ target · log softmax(logits).
fn cross_entropy(output: Output<f64, OwnedTape<f64, Cpu>>, target: &[f64]) -> Scalar {
    let logits = output.logits.expect("a classifier has logits");
    let (batch, classes) = *logits.shape();
    let target: Rows<f64> = logits.device().tensor_from_vec(target.to_vec(), (batch, classes));
    let likelihood = logits.put_tape(output.tape).log_softmax::<Axis<1>>() * target;
    likelihood.reshape_like(&(batch * classes,)).sum::<Rank0, _>() / -(batch as f64)
}

/// Forward, the published loss on all tokens, and back.
fn distillation(case: &str) -> Checked {
    let (golden, vit) = golden(case)?;
    let mut comparison = Comparison::new(&golden);
    comparison.forward(&vit)?;
    let (images, target) = (vit.images(golden.values("in.image")?)?, golden.values("in.target")?);
    comparison.backward(&vit.gradients(&images, |output| Ok(smooth_l1_beta2(output, target)))?)?;
    comparison.report();

    // The same gradients, from the loss's derivative with respect to the tokens.
    let tokens = vit.forward(images.clone())?.tokens.expect("an encoder of features has tokens").as_vec();
    let dtokens: Vec<f64> = tokens.iter().zip(target).map(|(y, t)| ((y - t) / 2.0).clamp(-1.0, 1.0) / tokens.len() as f64).collect();
    let from_tokens = Gradients { loss: golden.values("loss.f64")?[0], ..vit.gradients_of_tokens(&images, &dtokens)? };
    Comparison::new(&golden).backward(&from_tokens)
}

#[test]
fn shared_relative_position_bias() -> Checked {
    distillation("a_vit_shared_rpb")
}

#[test]
fn absolute_position() -> Checked {
    distillation("b_vit_ape")
}

#[test]
fn key_bias_and_no_cls_token() -> Checked {
    distillation("d_vit_kbias_nocls")
}

#[test]
fn fine_tuning() -> Checked {
    let (golden, vit) = golden("c_vit_finetune")?;
    let mut comparison = Comparison::new(&golden);
    comparison.forward(&vit)?;
    let images = vit.images(golden.values("in.image")?)?;
    let (classes, labels) = (vit.config().num_classes, golden.values("in.label")?);
    let one_hot = |label: &f64| (0..classes).map(|class| f64::from(class == *label as usize)).collect::<Vec<_>>();
    let hard: Vec<f64> = labels.iter().flat_map(one_hot).collect();
    let smooth: Vec<f64> = hard.iter().map(|t| 0.9 * t + 0.1 / classes as f64).collect();

    comparison.backward(&vit.gradients(&images, |output| Ok(cross_entropy(output, &smooth)))?)?;
    for (name, target) in [("hard.loss.f64", &hard[..]), ("soft.loss.f64", golden.values("in.soft_target")?)] {
        comparison.check(name, &[vit.gradients(&images, |output| Ok(cross_entropy(output, target)))?.loss])?;
    }
    comparison.report();

    let from_logits = vit.gradients_of_logits(&images, golden.values("g_logits.ls01")?)?;
    Comparison::new(&golden).backward(&Gradients { loss: golden.values("loss.f64")?[0], ..from_logits })
}

#[test]
fn teacher() -> Checked {
    let (golden, vit) = golden("e_teacher_dino_vit")?;
    let mut comparison = Comparison::new(&golden);
    comparison.forward(&vit)?;
    comparison.report();
    Ok(())
}

#[test]
fn relative_position_index_is_the_official_one() -> Checked {
    for case in ["a_vit_shared_rpb", "c_vit_finetune", "d_vit_kbias_nocls"] {
        let (golden, vit) = golden(case)?;
        let official: Vec<_> = golden.tensors.iter().filter(|(name, _)| name.ends_with("relative_position_index")).collect();
        assert!(!official.is_empty());
        let index = ops::relative_position_index(vit.config().grid(), vit.config().cls_token);
        for (name, (_, expected)) in official {
            assert_eq!(*expected, index.iter().map(|&row| row as f64).collect::<Vec<_>>(), "{case}: {name}");
        }
    }
    Ok(())
}

/// On 2 x 3 patches, by hand: three columns make 5 offsets across, 3 down.
#[test]
fn relative_position_index_of_a_rectangle() {
    let index = ops::relative_position_index((2, 3), true);
    let of = |query: usize, key: usize| index[query * 7 + key];
    assert_eq!([of(1, 1), of(6, 6)], [7, 7]); // no offset: the middle of 15
    assert_eq!([of(1, 6), of(6, 1)], [0, 14]); // from one corner to the other
    assert_eq!([of(2, 1), of(4, 1)], [8, 12]); // one to the right, one down
    assert_eq!([of(0, 3), of(3, 0), of(0, 0)], [15, 16, 17]);
}

/// A small model on a grid of 2 x 3 patches, for what the goldens leave out.
fn small(position: Position, qkv_bias: QkvBias, head: Head) -> VitConfig {
    VitConfig {
        img_size: (4, 6),
        patch_size: 2,
        in_chans: 2,
        embed_dim: 6,
        depth: 2,
        num_heads: 2,
        mlp_ratio: 1.5,
        position,
        qkv_bias,
        layer_scale: None,
        cls_token: true,
        activation: Activation::Gelu,
        ln_eps: 1e-5,
        head,
        num_classes: if head == Head::Features { 0 } else { 3 },
        drop_path_rate: 0.0,
        ..VitConfig::default()
    }
}

/// Numbers in -1..1 without a pattern, the same on every run.
fn noise(seed: usize, count: usize) -> Vec<f64> {
    let mut state = seed as u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn random_weights(config: &VitConfig) -> Tensors {
    let weight = |(i, (name, shape)): (usize, (String, Vec<usize>))| {
        let values = noise(i + 1, shape.iter().product());
        (name, (shape, values))
    };
    shapes(config).into_iter().enumerate().map(weight).collect()
}

/// Every option, on a rectangular grid: each gradient against central differences along a random direction.
#[test]
fn gradients_are_those_of_central_differences() -> Checked {
    let configs = [
        small(Position::SharedRelative, QkvBias::Qv, Head::Features),
        VitConfig { activation: Activation::QuickGelu, ..small(Position::Absolute, QkvBias::Full, Head::Cls) },
        VitConfig { layer_scale: Some(0.1), ..small(Position::Relative, QkvBias::None, Head::MeanPool) },
        VitConfig { cls_token: false, ..small(Position::Relative, QkvBias::Qkv, Head::MeanPool) },
        VitConfig { cls_token: false, ..small(Position::None, QkvBias::Full, Head::Features) },
    ];
    for config in configs {
        let batch = 2;
        let pixels = noise(97, batch * config.in_chans * config.img_size.0 * config.img_size.1);
        let outputs = if config.num_classes > 0 { batch * config.num_classes } else { batch * config.tokens() * config.embed_dim };
        let cotangent = noise(98, outputs);
        let run = |weights: &Tensors, pixels: &[f64]| -> Checked<Gradients> {
            let vit = Reference::<f64>::new(&config, weights)?;
            let images = vit.images(pixels)?;
            if config.num_classes > 0 { vit.gradients_of_logits(&images, &cotangent) } else { vit.gradients_of_tokens(&images, &cotangent) }
        };
        let weights = random_weights(&config);
        let gradients = run(&weights, &pixels)?;

        let step = 1e-5;
        let towards = |values: &[f64], direction: &[f64], step: f64| -> Vec<f64> {
            values.iter().zip(direction).map(|(v, d)| v + step * d).collect()
        };
        let check = |what: &str, gradient: &[f64], direction: &[f64], numeric: f64| {
            let slope: f64 = gradient.iter().zip(direction).map(|(g, d)| g * d).sum();
            assert!((slope - numeric).abs() <= 1e-7 * slope.abs().max(1.0), "{config:?}: `{what}` {slope}, numerically {numeric}");
        };
        for (name, gradient) in &gradients.weights {
            let direction = noise(99, gradient.len());
            let loss = |step: f64| -> Checked<f64> {
                let mut moved = weights.clone();
                let values = &mut moved.get_mut(name).expect("a gradient is that of a weight").1;
                *values = towards(values, &direction, step);
                Ok(run(&moved, &pixels)?.loss)
            };
            check(name, gradient, &direction, (loss(step)? - loss(-step)?) / (2.0 * step));
        }
        let direction = noise(99, pixels.len());
        let loss = |step: f64| run(&weights, &towards(&pixels, &direction, step)).map(|g| g.loss);
        check("images", &gradients.images, &direction, (loss(step)? - loss(-step)?) / (2.0 * step));
    }
    Ok(())
}

#[test]
fn f32_follows_f64() -> Checked {
    let (golden, wide) = golden("a_vit_shared_rpb")?;
    let narrow = Reference::<f32>::new(wide.config(), &golden.weights(Part::Model))?;
    let pixels = golden.values("in.image")?;
    let (a, b) = (narrow.forward(narrow.images(pixels)?)?, wide.forward(wide.images(pixels)?)?);
    let a: Vec<f64> = a.tokens_prenorm.as_vec().into_iter().map(f64::from).collect();
    assert!(deviation(&a, &b.tokens_prenorm.as_vec()) < 1e-5);
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused_by_name() -> Checked {
    let config = small(Position::SharedRelative, QkvBias::Qv, Head::Features);
    let weights = random_weights(&config);
    let refused = |weights: &Tensors| Reference::<f64>::new(&config, weights).err().expect("refused").to_string();

    let mut w = weights.clone();
    w.remove("blocks.1.attn.q_bias");
    assert!(refused(&w).contains("`blocks.1.attn.q_bias` is missing"));
    w = weights.clone();
    w.insert("norm.bias".into(), (vec![7], vec![0.0; 7]));
    assert!(refused(&w).contains("`norm.bias` has shape [7], the model needs [6]"));
    w = weights.clone();
    w.insert("norm.bias".into(), (vec![6], vec![0.0; 5]));
    assert!(refused(&w).contains("`norm.bias` of shape [6] comes with 5 values"));
    w = weights.clone();
    w.insert("pos_embed".into(), (vec![1], vec![0.0]));
    assert!(refused(&w).contains("`pos_embed` is not part of the model"));

    let vit = Reference::<f64>::new(&config, &weights)?;
    assert!(vit.images(&[0.0; 7]).is_err() && vit.images(&[]).is_err());
    let square = Cpu::default().tensor_from_vec(vec![0.0; 2 * 4 * 4], (1, 2, 4, 4));
    assert!(vit.forward(square).is_err());
    let images = vit.images(&[0.5; 2 * 4 * 6])?;
    assert!(vit.gradients_of_tokens(&images, &[1.0]).is_err());
    assert!(vit.gradients_of_logits(&images, &[1.0]).is_err());
    Ok(())
}

/// Student and teacher of a distillation on a rectangle; their tensors are those the result describes.
#[test]
fn keyword_arguments_say_the_model() -> Checked {
    let mut json = serde_json::json!({
        "case": "i",
        "cls": "FD(PRED_FEAT=DINO, AFTERNORM)",
        "student": { "img_size": [8, 12], "patch_size": 4, "embed_dim": 6, "depth": 1, "num_heads": 3, "init_values": 0.1,
                     "qkv_bias": true, "use_abs_pos_emb": false, "use_shared_rel_pos_bias": true },
        "teacher": { "img_size": [8, 12], "patch_size": 4, "embed_dim": 4, "depth": 2, "num_heads": 2, "num_classes": 0 },
    });
    let base = small(Position::SharedRelative, QkvBias::Qv, Head::Features);
    let base = VitConfig { img_size: (8, 12), patch_size: 4, in_chans: 3, mlp_ratio: 4.0, ln_eps: 1e-6, ..base };
    let student = VitConfig { embed_dim: 6, depth: 1, num_heads: 3, layer_scale: Some(0.1), ..base.clone() };
    let teacher = VitConfig { embed_dim: 4, position: Position::Absolute, qkv_bias: QkvBias::Full, ..base };
    let under = |part: Part, config: &VitConfig| -> BTreeMap<_, _> {
        random_weights(config).into_iter().map(|(name, tensor)| (format!("{}{name}", part.prefix()), tensor)).collect()
    };
    let mut tensors = under(Part::Student, &student);
    tensors.extend(under(Part::Teacher, &teacher));
    assert_eq!(config_from_kwargs(&json, Part::Student, &tensors)?.config, student.into());
    assert_eq!(config_from_kwargs(&json, Part::Teacher, &tensors)?.config, teacher.into());

    json["student"]["init_values"] = serde_json::Value::Null; // then there is no LayerScale, but the tensors say there is
    let error = config_from_kwargs(&json, Part::Student, &tensors).expect_err("refused").to_string();
    assert!(error.contains("`blocks.0.gamma_1` is not part of the model"), "{error}");
    json["student"]["window_size"] = 7.into();
    let error = config_from_kwargs(&json, Part::Student, &tensors).expect_err("refused").to_string();
    assert!(error.contains("unknown field `window_size`"), "{error}");
    let error = config_from_kwargs(&json, Part::Model, &tensors).expect_err("refused").to_string();
    assert!(error.contains("cls"), "{error}");
    Ok(())
}
