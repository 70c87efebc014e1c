//! numpy's scalars, which training scripts leave in their checkpoints, as text.

use crate::notes;

use super::value::{NumpyDtype, Object};

/// The value of `numpy.float64(83.2)` and the like; of other types only that it is there.
pub(super) fn scalar(dtype: Option<&Object>, bytes: Option<&Object>) -> Object {
    match (dtype, bytes) {
        (Some(Object::NumpyDtype(dtype)), Some(Object::Bytes(bytes))) => match text(dtype, bytes) {
            Some(text) => Object::Note(text.into()),
            None => Object::Opaque,
        },
        _ => Object::Opaque,
    }
}

fn text(dtype: &NumpyDtype, bytes: &[u8]) -> Option<String> {
    let mut wide = [0; 8];
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    if dtype.big_endian {
        wide[..bytes.len()].reverse();
    }
    let bits = u64::from_le_bytes(wide);
    // Sign extension: up, and down again as a signed number.
    let unused = 64 - 8 * bytes.len() as u32;
    let signed = bits.checked_shl(unused)?.cast_signed() >> unused;
    Some(match (&*dtype.code, bytes.len()) {
        ("f8", 8) => notes::float(f64::from_bits(bits)),
        ("f4", 4) => shortest(f32::from_bits(bits as u32)),
        ("f2", 2) => shortest(half::f16::from_bits(bits as u16).to_f32()),
        ("i8", 8) | ("i4", 4) | ("i2", 2) | ("i1", 1) => signed.to_string(),
        ("u8", 8) | ("u4", 4) | ("u2", 2) | ("u1", 1) => bits.to_string(),
        ("b1", 1) => notes::truth(bits != 0).to_owned(),
        _ => return None,
    })
}

/// The shortest digits that give a 32-bit float back.
fn shortest(value: f32) -> String {
    value.to_string().parse().map_or_else(|_| value.to_string(), notes::float)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(code: &str, big_endian: bool, bytes: &[u8]) -> Option<String> {
        text(&NumpyDtype { code: code.into(), big_endian }, bytes)
    }

    #[test]
    fn scalars_become_text() {
        assert_eq!(note("f8", false, &83.2f64.to_le_bytes()).as_deref(), Some("83.2"));
        assert_eq!(note("f8", true, &83.2f64.to_be_bytes()).as_deref(), Some("83.2"));
        assert_eq!(note("f4", false, &0.1f32.to_le_bytes()).as_deref(), Some("0.1"));
        assert_eq!(note("f2", false, &[0, 0x3c]).as_deref(), Some("1.0"));
        assert_eq!(note("i8", false, &(-3i64).to_le_bytes()).as_deref(), Some("-3"));
        assert_eq!(note("i2", true, &(-300i16).to_be_bytes()).as_deref(), Some("-300"));
        assert_eq!(note("u1", false, &[200]).as_deref(), Some("200"));
        assert_eq!(note("b1", false, &[1]).as_deref(), Some("True"));
        assert_eq!(note("f8", false, &[]), None);
        assert_eq!(note("f4", false, &[0; 8]), None);
        assert_eq!(note("c16", false, &[0; 16]), None);
    }
}
