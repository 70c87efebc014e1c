//! Tidy CSV: one number, or one interval, a line, in full precision.

use std::fmt::Write;

use crate::table::TableResult;

impl TableResult {
    /// `row,teacher,kind,column,seed,accuracy`: a line for every accuracy, in percent.
    pub fn csv(&self) -> String {
        let mut out = String::from("row,teacher,kind,column,seed,accuracy\n");
        for row in &self.rows {
            let (name, teacher) = (field(&row.name), field(row.teacher.as_deref().unwrap_or_default()));
            for (column, cell) in self.columns.iter().zip(&row.cells) {
                for (i, accuracy) in cell.iter().flat_map(|c| &c.accuracy).enumerate() {
                    let seed = self.seeds.get(i).map_or(String::new(), u64::to_string);
                    let _ = writeln!(out, "{name},{teacher},{},{},{seed},{accuracy}", row.kind.key(), field(&column.key));
                }
            }
        }
        out
    }

    /// `comparison,column,mean,low,high`: a line for every difference and its 95 % interval, in points of percent.
    pub fn comparisons_csv(&self) -> String {
        let mut out = String::from("comparison,column,mean,low,high\n");
        for (label, differences) in self.all_differences() {
            for (column, difference) in self.columns.iter().zip(differences) {
                let Some(d) = difference else { continue };
                let _ = writeln!(out, "{},{},{},{},{}", field(label), field(&column.key), d.mean, d.low, d.high);
            }
        }
        out
    }
}

/// Quoted where CSV needs it.
pub(super) fn field(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_string() }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{odd, result, small};

    #[test]
    fn accuracies_are_tidy() {
        let expected = "\
row,teacher,kind,column,seed,accuracy
DINO,DINO,before,\"fine-tune-6,000-labels\",0,86
DINO,DINO,before,\"fine-tune-6,000-labels\",7,87
DINO,DINO,before,linear-probe,0,84
DINO,DINO,before,linear-probe,7,84.5
";
        let mut table = small();
        table.rows.truncate(1);
        assert_eq!(table.csv(), expected);
        assert!(small().csv().ends_with("\n\"raw pixels, flat\",,control,linear-probe,0,81.25\n"));
        assert_eq!(result(&[], &[], vec![]).csv(), "row,teacher,kind,column,seed,accuracy\n");
    }

    #[test]
    fn comparisons_are_tidy() {
        let expected = "\
comparison,column,mean,low,high
DINO: FD,\"fine-tune-6,000-labels\",1.75,0.9,2.61
DINO: FD,linear-probe,-0.25,-1,0.5
DINO: FD against training on,\"fine-tune-6,000-labels\",1,0.25,1.8
";
        assert_eq!(small().comparisons_csv(), expected);
    }

    #[test]
    fn a_csv_reader_reads_odd_names() {
        for table in odd() {
            let names: Vec<&str> = table.rows.iter().map(|r| r.name.as_str()).collect();
            let labels: Vec<&str> = table.comparisons.iter().map(|c| c.label.as_str()).collect();
            for (text, known, fields) in [(table.csv(), names, 6), (table.comparisons_csv(), labels, 5)] {
                let records: Vec<csv::StringRecord> =
                    csv::Reader::from_reader(text.as_bytes()).records().collect::<Result<_, _>>().unwrap();
                assert!(records.iter().all(|r| r.len() == fields && known.contains(&&r[0])), "{text}");
            }
        }
    }
}
