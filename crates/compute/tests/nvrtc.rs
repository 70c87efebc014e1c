//! Every file of kernels compiled for every architecture, without a GPU: they compile, they need no more registers, spills, stack and
//! shared memory than `kernels.csv` allows, and a block of each fits a multiprocessor. Needs NVRTC (tools/nvrtc.sh); without it the tests
//! say that they are skipped, and fail with CI=true. FD_BLESS=1 writes the table anew.

#[path = "nvrtc/usage.rs"]
mod usage;

use std::path::{Path, PathBuf};
use std::time::Instant;

use fd_compute::cuda::libraries::Files;
use fd_compute::cuda::{Cache, Nvrtc, SOURCES, Source, Target, compiled};
use rayon::prelude::*;
use usage::{Usage, compare, of_log, read, written};

/// A100; RTX 30; RTX 40 and L4; H100 and H200; B200. Times ten.
const CAPABILITIES: [u32; 5] = [80, 86, 89, 90, 100];
/// The version whose assembler the table is of.
const VERSION: (u32, u32) = (13, 0);
/// What a multiprocessor has, and in what portions a warp takes it.
const REGISTERS: u32 = 65_536;
const PORTION: u32 = 256;

/// The files with NVRTC's folder: FD_NVRTC_DIR, else where tools/nvrtc.sh puts it, else none but the usual ones.
fn files() -> Files {
    let mut files = Files::here();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let made = files.matches(target.join("nvrtc/lib/python3*/site-packages/nvidia/cu13/lib"));
    if let (None, Some(folder)) = (files.variable("FD_NVRTC_DIR"), made.first()) {
        files.variables.insert("FD_NVRTC_DIR".into(), folder.display().to_string());
    }
    files
}

/// NVRTC, or nothing and a line about it.
fn nvrtc() -> Option<Nvrtc> {
    match Nvrtc::open(&files(), None) {
        Ok(nvrtc) => Some(nvrtc),
        Err(why) => skipped(&why),
    }
}

fn skipped<T>(why: &str) -> Option<T> {
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "{why}; with CI=true nothing may be left out: tools/nvrtc.sh installs it"
    );
    eprintln!("skipped: {why}");
    None
}

fn table() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels.csv")
}

/// Compiles a file and reads what its kernels use; that is kept, since some files take many seconds.
fn usage_of(nvrtc: &Nvrtc, source: &Source, target: &Target) -> Result<Vec<Usage>, fd_compute::Error> {
    let kept = Cache::at(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel-usage"));
    // The options are compile.rs's, the reading is usage.rs's.
    let code = [include_str!("../src/cuda/compile.rs"), include_str!("nvrtc/usage.rs")].concat();
    let key = Cache::key(&[nvrtc.identity(), source.name, source.text, &source.headers(), &target.to_string(), &code]);
    if let Some(rows) = kept.load(&key).and_then(|table| read(std::str::from_utf8(&table).ok()?).ok()) {
        return Ok(rows);
    }
    let began = Instant::now();
    let built = nvrtc.kernels(source, target, &["--ptxas-options=-v"])?;
    assert!(built.image.starts_with(b"\x7fELF"), "{}: no CUBIN for {target}", source.name);
    println!("{} {target}: {} bytes, {:.2} s", source.name, built.image.len(), began.elapsed().as_secs_f64());
    let mut rows = of_log(source.name, &target.to_string(), &built.log, &built.ptx);
    rows.sort_by_key(Usage::place);
    kept.store(&key, written(&rows).as_bytes());
    Ok(rows)
}

/// Compiles everything and reads what it uses, in the table's order.
fn measured(nvrtc: &Nvrtc) -> Vec<Usage> {
    let target = |capability| Target::of(capability, nvrtc.architectures()).unwrap();
    let jobs: Vec<(&Source, Target)> = SOURCES.iter().flat_map(|s| CAPABILITIES.map(|capability| (s, target(capability)))).collect();
    let began = Instant::now();
    // One by one: some files take a hundred times as long as others.
    let built = jobs.par_iter().with_max_len(1).map(|(source, target)| usage_of(nvrtc, source, target));
    let (built, failed): (Vec<_>, Vec<_>) = built.collect::<Vec<_>>().into_iter().partition(Result::is_ok);
    let failed: Vec<String> = failed.into_iter().filter_map(|e| Some(e.err()?.to_string())).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let mut rows: Vec<Usage> = built.into_iter().flatten().flatten().collect();
    rows.sort_by_key(Usage::place);
    println!("{} files, {} kernels and architectures, {:.1} s", SOURCES.len(), rows.len(), began.elapsed().as_secs_f64());
    rows
}

#[test]
fn every_kernel_compiles_within_its_budget() {
    let Some(nvrtc) = nvrtc() else { return };
    let rows = measured(&nvrtc);
    let mut kernels: Vec<(&str, &str)> = rows.iter().map(|row| (row.kernel.as_str(), row.file.as_str())).collect();
    kernels.sort();
    kernels.dedup();
    let twice: Vec<_> = kernels.windows(2).filter(|pair| pair[0].0 == pair[1].0).collect();
    assert!(twice.is_empty(), "kernels of one name in two files: {twice:?}");
    for row in &rows {
        let warps = row.threads.div_ceil(32);
        let registers = (row.registers * 32).div_ceil(PORTION) * PORTION * warps;
        let of_block = format!("{} for {}: {} registers for each of {} threads", row.kernel, row.arch, row.registers, row.threads);
        assert!(registers <= REGISTERS, "{of_block} are more than {REGISTERS} (no __launch_bounds__ counts as 1024 threads)");
    }
    if nvrtc.version() != VERSION {
        skipped::<()>(&format!("kernels.csv is of NVRTC {VERSION:?}, this is {:?}", nvrtc.version()));
        return;
    }
    if std::env::var_os("FD_BLESS").is_some_and(|v| v == "1") {
        std::fs::write(table(), written(&rows)).unwrap();
        return;
    }
    let text = std::fs::read_to_string(table()).unwrap();
    let budget = read(&text).unwrap_or_else(|why| panic!("kernels.csv: {why}"));
    let (worse, better) = compare(&budget, &rows);
    let remedy = "FD_BLESS=1 cargo test -p fd-compute --test nvrtc writes the table anew, if that is meant";
    assert!(worse.is_empty(), "kernels.csv does not allow this:\n{}\n{remedy}", worse.join("\n"));
    if !better.is_empty() {
        println!("less than kernels.csv allows:\n{}\n{remedy}", better.join("\n"));
    }
}

/// A kernel that writes `value`.
fn small(value: &str) -> Source {
    let text = format!("#include \"kx.h\"\nextern \"C\" __global__ void f(float* x) {{ x[threadIdx.x] = {value}; }}\n");
    Source { name: "small.cu", text: text.leak() }
}

#[test]
fn what_does_not_compile_is_told_in_one_line() {
    let Some(nvrtc) = nvrtc() else { return };
    let target = Target::of(90, nvrtc.architectures()).unwrap();
    let why = |source: &Source, more: &[&str]| nvrtc.kernels(source, &target, more).unwrap_err().to_string();
    let said = why(&small("nothing"), &[]);
    assert!(said.starts_with("kernels small.cu: does not compile for sm_90a with NVRTC "), "{said}");
    assert!(said.ends_with("small.cu(2): error: identifier \"nothing\" is undefined") && !said.contains('\n'), "{said}");
    assert!(why(&small("0\0"), &[]).ends_with("a zero byte in what is to be compiled"));
    let said = why(&small("0"), &["--no-such-option"]);
    assert!(said.contains("option") && !said.contains('\n'), "{said}");
    // Instructions that the architecture has not are the assembler's to find.
    let hopper = small("0; asm volatile(\"wgmma.fence.sync.aligned;\")");
    assert!(nvrtc.kernels(&hopper, &target, &[]).is_ok());
    let said = nvrtc.kernels(&hopper, &Target::Cubin("80".into()), &[]).unwrap_err().to_string();
    assert!(said.contains("wgmma") && !said.contains('\n'), "{said}");
}

#[test]
fn a_device_newer_than_the_compiler_gets_ptx() {
    let Some(nvrtc) = nvrtc() else { return };
    let target = Target::of(990, nvrtc.architectures()).unwrap();
    let built = nvrtc.kernels(&small("1"), &target, &[]).unwrap();
    let text = std::str::from_utf8(&built.image).unwrap();
    assert!(text.contains(".entry f(") && text.ends_with('\0') && text.matches('\0').count() == 1);
}

#[test]
fn what_is_compiled_is_kept() {
    let Some(nvrtc) = nvrtc() else { return };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kernels-{}", std::process::id()));
    let (cache, target) = (Cache::at(&folder), Target::of(80, nvrtc.architectures()).unwrap());
    let image = |value: &str| compiled(&nvrtc, &cache, &small(value), &target).unwrap();
    let first = image("1");
    let entry = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let kept = std::fs::read(&entry).unwrap();
    assert_eq!((image("1") == first, image("2") == first, std::fs::read_dir(&folder).unwrap().count()), (true, false, 2));
    let in_ptx = compiled(&nvrtc, &cache, &small("1"), &Target::Ptx(80)).unwrap();
    assert!(in_ptx != first && std::fs::read_dir(&folder).unwrap().count() == 3);
    // Half of an entry is none: it is compiled again and replaced.
    std::fs::write(&entry, &kept[..kept.len() / 2]).unwrap();
    assert!(image("1") == first && std::fs::read(&entry).unwrap() == kept);
    std::fs::remove_dir_all(&folder).unwrap();
}
