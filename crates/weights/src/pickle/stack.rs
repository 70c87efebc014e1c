//! The machine's stack and its marks. Nothing is taken from below the last mark.

use crate::error::Result;

use super::machine::{MAX_OBJECTS, Machine};
use super::value::{Object, Value};

impl Machine<'_, '_> {
    pub(super) fn push(&mut self, value: Value) -> Result<()> {
        if self.stack.len() >= MAX_OBJECTS {
            return self.fail(format!("more than {MAX_OBJECTS} values at once"));
        }
        self.stack.push(value);
        Ok(())
    }

    pub(super) fn push_object(&mut self, object: Object) -> Result<()> {
        let value = self.new_object(object)?;
        self.push(value)
    }

    /// Where the stack may not be popped any further.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    pub(super) fn pop(&mut self) -> Result<Value> {
        let floor = self.floor();
        match self.stack.pop() {
            Some(value) if self.stack.len() >= floor => Ok(value),
            _ => self.fail("an instruction lacks its operand"),
        }
    }

    pub(super) fn top(&self) -> Result<Value> {
        match self.stack.last() {
            Some(&value) if self.stack.len() > self.floor() => Ok(value),
            _ => self.fail("an instruction lacks its operand"),
        }
    }

    pub(super) fn top_object(&mut self) -> Result<Option<&mut Object>> {
        Ok(match self.top()? {
            Value::Ref(at) => self.objects.get_mut(at as usize),
            _ => None,
        })
    }

    pub(super) fn since_mark(&mut self) -> Result<Vec<Value>> {
        match self.marks.pop() {
            Some(mark) if mark <= self.stack.len() => Ok(self.stack.split_off(mark)),
            _ => self.fail("an instruction lacks its mark"),
        }
    }

    pub(super) fn pairs_since_mark(&mut self) -> Result<Vec<(Value, Value)>> {
        let items = self.since_mark()?;
        let (pairs, rest) = items.as_chunks();
        if rest.is_empty() { Ok(pairs.iter().map(|&[key, value]| (key, value)).collect()) } else { self.fail("a key has no value") }
    }
}
