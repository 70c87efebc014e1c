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
