//! A table that grows on disk row by row and survives its process: CSV under the name `NAME.part`, renamed when it is complete.
//!
//! The rows' keys are known beforehand and rows come in their order, so what is there is a beginning of what will be there. Whoever
//! takes the table up keeps the rows that are whole and as expected, and cuts off the rest: an interrupted table ends up with the
//! same bytes.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fd_distill::Error;

/// Most time that rows may be lost for when the power fails. (A process that is killed loses none.)
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// A table under way, or complete.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    keys: Vec<String>,
    rows: Vec<Vec<f64>>,
    numbers: usize,
    /// None when it is complete.
    part: Option<(File, Instant)>,
}

impl Journal {
    /// The table `path` of a header, whose row n is `keys[n]` (CSV fields, without the comma behind them) and `numbers` numbers.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn open(path: PathBuf, header: &str, keys: Vec<String>, numbers: usize) -> Result<Journal, Error> {
        let mut journal = Journal { path, keys, rows: vec![], numbers, part: None };
        let part = journal.part_path();
        let begun = if journal.path.exists() { journal.path.clone() } else { part.clone() };
        let bytes = match fs::read(&begun) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => vec![],
            read => read.map_err(|e| fail(&begun, "read", e))?,
        };
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.split_inclusive('\n');
        let mut good = lines.next().filter(|first| first.strip_suffix('\n') == Some(header)).map_or(0, str::len);
        if good > 0 {
            for line in lines {
                let Some(row) = journal.row(line) else { break };
                journal.rows.push(row);
                good += line.len();
            }
        }
        if begun == journal.path && journal.is_done() && good == bytes.len() {
            return Ok(journal);
        }
        if begun == journal.path {
            fs::rename(&begun, &part).map_err(|e| fail(&part, "written", e))?;
        }
        let open = || {
            let mut file = File::options().create(true).append(true).open(&part)?;
            file.set_len(good as u64)?;
            if good == 0 {
                writeln!(file, "{header}")?;
            }
            Ok(file)
        };
        let file = open().map_err(|e| fail(&part, "written", e))?;
        journal.part = Some((file, Instant::now()));
        Ok(journal)
    }

    /// The rows that are there.
    pub fn rows(&self) -> &[Vec<f64>] {
        &self.rows
    }

    /// Are all rows there?
    pub fn is_done(&self) -> bool {
        self.rows.len() == self.keys.len()
    }

    /// Adds the next row.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn push(&mut self, row: &[f64]) -> Result<(), Error> {
        assert!(!self.is_done() && row.len() == self.numbers, "one row a key");
        let path = self.part_path();
        let (file, synced) = self.part.as_mut().expect("a table that is not complete is open");
        let numbers: String = row.iter().map(|x| format!(",{x}")).collect();
        let line = format!("{}{numbers}\n", self.keys[self.rows.len()]);
        let mut write = || {
            file.write_all(line.as_bytes())?;
            if synced.elapsed() > SYNC_EVERY {
                file.sync_data()?;
                *synced = Instant::now();
            }
            Ok(())
        };
        write().map_err(|e| fail(&path, "written", e))?;
        self.rows.push(row.to_vec());
        Ok(())
    }

    /// Gives the complete table its name.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn finish(&mut self) -> Result<(), Error> {
        assert!(self.is_done(), "a row for each key");
        if let Some((file, _)) = self.part.take() {
            let done = file.sync_all().and_then(|()| fs::rename(self.part_path(), &self.path));
            done.map_err(|e| fail(&self.path, "written", e))?;
            // The new name is on disk once the folder is; not every file system lets a folder be synced.
            let _ = self.path.parent().and_then(|folder| File::open(folder).ok()).map(|folder| folder.sync_all());
        }
        Ok(())
    }

    fn part_path(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".part");
        name.into()
    }

    /// The numbers of the next row, if the line is one, to its end.
    fn row(&self, line: &str) -> Option<Vec<f64>> {
        let numbers = line.strip_suffix('\n')?.strip_prefix(self.keys.get(self.rows.len())?.as_str())?.strip_prefix(',')?;
        let row: Vec<f64> = numbers.split(',').map(|x| x.parse().ok()).collect::<Option<_>>()?;
        (row.len() == self.numbers).then_some(row)
    }
}

fn fail(path: &Path, what: &str, e: std::io::Error) -> Error {
    Error::File { path: path.to_path_buf(), why: format!("cannot be {what}: {e}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("fd-journal-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn open(folder: &Path) -> Journal {
        let keys = ["a,0", "\"b, c\",1", "d,2"].map(String::from).to_vec();
        Journal::open(folder.join("t.csv"), "name,i,x,y", keys, 2).unwrap()
    }

    const WHOLE: &str = "name,i,x,y\na,0,0.1,-2\n\"b, c\",1,NaN,inf\nd,2,0.30000000000000004,0.000001\n";
    const ROWS: [[f64; 2]; 3] = [[0.1, -2.0], [f64::NAN, f64::INFINITY], [0.1 + 0.2, 1e-6]];

    #[test]
    fn whatever_is_left_of_a_table_it_ends_up_the_same() {
        let folder = scratch("left");
        let (name, part) = (folder.join("t.csv"), folder.join("t.csv.part"));
        // Cut anywhere; then zeros as after a loss of power, then rows of something else.
        let cuts = (0..=WHOLE.len()).map(|n| WHOLE.as_bytes()[..n].to_vec());
        let spoilt = [[&WHOLE.as_bytes()[..30], &[0; 40]].concat(), b"other\n1,2\n".to_vec(), WHOLE.replace("d,2", "e,2").into_bytes()];
        for (i, left) in cuts.chain(spoilt).enumerate() {
            // A complete name may have been spoilt, too.
            let _ = fs::remove_file(&name);
            fs::write(if i % 2 == 0 { &part } else { &name }, &left).unwrap();
            let mut journal = open(&folder);
            assert!(
                journal.rows().len() >= WHOLE.as_bytes()[..i.min(WHOLE.len())].iter().filter(|b| **b == b'\n').count().saturating_sub(1)
                    || i > WHOLE.len()
            );
            for row in &ROWS[journal.rows().len()..] {
                assert!(!name.exists());
                journal.push(row).unwrap();
            }
            journal.finish().unwrap();
            assert_eq!(fs::read_to_string(&name).unwrap(), WHOLE, "{left:?}");
            assert!(!part.exists());
        }
        let mut again = open(&folder);
        assert!(again.is_done() && again.rows()[2] == ROWS[2]);
        again.finish().unwrap();
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let e = Journal::open("/proc/fd-journal/t.csv".into(), "a,b", vec![], 1).unwrap_err().to_string();
        assert!(e.starts_with("/proc/fd-journal/t.csv.part: cannot be written"), "{e}");
    }
}
