//! The stack machine: one instruction after the other.

use std::collections::HashMap;

use crate::error::{Result, WeightsError, named};

use super::globals::{self, Refusal};
use super::value::{Object, Value};
use super::{Cursor, Pickle, StorageRecord, opcode as op};

/// Objects, remembered values and values on the stack a pickle may have.
pub(super) const MAX_OBJECTS: usize = 1 << 22;

pub(super) struct Machine<'a, 'b> {
    pub(super) cursor: &'a mut Cursor<'b>,
    torch_script: bool,
    pub(super) objects: Vec<Object>,
    pub(super) storages: Vec<StorageRecord>,
    pub(super) storage_keys: HashMap<Box<str>, u32>,
    pub(super) stack: Vec<Value>,
    pub(super) marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    copied: u64,
}

impl<'a, 'b> Machine<'a, 'b> {
    pub(super) fn new(cursor: &'a mut Cursor<'b>, torch_script: bool) -> Self {
        Machine {
            cursor,
            torch_script,
            objects: vec![],
            storages: vec![],
            storage_keys: HashMap::new(),
            stack: vec![],
            marks: vec![],
            memo: HashMap::new(),
            copied: 0,
        }
    }

    pub(super) fn run(mut self) -> Result<Pickle> {
        loop {
            match self.cursor.byte()? {
                op::STOP => break,
                opcode => self.step(opcode)?,
            }
        }
        let root = self.pop()?;
        if !self.stack.is_empty() || !self.marks.is_empty() {
            return self.fail("it ends with more than one value");
        }
        Ok(Pickle { objects: self.objects, storages: self.storages, root })
    }

    pub(super) fn fail<T>(&self, why: impl Into<String>) -> Result<T> {
        self.cursor.fail(why)
    }

    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            op::PROTO => match self.cursor.byte()? {
                0..=5 => Ok(()),
                version => self.fail(format!("protocol {version} is not known")),
            },
            op::FRAME => self.cursor.array::<8>().map(drop),
            op::MARK => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            op::POP if self.marks.last() == Some(&self.stack.len()) => {
                self.marks.pop();
                Ok(())
            }
            op::POP => self.pop().map(drop),
            op::POP_MARK => self.since_mark().map(drop),
            op::DUP => {
                let top = self.top()?;
                self.push(top)
            }
            op::NONE => self.push(Value::None),
            op::NEWTRUE => self.push(Value::Bool(true)),
            op::NEWFALSE => self.push(Value::Bool(false)),
            op::INT | op::BININT | op::BININT1 | op::BININT2 | op::LONG | op::LONG1 | op::LONG4 | op::FLOAT | op::BINFLOAT => {
                self.number(opcode)
            }
            op::GET | op::BINGET | op::LONG_BINGET | op::PUT | op::BINPUT | op::LONG_BINPUT | op::MEMOIZE => self.remember(opcode),
            op::EMPTY_LIST | op::LIST | op::EMPTY_DICT | op::DICT | op::EMPTY_SET | op::FROZENSET => self.container(opcode),
            op::EMPTY_TUPLE | op::TUPLE | op::TUPLE1 | op::TUPLE2 | op::TUPLE3 => self.tuple(opcode),
            op::APPEND | op::APPENDS | op::ADDITEMS | op::SETITEM | op::SETITEMS => self.fill(opcode),
            op::GLOBAL | op::STACK_GLOBAL => self.global(opcode),
            op::REDUCE | op::NEWOBJ | op::NEWOBJ_EX | op::BUILD | op::BINPERSID => self.call(opcode),
            _ => self.string(opcode),
        }
    }

    fn number(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            op::BININT => Value::Int(i32::from_le_bytes(self.cursor.array()?).into()),
            op::BININT1 => Value::Int(self.cursor.byte()?.into()),
            op::BININT2 => Value::Int(u16::from_le_bytes(self.cursor.array()?).into()),
            op::BINFLOAT => Value::Float(f64::from_be_bytes(self.cursor.array()?)),
            op::LONG1 => {
                let len = self.cursor.byte()?;
                self.long(len.into())?
            }
            op::LONG4 => match i32::from_le_bytes(self.cursor.array()?) {
                len @ 0.. => self.long(u64::from(len.unsigned_abs()))?,
                len => return self.fail(format!("an integer of {len} bytes")),
            },
            _ => self.written_number(opcode)?,
        };
        self.push(value)
    }

    /// A number in decimal, as protocol 0 has them.
    fn written_number(&mut self, opcode: u8) -> Result<Value> {
        let line = self.cursor.line()?;
        let text = String::from_utf8_lossy(&line);
        let found = match (opcode, &*text) {
            (op::INT, "00") => Some(Value::Bool(false)),
            (op::INT, "01") => Some(Value::Bool(true)),
            (op::FLOAT, text) => text.parse().ok().map(Value::Float),
            (_, text) => text.trim_end_matches('L').parse().ok().map(Value::Int),
        };
        match found {
            Some(value) => Ok(value),
            None => self.fail(format!("`{}` is no number that can be read", named(&text))),
        }
    }

    /// A little-endian integer of any length. Beyond 16 bytes only its length is kept.
    fn long(&mut self, len: u64) -> Result<Value> {
        if len > 16 {
            self.cursor.skip(len)?;
            return self.new_object(Object::Note(format!("an integer of {len} bytes").into()));
        }
        let bytes = self.cursor.take(len)?;
        let sign = if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
        let mut wide = [sign; 16];
        wide.iter_mut().zip(&bytes).for_each(|(to, &from)| *to = from);
        let value = i128::from_le_bytes(wide);
        match i64::try_from(value) {
            Ok(value) => Ok(Value::Int(value)),
            Err(_) => self.new_object(Object::Note(value.to_string().into())),
        }
    }

    fn string(&mut self, opcode: u8) -> Result<()> {
        let len = match opcode {
            op::SHORT_BINUNICODE | op::SHORT_BINSTRING | op::SHORT_BINBYTES => self.cursor.byte()?.into(),
            op::BINUNICODE | op::BINBYTES | op::BINSTRING => u32::from_le_bytes(self.cursor.array()?).into(),
            op::BINUNICODE8 | op::BINBYTES8 | op::BYTEARRAY8 => u64::from_le_bytes(self.cursor.array()?),
            op::STRING | op::UNICODE => return self.written_string(opcode),
            op::PERSID => return self.fail("the storage of a tensor is named by a text, expected a tuple"),
            _ => {
                let name = op::refused(opcode);
                return self.fail(format!("the instruction {name} is not part of a state dict"));
            }
        };
        let bytes = self.cursor.take(len)?;
        let object = match opcode {
            op::SHORT_BINBYTES | op::BINBYTES | op::BINBYTES8 | op::BYTEARRAY8 => Object::Bytes(bytes.into()),
            // Python 2 wrote every str this way, whatever its encoding.
            op::SHORT_BINSTRING | op::BINSTRING => match String::from_utf8(bytes) {
                Ok(text) => Object::Str(text.into()),
                Err(bytes) => Object::Bytes(bytes.into_bytes().into()),
            },
            _ => match String::from_utf8(bytes) {
                Ok(text) => Object::Str(text.into()),
                Err(_) => return self.fail("a string is not UTF-8"),
            },
        };
        self.push_object(object)
    }

    /// A string of protocol 0. Escapes stay as they are written: no name of a state dict has any.
    fn written_string(&mut self, opcode: u8) -> Result<()> {
        let Ok(line) = String::from_utf8(self.cursor.line()?) else {
            return self.fail("a string is not UTF-8");
        };
        let text = match opcode {
            op::UNICODE => Some(line.as_str()),
            _ => ['\'', '"'].iter().find_map(|&quote| line.trim_end().strip_prefix(quote)?.strip_suffix(quote)),
        };
        match text {
            Some(text) => self.push_object(Object::Str(text.into())),
            None => self.fail("a string has no quotes around it"),
        }
    }

    fn remember(&mut self, opcode: u8) -> Result<()> {
        let at = match opcode {
            op::BINGET | op::BINPUT => self.cursor.byte()?.into(),
            op::LONG_BINGET | op::LONG_BINPUT => u32::from_le_bytes(self.cursor.array()?),
            op::MEMOIZE => u32::try_from(self.memo.len()).unwrap_or(u32::MAX),
            _ => {
                let line = self.cursor.line()?;
                match std::str::from_utf8(&line).ok().and_then(|text| text.trim().parse().ok()) {
                    Some(at) => at,
                    None => return self.fail("a place in the memo is not a number"),
                }
            }
        };
        if matches!(opcode, op::GET | op::BINGET | op::LONG_BINGET) {
            return match self.memo.get(&at) {
                Some(&value) => self.push(value),
                None => self.fail(format!("nothing was remembered as {at}")),
            };
        }
        if self.memo.len() >= MAX_OBJECTS {
            return self.fail(format!("more than {MAX_OBJECTS} remembered values"));
        }
        let top = self.top()?;
        self.memo.insert(at, top);
        Ok(())
    }

    fn container(&mut self, opcode: u8) -> Result<()> {
        let object = match opcode {
            op::EMPTY_LIST | op::EMPTY_SET => Object::List(vec![]),
            op::EMPTY_DICT => Object::Dict(vec![]),
            op::LIST | op::FROZENSET => Object::List(self.since_mark()?),
            _ => Object::Dict(self.pairs_since_mark()?),
        };
        self.push_object(object)
    }

    fn tuple(&mut self, opcode: u8) -> Result<()> {
        let items = match opcode {
            op::EMPTY_TUPLE => vec![],
            op::TUPLE => self.since_mark()?,
            _ => {
                let mut items = vec![Value::None; usize::from(opcode - op::TUPLE1) + 1];
                for item in items.iter_mut().rev() {
                    *item = self.pop()?;
                }
                items
            }
        };
        self.push_object(Object::Tuple(items.into()))
    }

    /// Puts items into the container below them.
    fn fill(&mut self, opcode: u8) -> Result<()> {
        let mut items = vec![];
        let mut pairs = vec![];
        match opcode {
            op::APPEND => items.push(self.pop()?),
            op::APPENDS | op::ADDITEMS => items = self.since_mark()?,
            op::SETITEM => {
                let value = self.pop()?;
                pairs.push((self.pop()?, value));
            }
            _ => pairs = self.pairs_since_mark()?,
        }
        let by_key = matches!(opcode, op::SETITEM | op::SETITEMS);
        match self.top_object()? {
            Some(Object::List(list)) if !by_key => list.append(&mut items),
            Some(Object::Dict(dict)) if by_key => dict.append(&mut pairs),
            Some(Object::Instance(instance)) if by_key => instance.items.append(&mut pairs),
            _ => return self.fail("items are put into something that holds none"),
        }
        Ok(())
    }

    fn global(&mut self, opcode: u8) -> Result<()> {
        let (module, name) = if opcode == op::GLOBAL {
            (self.cursor.line()?, self.cursor.line()?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            match (self.object(module), self.object(name)) {
                (Some(Object::Str(module)), Some(Object::Str(name))) => {
                    let parts = (module.as_bytes().to_vec(), name.as_bytes().to_vec());
                    self.charge((parts.0.len() + parts.1.len()) as u64)?;
                    parts
                }
                _ => return self.fail("a name is not a string"),
            }
        };
        let (module, name) = (String::from_utf8_lossy(&module), String::from_utf8_lossy(&name));
        let full = format!("{module}.{name}");
        let file = || self.cursor.file().to_owned();
        match globals::look_up(&module, &name, self.torch_script) {
            Ok(global) => self.push_object(Object::Global(global, full.into())),
            Err(Refusal::Forbidden(hint)) => Err(WeightsError::Forbidden { file: file(), name: named(&full), hint }),
            Err(Refusal::Unsupported(what)) => Err(WeightsError::Unsupported { file: file(), what, name: named(&full) }),
        }
    }

    fn call(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            op::BINPERSID => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push_object(storage)
            }
            op::BUILD => {
                let state = self.pop()?;
                let target = self.top()?;
                self.build(target, state)
            }
            op::REDUCE => {
                let arguments = self.pop()?;
                let callable = self.pop()?;
                let made = self.reduce(callable, arguments)?;
                self.push(made)
            }
            _ => {
                if opcode == op::NEWOBJ_EX {
                    self.pop()?;
                }
                let arguments = self.pop()?;
                let class = self.pop()?;
                let made = self.reduce(class, arguments)?;
                self.push(made)
            }
        }
    }

    pub(super) fn object(&self, value: Value) -> Option<&Object> {
        match value {
            Value::Ref(at) => self.objects.get(at as usize),
            _ => None,
        }
    }

    pub(super) fn new_object(&mut self, object: Object) -> Result<Value> {
        if self.objects.len() >= MAX_OBJECTS {
            return self.fail(format!("more than {MAX_OBJECTS} objects"));
        }
        self.objects.push(object);
        Ok(Value::Ref(self.objects.len() as u32 - 1))
    }

    /// Counts what an instruction copies. Each byte of an honest pickle is copied once; a crafted one copies what it wrote once
    /// thousands of times.
    pub(super) fn charge(&mut self, items: u64) -> Result<()> {
        self.copied = self.copied.saturating_add(items);
        let earned = self.cursor.consumed() * 2 + 1024;
        if self.copied <= earned { Ok(()) } else { self.fail("it copies more than it holds") }
    }
}
