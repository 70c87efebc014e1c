//! `analyze plots`: every figure of the paper for a finished table, and a page that shows them.
//!
//! Attention of each teacher and its students (`attention.rs`), landscapes of what was fine-tuned from them (`landscapes.rs`), how alike their
//! layers are (`similarity.rs`), accuracies and curves (`accuracy.rs`); across positions if there is a sweep over them. The page (`page.rs`)
//! says in words which of the paper's observations hold in the run.

mod accuracy;
mod attention;
mod landscapes;
mod page;
mod run;
mod similarity;

use std::path::{Path, PathBuf};

use fd_compute::Device;
use fd_distill::Error as Below;
use fd_distill::teachers::slug;

use crate::Error;
use crate::figures::{Caption, Figure, Width, write};
use crate::report::Picture;
use crate::report::observations::Evidence;
use run::Finished;

/// What `analyze plots` is told.
#[derive(Clone, Debug)]
pub struct PlotOptions {
    /// The run directory of a table.
    pub run: PathBuf,
    /// The folder to write.
    pub out: PathBuf,
    /// Test images that attention, similarity and landscapes are measured on.
    pub images: usize,
    /// Draws them, and the landscapes' directions.
    pub seed: u64,
    /// Images in the attention explorer.
    pub explore: usize,
    /// Dimensions of the landscapes; 0: none.
    pub landscape: usize,
    /// The run directory of a sweep over positions.
    pub positions: Option<PathBuf>,
    /// Where it computes.
    pub device: Device,
}

/// Where everything goes, and what has been written so far.
struct Plots<'a> {
    options: &'a PlotOptions,
    run: Finished,
    /// Name of the test images.
    data: String,
    written: Vec<PathBuf>,
}

/// A part of the page while it is put together.
#[derive(Default)]
struct Chapter {
    heading: String,
    prose: Vec<String>,
    pictures: Vec<Picture>,
}

/// Makes all figures and the page; the page's path is the last of those returned. `told` hears what is under way.
///
/// # Errors
/// A run that is not there or not done, weights or images that do not fit; [`Below::Interrupted`].
pub fn plots(options: &PlotOptions, told: &mut dyn FnMut(&str)) -> Result<Vec<PathBuf>, Error> {
    let run = Finished::open(&options.run)?;
    let source = fd_data::open(run.images())?;
    let (data, there) = (source.name().to_string(), source.len());
    if options.images > there {
        return Err(Error::Usage(format!("--images {}: {data} holds {there} images", options.images)));
    }
    let mut plots = Plots { options, run, data, written: vec![] };
    let mut evidence = Evidence::default();
    told("accuracies and curves");
    let mut chapters = vec![plots.accuracy()?];
    told("attention");
    let (attention, explorer) = plots.attention(&mut evidence)?;
    chapters.extend(attention);
    if options.positions.is_some() {
        told("attention across positions");
        chapters.push(plots.positions(&mut evidence)?);
    }
    told("similarity of layers");
    chapters.push(plots.similarity()?);
    if options.landscape > 0 {
        told("landscapes");
        chapters.extend(plots.landscapes(&mut evidence)?);
    }
    let page = page::report(&plots, &evidence, chapters, explorer);
    let path = options.out.join("report.html");
    page.write(&path, &|share| {
        let c = crate::figures::colour(share);
        [c.0, c.1, c.2]
    })?;
    plots.written.push(path);
    Ok(plots.written)
}

impl Plots<'_> {
    /// Draws a figure of two columns' width into the figures' folder and hands it to the page.
    fn draw(&mut self, name: &str, figure: &dyn Figure, caption: &Caption) -> Result<Picture, Error> {
        let folder = self.options.out.join("figures");
        let files = write(figure, &folder.join(name), Width::Columns(2), caption)?;
        let picture = picture(&files, caption.text())?;
        self.written.extend(files);
        Ok(picture)
    }

    fn caption(&self, model: String, images: usize, notes: String) -> Caption {
        Caption { model, data: self.data.clone(), images, seed: self.options.seed.to_string(), notes }
    }
}

/// The SVG among a figure's files, for the page.
fn picture(files: &[PathBuf], caption: String) -> Result<Picture, Error> {
    let svg = files.iter().find(|f| f.extension().is_some_and(|e| e == "svg"));
    let read = |path: &PathBuf| std::fs::read_to_string(path).map_err(|e| Below::File { path: path.clone(), why: e.to_string() });
    Ok(Picture { svg: svg.map(read).transpose()?.unwrap_or_default(), caption })
}

/// A student's label: that of its row, and its seed where it is not the first.
fn student(teacher: &str, at: usize, seed: u64) -> String {
    if at == 0 { format!("{teacher} + FD") } else { format!("{teacher} + FD, seed {seed}") }
}

/// A figure's file name for a teacher.
fn named(figure: &str, teacher: &str) -> String {
    format!("{figure}-{}", slug(teacher))
}

/// Refuses to write over another run's figures.
///
/// # Errors
/// A folder with a page in it, unless `force`.
pub fn refuse_to_replace(out: &Path, force: bool) -> Result<(), Error> {
    let page = out.join("report.html");
    if out.exists() && !out.is_dir() {
        return Err(Below::File { path: out.to_path_buf(), why: "is a file, expected a directory".into() }.into());
    }
    if page.exists() && !force {
        return Err(Below::File { path: page, why: "is there already; --force replaces it".into() }.into());
    }
    Ok(())
}
