//! Which controls a table has: rows that come from no teacher.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Rows that keep the others honest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Controls {
    /// Encoders with random weights, trained on the labels alone, and probes of the raw pixels.
    #[default]
    All,
    /// Encoders with random weights alone: a probe of large images' pixels is as large as all of them.
    RandomWeights,
    /// None.
    None,
}

impl Controls {
    pub(super) fn is_all(&self) -> bool {
        *self == Controls::All
    }

    pub(super) fn random_weights(self) -> bool {
        self != Controls::None
    }

    pub(super) fn raw_pixels(self) -> bool {
        self == Controls::All
    }
}
