//! Pickles, followed without running them.
//!
//! A pickle is a program for a stack machine. This one keeps what a state dict is made of and refuses the rest: [`globals`] says what a
//! pickle may name, [`machine`] follows the instructions, [`calls`] gives the few calls a state dict needs their meaning. Memory and
//! work grow with the bytes that were read: what an instruction copies is counted, and the counter may not run ahead of the pickle.

mod calls;
mod cursor;
mod globals;
mod machine;
mod numpy;
mod opcode;
mod stack;
mod value;

use crate::error::Result;

pub(crate) use calls::layout;
pub(crate) use cursor::Cursor;
pub(crate) use value::{Object, Tensor, Value};

/// A pickle may have this many bytes.
pub(crate) const MAX_PICKLE: u64 = 256 << 20;

/// A storage that a pickle mentions.
#[derive(Debug)]
pub(crate) struct StorageRecord {
    /// What the container calls it.
    pub(crate) key: Box<str>,
    /// Bytes of one element.
    pub(crate) element: u64,
    /// Elements.
    pub(crate) len: u64,
}

/// What a pickle holds.
#[derive(Debug)]
pub(crate) struct Pickle {
    pub(crate) objects: Vec<Object>,
    pub(crate) storages: Vec<StorageRecord>,
    pub(crate) root: Value,
}

impl Pickle {
    /// Follows one pickle to its end; the cursor stands behind it then.
    ///
    /// In TorchScript archives, and only there, the module objects they define themselves are read as their attributes.
    pub(crate) fn read(cursor: &mut Cursor<'_>, torch_script: bool) -> Result<Self> {
        machine::Machine::new(cursor, torch_script).run()
    }

    /// The object a value stands for.
    pub(crate) fn object(&self, value: Value) -> Option<&Object> {
        match value {
            Value::Ref(at) => self.objects.get(at as usize),
            _ => None,
        }
    }

    /// The text of a string.
    pub(crate) fn text(&self, value: Value) -> Option<&str> {
        match self.object(value) {
            Some(Object::Str(text)) => Some(text),
            _ => None,
        }
    }

    /// The value of a string key in a dict.
    pub(crate) fn item(&self, dict: Value, key: &str) -> Option<Value> {
        match self.object(dict) {
            Some(Object::Dict(items)) => items.iter().find(|&&(k, _)| self.text(k) == Some(key)).map(|&(_, v)| v),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Bytes;

    fn read(instructions: &[u8]) -> Pickle {
        let bytes = Bytes::in_memory("m", instructions.into());
        let mut cursor = Cursor::new(&bytes, 0, bytes.len()).expect("all of it");
        Pickle::read(&mut cursor, false).unwrap_or_else(|error| panic!("{instructions:?}: {error}"))
    }

    #[test]
    fn scalars_of_every_protocol() {
        let cases: [(&[u8], Value); 19] = [
            (b"N.", Value::None),
            (b"I01\n.", Value::Bool(true)),
            (b"I00\n.", Value::Bool(false)),
            (b"\x88.", Value::Bool(true)),
            (b"\x89.", Value::Bool(false)),
            (b"I-12\n.", Value::Int(-12)),
            (b"L300L\n.", Value::Int(300)),
            (b"K\xff.", Value::Int(255)),
            (b"M\x01\x02.", Value::Int(513)),
            (b"J\xff\xff\xff\xff.", Value::Int(-1)),
            (b"\x8a\x00.", Value::Int(0)),
            (b"\x8a\x01\xff.", Value::Int(-1)),
            (b"\x8a\x02\xff\x00.", Value::Int(255)),
            (b"\x8b\x03\x00\x00\x00\x00\x00\x01.", Value::Int(65_536)),
            (b"F-0.5\n.", Value::Float(-0.5)),
            (b"G\x3f\xe0\0\0\0\0\0\0.", Value::Float(0.5)),
            (b"\x80\x05\x95\x02\0\0\0\0\0\0\0K\x07.", Value::Int(7)),
            (b"K\x01K\x020.", Value::Int(1)),
            (b"K\x01(K\x02K\x031.", Value::Int(1)),
        ];
        for (instructions, value) in cases {
            assert_eq!(read(instructions).root, value, "{instructions:?}");
        }
    }

    #[test]
    fn strings_of_every_protocol() {
        let texts: [&[u8]; 8] = [
            b"S'ab'\n.",
            b"S\"ab\"\n.",
            b"Vab\n.",
            b"T\x02\0\0\0ab.",
            b"U\x02ab.",
            b"X\x02\0\0\0ab.",
            b"\x8c\x02ab.",
            b"\x8d\x02\0\0\0\0\0\0\0ab.",
        ];
        for instructions in texts {
            let pickle = read(instructions);
            assert_eq!(pickle.text(pickle.root), Some("ab"), "{instructions:?}");
        }
        let bytes: [&[u8]; 5] = [
            b"U\x02\xff\xfe.",
            b"B\x02\0\0\0\xff\xfe.",
            b"C\x02\xff\xfe.",
            b"\x8e\x02\0\0\0\0\0\0\0\xff\xfe.",
            b"\x96\x02\0\0\0\0\0\0\0\xff\xfe.",
        ];
        for instructions in bytes {
            let pickle = read(instructions);
            assert!(matches!(pickle.object(pickle.root), Some(Object::Bytes(bytes)) if **bytes == [0xff, 0xfe]), "{instructions:?}");
        }
    }

    #[test]
    fn numbers_beyond_64_bits_keep_their_digits_or_their_length() {
        let note = |instructions: &[u8]| match read(instructions).objects.pop() {
            Some(Object::Note(text)) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(&*note(b"\x8a\x09\0\0\0\0\0\0\0\0\x01."), "18446744073709551616");
        assert_eq!(&*note(&[&b"\x8a\x20"[..], &[1; 32], b"."].concat()), "an integer of 32 bytes");
    }

    #[test]
    fn containers_of_every_protocol() {
        let one_to_three = [Value::Int(1), Value::Int(2), Value::Int(3)];
        let tuples: [&[u8]; 2] = [b"(K\x01K\x02K\x03t.", b"K\x01K\x02K\x03\x87."];
        for instructions in tuples {
            let pickle = read(instructions);
            assert!(matches!(pickle.object(pickle.root), Some(Object::Tuple(items)) if **items == one_to_three), "{instructions:?}");
        }
        let lists: [&[u8]; 5] = [
            b"(K\x01K\x02K\x03l.",
            b"](K\x01K\x02K\x03e.",
            b"]K\x01aK\x02aK\x03a.",
            b"\x8f(K\x01K\x02K\x03\x90.",
            b"(K\x01K\x02K\x03\x91.",
        ];
        for instructions in lists {
            let pickle = read(instructions);
            assert!(matches!(pickle.object(pickle.root), Some(Object::List(items)) if *items == one_to_three), "{instructions:?}");
        }
        let dicts: [&[u8]; 3] = [b"(U\x01aK\x01d.", b"}(U\x01aK\x01u.", b"}U\x01aK\x01s."];
        for instructions in dicts {
            let pickle = read(instructions);
            assert_eq!(pickle.item(pickle.root, "a"), Some(Value::Int(1)), "{instructions:?}");
        }
    }

    #[test]
    fn what_was_remembered_comes_back() {
        let pickles: [&[u8]; 4] =
            [b"K\x05q\x090h\x09.", b"K\x05p300\n0g300\n.", b"K\x05r\0\0\x01\x000j\0\0\x01\0.", b"N\x94K\x05\x9400h\x01."];
        for instructions in pickles {
            assert_eq!(read(instructions).root, Value::Int(5), "{instructions:?}");
        }
        assert_eq!(read(b"K\x052\x86\x85.").objects.len(), 2);
    }
}
