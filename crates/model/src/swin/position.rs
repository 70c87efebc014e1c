//! The relative position bias of one window: a table, or an MLP of the offsets (Swin v2's continuous position bias).

use std::sync::Arc;

use fd_compute::{Act, Activation, Bias, Param, Planner};

use super::config::{BiasOutput, Coordinates, SwinConfig, SwinPosition};
use crate::ModelError;
use crate::block::{Declare, Pair};

/// Limit of the bias with [`BiasOutput::Sigmoid`].
const HEIGHT: f64 = 16.0;
/// Largest coordinate of a normalised offset, before the logarithm.
const RANGE: f64 = 8.0;

/// The parameters of one bias [H, n, n].
#[derive(Clone, Debug)]
pub(super) struct PositionBias {
    /// Side of the window that the table, or the scale of the coordinates, belongs to.
    side: usize,
    output: BiasOutput,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Table(Param),
    Mlp { first: Pair, second: Param, coordinates: Coordinates, unit: f64 },
}

impl PositionBias {
    pub fn declare(config: &SwinConfig, stage: usize, d: &mut Declare) -> PositionBias {
        let (side, heads) = (config.window_of(config.map_of(stage)), config.num_heads[stage]);
        let source = match config.position {
            SwinPosition::Table => Source::Table(d.add("relative_position_bias_table", &[(2 * side - 1).pow(2), heads])),
            SwinPosition::Mlp => {
                let first = d.pair("rpe_mlp.0", &[config.rpe_hidden_dim, 2]);
                let second = d.add("rpe_mlp.2.weight", &[heads, config.rpe_hidden_dim]);
                Source::Mlp { first, second, coordinates: config.coordinates, unit: largest_offset(config, stage, side) }
            }
        };
        PositionBias { side, output: config.bias_output, source }
    }

    /// The bias [H, n, n] of windows of `side` x `side` tokens, not more than its own.
    pub fn plan(&self, p: &mut Planner, side: usize) -> Result<Act, ModelError> {
        let mut table = match self.source {
            Source::Table(table) => p.weight(table)?,
            Source::Mlp { first, second, coordinates, unit } => {
                let offsets = coordinates_of(self.side, unit, coordinates);
                let offsets = p.constant([offsets.len() / 2, 2], offsets.into())?;
                let h = p.linear(offsets, first.0, Bias::Full(first.1))?;
                let h = p.activation(h, Activation::Relu);
                p.linear(h, second, Bias::None)?
            }
        };
        if self.output == BiasOutput::Sigmoid {
            table = p.activation(table, Activation::Sigmoid { height: HEIGHT });
        }
        Ok(p.relative_bias(table, window_index(side, self.side), side * side)?)
    }
}

/// The (row, column) offsets of a stage's windows (stages from 0), row by row, as its position MLP sees them: [(2 side - 1)², 2].
pub fn relative_coordinates(config: &SwinConfig, stage: usize) -> Vec<f64> {
    let side = config.window_of(config.map_of(stage));
    coordinates_of(side, largest_offset(config, stage, side), config.coordinates)
}

/// The offset that counts as one: the largest of the windows that the MLP was pretrained with.
fn largest_offset(config: &SwinConfig, stage: usize, side: usize) -> f64 {
    config.pretrained_windows.get(stage).copied().filter(|w| *w > 0).unwrap_or(side) as f64 - 1.0
}

/// The table row of every (query, key) pair of a window of `side`, in a table made for windows of `of`.
fn window_index(side: usize, of: usize) -> Arc<[u32]> {
    let n = side * side;
    let pair = |i: usize| {
        let (q, k) = (i / n, i % n);
        (q / side + of - 1 - k / side) * (2 * of - 1) + q % side + of - 1 - k % side
    };
    (0..n * n).map(|i| pair(i) as u32).collect()
}

/// The (row, column) offsets of a window of `side`, row by row, as the MLP sees them; `unit` is the largest offset of the window that
/// they are measured by.
fn coordinates_of(side: usize, unit: f64, how: Coordinates) -> Vec<f64> {
    let reach = side as i64 - 1;
    let of = |offset: i64| {
        // A window of one token has the offset 0 only.
        let x = if offset == 0 { 0.0 } else { offset as f64 / unit };
        match how {
            Coordinates::Linear => x,
            Coordinates::Norm8Log => x.signum() * ((RANGE * x).abs() + 1.0).log2() / RANGE.log2() * f64::from(u8::from(x != 0.0)),
        }
    };
    (-reach..=reach).flat_map(|dy| (-reach..=reach).flat_map(move |dx| [of(dy), of(dx)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relative_index;

    #[test]
    fn a_window_in_its_own_table_and_in_a_larger_one() {
        assert_eq!(&*window_index(3, 3), relative_index((3, 3), false));
        // The offset (0, 0) is the middle of the table; neighbours lie beside it.
        assert_eq!(&*window_index(1, 4), [24]);
        assert_eq!(window_index(2, 4)[1], 23);
    }

    #[test]
    fn coordinates_are_the_official_ones() {
        let c = coordinates_of(4, 3.0, Coordinates::Norm8Log);
        assert_eq!((c.len(), c[48], c[49]), (98, 0.0, 0.0));
        // The largest offset is 8: log2(9) / 3; the least one -1/3: -log2(8/3 + 1) / 3.
        assert!((c[97] - 9f64.log2() / 3.0).abs() < 1e-15 && (c[47] + (8.0 / 3.0 + 1.0f64).log2() / 3.0).abs() < 1e-15);
        // Measured by the window it was pretrained with, the same offset is larger.
        assert!((coordinates_of(4, 2.0, Coordinates::Norm8Log)[97] - 13f64.log2() / 3.0).abs() < 1e-15);
        assert_eq!(coordinates_of(3, 2.0, Coordinates::Linear)[..2], [-1.0, -1.0]);
        assert!(coordinates_of(1, 0.0, Coordinates::Norm8Log).iter().all(|v| *v == 0.0));
    }
}
