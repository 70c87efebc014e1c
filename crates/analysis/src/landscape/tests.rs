//! Models, images, directions and numbers together, against brute force.

use fd_compute::{DType, Device, Layout, Params, Stream};
use fd_data::{DataSpec, Split};
use fd_distill::evaluate::{Output, in_order, outputs};
use fd_distill::recipe::plain_view;
use fd_model::{Init, Model, ModelConfig, Statistics, SwinConfig, VitConfig, initialise};

use super::direction::{Direction, Filter, Recipe, Tensors};
use super::hessian::{Estimate, Hessian, Objective, hutchinson, lanczos};
use super::images::{Data, DataChoice, Images, Selection};
use super::objective::Classifier;
use super::report::{Curvature, Settings};
use super::sharpness::{Block, Probe};
use super::subject::Subject;
use super::surface::{Surface, cross_entropy};

const CPU: Device = Device::CPU;

fn vit() -> ModelConfig {
    let vit = VitConfig { img_size: (28, 28), patch_size: 7, in_chans: 1, embed_dim: 16, depth: 2, num_heads: 2, ..VitConfig::default() };
    ModelConfig::from(vit).student().fine_tuned(10)
}

fn swin() -> ModelConfig {
    let base = SwinConfig { img_size: (28, 28), patch_size: 2, in_chans: 1, embed_dim: 8, ..SwinConfig::version_2() };
    ModelConfig::from(SwinConfig { depths: vec![2, 2], num_heads: vec![1, 2], window_size: 7, init_norm: 1.0, ..base }).fine_tuned(10)
}

fn subject(config: &ModelConfig) -> Subject {
    let mut layout = Layout::builder();
    let model = Model::declare(config, &mut layout, "").unwrap();
    let mut params = Params::new(&layout.finish(), DType::F32);
    initialise(&mut params, "", config, Init::Xavier, 3);
    // A head that says something, biases that are not zero.
    for p in params.layout().clone().iter() {
        let mut stream = Stream::named(11, params.layout().name(p));
        let moved: Vec<f64> = params.to_f64(p).iter().map(|x| x + 0.05 * stream.normal()).collect();
        params.set(p, &moved);
    }
    let normalise = Statistics { mean: vec![0.286], std: vec![0.353] };
    let config = config.clone();
    Subject { name: "tiny".into(), file: "tiny".into(), sha256: String::new(), config, normalise, model, params }
}

fn data(images: usize) -> Data {
    let choice = DataChoice::Spec(DataSpec::FashionMnist { split: Split::Test });
    Data::open(&choice, None, &Selection { images, seed: 2, augment: false }, 1, CPU).unwrap()
}

fn images(subject: &Subject, n: usize) -> Images {
    data(n).seen_by(subject).unwrap()
}

/// Loss and accuracy of the logits that the evaluation of runs has.
fn evaluated(subject: &Subject, n: usize) -> (f64, f64) {
    let view = plain_view(subject.config.img_size(), &subject.normalise).unwrap();
    let loader = in_order(data(n).source(), view).unwrap();
    let [logits] = outputs(&subject.model, &subject.params, [Output::Logits], &loader, CPU).unwrap();
    let losses = logits.values.chunks_exact(10).zip(&logits.labels).map(|(z, label)| {
        let top = z.iter().fold(f32::NEG_INFINITY, |top, z| top.max(*z));
        let exp: Vec<f64> = z.iter().map(|z| f64::from(z - top).exp()).collect();
        -(exp[*label as usize] / exp.iter().sum::<f64>()).ln()
    });
    let (textbook, loss) = (losses.sum::<f64>() / logits.labels.len() as f64, cross_entropy(&logits));
    assert!((textbook - loss).abs() < 1e-14, "{textbook} {loss}");
    (loss, logits.accuracy())
}

fn recipe(seed: u64) -> Recipe {
    Recipe { tensors: Tensors::Matrices, filter: Filter::Row, seed }
}

#[test]
fn the_middle_is_the_evaluation_and_other_points_are_that_of_moved_weights() {
    for config in [vit(), swin(), vit().with_drop_path(0.5)] {
        let mut subject = subject(&config);
        let images = images(&subject, 40);
        let (loss, accuracy) = evaluated(&subject, 40);
        let [a, b] = ["a", "b"].map(|axis| Direction::new(&recipe(0), &subject.params, axis, None).unwrap());
        let mut surface = Surface::new(&subject, &images, 64, CPU).unwrap();
        for here in [surface.at(&[]).unwrap(), surface.at(&[(0.0, &a), (0.0, &b)]).unwrap()] {
            assert_eq!((here.loss, here.accuracy), (loss, accuracy), "{}", config.kind());
        }
        let there = surface.at(&[(0.3, &a), (-0.7, &b)]).unwrap();
        assert_eq!(surface.at(&[]).unwrap().loss, loss, "nothing is left of a move");
        // The same by hand: the weights themselves are moved.
        for ((p, a), (_, b)) in a.parts.iter().zip(&b.parts) {
            let theta = subject.params.to_f64(*p);
            let moved = theta.iter().zip(a.iter().zip(b)).map(|(t, (a, b))| t + 0.3 * f64::from(*a) - 0.7 * f64::from(*b));
            subject.params.set(*p, &moved.collect::<Vec<_>>());
        }
        let (loss, accuracy) = evaluated(&subject, 40);
        assert!((there.loss - loss).abs() < 1e-6 && there.accuracy == accuracy, "{there:?} {loss} {accuracy}");
        assert!((there.loss - evaluated(&self::subject(&config), 40).0).abs() > 1e-3, "it did move");
    }
}

#[test]
fn the_gradient_is_the_slope_of_the_loss_and_agrees_with_the_landscape() {
    for config in [vit().with_drop_path(0.5), swin()] {
        let subject = subject(&config);
        let images = images(&subject, 20);
        // Batches of 8, 8 and 4.
        let mut loss = Classifier::new(&subject, &images, &Tensors::All, (8, 1)).unwrap();
        let theta = loss.theta();
        let mut gradient = vec![0.0; theta.len()];
        let here = loss.gradient(&theta, &mut gradient).unwrap();
        let measured = Surface::new(&subject, &images, 8, CPU).unwrap().at(&[]).unwrap();
        assert!((here - measured.loss).abs() < 1e-6, "{here} {measured:?}");
        let mut stream = Stream::named(1, "slope");
        let v: Vec<f64> = theta.iter().map(|_| stream.normal()).collect();
        let mut at = |h: f64| {
            let moved: Vec<f64> = theta.iter().zip(&v).map(|(t, v)| t + h * v).collect();
            loss.gradient(&moved, &mut vec![0.0; moved.len()]).unwrap()
        };
        let slope = (at(1e-7) - at(-1e-7)) / 2e-7;
        let product: f64 = gradient.iter().zip(&v).map(|(g, v)| g * v).sum();
        assert!((slope / product - 1.0).abs() < 1e-6, "{slope} {product}");
    }
}

/// The Hessian of the loss as a function of a block's first biases, from the loss alone: four values an entry.
#[test]
fn the_curvature_of_a_classifier_is_that_of_its_whole_hessian() {
    let subject = subject(&vit());
    let images = images(&subject, 10);
    let some: Tensors = "blocks.0.norm1.bias".parse().unwrap();
    let classifier = || Classifier::new(&subject, &images, &some, (10, 1)).unwrap();
    let mut loss = classifier();
    let (theta, n) = (loss.theta(), loss.dim());
    assert_eq!(n, 16);
    let mut value = |i: usize, x: f64, j: usize, y: f64| {
        let mut at = theta.clone();
        at[i] += x;
        at[j] += y;
        loss.gradient(&at, &mut vec![0.0; n]).unwrap()
    };
    let h = 1e-3;
    let mut brute = vec![0.0; n * n];
    for (i, j) in (0..n).flat_map(|i| (0..=i).map(move |j| (i, j))) {
        let entry = (value(i, h, j, h) - value(i, h, j, -h) - value(i, -h, j, h) + value(i, -h, j, -h)) / (4.0 * h * h);
        (brute[i * n + j], brute[j * n + i]) = (entry, entry);
    }
    let scale = brute.iter().fold(0.0f64, |top, x| top.max(x.abs()));
    let mut hessian = Hessian::new(classifier(), Some(classifier()), theta.clone());
    let mut whole = vec![0.0; n * n];
    for (i, row) in whole.chunks_exact_mut(n).enumerate() {
        let unit: Vec<f64> = (0..n).map(|j| f64::from(u8::from(i == j))).collect();
        hessian.apply(&unit, row).unwrap();
    }
    for at in 0..n * n {
        assert!((whole[at] - brute[at]).abs() < 1e-5 * scale, "{} {}", whole[at], brute[at]);
        assert!((whole[at] - whole[(at % n) * n + at / n]).abs() < 1e-8 * scale, "symmetric to eight digits");
    }
    let (values, _) = super::eigen::symmetric(whole.clone(), n);
    let ends = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), v| (least.min(*v), most.max(*v)));
    let found = lanczos(&mut hessian, n, 1e-10, 0, |_| ()).unwrap();
    assert!(
        (found.largest.value - ends.1).abs() < 1e-7 * scale && (found.smallest.value - ends.0).abs() < 1e-7 * scale,
        "{found:?} {ends:?}"
    );
    let trace: f64 = (0..n).map(|i| whole[i * n + i]).sum();
    let estimate = hutchinson(&mut hessian, 60, 0, |_| ()).unwrap();
    assert!((estimate.mean - trace).abs() < 4.0 * estimate.error, "{estimate:?} {trace}");
}

/// Where the loss is smooth, products also are Richardson's extrapolation of wide steps, whose error is of the fourth order.
#[test]
fn products_of_whole_models_do_not_depend_on_the_step() {
    for config in [vit(), swin()] {
        let subject = subject(&config);
        let images = images(&subject, 10);
        let classifier = || Classifier::new(&subject, &images, &Tensors::All, (10, 1)).unwrap();
        let mut loss = classifier();
        let theta = loss.theta();
        let n = theta.len();
        let mut stream = Stream::named(1, "product");
        let v: Vec<f64> = (0..n).map(|_| stream.normal() / (n as f64).sqrt()).collect();
        let mut product = vec![0.0; n];
        Hessian::new(classifier(), None, theta.clone()).apply(&v, &mut product).unwrap();
        let mut central = |h: f64| {
            let mut at = |h: f64| {
                let moved: Vec<f64> = theta.iter().zip(&v).map(|(t, v)| t + h * v).collect();
                let mut gradient = vec![0.0; n];
                loss.gradient(&moved, &mut gradient).unwrap();
                gradient
            };
            let (up, down) = (at(h), at(-h));
            up.iter().zip(&down).map(|(u, d)| (u - d) / (2.0 * h)).collect::<Vec<f64>>()
        };
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        let misses = |other: &[f64]| norm(&mut product.iter().zip(other).map(|(a, b)| a - b)) / norm(&mut other.iter().copied());
        // Twice and half the step: neither truncation nor rounding shows. (A Swin's position MLP has kinks, which wide steps cross.)
        for step in [1.2e-5, 3e-6] {
            let error = misses(&central(step));
            assert!(error < 5e-8, "{} {step}: {error:e}", config.kind());
        }
        if config.kind() == "vit" {
            let (wide, narrow) = (central(2e-4), central(1e-4));
            let better: Vec<f64> = wide.iter().zip(&narrow).map(|(w, n)| (4.0 * n - w) / 3.0).collect();
            assert!(misses(&better) < 1e-8, "{:e}", misses(&better));
        }
    }
}

#[test]
fn increases_are_the_means_of_single_measurements() {
    let subject = subject(&vit());
    let images = images(&subject, 30);
    let settings = Settings {
        dims: 1,
        range: 1.0,
        points: 3,
        seeds: vec![4],
        tensors: Tensors::Matrices,
        filter: Filter::Row,
        orthogonal: false,
        radii: vec![0.2, 0.9],
        directions: 5,
        batch: 16,
        hessian: Curvature { iterations: 0, tolerance: 0.0, vectors: 0, tensors: Tensors::All },
    };
    let probe = Probe { subject: &subject, images: &images, settings: &settings, device: CPU };
    let mut told = vec![];
    let found = probe.find(&Block::Increase(4), |n| told.push(n)).unwrap();
    assert_eq!(told, [1, 3, 5, 7, 9, 11]);
    let mut surface = Surface::new(&subject, &images, 16, CPU).unwrap();
    let here = surface.at(&[]).unwrap();
    for (i, r) in [0.2, 0.9].into_iter().enumerate() {
        let at = |k: usize| Direction::new(&recipe(4), &subject.params, &format!("ball.{k}"), None).unwrap();
        let all: Vec<_> = (0..5).map(|k| surface.at(&[(r, &at(k))]).unwrap()).collect();
        let loss = Estimate::of(&all.iter().map(|m| m.loss - here.loss).collect::<Vec<_>>());
        let accuracy = Estimate::of(&all.iter().map(|m| here.accuracy - m.accuracy).collect::<Vec<_>>());
        assert_eq!(found[2 * i], [loss.mean, loss.error, 5.0]);
        assert_eq!(found[2 * i + 1], [accuracy.mean, accuracy.error, 5.0]);
    }
    // Out there is not here.
    assert!(found[2][0].abs() > found[0][0].abs(), "{found:?}");
}
