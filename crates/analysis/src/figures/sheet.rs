//! A sheet of paper and what lies on it, in units of a twentieth of a millimetre: a display list that both formats are drawn from.

use fd_distill::Error;
use fd_distill::figure::canvas::{Anchor, Canvas, DrawError, GREY, INK, Style, width as text_width};
use fd_distill::figure::strokes::{COLOURS, DASHES, dashed};
use plotters::prelude::*;

use super::{Caption, Width};

/// Units of a millimetre; a unit is a pixel of the PNG: 508 an inch.
pub(super) const MM: f64 = 20.0;
/// Units of a point.
const POINT: f64 = MM * 25.4 / 72.0;
/// Ems of text: titles of panels, and everything else.
pub(super) const TITLE: f64 = 8.0 * POINT;
pub(super) const TEXT: f64 = 7.0 * POINT;
/// Between the baselines of two lines, in ems.
pub(super) const LEADING: f64 = 1.3;
/// Around everything.
pub(super) const MARGIN: f64 = 1.0 * MM;
/// Thickness of axes, and of curves.
pub(super) const HAIR: f64 = 0.15 * MM;
pub(super) const STROKE: f64 = 0.3 * MM;

/// A point, x to the right and y down.
pub(super) type At = (f64, f64);

/// Something on a sheet.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Line { points: Vec<At>, colour: RGBColor, thickness: f64 },
    Area { points: Vec<At>, colour: RGBColor, alpha: f64 },
    Marker { at: At, radius: f64, style: Style },
    Text { text: String, at: At, size: f64, colour: RGBColor, anchor: Anchor },
}

/// An image on a sheet, below everything else: one pixel a unit.
#[derive(Clone, Debug)]
pub(super) struct Raster {
    pub left: usize,
    pub top: usize,
    pub width: usize,
    pub height: usize,
    /// `[height, width, 3]`.
    pub pixels: Vec<u8>,
}

/// A figure with everything in its place.
#[derive(Clone, Debug)]
pub struct Sheet {
    pub(super) width: f64,
    /// Grows with what is put below.
    pub(super) height: f64,
    pub(super) rasters: Vec<Raster>,
    pub(super) items: Vec<Item>,
}

/// What plotters says, as an error.
fn failed(why: DrawError) -> Error {
    Error::Usage(format!("figure: {why}"))
}

/// Width of a text.
pub(super) fn wide(text: &str, size: f64) -> Result<f64, Error> {
    super::output::register_font().map_err(failed)?;
    text_width(text, size).map_err(failed)
}

/// Breaks a text at spaces into lines no wider than `limit`; a longer word is cut.
pub(super) fn wrap(text: &str, size: f64, limit: f64) -> Result<Vec<String>, Error> {
    let mut lines: Vec<String> = vec![];
    for word in text.split_whitespace() {
        let longer = lines.last().map(|last| format!("{last} {word}"));
        match (longer, lines.last_mut()) {
            (Some(longer), Some(last)) if wide(&longer, size)? <= limit => *last = longer,
            _ => lines.push(shortened(word, size, limit)?),
        }
    }
    Ok(lines)
}

/// A text that fits, cut with an ellipsis if need be.
pub(super) fn shortened(text: &str, size: f64, limit: f64) -> Result<String, Error> {
    // Advance widths add up: no text of more characters than this fits, whatever they are.
    let mut short: Vec<char> = text.chars().take(400).collect();
    if short.len() == text.chars().count() && wide(text, size)? <= limit {
        return Ok(text.into());
    }
    while !short.is_empty() {
        let cut: String = short.iter().chain(&['…']).collect();
        if wide(&cut, size)? <= limit {
            return Ok(cut);
        }
        short.pop();
    }
    Ok(String::new())
}

impl Sheet {
    /// Empty, of a width.
    pub(super) fn new(width: Width) -> Sheet {
        Sheet { width: (width.mm() * MM).round(), height: MARGIN, rasters: vec![], items: vec![] }
    }

    /// Size in millimetres.
    pub fn size_mm(&self) -> (f64, f64) {
        (self.width / MM, self.height.ceil() / MM)
    }

    /// Every text with its box (left, top, right, bottom), in millimetres: what a check that nothing is cut needs.
    ///
    /// # Errors
    /// A font that cannot be read.
    pub fn texts(&self) -> Result<Vec<(String, [f64; 4])>, Error> {
        let mut texts = vec![];
        for item in &self.items {
            let Item::Text { text, at: (x, y), size, anchor, .. } = item else { continue };
            let wide = wide(text, *size)?;
            let left = match anchor {
                Anchor::Left => *x,
                Anchor::Centre => x - wide / 2.0,
                Anchor::Right => x - wide,
            };
            // From the highest ascender to the lowest descender, around the middle of the x-height.
            let bounds = [left, y - 0.55 * size, left + wide, y + 0.55 * size].map(|v| v / MM);
            texts.push((text.clone(), bounds));
        }
        Ok(texts)
    }

    pub(super) fn line(&mut self, points: Vec<At>, colour: RGBColor, thickness: f64) {
        self.items.push(Item::Line { points, colour, thickness });
    }

    /// A line in the colour and with the dashes of the `index`-th series.
    pub(super) fn stroke(&mut self, index: usize, points: &[At]) {
        let colour = series_colour(index);
        match DASHES[index % DASHES.len()] {
            None => self.line(points.to_vec(), colour, STROKE),
            Some((on, off)) => {
                let lengths = (on * 0.18 * MM, off * 0.18 * MM);
                dashed(points, lengths).into_iter().filter(|d| d.len() > 1).for_each(|dash| self.line(dash, colour, STROKE));
            }
        }
    }

    pub(super) fn area(&mut self, points: Vec<At>, colour: RGBColor, alpha: f64) {
        self.items.push(Item::Area { points, colour, alpha });
    }

    /// A filled rectangle from the upper left to the lower right corner.
    pub(super) fn rect(&mut self, (left, top): At, (right, bottom): At, colour: RGBColor) {
        self.area(vec![(left, top), (right, top), (right, bottom), (left, bottom)], colour, 1.0);
    }

    /// The outline of a rectangle.
    pub(super) fn frame(&mut self, (left, top): At, (right, bottom): At, colour: RGBColor, thickness: f64) {
        self.line(vec![(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], colour, thickness);
    }

    pub(super) fn marker(&mut self, at: At, radius: f64, style: Style) {
        self.items.push(Item::Marker { at, radius, style });
    }

    pub(super) fn text(&mut self, text: impl Into<String>, at: At, size: f64, colour: RGBColor, anchor: Anchor) {
        self.items.push(Item::Text { text: text.into(), at, size, colour, anchor });
    }

    /// Lines of text, the first with its top at `y`; where the next would begin.
    pub(super) fn block(&mut self, lines: Vec<String>, (x, mut y): At, size: f64, colour: RGBColor, anchor: Anchor) -> f64 {
        for line in lines {
            self.text(line, (x, y + size * LEADING / 2.0), size, colour, anchor);
            y += size * LEADING;
        }
        y
    }

    /// Fills a rectangle with pixels: `colour` of a place (0 to 1 right and down).
    pub(super) fn raster(&mut self, (left, top): At, (right, bottom): At, colour: impl Fn(f64, f64) -> RGBColor) {
        let (left, top, right, bottom) = (left.round(), top.round(), right.round(), bottom.round());
        let (width, height) = ((right - left).max(0.0) as usize, (bottom - top).max(0.0) as usize);
        let mut pixels = Vec::with_capacity(3 * width * height);
        for y in 0..height {
            for x in 0..width {
                let RGBColor(r, g, b) = colour((x as f64 + 0.5) / width as f64, (y as f64 + 0.5) / height as f64);
                pixels.extend([r, g, b]);
            }
        }
        self.rasters.push(Raster { left: left as usize, top: top as usize, width, height, pixels });
    }

    /// Adds the caption below everything.
    pub(super) fn with_caption(mut self, caption: &Caption) -> Result<Sheet, Error> {
        let lines = wrap(&caption.text(), TEXT, self.width - 2.0 * MARGIN)?;
        self.height = self.block(lines, (MARGIN, self.height + 1.5 * MM), TEXT, GREY, Anchor::Left) + MARGIN;
        Ok(self)
    }

    /// A legend, in as many lines as it needs, from `top` on: a stroke for each series, with its marker where lines have some; the end.
    pub(super) fn legend(&mut self, labels: &[String], top: f64, markers: bool) -> Result<f64, Error> {
        let (swatch, gap, limit) = (6.0 * MM, 1.0 * MM, self.width - MARGIN);
        let (mut x, mut y) = (MARGIN, top + TEXT * LEADING / 2.0);
        for (i, label) in labels.iter().enumerate() {
            let text = shortened(label, TEXT, limit - MARGIN - swatch - gap)?;
            let end = x + swatch + gap + wide(&text, TEXT)?;
            if end > limit && x > MARGIN {
                (x, y) = (MARGIN, y + TEXT * LEADING);
            }
            self.stroke(i, &[(x, y), (x + swatch, y)]);
            if markers {
                self.marker((x + swatch / 2.0, y), MARKER, series_style(i));
            }
            let at = x + swatch + gap;
            x = at + wide(&text, TEXT)? + 4.0 * MM;
            self.text(text, (at, y), TEXT, INK, Anchor::Left);
        }
        Ok(if labels.is_empty() { top } else { y + TEXT * LEADING / 2.0 })
    }

    /// Draws all but the rasters.
    pub(super) fn draw<B: DrawingBackend>(&self, c: &Canvas<'_, B>) -> Result<(), DrawError> {
        self.items.iter().try_for_each(|item| match item {
            Item::Line { points, colour, thickness } => c.line(points, *colour, *thickness),
            Item::Area { points, colour, alpha } => c.area(points, *colour, *alpha),
            Item::Marker { at, radius, style } => c.marker(*at, *radius, *style),
            Item::Text { text, at, size, colour, anchor } => c.text(text, *at, *size, *colour, *anchor),
        })
    }
}

/// Radius of a marker.
pub(super) const MARKER: f64 = 0.65 * MM;

/// Colour of the `index`-th series.
pub(super) fn series_colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// Marker of the `index`-th series: four outlines, filled and then hollow.
pub(super) fn series_style(index: usize) -> Style {
    use fd_distill::figure::canvas::Shape::{Circle, Diamond, Square, Triangle};
    let shape = [Circle, Square, Triangle, Diamond][index % 4];
    Style { colour: series_colour(index), shape, filled: (index / 4).is_multiple_of(2) }
}
