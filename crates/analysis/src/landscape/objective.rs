//! A classifier's loss as a function of its weights, in double precision: what curvature is measured on.

use fd_compute::{Act, Arena, Cx, DType, Device, Grads, Param, Params, Plan, Planner, StepKey};
use fd_distill::{Error, interrupt};
use fd_model::Taps;

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::direction::Tensors;
use super::hessian::Objective;
use super::images::Images;
use super::subject::Subject;

/// The mean cross-entropy of some images as a function of some of a model's tensors, in the layout's order. Drop path is off.
pub struct Classifier<'a> {
    images: &'a Images,
    batch: usize,
    tensors: Vec<(Param, usize)>,
    params: Params,
    grads: Grads,
    passes: Vec<Pass>,
    pool: ThreadPool,
}

struct Pass {
    batch: usize,
    plan: Plan,
    arena: Arena,
    images: Act,
    targets: Act,
    loss: Act,
}

impl<'a> Classifier<'a> {
    /// Of these tensors; batches hold at most `batch` images; on `threads` threads of its own.
    ///
    /// # Errors
    /// Tensors that the model does not have; a model that cannot be planned.
    pub fn new(subject: &Subject, images: &'a Images, tensors: &Tensors, (batch, threads): (usize, usize)) -> Result<Self, Error> {
        let layout = subject.params.layout();
        let mut params = Params::new(layout, DType::F64);
        layout.iter().for_each(|p| params.set(p, &subject.params.to_f64(p)));
        let length = |p| layout.shape(p).iter().product();
        let tensors = tensors.of(layout)?.into_iter().map(|p| (p, length(p))).collect();
        let passes = images.batch_sizes(batch).into_iter().map(|n| Pass::new(subject, images, n)).collect::<Result<_, _>>()?;
        let pool = ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.map_err(|e| Error::Usage(format!("--threads: a pool of threads cannot be made: {e}")))?;
        Ok(Classifier { images, batch, tensors, grads: Grads::new(layout, DType::F64), params, passes, pool })
    }

    /// The weights as they are.
    pub fn theta(&self) -> Vec<f64> {
        self.tensors.iter().flat_map(|(p, _)| self.params.to_f64(*p)).collect()
    }
}

impl Pass {
    fn new(subject: &Subject, images: &Images, batch: usize) -> Result<Pass, Error> {
        let mut p = Planner::new();
        p.train(subject.params.layout());
        let [c, h, w] = images.shape;
        let (pixels, targets) = (p.input([batch, c, h, w]), p.input([batch, subject.config.num_classes()]));
        let features = subject.model.plan(&mut p, pixels, Taps::default())?;
        let logits = features.logits.ok_or_else(|| Error::Usage("a classifier needs num_classes".into()))?;
        let loss = p.cross_entropy(logits, targets)?;
        p.root(loss);
        let plan = p.finish()?;
        Ok(Pass { batch, arena: Arena::new(&plan, DType::F64), plan, images: pixels, targets, loss })
    }

    fn fill(&mut self, pixels: &[f32], labels: &[u32]) {
        self.arena.value_mut::<f64>(self.images).iter_mut().zip(pixels).for_each(|(to, x)| *to = f64::from(*x));
        let targets = self.arena.value_mut::<f64>(self.targets);
        let classes = targets.len() / labels.len();
        targets.fill(0.0);
        labels.iter().enumerate().for_each(|(i, label)| targets[i * classes + *label as usize] = 1.0);
    }
}

impl Objective for Classifier<'_> {
    fn dim(&self) -> usize {
        self.tensors.iter().map(|(_, n)| n).sum()
    }

    fn gradient(&mut self, theta: &[f64], gradient: &mut [f64]) -> Result<f64, Error> {
        let mut rest = theta;
        for (p, n) in &self.tensors {
            let (values, after) = rest.split_at(*n);
            let range = self.params.range(*p);
            self.params.write::<f64, _>(|all| all[range].copy_from_slice(values));
            rest = after;
        }
        let Classifier { images, batch, params, grads, passes, pool, .. } = self;
        let loss = pool.install(|| mean(images, *batch, params, grads, passes))?;
        let mut rest = gradient;
        for (p, n) in &self.tensors {
            let (values, after) = rest.split_at_mut(*n);
            values.copy_from_slice(self.grads.get::<f64>(*p));
            rest = after;
        }
        Ok(loss)
    }
}

/// The loss, and its gradient into `grads`: batches add up in their order.
fn mean(images: &Images, batch: usize, params: &Params, grads: &mut Grads, passes: &mut [Pass]) -> Result<f64, Error> {
    grads.reset();
    let mut loss = 0.0;
    for (pixels, labels) in images.batches(batch) {
        if let Some(signal) = interrupt::requested() {
            return Err(Error::Interrupted { signal, checkpoints: None });
        }
        let pass = passes.iter_mut().find(|p| p.batch == labels.len()).expect("a pass for each size of batch");
        pass.fill(pixels, labels);
        let share = labels.len() as f64 / images.labels.len() as f64;
        let sets = [params];
        // Double precision is the CPU's.
        let mut cx = Cx::new(&Device::CPU, &sets, &mut pass.arena, StepKey::default());
        (cx.train, cx.seed_grad) = (false, share);
        pass.plan.forward(&mut cx)?;
        pass.plan.backward(&mut cx, grads)?;
        loss += share * pass.arena.scalar(pass.loss);
    }
    Ok(loss)
}
