//! Resizing of 8-bit images, equal to Pillow's bit for bit, which is what torchvision applies to PIL images.
//!
//! A region is cut out first and then resized on its own: pixels outside it never contribute, its edges behave as image edges. An
//! output pixel with centre `c = (x + 1/2) * in/out` is the weighted mean of the inputs within `support * max(1, in/out)` of it:
//! when shrinking, the filter widens with the scale (antialiasing). Weights are normalised in f64, rounded to 22 bits of fraction
//! (32-bit sums, less 8 bits of pixel and 2 of headroom for negative lobes), summed in i32 and clipped. Rows first, rounded to 8
//! bits, then columns: that order and that rounding are part of the result.

use std::borrow::Cow;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result, check_length, check_setting};
use crate::source::Image8;

const PRECISION_BITS: u32 = 32 - 8 - 2;
/// The largest side of a resized image: far beyond any use, it keeps products of sides from overflowing.
pub(crate) const MAX_SIDE: usize = 1 << 16;
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// The interpolation filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interpolation {
    /// Triangle, support 1.
    Bilinear,
    /// Keys' cubic with a = -0.5, support 2.
    Bicubic,
}

impl Interpolation {
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// A rectangle of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first row.
    pub top: usize,
    /// The first column.
    pub left: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Region {
    /// All of a picture of `[height, width]`.
    #[must_use]
    pub fn whole([height, width]: [usize; 2]) -> Self {
        Self { top: 0, left: 0, height, width }
    }

    /// `[height, width]`.
    #[must_use]
    pub fn size(self) -> [usize; 2] {
        [self.height, self.width]
    }

    fn rows(self) -> Range<usize> {
        self.top..self.top + self.height
    }

    fn columns(self) -> Range<usize> {
        self.left..self.left + self.width
    }

    /// Refuses a region that is empty or leaves a picture of `[height, width]`.
    fn check(self, what: &'static str, [height, width]: [usize; 2]) -> Result<()> {
        for (start, len, bound) in [(self.top, self.height, height), (self.left, self.width, width)] {
            let found = start.saturating_add(len);
            if len == 0 || found > bound {
                return Err(DataError::Shape { what, expected: bound, found: if len == 0 { 0 } else { found } });
            }
        }
        Ok(())
    }
}

/// One resize: `region` of the image becomes `size`, of which `window` is wanted. Computing only the window gives the same values as
/// computing everything and cutting it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resample {
    /// What is cut out of the image first.
    pub region: Region,
    /// The `[height, width]` it is resized to.
    pub size: [usize; 2],
    /// The part of that to compute.
    pub window: Region,
    /// The filter.
    pub interpolation: Interpolation,
}

impl Resample {
    /// Resizes `region` to `[height, width]`, all of it.
    #[must_use]
    pub fn new(region: Region, size: [usize; 2], interpolation: Interpolation) -> Self {
        Self { region, size, window: Region::whole(size), interpolation }
    }

    /// The usual evaluation transform: the short side becomes `short` pixels (the long one in proportion, rounded down), then the
    /// central `crop` = `[height, width]` is cut out (offsets round half to even). As torchvision's `Resize(short)` and `CenterCrop`,
    /// except that a crop beyond the resized image is cut at its edge, not padded.
    #[must_use]
    pub fn short_side_centre_crop([height, width]: [usize; 2], short: usize, crop: [usize; 2], interpolation: Interpolation) -> Self {
        let long = |a: usize, b: usize| (short as f64 * a as f64 / b.max(1) as f64) as usize;
        let size = if height <= width { [short, long(width, height)] } else { [long(height, width), short] };
        let side = |axis: usize| {
            let len = crop[axis].min(size[axis]);
            (((size[axis] - len) as f64 / 2.0).round_ties_even() as usize, len)
        };
        let ((top, height_), (left, width_)) = (side(0), side(1));
        let window = Region { top, left, height: height_, width: width_ };
        Self { region: Region::whole([height, width]), size, window, interpolation }
    }

    /// Without a change of size nothing is interpolated: the pixels wanted are these of the image.
    pub(crate) fn unscaled(&self) -> Option<Region> {
        let (region, window) = (self.region, self.window);
        let moved = Region { top: region.top + window.top, left: region.left + window.left, ..window };
        (region.size() == self.size).then_some(moved)
    }
}

/// Resizes a region of an image to `[height, width]`. For many images keep a [`Resizer`].
///
/// # Errors
/// A region outside of the image, an empty size, more than 4 channels.
pub fn resize(image: &Image8<'_>, region: Region, size: [usize; 2], interpolation: Interpolation) -> Result<Image8<'static>> {
    resample(image, &Resample::new(region, size, interpolation))
}

/// Resizes as `resample` says, into an image of the window's size.
///
/// # Errors
/// As [`resize`].
pub fn resample(image: &Image8<'_>, resample: &Resample) -> Result<Image8<'static>> {
    resample.check(image)?;
    let [height, width] = resample.window.size();
    let mut data = vec![0; height * width * image.channels];
    Resizer::default().resize(image, resample, &mut data)?;
    Ok(Image8 { height, width, channels: image.channels, data: Cow::Owned(data) })
}

impl Resample {
    /// Whether it can be applied to `image`.
    pub(crate) fn check(&self, image: &Image8<'_>) -> Result<()> {
        image.check()?;
        if image.channels > 4 {
            let found = format!("{} channels", image.channels);
            return Err(DataError::Unsupported { file: "resize".into(), expected: "1 to 4 channels", found });
        }
        for side in self.size {
            check_setting(side <= MAX_SIDE, "resized side", "at most 65536 pixels", side)?;
        }
        self.region.check("end of the region to resize", [image.height, image.width])?;
        self.window.check("end of the window of the resized image", self.size)
    }
}

/// The buffers of a resize. They grow to what was needed once and are used again; weights are computed anew only when the geometry
/// changes.
#[derive(Clone, Debug, Default)]
pub struct Resizer {
    horizontal: Taps,
    vertical: Taps,
    /// The result of the first pass.
    rows: Vec<u8>,
    sums: Vec<i32>,
}

impl Resizer {
    /// Resizes into `out`: `window.height x window.width x channels` values (HWC).
    ///
    /// # Errors
    /// As [`resize`], and [`DataError::Shape`] if `out` has another length.
    pub fn resize(&mut self, image: &Image8<'_>, resample: &Resample, out: &mut [u8]) -> Result<()> {
        resample.check(image)?;
        let [height, width] = resample.window.size();
        check_length("resized values", height * width * image.channels, out.len())?;
        let Resample { region, size, window, interpolation } = *resample;
        self.horizontal.prepare(region.width, size[1], window.columns(), interpolation);
        self.vertical.prepare(region.height, size[0], window.rows(), interpolation);
        let needed = self.vertical.inputs();
        self.rows.resize(needed.len() * width * image.channels, 0);
        match image.channels {
            1 => self.across::<1>(image, region, needed.clone()),
            2 => self.across::<2>(image, region, needed.clone()),
            3 => self.across::<3>(image, region, needed.clone()),
            _ => self.across::<4>(image, region, needed.clone()),
        }
        self.down(needed.start, width * image.channels, out);
        Ok(())
    }

    /// First pass: each needed row of the region, resized to the window's columns.
    fn across<const C: usize>(&mut self, image: &Image8<'_>, region: Region, needed: Range<usize>) {
        let row_out = self.horizontal.spans.len() * C;
        for (row, out) in needed.zip(self.rows.chunks_exact_mut(row_out)) {
            let start = ((region.top + row) * image.width + region.left) * C;
            let row = &image.data[start..start + region.width * C];
            for ((first, weights), out) in self.horizontal.iter().zip(out.as_chunks_mut::<C>().0) {
                let mut sums = [HALF; C];
                for (pixel, &weight) in row[first * C..].as_chunks::<C>().0.iter().zip(weights) {
                    for (sum, &value) in sums.iter_mut().zip(pixel) {
                        *sum += i32::from(value) * weight;
                    }
                }
                *out = sums.map(clip8);
            }
        }
    }

    /// Second pass: each row of the window as a weighted sum of rows of the first, the first of which is the region's row `origin`.
    fn down(&mut self, origin: usize, row_len: usize, out: &mut [u8]) {
        self.sums.resize(row_len, 0);
        for ((first, weights), out) in self.vertical.iter().zip(out.chunks_exact_mut(row_len)) {
            self.sums.fill(HALF);
            for (row, &weight) in self.rows[(first - origin) * row_len..].chunks_exact(row_len).zip(weights) {
                for (sum, &value) in self.sums.iter_mut().zip(row) {
                    *sum += i32::from(value) * weight;
                }
            }
            for (out, &sum) in out.iter_mut().zip(&self.sums) {
                *out = clip8(sum);
            }
        }
    }
}

fn clip8(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// The fixed-point weights of one axis.
#[derive(Clone, Debug, Default)]
struct Taps {
    /// What they were computed for.
    made_for: Option<(usize, usize, Range<usize>, Interpolation)>,
    /// For each output of the window, its first input and where its weights end.
    spans: Vec<(usize, usize)>,
    weights: Vec<i32>,
    exact: Vec<f64>,
}

impl Taps {
    fn prepare(&mut self, input: usize, output: usize, window: Range<usize>, filter: Interpolation) {
        let wanted = Some((input, output, window.clone(), filter));
        if self.made_for == wanted {
            return;
        }
        self.made_for = wanted;
        self.spans.clear();
        self.weights.clear();
        let scale = input as f64 / output as f64;
        let widened = scale.max(1.0);
        let (support, inverse) = (filter.support() * widened, 1.0 / widened);
        for x in window {
            let centre = (x as f64 + 0.5) * scale;
            // A cast of a negative number gives 0, which is the clamp wanted here.
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(input);
            self.exact.clear();
            self.exact.extend((first..end).map(|i| filter.weight((i as f64 - centre + 0.5) * inverse)));
            let total: f64 = self.exact.iter().sum();
            let norm = if total == 0.0 { 1.0 } else { total };
            self.weights.extend(self.exact.iter().map(|w| fixed_point(w / norm)));
            self.spans.push((first, self.weights.len()));
        }
    }

    /// For each output of the window: its first input, its weights.
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let mut start = 0;
        self.spans.iter().map(move |&(first, end)| (first, &self.weights[std::mem::replace(&mut start, end)..end]))
    }

    /// The inputs that any output of the window needs. First inputs and last inputs both grow with the output's position.
    fn inputs(&self) -> Range<usize> {
        let start = self.spans.first().map_or(0, |&(first, _)| first);
        start..self.iter().map(|(first, weights)| first + weights.len()).max().unwrap_or(start)
    }
}

/// Rounds half away from zero.
fn fixed_point(weight: f64) -> i32 {
    (weight * f64::from(1u32 << PRECISION_BITS)).round() as i32
}
