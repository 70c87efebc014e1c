//! From the nested containers of a pickle to dotted names.
//!
//! A pickle can mention one container many times, so a few bytes can unfold to more names than any memory holds: the walk, its depth
//! and the memory of its results are bounded. It uses a stack of its own, not the thread's.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::bytes::Bytes;
use crate::dtype::Dtype;
use crate::entry::{Entry, MAX_RANK};
use crate::error::{Result, WeightsError, named};
use crate::notes;
use crate::pickle::{Object, Pickle, Tensor, Value, layout};
use crate::zip::Range;

const MAX_DEPTH: usize = 100;
/// Values that are walked over: as many as the file has bytes, which an honest one does not exceed, between these.
const VALUES: (u64, u64) = (1_000_000, 16_000_000);
/// Bytes of a name.
const MAX_NAME: usize = 1024;
/// What results may always take, and what they may for each byte of the file.
const FREE_MEMORY: u64 = 1 << 18;
const MEMORY_PER_BYTE: u64 = 16;

/// The tensors and notes of a pickle whose storages lie in these ranges.
pub(crate) fn flatten(bytes: &Bytes, pickle: &Pickle, ranges: &[Range]) -> Result<(BTreeMap<String, Entry>, BTreeMap<String, String>)> {
    let budget = FREE_MEMORY.saturating_add(bytes.len().saturating_mul(MEMORY_PER_BYTE));
    let walk =
        Walk { bytes, pickle, ranges, path: String::new(), frames: vec![], entries: BTreeMap::new(), notes: BTreeMap::new(), budget };
    walk.run()
}

/// A container on the way from the root to where the walk is.
struct Frame {
    object: u32,
    next: usize,
    /// The length of its own name.
    path: usize,
    /// Below a key that has no place in a name.
    unnamed: bool,
    /// It is the attributes of the object above, whose name it has.
    state: bool,
}

enum Key {
    Value(Value),
    Index(usize),
    /// A part of the container itself.
    State,
}

struct Walk<'a> {
    bytes: &'a Bytes,
    pickle: &'a Pickle,
    ranges: &'a [Range],
    path: String,
    frames: Vec<Frame>,
    entries: BTreeMap<String, Entry>,
    notes: BTreeMap<String, String>,
    budget: u64,
}

impl Walk<'_> {
    fn run(mut self) -> Result<(BTreeMap<String, Entry>, BTreeMap<String, String>)> {
        if let Some(Object::Tensor(_)) = self.pickle.object(self.pickle.root) {
            self.path.push_str("tensor");
        }
        self.visit(self.pickle.root, false, false)?;
        let mut visited = 0;
        let most = self.bytes.len().clamp(VALUES.0, VALUES.1);
        while let Some(frame) = self.frames.last_mut() {
            self.path.truncate(frame.path);
            let (state, unnamed) = (frame.state, frame.unnamed);
            let Some((key, value)) = child(self.pickle, frame.object, frame.next, state) else {
                self.frames.pop();
                continue;
            };
            frame.next += 1;
            visited += 1;
            if visited > most {
                return Err(self.unnameable(format!("its pickle unfolds to more than {most} values")));
            }
            let has_name = self.extend(&key);
            self.visit(value, unnamed || !has_name, matches!(key, Key::State))?;
        }
        Ok((self.entries, self.notes))
    }

    /// Adds a key to the path; false if it has no place there.
    fn extend(&mut self, key: &Key) -> bool {
        let before = self.path.len();
        let dot = if before == 0 { "" } else { "." };
        let written = match *key {
            Key::State => return true,
            Key::Index(index) => write!(self.path, "{dot}{index}"),
            Key::Value(Value::Int(key)) => write!(self.path, "{dot}{key}"),
            Key::Value(key) => match self.pickle.text(key) {
                Some(key) if before + 1 + key.len() <= MAX_NAME => write!(self.path, "{dot}{key}"),
                _ => return false,
            },
        };
        written.is_ok() && self.path.len() <= MAX_NAME
    }

    /// What the path now names.
    fn visit(&mut self, value: Value, unnamed: bool, state: bool) -> Result<()> {
        match (self.pickle.object(value), value) {
            (Some(Object::List(_) | Object::Tuple(_) | Object::Dict(_) | Object::Instance(_)), Value::Ref(object)) => {
                if self.frames.iter().any(|frame| frame.object == object) {
                    return Err(self.unnameable(format!("`{}` in its pickle contains itself", named(&self.path))));
                }
                if self.frames.len() >= MAX_DEPTH {
                    return Err(self.unnameable(format!("its pickle is nested more than {MAX_DEPTH} deep")));
                }
                self.frames.push(Frame { object, next: 0, path: self.path.len(), unnamed, state });
                Ok(())
            }
            (Some(Object::Tensor(_)), _) if unnamed => {
                Err(self.unnameable(format!("a tensor in `{}` has a key that is no short string or number", named(&self.path))))
            }
            (Some(Object::Tensor(tensor)), _) => {
                let entry = self.entry(tensor)?;
                self.spend(256 + 2 * self.path.len() + 32 * entry.shape.len())?;
                self.unique()?;
                self.entries.insert(self.path.clone(), entry);
                Ok(())
            }
            _ if unnamed || state => Ok(()),
            _ => self.note(value),
        }
    }

    fn note(&mut self, value: Value) -> Result<()> {
        if self.notes.len() >= notes::MAX_NOTES {
            return Ok(());
        }
        let text = match (value, self.pickle.object(value)) {
            (Value::None, _) => "None".to_owned(),
            (Value::Bool(value), _) => notes::truth(value).to_owned(),
            (Value::Int(value), _) => value.to_string(),
            (Value::Float(value), _) => notes::float(value),
            (_, Some(Object::Str(text) | Object::Note(text) | Object::Global(_, text))) => notes::cut(text).to_owned(),
            _ => return Ok(()),
        };
        if self.spend(128 + 2 * self.path.len() + text.len()).is_err() {
            return Ok(());
        }
        self.unique()?;
        self.notes.insert(self.path.clone(), text);
        Ok(())
    }

    /// The entry of a tensor, if it lies inside its storage. That the storage has the bytes it claims was checked when it was found.
    fn entry(&self, tensor: &Tensor) -> Result<Entry> {
        let object = |at| self.pickle.object(Value::Ref(at));
        let Some(Object::Storage(storage)) = object(tensor.storage) else {
            return Err(self.misfit("it has no storage".into()));
        };
        let index = storage.index as usize;
        let (Some(layout), Some(range)) = (layout(object(tensor.shape), object(tensor.strides)), self.ranges.get(index)) else {
            return Err(self.misfit(format!("its shape and strides are not tuples of as many natural numbers, at most {MAX_RANK}")));
        };
        let Ok(offset) = u64::try_from(tensor.offset) else {
            return Err(self.misfit(format!("it begins before its storage, at element {}", tensor.offset)));
        };
        // Lengths count the storage's elements, offsets the tensor's.
        let (stored, size) = (storage.dtype.map_or(1, Dtype::size) as u64, tensor.dtype.size() as u64);
        let available = storage.len.saturating_mul(stored) / size;
        let (elements, _) = layout.measure(offset, available, self.bytes.len()).map_err(|why| self.misfit(why))?;
        let offset = if elements == 0 { 0 } else { offset * size };
        let start = storage.start.checked_mul(stored).and_then(|view| range.start.checked_add(view)?.checked_add(offset));
        match start {
            Some(start) => Ok(Entry::new(layout, tensor.dtype, start, index)),
            None => Err(self.misfit("it lies further off than can be counted".into())),
        }
    }

    fn unique(&self) -> Result<()> {
        if self.entries.contains_key(&self.path) || self.notes.contains_key(&self.path) {
            return Err(self.unnameable(format!("two things in its pickle are called `{}`", named(&self.path))));
        }
        Ok(())
    }

    /// Takes from the memory that results may have.
    fn spend(&mut self, bytes: usize) -> Result<()> {
        match self.budget.checked_sub(bytes as u64) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => Err(self.unnameable("its pickle names more tensors than a file of its length can hold".into())),
        }
    }

    fn unnameable(&self, why: String) -> WeightsError {
        WeightsError::Names { file: self.bytes.source().to_owned(), why }
    }

    fn misfit(&self, why: String) -> WeightsError {
        WeightsError::Tensor { file: self.bytes.source().to_owned(), tensor: named(&self.path), why }
    }
}

/// The part `at` of a container.
fn child(pickle: &Pickle, object: u32, at: usize, state: bool) -> Option<(Key, Value)> {
    match pickle.objects.get(object as usize)? {
        // What Python calls a state of attributes and slots: two dicts, the first of which may be missing.
        Object::Tuple(parts) if state && is_slots(pickle, parts) => parts.get(at).map(|&part| (Key::State, part)),
        Object::Tuple(items) => items.get(at).map(|&item| (Key::Index(at), item)),
        Object::List(items) => items.get(at).map(|&item| (Key::Index(at), item)),
        Object::Dict(items) => items.get(at).map(|&(key, value)| (Key::Value(key), value)),
        Object::Instance(instance) => match instance.items.get(at) {
            Some(&(key, value)) => Some((Key::Value(key), value)),
            None => (at == instance.items.len()).then_some((Key::State, instance.state)),
        },
        _ => None,
    }
}

fn is_slots(pickle: &Pickle, parts: &[Value]) -> bool {
    let dict = |value| matches!(pickle.object(value), Some(Object::Dict(_)));
    matches!(*parts, [first, second] if dict(second) && (first == Value::None || dict(first)))
}
