//! Random pickles that are programs nobody would write: every instruction, in any order, with operands that make sense often enough to
//! get somewhere.

use super::{Random, edits};

const OPCODES: &[u8] =
    b"(.012FIJKLMNPQRSTUVXabcde}ghijl]opqrst)uGBC\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97";

const GLOBALS: &[&str] = &[
    "torch._utils\n_rebuild_tensor_v2",
    "torch._utils\n_rebuild_tensor_v3",
    "torch._utils\n_rebuild_parameter",
    "torch._tensor\n_rebuild_from_type_v2",
    "torch\nFloatStorage",
    "torch.storage\nUntypedStorage",
    "torch\nfloat16",
    "torch\nSize",
    "torch\ndevice",
    "collections\nOrderedDict",
    "collections\ndefaultdict",
    "argparse\nNamespace",
    "pathlib\nPosixPath",
    "builtins\nset",
    "builtins\ndict",
    "copyreg\n_reconstructor",
    "numpy\ndtype",
    "numpy.core.multiarray\nscalar",
    "numpy.core.multiarray\n_reconstruct",
    "_codecs\nencode",
    "posix\nsystem",
];

/// Any instruction.
pub fn opcode(random: &mut Random) -> u8 {
    *random.pick(OPCODES)
}

/// An archive around a random pickle, or one that repeats a short pattern: what copies, nests or shares shows when it is repeated.
pub fn file(random: &mut Random) -> Vec<u8> {
    // Whatever there is in the end becomes one value.
    let mut pickle = b"\x80\x02(".to_vec();
    let repeats = random.below(4) == 0;
    let mut pattern = vec![];
    for _ in 0..1 + random.below(if repeats { 6 } else { 60 }) {
        step(&mut pattern, random);
    }
    if repeats && random.below(2) == 0 {
        step(&mut pickle, random);
        pickle.extend(b"q\x00");
    }
    let times = if repeats { 1 + random.below(3000) } else { 1 };
    pickle.extend(pattern.repeat(times.min(40_000 / pattern.len().max(1) + 1)));
    pickle.extend(b"t.");
    edits::archive_of(pickle)
}

/// One instruction with its operand, or a few that belong together.
fn step(out: &mut Vec<u8>, random: &mut Random) {
    let small = random.below(6) as u8;
    match random.below(20) {
        0 => out.extend([b'K', small]),
        1 => out.extend([b"N", &b"\x88"[..], b"]", b"}", b")", b"\x8f", b"("][random.below(7)]),
        2 => out.extend([&b"X\x01\0\0\0a"[..], b"X\x07\0\0\0storage", b"U\x01b", b"C\x02xy", b"X\x02\0\0\0f8"][random.below(5)]),
        3 => out.extend([b'q', small]),
        4 | 5 => out.extend([b'h', small]),
        6 => out.extend([b"t", b"\x85", b"\x86", b"\x87", b"l", b"d"][random.below(6)]),
        7 => out.extend([b"a", b"e", b"s", b"u", b"b", b"0", b"1", b"2"][random.below(8)]),
        8 => out.extend(["R", "R", "Q"][random.below(3)].bytes()),
        9 => out.extend(b")\x81"),
        10 | 11 => {
            out.push(b'c');
            out.extend(random.pick(&GLOBALS[..GLOBALS.len() - usize::from(small > 0)]).bytes());
            out.push(b'\n');
        }
        12 => {
            out.extend(b"(X\x07\0\0\0storagectorch\n");
            out.extend(random.pick(&["FloatStorage", "HalfStorage", "ByteStorage"]).bytes());
            out.extend(b"\nX\x01\0\0\0");
            out.extend([*random.pick(b"01"), b'N', b'K', 4 * small, b't', b'Q']);
        }
        13 | 14 => tensor(out, random),
        15 => out.extend(b"(NNt"),
        16 => out.extend([0x8a, small]),
        17 => out.extend(b"}(K\x01NK\x02Nu"),
        18 => out.extend([b"I01\n", b"L5L\n", b"F1.\n", b"S'a'", b"Va\n\n"][random.below(5)].iter().copied().chain(*b"\n")),
        _ => out.push(opcode(random)),
    }
}

/// A tensor whose parts are each likely to be wrong.
fn tensor(out: &mut Vec<u8>, random: &mut Random) {
    let numbers = |out: &mut Vec<u8>, random: &mut Random| {
        out.push(b'(');
        for _ in 0..random.below(4) {
            match random.below(8) {
                0 => out.extend(b"J\xff\xff\xff\x7f"),
                1 => out.extend(b"J\xff\xff\xff\xff"),
                2 => out.extend(b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f"),
                _ => out.extend([b'K', random.below(5) as u8]),
            }
        }
        out.push(b't');
    };
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0");
    out.extend([b'0', b'N', b'K', 16, b't', b'Q', b'K', random.below(18) as u8]);
    numbers(out, random);
    numbers(out, random);
    out.extend(b"\x89NtR");
}

/// One short piece over and over: what makes the most of each byte of a pickle.
pub fn bombs() -> Vec<(String, Vec<u8>)> {
    let pieces: [&[u8]; 22] = [
        b"N",
        b"(",
        b"2",
        b"]",
        b"}",
        b")",
        b"]\x94",
        b"N\x94",
        b"h\x00",
        b"h\x00\x94",
        b"X\0\0\0\0",
        b"\x8c\x01a\x94",
        b"\x8c\x01aN",
        b"]a",
        b"\x85",
        b"h\x00h\x00\x86",
        b"h\x01)R",
        b"h\x02)\x81",
        b"h\x03h\x04R",
        b"h\x03h\x05R",
        b"h\x06",
        b"(NNNNNNNNt",
    ];
    let mut tensor = vec![];
    crate::support::Py::Tensor(crate::support::TensorSpec::new("0", "FloatStorage", &[4, 2, 2])).write(&mut tensor);
    let head = [
        &b"\x80\x02]q\x000ccollections\nOrderedDict\nq\x010cargparse\nNamespace\nq\x020ctorch\ndevice\nq\x030"[..],
        b"X\x04\0\0\0cuda\x85q\x040X\x04\0\0\0cudaK\x01\x86q\x050",
        &tensor,
        b"q\x060",
    ];
    let bomb = |piece: &[u8], len: usize| {
        let pickle = [&head.concat()[..], b"(", &piece.repeat(len / piece.len()), b"l."].concat();
        (format!("{} bytes of {:?}", pickle.len(), String::from_utf8_lossy(piece)), edits::archive_of(pickle))
    };
    // Lengths around those at which vectors double.
    let lengths = [1_000, 66_000, 131_000, 300_000, 530_000];
    pieces.iter().flat_map(|piece| lengths.map(|len| bomb(piece, len))).collect()
}
