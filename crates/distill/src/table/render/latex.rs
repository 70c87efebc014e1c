//! The table as a LaTeX `tabular` for `booktabs`.

use std::fmt::Write;

use crate::statistics::Summary;
use crate::table::{Kind, TableResult};

impl TableResult {
    /// The accuracies, mean ± standard deviation over seeds, with each column's best mean in bold (controls apart).
    /// Of packages it needs `booktabs` alone.
    pub fn latex(&self) -> String {
        let summaries: Vec<Vec<Option<Summary>>> = (0..self.rows.len()).map(|row| self.summaries(row)).collect();
        let competes = |row: &usize| self.rows[*row].kind != Kind::Control;
        let best = |column: usize| {
            let means = (0..self.rows.len()).filter(competes).filter_map(|row| Some(summaries[row][column]?.mean));
            means.filter(|m| m.is_finite()).max_by(f64::total_cmp).map(shown)
        };
        let best: Vec<Option<String>> = (0..self.columns.len()).map(best).collect();
        let mut out = format!("\\begin{{tabular}}{{l{}}}\n\\toprule\nencoder", "r".repeat(self.columns.len()));
        self.columns.iter().for_each(|c| out.push_str(&format!(" & {}", stacked(&c.title))));
        out.push_str(" \\\\\n\\midrule\n");
        for (index, row) in self.rows.iter().enumerate() {
            if self.begins_group(index) {
                out.push_str(if row.kind == Kind::Control { "\\midrule\n" } else { "\\addlinespace\n" });
            }
            out.push_str(&escaped(&row.name));
            for (summary, best) in summaries[index].iter().zip(&best) {
                let cell = summary.map_or("--".into(), |s| number(s, competes(&index) && Some(shown(s.mean)) == *best));
                let _ = write!(out, " & {cell}");
            }
            out.push_str(" \\\\\n");
        }
        out.push_str("\\bottomrule\n\\end{tabular}\n");
        out
    }

    fn summaries(&self, row: usize) -> Vec<Option<Summary>> {
        (0..self.columns.len()).map(|column| Summary::of(&self.cell(row, column)?.accuracy)).collect()
    }
}

fn shown(mean: f64) -> String {
    format!("{mean:.2}")
}

fn number(summary: Summary, bold: bool) -> String {
    let mean = if bold { format!("\\mathbf{{{}}}", shown(summary.mean)) } else { shown(summary.mean) };
    summary.sd.map_or(format!("${mean}$"), |sd| format!("${mean} \\pm {sd:.2}$"))
}

/// A column's title, broken after its first comma.
fn stacked(title: &str) -> String {
    match title.split_once(", ") {
        Some((first, rest)) => format!("\\begin{{tabular}}[b]{{@{{}}r@{{}}}}{},\\\\{}\\end{{tabular}}", escaped(first), escaped(rest)),
        None => escaped(title),
    }
}

/// What LaTeX would read as markup, and signs that its default font lacks. (A bracket at a line's start would be taken as an argument of the
/// line break before it.)
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
            '\\' => out.push_str("\\textbackslash{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '<' => out.push_str("$<$"),
            '>' => out.push_str("$>$"),
            '|' => out.push_str("$|$"),
            '[' => out.push_str("{[}"),
            '→' => out.push_str("$\\to$"),
            '±' => out.push_str("$\\pm$"),
            '×' => out.push_str("$\\times$"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::{odd, result, row, small};
    use super::*;

    #[test]
    fn a_small_table() {
        let expected = r"\begin{tabular}{lrr}
\toprule
encoder & \begin{tabular}[b]{@{}r@{}}fine-tune,\\6,000 labels\end{tabular} & linear probe \\
\midrule
DINO & $86.50 \pm 0.71$ & $\mathbf{84.25} \pm 0.35$ \\
DINO trained on & $87.25 \pm 0.35$ & $\mathbf{84.25} \pm 0.35$ \\
DINO + FD & $\mathbf{88.25} \pm 0.35$ & $84.00 \pm 0.35$ \\
\midrule
raw pixels, flat & -- & $81.25$ \\
\bottomrule
\end{tabular}
";
        assert_eq!(small().latex(), expected);
    }

    #[test]
    fn controls_are_never_bold_and_teachers_are_set_apart() {
        let rows = vec![
            row("a", Some("a"), Kind::Before, &[&[50.0]]),
            row("b", Some("b"), Kind::Before, &[&[f64::NAN]]),
            row("control", None, Kind::Control, &[&[90.0]]),
        ];
        let latex = result(&[0], &["m"], rows).latex();
        assert!(latex.contains("a & $\\mathbf{50.00}$ \\\\\n\\addlinespace\nb & $NaN$ \\\\\n\\midrule\ncontrol & $90.00$ \\\\"), "{latex}");
    }

    #[test]
    fn markup_is_escaped() {
        assert_eq!(escaped(r"a_b & 5 % {$#}"), r"a\_b \& 5 \% \{\$\#\}");
        assert_eq!(escaped("~^\\"), r"\textasciitilde{}\textasciicircum{}\textbackslash{}");
        assert_eq!(escaped("[0.08, 1.0]"), "{[}0.08, 1.0]");
        assert_eq!(escaped("x → <y> ± |2|"), r"x $\to$ $<$y$>$ $\pm$ $|$2$|$");
        for table in odd() {
            let latex = table.latex();
            let lines = latex.lines().filter(|l| l.ends_with("\\\\"));
            assert!(lines.clone().count() == table.rows.len() + 1, "{latex}");
            for line in lines {
                assert_eq!(line.replace("\\&", "").matches('&').count(), table.columns.len(), "{line}");
            }
        }
    }
}
