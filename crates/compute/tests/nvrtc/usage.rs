//! What kernels use of a multiprocessor: read from the assembler's log, kept in a table, compared.

/// What a kernel uses on an architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    pub file: String,
    pub kernel: String,
    pub arch: String,
    pub registers: u32,
    /// Bytes that spilled registers write and read.
    pub spill: u32,
    pub stack: u32,
    /// Shared memory whose size is fixed in the source, in bytes.
    pub shared: u32,
    /// The most threads of a block.
    pub threads: u32,
}

/// A block's most threads where a kernel does not say.
const MOST_THREADS: u32 = 1024;
const HEADER: &str = "file,kernel,arch,registers,spill_bytes,stack_bytes,shared_bytes,threads";

impl Usage {
    /// The table's order: of architectures, the number's.
    pub fn place(&self) -> (String, String, u32) {
        let number: String = self.arch.chars().filter(char::is_ascii_digit).collect();
        (self.file.clone(), self.kernel.clone(), number.parse().unwrap_or(0))
    }

    fn numbers(&self) -> [(&'static str, u32); 5] {
        let [registers, spill, stack] = [("registers", self.registers), ("spill_bytes", self.spill), ("stack_bytes", self.stack)];
        [registers, spill, stack, ("shared_bytes", self.shared), ("threads", self.threads)]
    }

    fn name(&self) -> String {
        format!("{}, {}, {}", self.file, self.kernel, self.arch)
    }
}

/// Reads what `--ptxas-options=-v` says of every kernel; the threads are in the PTX.
pub fn of_log(file: &str, arch: &str, log: &str, ptx: &str) -> Vec<Usage> {
    let mut rows: Vec<Usage> = vec![];
    // Functions that were not inlined have properties, too, and no registers of their own.
    let mut of_kernel = false;
    for line in log.lines() {
        if let Some(kernel) = line.split("Compiling entry function '").nth(1).and_then(|rest| rest.split('\'').next()) {
            let (file, kernel, arch, threads) = (file.into(), kernel.to_string(), arch.into(), threads(ptx, kernel));
            rows.push(Usage { file, kernel, arch, registers: 0, spill: 0, stack: 0, shared: 0, threads });
        }
        let Some(row) = rows.last_mut() else { continue };
        if let Some(function) = line.split("Function properties for ").nth(1) {
            of_kernel = function.trim() == row.kernel;
        }
        if of_kernel && line.contains("bytes stack frame") {
            row.stack = before(line, "bytes stack frame");
            row.spill = before(line, "bytes spill stores") + before(line, "bytes spill loads");
        }
        if line.contains("Used ") && line.contains(" registers") {
            row.registers = before(line, "registers");
            row.shared = before(line, "bytes smem");
        }
    }
    assert!(rows.iter().all(|row| row.registers > 0), "{file}: a log of another form:\n{log}");
    rows
}

/// The number before some words; none: 0.
fn before(line: &str, words: &str) -> u32 {
    line.split(words)
        .next()
        .filter(|start| start.len() < line.len())
        .and_then(|start| start.split_whitespace().last()?.parse().ok())
        .unwrap_or(0)
}

fn threads(ptx: &str, kernel: &str) -> u32 {
    let head = ptx.split(&format!(".entry {kernel}(")).nth(1).and_then(|rest| rest.split('{').next()).unwrap_or("");
    let bounds = head.split(".maxntid ").nth(1).and_then(|rest| rest.lines().next());
    bounds.map_or(MOST_THREADS, |bounds| bounds.split(',').map(|n| n.trim().parse::<u32>().unwrap()).product())
}

pub fn written(rows: &[Usage]) -> String {
    let line = |row: &Usage| {
        let numbers: Vec<String> = row.numbers().iter().map(|(_, n)| n.to_string()).collect();
        format!("{},{},{},{}\n", row.file, row.kernel, row.arch, numbers.join(","))
    };
    format!("{HEADER}\n{}", rows.iter().map(line).collect::<String>())
}

pub fn read(text: &str) -> Result<Vec<Usage>, String> {
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        return Err(format!("the first line must be {HEADER}"));
    }
    let row = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        let [file, kernel, arch, numbers @ ..] = fields.as_slice() else { return None };
        let numbers: Option<Vec<u32>> = numbers.iter().map(|n| n.parse().ok()).collect();
        let [registers, spill, stack, shared, threads] = numbers?[..] else { return None };
        let (file, kernel, arch) = (file.to_string(), kernel.to_string(), arch.to_string());
        Some(Usage { file, kernel, arch, registers, spill, stack, shared, threads })
    };
    let rows: Vec<Usage> = lines.map(|line| row(line).ok_or(format!("not a line of the table: {line}"))).collect::<Result<_, _>>()?;
    match rows.windows(2).find(|pair| pair[0].place() >= pair[1].place()) {
        Some(pair) => Err(format!("{}: twice, or not in order", pair[1].name())),
        None => Ok(rows),
    }
}

/// What is more than allowed, not in the table or only there; and what is less than allowed.
pub fn compare(budget: &[Usage], found: &[Usage]) -> (Vec<String>, Vec<String>) {
    let (mut worse, mut better) = (vec![], vec![]);
    let same = |a: &Usage, b: &Usage| a.place() == b.place() && a.arch == b.arch;
    for row in found {
        let Some(allowed) = budget.iter().find(|allowed| same(allowed, row)) else {
            worse.push(format!("{}: not in the table", row.name()));
            continue;
        };
        for ((what, now), (_, most)) in row.numbers().into_iter().zip(allowed.numbers()) {
            let list = if now > most { &mut worse } else { &mut better };
            if now != most {
                list.push(format!("{}: {what} {most} -> {now}", row.name()));
            }
        }
    }
    let gone = budget.iter().filter(|allowed| !found.iter().any(|row| same(allowed, row)));
    worse.extend(gone.map(|allowed| format!("{}: in the table, and there is no such kernel", allowed.name())));
    (worse, better)
}

const LOG: &str = "ptxas info    : 8 bytes gmem
ptxas info    : Compiling entry function 'b' for 'sm_90a'
ptxas info    : Function properties for b
ptxas         .     16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 16 bytes cumulative stack size, 2048 bytes smem
ptxas info    : Function properties for helper
ptxas         .     64 bytes stack frame, 1 bytes spill stores, 1 bytes spill loads
ptxas info    : Compiling entry function 'a' for 'sm_90a'
ptxas info    : Function properties for a
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
ptxas info    : Compile time = 4.212 ms
";
const PTX: &str = ".visible .entry a(\n\t.param .u64 x\n)\n{\n}\n.visible .entry b(\n)\n.maxntid 64, 2, 1\n.minnctapersm 2\n{\n}\n";

fn usage(kernel: &str, numbers: [u32; 4], threads: u32) -> Usage {
    let [registers, spill, stack, shared] = numbers;
    Usage { file: "f.cu".into(), kernel: kernel.into(), arch: "sm_90a".into(), registers, spill, stack, shared, threads }
}

#[test]
fn a_log_is_read() {
    let rows = of_log("f.cu", "sm_90a", LOG, PTX);
    assert_eq!(rows, [usage("b", [40, 12, 16, 2048], 128), usage("a", [8, 0, 0, 0], 1024)]);
}

#[test]
fn the_table_is_held_to_what_is_found() {
    let rows = [usage("a", [8, 0, 0, 0], MOST_THREADS), usage("b", [40, 12, 16, 2048], MOST_THREADS)];
    assert_eq!(read(&written(&rows)).unwrap(), rows);
    let lists = |budget: &[Usage], found: &[Usage]| compare(budget, found);
    assert_eq!(lists(&rows, &rows), (vec![], vec![]));
    let more = [rows[0].clone(), usage("b", [41, 8, 16, 2048], MOST_THREADS)];
    let (worse, better) = lists(&rows, &more);
    assert_eq!((worse, better), (vec!["f.cu, b, sm_90a: registers 40 -> 41".into()], vec!["f.cu, b, sm_90a: spill_bytes 12 -> 8".into()]));
    assert_eq!(lists(&rows[..1], &rows).0, ["f.cu, b, sm_90a: not in the table"]);
    assert_eq!(lists(&rows, &rows[..1]).0, ["f.cu, b, sm_90a: in the table, and there is no such kernel"]);
    let other = Usage { arch: "sm_90".into(), ..rows[0].clone() };
    assert_eq!(lists(&rows[..1], &[other]).0.len(), 2);
}

#[test]
fn a_table_of_another_form_is_refused() {
    let text = written(&[usage("a", [8, 0, 0, 0], 1)]);
    let line = text.lines().nth(1).unwrap();
    for (text, why) in [
        ("", "the first line must be"),
        (&*text.replace("8,", "x,"), "not a line of the table"),
        (&*text.replace(",0,1\n", "\n"), "not a line of the table"),
        (&*format!("{text}{line}\n"), "twice, or not in order"),
        (&*format!("{text}a{line}\n"), "twice, or not in order"),
    ] {
        assert!(read(text).unwrap_err().contains(why), "{text}");
    }
}
