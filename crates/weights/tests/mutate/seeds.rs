//! Valid files of every container to start from: our own, and those PyTorch wrote.

use crate::support::pickle::dict;
use crate::support::{Py, TensorSpec, Zip, f32s, legacy, safetensors, torch_script, torch_zip};

/// A file, or the parts of an archive, which can be changed before it is put together.
pub enum Seed {
    Bytes(Vec<u8>),
    Zip(Zip),
}

impl Seed {
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Seed::Bytes(bytes) => bytes.clone(),
            Seed::Zip(zip) => zip.bytes(),
        }
    }
}

fn state_dict() -> Py {
    let weights = Py::OrderedDict(vec![
        ("w".into(), Py::Parameter(TensorSpec::new("0", "FloatStorage", &[2, 3]))),
        ("t".into(), TensorSpec::new("0", "FloatStorage", &[3, 2]).at(0, 6).strided(&[1, 3]).into()),
        ("wide".into(), TensorSpec::new("0", "FloatStorage", &[4, 2]).at(2, 6).strided(&[0, 1]).into()),
        ("n".into(), TensorSpec::new("1", "LongStorage", &[]).into()),
        ("h".into(), TensorSpec::new("2", "HalfStorage", &[2, 1]).into()),
    ]);
    let weights = Py::Built(weights.into(), dict([("_metadata", dict([("version", 1.into())]))]).into());
    let args = Py::Object("argparse", "Namespace", dict([("arch", "vit".into()), ("lr", Py::Float(5e-4))]).into());
    let dtype = Py::Call("numpy", "dtype", vec!["f8".into(), Py::Bool(false), Py::Bool(true)]);
    let dtype = Py::Built(dtype.into(), Py::Tuple(vec![3.into(), "<".into(), Py::None]).into());
    let best = Py::Call("numpy.core.multiarray", "scalar", vec![dtype, Py::Bytes(83.2f64.to_le_bytes().into())]);
    let path = Py::Call("pathlib", "PosixPath", vec!["/".into(), "data".into()]);
    dict([
        ("model", weights),
        ("epoch", 300.into()),
        ("args", args),
        ("best", best),
        ("out", Py::List(vec![path, Py::Int(1 << 40), Py::None])),
    ])
}

fn stored() -> [(&'static str, Vec<u8>); 3] {
    [("0", f32s(&[1., 2., 3., 4., 5., 6.])), ("1", 7i64.to_le_bytes().to_vec()), ("2", vec![0, 0x3c, 0, 0x40])]
}

fn script() -> Zip {
    let module = |state| Py::Object("__torch__.a", "M", Box::new(state));
    let ints = Py::Call("torch.jit._pickle", "build_intlist", vec![Py::List(vec![3.into(), 4.into()])]);
    let inner = module(dict([("w", TensorSpec::new("0", "FloatStorage", &[6]).into()), ("ints", ints)]));
    let packed = module(Py::Tuple(vec![TensorSpec::new("1", "LongStorage", &[1]).into(), Py::Bool(false)]));
    torch_script(&module(dict([("inner", inner), ("packed", packed), ("training", Py::Bool(false))])), &stored()[..2])
}

pub fn all() -> Vec<(String, Seed)> {
    let zip = torch_zip(&state_dict(), &stored());
    let zip64 = Zip { zip64: true, ..zip.clone() };
    let streams = stored().map(|(key, data)| (key, [4, 8, 2][key.parse::<usize>().expect("a number")], data));
    let mut view = TensorSpec::new("0", "FloatStorage", &[2]).at(1, 6);
    view.view = Some(("v".into(), 2, 3));
    let header = r#"{"__metadata__":{"format":"pt"},"a.w":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[1],"data_offsets":[8,10]}}"#;
    let mut seeds = vec![
        ("zip".to_owned(), Seed::Zip(zip)),
        ("zip64".to_owned(), Seed::Zip(zip64)),
        ("script".to_owned(), Seed::Zip(script())),
        ("legacy".to_owned(), Seed::Bytes(legacy(&state_dict(), &streams))),
        ("view".to_owned(), Seed::Bytes(legacy(&dict([("t", view.into())]), &streams[..1]))),
        ("safetensors".to_owned(), Seed::Bytes(safetensors(header, &[1; 10]))),
    ];
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch");
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("fixtures").map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    for path in files.iter().filter(|path| path.is_file() && path.extension().is_some_and(|extension| extension != "json")) {
        seeds.push((path.display().to_string(), Seed::Bytes(std::fs::read(path).expect("a fixture"))));
    }
    seeds
}
