//! Which parameters a model has: names, shapes and places in one flat buffer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A parameter's handle. It is good for every [`Params`](crate::Params) made from its layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Param {
    pub(crate) layout: u32,
    pub(crate) index: u32,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub name: String,
    pub shape: Vec<usize>,
    pub offset: usize,
    pub len: usize,
}

/// Names, shapes and places of a model's parameters.
#[derive(Debug)]
pub struct Layout {
    pub(crate) id: u32,
    pub(crate) entries: Vec<Entry>,
    pub(crate) len: usize,
    by_name: HashMap<String, u32>,
}

/// Collects parameters into a [`Layout`].
#[derive(Debug)]
pub struct LayoutBuilder(Layout);

/// Parameters start at multiples of this many elements, so that each starts on a cache line.
const ALIGN: usize = 16;

impl Layout {
    /// An empty layout to add parameters to.
    pub fn builder() -> LayoutBuilder {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        LayoutBuilder(Layout { id: NEXT.fetch_add(1, Ordering::Relaxed), entries: vec![], len: 0, by_name: HashMap::new() })
    }

    /// All parameters in the order in which they were added.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Param> + '_ {
        (0..self.entries.len() as u32).map(|index| Param { layout: self.id, index })
    }

    /// The parameter of that name.
    pub fn find(&self, name: &str) -> Option<Param> {
        self.by_name.get(name).map(|&index| Param { layout: self.id, index })
    }

    /// A parameter's name.
    pub fn name(&self, p: Param) -> &str {
        &self.entry(p).name
    }

    /// A parameter's shape.
    pub fn shape(&self, p: Param) -> &[usize] {
        &self.entry(p).shape
    }

    /// Number of values, without padding.
    pub fn count(&self) -> usize {
        self.entries.iter().map(|e| e.len).sum()
    }

    pub(crate) fn entry(&self, p: Param) -> &Entry {
        assert_eq!(p.layout, self.id, "a parameter of another layout");
        &self.entries[p.index as usize]
    }

    pub(crate) fn range(&self, p: Param) -> std::ops::Range<usize> {
        let e = self.entry(p);
        e.offset..e.offset + e.len
    }
}

impl LayoutBuilder {
    /// Adds a parameter. A name may be added once only.
    pub fn add(&mut self, name: impl Into<String>, shape: &[usize]) -> Param {
        let (name, index) = (name.into(), self.0.entries.len() as u32);
        let len: usize = shape.iter().product();
        assert!(self.0.by_name.insert(name.clone(), index).is_none(), "parameter {name} added twice");
        self.0.entries.push(Entry { name, shape: shape.to_vec(), offset: self.0.len, len });
        self.0.len += len.next_multiple_of(ALIGN);
        Param { layout: self.0.id, index }
    }

    /// The finished layout.
    pub fn finish(self) -> Arc<Layout> {
        Arc::new(self.0)
    }
}
