//! A pickle writer for protocol 2, in the words `torch.save` uses.

/// A Python value.
#[derive(Clone, Debug)]
pub enum Py {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Bytes(Vec<u8>),
    List(Vec<Py>),
    Tuple(Vec<Py>),
    Dict(Vec<(Py, Py)>),
    OrderedDict(Vec<(Py, Py)>),
    Global(&'static str, &'static str),
    /// A call by `REDUCE`.
    Call(&'static str, &'static str, Vec<Py>),
    /// A new object of a class, its state set by `BUILD`.
    Object(&'static str, &'static str, Box<Py>),
    /// A call, its result's state set by `BUILD`.
    Built(Box<Py>, Box<Py>),
    Tensor(TensorSpec),
    Parameter(TensorSpec),
    /// A storage by its persistent id.
    Storage(TensorSpec),
    /// Instructions that leave one value.
    Raw(Vec<u8>),
}

/// A tensor and the storage it lies in.
#[derive(Clone, Debug)]
pub struct TensorSpec {
    pub key: String,
    /// `FloatStorage` and the like.
    pub class: &'static str,
    pub numel: i64,
    pub offset: i64,
    pub shape: Vec<i64>,
    pub strides: Vec<i64>,
    /// Of a legacy file: the view's key, first element and length.
    pub view: Option<(String, i64, i64)>,
}

impl TensorSpec {
    /// A contiguous tensor that is all of its storage.
    pub fn new(key: &str, class: &'static str, shape: &[i64]) -> Self {
        let mut strides = vec![1i64; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i].wrapping_mul(shape[i]);
        }
        let numel = shape.iter().fold(1i64, |product, &extent| product.wrapping_mul(extent));
        TensorSpec { key: key.into(), class, numel, offset: 0, shape: shape.to_vec(), strides, view: None }
    }

    pub fn at(mut self, offset: i64, numel: i64) -> Self {
        (self.offset, self.numel) = (offset, numel);
        self
    }

    pub fn strided(mut self, strides: &[i64]) -> Self {
        self.strides = strides.to_vec();
        self
    }
}

impl From<TensorSpec> for Py {
    fn from(spec: TensorSpec) -> Py {
        Py::Tensor(spec)
    }
}

impl From<&str> for Py {
    fn from(text: &str) -> Py {
        Py::Str(text.into())
    }
}

impl From<i64> for Py {
    fn from(value: i64) -> Py {
        Py::Int(value)
    }
}

/// A dict of string keys.
pub fn dict<const N: usize>(items: [(&str, Py); N]) -> Py {
    Py::Dict(items.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

/// The complete pickle of a value.
pub fn pickled(value: &Py) -> Vec<u8> {
    let mut out = vec![0x80, 2];
    value.write(&mut out);
    out.push(b'.');
    out
}

fn global(out: &mut Vec<u8>, module: &str, name: &str) {
    out.extend(format!("c{module}\n{name}\n").bytes());
}

fn ints(values: &[i64]) -> Py {
    Py::Tuple(values.iter().map(|&v| Py::Int(v)).collect())
}

impl Py {
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Py::None => out.push(b'N'),
            Py::Bool(value) => out.push(if *value { 0x88 } else { 0x89 }),
            Py::Int(value) => write_int(*value, out),
            Py::Float(value) => {
                out.push(b'G');
                out.extend(value.to_be_bytes());
            }
            Py::Str(text) => {
                out.push(b'X');
                out.extend((text.len() as u32).to_le_bytes());
                out.extend(text.bytes());
            }
            Py::Bytes(bytes) => {
                out.push(b'B');
                out.extend((bytes.len() as u32).to_le_bytes());
                out.extend(bytes);
            }
            Py::List(items) => {
                out.extend(b"](");
                items.iter().for_each(|item| item.write(out));
                out.push(b'e');
            }
            Py::Tuple(items) => {
                out.push(b'(');
                items.iter().for_each(|item| item.write(out));
                out.push(b't');
            }
            Py::Dict(items) => {
                out.push(b'}');
                write_items(items, out);
            }
            Py::OrderedDict(items) => {
                Py::Call("collections", "OrderedDict", vec![]).write(out);
                write_items(items, out);
            }
            Py::Global(module, name) => global(out, module, name),
            Py::Call(module, name, arguments) => {
                global(out, module, name);
                Py::Tuple(arguments.clone()).write(out);
                out.push(b'R');
            }
            Py::Object(module, name, state) => {
                global(out, module, name);
                out.extend(b")\x81");
                state.write(out);
                out.push(b'b');
            }
            Py::Built(object, state) => {
                object.write(out);
                state.write(out);
                out.push(b'b');
            }
            Py::Storage(spec) => {
                let mut id =
                    vec!["storage".into(), Py::Global("torch", spec.class), Py::Str(spec.key.clone()), "cpu".into(), spec.numel.into()];
                if let Some((key, start, len)) = &spec.view {
                    id.push(Py::Tuple(vec![Py::Str(key.clone()), (*start).into(), (*len).into()]));
                }
                Py::Tuple(id).write(out);
                out.push(b'Q');
            }
            Py::Tensor(spec) => {
                let hooks = Py::OrderedDict(vec![]);
                let storage = Py::Storage(spec.clone());
                let arguments = vec![storage, spec.offset.into(), ints(&spec.shape), ints(&spec.strides), Py::Bool(false), hooks];
                Py::Call("torch._utils", "_rebuild_tensor_v2", arguments).write(out);
            }
            Py::Parameter(spec) => {
                let arguments = vec![Py::Tensor(spec.clone()), Py::Bool(true), Py::OrderedDict(vec![])];
                Py::Call("torch._utils", "_rebuild_parameter", arguments).write(out);
            }
            Py::Raw(bytes) => out.extend(bytes),
        }
    }
}

fn write_items(items: &[(Py, Py)], out: &mut Vec<u8>) {
    out.push(b'(');
    for (key, value) in items {
        key.write(out);
        value.write(out);
    }
    out.push(b'u');
}

fn write_int(value: i64, out: &mut Vec<u8>) {
    if let Ok(small) = u8::try_from(value) {
        out.extend([b'K', small]);
    } else if let Ok(small) = i32::try_from(value) {
        out.push(b'J');
        out.extend(small.to_le_bytes());
    } else {
        out.extend([0x8a, 8]);
        out.extend(value.to_le_bytes());
    }
}
