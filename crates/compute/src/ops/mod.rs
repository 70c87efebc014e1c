//! The operations: one file each, with its formulas and shapes, the shape rule of the planner, the CPU kernels and their tests.
//!
//! Contracts, for all of them: outputs are overwritten; a gradient is delivered as the scheduler says (overwrite, add, in place);
//! rows are worked on in chunks whose size depends on the shape only, and sums over chunks run in chunk order, so that any number
//! of threads gives equal bits.

mod activation;
mod attention;
mod batch_norm;
mod channel_affine;
mod constant;
mod feature_loss;
mod gather;
mod l2_normalise;
mod layer_norm;
mod linear;
mod logit_loss;
mod patch_merge;
mod patchify;
mod pool;
mod relative_bias;
mod residual;
pub(crate) mod rows;
mod sparse;
mod tokens;
mod weight;
mod weighted_sum;

pub use activation::Activation;
pub use attention::{Scores, Span, Windows};
pub use feature_loss::Distance;
pub use linear::Bias;
pub use pool::Pooling;
pub use residual::DropPath;
pub use sparse::Sparse;

use crate::cuda::Run;
use crate::exec::Env;
use crate::plan::Act;
use crate::{Error, Param, Real};

/// An operand of an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input {
    pub act: Act,
    /// Can the operation deliver its gradient? (A target has none.)
    pub differentiable: bool,
}

/// What the scheduler has to know of an operation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wiring {
    pub inputs: Vec<Input>,
    /// The first is the one whose gradient drives the backward step; the others are kept for it.
    pub outputs: Vec<Act>,
    /// Values the backward step reads.
    pub backward_reads: Vec<Act>,
    pub params: Vec<Param>,
    /// One pass over memory: computed again in the backward pass rather than kept.
    pub cheap: bool,
    /// The input whose gradient may take the memory of the output's.
    pub in_place: Option<Act>,
    /// Operands and outputs that stay f32 where others are bf16: losses, and what is an input of the plan (indices, targets, tables).
    /// All outputs but the first are statistics and stay f32 anyway.
    pub exact: Vec<Act>,
    /// Scratch elements of the forward and the backward step.
    pub scratch: (usize, usize),
    /// Scratch bytes of the forward and the backward step on a device.
    pub device_scratch: (usize, usize),
    /// Floating point operations of the forward step, and of the backward step but for those of the next field.
    pub flops: (u64, u64),
    /// Of the backward step where a parameter's gradient is wanted.
    pub param_flops: u64,
}

impl Wiring {
    /// From inputs that all have gradients to one output.
    pub fn new(inputs: &[Act], output: Act) -> Self {
        let inputs = inputs.iter().map(|&act| Input { act, differentiable: true }).collect();
        Wiring { inputs, outputs: vec![output], ..Wiring::default() }
    }
}

/// What every operation does.
pub(crate) trait Operation {
    const NAME: &'static str;
    fn wiring(&self) -> Wiring;
    fn forward<T: Real>(&self, env: &mut Env<T>);
    fn backward<T: Real>(&self, env: &mut Env<T>);
    /// Starts the forward kernels.
    fn forward_cuda(&self, run: &mut Run) -> Result<(), Error>;
    /// Starts the backward kernels.
    fn backward_cuda(&self, run: &mut Run) -> Result<(), Error>;
}

macro_rules! ops {
    ($($kind:ident($ty:ty)),* $(,)?) => {
        /// An operation of a plan.
        #[derive(Clone, Debug)]
        pub(crate) enum Op { $($kind($ty)),* }

        /// The names of all operations.
        #[doc(hidden)]
        pub const NAMES: &[&str] = &[$(<$ty as Operation>::NAME),*];

        impl Op {
            pub fn name(&self) -> &'static str {
                match self { $(Op::$kind(_) => <$ty as Operation>::NAME),* }
            }
            pub fn wiring(&self) -> Wiring {
                match self { $(Op::$kind(op) => op.wiring()),* }
            }
            pub fn forward<T: Real>(&self, env: &mut Env<T>) {
                match self { $(Op::$kind(op) => op.forward(env)),* }
            }
            pub fn backward<T: Real>(&self, env: &mut Env<T>) {
                match self { $(Op::$kind(op) => op.backward(env)),* }
            }
            pub fn forward_cuda(&self, run: &mut Run) -> Result<(), Error> {
                match self { $(Op::$kind(op) => op.forward_cuda(run)),* }
            }
            pub fn backward_cuda(&self, run: &mut Run) -> Result<(), Error> {
                match self { $(Op::$kind(op) => op.backward_cuda(run)),* }
            }
        }
    };
}

ops! {
    Activate(activation::Activate),
    Attention(attention::Attention),
    AttentionMap(attention::AttentionMap),
    BatchNorm(batch_norm::BatchNorm),
    ChannelAffine(channel_affine::ChannelAffine),
    Constant(constant::Constant),
    FeatureLoss(feature_loss::FeatureLoss),
    Gather(gather::Gather),
    L2Normalise(l2_normalise::L2Normalise),
    LayerNorm(layer_norm::LayerNorm),
    Linear(linear::Linear),
    LogitLoss(logit_loss::LogitLoss),
    PatchMerge(patch_merge::PatchMerge),
    Patchify(patchify::Patchify),
    Pool(pool::Pool),
    RelativeBias(relative_bias::RelativeBias),
    Residual(residual::Residual),
    SparseMap(sparse::SparseMap),
    Tokens(tokens::Tokens),
    Weight(weight::Weight),
    WeightedSum(weighted_sum::WeightedSum),
}

pub(crate) use activation::Activate;
pub(crate) use attention::{Attention, AttentionMap};
pub(crate) use batch_norm::BatchNorm;
pub(crate) use channel_affine::ChannelAffine;
pub(crate) use constant::Constant;
pub(crate) use feature_loss::FeatureLoss;
pub(crate) use gather::Gather;
pub(crate) use l2_normalise::L2Normalise;
pub(crate) use layer_norm::LayerNorm;
pub(crate) use linear::Linear;
pub(crate) use logit_loss::{LogitLoss, TargetForm};
pub(crate) use patch_merge::PatchMerge;
pub(crate) use patchify::Patchify;
pub(crate) use pool::Pool;
pub(crate) use relative_bias::RelativeBias;
pub(crate) use residual::Residual;
pub(crate) use sparse::SparseMap;
pub(crate) use tokens::Tokens;
pub(crate) use weight::Weight;
pub(crate) use weighted_sum::WeightedSum;
