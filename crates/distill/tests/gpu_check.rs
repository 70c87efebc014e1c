//! `distill gpu-check` as it is called: on a machine without a GPU, and (with FD_TEST_CUDA, as CI sets it) on an emulated one.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// An empty folder for one test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("gpu-check-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn run(&self, args: &[&str], environment: &[(&str, &str)]) -> (Output, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_distill"));
        command.arg("gpu-check").args(args).current_dir(&self.0).env_remove("RUST_LOG").stdin(Stdio::null());
        let output = command.envs(environment.iter().copied()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        (output, out, err)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.0.join("runs/gpu-check/gpu-check.json")).unwrap()).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let folder = self.0.join("runs/gpu-check");
        let mut names: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Is there a device to test on?
fn device() -> bool {
    std::env::var_os("FD_TEST_CUDA").is_some()
}

#[test]
fn without_a_gpu_it_says_so_in_a_line() {
    let scratch = Scratch::new("none");
    // No library is found where none can be.
    let nowhere = [("LD_LIBRARY_PATH", "/nonexistent"), ("FD_EMULATED_DRIVER", "no-device")];
    for (args, said) in [
        (&["--device", "cuda:7"][..], "device cuda:7: "),
        (&["--device", "cpu"], "gpu-check checks a CUDA device"),
        (&["--dtype", "bf16"], "--dtype goes with other commands"),
        (&["--only", "everything"], "unknown section `everything`"),
        (&["--torch", "nothing.py"], "nothing.py: no such script"),
        (&["--minutes=-1"], "expected a number of minutes"),
    ] {
        let (output, out, err) = scratch.run(args, &nowhere);
        assert_eq!((output.status.code(), out.as_str(), err.lines().count()), (Some(2), "", 1), "{args:?}: {err}");
        assert!(err.starts_with("error: ") && err.contains(said), "{args:?}: {err}");
    }
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0, "nothing is left behind");
}

/// Lines of Markdown tables have as many cells as their heads.
fn is_whole(page: &str) -> bool {
    let cells = |line: &str| line.replace("\\|", "").matches('|').count();
    let mut width = None;
    page.lines().all(|line| {
        let table = line.starts_with('|');
        width = table.then(|| width.unwrap_or(cells(line)));
        !table || (line.ends_with('|') && width == Some(cells(line)))
    })
}

#[test]
fn an_emulated_device_passes() {
    if !device() {
        return;
    }
    let scratch = Scratch::new("quick");
    let (output, out, err) = scratch.run(&["--quick"], &[]);
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert_eq!(scratch.names(), ["gpu-check.json", "gpu-check.md"]);
    let (json, page) = (scratch.json(), std::fs::read_to_string(scratch.0.join("runs/gpu-check/gpu-check.md")).unwrap());
    for key in ["date", "seconds", "card", "driver", "version", "commit", "checks", "skipped", "ceilings", "kernels", "steps"] {
        assert!(json.get(key).is_some(), "{key}: {json}");
    }
    let checks = json["checks"].as_array().unwrap();
    let sections = ["ops", "repeat", "goldens", "trajectory"];
    assert!(sections.iter().all(|s| checks.iter().any(|c| c["section"] == *s)), "{checks:?}");
    for op in fd_compute::ops::NAMES {
        for dtype in ["f32", "bf16"] {
            let of_it = |c: &&Value| c["section"] == "ops" && c["name"] == *op && c["dtype"] == dtype;
            assert!(checks.iter().filter(of_it).all(|c| c["worst"].is_number()), "{op}");
            assert!(checks.iter().any(|c| of_it(&c)), "{op} in {dtype}");
        }
    }
    assert_eq!(json["skipped"], Value::Array(vec![]), "{out}");
    assert!(json["ceilings"]["copy_gb_s"].as_f64().unwrap() > 0.0);
    let profiled = json["kernels"][0]["groups"].as_array().unwrap();
    assert!(profiled.iter().any(|g| g["op"] == "adamw") && profiled.iter().all(|g| g["seconds"].as_f64().unwrap() > 0.0));
    assert!(json["steps"][0]["ours"]["peak_device_mb"].as_u64().unwrap() > 0);
    assert!(is_whole(&page) && page.starts_with("# gpu-check: all checks hold\n"), "{page}");
    assert!(out.contains(&page), "the page is printed");
}

#[test]
fn what_does_not_hold_is_exit_code_1_and_everything_is_written() {
    if !device() {
        return;
    }
    let scratch = Scratch::new("fails");
    // Nothing but equality would do.
    let (output, out, err) = scratch.run(&["--quick", "--only", "ops", "--tolerance-scale", "0"], &[]);
    assert_eq!(output.status.code(), Some(1), "{out}{err}");
    let (json, page) = (scratch.json(), std::fs::read_to_string(scratch.0.join("runs/gpu-check/gpu-check.md")).unwrap());
    let checks = json["checks"].as_array().unwrap();
    let failed = |op: &str| checks.iter().any(|c| c["name"] == op && c["passed"] == false);
    assert!(failed("linear") && failed("attention") && failed("layer_norm"), "{page}");
    assert!(checks.iter().any(|c| c["name"] == "gather" && c["passed"] == true), "what only moves numbers is exact");
    assert!(page.starts_with("# gpu-check: CHECKS FAIL\n") && page.contains("## Failed") && is_whole(&page), "{page}");
    assert!(out.lines().any(|l| l.contains("FAIL") && l.contains("linear") && l.contains(" of 0.0e0")), "{out}");
}

#[test]
fn what_is_out_of_time_is_left_out_and_pytorch_may_fail() {
    if !device() {
        return;
    }
    let scratch = Scratch::new("time");
    // Less time than anything takes: all is left out, and said.
    let (output, out, err) = scratch.run(&["--quick", "--minutes", "0.001"], &[]);
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    let json = scratch.json();
    assert!(json["skipped"].as_array().unwrap().len() > 20 && out.contains("left out"), "{out}");
    // PyTorch's side may be missing in any way: a variant that fails is told with its reason.
    std::fs::write(scratch.0.join("torch.py"), "import sys\nprint('no card here', file=sys.stderr)\nsys.exit(3)\n").unwrap();
    let (output, out, err) = scratch.run(&["--quick", "--only", "steps", "--torch", "torch.py"], &[]);
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    let json = scratch.json();
    let variants = json["steps"][0]["torch"].as_array().unwrap();
    assert!(variants.len() == 6 && variants.iter().all(|v| v["line"].is_null() && v["why"].is_string()), "{json}");
}
