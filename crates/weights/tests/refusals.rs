//! What is refused, and that the message names the file and the culprit.

mod support;

use support::pickle::dict;
use support::{Py, TensorSpec, Zip, f32s, legacy, open, pickled, refused, torch_script, torch_zip};

fn tensor() -> Py {
    TensorSpec::new("0", "FloatStorage", &[2]).into()
}

fn archive() -> Zip {
    torch_zip(&dict([("w", tensor())]), &[("0", f32s(&[1., 2.]))])
}

fn pickle(value: &Py) -> String {
    refused(torch_zip(value, &[("0", f32s(&[1., 2.]))]).bytes())
}

/// The refusal of a pickle given by its instructions.
fn raw(instructions: &[u8]) -> String {
    let mut zip = archive();
    zip.entry("archive/data.pkl").data = [b"\x80\x02", instructions].concat();
    refused(zip.bytes())
}

fn tensor_refusal(spec: TensorSpec) -> String {
    pickle(&dict([("w", spec.into())]))
}

#[test]
fn nothing_is_ever_run() {
    let marker = std::env::temp_dir().join(format!("fd-weights-marker-{}", std::process::id()));
    let command = format!("touch {}", marker.display());
    let attacks =
        [("os", "system"), ("posix", "system"), ("nt", "system"), ("builtins", "eval"), ("builtins", "exec"), ("__builtin__", "getattr")];
    for (module, name) in attacks {
        let attack = dict([("w", tensor()), ("x", Py::Call(module, name, vec![command.as_str().into()]))]);
        let expected = format!("f: its pickle asks for `{module}.{name}`, which is not part of a state dict; nothing was run");
        assert_eq!(pickle(&attack), expected);
        assert_eq!(refused(torch_script(&attack, &[("0", f32s(&[1., 2.]))]).bytes()), expected);
        assert_eq!(refused(legacy(&attack, &[("0", 4, f32s(&[1., 2.]))])), expected);
        assert_eq!(refused(pickled(&attack)), expected, "a plain pickle");
        let by_stack = format!("\u{8c}{}{module}\u{8c}{}{name}\u{93}.", module.len() as u8 as char, name.len() as u8 as char);
        let by_stack: Vec<u8> = by_stack.chars().map(|c| c as u8).collect();
        assert_eq!(raw(&by_stack), expected);
    }
    assert!(!marker.exists());
}

#[test]
fn whole_models_and_nested_pickles() {
    let model = Py::Object("torch.nn.modules.linear", "Linear", dict([("w", tensor())]).into());
    let expected = "f: its pickle asks for `torch.nn.modules.linear.Linear`, which is not part of a state dict; nothing was run; it may be a whole \
                    pickled model: load it where it comes from and save its `state_dict()` instead";
    assert_eq!(pickle(&model), expected);
    assert!(pickle(&Py::Global("__torch__.m", "M")).contains("`__torch__.m.M`"), "only in TorchScript");
    let cases = [
        ("torch.storage", "_load_from_bytes", "a pickle within the pickle"),
        ("torch._utils", "_rebuild_qtensor", "quantised tensors"),
        ("torch._utils", "_rebuild_sparse_tensor", "sparse tensors"),
        ("torch._utils", "_rebuild_meta_tensor_no_storage", "meta tensors, which have no values"),
        ("torch", "ComplexFloatStorage", "complex numbers"),
        ("torch", "QInt8Storage", "quantised tensors"),
        ("torch", "float8_e4m3fn", "8-bit floats"),
    ];
    for (module, name, what) in cases {
        assert_eq!(pickle(&Py::Global(module, name)), format!("f: its pickle holds {what} (`{module}.{name}`), which cannot be read"));
    }
    let odd = pickle(&Py::Raw(b"ca\x07\x1bb\nc\x0dd\n".to_vec()));
    assert!(odd.contains("`a  b.c d`"), "{odd}");
}

#[test]
fn files_that_are_something_else() {
    let expected = "f: not a weight file: expected safetensors, a PyTorch archive or pickle, or TorchScript, found ";
    let mut tar = vec![b'x'; 512];
    tar[257..262].copy_from_slice(b"ustar");
    let cases: [(&[u8], &str); 8] = [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer (the file itself has yet to be fetched)"),
        (b"<!DOCTYPE html>", "a web page or XML"),
        (b"GGUF\x03\0\0\0", "a GGUF file"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (&tar, "a tar archive (as PyTorch 0.1 wrote them; load and save it with a newer PyTorch)"),
        (b"hello, world", "bytes 68 65 6c 6c 6f 2c 20 77"),
        (b"\x80\x09", "bytes 80 09"),
    ];
    for (bytes, found) in cases {
        assert_eq!(refused(bytes.to_vec()), format!("{expected}{found}"));
    }
}

#[test]
fn zip_archives_that_lie() {
    let refusal = |change: &dyn Fn(&mut Zip)| {
        let mut zip = archive();
        change(&mut zip);
        refused(zip.bytes()).strip_prefix("f: not a valid PyTorch archive: ").expect("an archive's refusal").to_owned()
    };
    let data = "archive/data/0";
    let twice = refusal(&|zip| {
        zip.add(data, &f32s(&[3., 4.]));
    });
    assert_eq!(twice, "entry `archive/data/0` is there twice");
    assert_eq!(
        refusal(&|zip| zip.entry(data).method = 8),
        "entry `archive/data/0` is compressed (8 (DEFLATE)); PyTorch stores it as it is"
    );
    assert_eq!(refusal(&|zip| zip.entry(data).flags |= 1), "entry `archive/data/0` is encrypted");
    let renamed = refusal(&|zip| zip.entry(data).local_name = Some("archive/data/9".into()));
    assert_eq!(renamed, "entry `archive/data/0` is called `archive/data/9` in its own header");
    assert_eq!(
        refusal(&|zip| zip.entry(data).local_size = Some(4)),
        "entry `archive/data/0` has 8 bytes in the directory and 4 in its own header"
    );
    assert_eq!(
        refusal(&|zip| zip.entry(data).local_size = Some(0)),
        "entry `archive/data/0` has 8 bytes in the directory and 0 in its own header"
    );
    assert_eq!(refusal(&|zip| zip.count = Some(9)), "its directory announces 9 entries and has 5");
    assert_eq!(refusal(&|zip| zip.count = Some(1)), "its directory announces 1 entries and has 5");
    let far = refusal(&|zip| zip.entry(data).offset = Some(1 << 30));
    assert!(far.starts_with("entry `archive/data/0` has no readable header"), "{far}");
    let long = refusal(&|zip| {
        zip.entry("archive/version").size = Some(1 << 20);
        zip.entry("archive/version").local_size = Some(1 << 20);
    });
    assert_eq!(long, "entry `archive/version` reaches beyond the directory");
    let inside = refusal(&|zip| {
        zip.entry("archive/byteorder").size = Some(100);
        zip.entry("archive/byteorder").local_size = Some(100);
    });
    assert_eq!(inside, "entry `archive/data/0` overlaps another");
    assert_eq!(refusal(&|zip| zip.entries.remove(0).name.clear()), "a zip archive without an entry `data.pkl`");
    assert_eq!(refusal(&|zip| drop(zip.entries.remove(2))), "it has no entry `archive/data/0`, where the pickle has a storage");
    assert_eq!(
        refusal(&|zip| {
            zip.add("b/data.pkl", b"");
        }),
        "it has two pickles, `archive/data.pkl` and `b/data.pkl`"
    );
    assert_eq!(refusal(&|zip| zip.entry("archive/byteorder").data = b"big".into()), "its byte order is `big`, expected `little`");
    assert_eq!(refusal(&|zip| zip.entry(data).data.truncate(4)), "entry `archive/data/0` has 4 bytes, its storage needs 8");
    assert_eq!(refusal(&|zip| zip.entry("archive/data.pkl").data.push(b'N')), "entry `archive/data.pkl` goes on after its pickle");
    let bytes = [archive().bytes(), vec![0; 3]].concat();
    assert_eq!(refused(bytes), "f: not a valid PyTorch archive: 3 bytes come after its end");
    let bytes = archive().bytes();
    let cut = refused(bytes[..bytes.len() - 30].to_vec());
    assert!(cut.starts_with("f: not a valid PyTorch archive: its directory cannot be found"), "{cut}");
}

#[test]
fn names_that_climb_are_only_names() {
    let spec = TensorSpec::new("../../etc/passwd", "FloatStorage", &[2]);
    let file = open(torch_zip(&dict([("../w", spec.into())]), &[("../../etc/passwd", f32s(&[1., 2.]))]).bytes());
    assert_eq!(file.read_f32("../w").expect("there"), [1., 2.]);
}

#[test]
fn tensors_that_do_not_fit() {
    let spec = || TensorSpec::new("0", "FloatStorage", &[2]);
    let zeros = |shape: &[i64]| TensorSpec::new("0", "FloatStorage", shape).at(0, 2).strided(&[0, 0]);
    let no_layout = "its shape and strides are not tuples of as many natural numbers, at most 16";
    let cases = [
        (spec().at(1, 2), "shape [2] from element 1 on reaches beyond its storage of 2"),
        (spec().strided(&[2]), "shape [2] from element 0 on reaches beyond its storage of 2"),
        (zeros(&[1 << 40, 2]), "shape [1099511627776, 2] has more elements than the file has bytes"),
        (zeros(&[1 << 62, 8]), "shape [4611686018427387904, 8] has more elements than the file has bytes"),
        (spec().strided(&[i64::MAX]), "shape [2] from element 0 on reaches beyond its storage of 2"),
        (spec().at(i64::MAX, 2), "shape [2] from element 9223372036854775807 on reaches beyond its storage of 2"),
        (spec().at(-1, 2), "it begins before its storage, at element -1"),
        (spec().strided(&[-1]), no_layout),
        (spec().strided(&[1, 1]), no_layout),
        (TensorSpec { shape: vec![-2], ..spec() }, no_layout),
        (TensorSpec::new("0", "FloatStorage", &[1; 17]).at(0, 2), no_layout),
    ];
    for (spec, why) in cases {
        assert_eq!(tensor_refusal(spec), format!("f: tensor `w`: {why}"));
    }
    assert!(tensor_refusal(spec().at(0, -2)).contains("a persistent id is not the storage of a tensor"));
    let claims = tensor_refusal(TensorSpec::new("0", "FloatStorage", &[3]));
    assert_eq!(claims, "f: not a valid PyTorch archive: entry `archive/data/0` has 8 bytes, its storage needs 12");
    let claims = tensor_refusal(spec().at(0, i64::MAX));
    assert!(claims.contains("the storage `0` has more bytes than can be counted"), "{claims}");
    let two_ways = pickle(&dict([("a", spec().into()), ("b", TensorSpec::new("0", "HalfStorage", &[2]).into())]));
    assert!(two_ways.contains("the storage `0` is described in two ways"), "{two_ways}");
    let metadata = |metadata: Py| {
        let one = |v: i64| Py::Tuple(vec![v.into()]);
        let arguments = vec![Py::Storage(spec()), 0.into(), one(2), one(1), Py::Bool(false), Py::OrderedDict(vec![]), metadata];
        torch_zip(&Py::Call("torch._utils", "_rebuild_tensor_v2", arguments), &[("0", f32s(&[1., 2.]))]).bytes()
    };
    assert_eq!(open(metadata(Py::None)).read_f32("tensor").expect("there"), [1., 2.]);
    assert!(refused(metadata(dict([("neg", Py::Bool(true))]))).contains("a tensor is described in a way that is not known"));
}

#[test]
fn legacy_streams_that_lie() {
    let spec = || TensorSpec::new("0", "FloatStorage", &[2]);
    let value = dict([("w", spec().into())]);
    let good = || legacy(&value, &[("0", 4, f32s(&[1., 2.]))]);
    assert_eq!(open(good()).read_f32("w").expect("there"), [1., 2.]);
    let refusal = |bytes| refused(bytes).strip_prefix("f: not a valid PyTorch pickle stream: ").expect("a stream's refusal").to_owned();
    assert_eq!(refusal(pickled(&value)), "a pickle without PyTorch's magic number; expected what `torch.save` writes");
    let head = support::containers::legacy_head(false);
    assert_eq!(refusal([head, good()].concat()), "its byte order is big-endian, expected little-endian");
    let mut protocol = good();
    let at = protocol.windows(3).position(|w| w == [0x80, 2, b'J']).expect("the protocol");
    protocol[at + 3] ^= 1;
    assert_eq!(refusal(protocol), "expected its protocol to be 1001, found 1000");
    assert_eq!(refusal([good(), vec![0; 5]].concat()), "5 bytes come after its last storage");
    assert_eq!(refusal(legacy(&value, &[])), "its pickle mentions a storage `0` that is not there");
    assert_eq!(
        refusal(legacy(&value, &[("0", 4, f32s(&[1., 2.])), ("7", 4, vec![])])),
        "it has a storage `7` that its pickle does not mention"
    );
    assert_eq!(refusal(legacy(&value, &[("0", 4, f32s(&[1., 2.])), ("0", 4, f32s(&[1., 2.]))])), "storage `0` is there twice");
    assert_eq!(refusal(legacy(&value, &[("0", 4, f32s(&[1.]))])), "storage `0` has 1 elements, its pickle says 2");
    let short = good();
    let message = refused(short[..short.len() - 1].to_vec());
    assert_eq!(message, format!("f: truncated: 8 bytes at {} are needed, the file has {}", short.len() - 8, short.len() - 1));
    let mut view = spec();
    view.view = Some(("1".into(), 1, 2));
    let message = refused(legacy(&dict([("w", view.into())]), &[("0", 4, f32s(&[1., 2.]))]));
    assert!(message.contains("a view is not inside its storage"), "{message}");
}

#[test]
fn pickles_that_make_no_sense() {
    let cases: [(&[u8], &str); 22] = [
        (b"", "it ends in the middle of an instruction"),
        (b".", "an instruction lacks its operand"),
        (b"NN.", "it ends with more than one value"),
        (b"(N.", "it ends with more than one value"),
        (b"0.", "an instruction lacks its operand"),
        (b"N(00.", "an instruction lacks its operand"),
        (b"t.", "an instruction lacks its mark"),
        (b"h\x05.", "nothing was remembered as 5"),
        (b"NR.", "an instruction lacks its operand"),
        (b"N)R.", "something is called that is no name"),
        (b"cbuiltins\ndict\nNR.", "the arguments of a call are not a tuple"),
        (b"}(Nu.", "a key has no value"),
        (b"N(NNu.", "items are put into something that holds none"),
        (b"](NNu.", "items are put into something that holds none"),
        (b"]Nb.", "attributes are given to something that has none"),
        (b"NQ.", "the arguments of a call are not a tuple"),
        (b"P0\n.", "the storage of a tensor is named by a text, expected a tuple"),
        (b"X\xff\xff\xff\xff.", "it announces 4294967295 bytes and has 1"),
        (b"\x8b\xff\xff\xff\xff.", "an integer of -1 bytes"),
        (b"(iposix\nsystem\n.", "the instruction INST is not part of a state dict"),
        (b"\x97.", "the instruction NEXT_BUFFER is not part of a state dict"),
        (b"\xff.", "the instruction 0xff is not part of a state dict"),
    ];
    for (instructions, why) in cases {
        let message = raw(instructions);
        assert!(message.starts_with(&format!("f: its pickle cannot be read: {why} (byte ")), "{instructions:?}: {message}");
    }
    let float = raw(b"ctorch\nFloatStorage\n(K\x01tR.");
    assert!(float.contains("`torch.FloatStorage` is called with 1 arguments, which means nothing"), "{float}");
}

#[test]
fn names_that_clash_or_cannot_be_given() {
    let clash = pickle(&dict([("a.b", tensor()), ("a", dict([("b", tensor())]))]));
    assert_eq!(clash, "f: two things in its pickle are called `a.b`");
    let clash = pickle(&Py::Dict(vec![("1".into(), 1.into()), (1.into(), 2.into())]));
    assert_eq!(clash, "f: two things in its pickle are called `1`");
    let odd = pickle(&dict([("a", Py::Dict(vec![(Py::Tuple(vec![]), tensor())]))]));
    assert_eq!(odd, "f: a tensor in `a` has a key that is no short string or number");
    let cycle = raw(b"}q\x00X\x01\0\0\0ah\x00s.");
    assert_eq!(cycle, "f: `a` in its pickle contains itself");
}

#[test]
fn reading_what_is_not_there() {
    let file = open(archive().bytes());
    assert_eq!(file.read_f32("v").expect_err("absent").to_string(), "f: holds no tensor `v`");
    assert_eq!(file.read_raw("").expect_err("absent").to_string(), "f: holds no tensor ``");
}

#[test]
fn a_few_bytes_do_not_unfold_to_more_than_memory() {
    // A list of ten times the list before it, thirty times over.
    let mut bomb = b"]q\x00".to_vec();
    for level in 1..30u8 {
        bomb.extend([b'0', b']', b'q', level, b'(']);
        (0..10).for_each(|_| bomb.extend([b'h', level - 1]));
        bomb.push(b'e');
    }
    bomb.push(b'.');
    // There is nothing in the end: the walk has to give up by itself.
    assert_eq!(raw(&bomb), "f: its pickle unfolds to more than 1000000 values");
    // One tensor under ever more names.
    let named = |times: usize| {
        let mut list = b"](".to_vec();
        tensor().write(&mut list);
        list.extend(b"q\x00");
        list.extend(b"h\x00".repeat(times));
        list.extend(b"e");
        let mut zip = archive();
        zip.entry("archive/data.pkl").data = pickled(&Py::Raw(list));
        zip.bytes()
    };
    assert_eq!(open(named(500)).entries().len(), 501);
    assert_eq!(refused(named(20_000)), "f: its pickle names more tensors than a file of its length can hold");
}

#[test]
fn deep_nests_are_refused_and_dropped() {
    let deep = [vec![b']'; 1_000_000], vec![b'a'; 999_999], b".".to_vec()].concat();
    assert_eq!(raw(&deep), "f: its pickle is nested more than 100 deep");
    let deep = [vec![b')'; 1], vec![0x85; 1_000_000], b".".to_vec()].concat();
    assert_eq!(raw(&deep), "f: its pickle is nested more than 100 deep");
}

#[test]
fn copies_are_counted() {
    // A list of 10,000 pairs becomes an ordered dict again and again.
    let mut bytes = b"](".to_vec();
    (0..10_000).for_each(|_| bytes.extend(b"NN\x86"));
    bytes.extend(b"e\x85q\x000");
    for _ in 0..1000 {
        bytes.extend(b"ccollections\nOrderedDict\nh\x00R0");
    }
    bytes.extend(b"N.");
    assert!(raw(&bytes).contains("it copies more than it holds"));
}
