//! Every container, read back: names, shapes, types, values, notes.

mod support;

use fd_weights::{Container, Dtype, WeightFile};
use support::pickle::dict;
use support::{Py, TensorSpec, f32s, legacy, open, safetensors, torch_script, torch_zip};

fn state_dict() -> Py {
    let weights = Py::OrderedDict(vec![
        ("blocks.0.w".into(), Py::Parameter(TensorSpec::new("0", "FloatStorage", &[2, 3]))),
        ("blocks.0.t".into(), TensorSpec::new("0", "FloatStorage", &[3, 2]).at(0, 6).strided(&[1, 3]).into()),
        ("blocks.0.row".into(), TensorSpec::new("0", "FloatStorage", &[3]).at(3, 6).into()),
        ("n".into(), TensorSpec::new("1", "LongStorage", &[]).into()),
    ]);
    // What `state_dict()` leaves on the dict.
    let weights = Py::Built(weights.into(), dict([("_metadata", dict([("version", 1.into())]))]).into());
    let args = Py::Object("argparse", "Namespace", dict([("arch", "vit_small".into()), ("lr", Py::Float(0.0005))]).into());
    dict([
        ("model", weights),
        ("epoch", 300.into()),
        ("args", args),
        ("done", Py::Bool(true)),
        ("losses", Py::List(vec![Py::Float(0.5), Py::None])),
    ])
}

fn check(file: &WeightFile) {
    let names: Vec<&str> = file.entries().keys().map(String::as_str).collect();
    assert_eq!(names, ["model.blocks.0.row", "model.blocks.0.t", "model.blocks.0.w", "model.n"]);
    let w = &file.entries()["model.blocks.0.w"];
    assert_eq!((w.shape.as_slice(), w.dtype, w.contiguous, w.shared, w.elements()), (&[2, 3][..], Dtype::F32, true, true, 6));
    assert_eq!(file.read_f32("model.blocks.0.w").expect("there"), [1., 2., 3., 4., 5., 6.]);
    assert_eq!(file.read_f32("model.blocks.0.t").expect("there"), [1., 4., 2., 5., 3., 6.]);
    assert_eq!(file.read_raw("model.blocks.0.row").expect("there"), f32s(&[4., 5., 6.]));
    assert!(!file.entries()["model.blocks.0.t"].contiguous);
    let n = &file.entries()["model.n"];
    assert_eq!((n.elements(), n.dtype, n.shared), (1, Dtype::I64, false));
    assert_eq!(file.read_f64("model.n").expect("there"), [7.0]);
    let notes: Vec<(&str, &str)> = file.notes().iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expected =
        [("args.arch", "vit_small"), ("args.lr", "0.0005"), ("done", "True"), ("epoch", "300"), ("losses.0", "0.5"), ("losses.1", "None")];
    assert_eq!(notes, expected);
}

#[test]
fn a_zip_archive() {
    let mut zip = torch_zip(&state_dict(), &[("0", f32s(&[1., 2., 3., 4., 5., 6.])), ("1", 7i64.to_le_bytes().to_vec())]);
    let file = open(zip.bytes());
    assert_eq!(file.container(), Container::TorchZip);
    assert_eq!(file.len_bytes(), zip.bytes().len() as u64);
    check(&file);
    zip.zip64 = true;
    check(&open(zip.bytes()));
    for entry in &mut zip.entries {
        entry.flags |= 8;
        entry.local_size = Some(0);
    }
    check(&open(zip.bytes()));
}

#[test]
fn a_legacy_stream() {
    let file = open(legacy(&state_dict(), &[("1", 8, 7i64.to_le_bytes().to_vec()), ("0", 4, f32s(&[1., 2., 3., 4., 5., 6.]))]));
    assert_eq!(file.container(), Container::TorchLegacy);
    check(&file);
}
