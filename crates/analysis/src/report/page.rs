//! The page's HTML.

use std::fmt::Write as _;

use super::encode::{base64, data_block, escaped, policy_hash};
use super::observations::{Observation, Verdict};
use super::{ColourMap, Explorer, Picture, Report, Section, Table};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("explorer.js");
const CONTROLS: &str = include_str!("explorer.html");
/// Colours of the table that the script gets.
const COLOURS: usize = 256;

/// See [`Report::html`].
pub(super) fn html(report: &Report, colour: ColourMap<'_>) -> String {
    let title = escaped(&report.title);
    // The style and the script stand between tags without a further character: the policy admits exactly them.
    let policy = format!(
        "default-src 'none'; img-src data:; style-src {}; script-src {}; base-uri 'none'; form-action 'none'",
        policy_hash(STYLE),
        policy_hash(SCRIPT)
    );
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
    );
    // Writing to a string does not fail, here and below.
    let _ = write!(out, "<header>\n<h1>{title}</h1>\n");
    if !report.subtitle.is_empty() {
        let _ = writeln!(out, "<p class=\"subtitle\">{}</p>", escaped(&report.subtitle));
    }
    facts(&mut out, &report.facts);
    out.push_str("</header>\n");
    contents(&mut out, &report.sections);
    out.push_str("<main>\n");
    for (i, section) in report.sections.iter().enumerate() {
        self::section(&mut out, i + 1, section, colour);
    }
    out.push_str("</main>\n");
    if report.sections.iter().any(|s| s.explorer.is_some()) {
        let _ = writeln!(out, "<script>{SCRIPT}</script>");
    }
    out.push_str("</body>\n</html>\n");
    out
}

fn facts(out: &mut String, facts: &[(String, String)]) {
    if facts.is_empty() {
        return;
    }
    out.push_str("<dl class=\"facts\">\n");
    for (name, value) in facts {
        let _ = writeln!(out, "<div><dt>{}</dt><dd>{}</dd></div>", escaped(name), escaped(value));
    }
    out.push_str("</dl>\n");
}

fn contents(out: &mut String, sections: &[Section]) {
    if sections.len() < 2 {
        return;
    }
    out.push_str("<nav aria-label=\"Contents\">\n<ol>\n");
    for (i, section) in sections.iter().enumerate() {
        let _ = writeln!(out, "<li><a href=\"#section-{}\">{}</a></li>", i + 1, escaped(&section.heading));
    }
    out.push_str("</ol>\n</nav>\n");
}

fn section(out: &mut String, number: usize, section: &Section, colour: ColourMap<'_>) {
    let _ = write!(out, "<section id=\"section-{number}\">\n<h2>{}</h2>\n", escaped(&section.heading));
    for paragraph in &section.prose {
        let _ = writeln!(out, "<p>{}</p>", escaped(paragraph));
    }
    observations(out, &section.observations);
    section.tables.iter().for_each(|t| table(out, t));
    section.pictures.iter().for_each(|p| picture(out, p));
    if let Some(explorer) = &section.explorer {
        self::explorer(out, explorer, colour);
    }
    out.push_str("</section>\n");
}

fn observations(out: &mut String, observations: &[Observation]) {
    for same in observations.chunk_by(|a, b| a.claim == b.claim) {
        let _ = write!(out, "<div class=\"claim\">\n<h3>{}</h3>\n<ul>\n", escaped(&same[0].claim));
        for o in same {
            let class = match o.verdict {
                Verdict::Holds => "holds",
                Verdict::DoesNotHold => "fails",
                Verdict::NotShown => "open",
            };
            let (of, verdict, sentence) = (escaped(&o.of), o.verdict.words(), escaped(&o.sentence));
            let _ = writeln!(
                out,
                "<li><b>{of}</b> <span class=\"verdict {class}\">{verdict}</span> <span class=\"why\">{sentence}</span></li>"
            );
        }
        out.push_str("</ul>\n</div>\n");
    }
}

/// Does a cell hold a number, or stand for one that is missing?
fn numeric(cell: &str) -> bool {
    let text = cell.trim().trim_start_matches(['+', '-', '−', '±', '<', '>', '~']);
    text.is_empty() || matches!(text, "–" | "NaN" | "inf") || text.starts_with(|c: char| c.is_ascii_digit())
}

fn table(out: &mut String, table: &Table) {
    let columns = table.rows.iter().map(Vec::len).chain([table.head.len()]).max().unwrap_or(0);
    let right: Vec<bool> =
        (0..columns).map(|c| c > 0 && table.rows.iter().all(|row| row.get(c).is_none_or(|cell| numeric(cell)))).collect();
    let class = |c: usize| if right[c] { " class=\"number\"" } else { "" };
    let label = if table.caption.is_empty() { "table" } else { &table.caption };
    // A table that is wider than the screen scrolls in its box, by keyboard too.
    let _ = write!(out, "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{}\">\n<table>\n", escaped(label));
    if !table.caption.is_empty() {
        let _ = writeln!(out, "<caption>{}</caption>", escaped(&table.caption));
    }
    out.push_str("<thead><tr>");
    for c in 0..columns {
        let name = table.head.get(c).map_or("", String::as_str);
        let _ = write!(out, "<th scope=\"col\"{}>{}</th>", class(c), escaped(name));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        out.push_str("<tr>");
        for c in 0..columns {
            let cell = escaped(row.get(c).map_or("", String::as_str));
            let _ = if c == 0 { write!(out, "<th scope=\"row\">{cell}</th>") } else { write!(out, "<td{}>{cell}</td>", class(c)) };
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table>\n</div>\n");
}

/// Width of an SVG in pixels of the page, from its root's `width`.
fn width(svg: &str) -> Option<f64> {
    let root = svg.get(svg.find("<svg")?..)?;
    let root = &root[..root.find('>')?];
    let value = root.split_once(" width=\"")?.1.split_once('"')?.0;
    let number = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match &value[number.len()..] {
        "" | "px" => 1.0,
        "mm" => 96.0 / 25.4,
        "pt" => 96.0 / 72.0,
        _ => return None,
    };
    number.parse::<f64>().ok().map(|n| n * scale).filter(|w| *w > 0.0)
}

/// Letters of print are small on a screen: figures are shown half as large again, and shrink to the page where that is too wide.
fn picture(out: &mut String, picture: &Picture) {
    const ENLARGED: f64 = 1.5;
    /// Wider ones do not shrink below what can be read: they scroll.
    const NARROW: f64 = 400.0;
    let natural = width(&picture.svg).unwrap_or(640.0);
    let size = (natural * ENLARGED).min(990.0).round();
    let class = if natural > NARROW { "wide" } else { "narrow" };
    let (caption, data) = (escaped(&picture.caption), base64(picture.svg.as_bytes()));
    let scrolls = if natural > NARROW { format!(" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\"") } else { String::new() };
    let _ = write!(
        out,
        "<figure>\n<div class=\"{class} picture\"{scrolls}><img alt=\"{caption}\" width=\"{size}\" src=\"data:image/svg+xml;base64,{data}\"></div>\n\
         <figcaption>{caption}</figcaption>\n</figure>\n"
    );
}

fn explorer(out: &mut String, explorer: &Explorer, colour: ColourMap<'_>) {
    let colours: Vec<[u8; 3]> = (0..COLOURS).map(|i| colour(i as f64 / (COLOURS - 1) as f64)).collect();
    let data = data_block(&explorer.json(&colours));
    let _ = write!(out, "<div class=\"explorer\">\n{CONTROLS}<script type=\"application/json\">{data}</script>\n</div>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_known_as_such() {
        assert!(["1", "-0.44", "81.41 ± 0.55 (3)", "–", "", "+1.3 %", "NaN"].iter().all(|c| numeric(c)));
        assert!(["DINO", "a1", "—x", "--set"].iter().all(|c| !numeric(c)));
    }

    #[test]
    fn widths_of_figures() {
        let of = |w: &str| {
            width(&format!("<?xml version=\"1.0\"?><svg height=\"9\" width=\"{w}\" viewBox=\"0 0 1 1\"><rect width=\"7\"/></svg>"))
                .map(f64::round)
        };
        assert_eq!((of("1000"), of("254mm"), of("72pt"), of("12px")), (Some(1000.0), Some(960.0), Some(96.0), Some(12.0)));
        assert_eq!((of("100%"), of("0"), of("NaN"), width("<svg><rect width=\"7\"/></svg>"), width("")), (None, None, None, None, None));
    }
}
