//! One student of several teachers: a ViT and a Swin on grids of their own.

use std::collections::BTreeMap;
use std::sync::Arc;

use fd_compute::{Arena, Cx, DType, Device, Grads, Layout, Params, Planner, StepKey, Stream};
use fd_distill::distillation::{Distillation, DistillationPlan, Engine, Lesson, Projector};
use fd_distill::train::{Loss, MOST_PARTS, Parts};
use fd_distill::{FeatureDistance, Normalisation, Objective, Target};
use fd_model::{Model, ModelConfig, Position, QkvBias, SwinConfig, Taps, VitConfig};

const BATCH: usize = 3;
const KEY: StepKey = StepKey { seed: 4, step: 2, first_sample: 9, view: 0 };
const PATCHES: Objective = Objective { target: Target::Patches, ..Objective::PAPER };
const WEIGHTS: [f64; 2] = [0.3, 2.0];

/// 4 x 8 patches and a CLS token.
fn student() -> VitConfig {
    VitConfig {
        img_size: (8, 16),
        patch_size: 2,
        in_chans: 2,
        embed_dim: 6,
        depth: 2,
        num_heads: 2,
        mlp_ratio: 2.0,
        position: Position::SharedRelative,
        qkv_bias: QkvBias::Qv,
        layer_scale: Some(0.1),
        drop_path_rate: 0.4,
        ..VitConfig::default()
    }
}

/// 2 x 4 patches and a CLS token.
fn vit() -> VitConfig {
    let plain = VitConfig { position: Position::Absolute, qkv_bias: QkvBias::Full, layer_scale: None, drop_path_rate: 0.0, ..student() };
    VitConfig { patch_size: 4, embed_dim: 8, ..plain }
}

/// A map of 2 x 4, no CLS token.
fn swin() -> SwinConfig {
    SwinConfig {
        img_size: (8, 16),
        patch_size: 2,
        in_chans: 2,
        embed_dim: 5,
        depths: vec![2, 1],
        num_heads: vec![1, 2],
        window_size: 2,
        mlp_ratio: 2.0,
        ..SwinConfig::default()
    }
}

fn lessons() -> [Lesson; 2] {
    let of = |teacher: ModelConfig, projector, weight| Lesson { weight, ..Lesson::of(teacher, projector, PATCHES) };
    [of(vit().into(), Projector::Linear {}, WEIGHTS[0]), of(swin().into(), Projector::Mlp { hidden: 7 }, WEIGHTS[1])]
}

fn pair(lessons: &[Lesson]) -> Distillation {
    Distillation::of(&student().into(), lessons).expect("a student and its teachers")
}

/// Parameters whose values depend on their names alone; `called` may say that a name stands for another.
fn filled(layout: &Arc<Layout>, dtype: DType, called: impl Fn(&str) -> String) -> Params {
    let mut params = Params::new(layout, dtype);
    for p in layout.iter() {
        let name = layout.name(p);
        let about = f64::from(u8::from(name.contains("norm") && name.ends_with("weight")));
        let mut stream = Stream::named(3, &called(name));
        let values: Vec<f64> = (0..layout.shape(p).iter().product()).map(|_| about + 0.4 * stream.normal()).collect();
        params.set(p, &values);
    }
    params
}

/// A distillation with parameters and images.
struct Setup {
    fd: Distillation,
    step: DistillationPlan,
    trained: Params,
    frozen: Vec<Params>,
    images: Vec<f64>,
}

/// What a run computes.
struct Found {
    loss: f64,
    parts: Vec<f64>,
    grads: BTreeMap<String, Vec<f64>>,
}

impl Setup {
    /// `first`: the number that its first teacher has among all.
    fn new(lessons: &[Lesson], first: usize, engine: Engine, dtype: DType) -> Setup {
        let fd = pair(lessons);
        let step = fd.plan(BATCH, engine).expect("a plan");
        // One teacher's projector is `decoder.*`, of several it is `decoder.{i}.*`.
        let called = |name: &str| match name.strip_prefix("decoder.") {
            Some(rest) if lessons.len() == 1 => format!("decoder.{first}.{rest}"),
            _ => name.to_string(),
        };
        let trained = filled(&fd.trained, dtype, called);
        let teachers = fd.frozen.iter().zip(first..);
        let frozen = teachers.map(|(layout, i)| filled(layout, dtype, |name| format!("teacher.{i}.{name}"))).collect();
        let mut stream = Stream::new(&[1]);
        let images = (0..step.plan.shape(step.images).len()).map(|_| stream.normal()).collect();
        Setup { fd, step, trained, frozen, images }
    }

    fn arena(&self) -> Arena {
        let mut arena = Arena::new(&self.step.plan, self.trained.dtype());
        arena.poison();
        arena.write_f64(self.step.images, &self.images);
        arena
    }

    /// Forward; the loss and its parts before their weights.
    fn forward(&self, trained: &Params, arena: &mut Arena) -> (f64, Parts) {
        let sets: Vec<&Params> = std::iter::once(trained).chain(&self.frozen).collect();
        let mut cx = Cx::new(&Device::CPU, &sets, arena, KEY);
        self.step.plan.forward(&mut cx).expect("forward");
        match &self.step.loss {
            // `Loss::value` reads single precision.
            Loss::InPlan { total, parts } if self.trained.dtype() == DType::F64 => {
                let mut values = Parts::default();
                parts.iter().for_each(|part| values.push(arena.scalar(*part)));
                (arena.scalar(*total), values)
            }
            loss => loss.value(&self.step.plan, &mut cx).expect("a loss"),
        }
    }

    fn run(&self) -> Found {
        let mut arena = self.arena();
        let (loss, parts) = self.forward(&self.trained, &mut arena);
        let layout = &self.fd.trained;
        let mut grads = Grads::new(layout, self.trained.dtype());
        let sets: Vec<&Params> = std::iter::once(&self.trained).chain(&self.frozen).collect();
        self.step.plan.backward(&mut Cx::new(&Device::CPU, &sets, &mut arena, KEY), &mut grads).expect("backward");
        let grads = layout.iter().map(|p| (layout.name(p).to_string(), grads.to_f64(p))).collect();
        Found { loss, parts: parts.get().to_vec(), grads }
    }

    /// Holds some elements of every gradient to central differences.
    fn equals_central_differences(&self, name: &str) {
        const H: f64 = 1e-5;
        let (found, mut trained, mut arena) = (self.run(), self.trained.clone(), self.arena());
        let layout = self.fd.trained.clone();
        for p in layout.iter() {
            let (values, gradient) = (trained.to_f64(p), &found.grads[layout.name(p)]);
            let largest = gradient.iter().fold(1e-4f64, |m, g| m.max(g.abs()));
            let mut stream = Stream::named(6, layout.name(p));
            for _ in 0..4 {
                let i = (stream.uniform() * values.len() as f64) as usize;
                let mut at = |x: f64| {
                    let mut moved = values.clone();
                    moved[i] = x;
                    trained.set(p, &moved);
                    self.forward(&trained, &mut arena).0
                };
                let expected = (at(values[i] + H) - at(values[i] - H)) / (2.0 * H);
                let off = (gradient[i] - expected).abs() / largest;
                assert!(off < 1e-5, "{name}: {}[{i}] off by {off:.1e}", layout.name(p));
            }
            trained.set(p, &values);
        }
    }
}

fn assert_near(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-6f64, |m, e| m.max(e.abs()));
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() <= tolerance * largest, "{what}: {f}, expected {e}");
    }
}

#[test]
fn the_loss_is_the_weighted_sum_of_what_each_teacher_alone_would_have_it() {
    let both = Setup::new(&lessons(), 0, Engine::Fused, DType::F64).run();
    let alone = |i: usize| {
        let lesson = Lesson { weight: 1.0, ..lessons()[i].clone() };
        Setup::new(&[lesson], i, Engine::Fused, DType::F64).run()
    };
    let [first, second] = [0, 1].map(alone);
    assert_near("parts", &both.parts, &[first.loss, second.loss], 1e-13);
    assert_near("loss", &[both.loss], &[WEIGHTS[0] * first.loss + WEIGHTS[1] * second.loss], 1e-13);
    for (name, gradient) in &both.grads {
        let of = |found: &Found, i: usize| match name.strip_prefix("decoder.").and_then(|n| n.split_once('.')) {
            Some((teacher, rest)) if teacher == i.to_string() => found.grads[&format!("decoder.{rest}")].clone(),
            Some(_) => vec![0.0; gradient.len()],
            None => found.grads[name].clone(),
        };
        let parts = of(&first, 0).into_iter().zip(of(&second, 1));
        let expected: Vec<f64> = parts.map(|(a, b)| WEIGHTS[0] * a + WEIGHTS[1] * b).collect();
        assert_near(name, gradient, &expected, 1e-11);
    }
}

#[test]
fn gradients_of_student_and_projectors_equal_central_differences() {
    Setup::new(&lessons(), 0, Engine::Fused, DType::F64).equals_central_differences("two teachers");
    let map = Lesson { objective: Objective::PAPER, ..lessons()[0].clone() };
    Setup::new(&[map], 0, Engine::Fused, DType::F64).equals_central_differences("a map with its CLS token on another grid");
    let gap = Objective { target: Target::Gap, normalisation: Normalisation::L2, loss: FeatureDistance::Cosine {} };
    let gap = lessons().map(|lesson| Lesson { objective: gap, ..lesson });
    Setup::new(&gap, 0, Engine::Fused, DType::F64).equals_central_differences("means of maps");
}

#[test]
fn both_engines_agree_and_report_the_parts_apart() {
    let [fused, dfdx] = [Engine::Fused, Engine::Dfdx].map(|engine| Setup::new(&lessons(), 0, engine, DType::F32));
    for setup in [&fused, &dfdx] {
        let (loss, parts) = setup.forward(&setup.trained, &mut setup.arena());
        let [Some(first), Some(second)] = [0, 1].map(|i| parts.apart(i)) else { panic!("two parts") };
        assert!(parts.apart(2).is_none() && first > 0.0 && second > 0.0 && first != second);
        assert_near("loss", &[loss], &[WEIGHTS[0] * first + WEIGHTS[1] * second], 1e-6);
    }
    let (fused, dfdx) = (fused.run(), dfdx.run());
    assert_near("loss", &[dfdx.loss], &[fused.loss], 1e-4);
    assert_near("parts", &dfdx.parts, &fused.parts, 1e-4);
    for (name, gradient) in &dfdx.grads {
        assert_near(name, gradient, &fused.grads[name], 1e-4);
    }
    // Of one teacher the loss is the only part, whatever its weight.
    for weight in [1.0, 0.3] {
        let only = Lesson { weight, ..lessons()[0].clone() };
        let setup = Setup::new(&[only], 0, Engine::Fused, DType::F32);
        let (loss, parts) = setup.forward(&setup.trained, &mut setup.arena());
        assert!(parts.apart(0).is_none());
        assert_near("loss", &[loss], &[weight * parts.get()[0]], 1e-6);
    }
}

/// Without projectors the teachers are compared with one and the same prediction: its gradient has a share of each.
#[test]
fn both_engines_agree_where_teachers_share_the_prediction() {
    let wide: ModelConfig = VitConfig { embed_dim: 6, ..vit() }.into();
    let teachers = WEIGHTS.map(|weight| Lesson { weight, ..Lesson::of(wide.clone(), Projector::None {}, Objective::PAPER) });
    let [fused, dfdx] = [Engine::Fused, Engine::Dfdx].map(|engine| Setup::new(&teachers, 0, engine, DType::F32).run());
    assert_near("loss", &[dfdx.loss], &[fused.loss], 1e-4);
    for (name, gradient) in &dfdx.grads {
        assert_near(name, gradient, &fused.grads[name], 1e-4);
    }
}

#[test]
fn projectors_lift_a_narrow_student_to_its_teachers_width() {
    let projectors = [
        (Projector::Linear {}, vec!["decoder.0.bias", "decoder.0.weight"]),
        (Projector::Mlp { hidden: 5 }, vec!["decoder.0.bias", "decoder.0.weight", "decoder.2.bias", "decoder.2.weight"]),
        (Projector::Wide { heads: 2 }, vec!["decoder.block.attn.proj.weight", "decoder.lift.bias", "decoder.lift.weight"]),
    ];
    for (projector, names) in projectors {
        let setup = Setup::new(&[Lesson::of(vit().into(), projector, PATCHES)], 0, Engine::Fused, DType::F64);
        let prediction = setup.step.plan.shape(setup.step.compared[0].prediction);
        assert_eq!(prediction.dims(), [BATCH, 4 * 8 + 1, 8]);
        assert!(names.iter().all(|name| setup.fd.trained.find(name).is_some()), "{projector:?}");
        setup.equals_central_differences(&format!("{projector:?}"));
    }
    // A student as wide as its teacher needs none.
    let equal = Lesson::of(ModelConfig::Vit(VitConfig { embed_dim: 6, ..vit() }), Projector::None {}, PATCHES);
    let setup = Setup::new(&[equal], 0, Engine::Fused, DType::F64);
    assert!(setup.fd.trained.iter().all(|p| setup.fd.trained.name(p).starts_with("encoder.")));
    setup.equals_central_differences("no projector");
}

#[test]
fn what_cannot_be_is_said_in_one_line() {
    let refused = |lessons: &[Lesson]| {
        let said = Distillation::of(&student().into(), lessons).expect_err("a refusal").to_string();
        assert!(!said.contains('\n'), "one line: {said}");
        said
    };
    let [vit, swin] = lessons();
    let says = |said: String, words: &[&str]| assert!(words.iter().all(|w| said.contains(w)), "{said}");
    let map = |lesson: &Lesson| Lesson { objective: Objective::PAPER, ..lesson.clone() };
    says(refused(&[vit.clone(), map(&swin)]), &["\"map\"", "student has a CLS token", "\"patches\""]);
    let none = Lesson { projector: Projector::None {}, ..swin.clone() };
    says(refused(&[vit.clone(), none]), &["`none`", "6 and 10"]);
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        says(refused(&[vit.clone(), Lesson { weight, ..swin.clone() }]), &["weight", &weight.to_string()]);
    }
    says(refused(&[]), &["from 1 to 4 teachers", "not 0"]);
    says(refused(&vec![vit.clone(); MOST_PARTS + 1]), &["from 1 to 4 teachers", "not 5"]);
    let projected = |projector| Lesson { projector, ..vit.clone() };
    for heads in [0, 3] {
        says(refused(&[projected(Projector::Wide { heads })]), &["`projector.heads`", &format!("{heads} heads"), "width 8"]);
    }
    says(refused(&[projected(Projector::Mlp { hidden: 0 })]), &["projector.hidden", "0"]);
    let classes = |lesson: &Lesson| Lesson { teacher: lesson.teacher.clone().classifier(3), ..lesson.clone() };
    let logits = Objective { target: Target::Logits, normalisation: Normalisation::None, loss: FeatureDistance::Kl { temperature: 1.0 } };
    says(refused(&[Lesson { objective: logits, ..classes(&vit) }]), &["0 classes", "3 logits"]);
}

#[test]
fn a_token_that_is_not_there_is_refused_when_the_plan_is_made() {
    let objective = Objective { target: Target::Cls, ..Objective::PAPER };
    let [vit, swin] = lessons().map(|lesson| Lesson { objective, ..lesson });
    let without = VitConfig { cls_token: false, ..student() };
    for (student, lesson) in [(student(), swin), (without, vit)] {
        for engine in [Engine::Fused, Engine::Dfdx] {
            let fd = Distillation::of(&student.clone().into(), std::slice::from_ref(&lesson)).expect("a pair");
            let said = fd.plan(BATCH, engine).expect_err("no such token").to_string();
            assert_eq!(said, "objective target = \"cls\" needs a CLS token on student and teacher");
        }
    }
}

#[test]
fn a_teacher_sees_images_normalised_its_own_way() {
    let channels = [(0.5, -0.2), (1.7, 0.4)];
    let [vit, swin] = lessons();
    let other = Lesson { renormalise: Some(Arc::from(channels)), ..vit.clone() };
    // In dfdx's plan what is compared leaves the plan; it is not run.
    let outputs = |lessons: &[Lesson]| {
        let setup = Setup::new(lessons, 0, Engine::Dfdx, DType::F64);
        let sets: Vec<&Params> = std::iter::once(&setup.trained).chain(&setup.frozen).collect();
        let mut arena = setup.arena();
        setup.step.plan.forward(&mut Cx::new(&Device::CPU, &sets, &mut arena, KEY)).expect("forward");
        let compared = setup.step.compared.iter().map(|c| (arena.to_f64(c.prediction), arena.to_f64(c.teacher))).collect::<Vec<_>>();
        (compared, setup)
    };
    let (plain, _) = outputs(&[vit.clone(), swin.clone()]);
    let (found, setup) = outputs(&[other.clone(), swin.clone()]);
    assert_eq!(found[1], plain[1]);
    assert_eq!(found[0].0, plain[0].0, "the student sees its own normalisation");
    assert_ne!(found[0].1, plain[0].1);

    // By hand: the teacher alone, on images that were changed before.
    let mut layout = Layout::builder();
    let teacher = Model::declare(&other.teacher, &mut layout, "").expect("a model");
    let layout = layout.finish();
    let mut p = Planner::new();
    p.bind(&layout);
    let images = p.input(setup.step.plan.shape(setup.step.images));
    let features = teacher.plan(&mut p, images, Taps::default()).expect("a plan").map();
    let there = fd_model::bilinear((2, 4), (4, 8), 1);
    let resized = p.sparse(features, Arc::new(there)).expect("a map with a CLS token");
    p.keep(resized);
    let (plan, params) = (p.finish().expect("a plan"), filled(&layout, DType::F64, |name| format!("teacher.0.{name}")));
    let pixels = setup.images.chunks(8 * 16).zip(channels.iter().cycle());
    let renormalised: Vec<f64> = pixels.flat_map(|(pixels, (scale, shift))| pixels.iter().map(move |x| x * scale + shift)).collect();
    let mut arena = Arena::new(&plan, DType::F64);
    arena.write_f64(images, &renormalised);
    plan.forward(&mut Cx::new(&Device::CPU, &[&params], &mut arena, StepKey::default())).expect("forward");
    assert_eq!(arena.to_f64(resized), found[0].1);

    // A factor too few.
    let short = Lesson { renormalise: Some(Arc::from([(1.0, 0.0)])), ..vit };
    let said = Distillation::of(&student().into(), &[short]).expect_err("channels that do not fit").to_string();
    assert_eq!(said, "a teacher's normalisation of 1 channels for images of 2");
}
