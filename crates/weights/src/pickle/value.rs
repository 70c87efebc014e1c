//! What a pickle is made of. Values are small and copied; whatever has parts lies in one arena and is called by its number, so that
//! nothing is ever nested in memory and dropping a pickle is dropping a few vectors.

use crate::dtype::Dtype;

use super::globals::Global;

/// A scalar, or the number of an object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Ref(u32),
}

/// Something that lies in the arena.
#[derive(Debug)]
pub(crate) enum Object {
    Str(Box<str>),
    Bytes(Box<[u8]>),
    Tuple(Box<[Value]>),
    /// A list or a set.
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    /// An object of a plain class, or of a module in TorchScript.
    Instance(Box<Instance>),
    /// A name of the table.
    Global(Global, Box<str>),
    Storage(Storage),
    Tensor(Tensor),
    NumpyDtype(Box<NumpyDtype>),
    /// A scalar of which only the text matters.
    Note(Box<str>),
    /// Something that is there and means nothing here.
    Opaque,
}

/// Attributes, and items if it is a kind of dict.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) items: Vec<(Value, Value)>,
    pub(crate) state: Value,
}

/// A view of a storage; the storage itself is called by its place in [`Pickle::storages`](super::Pickle).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storage {
    pub(crate) index: u32,
    /// None for a storage of untyped bytes.
    pub(crate) dtype: Option<Dtype>,
    /// In elements.
    pub(crate) start: u64,
    /// In elements.
    pub(crate) len: u64,
}

/// A tensor as it is described, which need not fit its storage. Storage, shape and strides are the numbers of objects, which many
/// tensors may share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tensor {
    pub(crate) dtype: Dtype,
    pub(crate) storage: u32,
    pub(crate) shape: u32,
    pub(crate) strides: u32,
    /// The first element, in elements of the tensor's own type.
    pub(crate) offset: i64,
}

/// A numpy type code such as `f8`.
#[derive(Debug)]
pub(crate) struct NumpyDtype {
    pub(crate) code: Box<str>,
    pub(crate) big_endian: bool,
}
