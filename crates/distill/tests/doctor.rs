//! `doctor` on machines made up of files.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use fd_distill::doctor::{Files, Library, Machine, Report};

/// A root folder for one test.
struct Root(PathBuf);

impl Root {
    fn new(name: &str) -> Root {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("doctor-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Root(path)
    }

    fn file(&self, path: &str, bytes: impl AsRef<[u8]>) -> &Root {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        self
    }

    fn library(&self, path: &str) -> &Root {
        self.file(path, elf(2, 62))
    }

    fn link(&self, path: &str, to: &str) -> &Root {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
        self
    }

    fn report(&self, variables: &[(&str, &str)]) -> Report {
        let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let files = Files { root: self.0.clone(), variables, arch: "x86_64".into() };
        Report::of(&Machine { files, os: "linux".into(), cores: Some(8), threads: 8 })
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The beginning of a library, for a class and a machine.
fn elf(class: u8, machine: u8) -> Vec<u8> {
    let mut head = vec![0; 64];
    head[..5].copy_from_slice(&[0x7f, b'E', b'L', b'F', class]);
    head[18] = machine;
    head
}

fn of<'a>(report: &'a Report, name: &str) -> &'a Library {
    report.gpu.libraries.iter().find(|l| l.name == name).unwrap()
}

/// The first place: path, version, who says so.
fn first<'a>(report: &'a Report, name: &str) -> (&'a str, Option<&'a str>, &'a str) {
    let found = &of(report, name).found[0];
    (found.path.to_str().unwrap(), found.version.as_deref(), found.by)
}

#[test]
fn an_empty_machine_is_told_what_to_do() {
    let root = Root::new("empty");
    let report = root.report(&[]);
    assert!(report.usable());
    assert_eq!(report.gpu.missing, ["device", "libcuda", "NVRTC", "cuBLASLt"]);
    assert_eq!((report.system.name.as_str(), &report.system.kernel, &report.cpu.model), ("linux", &None, &None));
    assert_eq!((report.memory.total, report.memory.limit, report.cpu.quota), (None, None, None));
    assert_eq!((report.gpu.driver.as_deref(), report.gpu.devices.len(), report.gpu.notes.len()), (None, 0, 0));
    assert!(report.gpu.advice.as_ref().unwrap().contains("--gpus all"));
    for (name, word) in
        [("libcuda", "driver"), ("NVRTC", "pip install 'nvidia-cuda-nvrtc==13.*'"), ("cuBLASLt", "CUDA_HOME"), ("NCCL", "several GPUs")]
    {
        let library = of(&report, name);
        assert!(library.found.is_empty() && library.advice.as_ref().unwrap().contains(word), "{library:?}");
    }
}

#[test]
fn system_processor_and_memory() {
    let root = Root::new("system");
    root.file("etc/os-release", "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n");
    root.file("proc/sys/kernel/osrelease", "5.15.0-microsoft-standard-WSL2\n");
    root.file("proc/cpuinfo", "processor\t: 0\nmodel name\t: AMD EPYC 9B14\n\nprocessor\t: 1\nmodel name\t: other\n");
    root.file("proc/meminfo", "MemTotal:       16000 kB\nMemFree: 1 kB\nMemAvailable:    8000 kB\n");
    root.file("proc/self/cgroup", "0::/../outer/inner\n");
    root.file("sys/fs/cgroup/outer/cpu.max", "150000 100000\n").file("sys/fs/cgroup/outer/inner/cpu.max", "max 100000\n");
    root.file("sys/fs/cgroup/outer/inner/memory.max", "4096000\n").file("sys/fs/cgroup/outer/memory.max", "max\n");
    let report = root.report(&[]);
    assert_eq!((report.system.name.as_str(), report.system.wsl), ("Debian GNU/Linux 12", true));
    assert_eq!((report.cpu.model.as_deref(), report.cpu.quota, report.cpu.cores), (Some("AMD EPYC 9B14"), Some(1.5), Some(8)));
    assert_eq!(report.memory.total, Some(16_384_000));
    assert_eq!((report.memory.available, report.memory.limit), (Some(8_192_000), Some(4_096_000)));
    assert!(report.gpu.advice.unwrap().contains("in Windows"));
    // The first version of control groups, without limits of memory.
    let old = Root::new("old");
    old.file("proc/meminfo", "MemTotal: 16000 kB\n").file("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    old.file("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n").file("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    assert_eq!((old.report(&[]).memory.limit, old.report(&[]).cpu.quota), (None, None));
    old.file("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n");
    assert_eq!(old.report(&[]).cpu.quota, Some(2.0));
}

#[test]
fn nonsense_in_the_kernel_s_files_is_unknown() {
    let root = Root::new("nonsense");
    root.file("proc/meminfo", "MemTotal: much kB\nMemAvailable:\n").file("proc/cpuinfo", [0xff, 0xfe, b'\n', b':', b'\n']);
    root.file("sys/fs/cgroup/cpu.max", "1 0\n").file("sys/fs/cgroup/memory.max", "-5\n").file("etc/os-release", "PRETTY_NAME=\"\"\n");
    root.file("proc/driver/nvidia/version", "").file("proc/self/cgroup", "no colons\n").file("etc/ld.so.conf", "include x\n[bad\n../up\n");
    let report = root.report(&[("PATH", "::/nowhere"), ("LD_LIBRARY_PATH", ":"), ("HOME", "")]);
    assert_eq!((report.memory.total, report.memory.available, report.memory.limit), (None, None, None));
    assert_eq!((report.cpu.quota, report.cpu.model, report.system.name.as_str()), (None, None, "linux"));
    assert_eq!(report.gpu.driver.as_deref(), Some("unknown"));
}

#[test]
fn driver_and_devices() {
    let root = Root::new("driver");
    let version = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  560.35.03  Release Build\nGCC version:  gcc version 12.2.0\n";
    root.file("proc/driver/nvidia/version", version);
    root.file("proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 1\n");
    let bare = root.report(&[]);
    assert!(bare.gpu.advice.unwrap().contains("no device is here"));
    for device in ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia"] {
        root.file(&format!("dev/{device}"), "");
    }
    root.library("usr/lib/x86_64-linux-gnu/libcuda.so.560.35.03").link("usr/lib/x86_64-linux-gnu/libcuda.so.1", "libcuda.so.560.35.03");
    let report = root.report(&[]);
    assert_eq!((report.gpu.driver.as_deref(), report.gpu.advice), (Some("560.35.03"), None));
    assert_eq!(report.gpu.models, ["NVIDIA H100 80GB HBM3"]);
    assert_eq!(report.gpu.devices, ["/dev/nvidia0", "/dev/nvidia1"].map(PathBuf::from));
    let report = root.report(&[]);
    assert_eq!(first(&report, "libcuda"), ("/usr/lib/x86_64-linux-gnu/libcuda.so.1", Some("560.35.03"), "system"));
    assert_eq!(report.gpu.missing, ["NVRTC", "cuBLASLt"]);
    root.library("usr/lib/libnvrtc.so.12").library("usr/lib/libcublasLt.so.12");
    assert!(root.report(&[]).gpu.missing.is_empty());
}

#[test]
fn libraries_in_every_place_in_the_loader_s_order() {
    let root = Root::new("places");
    let wheel = |prefix: &str, package: &str| format!("{prefix}/lib/python3.12/site-packages/nvidia/{package}/lib");
    root.library(&format!("{}/libnvrtc.so.12", wheel("home/u/venv", "cuda_nvrtc")));
    root.library(&format!("{}/libnvrtc-builtins.so.12.4", wheel("home/u/venv", "cuda_nvrtc")));
    root.library(&format!("{}/libnccl.so.2", wheel("home/u/.local", "nccl")));
    root.library("opt/conda/lib/libcublasLt.so.12.4.5.8").link("opt/conda/lib/libcublasLt.so.12", "libcublasLt.so.12.4.5.8");
    let variables = [("VIRTUAL_ENV", "/home/u/venv"), ("CONDA_PREFIX", "/opt/conda"), ("HOME", "/home/u")];
    let report = root.report(&variables);
    assert_eq!(first(&report, "NVRTC").1, Some("12"));
    assert_eq!((first(&report, "NVRTC").2, first(&report, "NCCL").2), ("VIRTUAL_ENV", "~/.local"));
    assert_eq!(first(&report, "cuBLASLt"), ("/opt/conda/lib/libcublasLt.so.12", Some("12.4.5.8"), "CONDA_PREFIX"));

    // The first python3 of the path is an environment's, which is a link to the system's.
    root.file("usr/bin/python3.12", "").link("srv/env/bin/python3", "../../../usr/bin/python3.12");
    root.library(&format!("{}/libnvrtc.so.13", wheel("srv/env", "cu13")));
    root.library("usr/local/lib/python3.12/dist-packages/nvidia/nccl/lib/libnccl.so.2");
    let report = root.report(&[("PATH", "/nowhere:/srv/env/bin:/usr/bin")]);
    assert_eq!((first(&report, "NVRTC").1, first(&report, "NVRTC").2), (Some("13"), "python3"));
    assert!(first(&report, "NCCL").0.starts_with("/usr/local/lib/python3.12/dist-packages/"));

    root.file("etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n").file("etc/ld.so.conf.d/cuda.conf", "# CUDA\n/usr/cuda/lib # here\n");
    root.library("usr/cuda/lib/libnvrtc.so.12.1.55").link("usr/cuda/lib/libnvrtc.so", "libnvrtc.so.12.1.55");
    root.library("usr/local/cuda-12.4/lib64/libnvrtc.so.12.4.127");
    root.library("home/u/cuda/targets/x86_64-linux/lib/libnvrtc.so.12.6.20").library("mine/libnvrtc.so").library("ours/libnvrtc.so.13");
    let variables = [("CUDA_HOME", "/home/u/cuda"), ("LD_LIBRARY_PATH", "/mine:/nowhere"), ("FD_NVRTC_DIR", "/ours")];
    let report = root.report(&[&variables[..], &[("PATH", "/srv/env/bin")]].concat());
    let found: Vec<_> = of(&report, "NVRTC").found.iter().map(|f| (f.version.as_deref(), f.by)).collect();
    let versions = [
        (Some("13"), "FD_NVRTC_DIR"),
        (None, "LD_LIBRARY_PATH"),
        (Some("12.1.55"), "ld.so.conf"),
        (Some("12.6.20"), "CUDA_HOME"),
        (Some("13"), "python3"),
        (Some("12.4.127"), "system"),
    ];
    assert_eq!((found, &of(&report, "NVRTC").advice), (versions.to_vec(), &None));
    assert_eq!(report.gpu.notes, ["LD_LIBRARY_PATH: /nowhere: no such folder"]);
}

#[test]
fn libraries_that_the_driver_is_too_old_for_are_not_used() {
    let root = Root::new("versions");
    let driver = |version: &str| {
        root.file("proc/driver/nvidia/version", format!("NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Release Build\n"));
        root.report(&[("LD_LIBRARY_PATH", "/new:/both"), ("CUDA_PATH", "/old")])
    };
    root.library("new/libnvrtc.so.13").library("both/libnvrtc.so.13").library("both/libnvrtc.so.12.4.1").library("new/libcublasLt.so.13");
    root.library("old/lib64/libnvrtc.so.11.8.89").library("new/libnccl.so.2");
    let report = driver("580.65.06");
    assert_eq!((first(&report, "NVRTC").0, first(&report, "cuBLASLt").0), ("/new/libnvrtc.so.13", "/new/libcublasLt.so.13"));
    let report = driver("560.35.03");
    assert_eq!((first(&report, "NVRTC").0, of(&report, "NVRTC").found.len()), ("/both/libnvrtc.so.12.4.1", 1));
    let unusable =
        ["/new/libnvrtc.so.13: of CUDA 13, and the driver runs CUDA 12", "/old/lib64/libnvrtc.so.11.8.89: of CUDA 11, older than 12"];
    assert_eq!(of(&report, "NVRTC").unusable, unusable);
    assert!(of(&report, "cuBLASLt").found.is_empty() && of(&report, "cuBLASLt").advice.as_ref().unwrap().contains("nvidia-cublas-cu12"));
    assert_eq!(first(&report, "NCCL").0, "/new/libnccl.so.2");
    let report = driver("470.256.02");
    assert!(of(&report, "NVRTC").found.is_empty() && report.gpu.advice.unwrap().contains("older than 525"));
}

#[test]
fn one_folder_of_several_names_counts_once() {
    let root = Root::new("names");
    root.library("usr/lib/x86_64-linux-gnu/libnccl.so.2.21.5").link("lib", "usr/lib").link("usr/local/cuda", "cuda-12.4");
    root.library("usr/local/cuda-12.4/lib64/libnvrtc.so.12.4.127");
    let report = root.report(&[("LD_LIBRARY_PATH", "/usr/local/cuda/lib64"), ("CUDA_HOME", "/usr/local/cuda")]);
    assert_eq!((of(&report, "NCCL").found.len(), of(&report, "NVRTC").found.len()), (1, 1));
    assert_eq!(first(&report, "NVRTC"), ("/usr/local/cuda/lib64/libnvrtc.so.12.4.127", Some("12.4.127"), "LD_LIBRARY_PATH"));
}

#[test]
fn what_only_looks_like_a_library_is_said_to() {
    let root = Root::new("broken");
    root.link("usr/lib/libcuda.so.1", "libcuda.so.550.1").link("a/libnvrtc.so.12", "libnvrtc.so.12").file("b/libnvrtc.so", "text");
    root.file("c/libnvrtc.so.12", elf(1, 3)).file("d/libnvrtc.so.12", elf(2, 183)).file("usr/lib64/libnccl.so.2x", elf(2, 62));
    fs::create_dir_all(root.0.join("usr/lib64/libcublasLt.so.12")).unwrap();
    let report = root.report(&[("LD_LIBRARY_PATH", "/a:/b:/c:/d"), ("CUDA_PATH", "/nothing")]);
    assert_eq!(of(&report, "libcuda").unusable, ["/usr/lib/libcuda.so.1: a link to nothing"]);
    let unusable = &of(&report, "NVRTC").unusable;
    assert!(unusable[0].starts_with("/a/libnvrtc.so.12: ") && unusable[1] == "/b/libnvrtc.so: not a library", "{unusable:?}");
    assert_eq!(unusable[2..], ["/c/libnvrtc.so.12", "/d/libnvrtc.so.12"].map(|p| format!("{p}: a library for another processor")));
    assert!(of(&report, "cuBLASLt").unusable[0].contains("cannot be read"), "{:?}", of(&report, "cuBLASLt"));
    assert!(report.gpu.libraries.iter().all(|l| l.found.is_empty() && l.advice.is_some()));
    assert!(of(&report, "NCCL").unusable.is_empty());
    assert_eq!(report.gpu.notes, ["CUDA_PATH: /nothing: no such folder"]);
}

#[test]
fn what_may_not_be_read_is_said_to() {
    let root = Root::new("closed");
    root.library("shut/libnvrtc.so.12").library("open/libnvrtc.so.12");
    let (shut, file) = (root.0.join("shut"), root.0.join("open/libnvrtc.so.12"));
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    // Who may read everything cannot see this.
    let sees_all = fs::read_dir(&shut).is_ok();
    let report = root.report(&[("LD_LIBRARY_PATH", "/shut:/open")]);
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o755)).unwrap();
    if !sees_all {
        assert!(of(&report, "NVRTC").found.is_empty() && of(&report, "NVRTC").unusable[0].contains("/open/libnvrtc.so.12: cannot be read"));
        assert!(report.gpu.notes[0].starts_with("/shut (LD_LIBRARY_PATH): "), "{:?}", report.gpu.notes);
    }
}
