//! From a loss on the reference's output to the gradient of every weight.

use std::collections::BTreeMap;

use dfdx::shapes::{Dtype, HasShape, Rank0, Shape};
use dfdx::tensor::{Cpu, OwnedTape, PutTape, Tensor, TensorFromVec, Trace};
use dfdx::tensor_ops::{Backward, Device, ReshapeTo, SumTo};

use super::ops::number;
use super::{Images, Output, Reference};
use crate::ModelError;

/// What one backward pass leaves. Values in the order of the weight, or of the images; zeros where the loss does not depend on it.
pub struct Gradients {
    /// The loss itself.
    pub loss: f64,
    /// d loss / d weight, by official name.
    pub weights: BTreeMap<String, Vec<f64>>,
    /// d loss / d images, NCHW.
    pub images: Vec<f64>,
}

impl<E: Dtype> Reference<E>
where
    Cpu: Device<E>,
{
    /// Runs forward, then `loss` on its output, then back. The loss picks what it needs and puts the tape on it:
    ///
    /// ```text
    /// vit.gradients(&images, |output| Ok(output.tokens.unwrap().put_tape(output.tape).square().mean()))
    /// ```
    ///
    /// # Errors
    /// Images of another size; whatever `loss` returns.
    pub fn gradients<F>(&self, images: &Images<E>, loss: F) -> Result<Gradients, ModelError>
    where
        F: FnOnce(Output<E, OwnedTape<E, Cpu>>) -> Result<Tensor<Rank0, E, Cpu, OwnedTape<E, Cpu>>, ModelError>,
    {
        // "Leaky" only says that dfdx keeps the gradients of intermediate values too, until this call ends.
        let loss = loss(self.forward(images.leaky_trace())?)?;
        let value = values(&loss)[0];
        let mut gradients = loss.backward();
        let mut of = |t: &Tensor<_, E, Cpu>| {
            // A weight the loss does not reach has no entry: this makes one of zeros.
            gradients.try_alloc_for(t).expect("dfdx's CPU allocator aborts where memory ends, it returns no error");
            values(&gradients.get(t))
        };
        let weights = self.weights.iter().map(|(name, weight)| (name.clone(), of(weight))).collect();
        gradients.try_alloc_for(images).expect("as above");
        Ok(Gradients { loss: value, weights, images: values(&gradients.get(images)) })
    }

    /// The gradients of `Σ tokens · dtokens`: what a backward pass that starts from `dtokens` [B, N, C] must give.
    ///
    /// # Errors
    /// A model without normalised tokens ([`crate::Head::MeanPool`]); as many values in `dtokens` as in the tokens are needed.
    pub fn gradients_of_tokens(&self, images: &Images<E>, dtokens: &[f64]) -> Result<Gradients, ModelError> {
        self.gradients(images, |output| weighted_sum("tokens", output.tokens, output.tape, dtokens))
    }

    /// The gradients of `Σ logits · dlogits`, for `dlogits` [B, classes].
    ///
    /// # Errors
    /// A model without a classifier ([`crate::Head::Features`]); as many values in `dlogits` as in the logits are needed.
    pub fn gradients_of_logits(&self, images: &Images<E>, dlogits: &[f64]) -> Result<Gradients, ModelError> {
        self.gradients(images, |output| weighted_sum("logits", output.logits, output.tape, dlogits))
    }
}

/// Σ y · weights, with the tape of the pass on it.
fn weighted_sum<S: Shape, E: Dtype>(
    what: &'static str,
    y: Option<Tensor<S, E, Cpu>>,
    tape: OwnedTape<E, Cpu>,
    weights: &[f64],
) -> Result<Tensor<Rank0, E, Cpu, OwnedTape<E, Cpu>>, ModelError>
where
    Cpu: Device<E>,
{
    let y = y.ok_or_else(|| ModelError::Config { key: "head", why: format!("this model gives no {what}") })?;
    let count = y.shape().num_elements();
    if weights.len() != count {
        let why = format!("the {what} are {count} values {:?}, their gradient has {}", y.shape().concrete(), weights.len());
        return Err(ModelError::Config { key: "head", why });
    }
    let weights = y.device().tensor_from_vec(weights.iter().map(|&w| number(w)).collect(), (count,));
    Ok((y.put_tape(tape).reshape_like(&(count,)) * weights).sum::<Rank0, _>())
}

fn values<S: Shape, E: Dtype, T>(t: &Tensor<S, E, Cpu, T>) -> Vec<f64> {
    t.as_vec().into_iter().map(|v| v.to_f64().expect("f32 and f64 are f64s")).collect()
}
