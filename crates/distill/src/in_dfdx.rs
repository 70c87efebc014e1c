//! The objectives in dfdx: the research surface. Student's features in, loss out; dfdx finds the way back.
//!
//! [`objective`](crate::Objective) says the same in fused operations of a plan, for speed; a test holds the two together. Here every
//! formula is a line, and a new objective is one more function of this kind. To train with it, end the plan in a leaf instead of a
//! loss and write the leaf's gradient between `forward` and `backward`:
//!
//! ```
//! use dfdx::prelude::*;
//! use fd_compute::optim::AdamW;
//! use fd_compute::{Arena, Cx, DType, Device, Grads, Layout, Params, Planner, StepKey};
//! use fd_distill::groups::Rates;
//! use fd_distill::in_dfdx::{Features, Scalar, differentiate};
//! use fd_distill::schedule::Cosine;
//! use fd_model::{Activation, Head, Init, Position, QkvBias, Taps, Vit, VitConfig, initialise};
//!
//! // A new objective: the student's tokens are to have the same Gram matrix as the teacher's.
//! fn gram(student: Features<f32, OwnedTape<f32, Cpu>>, teacher: Features<f32>) -> Scalar<f32, OwnedTape<f32, Cpu>> {
//!     let of_teacher = teacher.clone().matmul(teacher.permute::<_, Axes3<0, 2, 1>>());
//!     let copy = student.retaped::<OwnedTape<_, _>>() + 0.0; // dfdx: the two operands of an operation have to be two tensors
//!     let of_student = copy.matmul(student.permute::<_, Axes3<0, 2, 1>>());
//!     (of_student - of_teacher).square().mean()
//! }
//!
//! # let config = VitConfig {
//! #     img_size: (8, 8), patch_size: 4, in_chans: 3, embed_dim: 8, depth: 1, num_heads: 2, mlp_ratio: 2.0,
//! #     position: Position::SharedRelative, qkv_bias: QkvBias::Qv, layer_scale: Some(0.1), cls_token: true,
//! #     activation: Activation::Gelu, ln_eps: 1e-6, head: Head::Features, num_classes: 0, drop_path_rate: 0.0,
//! #     ..VitConfig::default()
//! # };
//! // The student, described once.
//! let mut layout = Layout::builder();
//! let vit = Vit::declare(&config, &mut layout, "encoder.")?;
//! let layout = layout.finish();
//! let mut p = Planner::new();
//! p.train(&layout);
//! let images = p.input([2, 3, 8, 8]);
//! let features = vit.plan(&mut p, images, Taps::default())?.map();
//! p.leaf(features);
//! let plan = p.finish()?;
//!
//! # let mut params = Params::new(&layout, DType::F32);
//! # initialise(&mut params, "encoder.", &config.clone().into(), Init::Official, 0);
//! # let (mut arena, mut grads) = (Arena::new(&plan, DType::F32), Grads::new(&layout, DType::F32));
//! # let mut adamw = AdamW::new(&layout, DType::F32, (0.9, 0.999), 1e-8);
//! # let schedule = Cosine { base_lr: 0.01, warmup_lr: 0.01, min_lr: 0.0, steps: 100, warmup_steps: 0 };
//! # let mut rates = Rates::new(&layout, 0.05, 1.0, schedule);
//! # arena.value_mut::<f32>(images).iter_mut().enumerate().for_each(|(i, x)| *x = (i as f32).sin());
//! # let teacher: Vec<f32> = (0..2 * 5 * 8).map(|i| (i as f32).cos()).collect();
//! # let (cpu, mut losses) = (Cpu::default(), vec![]);
//! // Training steps.
//! for step in 0..20 {
//!     let sets = [&params];
//!     let mut cx = Cx::new(&Device::CPU, &sets, &mut arena, StepKey::default());
//!     plan.forward(&mut cx)?;
//!     let shape = (2, 5, 8); // B, N, C
//!     let target = cpu.tensor_from_vec(teacher.clone(), shape);
//!     let (loss, gradient) = differentiate(shape, cx.arena.value::<f32>(features), |student| Ok(gram(student, target)))?;
//!     cx.arena.grad_mut::<f32>(features).copy_from_slice(&gradient);
//!     grads.reset();
//!     plan.backward(&mut cx, &mut grads)?;
//!     adamw.step(&mut params, &grads, rates.update(step), 1.0)?;
//! #   losses.push(loss);
//! }
//! # assert!(losses[19] < 0.9 * losses[0], "{losses:?}");
//! # Ok::<(), fd_distill::Error>(())
//! ```

use dfdx::shapes::{Axes2, Axis, Dtype, HasShape, Rank0, Shape};
use dfdx::tensor::{Cpu, NoneTape, OwnedTape, Tape, Tensor, TensorFromVec, Trace};
use dfdx::tensor_ops::{Backward, BroadcastTo, Device, MeanTo, ReshapeTo, SumTo};

use crate::{Error, FeatureDistance, Normalisation, Objective, Target, WHITEN_EPS};

/// Features [B, N, C].
pub type Features<E, T = NoneTape> = Tensor<(usize, usize, usize), E, Cpu, T>;
/// Logits or probabilities [B, K].
pub type Logits<E, T = NoneTape> = Tensor<(usize, usize), E, Cpu, T>;
/// A loss.
pub type Scalar<E, T = NoneTape> = Tensor<Rank0, E, Cpu, T>;

/// The objective between the student's prediction and the teacher's output, [B, N, C] each; `cls`: is the first token a CLS token?
///
/// # Errors
/// An objective on logits (see [`logits_loss`]); a CLS target without a CLS token.
pub fn loss<E: Dtype, T: Tape<E, Cpu>>(
    objective: &Objective,
    student: Features<E, T>,
    teacher: Features<E>,
    cls: bool,
) -> Result<Scalar<E, T>, Error>
where
    Cpu: Device<E>,
{
    let target = normalise(objective.normalisation, select(objective.target, teacher, cls)?);
    distance(objective.loss, select(objective.target, student, cls)?, target)
}

/// The tokens that are compared.
///
/// # Errors
/// Logits, which are no tokens; a CLS target without a CLS token.
pub fn select<E: Dtype, T: Tape<E, Cpu>>(target: Target, x: Features<E, T>, cls: bool) -> Result<Features<E, T>, Error>
where
    Cpu: Device<E>,
{
    let (batch, _, width) = *x.shape();
    let first_patch = usize::from(cls);
    Ok(match target {
        Target::Map => x,
        Target::Patches => x.slice((.., first_patch.., ..)),
        Target::Gap => x.slice((.., first_patch.., ..)).mean::<_, Axis<1>>().reshape_like(&(batch, 1, width)),
        Target::Cls if cls => x.slice((.., 0..1, ..)),
        Target::Cls => return Err(Error::Usage("objective target = \"cls\" needs a CLS token on student and teacher".into())),
        Target::Logits => return Err(Error::Usage("objective target = \"logits\" compares logits, not features".into())),
    })
}

/// The target's rows, normalised.
pub fn normalise<E: Dtype>(how: Normalisation, target: Features<E>) -> Features<E>
where
    Cpu: Device<E>,
{
    let shape = *target.shape();
    match how {
        Normalisation::None => target,
        Normalisation::LayerNorm => target.normalize::<Axis<2>>(WHITEN_EPS),
        Normalisation::L2 => {
            let length = target.clone().square().sum::<_, Axis<2>>().sqrt().clamp(1e-12, f32::MAX);
            target / length.broadcast_like::<_, Axis<2>>(&shape)
        }
    }
}

/// A mean over all elements; the cosine's is over rows.
///
/// # Errors
/// A loss on logits.
pub fn distance<E: Dtype, T: Tape<E, Cpu>>(how: FeatureDistance, x: Features<E, T>, target: Features<E>) -> Result<Scalar<E, T>, Error>
where
    Cpu: Device<E>,
{
    Ok(match how {
        FeatureDistance::SmoothL1 { beta } => x.huber_error(target, beta).mean() / number::<E>(beta), // huber = beta · smooth L1
        FeatureDistance::L1 {} => (x - target).abs().mean(),
        FeatureDistance::Mse {} => (x - target).square().mean(),
        FeatureDistance::Cosine {} => {
            // Lengths are at least 1e-8, and constant below.
            let xx = x.retaped::<T>().square().sum::<(usize, usize), Axis<2>>().clamp(1e-16, f32::MAX).sqrt();
            let tt = target.clone().square().sum::<(usize, usize), Axis<2>>().clamp(1e-16, f32::MAX).sqrt();
            let cosine = (x * target).sum::<(usize, usize), Axis<2>>() / (xx * tt);
            -cosine.mean::<Rank0, Axes2<0, 1>>() + number::<E>(1.0)
        }
        FeatureDistance::Kl { .. } | FeatureDistance::SoftCrossEntropy { .. } => {
            return Err(Error::Usage("objective loss `kl` and `soft-cross-entropy` compare logits: set target = \"logits\"".into()));
        }
    })
}

/// The objective between the student's and the teacher's logits, [B, K] each.
///
/// # Errors
/// An objective on features (see [`loss`]).
pub fn logits_loss<E: Dtype, T: Tape<E, Cpu>>(
    objective: &Objective,
    student: Logits<E, T>,
    teacher: Logits<E>,
) -> Result<Scalar<E, T>, Error>
where
    Cpu: Device<E>,
{
    let cross_entropy_at = |t: f64| {
        let probabilities = (teacher.clone() / number::<E>(t)).softmax::<Axis<1>>();
        cross_entropy(student / number::<E>(t), probabilities) * number::<E>(t * t)
    };
    match (objective.target, objective.normalisation, objective.loss) {
        (Target::Logits, Normalisation::None, FeatureDistance::SoftCrossEntropy { temperature }) => Ok(cross_entropy_at(temperature)),
        (Target::Logits, Normalisation::None, FeatureDistance::Kl { temperature: t }) => {
            // KL(p, q) = H(p, q) - H(p), and the teacher's entropy is its cross-entropy with itself.
            let entropy = logits_entropy(teacher.clone() / number::<E>(t)) * number::<E>(t * t);
            Ok(cross_entropy_at(t) - entropy)
        }
        _ => Err(Error::Usage("objective target = \"logits\" takes normalisation `none` and loss `kl` or `soft-cross-entropy`".into())),
    }
}

/// -Σ p log softmax(logits), mean over the batch; the probabilities [B, K] are given.
pub fn cross_entropy<E: Dtype, T: Tape<E, Cpu>>(logits: Logits<E, T>, probabilities: Logits<E>) -> Scalar<E, T>
where
    Cpu: Device<E>,
{
    let batch = logits.shape().0;
    (logits.log_softmax::<Axis<1>>() * probabilities).sum() / number::<E>(-(batch as f64))
}

fn logits_entropy<E: Dtype>(logits: Logits<E>) -> Scalar<E>
where
    Cpu: Device<E>,
{
    cross_entropy(logits.clone(), logits.softmax::<Axis<1>>())
}

/// Runs a loss on a leaf of these values: (loss, d loss / d leaf), the gradient ready for
/// [`Arena::grad_mut`](fd_compute::Arena::grad_mut).
///
/// # Errors
/// Values that do not fill the shape; whatever `loss` returns.
pub fn differentiate<S: Shape, E: Dtype>(
    shape: S,
    values: &[E],
    loss: impl FnOnce(Tensor<S, E, Cpu, OwnedTape<E, Cpu>>) -> Result<Scalar<E, OwnedTape<E, Cpu>>, Error>,
) -> Result<(E, Vec<E>), Error>
where
    Cpu: Device<E>,
{
    let leaf = tensor(shape, values)?;
    let loss = loss(leaf.leaky_trace())?;
    let value = loss.as_vec()[0];
    let mut gradients = loss.backward();
    // A leaf that the loss does not reach has no entry: this makes one of zeros.
    gradients.try_alloc_for(&leaf).map_err(|e| Error::Usage(format!("dfdx: {e:?}")))?;
    Ok((value, gradients.get(&leaf).as_vec()))
}

/// An objective's (loss, d loss / d student). The shape is [B, N, C] for features and [B, K] for logits, the same for both.
///
/// # Errors
/// Another shape, values that do not fill it, or an objective that does not go with it.
pub fn value_and_gradient<E: Dtype>(
    objective: &Objective,
    shape: &[usize],
    student: &[E],
    teacher: &[E],
    cls: bool,
) -> Result<(E, Vec<E>), Error>
where
    Cpu: Device<E>,
{
    match *shape {
        [b, n, c] => {
            let teacher = tensor((b, n, c), teacher)?;
            differentiate((b, n, c), student, |student| loss(objective, student, teacher, cls))
        }
        [b, k] => {
            let teacher = tensor((b, k), teacher)?;
            differentiate((b, k), student, |student| logits_loss(objective, student, teacher))
        }
        _ => Err(Error::Usage(format!("an objective compares features [B, N, C] or logits [B, K], not {shape:?}"))),
    }
}

/// A tensor without a tape.
///
/// # Errors
/// Values that do not fill the shape, or a shape without elements.
pub fn tensor<S: Shape, E: Dtype>(shape: S, values: &[E]) -> Result<Tensor<S, E, Cpu>, Error>
where
    Cpu: Device<E>,
{
    if values.is_empty() || values.len() != shape.num_elements() {
        return Err(Error::Usage(format!("{} values do not fill a tensor of shape {:?}", values.len(), shape.concrete())));
    }
    Ok(Cpu::default().tensor_from_vec(values.to_vec(), shape))
}

fn number<E: Dtype>(x: f64) -> E {
    E::from_f64(x).expect("f32 and f64, the types dfdx computes in, have a nearest value for every f64")
}

#[cfg(test)]
mod tests {
    use fd_compute::{Arena, Cx, DType, Grads, Layout, Params, Planner, Real, StepKey, Stream};

    use super::*;

    const B: usize = 3;
    const N: usize = 5;
    const C: usize = 21;

    fn variants() -> Vec<Objective> {
        let on_logits = |loss| Objective { target: Target::Logits, normalisation: Normalisation::None, loss };
        let mut all: Vec<_> = [1.0, 3.5]
            .iter()
            .flat_map(|&temperature| [FeatureDistance::Kl { temperature }, FeatureDistance::SoftCrossEntropy { temperature }])
            .map(on_logits)
            .collect();
        let smooth = |beta| FeatureDistance::SmoothL1 { beta };
        for target in [Target::Map, Target::Patches, Target::Gap, Target::Cls] {
            for normalisation in [Normalisation::None, Normalisation::L2, Normalisation::LayerNorm] {
                for loss in [smooth(2.0), smooth(0.3), FeatureDistance::L1 {}, FeatureDistance::Mse {}, FeatureDistance::Cosine {}] {
                    all.push(Objective { target, normalisation, loss });
                }
            }
        }
        all
    }

    fn fused<T: Real>(objective: &Objective, shape: &[usize], student: &[T], teacher: &[T], cls: bool) -> (f64, Vec<f64>) {
        let nothing = Layout::builder().finish();
        let mut p = Planner::new();
        p.train(&nothing);
        let mut input = || match *shape {
            [b, n, c] => p.input([b, n, c]),
            _ => p.input([shape[0], shape[1]]),
        };
        let (s, t) = (input(), input());
        p.want_grad(s);
        let loss = objective.plan(&mut p, s, t, cls).expect("a plan");
        p.root(loss);
        let plan = p.finish().expect("a plan");
        let (mut arena, params) = (Arena::new(&plan, T::DTYPE), Params::new(&nothing, T::DTYPE));
        arena.write(s, student);
        arena.write(t, teacher);
        let sets = [&params];
        let mut cx = Cx::new(&fd_compute::Device::CPU, &sets, &mut arena, StepKey::default());
        plan.forward(&mut cx).expect("a run");
        let value = cx.arena.scalar(loss);
        plan.backward(&mut cx, &mut Grads::new(&nothing, T::DTYPE)).expect("a run");
        (value, arena.grad_to_f64(s))
    }

    fn agree<T: Real + Dtype>(tolerance: f64)
    where
        Cpu: Device<T>,
    {
        let mut random = Stream::new(&[7]);
        let mut noise = |n: usize| (0..n).map(|_| T::of(2.0 * random.normal())).collect::<Vec<_>>();
        for objective in variants() {
            let shape = if objective.target == Target::Logits { vec![B, C] } else { vec![B, N, C] };
            let count = shape.iter().product();
            let (student, teacher) = (noise(count), noise(count));
            for cls in [true, false] {
                let ours = value_and_gradient(&objective, &shape, &student, &teacher, cls);
                if objective.target == Target::Cls && !cls {
                    assert!(ours.is_err());
                    continue;
                }
                let (loss, gradient) = ours.expect("a loss");
                let (expected, expected_gradient) = fused(&objective, &shape, &student, &teacher, cls);
                assert!((loss.f64() - expected).abs() <= tolerance * expected.abs(), "{objective:?}: {loss:?} {expected}");
                let largest = expected_gradient.iter().fold(0.0, |m: f64, g| m.max(g.abs()));
                for (g, e) in gradient.iter().zip(&expected_gradient) {
                    assert!((g.f64() - e).abs() <= tolerance * largest, "{objective:?}: {g:?} {e}");
                }
            }
        }
    }

    #[test]
    fn the_fused_objectives_are_these() {
        agree::<f32>(1e-5);
        agree::<f64>(1e-10);
        assert_eq!(f64::DTYPE, DType::F64);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let paper = |shape: &[usize], n| value_and_gradient(&Objective::PAPER, shape, &vec![0.5f32; n], &vec![0.25; n], true);
        assert!(paper(&[1, 2, 3], 6).is_ok());
        assert!(paper(&[1, 2, 3], 5).is_err() && paper(&[6], 6).is_err() && paper(&[2, 3], 6).is_err() && paper(&[0, 2, 3], 0).is_err());
        let kl = Objective { loss: FeatureDistance::Kl { temperature: 1.0 }, ..Objective::PAPER };
        assert!(value_and_gradient(&kl, &[1, 1, 2], &[0.5f32; 2], &[0.25; 2], true).is_err());
    }

    /// dfdx: a row of zeros has no direction; its gradient is zero, not NaN.
    #[test]
    fn a_row_of_zeros_has_a_gradient() {
        let cosine = Objective { target: Target::Map, normalisation: Normalisation::L2, loss: FeatureDistance::Cosine {} };
        let (loss, gradient) =
            value_and_gradient(&cosine, &[1, 2, 2], &[0.0f32, 0.0, 1.0, 1.0], &[0.0, 0.0, 1.0, 1.0], false).expect("a loss");
        assert!((loss - 0.5).abs() < 1e-6 && gradient.iter().all(|g| g.is_finite()), "{loss} {gradient:?}");
    }
}
