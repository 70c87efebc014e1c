//! Linear probe on cached features: BatchNorm without affine part, one linear layer, LARS (the official recipe, PAPER section 3).
//!
//! Features are computed once, without augmentation, with the frozen model in evaluation mode.

use fd_compute::optim::{Lars, Rate};
use fd_compute::{Arena, Bias, Cx, DType, Device, Grads, Layout, Params, Planner, StepKey, Stream};
use rand::seq::SliceRandom;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::evaluate::Outputs;
use crate::recipe::MOST_EPOCHS;
use crate::schedule::Cosine;
use crate::{Error, interrupt};

/// Epsilon of the BatchNorm.
const EPS: f64 = 1e-6;
/// exp(1 / 0.02) is still an f32.
const LEAST_TEMPERATURE: f64 = 0.02;
const MOST_TEMPERATURE: f64 = 1e3;

/// The probe's numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProbeConfig {
    /// Passes over the cached features.
    #[schemars(range(min = 1, max = MOST_EPOCHS))]
    pub epochs: usize,
    /// Epochs of linear warm-up.
    #[schemars(range(min = 0.0))]
    pub warmup_epochs: f64,
    /// Features a step.
    #[schemars(range(min = 2))]
    pub batch: usize,
    /// Peak learning rate.
    #[schemars(range(min = 0.0))]
    pub lr: f64,
    /// LARS momentum.
    #[schemars(range(min = 0.0))]
    pub momentum: f64,
    /// LARS trust coefficient.
    #[schemars(range(min = 0.0))]
    pub trust: f64,
    /// Weight decay.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
}

impl ProbeConfig {
    /// Refuses impossible numbers; the message names the key.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |key: &str, why: String| Err(Error::Usage(format!("probe.{key}: {why}")));
        if !(1..=MOST_EPOCHS).contains(&self.epochs) {
            return refuse("epochs", format!("{} is not from 1 to {MOST_EPOCHS}", self.epochs));
        }
        if self.batch < 2 {
            return refuse("batch", format!("{} is too few for a BatchNorm", self.batch));
        }
        if !(0.0..self.epochs as f64 + 1e-9).contains(&self.warmup_epochs) {
            return refuse("warmup_epochs", format!("{} is not within {} epochs", self.warmup_epochs, self.epochs));
        }
        let numbers = [("lr", self.lr), ("momentum", self.momentum), ("trust", self.trust), ("weight_decay", self.weight_decay)];
        match numbers.into_iter().find(|(_, v)| !(*v >= 0.0 && v.is_finite())) {
            Some((key, value)) => refuse(key, format!("{value} must not be negative")),
            None => Ok(()),
        }
    }
}

/// Nearest neighbours, as DINO judges features: cosine similarity, votes weighted by exp(similarity / temperature).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Knn {
    /// Neighbours that vote.
    #[schemars(range(min = 1))]
    pub k: usize,
    /// Temperature of the votes.
    #[schemars(range(min = LEAST_TEMPERATURE, max = MOST_TEMPERATURE))]
    pub temperature: f64,
}

impl Knn {
    /// Refuses impossible numbers; the message names the key.
    pub fn check(&self) -> Result<(), Error> {
        if self.k == 0 {
            return Err(Error::Usage("knn.k: must be at least 1".into()));
        }
        if !(LEAST_TEMPERATURE..=MOST_TEMPERATURE).contains(&self.temperature) {
            return Err(Error::Usage(format!(
                "knn.temperature: {} is not from {LEAST_TEMPERATURE} to {MOST_TEMPERATURE}",
                self.temperature
            )));
        }
        Ok(())
    }
}

/// Votes [test, classes] of every test row's nearest training rows.
pub fn knn(config: &Knn, train: &Outputs, test: &Outputs, classes: usize) -> Outputs {
    let (width, n) = (train.width, train.labels.len());
    let (train_rows, test_rows) = (unit_rows(train), unit_rows(test));
    let k = config.k.min(n);
    let mut values = vec![0.0f32; test.labels.len() * classes];
    let block = 64;
    values.par_chunks_mut(block * classes).zip(test_rows.par_chunks(block * width)).for_each(|(votes, rows)| {
        let mut order: Vec<(f32, u32)> = Vec::with_capacity(n);
        for (votes, row) in votes.chunks_exact_mut(classes).zip(rows.chunks_exact(width)) {
            order.clear();
            order.extend(train_rows.chunks_exact(width).zip(0..).map(|(t, i)| (dot(t, row), i)));
            // Ties go to the earlier row: the answer is one, whatever the selection's order.
            let nearer = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
            order.select_nth_unstable_by(k - 1, nearer);
            order[..k].sort_unstable_by(nearer);
            for &(similarity, i) in &order[..k] {
                votes[train.labels[i as usize] as usize] += (f64::from(similarity) / config.temperature).exp() as f32;
            }
        }
    });
    Outputs { values, width: classes, labels: test.labels.clone() }
}

/// Eight running sums, which the compiler keeps in one register; their order is fixed.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    for (a, b) in a8.iter().zip(b8) {
        (0..8).for_each(|i| sums[i] += a[i] * b[i]);
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

fn unit_rows(x: &Outputs) -> Vec<f32> {
    let mut rows = x.values.clone();
    for row in rows.chunks_exact_mut(x.width) {
        let length = row.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
        row.iter_mut().for_each(|v| *v /= length);
    }
    rows
}

/// Trains a probe on `train` and returns its logits on `test`.
pub fn probe(config: &ProbeConfig, train: &Outputs, test: &Outputs, classes: usize, seed: u64) -> Result<Outputs, Error> {
    let (n, width) = (train.labels.len(), train.width);
    config.check()?;
    let batch = config.batch.min(n);
    if batch < 2 {
        return Err(Error::Usage(format!("probe: {n} training images are too few")));
    }
    let mut layout = Layout::builder();
    let (w, b) = (layout.add("head.weight", &[classes, width]), layout.add("head.bias", &[classes]));
    let layout = layout.finish();
    let mut p = Planner::new();
    p.train(&layout);
    let (x, targets) = (p.input([batch, width]), p.input([batch, classes]));
    let (normed, mean, var) = p.batch_norm(x, EPS);
    let logits = p.linear(normed, w, Bias::Full(b))?;
    let loss = p.cross_entropy(logits, targets)?;
    p.root(loss);
    p.keep(mean);
    p.keep(var);
    let plan = p.finish()?;
    let mut params = Params::new(&layout, DType::F32);
    let mut random = Stream::named(seed, "probe");
    params.set(w, &(0..classes * width).map(|_| 0.01 * random.normal()).collect::<Vec<_>>());
    let (mut grads, mut arena) = (Grads::new(&layout, DType::F32), Arena::new(&plan, DType::F32));
    let mut lars = Lars::new(&layout, config.momentum, config.trust);
    let per_epoch = n / batch;
    let schedule = Cosine {
        base_lr: config.lr,
        warmup_lr: 0.0,
        min_lr: 0.0,
        steps: config.epochs * per_epoch,
        warmup_steps: (config.warmup_epochs * per_epoch as f64).round() as usize,
    };
    let mut order: Vec<usize> = (0..n).collect();
    for step in 0..config.epochs * per_epoch {
        if let Some(signal) = interrupt::requested() {
            return Err(Error::Interrupted { signal, checkpoints: None });
        }
        if step % per_epoch == 0 {
            order.shuffle(&mut random);
        }
        let rows = &order[step % per_epoch * batch..][..batch];
        for (x, &row) in arena.value_mut::<f32>(x).chunks_exact_mut(width).zip(rows) {
            x.copy_from_slice(&train.values[row * width..(row + 1) * width]);
        }
        let one_hot = arena.value_mut::<f32>(targets);
        one_hot.fill(0.0);
        rows.iter().enumerate().for_each(|(i, &row)| one_hot[i * classes + train.labels[row] as usize] = 1.0);
        let sets = [&params];
        // One small product a step, and LARS in double precision: a device would wait for the host.
        let mut cx = Cx::new(&Device::CPU, &sets, &mut arena, StepKey::default());
        plan.forward(&mut cx)?;
        let value = cx.arena.scalar(loss);
        if !value.is_finite() {
            return Err(Error::Usage(format!("probe: the loss is {value} at step {step}: lower probe.lr")));
        }
        grads.reset();
        plan.backward(&mut cx, &mut grads)?;
        let rate = |param| Rate { param, lr: schedule.at(step, 1.0), weight_decay: config.weight_decay };
        lars.step(&mut params, &grads, &[rate(w), rate(b)], 1.0);
    }
    Ok(apply(&params.to_f64(w), &params.to_f64(b), train, test, classes))
}

/// Logits of the test features, normalised with the statistics of all training features.
fn apply(w: &[f64], b: &[f64], train: &Outputs, test: &Outputs, classes: usize) -> Outputs {
    let width = train.width;
    let (mean, rstd) = statistics(train);
    let mut values = Vec::with_capacity(test.labels.len() * classes);
    let mut x = vec![0.0; width];
    for row in test.values.chunks_exact(width) {
        for i in 0..width {
            x[i] = (f64::from(row[i]) - mean[i]) * rstd[i];
        }
        values.extend((0..classes).map(|k| (b[k] + w[k * width..(k + 1) * width].iter().zip(&x).map(|(w, x)| w * x).sum::<f64>()) as f32));
    }
    Outputs { values, width: classes, labels: test.labels.clone() }
}

fn statistics(train: &Outputs) -> (Vec<f64>, Vec<f64>) {
    let (width, n) = (train.width, train.labels.len() as f64);
    let (mut mean, mut var) = (vec![0.0; width], vec![0.0; width]);
    for row in train.values.chunks_exact(width) {
        mean.iter_mut().zip(row).for_each(|(m, x)| *m += f64::from(*x) / n);
    }
    for row in train.values.chunks_exact(width) {
        (0..width).for_each(|i| var[i] += (f64::from(row[i]) - mean[i]).powi(2) / n);
    }
    (mean, var.into_iter().map(|v| (v + EPS).sqrt().recip()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(values: &[f32], labels: &[u32]) -> Outputs {
        Outputs { values: values.to_vec(), width: 2, labels: labels.to_vec() }
    }

    #[test]
    fn neighbours_vote_by_direction_not_length() {
        let train = rows(&[1.0, 0.0, 100.0, 100.0, 0.0, 0.1], &[0, 1, 2]);
        let test = rows(&[5.0, 0.1, 0.0, 3.0, 1.0, 0.9], &[0, 2, 1]);
        let one = knn(&Knn { k: 1, temperature: 0.07 }, &train, &test, 3);
        assert_eq!(one.hits(), [true, true, true]);
        // Three votes at a high temperature: nearly one each, the nearest still the most.
        let all = knn(&Knn { k: 9, temperature: 10.0 }, &train, &test, 3);
        assert!(all.values.iter().all(|v| (0.9..1.2).contains(v)), "{:?}", all.values);
        assert_eq!(all.hits(), [true, true, true]);
    }

    #[test]
    fn votes_by_hand() {
        let train = rows(&[1.0, 0.0, 0.0, 1.0], &[1, 0]);
        let votes = knn(&Knn { k: 2, temperature: 0.5 }, &train, &rows(&[3.0, 4.0], &[0]), 2).values;
        assert!((votes[0] - (0.8f32 / 0.5).exp()).abs() < 1e-5 && (votes[1] - (0.6f32 / 0.5).exp()).abs() < 1e-5, "{votes:?}");
    }
}
