//! The table as grouped horizontal bars with error bars, in SVG and PNG from the same drawing.

mod canvas;
mod layout;

use std::path::Path;

use plotters::prelude::*;

use super::Metric;
use crate::Error;
use crate::run_dir::write_atomically;
use crate::table::TableResult;
use canvas::{Anchor, Canvas, DrawError, GREY, INK, PALE};
use layout::{BAR, Bar, LEGEND, Layout, TITLE, WIDTH};

/// Pixels of the PNG for one unit of the drawing.
const PNG_SCALE: f64 = 2.0;
/// Blue and orange of Okabe and Ito's palette: told apart by the colour-blind, and by their lightness in grey.
const FINE_TUNE: RGBColor = RGBColor(0, 114, 178);
const PROBE: RGBColor = RGBColor(230, 159, 0);
/// What stands in place of a bar.
const NONE: &str = "not applicable";

fn colour(metric: Metric) -> RGBColor {
    match metric {
        Metric::FineTune => FINE_TUNE,
        Metric::Probe => PROBE,
    }
}

impl TableResult {
    /// Draws the table into a file: `.svg` (text stays text) or `.png` (2,000 pixels wide).
    ///
    /// # Errors
    /// [`Error::Usage`] for another ending, [`Error::File`] when it cannot be written.
    pub fn figure(&self, path: &Path) -> Result<(), Error> {
        let fail = |e: DrawError| Error::File { path: path.to_path_buf(), why: format!("cannot be drawn: {e}") };
        match path.extension().and_then(|e| e.to_str()) {
            Some("svg") => {
                let svg = self.svg().map_err(fail)?;
                write_atomically(path, |file| std::io::Write::write_all(file, svg.as_bytes()))
            }
            Some("png") => self.png(path).map_err(fail),
            _ => Err(Error::Usage(format!("{}: a figure is .svg or .png", path.display()))),
        }
    }

    /// The figure as SVG text.
    fn svg(&self) -> Result<String, DrawError> {
        canvas::register_font()?;
        let layout = Layout::of(self)?;
        let mut svg = String::new();
        let root = SVGBackend::with_string(&mut svg, (WIDTH as u32, layout.height as u32)).into_drawing_area();
        draw(self, &layout, &Canvas::new(&root, 1.0, false))?;
        root.present().map_err(|e| e.to_string())?;
        drop(root);
        Ok(svg)
    }

    /// Plotters encodes into a file only: into one beside the wanted one, then renamed.
    fn png(&self, path: &Path) -> Result<(), DrawError> {
        canvas::register_font()?;
        let layout = Layout::of(self)?;
        let temporary = path.with_extension(format!("{}.tmp.png", std::process::id()));
        let size = ((WIDTH * PNG_SCALE) as u32, (layout.height * PNG_SCALE) as u32);
        let write = || {
            let root = BitMapBackend::new(&temporary, size).into_drawing_area();
            draw(self, &layout, &Canvas::new(&root, PNG_SCALE, true))?;
            root.present().map_err(|e| e.to_string())?;
            drop(root);
            std::fs::rename(&temporary, path).map_err(|e| e.to_string())
        };
        write().inspect_err(|_| _ = std::fs::remove_file(&temporary))
    }
}

fn draw<B: DrawingBackend>(table: &TableResult, layout: &Layout, c: &Canvas<'_, B>) -> Result<(), DrawError> {
    c.fill(WHITE)?;
    c.text(&layout.title, (layout.margin, layout.title_y), TITLE, INK, Anchor::Left)?;
    legend(layout, c)?;
    axis(layout, c)?;
    for (row, lines) in table.rows.iter().zip(&layout.rows) {
        for (line, y) in &lines.label {
            c.text(line, (layout.left - 12.0, *y), layout::LABEL, if row.control { GREY } else { INK }, Anchor::Right)?;
        }
        for bar in &lines.bars {
            draw_bar(layout, bar, row.control, c)?;
        }
    }
    // The baseline lies over the bars' left ends.
    c.line(&[(layout.left, layout.top), (layout.left, layout.bottom)], INK, 1.2)?;
    for (line, y) in &layout.caption {
        c.text(line, (layout.margin, *y), layout::SMALL, GREY, Anchor::Left)?;
    }
    Ok(())
}

fn legend<B: DrawingBackend>(layout: &Layout, c: &Canvas<'_, B>) -> Result<(), DrawError> {
    let mut x = layout.margin;
    let y = layout.legend_y;
    for (text, metric) in [("fine-tune", Some(Metric::FineTune)), ("linear probe", Some(Metric::Probe)), ("hatched: control", None)] {
        let swatch = (x, y - 7.0, x + 26.0, y + 7.0);
        match metric {
            Some(metric) => c.rect(swatch, colour(metric))?,
            None if layout.controls => c.hatched(swatch, GREY)?,
            None => break,
        }
        c.text(text, (x + 33.0, y), LEGEND, INK, Anchor::Left)?;
        x += 33.0 + canvas::width(text, LEGEND)? + 28.0;
    }
    Ok(())
}

fn axis<B: DrawingBackend>(layout: &Layout, c: &Canvas<'_, B>) -> Result<(), DrawError> {
    for tick in layout.ticks() {
        let x = layout.x(tick);
        c.line(&[(x, layout.top), (x, layout.bottom)], PALE, 1.0)?;
        c.line(&[(x, layout.bottom), (x, layout.bottom + 5.0)], GREY, 1.0)?;
        c.text(&format!("{tick:.0}"), (x, layout.bottom + 16.0), layout::SMALL, INK, Anchor::Centre)?;
    }
    c.line(&[(layout.left, layout.bottom), (layout.x(layout.axis.1), layout.bottom)], GREY, 1.0)?;
    let from = layout.axis.0;
    let title =
        if from > 0.0 { format!("top-1 accuracy (%); the axis starts at {from:.0} %, not at 0") } else { "top-1 accuracy (%)".into() };
    let middle = (layout.left + layout.x(layout.axis.1)) / 2.0;
    c.text(&title, (middle, layout.bottom + 38.0), LEGEND, INK, Anchor::Centre)
}

fn draw_bar<B: DrawingBackend>(layout: &Layout, bar: &Bar, control: bool, c: &Canvas<'_, B>) -> Result<(), DrawError> {
    let (top, bottom, middle) = (bar.y, bar.y + BAR, bar.y + BAR / 2.0);
    let Some(value) = bar.value else {
        let right = layout.left + 11.0 + canvas::width(NONE, layout::SMALL)?;
        c.rect((layout.left + 5.0, top + 1.0, right, bottom - 1.0), WHITE)?;
        return c.text(NONE, (layout.left + 8.0, middle), layout::SMALL, GREY, Anchor::Left);
    };
    let end = layout.x(value);
    let shape = (layout.left, top, end, bottom);
    if control {
        c.hatched(shape, colour(bar.metric))?
    } else {
        c.rect(shape, colour(bar.metric))?
    }
    if layout.axis.0 > 0.0 && end > layout.left + 28.0 {
        break_mark(layout.left + 13.0, top, bottom, c)?;
    }
    let mut text_at = end;
    if bar.error > 0.0 {
        let (low, high) = (layout.x(value - bar.error), layout.x(value + bar.error));
        // A white rim first: it has to be seen on the bar, too.
        for (colour, thickness) in [(WHITE, 3.0), (INK, 1.4)] {
            c.line(&[(low, middle), (high, middle)], colour, thickness)?;
            for x in [low, high] {
                c.line(&[(x, middle - 4.0), (x, middle + 4.0)], colour, thickness)?;
            }
        }
        text_at = high;
    }
    let from = text_at + 7.0;
    c.rect((from - 3.0, top + 1.0, from + bar.label_width + 3.0, bottom - 1.0), WHITE)?;
    c.text(&bar.label, (from, middle), layout::SMALL, INK, Anchor::Left)
}

/// The usual sign of a bar that does not begin at 0: a slanted cut.
fn break_mark<B: DrawingBackend>(x: f64, top: f64, bottom: f64, c: &Canvas<'_, B>) -> Result<(), DrawError> {
    let slanted = |dx: f64, over: f64| [(x + dx - 3.0, bottom + over), (x + dx + 3.0, top - over)];
    c.line(&slanted(0.0, 1.0), WHITE, 5.0)?;
    c.line(&slanted(-2.5, 3.0), GREY, 1.0)?;
    c.line(&slanted(2.5, 3.0), GREY, 1.0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{result, row};
    use super::*;

    fn table(seeds: &[u64]) -> TableResult {
        let with = |mean: f64, spread: f64| -> Vec<f64> { (0..seeds.len()).map(|i| mean + spread * (i as f64 - 1.0)).collect() };
        let rows = vec![
            row("raw pixels", true, &[], &with(81.2, 0.0)),
            row("random weights, student architecture", true, &with(84.1, 0.6), &with(72.3, 0.5)),
            row("supervised teacher", false, &with(87.2, 0.3), &with(85.9, 0.2)),
            row("supervised teacher + FD", false, &with(88.4, 0.25), &with(86.8, 0.3)),
            row("self-supervised teacher", false, &with(86.1, 0.4), &with(83.0, 0.4)),
            row("self-supervised teacher + FD", false, &with(87.9, 0.3), &with(82.7, 0.2)),
        ];
        result(seeds, rows)
    }

    #[test]
    fn svg_says_it_all() {
        let svg = table(&[0, 1, 2]).svg().unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        let said = ["fine-tune", "linear probe", "control", "supervised teacher + FD", "88.4 ± 0.2", "not applicable"];
        for text in said.into_iter().chain(["top-1 accuracy (%); the axis starts at 60 %", "one standard deviation over 3 seeds", "10,000"])
        {
            assert!(svg.contains(text), "{text}");
        }
        assert!(svg.contains("sans-serif"), "a fallback for machines without the font");
    }

    #[test]
    fn one_seed_has_binomial_bars_and_says_so() {
        let svg = table(&[5]).svg().unwrap();
        assert!(svg.contains("binomial") && !svg.contains("standard deviation"));
    }

    #[test]
    fn low_accuracies_start_at_zero_and_odd_tables_draw() {
        let long = "a name that is so very long that it cannot stand on one line and is therefore broken ".repeat(3);
        let rows = vec![row(&long, false, &[12.0], &[f64::NAN]), row("", true, &[], &[]), row("<&>", false, &[100.0], &[0.0])];
        let svg = result(&[0], rows).svg().unwrap();
        assert!(svg.contains("top-1 accuracy (%)") && !svg.contains("the axis starts"));
        assert!(svg.contains("&lt;&amp;&gt;") && !svg.contains("<&>"));
        assert!(result(&[], vec![]).svg().unwrap().contains("top-1 accuracy"));
    }

    #[test]
    fn png_decodes_and_is_not_blank() {
        let folder = std::env::temp_dir().join(format!("fd-figure-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("table.png");
        table(&[0, 1, 2]).figure(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let image = fd_data::decode("table.png", &bytes, 3).unwrap();
        assert!(image.width >= 1600 && image.height >= 600, "{} x {}", image.width, image.height);
        let pixels: Vec<[u8; 3]> = image.data.as_chunks::<3>().0.to_vec();
        for colour in [FINE_TUNE, PROBE, WHITE] {
            let count = pixels.iter().filter(|p| **p == [colour.0, colour.1, colour.2]).count();
            assert!(count > 10_000, "{colour:?}: {count} pixels");
        }
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "no temporary file is left");
        let e = table(&[0]).figure(&folder.join("table.pdf")).unwrap_err().to_string();
        assert!(e.ends_with("table.pdf: a figure is .svg or .png"), "{e}");
        assert!(table(&[0]).figure(&path.join("below.png")).is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
