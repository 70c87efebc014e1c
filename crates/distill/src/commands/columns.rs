//! Numbers in columns, for people.

use fd_distill::table::thousands;

/// One line a row, the head first: the first column left-aligned, the others right.
pub fn columns(head: &[&str], lines: &[Vec<String>]) -> Vec<String> {
    let head: Vec<String> = head.iter().map(|name| name.to_string()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(lines).collect();
    let widths: Vec<usize> = (0..head.len()).map(|i| all.iter().map(|line| line[i].chars().count()).max().unwrap_or(0)).collect();
    let cell = |(i, (text, w)): (usize, (&String, &usize))| if i == 0 { format!("{text:<w$}") } else { format!("  {text:>w$}") };
    all.iter().map(|line| line.iter().zip(&widths).enumerate().map(cell).collect::<String>().trim_end().to_string()).collect()
}

/// Texts side by side, each broken at spaces to its width; a word that is longer goes on past it.
pub fn beside(texts: &[&str], widths: &[usize]) -> String {
    let broken: Vec<Vec<String>> = texts.iter().zip(widths).map(|(text, width)| broken(text, *width)).collect();
    let height = broken.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: usize, i: usize| format!("{:<w$}", broken[i].get(row).map_or("", String::as_str), w = widths[i]);
    let line = |row: usize| (0..broken.len()).map(|i| cell(row, i)).collect::<Vec<_>>().join("  ").trim_end().to_string();
    (0..height).map(line).collect::<Vec<_>>().join("\n")
}

fn broken(text: &str, width: usize) -> Vec<String> {
    let indent: String = text.chars().take_while(|c| *c == ' ').collect();
    let mut lines = vec![indent];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if line.trim().is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.into());
        }
    }
    lines
}

/// A number of bytes; a dash for none.
pub fn memory(bytes: u64) -> String {
    match bytes {
        0 => "–".into(),
        b if b < 10 << 30 => format!("{} MiB", (b >> 20).max(1)),
        b => format!("{:.1} GiB", b as f64 / f64::from(1 << 30)),
    }
}

/// A number to four digits at least, with separators between thousands.
pub fn figure(x: f64) -> String {
    let decimals = match x.abs() {
        a if a >= 99.95 => 1,
        a if a > 0.0 => (3.0 - a.log10().floor()).min(12.0) as usize,
        _ => 0,
    };
    let text = format!("{x:.decimals$}");
    let (whole, rest) = text.split_once('.').unwrap_or((&text, ""));
    let whole = whole.parse().map_or(whole.to_string(), thousands);
    if rest.is_empty() { whole } else { format!("{whole}.{rest}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_to_four_digits() {
        let told = [(0.5, "0.5000"), (9.9994, "9.999"), (35.154, "35.15"), (140.64, "140.6"), (1489.45, "1,489.5"), (99.96, "100.0")];
        told.into_iter().for_each(|(x, text)| assert_eq!(figure(x), text));
        let told = [(0.0, "0"), (1.64e-5, "0.00001640"), (1e9, "1,000,000,000.0")];
        told.into_iter().for_each(|(x, text)| assert_eq!(figure(x), text));
        let told = [(0, "–"), (1, "1 MiB"), ((10 << 30) - 1, "10239 MiB"), (10 << 30, "10.0 GiB"), (3 << 40, "3072.0 GiB")];
        told.into_iter().for_each(|(bytes, text)| assert_eq!(memory(bytes), text));
    }

    #[test]
    fn texts_stand_beside_each_other() {
        let told = beside(&["  key", "a few words", "unbreakable"], &[6, 6, 4]);
        assert_eq!(told, "  key   a few   unbreakable\n        words");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let lines = columns(&["a", "b"], &[vec!["long".into(), "1".into()], vec!["–".into(), "1000".into()]]);
        assert_eq!(lines, ["a        b", "long     1", "–     1000"]);
    }
}
