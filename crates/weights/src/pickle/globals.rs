//! The table of names a pickle may ask for. Everything else is refused.

use crate::dtype::Dtype;

/// What a name of the table stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Global {
    RebuildTensor,
    RebuildTensorV2,
    RebuildTensorV3,
    /// Parameters: their first argument is the tensor.
    FirstArgument,
    /// `_rebuild_from_type_v2`: a function, a type, the function's arguments, attributes.
    RebuildFromType,
    /// A storage class; None is the untyped one.
    Storage(Option<Dtype>),
    Dtype(Dtype),
    Device,
    OrderedDict,
    DefaultDict,
    /// Classes that make of one container another with the same contents, or an empty one.
    Sequence,
    /// As above, of a dict.
    Mapping,
    /// `copyreg._reconstructor`.
    Reconstructor,
    /// A class whose objects are read as their attributes.
    Plain,
    Path,
    NumpyScalar,
    NumpyDtype,
    NumpyReconstruct,
    /// `_codecs.encode`.
    Encode,
    /// A type that is mentioned and, when called, makes something that means nothing here.
    Inert,
}

/// Why a name is refused.
#[derive(Debug, PartialEq)]
pub(crate) enum Refusal {
    Forbidden(&'static str),
    Unsupported(&'static str),
}

const WHOLE_MODEL: &str = "; it may be a whole pickled model: load it where it comes from and save its `state_dict()` instead";

/// What `module.name` stands for.
pub(crate) fn look_up(module: &str, name: &str, torch_script: bool) -> Result<Global, Refusal> {
    if torch_script && (module == "__torch__" || module.starts_with("__torch__.")) {
        return Ok(Global::Plain);
    }
    let known = match module {
        "torch" | "torch.cuda" => torch(name),
        "torch._utils" => utilities(name)?,
        "torch.storage" => storage(name)?,
        "torch._tensor" if name == "_rebuild_from_type_v2" => Some(Global::RebuildFromType),
        "torch.nn.parameter" if matches!(name, "Parameter" | "Buffer") => Some(Global::FirstArgument),
        "torch.jit._pickle" => torch_script_helper(name),
        "collections" => collections(name),
        "builtins" | "__builtin__" => builtins(name),
        "copyreg" | "copy_reg" if name == "_reconstructor" => Some(Global::Reconstructor),
        "argparse" if name == "Namespace" => Some(Global::Plain),
        "yacs.config" if name == "CfgNode" => Some(Global::Plain),
        "pathlib" | "pathlib._local" => pathlib(name),
        "numpy.core.multiarray" | "numpy._core.multiarray" => numpy(name),
        "numpy" => numpy_type(name),
        "_codecs" if name == "encode" => Some(Global::Encode),
        _ => None,
    };
    known.ok_or_else(|| refusal(module, name))
}

fn refusal(module: &str, name: &str) -> Refusal {
    let kind = module == "torch" || module == "torch.cuda";
    match name.strip_suffix("Storage") {
        Some("QInt8" | "QUInt8" | "QInt32" | "QUInt4x2" | "QUInt2x4") if kind => Refusal::Unsupported("quantised tensors"),
        Some("ComplexFloat" | "ComplexDouble" | "ComplexHalf") if kind => Refusal::Unsupported("complex numbers"),
        _ if kind && name.starts_with("complex") => Refusal::Unsupported("complex numbers"),
        _ if kind && name.starts_with("float8") => Refusal::Unsupported("8-bit floats"),
        _ => {
            // Classes are capitalised; those of the libraries that a pickle bomb uses are not models.
            let library = ["builtins", "__builtin__", "os", "posix", "nt", "sys", "subprocess", "socket", "shutil", "ctypes", "pickle"];
            let library = module.split('.').next().is_some_and(|root| library.contains(&root));
            let class = name.rsplit('.').next().is_some_and(|last| last.starts_with(char::is_uppercase));
            let model = module.starts_with("torch.nn.") || (class && !library);
            Refusal::Forbidden(if model { WHOLE_MODEL } else { "" })
        }
    }
}

fn torch(name: &str) -> Option<Global> {
    if let Some(kind) = name.strip_suffix("Storage") {
        return Some(Global::Storage(match kind {
            "Double" => Some(Dtype::F64),
            "Float" => Some(Dtype::F32),
            "Half" => Some(Dtype::F16),
            "BFloat16" => Some(Dtype::BF16),
            "Long" => Some(Dtype::I64),
            "Int" => Some(Dtype::I32),
            "Short" => Some(Dtype::I16),
            "Char" => Some(Dtype::I8),
            "Byte" => Some(Dtype::U8),
            "Bool" => Some(Dtype::Bool),
            "Untyped" => None,
            _ => return None,
        }));
    }
    Some(match name {
        "float64" | "double" => Global::Dtype(Dtype::F64),
        "float32" | "float" => Global::Dtype(Dtype::F32),
        "float16" | "half" => Global::Dtype(Dtype::F16),
        "bfloat16" => Global::Dtype(Dtype::BF16),
        "int64" | "long" => Global::Dtype(Dtype::I64),
        "int32" | "int" => Global::Dtype(Dtype::I32),
        "int16" | "short" => Global::Dtype(Dtype::I16),
        "int8" => Global::Dtype(Dtype::I8),
        "uint64" => Global::Dtype(Dtype::U64),
        "uint32" => Global::Dtype(Dtype::U32),
        "uint16" => Global::Dtype(Dtype::U16),
        "uint8" => Global::Dtype(Dtype::U8),
        "bool" => Global::Dtype(Dtype::Bool),
        "device" => Global::Device,
        "Size" => Global::Sequence,
        "Tensor" => Global::Inert,
        _ => return None,
    })
}

fn utilities(name: &str) -> Result<Option<Global>, Refusal> {
    Ok(Some(match name {
        "_rebuild_tensor" => Global::RebuildTensor,
        "_rebuild_tensor_v2" => Global::RebuildTensorV2,
        "_rebuild_tensor_v3" => Global::RebuildTensorV3,
        "_rebuild_parameter" | "_rebuild_parameter_with_state" => Global::FirstArgument,
        "_rebuild_qtensor" => return Err(Refusal::Unsupported("quantised tensors")),
        "_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor" => return Err(Refusal::Unsupported("sparse tensors")),
        "_rebuild_nested_tensor" => return Err(Refusal::Unsupported("nested tensors")),
        "_rebuild_meta_tensor_no_storage" => return Err(Refusal::Unsupported("meta tensors, which have no values")),
        "_rebuild_wrapper_subclass" => return Err(Refusal::Unsupported("tensors of a subclass")),
        _ => return Ok(None),
    }))
}

fn storage(name: &str) -> Result<Option<Global>, Refusal> {
    Ok(match name {
        "UntypedStorage" | "_UntypedStorage" | "TypedStorage" | "_TypedStorage" => Some(Global::Storage(None)),
        "_load_from_bytes" => return Err(Refusal::Unsupported("a pickle within the pickle")),
        _ => None,
    })
}

fn torch_script_helper(name: &str) -> Option<Global> {
    match name {
        "build_intlist" | "build_tensorlist" | "build_doublelist" | "build_boollist" | "restore_type_tag" => Some(Global::FirstArgument),
        _ => None,
    }
}

fn collections(name: &str) -> Option<Global> {
    match name {
        "OrderedDict" => Some(Global::OrderedDict),
        "defaultdict" => Some(Global::DefaultDict),
        "Counter" => Some(Global::Mapping),
        _ => None,
    }
}

fn builtins(name: &str) -> Option<Global> {
    match name {
        "set" | "frozenset" | "list" | "tuple" => Some(Global::Sequence),
        "dict" => Some(Global::Mapping),
        "int" | "float" | "bool" | "str" | "bytes" | "bytearray" | "complex" | "slice" | "object" | "long" | "unicode" => {
            Some(Global::Inert)
        }
        _ => None,
    }
}

fn pathlib(name: &str) -> Option<Global> {
    matches!(name, "Path" | "PurePath" | "PosixPath" | "PurePosixPath" | "WindowsPath" | "PureWindowsPath").then_some(Global::Path)
}

fn numpy(name: &str) -> Option<Global> {
    match name {
        "scalar" => Some(Global::NumpyScalar),
        "_reconstruct" => Some(Global::NumpyReconstruct),
        _ => None,
    }
}

fn numpy_type(name: &str) -> Option<Global> {
    match name {
        "dtype" => Some(Global::NumpyDtype),
        "ndarray" => Some(Global::Inert),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_state_dict_needs_is_known() {
        assert_eq!(look_up("torch._utils", "_rebuild_tensor_v2", false), Ok(Global::RebuildTensorV2));
        assert_eq!(look_up("torch", "HalfStorage", false), Ok(Global::Storage(Some(Dtype::F16))));
        assert_eq!(look_up("torch.storage", "UntypedStorage", false), Ok(Global::Storage(None)));
        assert_eq!(look_up("collections", "OrderedDict", false), Ok(Global::OrderedDict));
        assert_eq!(look_up("__torch__.a.b", "C", true), Ok(Global::Plain));
    }

    #[test]
    fn what_runs_code_is_not() {
        let attacks = [
            ("os", "system"),
            ("posix", "system"),
            ("nt", "system"),
            ("builtins", "eval"),
            ("builtins", "exec"),
            ("__builtin__", "getattr"),
            ("builtins", "print"),
            ("subprocess", "Popen"),
            ("torch", "load"),
            ("torch.hub", "load"),
            ("torch.serialization", "load"),
            ("numpy", "load"),
            ("copyreg", "__newobj__"),
            ("operator", "attrgetter"),
            ("torch.storage", "x._load_from_bytes"),
        ];
        for (module, name) in attacks {
            assert_eq!(look_up(module, name, false), Err(Refusal::Forbidden("")), "{module}.{name}");
            assert_eq!(look_up(module, name, true), Err(Refusal::Forbidden("")), "{module}.{name}");
        }
        assert_eq!(look_up("torch.storage", "_load_from_bytes", true), Err(Refusal::Unsupported("a pickle within the pickle")));
    }

    #[test]
    fn whole_models_get_advice() {
        for (module, name) in [("torch.nn.modules.linear", "Linear"), ("timm.models.vit", "VisionTransformer"), ("__torch__.a", "B")] {
            assert_eq!(look_up(module, name, false), Err(Refusal::Forbidden(WHOLE_MODEL)), "{module}.{name}");
        }
        assert_eq!(look_up("torch._utils", "_rebuild_qtensor", false), Err(Refusal::Unsupported("quantised tensors")));
        assert_eq!(look_up("torch", "QInt8Storage", false), Err(Refusal::Unsupported("quantised tensors")));
        assert_eq!(look_up("torch", "ComplexFloatStorage", false), Err(Refusal::Unsupported("complex numbers")));
    }
}
