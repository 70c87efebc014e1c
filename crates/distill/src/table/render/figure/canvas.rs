//! A thin layer over plotters: lengths in units of the drawing, text set on the same baseline in SVG and PNG, hatching.

use std::sync::OnceLock;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// What plotters says, in words.
pub(super) type DrawError = String;

/// Text.
pub(super) const INK: RGBColor = RGBColor(25, 25, 25);
/// Secondary text and axes.
pub(super) const GREY: RGBColor = RGBColor(95, 95, 95);
/// Grid lines.
pub(super) const PALE: RGBColor = RGBColor(222, 222, 222);

/// The bundled font, with what a viewer without it takes instead.
const FAMILY: &str = "DejaVu Sans, Verdana, sans-serif";
static FONT: &[u8] = include_bytes!("../../../../assets/fonts/DejaVuSans.ttf");
/// Plotters' SVG text is `size / 1.24` high; its bitmap text is measured by ascent + descent, 1.164 em in this font.
const SVG_EM: f64 = 1.24;
const BITMAP_EM: f64 = 1.164;

/// Makes the bundled font known to plotters, once a process.
pub(super) fn register_font() -> Result<(), DrawError> {
    static DONE: OnceLock<bool> = OnceLock::new();
    let done = DONE.get_or_init(|| plotters::style::register_font(FAMILY, FontStyle::Normal, FONT).is_ok());
    if *done { Ok(()) } else { Err("the bundled font cannot be read".into()) }
}

/// Width of a text, in units of the drawing. `size` is the height of an em.
pub(super) fn width(text: &str, size: f64) -> Result<f64, DrawError> {
    // Measured large: plotters rounds to whole pixels.
    let font = FontDesc::new(FontFamily::Name(FAMILY), size * BITMAP_EM * 16.0, FontStyle::Normal);
    font.box_size(text).map(|(w, _)| f64::from(w) / 16.0).map_err(|e| e.to_string())
}

/// Where a text stands against its point.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Left,
    Centre,
    Right,
}

/// Left, top, right, bottom.
pub(super) type Rect = (f64, f64, f64, f64);

/// A drawing area with a scale.
pub(super) struct Canvas<'a, B: DrawingBackend> {
    area: &'a DrawingArea<B, Shift>,
    scale: f64,
    bitmap: bool,
}

impl<'a, B: DrawingBackend> Canvas<'a, B> {
    pub fn new(area: &'a DrawingArea<B, Shift>, scale: f64, bitmap: bool) -> Self {
        Canvas { area, scale, bitmap }
    }

    fn at(&self, (x, y): (f64, f64)) -> (i32, i32) {
        ((x * self.scale).round() as i32, (y * self.scale).round() as i32)
    }

    pub fn fill(&self, colour: RGBColor) -> Result<(), DrawError> {
        self.area.fill(&colour).map_err(|e| e.to_string())
    }

    pub fn rect(&self, (left, top, right, bottom): Rect, colour: RGBColor) -> Result<(), DrawError> {
        let shape = Rectangle::new([self.at((left, top)), self.at((right, bottom))], colour.filled());
        self.area.draw(&shape).map_err(|e| e.to_string())
    }

    pub fn line(&self, points: &[(f64, f64)], colour: RGBColor, thickness: f64) -> Result<(), DrawError> {
        let style = colour.stroke_width((thickness * self.scale).round().max(1.0) as u32);
        let path = PathElement::new(points.iter().map(|p| self.at(*p)).collect::<Vec<_>>(), style);
        self.area.draw(&path).map_err(|e| e.to_string())
    }

    /// A tinted rectangle with diagonal lines and an outline.
    pub fn hatched(&self, (left, top, right, bottom): Rect, colour: RGBColor) -> Result<(), DrawError> {
        let tint = |c: u8| 255 - ((255 - u16::from(c)) / 6) as u8;
        self.rect((left, top, right, bottom), RGBColor(tint(colour.0), tint(colour.1), tint(colour.2)))?;
        let height = bottom - top;
        let mut x = left - height + 6.0;
        while x < right {
            // From (x, bottom) up to (x + height, top), cut at both sides.
            let (from, to) = (x.max(left), (x + height).min(right));
            self.line(&[(from, bottom - (from - x)), (to, bottom - (to - x))], colour, 1.3)?;
            x += 6.0;
        }
        self.line(&[(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], colour, 1.3)
    }

    /// Text whose x-height's middle is at `y`; `size` is the height of an em.
    pub fn text(&self, text: &str, (x, y): (f64, f64), size: f64, colour: RGBColor, anchor: Anchor) -> Result<(), DrawError> {
        let em = size * self.scale;
        let h = match anchor {
            Anchor::Left => HPos::Left,
            Anchor::Centre => HPos::Center,
            Anchor::Right => HPos::Right,
        };
        // SVG centres by itself. Bitmap text has its baseline (size / 2 - size / 1.24 / 2) below the point, for `size` = 1.164 em:
        // what is missing to half the x-height (0.547 em in this font) is added here.
        let (size, dy) = if self.bitmap {
            let size = em * BITMAP_EM;
            (size, 0.547 / 2.0 * em - (size / 2.0 - size / SVG_EM / 2.0))
        } else {
            (em * SVG_EM, 0.0)
        };
        let font = FontDesc::new(FontFamily::Name(FAMILY), size, FontStyle::Normal);
        let style = font.color(&colour).pos(Pos::new(h, VPos::Center));
        let (x, y) = self.at((x, y));
        self.area.draw_text(text, &style, (x, y + dy.round() as i32)).map_err(|e| e.to_string())
    }
}
