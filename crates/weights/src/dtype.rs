//! Element types, and their values out of little-endian bytes.

use std::fmt;

use half::{bf16, f16};

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// 64-bit floats.
    F64,
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a 32-bit float.
    BF16,
    /// Signed 64-bit integers.
    I64,
    /// Signed 32-bit integers.
    I32,
    /// Signed 16-bit integers.
    I16,
    /// Signed 8-bit integers.
    I8,
    /// Unsigned 64-bit integers.
    U64,
    /// Unsigned 32-bit integers.
    U32,
    /// Unsigned 16-bit integers.
    U16,
    /// Bytes.
    U8,
    /// One byte each; zero is false.
    Bool,
}

impl Dtype {
    /// Bytes of one element.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Dtype::F64 | Dtype::I64 | Dtype::U64 => 8,
            Dtype::F32 | Dtype::I32 | Dtype::U32 => 4,
            Dtype::F16 | Dtype::BF16 | Dtype::I16 | Dtype::U16 => 2,
            Dtype::I8 | Dtype::U8 | Dtype::Bool => 1,
        }
    }

    /// Whether the elements are floats of any width.
    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(self, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }

    /// Appends the elements in `bytes`; f64 is rounded. Types that are not floats add nothing.
    pub(crate) fn decode_f32(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Dtype::F64 => each(bytes, out, |b| f64::from_le_bytes(b) as f32),
            Dtype::F32 => each(bytes, out, f32::from_le_bytes),
            Dtype::F16 => each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => each(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            _ => {}
        }
    }

    /// Appends the elements in `bytes`; 64-bit integers beyond 2^53 are rounded.
    pub(crate) fn decode_f64(self, bytes: &[u8], out: &mut Vec<f64>) {
        match self {
            Dtype::F64 => each(bytes, out, f64::from_le_bytes),
            Dtype::F32 => each(bytes, out, |b| f32::from_le_bytes(b).into()),
            Dtype::F16 => each(bytes, out, |b| f16::from_le_bytes(b).to_f64()),
            Dtype::BF16 => each(bytes, out, |b| bf16::from_le_bytes(b).to_f64()),
            Dtype::I64 => each(bytes, out, |b| i64::from_le_bytes(b) as f64),
            Dtype::I32 => each(bytes, out, |b| i32::from_le_bytes(b).into()),
            Dtype::I16 => each(bytes, out, |b| i16::from_le_bytes(b).into()),
            Dtype::I8 => each(bytes, out, |b| i8::from_le_bytes(b).into()),
            Dtype::U64 => each(bytes, out, |b| u64::from_le_bytes(b) as f64),
            Dtype::U32 => each(bytes, out, |b| u32::from_le_bytes(b).into()),
            Dtype::U16 => each(bytes, out, |b| u16::from_le_bytes(b).into()),
            Dtype::U8 => each(bytes, out, |[b]| b.into()),
            Dtype::Bool => each(bytes, out, |[b]| f64::from(u8::from(b != 0))),
        }
    }
}

fn each<const N: usize, T>(bytes: &[u8], out: &mut Vec<T>, value: impl Fn([u8; N]) -> T) {
    out.extend(bytes.as_chunks().0.iter().map(|&b| value(b)));
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::F64 => "f64",
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::BF16 => "bf16",
            Dtype::I64 => "i64",
            Dtype::I32 => "i32",
            Dtype::I16 => "i16",
            Dtype::I8 => "i8",
            Dtype::U64 => "u64",
            Dtype::U32 => "u32",
            Dtype::U16 => "u16",
            Dtype::U8 => "u8",
            Dtype::Bool => "bool",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f64s(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
        let mut out = vec![];
        dtype.decode_f64(bytes, &mut out);
        out
    }

    #[test]
    fn every_type_decodes() {
        assert_eq!(f64s(Dtype::F64, &(-2.5f64).to_le_bytes()), [-2.5]);
        assert_eq!(f64s(Dtype::F32, &0.5f32.to_le_bytes()), [0.5]);
        assert_eq!(f64s(Dtype::F16, &[0x00, 0x3c, 0x01, 0x00]), [1.0, 2f64.powi(-24)]);
        assert_eq!(f64s(Dtype::BF16, &[0x80, 0x3f, 0x00, 0xc0]), [1.0, -2.0]);
        assert_eq!(f64s(Dtype::I64, &(-(1i64 << 53)).to_le_bytes()), [-(2f64.powi(53))]);
        assert_eq!(f64s(Dtype::I32, &(-7i32).to_le_bytes()), [-7.0]);
        assert_eq!(f64s(Dtype::I16, &(-300i16).to_le_bytes()), [-300.0]);
        assert_eq!(f64s(Dtype::I8, &[0x80]), [-128.0]);
        assert_eq!(f64s(Dtype::U64, &(1u64 << 53).to_le_bytes()), [2f64.powi(53)]);
        assert_eq!(f64s(Dtype::U32, &[0xff; 4]), [f64::from(u32::MAX)]);
        assert_eq!(f64s(Dtype::U16, &[0xff; 2]), [65535.0]);
        assert_eq!(f64s(Dtype::U8, &[0xff, 3]), [255.0, 3.0]);
        assert_eq!(f64s(Dtype::Bool, &[0, 1, 2]), [0.0, 1.0, 1.0]);
    }

    #[test]
    fn floats_decode_to_f32_and_others_do_not() {
        let mut out = vec![];
        Dtype::F64.decode_f32(&0.1f64.to_le_bytes(), &mut out);
        Dtype::BF16.decode_f32(&[0x80, 0x3f], &mut out);
        Dtype::I32.decode_f32(&[1, 0, 0, 0], &mut out);
        assert_eq!(out, [0.1f32, 1.0]);
        assert!(Dtype::BF16.is_float() && !Dtype::Bool.is_float());
        assert_eq!(Dtype::BF16.to_string(), "bf16");
    }
}
