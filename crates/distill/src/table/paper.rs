//! The paper's rows (its section 2 on ImageNet-1K): each a table of its own with the recipes of the official code.

pub use super::render::paper::PaperTable;
use crate::Error;
use crate::config::Source;

/// The rows, by the names of their files in `experiments/paper/`.
pub const ROWS: [&str; 8] = ["dino-b", "esvit-swin-b", "clip-b", "clip-l", "clip-l-336", "deit-b", "mae-b", "swinv2-g"];

/// The configuration of a row.
pub fn source(row: &str) -> Option<Source> {
    macro_rules! of {
        ($($row:literal),*) => {
            match row {
                $($row => (
                    concat!("experiments/paper/", $row, ".toml"),
                    include_str!(concat!("../../../../experiments/paper/", $row, ".toml")),
                ),)*
                _ => return None,
            }
        };
    }
    let (name, text) = of!("dino-b", "esvit-swin-b", "clip-b", "clip-l", "clip-l-336", "deit-b", "mae-b", "swinv2-g");
    Some(Source::Embedded { name, text })
}

/// The rows of a list `a,b,c`, in the paper's order.
///
/// # Errors
/// A name that is none; the message lists them.
pub fn rows(list: &str) -> Result<Vec<&'static str>, String> {
    let wanted: Vec<&str> = list.split(',').map(str::trim).collect();
    match wanted.iter().find(|row| !ROWS.contains(row)) {
        Some(row) => Err(format!("no row `{row}`; there are {}", ROWS.join(", "))),
        None => Ok(ROWS.into_iter().filter(|row| wanted.contains(row)).collect()),
    }
}

/// The overrides of one row: `KEY=VALUE` is of every row, `ROW:KEY=VALUE` (or `ROW,ROW:KEY=VALUE`) of those that it names.
///
/// # Errors
/// A row that there is not.
pub fn sets_of(row: &str, sets: &[String]) -> Result<Vec<String>, Error> {
    let mut of_row = vec![];
    for set in sets {
        // A colon in a value, or in a quoted part of the key, belongs to those.
        let key = set.split(['=', '"']).next().unwrap_or_default();
        match key.split_once(':') {
            None => of_row.push(set.clone()),
            Some((list, _)) => {
                let named = rows(list).map_err(|why| Error::Usage(format!("--set {set}: {why}")))?;
                of_row.extend(named.contains(&row).then(|| set[list.len() + 1..].to_string()));
            }
        }
    }
    Ok(of_row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;
    use crate::table::TableConfig;

    #[test]
    fn every_row_is_a_table() {
        for row in ROWS {
            let (config, _) = load::<TableConfig>(&source(row).unwrap(), &[]).unwrap();
            config.check(1_281_167, 1000).unwrap_or_else(|e| panic!("{row}: {e}"));
            assert_eq!(config.name, format!("paper-{row}"));
            assert_eq!(config.teachers.len(), 1, "{row}");
            assert!(config.fine_tuning(&config.columns[0]).is_some(), "{row}: the first column is a fine-tuning");
            let named = [config.teachers[0].name.clone(), format!("{} + FD", config.teachers[0].name)];
            assert!(config.paper.iter().all(|p| named.contains(&p.row)), "{row}: {:?}", config.paper);
        }
        assert!(source("dino").is_none());
    }

    #[test]
    fn overrides_are_of_all_rows_or_of_some() {
        let sets = ["a=1", "dino-b:b=x:y", "clip-b, deit-b:c=3", "teachers.\"a:b\".seed=1"].map(String::from);
        assert_eq!(sets_of("dino-b", &sets).unwrap(), ["a=1", "b=x:y", "teachers.\"a:b\".seed=1"]);
        assert_eq!(sets_of("deit-b", &sets).unwrap(), ["a=1", "c=3", "teachers.\"a:b\".seed=1"]);
        let wrong = sets_of("dino-b", &["dino:a=1".into()]).unwrap_err().to_string();
        assert!(wrong.contains("--set dino:a=1: no row `dino`; there are dino-b,"), "{wrong}");
        assert_eq!(rows("mae-b,dino-b").unwrap(), ["dino-b", "mae-b"]);
    }
}
