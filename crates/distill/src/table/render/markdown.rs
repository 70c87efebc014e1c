//! The table as a Markdown page.

use std::fmt::Write;

use super::verdict::difference;
use crate::statistics::Summary;
use crate::table::{Cell, Certainty, Kind, PaperFigure, Row, TableResult};

/// What stands where there is no number.
const NONE: &str = "–";

impl TableResult {
    /// The page: accuracies (mean ± standard deviation over n seeds) with the paper's beside them, differences with their 95 % intervals,
    /// a sentence for every difference, and one for every distilled encoder that says whether distillation helps.
    pub fn markdown(&self) -> String {
        let mut out = format!("# {}\n\n{}. Seeds: {}.\n\n", self.name, self.data_and_test_images(), self.seed_list());
        out.push_str(&aligned(&self.accuracies(), 1));
        out.push_str("\nTop-1 accuracy in percent: mean ± standard deviation over seeds (number of seeds).\n");
        if !self.paper.is_empty() {
            let _ = writeln!(out, "\n{}", self.about_the_paper());
        }
        if self.comparisons.is_empty() {
            return out;
        }
        let _ = writeln!(out, "\n## Differences\n\n{}", aligned(&self.differences(), 1));
        out.push_str("Points of percent, with 95 % intervals from a paired bootstrap. ");
        let _ = writeln!(out, "{} Where nothing has changed, one in twenty excludes zero by chance.\n", self.coverage());
        for comparison in &self.comparisons {
            let sentences = self.sentences(comparison);
            if !sentences.is_empty() {
                let _ = write!(out, "- {}\n{}", comparison.label, sentences.iter().map(|s| format!("  - {s}\n")).collect::<String>());
            }
        }
        let verdicts: Vec<String> = self.verdicts().into_iter().chain(self.verdicts_on_gains()).collect();
        if !verdicts.is_empty() {
            let _ = write!(out, "\n## Does FD help?\n\n{}", verdicts.iter().map(|v| format!("- {v}\n")).collect::<String>());
        }
        out
    }

    /// Header and rows, the paper's columns last.
    pub fn accuracies(&self) -> Vec<Vec<String>> {
        let measures = self.measures_of_the_paper();
        let titles = self.columns.iter().map(|c| c.title.clone());
        let header = std::iter::once("encoder".into()).chain(titles).chain(measures.iter().map(|m| format!("paper: {m}, ImageNet-1K")));
        let line = |row: &Row| {
            let control = if row.kind == Kind::Control { " (control)" } else { "" };
            let ours = (0..self.columns.len()).map(|i| row.cells.get(i).and_then(Option::as_ref).map_or(NONE.into(), cell));
            let papers = measures.iter().map(|measure| self.of_the_paper(&row.name, measure));
            std::iter::once(format!("{}{control}", row.name)).chain(ours).chain(papers).collect()
        };
        std::iter::once(header.collect()).chain(self.rows.iter().map(line)).collect()
    }

    fn differences(&self) -> Vec<Vec<String>> {
        let header = std::iter::once("difference".into()).chain(self.columns.iter().map(|c| c.title.clone())).collect();
        let lines = self.all_differences().map(|(label, differences)| {
            let of = |i: usize| differences.get(i).copied().flatten().map_or(NONE.into(), difference);
            std::iter::once(label.to_string()).chain((0..self.columns.len()).map(of)).collect()
        });
        std::iter::once(header).chain(lines).collect()
    }

    /// The paper's measures, in the order in which they first appear.
    fn measures_of_the_paper(&self) -> Vec<&str> {
        distinct(self.paper.iter().map(|p| p.measure.as_str()))
    }

    fn of_the_paper(&self, row: &str, measure: &str) -> String {
        let text = |p: &PaperFigure| match p.certainty {
            Certainty::Published => format!("{:.1} (published)", p.value),
            Certainty::Recalled => format!("{:.1} (recalled)", p.value),
        };
        let found: Vec<String> = self.paper.iter().filter(|p| p.row == row && p.measure == measure).map(text).collect();
        if found.is_empty() { NONE.into() } else { found.join("; ") }
    }

    fn about_the_paper(&self) -> String {
        let models = distinct(self.paper.iter().map(|p| p.model.as_str())).join(", ");
        let recalled = self.paper.iter().any(|p| p.certainty == Certainty::Recalled);
        let recalled = if recalled { " \"Recalled\" numbers were written down from memory." } else { "" };
        format!(
            "The paper's columns are ImageNet-1K with its own models ({models}) and its own training: of other data or other models \
             their level is not comparable with ours.{recalled}"
        )
    }
}

fn distinct<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    texts.fold(vec![], |mut seen, text| {
        if !seen.contains(&text) {
            seen.push(text);
        }
        seen
    })
}

fn cell(cell: &Cell) -> String {
    Summary::of(&cell.accuracy).map_or(NONE.into(), |s| match s.sd {
        Some(sd) => format!("{:.2} ± {sd:.2} ({})", s.mean, s.n),
        None => format!("{:.2} (1)", s.mean),
    })
}

/// A Markdown table: so many columns left, the others right, padded to equal width.
pub(crate) fn aligned(lines: &[Vec<String>], left: usize) -> String {
    let lines: Vec<Vec<String>> = lines.iter().map(|line| line.iter().map(|text| text.replace('|', "\\|")).collect()).collect();
    let columns = lines.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns).map(|i| lines.iter().map(|l| l[i].chars().count()).max().unwrap_or(0).max(3)).collect();
    let mut out = String::new();
    for (i, line) in lines.iter().enumerate() {
        let pad = |(k, (text, w)): (usize, (&String, &usize))| if k < left { format!(" {text:<w$} |") } else { format!(" {text:>w$} |") };
        let _ = writeln!(out, "|{}", line.iter().zip(&widths).enumerate().map(pad).collect::<String>());
        if i == 0 {
            let rule =
                |(k, w): (usize, &usize)| if k < left { format!(":{}|", "-".repeat(w + 1)) } else { format!("{}:|", "-".repeat(w + 1)) };
            let _ = writeln!(out, "|{}", widths.iter().enumerate().map(rule).collect::<String>());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::{comparison, odd, result, row, small};
    use super::*;

    #[test]
    fn a_small_page() {
        let expected = "\
# main

Fashion-MNIST, 6,000 training images; 10,000 test images. Seeds: 0, 7.

| encoder                    | fine-tune, 6,000 labels |     linear probe | paper: fine-tune, ImageNet-1K | paper: linear probe, ImageNet-1K |
|:---------------------------|------------------------:|-----------------:|------------------------------:|---------------------------------:|
| DINO                       |        86.50 ± 0.71 (2) | 84.25 ± 0.35 (2) |              82.8 (published) |                  78.2 (recalled) |
| DINO trained on            |        87.25 ± 0.35 (2) | 84.25 ± 0.35 (2) |                             – |                                – |
| DINO + FD                  |        88.25 ± 0.35 (2) | 84.00 ± 0.35 (2) |              83.8 (published) |                                – |
| raw pixels, flat (control) |                       – |        81.25 (1) |                             – |                                – |

Top-1 accuracy in percent: mean ± standard deviation over seeds (number of seeds).

The paper's columns are ImageNet-1K with its own models (DINO ViT-B, DINO ViT-B + FD) and its own training: of other data or other models \
their level is not comparable with ours. \"Recalled\" numbers were written down from memory.

## Differences

| difference                   | fine-tune, 6,000 labels |         linear probe |
|:-----------------------------|------------------------:|---------------------:|
| DINO: FD                     |    +1.75 [+0.90, +2.61] | -0.25 [-1.00, +0.50] |
| DINO: FD against training on |    +1.00 [+0.25, +1.80] |                    – |

Points of percent, with 95 % intervals from a paired bootstrap. They cover the test images and, roughly, what 2 seeds can tell; \
not other pretrained teachers. Where nothing has changed, one in twenty excludes zero by chance.

- DINO: FD
  - fine-tune, 6,000 labels: raised by 1.75 points (86.50 → 88.25), 95 % interval [+0.90, +2.61].
  - linear probe: lowered by 0.25 points (84.25 → 84.00), 95 % interval [-1.00, +0.50]; the interval contains zero: no effect shown.
- DINO: FD against training on
  - fine-tune, 6,000 labels: raised by 1.00 points (87.25 → 88.25), 95 % interval [+0.25, +1.80].

## Does FD help?

- DINO + FD, fine-tune, 6,000 labels: better than DINO (+1.75 [+0.90, +2.61]), better than DINO trained on (+1.00 [+0.25, +1.80]): FD helps.
";
        assert_eq!(small().markdown(), expected);
    }

    #[test]
    fn one_seed_covers_the_test_images_alone() {
        let rows = vec![row("t", Some("t"), Kind::Before, &[&[80.0]]), row("t + FD", Some("t"), Kind::After, &[&[81.0]])];
        let mut table = result(&[3], &["fine-tune"], rows);
        table.comparisons = vec![comparison("t: FD", 0, 1, &[Some([1.0, 0.5, 1.5])])];
        let page = table.markdown();
        assert!(
            page.contains("| t + FD  | 81.00 (1) |") && page.contains("They cover the test images alone (there is one seed)"),
            "{page}"
        );
        assert!(!page.contains("paper"), "{page}");
    }

    #[test]
    fn odd_tables_have_a_page() {
        let [empty, _, strange] = &odd()[..] else { panic!() };
        assert!(empty.markdown().contains("| encoder |") && !empty.markdown().contains("##"));
        let page = strange.markdown();
        assert!(page.contains("c\\|_") && page.contains("NaN"), "{page}");
        let widths: Vec<usize> = page.lines().filter(|l| l.starts_with('|')).map(|l| l.replace("\\|", "").matches('|').count()).collect();
        assert_eq!(widths, [5; 9], "{page}");
    }

    #[test]
    fn several_numbers_of_the_paper_share_a_cell() {
        let mut table = small();
        let mut other = table.paper[0].clone();
        (other.model, other.value, other.certainty) = ("DINO ViT-S".into(), 81.5, Certainty::Recalled);
        table.paper.push(other);
        assert!(table.markdown().contains("| 82.8 (published); 81.5 (recalled) |"));
        assert!(table.markdown().contains("(DINO ViT-B, DINO ViT-B + FD, DINO ViT-S)"));
    }
}
