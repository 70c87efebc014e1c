//! `analyze landscape`.

use std::fmt::Write;

use fd_analysis::landscape::{self, Landscape, Options};
use fd_distill::progress::Progress;

use super::print;

/// Maps what is around the models, and says how sharp they are, and where the files are.
pub fn landscape(options: &Options) -> anyhow::Result<()> {
    let Landscape { report, sharpness, .. } = landscape::run(options, Progress::new)?;
    let mut text = format!("{} images of {}\n", report.data.images, report.data.name);
    let width = report.models.iter().map(|m| m.name.chars().count()).max().unwrap_or(0);
    for row in &sharpness {
        let at = row.radius.map_or(String::new(), |r| format!(" at radius {r}"));
        let _ = writeln!(
            text,
            "{:width$}  seed {}  {}{at}: {:.6} ± {:.6} ({})",
            row.model,
            row.seed,
            row.quantity.replace('_', " "),
            row.value,
            row.uncertainty,
            row.samples
        );
    }
    let _ = writeln!(text, "Written to {}", options.out.display());
    print(&text)
}
