//! Where a layer's tokens lie: what of an attention matrix is a patch, and how far two patches are apart.

use std::sync::Arc;

use fd_compute::Windows;
use fd_model::ModelConfig;

use crate::Error;

/// The tokens that attend to each other in a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LayerShape {
    /// The stage, from 0; of a ViT 0.
    pub stage: usize,
    /// Heads H.
    pub heads: usize,
    /// Rows and columns of the map.
    pub map: (usize, usize),
    /// Pixels from one token to the next.
    pub pixels: usize,
    /// Is the first token a CLS token?
    pub cls: bool,
    /// Tokens before the patches: CLS, then registers.
    pub special: usize,
    /// The windows of a Swin.
    pub windows: Option<Arc<Windows>>,
}

impl LayerShape {
    /// Of every layer of a model, in order.
    ///
    /// # Errors
    /// Windows that do not tile the maps.
    pub fn of(model: &ModelConfig) -> Result<Vec<LayerShape>, Error> {
        match model {
            ModelConfig::Vit(c) => {
                let special = usize::from(c.cls_token) + c.reg_tokens;
                let (heads, map, pixels, cls) = (c.num_heads, c.grid(), c.patch_size, c.cls_token);
                Ok(vec![LayerShape { stage: 0, heads, map, pixels, cls, special, windows: None }; c.depth])
            }
            ModelConfig::Swin(c) => {
                let mut layers = vec![];
                for stage in 0..c.out_stage() {
                    let map = c.map_of(stage);
                    let windows = c.windows(stage, map)?.map(Arc::new);
                    let (heads, pixels) = (c.num_heads[stage], c.patch_size << stage);
                    layers.extend((0..c.depths[stage]).map(|i| {
                        let windows = Some(windows[i % 2].clone());
                        LayerShape { stage, heads, map, pixels, cls: false, special: 0, windows }
                    }));
                }
                Ok(layers)
            }
        }
    }

    /// Rows and columns of the patches that see each other: the map's, or a window's.
    pub fn grid(&self) -> (usize, usize) {
        self.windows.as_ref().map_or(self.map, |w| (w.side(), w.side()))
    }

    /// Patches n that see each other.
    pub fn patches(&self) -> usize {
        self.grid().0 * self.grid().1
    }

    /// Rows N of an attention matrix: special tokens, then patches.
    pub fn total(&self) -> usize {
        self.special + self.patches()
    }

    /// Windows of an image.
    pub fn count(&self) -> usize {
        self.windows.as_ref().map_or(1, |w| w.count())
    }

    /// Do all tokens of a window lie side by side in the image? (Not where a shift brought opposite edges together.)
    pub fn whole(&self, window: usize) -> bool {
        self.windows.as_ref().is_none_or(|w| w.regions(window).is_empty())
    }

    /// (row, column) in the map of a window's patches.
    fn places(&self, window: usize) -> Vec<(usize, usize)> {
        let at = |i: usize| (i / self.map.1, i % self.map.1);
        match &self.windows {
            None => (0..self.patches()).map(at).collect(),
            Some(w) => w.members(window).iter().map(|&i| at(i as usize)).collect(),
        }
    }
}

/// Distances between the patches of every window, in pixels. Most windows are alike: each kind is there once.
#[derive(Debug)]
pub(crate) struct Distances {
    kinds: Vec<Vec<f32>>,
    /// The kind of every window.
    of: Vec<usize>,
    patches: usize,
}

impl Distances {
    /// Of a layer's windows.
    pub fn new(shape: &LayerShape) -> Distances {
        let (mut kinds, mut of) = (vec![], vec![]);
        for window in 0..shape.count() {
            let places = shape.places(window);
            let far =
                |a: &(usize, usize), b: &(usize, usize)| (a.0.abs_diff(b.0) as f64).hypot(a.1.abs_diff(b.1) as f64) * shape.pixels as f64;
            let all: Vec<f32> = places.iter().flat_map(|q| places.iter().map(move |k| far(q, k) as f32)).collect();
            of.push(kinds.iter().position(|kind| *kind == all).unwrap_or(kinds.len()));
            if of.last() == Some(&kinds.len()) {
                kinds.push(all);
            }
        }
        Distances { kinds, of, patches: shape.patches() }
    }

    /// From patch `query` of a window to all patches of that window.
    pub fn row(&self, window: usize, query: usize) -> &[f32] {
        &self.kinds[self.of[window]][query * self.patches..][..self.patches]
    }
}

#[cfg(test)]
mod tests {
    use fd_model::{SwinConfig, VitConfig};

    use super::*;

    #[test]
    fn a_shifted_window_knows_where_its_tokens_come_from() {
        let config = SwinConfig { img_size: (32, 32), depths: vec![2, 1], num_heads: vec![2, 4], window_size: 4, ..SwinConfig::default() };
        let layers = LayerShape::of(&config.into()).unwrap();
        assert_eq!(
            layers.iter().map(|l| (l.stage, l.heads, l.map, l.pixels)).collect::<Vec<_>>(),
            [(0, 2, (8, 8), 4), (0, 2, (8, 8), 4), (1, 4, (4, 4), 8)]
        );
        let (plain, shifted) = (Distances::new(&layers[0]), Distances::new(&layers[1]));
        assert_eq!((plain.kinds.len(), shifted.kinds.len()), (1, 4));
        // Neighbours in the last window's top row: columns 6 and 7 of the map, then 0, which the shift brought there.
        assert_eq!(shifted.row(3, 0)[..3], [0.0, 4.0, 24.0]);
        assert_eq!(plain.row(3, 0)[..3], [0.0, 4.0, 8.0]);
        assert!(layers[1].whole(0) && !layers[1].whole(1) && (0..4).all(|w| layers[0].whole(w)));
    }

    #[test]
    fn special_tokens_come_first() {
        let config = VitConfig { img_size: (28, 42), patch_size: 14, reg_tokens: 4, ..VitConfig::default() };
        let layers = LayerShape::of(&config.into()).unwrap();
        assert_eq!((layers[0].special, layers[0].grid(), layers[0].total()), (5, (2, 3), 11));
        assert_eq!(Distances::new(&layers[0]).row(0, 0), [0.0, 14.0, 28.0, 14.0, 14.0 * 2f32.sqrt(), 14.0 * 5f32.sqrt()]);
    }
}
