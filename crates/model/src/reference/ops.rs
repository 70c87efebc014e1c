//! The arithmetic of the reference, one formula a function.

use dfdx::shapes::{Axes2, Axis, Dtype, HasShape};
use dfdx::tensor::{Cpu, Tape, Tensor, TensorFromVec};
use dfdx::tensor_ops::{BroadcastTo, Device, PermuteTo, TryMatMul};

use super::Tokens;

/// The nearest value of the model's float type.
pub(super) fn number<E: Dtype>(x: f64) -> E {
    E::from_f64(x).expect("f32 and f64, the types dfdx computes in, have a nearest value for every f64")
}

/// y = x Wᵀ + b; x: `[B, N, in]`, W: `[out, in]`, b: `[out]`, y: `[B, N, out]`.
pub fn linear<E: Dtype, T: Tape<E, Cpu>>(
    x: Tokens<E, T>,
    weight: Tensor<(usize, usize), E, Cpu, T>,
    bias: Option<Tensor<(usize,), E, Cpu, T>>,
) -> Tokens<E, T>
where
    Cpu: Device<E>,
{
    let y = x.matmul(weight.permute::<_, Axes2<1, 0>>());
    let shape = *y.shape();
    match bias {
        Some(bias) => y + bias.broadcast_like::<_, Axes2<0, 1>>(&shape),
        None => y,
    }
}

/// y = (x - mean) / √(variance + eps) · w + b, over the channels of each token; the variance divides by C, not by C - 1.
pub fn layer_norm<E: Dtype, T: Tape<E, Cpu>>(
    x: Tokens<E, T>,
    weight: Tensor<(usize,), E, Cpu, T>,
    bias: Tensor<(usize,), E, Cpu, T>,
    eps: f64,
) -> Tokens<E, T>
where
    Cpu: Device<E>,
{
    let shape = *x.shape();
    let scaled = x.normalize::<Axis<2>>(eps) * weight.broadcast_like::<_, Axes2<0, 1>>(&shape);
    scaled + bias.broadcast_like::<_, Axes2<0, 1>>(&shape)
}

/// y = x Φ(x), exact. Not dfdx's `accurate_gelu`: its value is right, but its derivative is Φ(x) + √2 x φ(x) where Φ(x) + x φ(x)
/// is meant (dfdx 0.13.0, whose own test expects 1.1835 at x = 1 instead of 1.0833).
pub fn gelu<E: Dtype, T: Tape<E, Cpu>>(x: Tokens<E, T>) -> Tokens<E, T>
where
    Cpu: Device<E>,
{
    x.retaped::<T>() * normal_cdf(x)
}

/// y = x · sigmoid(1.702 x), CLIP's.
pub fn quick_gelu<E: Dtype, T: Tape<E, Cpu>>(x: Tokens<E, T>) -> Tokens<E, T>
where
    Cpu: Device<E>,
{
    x.retaped::<T>() * (x * number::<E>(1.702)).sigmoid()
}

/// Φ(x), the chance that a standard normal number is below x; dΦ/dx = φ(x) = exp(-x²/2) / √(2π). dfdx has no erf. So the value and
/// the slope at x are worked out beside the tape, and what is written on it is the tangent there, Φ(a) + φ(a)(x - a) with a = x:
/// the same value and the same derivative.
pub fn normal_cdf<E: Dtype, T: Tape<E, Cpu>>(x: Tokens<E, T>) -> Tokens<E, T>
where
    Cpu: Device<E>,
{
    let constant = |f: fn(f64) -> f64| -> Tokens<E> {
        let values = x.as_vec().into_iter().map(|v| number(f(v.to_f64().expect("f32 and f64 are f64s"))));
        x.device().tensor_from_vec(values.collect(), *x.shape())
    };
    let a = constant(|x| x);
    let value = constant(|x| 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2));
    let slope = constant(|x| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt());
    (x - a) * slope + value
}

/// The row of the bias table for each pair (query, key) of tokens, row-major [N, N]. On a grid of h x w patches the offset (dy, dx)
/// from key to query has the row (dy + h - 1)(2w - 1) + (dx + w - 1); the three rows after those are for the CLS token as the query,
/// as the key, and as both.
pub fn relative_position_index((h, w): (usize, usize), cls_token: bool) -> Vec<usize> {
    let offsets = (2 * h - 1) * (2 * w - 1);
    let patches = (0..h).flat_map(|y| (0..w).map(move |x| Some((y, x))));
    let tokens: Vec<_> = cls_token.then_some(None).into_iter().chain(patches).collect();
    let row = |query, key| match (query, key) {
        (Some((qy, qx)), Some((ky, kx))) => (qy + h - 1 - ky) * (2 * w - 1) + (qx + w - 1 - kx),
        (None, Some(_)) => offsets,
        (Some(_), None) => offsets + 1,
        (None, None) => offsets + 2,
    };
    tokens.iter().flat_map(|&query| tokens.iter().map(move |&key| row(query, key))).collect()
}
