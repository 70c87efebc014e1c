//! Figures for papers: one drawing gives an SVG (text stays text) and a PNG of twice the size.

pub(crate) mod canvas;
pub(crate) mod chart;

use std::path::Path;

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
        Some("svg") => {
            let svg = svg(make).map_err(fail)?;
            write_atomically(path, |file| std::io::Write::write_all(file, svg.as_bytes()))
        }
        Some("png") => png(path, make).map_err(fail),
        _ => Err(Error::Usage(format!("{}: a figure is .svg or .png", path.display()))),
    }
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

/// Plotters encodes into a file only: into one beside the wanted one, then renamed.
fn png<D: Drawing>(path: &Path, make: impl FnOnce() -> Result<D, DrawError>) -> Result<(), DrawError> {
    canvas::register_font()?;
    let drawing = make()?;
    let (width, height) = drawing.size();
    let temporary = path.with_extension(format!("{}.tmp.png", std::process::id()));
    let write = || {
        let root = BitMapBackend::new(&temporary, ((width * PNG_SCALE) as u32, (height * PNG_SCALE) as u32)).into_drawing_area();
        drawing.draw(&Canvas::new(&root, PNG_SCALE, true))?;
        root.present().map_err(|e| e.to_string())?;
        drop(root);
        std::fs::rename(&temporary, path).map_err(|e| e.to_string())
    };
    write().inspect_err(|_| _ = std::fs::remove_file(&temporary))
}
