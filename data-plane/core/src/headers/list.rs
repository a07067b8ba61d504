//! The header list: one byte buffer and an entry per header.

use super::name::HeaderId;
use std::borrow::Cow;

#[derive(Clone, Copy, Debug)]
struct Entry {
    id: HeaderId,
    name_len: u16,
    value_len: u32,
    /// Offset of the name in `bytes`; the value follows at `value_at`.
    name_at: u32,
    value_at: u32,
}

/// Headers in order, names in the case they were given.
#[derive(Clone, Debug, Default)]
pub struct HeaderList {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

/// One header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderPair<'a> {
    /// [`HeaderId::Other`] when not well known.
    pub id: HeaderId,
    /// As given; compare without case.
    pub name: &'a [u8],
    /// Without surrounding whitespace.
    pub value: &'a [u8],
}

impl HeaderList {
    /// Forgets all headers and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }

    /// Number of headers.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all names and values.
    pub fn byte_size(&self) -> usize {
        self.entries.iter().map(|e| usize::from(e.name_len) + e.value_len as usize).sum()
    }

    /// Adds a header at the end. The caller has checked that name and value are legal.
    pub fn append(&mut self, name: &[u8], value: &[u8]) {
        self.push(HeaderId::of(name), name, value);
    }

    /// Adds a well-known header at the end.
    pub fn append_id(&mut self, id: HeaderId, value: &[u8]) {
        self.push(id, id.as_str().as_bytes(), value);
    }

    /// The first value of `name`.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        match HeaderId::of(name) {
            HeaderId::Other => self
                .entries
                .iter()
                .find(|e| e.id == HeaderId::Other && self.name(e).eq_ignore_ascii_case(name))
                .map(|e| self.value(e)),
            id => self.get_id(id),
        }
    }

    /// The first value of a well-known header.
    pub fn get_id(&self, id: HeaderId) -> Option<&[u8]> {
        self.entries.iter().find(|e| e.id == id).map(|e| self.value(e))
    }

    /// All values of `name`, in order.
    pub fn get_all<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let id = HeaderId::of(name);
        self.entries
            .iter()
            .filter(move |e| e.id == id && (id != HeaderId::Other || self.name(e).eq_ignore_ascii_case(name)))
            .map(|e| self.value(e))
    }

    /// All values of `name` joined with commas; borrowed when there is one. `None` when absent.
    pub fn joined(&self, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        let id = HeaderId::of(name);
        let mut all =
            self.entries.iter().filter(|e| matches(&self.bytes, e, id, name)).map(|e| self.value(e));
        let first = all.next()?;
        let Some(second) = all.next() else { return Some(Cow::Borrowed(first)) };
        let mut joined = [first, second].join(&b',');
        for value in all {
            joined.push(b',');
            joined.extend_from_slice(value);
        }
        Some(Cow::Owned(joined))
    }

    /// Whether `name` is present.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.get(name).is_some()
    }

    /// Whether a well-known header is present.
    pub fn contains_id(&self, id: HeaderId) -> bool {
        self.entries.iter().any(|e| e.id == id)
    }

    /// Replaces the first occurrence in place and removes others, or appends.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        let id = HeaderId::of(name);
        let Some(first) = self.position(id, name) else { return self.push(id, name, value) };
        let at = self.store(value);
        self.entries[first].value_at = at;
        self.entries[first].value_len = value.len() as u32;
        let mut index = 0;
        let bytes = &self.bytes;
        self.entries.retain(|e| {
            index += 1;
            index - 1 <= first || !matches(bytes, e, id, name)
        });
    }

    /// [`HeaderList::set`] for a well-known header.
    pub fn set_id(&mut self, id: HeaderId, value: &[u8]) {
        self.set(id.as_str().as_bytes(), value);
    }

    /// Removes all occurrences. Returns whether there were any.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        let id = HeaderId::of(name);
        let before = self.entries.len();
        let bytes = &self.bytes;
        self.entries.retain(|e| !matches(bytes, e, id, name));
        self.entries.len() != before
    }

    /// Removes all occurrences of a well-known header. Returns whether there were any.
    pub fn remove_id(&mut self, id: HeaderId) -> bool {
        let before = self.entries.len();
        self.entries.retain(|e| e.id != id);
        self.entries.len() != before
    }

    /// Keeps the headers for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(HeaderPair<'_>) -> bool) {
        let bytes = &self.bytes;
        self.entries.retain(|e| keep(pair(bytes, e)));
    }

    /// Headers in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = HeaderPair<'_>> {
        self.entries.iter().map(|e| pair(&self.bytes, e))
    }

    fn push(&mut self, id: HeaderId, name: &[u8], value: &[u8]) {
        let name_at = self.store(name);
        let value_at = self.store(value);
        self.entries.push(Entry {
            id,
            name_len: name.len() as u16,
            value_len: value.len() as u32,
            name_at,
            value_at,
        });
    }

    fn store(&mut self, part: &[u8]) -> u32 {
        let at = self.bytes.len() as u32;
        self.bytes.extend_from_slice(part);
        at
    }

    fn position(&self, id: HeaderId, name: &[u8]) -> Option<usize> {
        self.entries.iter().position(|e| matches(&self.bytes, e, id, name))
    }

    fn name(&self, e: &Entry) -> &[u8] {
        pair(&self.bytes, e).name
    }

    fn value(&self, e: &Entry) -> &[u8] {
        pair(&self.bytes, e).value
    }
}

fn pair<'a>(bytes: &'a [u8], e: &Entry) -> HeaderPair<'a> {
    HeaderPair {
        id: e.id,
        name: &bytes[e.name_at as usize..][..usize::from(e.name_len)],
        value: &bytes[e.value_at as usize..][..e.value_len as usize],
    }
}

fn matches(bytes: &[u8], e: &Entry, id: HeaderId, name: &[u8]) -> bool {
    e.id == id && (id != HeaderId::Other || pair(bytes, e).name.eq_ignore_ascii_case(name))
}
