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

#[test]
fn a_safetensors_file() {
    let header = r#"{"__metadata__":{"format":"pt"},"a.w":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[1],"data_offsets":[8,10]}}"#;
    let file = open(safetensors(header, &[&f32s(&[1.5, -2.0])[..], &[0x80, 0x3f]].concat()));
    assert_eq!(file.container(), Container::Safetensors);
    assert_eq!(file.notes()["format"], "pt");
    assert_eq!(file.read_f32("a.w").expect("there"), [1.5, -2.0]);
    assert_eq!(file.read_f64("b").expect("there"), [1.0]);
    assert_eq!(file.entries()["b"].dtype, Dtype::BF16);
    assert_eq!(file.entries().len(), 2);
}

#[test]
fn a_torch_script_archive() {
    let module = |name, state| Py::Object("__torch__.a.b", name, Box::new(state));
    let call = |name, arguments| Py::Call("torch.jit._pickle", name, arguments);
    let ints = call("build_intlist", vec![Py::List(vec![3.into(), 4.into()])]);
    let tagged = call("restore_type_tag", vec![dict([("k", 5.into())]), "Dict[str, int]".into()]);
    let attention = module(
        "Attention",
        dict([("in_proj_weight", TensorSpec::new("0", "HalfStorage", &[2, 2]).into()), ("heads", ints), ("tags", tagged)]),
    );
    // A module with a `__getstate__` of its own has a tuple for a state.
    let packed = module("Packed", Py::Tuple(vec![TensorSpec::new("1", "FloatStorage", &[1]).into(), Py::Bool(false)]));
    let root =
        module("M", dict([("training", Py::Bool(false)), ("visual", dict([("attn", attention)])), ("packed", packed), ("none", Py::None)]));
    let halves = [0x00, 0x3c, 0x00, 0x40, 0x00, 0xbc, 0x00, 0x38];
    let zip = torch_script(&root, &[("0", halves.to_vec()), ("1", f32s(&[9.0]))]);
    let file = open(zip.bytes());
    assert_eq!(file.container(), Container::TorchScript);
    let names: Vec<&str> = file.entries().keys().map(String::as_str).collect();
    assert_eq!(names, ["packed.0", "visual.attn.in_proj_weight"]);
    assert_eq!(file.read_f32("visual.attn.in_proj_weight").expect("there"), [1.0, 2.0, -1.0, 0.5]);
    assert_eq!(file.read_f32("packed.0").expect("there"), [9.0]);
    let notes: Vec<(&str, &str)> = file.notes().iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let heads = [("visual.attn.heads.0", "3"), ("visual.attn.heads.1", "4"), ("visual.attn.tags.k", "5")];
    assert_eq!(notes, [&[("none", "None"), ("packed.1", "False"), ("training", "False")][..], &heads].concat());
}

#[test]
fn every_storage_type() {
    let cases: [(&str, Dtype, &[u8], f64); 10] = [
        ("DoubleStorage", Dtype::F64, &(-0.1f64).to_le_bytes(), -0.1),
        ("FloatStorage", Dtype::F32, &0.25f32.to_le_bytes(), 0.25),
        ("HalfStorage", Dtype::F16, &[0x00, 0xc0], -2.0),
        ("BFloat16Storage", Dtype::BF16, &[0x80, 0x3f], 1.0),
        ("LongStorage", Dtype::I64, &(1i64 << 53).to_le_bytes(), 9007199254740992.0),
        ("IntStorage", Dtype::I32, &(-7i32).to_le_bytes(), -7.0),
        ("ShortStorage", Dtype::I16, &(-300i16).to_le_bytes(), -300.0),
        ("CharStorage", Dtype::I8, &[0x80], -128.0),
        ("ByteStorage", Dtype::U8, &[0xff], 255.0),
        ("BoolStorage", Dtype::Bool, &[1], 1.0),
    ];
    for (class, dtype, data, value) in cases {
        let dict = dict([("t", TensorSpec::new("0", class, &[1]).into())]);
        let zip = torch_zip(&dict, &[("0", data.to_vec())]);
        for file in [open(zip.bytes()), open(legacy(&dict, &[("0", data.len(), data.to_vec())]))] {
            assert_eq!((file.entries()["t"].dtype, file.entries()["t"].dtype.size()), (dtype, data.len()));
            assert_eq!(file.read_f64("t").expect("numbers"), [value], "{class}");
            assert_eq!(file.read_raw("t").expect("bytes"), data);
            match file.read_f32("t") {
                Ok(values) => assert_eq!(values, [value as f32]),
                Err(error) => assert_eq!(error.to_string(), format!("f: tensor `t`: expected floats, found {dtype}")),
            }
        }
    }
}

#[test]
fn types_of_untyped_storages() {
    for (name, dtype, data) in [("uint16", Dtype::U16, vec![1, 0, 0xff, 0xff]), ("float32", Dtype::F32, f32s(&[1.0, 65535.0]))] {
        let size = dtype.size() as i64;
        let storage = Py::Storage(TensorSpec::new("0", "UntypedStorage", &[2 * size]));
        let one = |v: i64| Py::Tuple(vec![v.into()]);
        let arguments = vec![storage, 0.into(), one(2), one(1), Py::Bool(false), Py::OrderedDict(vec![]), Py::Global("torch", name)];
        let tensor = Py::Call("torch._utils", "_rebuild_tensor_v3", arguments);
        let file = open(torch_zip(&dict([("t", tensor)]), &[("0", data)]).bytes());
        assert_eq!(file.entries()["t"].dtype, dtype);
        assert_eq!(file.read_f64("t").expect("numbers"), [1.0, 65535.0]);
    }
}

#[test]
fn views_of_a_legacy_storage() {
    let mut view = TensorSpec::new("0", "FloatStorage", &[2]).at(1, 6);
    view.view = Some(("1".into(), 2, 3));
    let file = open(legacy(&dict([("t", view.into())]), &[("0", 4, f32s(&[0., 1., 2., 3., 4., 5.]))]));
    assert_eq!(file.read_f32("t").expect("there"), [3.0, 4.0], "element 1 of the view, which is element 3 of the storage");
}

#[test]
fn parameters_and_older_tensors() {
    let spec = TensorSpec::new("0", "FloatStorage", &[2]);
    let two = |v: i64| Py::Tuple(vec![v.into()]);
    let old = Py::Call("torch._utils", "_rebuild_tensor", vec![Py::Storage(spec.clone()), 0.into(), two(2), two(1)]);
    let hooks = Py::OrderedDict(vec![]);
    let state = dict([("_is_hf_initialized", Py::Bool(true))]);
    let with_state =
        Py::Call("torch._utils", "_rebuild_parameter_with_state", vec![spec.clone().into(), Py::Bool(true), hooks.clone(), state.clone()]);
    let arguments = Py::Tuple(vec![Py::Storage(spec), 0.into(), two(2), two(1), Py::Bool(false), hooks]);
    let function = Py::Global("torch._utils", "_rebuild_tensor_v2");
    let typed = Py::Call("torch._tensor", "_rebuild_from_type_v2", vec![function, Py::Global("torch", "Tensor"), arguments, state]);
    let file = open(torch_zip(&dict([("old", old), ("with_state", with_state), ("typed", typed)]), &[("0", f32s(&[1., 2.]))]).bytes());
    assert_eq!(file.entries().len(), 3);
    for name in file.entries().keys() {
        assert_eq!(file.read_f32(name).expect("there"), [1.0, 2.0], "{name}");
    }
    assert!(file.notes().is_empty(), "{:?}", file.notes());
}

#[test]
fn broadcast_empty_and_lone_tensors() {
    let wide = TensorSpec::new("0", "FloatStorage", &[3, 2]).at(0, 2).strided(&[0, 1]);
    let empty = TensorSpec::new("1", "FloatStorage", &[0, 5]);
    let file = open(torch_zip(&dict([("wide", wide.into()), ("empty", empty.into())]), &[("0", f32s(&[1., 2.])), ("1", vec![])]).bytes());
    assert_eq!(file.read_f32("wide").expect("there"), [1., 2., 1., 2., 1., 2.]);
    assert_eq!(file.read_raw("empty").expect("there"), b"");
    let lone = open(torch_zip(&TensorSpec::new("0", "FloatStorage", &[1]).into(), &[("0", f32s(&[4.0]))]).bytes());
    assert_eq!(lone.read_f32("tensor").expect("there"), [4.0]);
    let list = open(torch_zip(&Py::List(vec![TensorSpec::new("0", "FloatStorage", &[1]).into()]), &[("0", f32s(&[4.0]))]).bytes());
    assert_eq!(list.read_f32("0").expect("there"), [4.0]);
}

#[test]
fn what_training_scripts_leave_in_checkpoints() {
    let dtype = Py::Built(
        Py::Call("numpy", "dtype", vec!["f8".into(), Py::Bool(false), Py::Bool(true)]).into(),
        Py::Tuple(vec![3.into(), "<".into(), Py::None, Py::None, Py::None, (-1).into(), (-1).into(), 0.into()]).into(),
    );
    let best = Py::Call("numpy.core.multiarray", "scalar", vec![dtype.clone(), Py::Bytes(83.2f64.to_le_bytes().into())]);
    let encoded = Py::Call(
        "_codecs",
        "encode",
        vec![0.5f64.to_le_bytes().iter().map(|&b| char::from(b)).collect::<String>().as_str().into(), "latin1".into()],
    );
    let encoded = Py::Call("numpy._core.multiarray", "scalar", vec![dtype, encoded]);
    let array = Py::Call(
        "numpy.core.multiarray",
        "_reconstruct",
        vec![Py::Global("numpy", "ndarray"), Py::Tuple(vec![0.into()]), Py::Bytes(b"b".into())],
    );
    let array = Py::Built(array.into(), Py::Tuple(vec![1.into(), Py::Tuple(vec![2.into()])]).into());
    let cfg = Py::Built(
        Py::Raw([&b"cyacs.config\nCfgNode\n)\x81("[..], b"X\x05\0\0\0DEPTHK\x0cu"].concat()).into(),
        dict([("__immutable__", Py::Bool(true))]).into(),
    );
    let pairs = Py::Call("collections", "OrderedDict", vec![Py::List(vec![Py::List(vec!["k".into(), 1.into()])])]);
    let value = dict([
        ("best", best),
        ("encoded", encoded),
        ("array", array),
        ("cfg", cfg),
        ("pairs", pairs),
        ("path", Py::Call("pathlib", "PosixPath", vec!["/".into(), "data".into(), "in".into()])),
        ("device", Py::Call("torch", "device", vec!["cuda".into(), 1.into()])),
        ("size", Py::Call("torch", "Size", vec![Py::Tuple(vec![2.into(), 3.into()])])),
        ("dtype", Py::Global("torch", "float16")),
        ("set", Py::Call("__builtin__", "set", vec![Py::List(vec!["x".into()])])),
        ("default", Py::Call("collections", "defaultdict", vec![Py::Global("__builtin__", "list")])),
        ("counter", Py::Call("collections", "Counter", vec![dict([("a", 2.into())])])),
        ("long", Py::Int(1 << 40)),
        ("by number", Py::Dict(vec![(3.into(), "three".into()), (Py::Tuple(vec![]), "left out".into())])),
        ("complex", Py::Call("builtins", "complex", vec![Py::Float(1.0), Py::Float(2.0)])),
    ]);
    let file = open(torch_zip(&value, &[]).bytes());
    let notes: Vec<(&str, &str)> = file.notes().iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expected = [
        ("array", "numpy array"),
        ("best", "83.2"),
        ("by number.3", "three"),
        ("cfg.DEPTH", "12"),
        ("cfg.__immutable__", "True"),
        ("counter.a", "2"),
        ("device", "cuda:1"),
        ("dtype", "torch.float16"),
        ("encoded", "0.5"),
        ("long", "1099511627776"),
        ("pairs.k", "1"),
        ("path", "/data/in"),
        ("set.0", "x"),
        ("size.0", "2"),
        ("size.1", "3"),
    ];
    assert_eq!(notes, expected);
}

#[test]
fn notes_are_cut_and_counted() {
    let long = "é".repeat(5000);
    let many = Py::List((0..12_000).map(Py::Int).collect());
    let file = open(torch_zip(&dict([("long", long.as_str().into()), ("many", many)]), &[]).bytes());
    assert_eq!(file.notes()["long"], "é".repeat(4096));
    assert!(file.notes().len() <= 10_000 && file.notes().len() > 1000, "{}", file.notes().len());
}

#[test]
fn files_are_read_from_disk_by_content() {
    let folder = std::env::temp_dir().join(format!("fd-weights-containers-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let zip = torch_zip(&state_dict(), &[("0", f32s(&[1., 2., 3., 4., 5., 6.])), ("1", 7i64.to_le_bytes().to_vec())]).bytes();
    let stream = legacy(&state_dict(), &[("1", 8, 7i64.to_le_bytes().to_vec()), ("0", 4, f32s(&[1., 2., 3., 4., 5., 6.]))]);
    for (name, bytes, container) in [("a.safetensors", zip, Container::TorchZip), ("b.txt", stream, Container::TorchLegacy)] {
        let path = folder.join(name);
        std::fs::write(&path, &bytes).expect("a file");
        let file = WeightFile::open(&path).expect("a weight file");
        assert_eq!(file.container(), container);
        assert_eq!(file.source(), path.display().to_string());
        check(&file);
        let same = WeightFile::from_bytes("m", bytes).expect("a weight file");
        assert_eq!(file.sha256().expect("readable"), same.sha256().expect("readable"));
        // A file that shrinks under the reader is an error, not a crash.
        std::fs::File::options().write(true).open(&path).and_then(|file| file.set_len(40)).expect("truncated");
        let message = file.read_f32("model.blocks.0.w").expect_err("gone").to_string();
        assert!(message.starts_with(&format!("{}: cannot be read: ", path.display())), "{message}");
    }
    std::fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn ten_thousand_tensors_open_at_once() {
    let mut items = vec![];
    let mut storages = vec![];
    let keys: Vec<String> = (0..10_000).map(|i| i.to_string()).collect();
    for key in &keys {
        items.push((Py::Str(format!("layers.{key}.weight")), TensorSpec::new(key, "FloatStorage", &[2, 2]).into()));
        storages.push((key.as_str(), f32s(&[1., 2., 3., 4.])));
    }
    let bytes = torch_zip(&Py::OrderedDict(items), &storages).bytes();
    let start = std::time::Instant::now();
    let file = open(bytes);
    let taken = start.elapsed();
    assert_eq!(file.entries().len(), 10_000);
    assert!(taken.as_secs_f64() < 1.0, "{taken:?}");
    println!("opened 10,000 tensors in {taken:?}");
}

#[test]
fn files_may_be_shared_between_threads() {
    fn is_shared<T: Send + Sync + std::fmt::Debug>() {}
    is_shared::<WeightFile>();
}
