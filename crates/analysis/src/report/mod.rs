//! `report.html`: a run on one page that needs nothing else. Tables, figures, what the paper's observations come to in this run, and an
//! explorer of attention.
//!
//! The page is a file: it works from a `file://` path, and its content security policy lets it load nothing from anywhere and run no
//! script but its own. Figures are images inside it, so that neither their names nor their styles meet, and a reader can save them.
//! Everything else is plain data that says nothing of how it was found.

pub(crate) mod encode;
mod explorer;
pub mod observations;
mod page;

use std::path::Path;

use fd_distill::Error;
use fd_distill::run_dir::write_file;

pub use explorer::{Explorer, ExplorerImage, ExplorerLayer, ExplorerModel, SpecialTokens};
use observations::Observation;

/// A page. Equal content gives equal bytes.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What it is about.
    pub title: String,
    /// A line below that.
    pub subtitle: String,
    /// What determines the run, as name and value: commit, machine, command, data, seeds.
    pub facts: Vec<(String, String)>,
    /// In order.
    pub sections: Vec<Section>,
}

/// A part of a page; what is empty is not shown.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// Its heading, also in the table of contents.
    pub heading: String,
    /// Paragraphs.
    pub prose: Vec<String>,
    /// Statements with their verdicts; those of one claim stand together if they follow each other.
    pub observations: Vec<Observation>,
    /// Tables.
    pub tables: Vec<Table>,
    /// Figures.
    pub pictures: Vec<Picture>,
    /// An attention explorer.
    pub explorer: Option<Explorer>,
}

/// A table of texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Stands above; may be empty.
    pub caption: String,
    /// Names of the columns.
    pub head: Vec<String>,
    /// Rows; the first cell of each names it. Columns of numbers are set right.
    pub rows: Vec<Vec<String>>,
}

/// A figure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picture {
    /// SVG text that refers to nothing outside.
    pub svg: String,
    /// What it shows: stands below, and in the picture's place where it cannot be seen.
    pub caption: String,
}

/// The colour of a share from 0 to 1 (red, green, blue): that of the figures.
pub type ColourMap<'a> = &'a dyn Fn(f64) -> [u8; 3];

impl Report {
    /// The page's text.
    pub fn html(&self, colour: ColourMap<'_>) -> String {
        page::html(self, colour)
    }

    /// Writes the page, whole or not at all.
    ///
    /// # Errors
    /// [`Error::File`]; an older page is untouched then.
    pub fn write(&self, path: &Path, colour: ColourMap<'_>) -> Result<(), Error> {
        write_file(path, self.html(colour).as_bytes())
    }
}
