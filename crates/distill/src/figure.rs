//! Figures for papers: one drawing gives an SVG (text stays text) and a PNG of twice the size.

pub mod axis;
pub mod canvas;
pub(crate) mod chart;
pub mod strokes;

use std::path::Path;

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use plotters::prelude::*;

use crate::Error;
use crate::run_dir::write_atomically;
use canvas::{Canvas, DrawError};

/// Pixels of the PNG for one unit of a drawing.
const PNG_SCALE: f64 = 2.0;

/// What can be drawn, in units of its own.
pub(crate) trait Drawing {
    /// Width and height.
    fn size(&self) -> (f64, f64);

    /// Draws it.
    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<'_, B>) -> Result<(), DrawError>;
}

/// Draws into a file: `.svg` or `.png`. `make` lays the drawing out, once the font is known.
///
/// # Errors
/// [`Error::Usage`] for another ending, [`Error::File`] when it cannot be drawn or written.
pub(crate) fn save<D: Drawing>(path: &Path, make: impl FnOnce() -> Result<D, DrawError>) -> Result<(), Error> {
    let fail = |e: DrawError| Error::File { path: path.to_path_buf(), why: format!("cannot be drawn: {e}") };
    match path.extension().and_then(|e| e.to_str()) {
        Some("svg") => whole(path, svg(make).map_err(fail)?.as_bytes()),
        Some("png") => whole(path, &png(make).map_err(fail)?),
        _ => Err(Error::Usage(format!("{}: a figure is .svg or .png", path.display()))),
    }
}

fn whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_atomically(path, |file| std::io::Write::write_all(file, bytes))
}

/// The drawing as SVG text.
pub(crate) fn svg<D: Drawing>(make: impl FnOnce() -> Result<D, DrawError>) -> Result<String, DrawError> {
    canvas::register_font()?;
    let (drawing, mut svg) = (make()?, String::new());
    let (width, height) = drawing.size();
    let root = SVGBackend::with_string(&mut svg, (width as u32, height as u32)).into_drawing_area();
    drawing.draw(&Canvas::new(&root, 1.0, false))?;
    root.present().map_err(|e| e.to_string())?;
    drop(root);
    Ok(svg)
}

/// The drawing as a PNG's bytes.
fn png<D: Drawing>(make: impl FnOnce() -> Result<D, DrawError>) -> Result<Vec<u8>, DrawError> {
    canvas::register_font()?;
    let drawing = make()?;
    let (width, height) = drawing.size();
    let (width, height) = ((width * PNG_SCALE) as u32, (height * PNG_SCALE) as u32);
    let mut pixels = vec![0; 3 * width as usize * height as usize];
    let root = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
    drawing.draw(&Canvas::new(&root, PNG_SCALE, true))?;
    root.present().map_err(|e| e.to_string())?;
    drop(root);
    let mut bytes = vec![];
    PngEncoder::new(&mut bytes).write_image(&pixels, width, height, ExtendedColorType::Rgb8).map_err(|e| e.to_string())?;
    Ok(bytes)
}
