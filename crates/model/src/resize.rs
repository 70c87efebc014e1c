//! Weights for images or windows of another size: position tables are interpolated as the official code does, when that is asked for.
//!
//! Absolute positions: bicubic (DINOv2 with its offset). Relative tables: the spline on geometric coordinates. Swin v2's position MLP
//! needs nothing: its coordinates are computed anew. Everything else must fit as it is.

use fd_compute::Layout;

use crate::positions::{bicubic_scaled, remap_relative_table};
use crate::{Checkpoint, Model, ModelConfig, ModelError};

/// A tensor that was interpolated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resized {
    /// Its name.
    pub tensor: String,
    /// Rows and columns of the grid (or of the window) it was for.
    pub from: (usize, usize),
    /// And of the one it is for now.
    pub to: (usize, usize),
}

impl std::fmt::Display for Resized {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Resized { tensor, from, to } = self;
        write!(f, "`{tensor}` interpolated from {} x {} to {} x {}", from.0, from.1, to.0, to.1)
    }
}

impl Checkpoint {
    /// Interpolates the position tables of an encoder to the sizes that `config` needs; says which. `from` is the grid of patches that a
    /// ViT's tables (or a Swin's absolute positions) are for; none: a square one.
    ///
    /// # Errors
    /// A model that cannot be built; a table that is not of a square grid where `from` is not given, not of the grid given, or of other
    /// widths or heads. Then nothing has changed. Tensors that are missing or of no use are left to [`Checkpoint::load`].
    pub fn resize_positions(&mut self, config: &ModelConfig, from: Option<(usize, usize)>) -> Result<Vec<Resized>, ModelError> {
        let mut layout = Layout::builder();
        Model::declare(config, &mut layout, "")?;
        let layout = layout.finish();
        let (mut tensors, mut resized) = (vec![], vec![]);
        for p in layout.iter() {
            let (name, shape) = (layout.name(p), layout.shape(p));
            let Some(kind) = Kind::of(name, config) else { continue };
            let Some(tensor) = self.tensors.get(name).filter(|t| t.shape != shape) else { continue };
            let misfit = || ModelError::Shape {
                file: self.source.clone(),
                tensor: name.to_string(),
                expected: shape.to_vec(),
                found: tensor.shape.clone(),
            };
            // All but the rows must agree.
            let rows = if kind.table { 0 } else { 1 };
            let others = |shape: &[usize]| shape.iter().enumerate().filter(|(i, _)| *i != rows).map(|(_, n)| *n).collect::<Vec<_>>();
            if tensor.shape.len() != shape.len() || others(&tensor.shape) != others(shape) || tensor.shape[rows] < kind.extra {
                return Err(misfit());
            }
            let given = from.filter(|_| kind.of_grid);
            let source = kind.source(tensor.shape[rows] - kind.extra, given).ok_or_else(misfit)?;
            let values: Vec<f64> = tensor.data.iter().map(|v| f64::from(*v)).collect();
            let cols = shape[shape.len() - 1];
            let values = if kind.table {
                remap_relative_table(&values, cols, source, kind.to, kind.extra)
            } else {
                bicubic_scaled(source, kind.to, kind.extra, kind.offset).apply(&values, cols)
            };
            tensors.push((name.to_string(), shape.to_vec(), values));
            resized.push(Resized { tensor: name.to_string(), from: source, to: kind.to });
        }
        for (name, shape, values) in tensors {
            let data = values.into_iter().map(|v| v as f32).collect();
            self.tensors.insert(name, crate::Tensor { shape, data });
        }
        Ok(resized)
    }
}

/// What a position table is.
struct Kind {
    /// Of relative positions?
    table: bool,
    /// Is it of the grid of patches, and not of a window?
    of_grid: bool,
    /// The grid or window that the model needs it for.
    to: (usize, usize),
    /// Rows that belong to no place: the CLS token's.
    extra: usize,
    /// What is added to the sides before they are compared.
    offset: f64,
}

impl Kind {
    fn of(name: &str, config: &ModelConfig) -> Option<Kind> {
        let table = name.ends_with("relative_position_bias_table");
        match config {
            ModelConfig::Vit(c) if table => {
                Some(Kind { table, of_grid: true, to: c.grid(), extra: if c.cls_token { 3 } else { 0 }, offset: 0.0 })
            }
            ModelConfig::Vit(c) if name == "pos_embed" => {
                let extra = usize::from(c.cls_token);
                Some(Kind { table, of_grid: true, to: c.grid(), extra, offset: c.interpolate_offset })
            }
            ModelConfig::Swin(c) if table => {
                let stage = name.strip_prefix("layers.")?.split_once('.')?.0.parse().ok()?;
                let side = c.window_of(c.map_of(stage));
                Some(Kind { table, of_grid: false, to: (side, side), extra: 0, offset: 0.0 })
            }
            ModelConfig::Swin(c) if name == "absolute_pos_embed" => {
                Some(Kind { table, of_grid: true, to: c.patches(), extra: 0, offset: 0.0 })
            }
            _ => None,
        }
    }

    /// The grid of a table of so many rows.
    fn source(&self, rows: usize, given: Option<(usize, usize)>) -> Option<(usize, usize)> {
        let rows_of = |(h, w): (usize, usize)| {
            if self.table { (2 * h).checked_sub(1)?.checked_mul((2 * w).checked_sub(1)?) } else { h.checked_mul(w) }
        };
        let square = || {
            let root = rows.isqrt();
            let side = if self.table { root.div_ceil(2) } else { root };
            (side, side)
        };
        let grid = given.unwrap_or_else(square);
        (grid.0 > 0 && grid.1 > 0 && rows_of(grid) == Some(rows)).then_some(grid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Init, Position, SwinConfig, VitConfig, initialise};
    use fd_compute::{DType, Params};

    fn weights(config: &ModelConfig) -> (Checkpoint, Params) {
        let mut layout = Layout::builder();
        Model::declare(config, &mut layout, "").unwrap();
        let mut params = Params::new(&layout.finish(), DType::F32);
        initialise(&mut params, "", config, Init::Official, 3);
        // Tables that start at zero would show nothing.
        for p in params.layout().clone().iter() {
            if params.layout().name(p).contains("table") {
                let values = (0..params.to_f64(p).len()).map(|i| (i as f64).sin()).collect::<Vec<_>>();
                params.set(p, &values);
            }
        }
        (Checkpoint::of(&params, ""), params)
    }

    fn vit(img_size: (usize, usize), position: Position) -> ModelConfig {
        VitConfig { img_size, patch_size: 4, embed_dim: 8, depth: 2, num_heads: 2, position, ..VitConfig::default() }.into()
    }

    #[test]
    fn tables_of_another_image_size_load_when_asked_for() {
        let swin = |side, window| -> ModelConfig {
            let base =
                SwinConfig { img_size: (side, side), embed_dim: 8, depths: vec![1, 2], num_heads: vec![2, 2], ..SwinConfig::default() };
            SwinConfig { window_size: window, absolute_position: true, ..base }.into()
        };
        let pairs = [
            (vit((16, 16), Position::Absolute), vit((24, 24), Position::Absolute), 1),
            (vit((16, 16), Position::Relative), vit((24, 32), Position::Relative), 2),
            (vit((16, 16), Position::AbsoluteSharedRelative), vit((8, 8), Position::AbsoluteSharedRelative), 2),
            (swin(56, 7), swin(112, 14), 4),
        ];
        for (from, to, tables) in pairs {
            let (mut weights, _) = weights(&from);
            let mut layout = Layout::builder();
            Model::declare(&to, &mut layout, "").unwrap();
            let mut params = Params::new(&layout.finish(), DType::F32);
            let refused = weights.load(&mut params, "").unwrap_err().to_string();
            assert!(refused.contains("has shape"), "{refused}");
            let resized = weights.resize_positions(&to, None).unwrap();
            assert_eq!(resized.len(), tables, "{resized:?}");
            weights.load(&mut params, "").unwrap();
            assert!(weights.resize_positions(&to, None).unwrap().is_empty());
        }
    }

    #[test]
    fn a_rectangle_has_to_be_named_and_other_misfits_stay() {
        let (from, to) = (vit((8, 24), Position::AbsoluteRelative), vit((24, 24), Position::AbsoluteRelative));
        let (mut rectangle, _) = weights(&from);
        let before = rectangle.clone();
        assert!(rectangle.resize_positions(&to, None).unwrap_err().to_string().contains("pos_embed"));
        assert!(rectangle.resize_positions(&to, Some((3, 4))).is_err());
        assert_eq!(rectangle, before);
        assert_eq!(rectangle.resize_positions(&to, Some((2, 6))).unwrap().len(), 3);
        let (mut narrow, _) = weights(&vit((16, 16), Position::Absolute));
        let ModelConfig::Vit(wide) = vit((24, 24), Position::Absolute) else { panic!("a ViT") };
        let wide = VitConfig { embed_dim: 16, ..wide }.into();
        assert!(narrow.resize_positions(&wide, None).unwrap_err().to_string().contains("[1, 37, 16]"));
    }
}
