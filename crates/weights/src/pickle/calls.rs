//! The calls a state dict needs, and what they mean. None of them is made: each is a description that is read.

use crate::dtype::Dtype;
use crate::entry::{Layout, MAX_RANK};
use crate::error::{Result, named};
use crate::notes;

use super::StorageRecord;
use super::globals::Global;
use super::machine::Machine;
use super::numpy;
use super::value::{Instance, NumpyDtype, Object, Storage, Tensor, Value};

/// Arguments that any of the calls has at most.
const MAX_ARGUMENTS: usize = 10;

/// Up to [`MAX_ARGUMENTS`] values; those that are not there are none.
struct Arguments {
    values: [Value; MAX_ARGUMENTS],
    count: usize,
}

impl Machine<'_, '_> {
    /// What calling `callable`, or making a new object of it, gives.
    pub(super) fn reduce(&mut self, callable: Value, arguments: Value) -> Result<Value> {
        let Some(&Object::Global(global, _)) = self.object(callable) else {
            return self.fail("something is called that is no name");
        };
        if global == Global::Path {
            let path = self.path(arguments)?;
            return self.new_object(Object::Note(path.into()));
        }
        let Arguments { values: [first, second, third, ..], count } = self.arguments(arguments)?;
        let made = match global {
            Global::RebuildTensor | Global::RebuildTensorV2 | Global::RebuildTensorV3 => return self.tensor(global, arguments),
            Global::RebuildFromType => return self.tensor_of_a_type(first, third),
            Global::FirstArgument if count > 0 => return Ok(first),
            Global::Sequence | Global::Mapping | Global::OrderedDict if count > 0 => return self.container_of(global, first),
            Global::Sequence => Object::List(vec![]),
            Global::OrderedDict | Global::DefaultDict | Global::Mapping => Object::Dict(vec![]),
            Global::Reconstructor => return self.reduce_plain(first),
            Global::Plain => Object::Instance(Box::new(Instance { items: vec![], state: Value::None })),
            Global::Device => Object::Note(self.device(first, second).into()),
            Global::NumpyDtype => match self.object(first) {
                Some(Object::Str(code)) => Object::NumpyDtype(Box::new(NumpyDtype { code: notes::cut(code).into(), big_endian: false })),
                _ => Object::Opaque,
            },
            Global::NumpyScalar => numpy::scalar(self.object(first), self.object(second)),
            Global::Encode => return self.encoded(first),
            Global::NumpyReconstruct => Object::Note("numpy array".into()),
            Global::Inert => Object::Opaque,
            Global::Storage(_) | Global::Dtype(_) | Global::FirstArgument | Global::Path => {
                let name = match self.object(callable) {
                    Some(Object::Global(_, name)) => named(name),
                    _ => String::new(),
                };
                let why = format!("`{name}` is called with {count} arguments, which means nothing");
                return self.fail(why);
            }
        };
        self.new_object(made)
    }

    /// What `BUILD` does to the object below it: attributes of plain objects are kept, those of dicts and tensors are not.
    pub(super) fn build(&mut self, target: Value, state: Value) -> Result<()> {
        // The second part of a numpy type's state is its byte order.
        let order = match self.object(state) {
            Some(Object::Tuple(parts)) => parts.get(1).and_then(|&order| self.object(order)),
            _ => None,
        };
        let big_endian = matches!(order, Some(Object::Str(order)) if **order == *">");
        let object = match target {
            Value::Ref(at) => self.objects.get_mut(at as usize),
            _ => None,
        };
        match object {
            Some(Object::Instance(instance)) => instance.state = state,
            Some(Object::NumpyDtype(dtype)) => dtype.big_endian = big_endian,
            Some(Object::Dict(_) | Object::Tensor(_) | Object::Note(_) | Object::Opaque) => {}
            _ => return self.fail("attributes are given to something that has none"),
        }
        Ok(())
    }

    /// The storage a persistent id names: ("storage", class, key, device, elements[, view]).
    pub(super) fn storage(&mut self, id: Value) -> Result<Object> {
        let Arguments { values: [kind, class, key, _, len, view, ..], count } = self.arguments(id)?;
        let is_storage = matches!(self.object(kind), Some(Object::Str(kind)) if **kind == *"storage");
        let (true, 5..=6, Some(&Object::Global(Global::Storage(dtype), _)), Some(len)) =
            (is_storage, count, self.object(class), natural(len))
        else {
            return self.fail("a persistent id is not the storage of a tensor");
        };
        let key: Box<str> = match (self.object(key), key) {
            (Some(Object::Str(key)), _) => key.clone(),
            (_, Value::Int(key)) => key.to_string().into(),
            _ => return self.fail("the key of a storage is not a string"),
        };
        self.charge(key.len() as u64)?;
        let element = dtype.map_or(1, Dtype::size) as u64;
        if len.checked_mul(element).is_none() {
            return self.fail(format!("the storage `{}` has more bytes than can be counted", named(&key)));
        }
        let index = self.storage_record(key, element, len)?;
        let (start, len) = if view == Value::None { (0, len) } else { self.view(view, len)? };
        Ok(Object::Storage(Storage { index, dtype, start, len }))
    }

    /// The record of a storage; all that is said of one key has to agree.
    fn storage_record(&mut self, key: Box<str>, element: u64, len: u64) -> Result<u32> {
        if let Some(&index) = self.storage_keys.get(&key) {
            let known = self.storages.get(index as usize);
            return match known.is_some_and(|known| (known.element, known.len) == (element, len)) {
                true => Ok(index),
                false => self.fail(format!("the storage `{}` is described in two ways", named(&key))),
            };
        }
        let index = self.storages.len() as u32;
        self.storage_keys.insert(key.clone(), index);
        self.storages.push(StorageRecord { key, element, len });
        Ok(index)
    }

    /// The stretch of a storage that a view is: (key, first element, elements).
    fn view(&self, view: Value, held: u64) -> Result<(u64, u64)> {
        let Arguments { values: [_, start, len, ..], count } = self.arguments(view)?;
        match (count, natural(start), natural(len)) {
            (3, Some(start), Some(len)) if start.checked_add(len).is_some_and(|end| end <= held) => Ok((start, len)),
            _ => self.fail("a view is not inside its storage"),
        }
    }

    /// `_rebuild_tensor(storage, offset, shape, strides)`, its second version with (requires_grad, hooks[, metadata]) behind, and its
    /// third with (requires_grad, hooks, dtype[, metadata]).
    fn tensor(&mut self, global: Global, arguments: Value) -> Result<Value> {
        let Arguments { values: [storage, offset, shape, strides, _, _, seventh, eighth, ..], count } = self.arguments(arguments)?;
        let (expected, metadata) = match global {
            Global::RebuildTensor => (4..=4, Value::None),
            Global::RebuildTensorV2 => (6..=7, seventh),
            _ => (7..=8, eighth),
        };
        let empty = metadata == Value::None || matches!(self.object(metadata), Some(Object::Dict(items)) if items.is_empty());
        if !expected.contains(&count) || !empty {
            return self.fail("a tensor is described in a way that is not known");
        }
        let (Some(&Object::Storage(stored)), Value::Ref(storage), Value::Int(offset)) = (self.object(storage), storage, offset) else {
            return self.fail("a tensor has no storage, or no place in it");
        };
        let dtype = match (global, self.object(seventh)) {
            (Global::RebuildTensorV3, Some(&Object::Global(Global::Dtype(dtype), _))) => Some(dtype),
            (Global::RebuildTensorV3, _) => None,
            _ => stored.dtype,
        };
        match (dtype, shape, strides) {
            (Some(dtype), Value::Ref(shape), Value::Ref(strides)) => {
                self.new_object(Object::Tensor(Tensor { dtype, storage, shape, strides, offset }))
            }
            (None, ..) => self.fail("a tensor has no type that is known"),
            _ => self.fail("the shape of a tensor is not a tuple"),
        }
    }

    /// A tensor with attributes of its own: (function, type, arguments, attributes).
    fn tensor_of_a_type(&mut self, function: Value, arguments: Value) -> Result<Value> {
        match self.object(function) {
            Some(&Object::Global(global @ (Global::RebuildTensor | Global::RebuildTensorV2 | Global::RebuildTensorV3), _)) => {
                self.tensor(global, arguments)
            }
            Some(&Object::Global(Global::FirstArgument, _)) => Ok(self.arguments(arguments)?.values[0]),
            _ => self.fail("a tensor is made by something else than a rebuilding function"),
        }
    }

    /// A container made of another one: the same one where it already is of that kind.
    fn container_of(&mut self, global: Global, from: Value) -> Result<Value> {
        match (global, self.object(from)) {
            (Global::Sequence, Some(Object::List(_) | Object::Tuple(_))) => Ok(from),
            (Global::OrderedDict | Global::Mapping, Some(Object::Dict(_))) => Ok(from),
            // Python 2 wrote an OrderedDict as the list of its pairs.
            (Global::OrderedDict, Some(Object::List(pairs))) => {
                let count = pairs.len() as u64;
                self.charge(count)?;
                let pairs = match self.object(from) {
                    Some(Object::List(pairs)) => pairs.iter().map(|&pair| self.pair(pair)).collect::<Option<Vec<_>>>(),
                    _ => None,
                };
                match pairs {
                    Some(pairs) => self.new_object(Object::Dict(pairs)),
                    None => self.fail("an ordered dict is made of something else than pairs"),
                }
            }
            _ => self.fail("a container is made of something that is none"),
        }
    }

    fn pair(&self, pair: Value) -> Option<(Value, Value)> {
        match self.object(pair)? {
            Object::List(pair) => <[Value; 2]>::try_from(pair.as_slice()),
            Object::Tuple(pair) => <[Value; 2]>::try_from(&pair[..]),
            _ => return None,
        }
        .ok()
        .map(|[key, value]| (key, value))
    }

    /// An object of an old protocol: of a plain class, or nothing that means something here.
    fn reduce_plain(&mut self, class: Value) -> Result<Value> {
        match self.object(class) {
            Some(&Object::Global(Global::Plain, _)) => {
                self.new_object(Object::Instance(Box::new(Instance { items: vec![], state: Value::None })))
            }
            _ => self.fail("an object is rebuilt of a class that is not plain"),
        }
    }

    fn device(&self, kind: Value, index: Value) -> String {
        let kind = match self.object(kind) {
            Some(Object::Str(kind)) => notes::cut(kind),
            _ => "",
        };
        match index {
            Value::Int(index) => format!("{kind}:{index}"),
            _ => kind.to_owned(),
        }
    }

    /// The parts of a path, joined.
    fn path(&mut self, parts: Value) -> Result<String> {
        let Some(Object::Tuple(parts)) = self.object(parts) else {
            return self.fail("a path has no parts");
        };
        let (mut path, count) = (String::new(), parts.len());
        for &part in parts {
            let Some(Object::Str(part)) = self.object(part) else {
                return self.fail("a part of a path is not a string");
            };
            if !path.is_empty() && !path.ends_with(['/', '\\']) {
                path.push('/');
            }
            path.push_str(notes::cut(part));
            if path.len() > notes::MAX_CHARS {
                break;
            }
        }
        self.charge((path.len() + count) as u64)?;
        Ok(notes::cut(&path).to_owned())
    }

    /// `_codecs.encode(text, "latin1")`: how protocol 2 writes bytes.
    fn encoded(&mut self, text: Value) -> Result<Value> {
        let bytes = match self.object(text) {
            Some(Object::Str(text)) => text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<Vec<u8>>>(),
            _ => None,
        };
        match bytes {
            Some(bytes) => {
                self.charge(bytes.len() as u64)?;
                self.new_object(Object::Bytes(bytes.into()))
            }
            None => self.fail("bytes are written with characters that are no bytes"),
        }
    }

    fn arguments(&self, tuple: Value) -> Result<Arguments> {
        let Some(Object::Tuple(items)) = self.object(tuple) else {
            return self.fail("the arguments of a call are not a tuple");
        };
        if items.len() > MAX_ARGUMENTS {
            return self.fail(format!("a call has {} arguments", items.len()));
        }
        let mut values = [Value::None; MAX_ARGUMENTS];
        values.iter_mut().zip(items.iter()).for_each(|(to, &from)| *to = from);
        Ok(Arguments { values, count: items.len() })
    }
}

fn natural(value: Value) -> Option<u64> {
    match value {
        Value::Int(value) => u64::try_from(value).ok(),
        _ => None,
    }
}

/// The layout two tuples describe, if both have as many natural numbers and no more than a tensor may.
pub(crate) fn layout(shape: Option<&Object>, strides: Option<&Object>) -> Option<Layout> {
    let (Some(Object::Tuple(shape)), Some(Object::Tuple(strides))) = (shape, strides) else {
        return None;
    };
    if shape.len() != strides.len() || shape.len() > MAX_RANK {
        return None;
    }
    let numbers = |tuple: &[Value]| tuple.iter().map(|&value| usize::try_from(natural(value)?).ok()).collect::<Option<Vec<_>>>();
    Some(Layout { shape: numbers(shape)?, strides: numbers(strides)? })
}
