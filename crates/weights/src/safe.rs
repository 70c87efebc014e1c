//! safetensors: the length of a JSON header, the header, the tensors one after the other.

use std::collections::BTreeMap;
use std::fmt;

use safetensors::tensor::{Dtype as Stored, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use crate::bytes::Bytes;
use crate::dtype::Dtype;
use crate::entry::{Entry, Layout};
use crate::error::{Result, WeightsError, named, one_line};

/// A header may have this many bytes, as in the format's own library.
const MAX_HEADER: u64 = 100_000_000;
const LENGTH: u64 = size_of::<u64>() as u64;

/// What a header says. The library's own parser wants the whole file in memory and lets the second of two equal names win.
struct Header {
    notes: BTreeMap<String, String>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(source: D) -> std::result::Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut header = Header { notes: BTreeMap::new(), tensors: BTreeMap::new() };
                let mut noted = false;
                while let Some(name) = map.next_key::<String>()? {
                    let twice = if name == "__metadata__" {
                        header.notes = map.next_value()?;
                        std::mem::replace(&mut noted, true)
                    } else {
                        header.tensors.insert(name.clone(), map.next_value()?).is_some()
                    };
                    if twice {
                        return Err(A::Error::custom(format!("`{}` is there twice", named(&name))));
                    }
                }
                Ok(header)
            }
        }
        source.deserialize_map(Map)
    }
}

/// The entries and the metadata of a safetensors file.
pub(crate) fn read(bytes: &Bytes) -> Result<(BTreeMap<String, Entry>, BTreeMap<String, String>)> {
    let fail = |why: String| WeightsError::Safetensors { file: bytes.source().to_owned(), why };
    let mut length = [0; LENGTH as usize];
    bytes.read_into(0, &mut length)?;
    let length = u64::from_le_bytes(length);
    let body = bytes
        .len()
        .saturating_sub(LENGTH)
        .checked_sub(length)
        .ok_or_else(|| fail(format!("its header should have {length} bytes, the file has {}", bytes.len())))?;
    if length > MAX_HEADER {
        return Err(fail(format!("a header of {length} bytes, at most {MAX_HEADER} are read")));
    }
    let header = bytes.read_at(LENGTH, length)?;
    let Header { notes, tensors } = serde_json::from_slice(&header).map_err(|e| fail(one_line(e)))?;
    let mut order: Vec<(&String, &TensorInfo)> = tensors.iter().collect();
    order.sort_by_key(|(_, info)| info.data_offsets);
    let mut entries = BTreeMap::new();
    let mut at = 0;
    for (storage, (name, info)) in order.into_iter().enumerate() {
        let refused = |why| WeightsError::Tensor { file: bytes.source().to_owned(), tensor: named(name), why };
        let (start, end) = info.data_offsets;
        if start as u64 != at || (end as u64) > body || end < start {
            return Err(refused(format!("its bytes {start}..{end} are not the next ones of {body}, at {at}")));
        }
        let dtype = dtype(info.dtype).ok_or_else(|| refused(format!("elements of type {:?} cannot be read", info.dtype)))?;
        let layout = Layout::packed(info.shape.clone());
        let held = (end - start) as u64;
        let (elements, _) = layout.measure(0, held / dtype.size() as u64, bytes.len()).map_err(refused)?;
        if elements * dtype.size() as u64 != held {
            return Err(refused(format!("shape {:?} of {dtype} does not fill its {held} bytes", info.shape)));
        }
        entries.insert(name.clone(), Entry::new(layout, dtype, LENGTH + length + at, storage));
        at = end as u64;
    }
    if at != body {
        return Err(fail(format!("its tensors have {at} bytes, the file holds {body}")));
    }
    Ok((entries, notes))
}

fn dtype(stored: Stored) -> Option<Dtype> {
    Some(match stored {
        Stored::F64 => Dtype::F64,
        Stored::F32 => Dtype::F32,
        Stored::F16 => Dtype::F16,
        Stored::BF16 => Dtype::BF16,
        Stored::I64 => Dtype::I64,
        Stored::I32 => Dtype::I32,
        Stored::I16 => Dtype::I16,
        Stored::I8 => Dtype::I8,
        Stored::U64 => Dtype::U64,
        Stored::U32 => Dtype::U32,
        Stored::U16 => Dtype::U16,
        Stored::U8 => Dtype::U8,
        Stored::BOOL => Dtype::Bool,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, body: &[u8]) -> Bytes {
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), body].concat();
        Bytes::in_memory("s", bytes.into())
    }

    fn refused(header: &str, body: &[u8]) -> String {
        read(&file(header, body)).expect_err("refused").to_string()
    }

    #[test]
    fn a_header_becomes_entries() {
        let header = r#"{"__metadata__":{"k":"v"},"b":{"dtype":"I64","shape":[],"data_offsets":[4,12]},"a":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]}}"#;
        let (entries, notes) = read(&file(header, &[0; 12])).expect("valid");
        assert_eq!(notes["k"], "v");
        assert_eq!((entries["a"].shape.as_slice(), entries["a"].dtype), (&[1, 2][..], Dtype::F16));
        assert_eq!((entries["b"].elements(), entries["b"].dtype), (1, Dtype::I64));
        assert!(entries["a"].contiguous && !entries["a"].shared);
    }

    #[test]
    fn headers_that_lie_are_refused_by_name() {
        assert_eq!(refused("{", &[]), "s: not a valid safetensors file: EOF while parsing an object at line 1 column 1");
        let a =
            |dtype: &str, shape: &str, offsets: &str| format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#);
        let of = |dtype, shape, offsets| refused(&a(dtype, shape, offsets), &[0; 4]);
        assert_eq!(of("F32", "[2]", "[0,4]"), "s: tensor `a`: shape [2] from element 0 on reaches beyond its storage of 1");
        assert_eq!(of("U8", "[3]", "[0,4]"), "s: tensor `a`: shape [3] of u8 does not fill its 4 bytes");
        assert_eq!(of("F32", "[1]", "[4,8]"), "s: tensor `a`: its bytes 4..8 are not the next ones of 4, at 0");
        assert_eq!(of("F32", "[2]", "[0,8]"), "s: tensor `a`: its bytes 0..8 are not the next ones of 4, at 0");
        assert_eq!(of("F8_E4M3", "[4]", "[0,4]"), "s: tensor `a`: elements of type F8_E4M3 cannot be read");
        assert_eq!(of("U8", "[2]", "[0,2]"), "s: not a valid safetensors file: its tensors have 2 bytes, the file holds 4");
        let huge = of("U8", "[18446744073709551615]", "[0,18446744073709551615]");
        assert_eq!(huge, "s: tensor `a`: its bytes 0..18446744073709551615 are not the next ones of 4, at 0");
        assert!(of("C64", "[1]", "[0,4]").contains("unknown variant `C64`"));
    }

    #[test]
    fn a_name_given_twice_is_refused() {
        let one = r#""a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
        let why = refused(&format!("{{{one},{one}}}"), &[]);
        assert!(why.starts_with("s: not a valid safetensors file: `a` is there twice"), "{why}");
        let why = refused(r#"{"__metadata__":{},"__metadata__":{}}"#, &[]);
        assert!(why.contains("`__metadata__` is there twice"), "{why}");
    }

    #[test]
    fn a_length_beyond_the_file_is_refused() {
        let bytes = Bytes::in_memory("s", [&u64::MAX.to_le_bytes()[..], b"{}"].concat().into());
        let why = read(&bytes).expect_err("refused").to_string();
        assert_eq!(why, "s: not a valid safetensors file: its header should have 18446744073709551615 bytes, the file has 10");
    }
}
