//! A thin layer over plotters: lengths in units of the drawing, text set on the same baseline in SVG and PNG, markers.

use std::sync::OnceLock;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// What plotters says, in words.
pub type DrawError = String;

/// Text.
pub const INK: RGBColor = RGBColor(25, 25, 25);
/// Secondary text and axes.
pub const GREY: RGBColor = RGBColor(95, 95, 95);
/// Grid lines.
pub const PALE: RGBColor = RGBColor(222, 222, 222);

/// The bundled font, with what a viewer without it takes instead.
const FAMILY: &str = "DejaVu Sans, Verdana, sans-serif";
static FONT: &[u8] = include_bytes!("../../assets/fonts/DejaVuSans.ttf");
/// Plotters' SVG text is `size / 1.24` high; its bitmap text is measured by ascent + descent, 1.164 em in this font.
const SVG_EM: f64 = 1.24;
const BITMAP_EM: f64 = 1.164;

/// Makes the bundled font known to plotters, once a process.
pub fn register_font() -> Result<(), DrawError> {
    static DONE: OnceLock<bool> = OnceLock::new();
    let done = DONE.get_or_init(|| plotters::style::register_font(FAMILY, FontStyle::Normal, FONT).is_ok());
    if *done { Ok(()) } else { Err("the bundled font cannot be read".into()) }
}

/// Width of a text, in units of the drawing. `size` is the height of an em.
pub fn width(text: &str, size: f64) -> Result<f64, DrawError> {
    // Measured large: plotters rounds to whole pixels.
    let font = FontDesc::new(FontFamily::Name(FAMILY), size * BITMAP_EM * 16.0, FontStyle::Normal);
    font.box_size(text).map(|(w, _)| f64::from(w) / 16.0).map_err(|e| e.to_string())
}

/// Where a text stands against its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Begins there.
    Left,
    /// Has its middle there.
    Centre,
    /// Ends there.
    Right,
}

/// The outline of a marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A disc.
    Circle,
    /// A square on its side.
    Square,
    /// A square on its tip.
    Diamond,
    /// A triangle on its side.
    Triangle,
}

/// What a marker looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Of the marker and its whisker.
    pub colour: RGBColor,
    /// Its outline.
    pub shape: Shape,
    /// Or hollow.
    pub filled: bool,
}

/// A drawing area with a scale.
pub struct Canvas<'a, B: DrawingBackend> {
    area: &'a DrawingArea<B, Shift>,
    scale: f64,
    bitmap: bool,
}

impl<'a, B: DrawingBackend> Canvas<'a, B> {
    /// Units of `scale` pixels; is it a bitmap, whose text plotters measures otherwise?
    pub fn new(area: &'a DrawingArea<B, Shift>, scale: f64, bitmap: bool) -> Self {
        Canvas { area, scale, bitmap }
    }

    fn at(&self, (x, y): (f64, f64)) -> (i32, i32) {
        ((x * self.scale).round() as i32, (y * self.scale).round() as i32)
    }

    /// All of it in one colour.
    pub fn fill(&self, colour: RGBColor) -> Result<(), DrawError> {
        self.area.fill(&colour).map_err(|e| e.to_string())
    }

    /// A filled rectangle between two corners.
    pub fn rect(&self, from: (f64, f64), to: (f64, f64), colour: RGBColor) -> Result<(), DrawError> {
        self.area.draw(&Rectangle::new([self.at(from), self.at(to)], colour.filled())).map_err(|e| e.to_string())
    }

    /// A polygon that what lies below shows through, as far as `alpha` is below 1.
    pub fn area(&self, points: &[(f64, f64)], colour: RGBColor, alpha: f64) -> Result<(), DrawError> {
        let points: Vec<_> = points.iter().map(|p| self.at(*p)).collect();
        self.area.draw(&Polygon::new(points, colour.mix(alpha).filled())).map_err(|e| e.to_string())
    }

    /// A line through points.
    pub fn line(&self, points: &[(f64, f64)], colour: RGBColor, thickness: f64) -> Result<(), DrawError> {
        let style = colour.stroke_width((thickness * self.scale).round().max(1.0) as u32);
        let path = PathElement::new(points.iter().map(|p| self.at(*p)).collect::<Vec<_>>(), style);
        self.area.draw(&path).map_err(|e| e.to_string())
    }

    /// A marker with a white rim, which keeps it apart from what lies under it.
    pub fn marker(&self, centre: (f64, f64), radius: f64, style: Style) -> Result<(), DrawError> {
        self.shape(centre, radius + 1.5, style.shape, WHITE)?;
        self.shape(centre, radius, style.shape, style.colour)?;
        if style.filled { Ok(()) } else { self.shape(centre, radius * 0.6, style.shape, WHITE) }
    }

    /// A small disc, lighter than its colour.
    pub fn pale_dot(&self, centre: (f64, f64), radius: f64, RGBColor(r, g, b): RGBColor) -> Result<(), DrawError> {
        let lighter = |c: u8| 255 - (255 - c) / 2;
        self.shape(centre, radius, Shape::Circle, RGBColor(lighter(r), lighter(g), lighter(b)))
    }

    /// Shapes of one radius cover about equal areas; those with corners are centred on their mass.
    fn shape(&self, (x, y): (f64, f64), radius: f64, shape: Shape, colour: RGBColor) -> Result<(), DrawError> {
        let corners = |at: &[(f64, f64)]| {
            let points: Vec<_> = at.iter().map(|(dx, dy)| self.at((x + dx * radius, y + dy * radius))).collect();
            self.area.draw(&Polygon::new(points, colour.filled())).map_err(|e| e.to_string())
        };
        match shape {
            Shape::Circle => {
                let disc = Circle::new(self.at((x, y)), (radius * self.scale).round() as i32, colour.filled());
                self.area.draw(&disc).map_err(|e| e.to_string())
            }
            Shape::Square => corners(&[(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]),
            Shape::Diamond => corners(&[(0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)]),
            Shape::Triangle => corners(&[(0.0, -1.4), (1.25, 0.7), (-1.25, 0.7)]),
        }
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
