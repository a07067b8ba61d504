//! The header list: one byte buffer and an entry per header.
//!
//! Looking a header up scans the entries: below some thirty headers nothing is faster, and order and case stay.

use super::name::HeaderId;
use std::borrow::Cow;
use std::cell::RefCell;

/// Longest name. Codecs refuse heads long before: Envoy's largest limit is 8 MiB for all headers together.
const MAX_NAME: usize = (1 << 24) - 1;

/// 16 bytes, so that four headers share a cache line: the name's length has 24 bits.
#[derive(Clone, Copy, Debug)]
struct Entry {
    id: HeaderId,
    name_len_high: u8,
    name_len_low: u16,
    value_len: u32,
    /// Offset of the name in `bytes`; the value is at `value_at`.
    name_at: u32,
    value_at: u32,
}

impl Entry {
    fn name_len(&self) -> usize {
        usize::from(self.name_len_high) << 16 | usize::from(self.name_len_low)
    }
}

/// Headers in order, names in the case they were given.
///
/// The memory of a dropped list serves the next one of the same thread, so that a request allocates none.
#[derive(Clone, Debug, Default)]
pub struct HeaderList {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

/// Bytes and headers that a new list has room for: what most heads need.
const USUAL: (usize, usize) = (1024, 24);
/// Larger ones than this are freed and not kept: bytes, headers.
const KEPT_SIZE: (usize, usize) = (16 * 1024, 256);
/// Most lists that a thread keeps. With more in use at a time the rest are allocated and freed.
const KEPT: usize = 64;

thread_local! {
    static SPARE: RefCell<Vec<(Vec<u8>, Vec<Entry>)>> = const { RefCell::new(Vec::new()) };
}

impl Drop for HeaderList {
    fn drop(&mut self) {
        let size = (self.bytes.capacity(), self.entries.capacity());
        // Small ones are copies, which have room for nothing more.
        if size.0 < USUAL.0 || size.1 < USUAL.1 || size.0 > KEPT_SIZE.0 || size.1 > KEPT_SIZE.1 {
            return;
        }
        self.clear();
        let memory = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.entries));
        // A thread that ends has nothing to keep it for.
        let _ = SPARE.try_with(|spare| {
            let spare = &mut *spare.borrow_mut();
            if spare.len() < KEPT {
                spare.push(memory);
            }
        });
    }
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
        self.entries.iter().map(|e| e.name_len() + e.value_len as usize).sum()
    }

    /// Adds a header at the end. The caller has checked that name and value are legal, and that the whole head
    /// is of sane size: a name past 16 MiB or a list past 4 GiB is not added.
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
        self.replace(HeaderId::of(name), name, value);
    }

    /// [`HeaderList::set`] for a well-known header.
    pub fn set_id(&mut self, id: HeaderId, value: &[u8]) {
        self.replace(id, id.as_str().as_bytes(), value);
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

    fn replace(&mut self, id: HeaderId, name: &[u8], value: &[u8]) {
        let Some(first) = self.position(id, name) else { return self.push(id, name, value) };
        let entry = self.entries[first];
        let value_at = if value.len() <= entry.value_len as usize {
            // The new value fits where the old one was.
            self.bytes[entry.value_at as usize..][..value.len()].copy_from_slice(value);
            entry.value_at
        } else {
            let Some(at) = self.store(value) else { return };
            at
        };
        self.entries[first].value_at = value_at;
        self.entries[first].value_len = value.len() as u32;
        let bytes = &self.bytes;
        if self.entries[first + 1..].iter().any(|e| matches(bytes, e, id, name)) {
            let mut index = 0;
            self.entries.retain(|e| {
                index += 1;
                index - 1 <= first || !matches(bytes, e, id, name)
            });
        }
    }

    fn push(&mut self, id: HeaderId, name: &[u8], value: &[u8]) {
        debug_assert!(name.len() <= MAX_NAME, "codecs limit the size of heads");
        if name.len() > MAX_NAME {
            return;
        }
        if self.entries.capacity() == 0 {
            self.make_room();
        }
        let (Some(name_at), Some(value_at)) = (self.store(name), self.store(value)) else { return };
        self.entries.push(Entry {
            id,
            name_len_high: (name.len() >> 16) as u8,
            name_len_low: name.len() as u16,
            value_len: value.len() as u32,
            name_at,
            value_at,
        });
    }

    /// On the first header, since many a list never has one.
    fn make_room(&mut self) {
        let spare = SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
        (self.bytes, self.entries) =
            spare.unwrap_or_else(|| (Vec::with_capacity(USUAL.0), Vec::with_capacity(USUAL.1)));
    }

    /// Where `part` lies now; `None` when offsets would not fit.
    fn store(&mut self, part: &[u8]) -> Option<u32> {
        let at = u32::try_from(self.bytes.len()).ok()?;
        u32::try_from(self.bytes.len() + part.len()).ok()?;
        self.bytes.extend_from_slice(part);
        Some(at)
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
        name: &bytes[e.name_at as usize..][..e.name_len()],
        value: &bytes[e.value_at as usize..][..e.value_len as usize],
    }
}

fn matches(bytes: &[u8], e: &Entry, id: HeaderId, name: &[u8]) -> bool {
    e.id == id && (id != HeaderId::Other || pair(bytes, e).name.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(headers: &[(&str, &str)]) -> HeaderList {
        let mut list = HeaderList::default();
        for (name, value) in headers {
            list.append(name.as_bytes(), value.as_bytes());
        }
        list
    }

    fn text(list: &HeaderList) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        list.iter().map(|header| (text(header.name), text(header.value))).collect()
    }

    fn pairs(headers: &[(&str, &str)]) -> Vec<(String, String)> {
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn order_and_case_are_kept_and_names_are_found_in_any_case() {
        let list = list(&[("X-B", "1"), ("Accept", "2"), ("x-b", "3")]);
        assert_eq!(text(&list), pairs(&[("X-B", "1"), ("Accept", "2"), ("x-b", "3")]));
        assert_eq!(list.get(b"ACCEPT"), Some(&b"2"[..]));
        assert_eq!(list.get_id(HeaderId::Accept), Some(&b"2"[..]));
        assert_eq!(list.get_all(b"x-B").collect::<Vec<_>>(), [b"1", b"3"]);
        assert_eq!(list.get(b"x-c"), None);
    }

    #[test]
    fn set_replaces_the_first_in_place_and_drops_the_rest() {
        let mut list = list(&[("a", "1"), ("B", "two"), ("c", "3"), ("b", "4")]);
        list.set(b"b", b"longer than before");
        assert_eq!(text(&list), pairs(&[("a", "1"), ("B", "longer than before"), ("c", "3")]));
        list.set(b"b", b"");
        list.set(b"d", b"5");
        assert_eq!(text(&list), pairs(&[("a", "1"), ("B", ""), ("c", "3"), ("d", "5")]));
    }

    #[test]
    fn a_shorter_value_takes_no_memory() {
        let mut list = list(&[("x", "123456")]);
        let before = list.bytes.len();
        for value in ["12345", "", "1"] {
            list.set(b"x", value.as_bytes());
        }
        assert!(list.bytes.len() <= before + 1, "at most one value of one byte was stored anew");
    }

    #[test]
    fn repeated_headers_are_joined_by_commas() {
        let list = list(&[("x", "1"), ("y", "9"), ("X", "2"), ("x", "")]);
        assert_eq!(list.joined(b"x").as_deref(), Some(&b"1,2,"[..]));
        assert!(matches!(list.joined(b"y"), Some(Cow::Borrowed(b"9"))), "one value is not copied");
        assert_eq!(list.joined(b"z"), None);
    }

    #[test]
    fn removing_takes_every_occurrence() {
        let mut list = list(&[("x", "1"), ("host", "h"), ("X", "2")]);
        assert!(list.remove(b"x"));
        assert!(!list.remove(b"x"));
        assert!(list.remove_id(HeaderId::Host));
        assert!(list.is_empty());
    }

    #[test]
    fn names_longer_than_64_kib_stay_whole() {
        let name = "n".repeat(70_000);
        let mut list = list(&[(&name, "v"), ("a", "b")]);
        assert_eq!(list.get(name.as_bytes()), Some(&b"v"[..]));
        assert_eq!(list.byte_size(), 70_003);
        list.remove(name.as_bytes());
        assert_eq!(text(&list), pairs(&[("a", "b")]));
    }

    #[test]
    fn a_lists_memory_serves_the_next_and_nothing_of_it_shows() {
        let first = list(&[("secret", "value"), ("b", "2")]);
        let memory = first.bytes.as_ptr();
        drop(first);
        let mut second = HeaderList::default();
        assert_eq!(second.bytes.capacity(), 0, "a list without headers takes nothing");
        second.append(b"c", b"3");
        assert_eq!(second.bytes.as_ptr(), memory);
        assert_eq!(text(&second), pairs(&[("c", "3")]));
        assert_eq!(second.get(b"secret"), None);
    }

    #[test]
    fn memory_that_is_kept_is_bounded_in_number_and_size() {
        let large = list(&[("x", &"v".repeat(KEPT_SIZE.0 + 1))]);
        drop(large);
        drop((0..KEPT * 2).map(|_| list(&[("a", "1")])).collect::<Vec<_>>());
        SPARE.with_borrow(|spare| {
            assert_eq!(spare.len(), KEPT);
            assert!(spare.iter().all(|(bytes, _)| bytes.capacity() <= KEPT_SIZE.0 && bytes.is_empty()));
        });
    }

    #[test]
    fn an_entry_is_a_quarter_of_a_cache_line() {
        assert_eq!(size_of::<Entry>(), 16);
    }
}
