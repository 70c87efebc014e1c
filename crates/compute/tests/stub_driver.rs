//! What is said of drivers, devices and libraries that cannot be used: one line each, and no panic. Stand-ins for NVIDIA's libraries are
//! compiled by the C compiler that links Rust; every case is a process of its own, since a library once opened stays open.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use fd_compute::cuda;
use fd_compute::cuda::libraries::{Files, survey};

/// The variable that tells this program to be the process of a case: an ordinal.
const PROBE: &str = "FD_TEST_PROBE";
const MARK: &str = "probe: ";

/// Not a test: what the process of a case does.
#[test]
fn child() {
    let Some(ordinal) = std::env::var(PROBE).ok().and_then(|n| n.parse().ok()) else { return };
    let said = match cuda::open(ordinal) {
        Ok(gpu) => {
            let libraries = format!(
                "NVRTC {:?} by {}, cuBLASLt {:?} by {}",
                gpu.nvrtc.version(),
                gpu.nvrtc.found().by,
                gpu.cublas_lt.version,
                gpu.cublas_lt.by
            );
            format!("{} {}, CUDA {:?}, {}; {libraries}", gpu.name, gpu.capability, gpu.driver, gpu.target)
        }
        Err(e) => e.to_string(),
    };
    println!("\n{MARK}{said}");
}

/// A folder of stand-ins for one case, and the variables of its process.
struct Case {
    folder: PathBuf,
    variables: Vec<(String, String)>,
}

impl Case {
    fn new(name: &str) -> Case {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("stubs-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(folder.join("loader")).unwrap();
        Case { variables: vec![("LD_LIBRARY_PATH".into(), folder.join("loader").display().to_string())], folder }
    }

    /// With a whole driver.
    fn driver(name: &str) -> Case {
        // Both names: what asks for the one must not get a real driver's by the other.
        Case::new(name).library("DRIVER -DWHOLE", "loader/libcuda.so.1").library("DRIVER -DWHOLE", "loader/libcuda.so")
    }

    /// And NVRTC and cuBLASLt.
    fn whole(name: &str) -> Case {
        Case::driver(name).library("COMPILER", "loader/libnvrtc.so.12").library("PRODUCTS", "loader/libcublasLt.so.12")
    }

    /// Compiles a stand-in; the loader knows it as what its file is called.
    fn library(self, macros: &str, path: &str) -> Case {
        let path = self.folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stub_driver/stub.c");
        // What must be there and is not called; with OLD all but the last.
        let [mut driver, mut products] = cuda::needed();
        if macros.contains("OLD") {
            driver.pop();
            products.pop();
        }
        let own = ["cuDeviceGet", "cuDeviceGetAttribute", "cuGetErrorName"];
        driver.retain(|name| !own.contains(name));
        let has = |names: &[&str]| names.iter().map(|name| format!("HAS({name}) ")).collect::<String>();
        let lists = [format!("-DIN_DRIVER={}", has(&driver)), format!("-DIN_PRODUCTS={}", has(&products))];
        let macros = format!("-D{macros}");
        let name = format!("-Wl,-soname,{}", path.file_name().unwrap().display());
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", &name]).args(macros.split(' ')).args(lists).arg(source).arg("-o").arg(&path);
        assert!(compiler.status().expect("cc, which links Rust").success());
        self
    }

    fn set(mut self, name: &str, value: impl ToString) -> Case {
        self.variables.push((name.into(), value.to_string()));
        self
    }

    /// What is said of a device. The process sees no variable of this one's.
    fn said(&self, ordinal: usize) -> String {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "child", "--nocapture"]).env_clear().envs(self.variables.iter().cloned()).env(PROBE, ordinal.to_string());
        let out = child.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        let (printed, errors) = (text.split_once(MARK), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success() && printed.is_some(), "{:?}\n{text}\n{errors}", out.status);
        let said = printed.unwrap().1;
        let line = said.lines().next().unwrap().to_string();
        assert!(said[line.len()..].trim_start().starts_with("test child ... ok"), "more than a line: {said}");
        line
    }

    fn says(&self, why: &str) {
        assert_eq!(self.said(0), format!("device cuda:0: {why}"));
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Has this machine libraries that the loader knows without being told? Then what is missing cannot be tested.
fn machine_has(library: usize) -> bool {
    static FOUND: OnceLock<Vec<bool>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let files = Files { variables: Default::default(), ..Files::here() };
        survey(&files, None).libraries.iter().map(|l| !l.found.is_empty()).collect()
    });
    if found[library] {
        eprintln!("skipped: this machine has the library");
    }
    found[library]
}

#[test]
fn drivers_that_cannot_be_used() {
    if !machine_has(0) {
        Case::new("none").says("no NVIDIA driver (libcuda.so.1 could not be loaded)");
    }
    let case = Case::new("text");
    std::fs::write(case.path("loader/libcuda.so"), "text").unwrap();
    std::fs::write(case.path("loader/libcuda.so.1"), "text").unwrap();
    if !machine_has(0) {
        case.says("no NVIDIA driver (libcuda.so.1 could not be loaded)");
    }
    Case::driver("no-device").set("STUB_INIT", 100).says("the driver reports no device");
    let hidden = Case::driver("hidden").set("STUB_INIT", 100).set("CUDA_VISIBLE_DEVICES", "");
    hidden.says("the driver reports no device (CUDA_VISIBLE_DEVICES is ``)");
    Case::driver("broken").set("STUB_INIT", 999).says("cuInit failed: CUDA_ERROR_UNKNOWN (999)");
    Case::driver("odd").set("STUB_INIT", 4242).says("cuInit failed: error 4242");
    Case::driver("old").set("STUB_VERSION", 11080).says("driver 11.8 is older than 12.0, which this program needs");
    let foreign = Case::new("foreign").library("NOTHING", "loader/libcuda.so.1").library("NOTHING", "loader/libcuda.so");
    foreign.says("the driver's library has no cuInit");
    let little =
        Case::new("little").library("DRIVER -DWHOLE -DOLD", "loader/libcuda.so.1").library("DRIVER -DWHOLE -DOLD", "loader/libcuda.so");
    little.says("the driver's library has no cuGraphInstantiateWithFlags");
}

#[test]
fn devices_that_are_not_there_or_too_old() {
    Case::driver("no-devices").set("STUB_COUNT", 0).says("the driver reports no device");
    let two = Case::driver("two").set("STUB_COUNT", 2);
    assert_eq!(two.said(5), "device cuda:5: there are 2 devices; cuda:5 is not one of them");
    assert_eq!(two.said(usize::MAX), format!("device cuda:{0}: there are 2 devices; cuda:{0} is not one of them", usize::MAX));
    assert_eq!(Case::driver("one").said(1), "device cuda:1: there is 1 device; cuda:1 is not one of them");
    let old = Case::driver("turing").set("STUB_CAPABILITY", 75);
    old.says("Stub: its compute capability 7.5 is older than 8.0, which the kernels need");
}

#[test]
fn libraries_that_are_missing_or_of_another_version() {
    let cu12 = "`pip install nvidia-cuda-nvrtc-cu12`, or set CUDA_HOME to a CUDA toolkit";
    if !machine_has(1) {
        let case = Case::driver("without");
        case.says(&format!("NVRTC (libnvrtc.so.12) was not found: {cu12}"));
        let cu13 = "`pip install 'nvidia-cuda-nvrtc==13.*'`, or set CUDA_HOME to a CUDA toolkit";
        case.set("STUB_VERSION", 13000).says(&format!("NVRTC (libnvrtc.so.13 or libnvrtc.so.12) was not found: {cu13}"));
        let case = Case::driver("newer").library("COMPILER", "loader/libnvrtc.so.13");
        let why = format!("{}: of CUDA 13, and the driver runs CUDA 12", case.path("loader/libnvrtc.so.13"));
        case.says(&format!("NVRTC (libnvrtc.so.12) cannot be used: {why}: {cu12}"));
        let case = Case::driver("cut");
        std::fs::write(case.path("loader/libnvrtc.so.12"), "\x7fELF").unwrap();
        case.says(&format!("NVRTC (libnvrtc.so.12) cannot be used: {}: not a library: {cu12}", case.path("loader/libnvrtc.so.12")));
    }
    // A name that does not say which version it is: the library does.
    let case = Case::driver("unnamed").library("COMPILER", "loader/libnvrtc.so").set("STUB_NVRTC", 13);
    case.says(&format!("NVRTC: {} is of CUDA 13, and the driver runs CUDA 12", case.path("loader/libnvrtc.so")));
    let case = Case::driver("empty").library("NOTHING", "loader/libnvrtc.so.12");
    case.says(&format!("NVRTC: {} has no nvrtcVersion", case.path("loader/libnvrtc.so.12")));

    let compiler = |name: &str| Case::driver(name).library("COMPILER", "loader/libnvrtc.so.12");
    if !machine_has(2) {
        let why = "cuBLASLt (libcublasLt.so.12) was not found: `pip install nvidia-cublas-cu12`, or set CUDA_HOME to a CUDA toolkit";
        compiler("no-products").says(why);
    }
    let case = compiler("new-products").library("PRODUCTS", "loader/libcublasLt.so").set("STUB_CUBLAS", 130000);
    case.says("cuBLASLt: libcublasLt.so, which the loader finds first, is of CUDA 13, and the driver runs CUDA 12");
    let case = compiler("empty-products").library("NOTHING", "loader/libcublasLt.so");
    case.says("cuBLASLt: libcublasLt.so has no cublasLtGetVersion");
    let case = compiler("old-products").library("PRODUCTS -DOLD", "loader/libcublasLt.so.12");
    case.says("cuBLASLt: libcublasLt.so.12 has no cublasLtMatmulPreferenceSetAttribute");
}

#[test]
fn a_device_that_can_be_used() {
    let said = Case::whole("whole").said(0);
    assert_eq!(said, "Stub 90, CUDA (12, 8), sm_90a; NVRTC (12, 8) by LD_LIBRARY_PATH, cuBLASLt Some(\"12.8\") by loader");
    let newer = Case::whole("blackwell").set("STUB_CAPABILITY", 100).said(0);
    assert!(newer.starts_with("Stub 100, CUDA (12, 8), compute_90; "), "{newer}");
    // Libraries that the loader does not know: a Python environment's and a toolkit's.
    if !machine_has(1) && !machine_has(2) {
        let wheel = "venv/lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12";
        let case = Case::driver("places").library("COMPILER", wheel).library("PRODUCTS", "cuda/lib64/libcublasLt.so.12");
        let (venv, cuda) = (case.path("venv"), case.path("cuda"));
        let said = case.set("VIRTUAL_ENV", venv).set("CUDA_HOME", cuda).said(0);
        assert!(said.ends_with("NVRTC (12, 8) by VIRTUAL_ENV, cuBLASLt Some(\"12.8\") by CUDA_HOME"), "{said}");
    }
}
