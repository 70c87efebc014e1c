//! The stream `torch.save` wrote before version 1.6: a magic number, a version, what machine wrote it, the object, the keys of its
//! storages (a pickle each), then the storages one after the other, each behind its number of elements.

use std::collections::HashMap;

use crate::bytes::Bytes;
use crate::error::{Result, WeightsError, named};
use crate::file::{Container, Contents};
use crate::flatten::flatten;
use crate::pickle::{Cursor, MAX_PICKLE, Object, Pickle, Value};
use crate::zip::Range;

/// 0x1950a86a20f9469cfc6c, as a pickle's number is kept here.
const MAGIC: &str = "119547037146038801333356";
const PROTOCOL: i64 = 1001;
const COUNT: u64 = size_of::<u64>() as u64;

pub(crate) fn read(bytes: &Bytes) -> Result<Contents> {
    let fail = |why: String| failed(bytes, why);
    let mut at = 0;
    // Whatever a plain pickle asks for, it is not run, and what it is not comes first.
    let magic = next(bytes, &mut at);
    let is_magic = magic.as_ref().is_ok_and(|magic| matches!(magic.object(magic.root), Some(Object::Note(text)) if **text == *MAGIC));
    if !is_magic {
        return Err(match magic {
            Err(error @ (WeightsError::Forbidden { .. } | WeightsError::Read { .. })) => error,
            _ => fail("a pickle without PyTorch's magic number; expected what `torch.save` writes".into()),
        });
    }
    let protocol = next(bytes, &mut at)?.root;
    if protocol != Value::Int(PROTOCOL) {
        return Err(fail(format!("expected its protocol to be {PROTOCOL}, found {}", shown(protocol))));
    }
    let machine = next(bytes, &mut at)?;
    match machine.item(machine.root, "little_endian") {
        Some(Value::Bool(true)) => {}
        Some(Value::Bool(false)) => return Err(fail("its byte order is big-endian, expected little-endian".into())),
        _ => return Err(fail("it does not say its byte order".into())),
    }
    let pickle = next(bytes, &mut at)?;
    let keys = next(bytes, &mut at)?;
    let ranges = storages(bytes, &pickle, &keys, at)?;
    let (entries, notes) = flatten(bytes, &pickle, &ranges)?;
    Ok(Contents { container: Container::TorchLegacy, entries, notes })
}

/// The pickle at `at`, and on to what is behind it.
fn next(bytes: &Bytes, at: &mut u64) -> Result<Pickle> {
    let mut cursor = Cursor::new(bytes, *at, MAX_PICKLE.min(bytes.len().saturating_sub(*at)))?;
    let pickle = Pickle::read(&mut cursor, false)?;
    *at = cursor.position();
    Ok(pickle)
}

fn shown(value: Value) -> String {
    match value {
        Value::Int(value) => value.to_string(),
        _ => "something else".into(),
    }
}

/// Where each storage of the pickle lies; `at` is behind the last pickle.
fn storages(bytes: &Bytes, pickle: &Pickle, keys: &Pickle, mut at: u64) -> Result<Vec<Range>> {
    let fail = |why: String| Err(failed(bytes, why));
    let Some(Object::List(list)) = keys.object(keys.root) else {
        return fail("the keys of its storages are not a list".into());
    };
    let known: HashMap<&str, usize> = pickle.storages.iter().enumerate().map(|(i, storage)| (&*storage.key, i)).collect();
    let mut found: Vec<Option<Range>> = vec![None; pickle.storages.len()];
    for &key in list {
        let Some(key) = keys.text(key) else {
            return fail("the key of a storage is not a string".into());
        };
        let Some(&index) = known.get(key) else {
            return fail(format!("it has a storage `{}` that its pickle does not mention", named(key)));
        };
        let storage = &pickle.storages[index];
        let mut count = [0; COUNT as usize];
        bytes.read_into(at, &mut count)?;
        let count = u64::from_le_bytes(count);
        if count != storage.len {
            return fail(format!("storage `{}` has {count} elements, its pickle says {}", named(key), storage.len));
        }
        let range = Range { start: at + COUNT, len: count.saturating_mul(storage.element) };
        bytes.check(range.start, range.len)?;
        if found[index].replace(range).is_some() {
            return fail(format!("storage `{}` is there twice", named(key)));
        }
        at = range.start + range.len;
    }
    if at != bytes.len() {
        return fail(format!("{} bytes come after its last storage", bytes.len() - at));
    }
    let missing = |key| failed(bytes, format!("its pickle mentions a storage `{}` that is not there", named(key)));
    found.into_iter().zip(&pickle.storages).map(|(range, storage)| range.ok_or_else(|| missing(&storage.key))).collect()
}

fn failed(bytes: &Bytes, why: String) -> WeightsError {
    WeightsError::Legacy { file: bytes.source().to_owned(), why }
}
