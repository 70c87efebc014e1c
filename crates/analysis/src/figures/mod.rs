//! Figures for print: SVG (text stays text), PNG of 508 dots an inch, and a CSV of exactly what is drawn, under one stem.
//!
//! Every figure is a plain struct of numbers and texts that says nothing about how they were computed; [`write()`] gives it a width (in
//! millimetres or columns) and a caption. Fonts are 7 and 8 points at that width. Lines differ in colour, dashes and markers, colour maps rise
//! in lightness: everything reads in grey and for the colour-blind. Equal input gives equal bytes.
//!
//! | struct | shows |
//! |---|---|
//! | [`HeadDots`] | one dot a head over layers, models side by side on one axis |
//! | [`Lines`] | curves with bands: similarity over layers, training curves, sections of a landscape |
//! | [`Bars`] | bars with intervals, in groups |
//! | [`HeatMaps`] | matrices on one colour scale: CKA, layer x head, average maps |
//! | [`Overlays`] | attention over a photograph |
//! | [`Contours`] | landscapes: filled bands and labelled lines |

mod bars;
mod colour_map;
mod contours;
mod dots;
mod frame;
mod heat_maps;
mod lines;
mod output;
mod overlays;
mod sheet;

use std::path::{Path, PathBuf};

use fd_distill::Error;
use fd_distill::run_dir::write_file;

pub use bars::{Bar, BarSeries, Bars};
pub use colour_map::{colour, luminance};
pub use contours::{ContourPanel, Contours, Levels};
pub use dots::{DotPanel, HeadDots};
pub use heat_maps::{HeatAxis, HeatMaps, HeatPanel, Scale};
pub use lines::{Line, LinePanel, Lines};
pub use overlays::{OverlayPanel, Overlays, Photograph};
pub use sheet::Sheet;

/// What the three files of a figure end in.
pub const ENDINGS: [&str; 3] = ["svg", "png", "csv"];

/// How wide a figure is printed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Width {
    /// In millimetres.
    Mm(f64),
    /// One column (84 mm), or two with what is between them (174 mm).
    Columns(u8),
}

impl Width {
    /// In millimetres; at least 40 and at most 400.
    pub fn mm(self) -> f64 {
        match self {
            Width::Mm(mm) if mm.is_finite() => mm.clamp(40.0, 400.0),
            Width::Columns(1) => 84.0,
            Width::Columns(_) | Width::Mm(_) => 174.0,
        }
    }
}

/// The line below every figure: what it was made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Caption {
    /// The model, or models.
    pub model: String,
    /// The data set.
    pub data: String,
    /// How many images of it.
    pub images: usize,
    /// Seeds, such as `0` or `0, 1, 2`; empty where nothing is random.
    pub seed: String,
    /// What else has to be known: estimator, conventions.
    pub notes: String,
}

impl Caption {
    /// The caption's text.
    pub fn text(&self) -> String {
        let part = |name: &str, value: String| if value.is_empty() { None } else { Some(format!("{name}: {value}.")) };
        let images = if self.images == 1 { "1 image".into() } else { format!("{} images", thousands(self.images)) };
        let data = if self.data.is_empty() { String::new() } else { format!("{}, {images}", self.data) };
        let parts = [part("Model", self.model.clone()), part("Data", data), part("Seed", self.seed.clone())];
        let notes = Some(self.notes.clone()).filter(|n| !n.is_empty());
        parts.into_iter().chain([notes]).flatten().collect::<Vec<_>>().join(" ")
    }
}

/// `12345` as `12,345`.
fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let parts: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|c| std::str::from_utf8(c).unwrap_or("")).collect();
    parts.join(",")
}

/// What can be drawn.
pub trait Figure {
    /// Everything in its place, without caption.
    ///
    /// # Errors
    /// [`Error::Usage`] for data that do not fit together.
    fn sheet(&self, width: Width) -> Result<Sheet, Error>;

    /// The numbers that are drawn, as a table.
    ///
    /// # Errors
    /// [`Error::Usage`].
    fn csv(&self) -> Result<String, Error>;
}

/// Draws a figure to `STEM.svg`, `STEM.png` and `STEM.csv`; their paths. All three are made before the first is written, and each is
/// whole or not at all.
///
/// # Errors
/// [`Error::Usage`] for data that do not fit together, [`Error::File`] for what cannot be written.
pub fn write(figure: &(impl Figure + ?Sized), stem: &Path, width: Width, caption: &Caption) -> Result<Vec<PathBuf>, Error> {
    let fail = |why: String| Error::File { path: stem.to_path_buf(), why: format!("cannot be drawn: {why}") };
    output::register_font().map_err(fail)?;
    let sheet = figure.sheet(width)?.with_caption(caption)?;
    let files = [output::svg(&sheet).map_err(fail)?.into_bytes(), output::png(&sheet).map_err(fail)?, figure.csv()?.into_bytes()];
    let name = stem.file_name().unwrap_or_default().to_os_string();
    let mut paths = vec![];
    for (ending, bytes) in ENDINGS.iter().zip(&files) {
        // The stem may have a point in it: nothing of it is an extension.
        let mut name = name.clone();
        name.push(format!(".{ending}"));
        let path = stem.with_file_name(name);
        write_file(&path, bytes)?;
        paths.push(path);
    }
    Ok(paths)
}

/// A table as CSV text.
///
/// # Errors
/// [`Error::Usage`] for lines of different lengths.
pub(crate) fn csv(head: Vec<String>, rows: impl Iterator<Item = Vec<String>>) -> Result<String, Error> {
    let fail = |e: &dyn std::fmt::Display| Error::Usage(format!("CSV: {e}"));
    let mut writer = csv::Writer::from_writer(vec![]);
    std::iter::once(head).chain(rows).try_for_each(|row| writer.write_record(row)).map_err(|e| fail(&e))?;
    let bytes = writer.into_inner().map_err(|e| fail(&e))?;
    String::from_utf8(bytes).map_err(|e| fail(&e))
}

/// A number that a table can hold: nothing for what is not finite.
fn number(value: f64) -> String {
    if value.is_finite() { value.to_string() } else { String::new() }
}

/// Refuses data of the wrong length.
fn expect_len(what: &str, expected: usize, found: usize) -> Result<(), Error> {
    if expected == found { Ok(()) } else { Err(Error::Usage(format!("figure: {what}: {found} values, expected {expected}"))) }
}
