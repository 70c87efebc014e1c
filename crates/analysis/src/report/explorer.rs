//! The attention of single images, packed so that a page can hold it and show any query of any head.
//!
//! A row (one head, one query) is kept as bytes u with the row's largest value m: a ≈ m (u / 255)². The square spends the bytes on small
//! values: where a CLS token takes nearly all of a row, what is left among the patches is still told apart. The error is at most
//! m / 255.

use fd_distill::Error;
use serde::Serialize;

use super::encode::base64;

/// Images, and what models attend to in them.
#[derive(Clone, Debug)]
pub struct Explorer {
    images: Vec<ExplorerImage>,
    models: Vec<ExplorerModel>,
}

/// An image as the models see it.
#[derive(Clone, Debug, Serialize)]
pub struct ExplorerImage {
    name: String,
    width: usize,
    height: usize,
    channels: usize,
    /// Base64 of `[height, width, channels]`.
    pixels: String,
}

/// A model's layers.
#[derive(Clone, Debug, Serialize)]
pub struct ExplorerModel {
    /// What the page calls it.
    pub label: String,
    /// Layers in order. They need not be all of the model's.
    pub layers: Vec<ExplorerLayer>,
}

/// What comes before the patches of an attention matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SpecialTokens {
    /// Is the first a CLS token?
    pub cls: bool,
    /// Register tokens after it.
    pub registers: usize,
}

/// A layer's attention in every image.
#[derive(Clone, Debug, Serialize)]
pub struct ExplorerLayer {
    name: String,
    heads: usize,
    rows: usize,
    columns: usize,
    special: SpecialTokens,
    /// The tokens of every window; none where all see each other.
    windows: Option<Vec<Vec<u32>>>,
    /// Image by image, base64 of `[windows, heads, n]` largest values (single precision, little-endian), then `[windows, heads, n, n]` bytes.
    maps: Vec<String>,
}

fn expected<T: PartialEq + std::fmt::Display>(what: &str, wanted: T, found: T) -> Result<(), Error> {
    if wanted == found { Ok(()) } else { Err(Error::Usage(format!("{what}: expected {wanted}, found {found}"))) }
}

impl Explorer {
    /// Puts images and models together.
    ///
    /// # Errors
    /// [`Error::Usage`] where there is nothing to show, and where a layer does not have one attention an image.
    pub fn new(images: Vec<ExplorerImage>, models: Vec<ExplorerModel>) -> Result<Explorer, Error> {
        if images.is_empty() || models.is_empty() {
            return Err(Error::Usage("attention explorer: expected at least one image and one model".into()));
        }
        for model in &models {
            if model.layers.is_empty() {
                return Err(Error::Usage(format!("{}: no layers to explore", model.label)));
            }
            for layer in &model.layers {
                expected(&format!("{}: layer {}: images", model.label, layer.name), images.len(), layer.maps.len())?;
            }
        }
        Ok(Explorer { images, models })
    }

    /// What the page's script reads; `colours` from none to most.
    pub(super) fn json(&self, colours: &[[u8; 3]]) -> String {
        let colours = base64(colours.as_flattened());
        serde_json::json!({ "images": self.images, "models": self.models, "colours": colours }).to_string()
    }
}

impl ExplorerImage {
    /// Of `[height, width, channels]` pixels, one channel (grey) or three (red, green, blue).
    ///
    /// # Errors
    /// [`Error::Usage`]: another number of channels or pixels.
    pub fn new(name: &str, (width, height, channels): (usize, usize, usize), pixels: &[u8]) -> Result<ExplorerImage, Error> {
        if !matches!(channels, 1 | 3) || width == 0 || height == 0 {
            return Err(Error::Usage(format!(
                "image {name}: {width} x {height} with {channels} channels cannot be shown; expected 1 or 3"
            )));
        }
        expected(&format!("image {name}: values"), width * height * channels, pixels.len())?;
        Ok(ExplorerImage { name: name.into(), width, height, channels, pixels: base64(pixels) })
    }
}

impl ExplorerLayer {
    /// A layer without images yet. `windows`: the tokens of every window, as places in the map of `grid` (rows, columns).
    ///
    /// # Errors
    /// [`Error::Usage`]: no heads, no patches, windows of several sizes, windows that do not cover the map once, windows beside special tokens.
    pub fn new(
        name: &str,
        heads: usize,
        grid: (usize, usize),
        special: SpecialTokens,
        windows: Option<Vec<Vec<u32>>>,
    ) -> Result<ExplorerLayer, Error> {
        let patches = grid.0 * grid.1;
        if heads == 0 || patches == 0 {
            return Err(Error::Usage(format!("layer {name}: {heads} heads on {} x {} patches", grid.0, grid.1)));
        }
        if let Some(windows) = &windows {
            let refuse = |why: &str| Err(Error::Usage(format!("layer {name}: windows {why}")));
            let mut all = windows.concat();
            all.sort_unstable();
            if special != SpecialTokens::default() {
                return refuse("beside CLS or register tokens");
            }
            if windows.iter().any(|w| w.len() != windows[0].len()) {
                return refuse("of several sizes");
            }
            if !all.iter().map(|t| *t as usize).eq(0..patches) {
                return refuse("that do not cover the map once");
            }
        }
        Ok(ExplorerLayer { name: name.into(), heads, rows: grid.0, columns: grid.1, special, windows, maps: vec![] })
    }

    /// Tokens that see each other, n.
    fn tokens(&self) -> usize {
        let patches = self.rows * self.columns;
        let special = usize::from(self.special.cls) + self.special.registers;
        self.windows.as_ref().and_then(|w| w.first()).map_or(special + patches, Vec::len)
    }

    /// Adds the next image's attention after softmax: `[heads, n, n]`, or `[windows, heads, n, n]`.
    ///
    /// # Errors
    /// [`Error::Usage`]: another number of values, or values that are no probabilities.
    pub fn push(&mut self, attention: &[f32]) -> Result<(), Error> {
        let (n, windows) = (self.tokens(), self.windows.as_ref().map_or(1, Vec::len));
        let what = format!("layer {}, image {}", self.name, self.maps.len());
        expected(&format!("{what}: attention values"), windows * self.heads * n * n, attention.len())?;
        if let Some(bad) = attention.iter().find(|a| !(**a >= 0.0 && a.is_finite())) {
            return Err(Error::Usage(format!("{what}: attention of {bad}")));
        }
        self.maps.push(base64(&packed(attention, n)));
        Ok(())
    }
}

/// The rows' largest values, then their bytes.
fn packed(attention: &[f32], n: usize) -> Vec<u8> {
    let largest = |row: &[f32]| row.iter().fold(0.0, |m: f32, a| m.max(*a));
    let mut bytes: Vec<u8> = attention.chunks_exact(n).flat_map(|row| largest(row).to_le_bytes()).collect();
    for row in attention.chunks_exact(n) {
        let most = largest(row).max(f32::MIN_POSITIVE);
        bytes.extend(row.iter().map(|a| (255.0 * (a / most).sqrt()).round() as u8));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why<T>(result: Result<T, Error>) -> String {
        result.err().expect("refused").to_string()
    }

    #[test]
    fn packing_errs_by_a_255th_of_the_largest_and_less_below() {
        // A sink takes nearly all; the rest falls off by powers.
        let row: Vec<f32> = std::iter::once(0.9).chain((0..15).map(|i| 0.03 * 0.7f32.powi(i))).collect();
        let bytes = packed(&[row.clone(), vec![0.0; 16]].concat(), 16);
        let (largest, levels) = bytes.split_at(8);
        assert_eq!(largest, [0.9f32.to_le_bytes(), 0f32.to_le_bytes()].concat());
        for (a, u) in row.iter().zip(levels) {
            let back = 0.9 * (f32::from(*u) / 255.0).powi(2);
            assert!((a - back).abs() <= (a * 0.9).sqrt() / 255.0 + 1e-5, "{a} {back}");
        }
        // In even steps the last seven would all be 0 or 1.
        assert!(
            levels[..16].is_sorted_by(|a, b| a >= b) && levels[9] > levels[12] && levels[15] >= 4,
            "small values are told apart: {levels:?}"
        );
        assert_eq!(levels[16..], [0; 16]);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let special = SpecialTokens { cls: true, registers: 1 };
        let mut layer = ExplorerLayer::new("3", 2, (1, 2), special, None).unwrap();
        assert_eq!(why(layer.push(&[0.25; 31])), "layer 3, image 0: attention values: expected 32, found 31");
        assert_eq!(why(layer.push(&[f32::NAN; 32])), "layer 3, image 0: attention of NaN");
        layer.push(&[0.25; 32]).unwrap();
        let image = || ExplorerImage::new("shoe", (2, 1, 1), &[1, 2]).unwrap();
        let model = |layers| vec![ExplorerModel { label: "DINO".into(), layers }];
        assert_eq!(why(Explorer::new(vec![image(), image()], model(vec![layer.clone()]))), "DINO: layer 3: images: expected 2, found 1");
        assert_eq!(why(Explorer::new(vec![image()], model(vec![]))), "DINO: no layers to explore");
        assert!(why(Explorer::new(vec![], model(vec![layer]))).contains("at least one image"));
        assert_eq!(why(ExplorerImage::new("a", (2, 2, 3), &[0; 4])), "image a: values: expected 12, found 4");
        assert!(why(ExplorerImage::new("a", (2, 2, 2), &[0; 8])).contains("2 channels"));
    }

    #[test]
    fn windows_cover_the_map_once() {
        let layer = |windows: &[&[u32]]| {
            let windows = windows.iter().map(|w| w.to_vec()).collect();
            ExplorerLayer::new("0", 1, (2, 2), SpecialTokens::default(), Some(windows))
        };
        let mut good = layer(&[&[0, 2], &[3, 1]]).unwrap();
        assert!(good.push(&[0.5; 8]).is_ok() && good.push(&[0.5; 16]).is_err());
        assert!(why(layer(&[&[0, 1], &[2]])).ends_with("of several sizes"));
        assert!(why(layer(&[&[0, 1], &[2, 2]])).ends_with("cover the map once"));
        assert!(why(layer(&[])).ends_with("cover the map once"));
        let special = SpecialTokens { cls: true, registers: 0 };
        assert!(why(ExplorerLayer::new("0", 1, (1, 1), special, Some(vec![vec![0]]))).contains("beside CLS"));
    }
}
