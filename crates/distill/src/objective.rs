//! What the student learns from the teacher's features: the paper's objective and its ablations (section 3), as operations of a plan.
//!
//! `in_dfdx` says the same in dfdx; a test holds the two together.

use fd_compute::{Act, Distance, Planner, Pooling};
use fd_data::schema::above_zero;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Epsilon of the whitening LayerNorm.
pub const WHITEN_EPS: f64 = 1e-5;

/// Which of the teacher's outputs is the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// All tokens of the last feature map, the CLS token included (the paper's).
    Map,
    /// The patch tokens.
    Patches,
    /// The mean of the patch tokens.
    Gap,
    /// The CLS token.
    Cls,
    /// The classifier's output.
    Logits,
}

/// How the target is normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Normalisation {
    /// LayerNorm without affine part: whitening (the paper's).
    LayerNorm,
    /// Unit length.
    L2,
    /// None.
    None,
}

/// How far the prediction is from the target.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum FeatureDistance {
    /// Smooth L1 (the paper's, with beta = 2).
    SmoothL1 {
        /// Where it turns linear.
        #[schemars(transform = above_zero)]
        beta: f64,
    },
    /// Mean absolute difference.
    L1 {},
    /// Mean squared difference.
    Mse {},
    /// 1 - cosine similarity.
    Cosine {},
    /// Kullback-Leibler divergence of logits, times T².
    Kl {
        /// Temperature T.
        #[schemars(transform = above_zero)]
        temperature: f64,
    },
    /// Cross-entropy with the teacher's probabilities, times T².
    SoftCrossEntropy {
        /// Temperature T.
        #[schemars(transform = above_zero)]
        temperature: f64,
    },
}

/// A distillation objective.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Objective {
    /// Which output.
    pub target: Target,
    /// Normalised how.
    pub normalisation: Normalisation,
    /// Compared how.
    pub loss: FeatureDistance,
}

impl Objective {
    /// The paper's: whitened feature map, smooth L1 with beta = 2.
    pub const PAPER: Objective =
        Objective { target: Target::Map, normalisation: Normalisation::LayerNorm, loss: FeatureDistance::SmoothL1 { beta: 2.0 } };

    /// Describes the loss `[1]` between the student's prediction and the teacher's output: tokens [B, N, C] each (`cls`: does the first
    /// stand for the image?), or logits [B, K] each.
    pub fn plan(&self, p: &mut Planner, student: Act, teacher: Act, cls: bool) -> Result<Act, Error> {
        let skip = usize::from(cls);
        let how = match self.target {
            Target::Logits => return self.plan_logits(p, student, teacher),
            Target::Map => None,
            Target::Patches => Some(Pooling::After { skip }).filter(|_| cls),
            Target::Gap => Some(Pooling::Mean { skip }),
            Target::Cls if cls => Some(Pooling::Token(0)),
            Target::Cls => return Err(Error::Usage("objective target = \"cls\" needs a CLS token on student and teacher".into())),
        };
        let (mut pred, mut target) = (student, teacher);
        if let Some(how) = how {
            (pred, target) = (p.pool(student, how)?, p.pool(teacher, how)?);
        }
        let distance = match self.loss {
            FeatureDistance::SmoothL1 { beta } => Distance::SmoothL1 { beta },
            FeatureDistance::L1 {} => Distance::L1,
            FeatureDistance::Mse {} => Distance::Mse,
            FeatureDistance::Cosine {} => Distance::Cosine,
            FeatureDistance::Kl { .. } | FeatureDistance::SoftCrossEntropy { .. } => {
                return Err(Error::Usage("objective loss `kl` and `soft-cross-entropy` compare logits: set target = \"logits\"".into()));
            }
        };
        let whiten = (self.normalisation == Normalisation::LayerNorm).then_some(WHITEN_EPS);
        if self.normalisation == Normalisation::L2 {
            target = p.l2_normalise(target);
        }
        Ok(p.feature_loss(pred, target, distance, whiten)?)
    }

    fn plan_logits(&self, p: &mut Planner, student: Act, teacher: Act) -> Result<Act, Error> {
        match self.loss {
            _ if self.normalisation != Normalisation::None => {
                Err(Error::Usage("objective target = \"logits\" takes normalisation = \"none\"".into()))
            }
            FeatureDistance::Kl { temperature } => Ok(p.kl_divergence(student, teacher, temperature)?),
            FeatureDistance::SoftCrossEntropy { temperature } => Ok(p.soft_cross_entropy(student, teacher, temperature)?),
            _ => Err(Error::Usage("objective target = \"logits\" takes loss `kl` or `soft-cross-entropy`".into())),
        }
    }
}
