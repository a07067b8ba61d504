//! The header list: one buffer of header lines, as HTTP/1 writes them, and an entry per header.
//!
//! A header is a whole line in one place, `name: value` and CRLF. What a codec received is taken over in one copy, and
//! what nobody touched leaves in one with its neighbours: a message costs little more for having many headers.
//!
//! Looking a header up scans the entries: below some thirty headers nothing is faster, and order and case stay. The
//! set of well-known names that are there tells of absent ones without.

use super::name::{HeaderId, HeaderIds};
use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;

/// Longest name. Codecs refuse heads long before: Envoy's largest limit is 8 MiB for all headers together.
const MAX_NAME: usize = (1 << 24) - 1;

/// 12 bytes, so that five headers share a cache line: the name's length has 24 bits.
#[derive(Clone, Copy, Debug)]
struct Entry {
    id: HeaderId,
    name_len_high: u8,
    name_len_low: u16,
    value_len: u32,
    /// Offset of the line in `bytes`.
    at: u32,
}

/// Between name and value.
const COLON: &[u8] = b": ";
const CRLF: &[u8] = b"\r\n";

impl Entry {
    /// `None` when it would not fit.
    fn new(id: HeaderId, at: usize, name: usize, value: usize) -> Option<Self> {
        // The end fits, so that all before it does.
        u32::try_from(at + name + COLON.len() + value + CRLF.len()).ok()?;
        (name <= MAX_NAME).then_some(Self {
            id,
            name_len_high: (name >> 16) as u8,
            name_len_low: name as u16,
            value_len: value as u32,
            at: at as u32,
        })
    }

    fn name(&self) -> Range<usize> {
        let at = self.at as usize;
        at..at + (usize::from(self.name_len_high) << 16 | usize::from(self.name_len_low))
    }

    fn value(&self) -> Range<usize> {
        let at = self.name().end + COLON.len();
        at..at + self.value_len as usize
    }

    fn line(&self) -> Range<usize> {
        self.at as usize..self.value().end + CRLF.len()
    }
}

/// Headers in order, names in the case they were given.
///
/// The memory of a dropped list serves the next one of the same thread, so that a request allocates none.
#[derive(Clone, Debug, Default)]
pub struct HeaderList {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// The ids in `entries`.
    ids: HeaderIds,
    /// A name may have upper case.
    mixed_case: bool,
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
        self.ids = HeaderIds::default();
        self.mixed_case = false;
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
        self.entries.iter().map(|e| e.name().len() + e.value().len()).sum()
    }

    /// Whether a name may have upper case.
    pub fn has_mixed_case(&self) -> bool {
        self.mixed_case
    }

    /// Adds a header at the end. One that would be more than a line is not added, whoever made it; nor is a name past
    /// 16 MiB, or what would make a list of 4 GiB. Codecs refuse such messages, and say so.
    pub fn append(&mut self, name: &[u8], value: &[u8]) {
        self.push(HeaderId::of(name), name, value);
    }

    /// Adds a well-known header at the end.
    pub fn append_id(&mut self, id: HeaderId, value: &[u8]) {
        self.push(id, id.as_str().as_bytes(), value);
    }

    /// Begins with a copy of the header lines of a message; [`HeaderList::append_received`] then adds one after the
    /// other. What was in the list is forgotten.
    pub fn receive(&mut self, block: &[u8]) {
        self.clear();
        if self.entries.capacity() == 0 {
            self.make_room();
        }
        self.bytes.extend_from_slice(block);
    }

    /// Adds a header of `block`, which was given to [`HeaderList::receive`], at the end; `name` and `value` lie in it
    /// and are legal. The name is kept in lower case unless `keep_case`. Copied only where its line is not what would
    /// be written, as with other spaces.
    pub fn append_received(&mut self, block: &[u8], header: HeaderPair<'_>, keep_case: bool) {
        let HeaderPair { id, name, value } = header;
        let offset = |part: &[u8]| part.as_ptr().addr().wrapping_sub(block.as_ptr().addr());
        let (at, end) = (offset(name), offset(value).wrapping_add(value.len()));
        let is_line = offset(value) == at.wrapping_add(name.len() + COLON.len())
            && self.bytes.get(at + name.len()..offset(value)) == Some(COLON)
            && self.bytes.get(end..end.wrapping_add(CRLF.len())) == Some(CRLF);
        let entry = if is_line { Entry::new(id, at, name.len(), value.len()) } else { None };
        let Some(entry) = entry else { return self.push(id, name, value) };
        if keep_case {
            self.mixed_case |= has_upper_case(name);
        } else {
            lower_case(&mut self.bytes[entry.name()]);
        }
        self.ids.add(id);
        self.entries.push(entry);
    }

    /// Writes the lines of the headers that `keep` wants, names in the case they are kept in.
    pub fn write_lines(&self, out: &mut Vec<u8>, mut keep: impl FnMut(HeaderPair<'_>) -> bool) {
        // Lines that lie side by side are written in one.
        let mut run = 0..0;
        for entry in self.entries.iter().filter(|e| keep(pair(&self.bytes, e))) {
            let line = entry.line();
            if line.start == run.end {
                run.end = line.end;
            } else {
                out.extend_from_slice(&self.bytes[run]);
                run = line;
            }
        }
        out.extend_from_slice(&self.bytes[run]);
    }

    /// The first value of `name`.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        match HeaderId::of(name) {
            HeaderId::Other => {
                let mut all = self.entries.iter();
                all.find(|e| matches(&self.bytes, e, HeaderId::Other, name)).map(|e| self.value(e))
            }
            id => self.get_id(id),
        }
    }

    /// The first value of a well-known header.
    pub fn get_id(&self, id: HeaderId) -> Option<&[u8]> {
        if !self.contains_id(id) {
            return None;
        }
        self.entries.iter().find(|e| e.id == id).map(|e| self.value(e))
    }

    /// All values of `name`, in order.
    pub fn get_all<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let id = HeaderId::of(name);
        self.entries.iter().filter(move |e| matches(&self.bytes, e, id, name)).map(|e| self.value(e))
    }

    /// All values of a well-known header, in order.
    pub fn get_all_id(&self, id: HeaderId) -> impl Iterator<Item = &[u8]> {
        let entries = if self.contains_id(id) { &*self.entries } else { &[] };
        entries.iter().filter(move |e| e.id == id).map(|e| self.value(e))
    }

    /// All values of `name` joined with commas; borrowed when there is one. `None` when absent.
    pub fn joined(&self, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        let id = HeaderId::of(name);
        join(self.entries.iter().filter(|e| matches(&self.bytes, e, id, name)).map(|e| self.value(e)))
    }

    /// [`HeaderList::joined`] for a well-known header.
    pub fn joined_id(&self, id: HeaderId) -> Option<Cow<'_, [u8]>> {
        join(self.get_all_id(id))
    }

    /// Whether `name` is present.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.get(name).is_some()
    }

    /// Whether a well-known header is present.
    pub fn contains_id(&self, id: HeaderId) -> bool {
        self.ids.contains(id)
    }

    /// Whether any of these well-known headers is present.
    pub fn contains_any(&self, ids: HeaderIds) -> bool {
        self.ids.meets(ids)
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
        if id != HeaderId::Other {
            return self.remove_id(id);
        }
        let before = self.entries.len();
        let bytes = &self.bytes;
        self.entries.retain(|e| !matches(bytes, e, id, name));
        self.entries.len() != before
    }

    /// Removes all occurrences of a well-known header. Returns whether there were any.
    pub fn remove_id(&mut self, id: HeaderId) -> bool {
        if !self.contains_id(id) {
            return false;
        }
        self.entries.retain(|e| e.id != id);
        self.ids.remove(id);
        true
    }

    /// Keeps the headers for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(HeaderPair<'_>) -> bool) {
        let (bytes, ids) = (&self.bytes, &mut self.ids);
        *ids = HeaderIds::default();
        self.entries.retain(|e| {
            let keeps = keep(pair(bytes, e));
            if keeps {
                ids.add(e.id);
            }
            keeps
        });
    }

    /// Headers in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = HeaderPair<'_>> {
        self.entries.iter().map(|e| pair(&self.bytes, e))
    }

    fn replace(&mut self, id: HeaderId, name: &[u8], value: &[u8]) {
        let Some(first) = self.position(id, name) else { return self.push(id, name, value) };
        if !is_value(value) {
            return;
        }
        let entry = self.entries[first];
        let (name_len, at) = (entry.name().len(), entry.value());
        if value.len() <= at.len() {
            // It fits where the old one was.
            let (value_end, line_end) = (at.start + value.len(), at.start + value.len() + CRLF.len());
            self.bytes[at.start..value_end].copy_from_slice(value);
            self.bytes[value_end..line_end].copy_from_slice(CRLF);
            self.entries[first].value_len = value.len() as u32;
        } else {
            let Some(entry) = Entry::new(id, self.bytes.len(), name_len, value.len()) else { return };
            self.bytes.extend_from_within(at.start - COLON.len() - name_len..at.start);
            self.bytes.extend_from_slice(value);
            self.bytes.extend_from_slice(CRLF);
            self.entries[first] = entry;
        }
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
        if (id == HeaderId::Other && !is_name(name)) || !is_value(value) {
            return;
        }
        if self.entries.capacity() == 0 {
            self.make_room();
        }
        let Some(entry) = Entry::new(id, self.bytes.len(), name.len(), value.len()) else { return };
        self.bytes.reserve(entry.line().len());
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(COLON);
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(CRLF);
        // Names of ids are in lower case where we made them.
        self.mixed_case |= !std::ptr::eq(name, id.as_str().as_bytes()) && has_upper_case(name);
        self.ids.add(id);
        self.entries.push(entry);
    }

    /// On the first header, since many a list never has one.
    fn make_room(&mut self) {
        let spare = SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
        (self.bytes, self.entries) =
            spare.unwrap_or_else(|| (Vec::with_capacity(USUAL.0), Vec::with_capacity(USUAL.1)));
    }

    fn position(&self, id: HeaderId, name: &[u8]) -> Option<usize> {
        if id != HeaderId::Other && !self.contains_id(id) {
            return None;
        }
        self.entries.iter().position(|e| matches(&self.bytes, e, id, name))
    }

    fn value(&self, e: &Entry) -> &[u8] {
        &self.bytes[e.value()]
    }
}

/// Whether it can stand before the colon of a line. Cheaper than RFC 9110's token, which codecs hold peers to.
///
/// Without branches, as its kin below, so that many bytes are looked at a time.
fn is_name(name: &[u8]) -> bool {
    !name.iter().fold(name.is_empty(), |bad, b| bad | (*b <= b' ') | (*b >= 0x7f) | (*b == b':'))
}

/// Whether it keeps a line a line.
fn is_value(value: &[u8]) -> bool {
    memchr::memchr3(b'\r', b'\n', 0, value).is_none()
}

/// [`slice::make_ascii_lowercase`], eight bytes at a time: names are short, and there are many.
fn lower_case(name: &mut [u8]) {
    const fn each(byte: u8) -> u64 {
        u64::from_le_bytes([byte; 8])
    }
    let mut words = name.chunks_exact_mut(8);
    for word in &mut words {
        let bytes = u64::from_le_bytes((&*word).try_into().unwrap_or_default());
        // The high bit of each byte tells whether it is at least `A`, and whether it is past `Z`.
        let low = bytes & each(0x7f);
        let (from_a, past_z) = (low + each(0x80 - b'A'), low + each(0x7f - b'Z'));
        let upper = from_a & !past_z & !bytes & each(0x80);
        word.copy_from_slice(&(bytes | upper >> 2).to_le_bytes());
    }
    words.into_remainder().make_ascii_lowercase();
}

fn has_upper_case(name: &[u8]) -> bool {
    name.iter().fold(false, |upper, b| upper | b.is_ascii_uppercase())
}

fn join<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Option<Cow<'a, [u8]>> {
    let first = values.next()?;
    let Some(second) = values.next() else { return Some(Cow::Borrowed(first)) };
    let mut joined = [first, second].join(&b',');
    for value in values {
        joined.push(b',');
        joined.extend_from_slice(value);
    }
    Some(Cow::Owned(joined))
}

fn pair<'a>(bytes: &'a [u8], e: &Entry) -> HeaderPair<'a> {
    HeaderPair { id: e.id, name: &bytes[e.name()], value: &bytes[e.value()] }
}

fn matches(bytes: &[u8], e: &Entry, id: HeaderId, name: &[u8]) -> bool {
    e.id == id && (id != HeaderId::Other || pair(bytes, e).name.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        assert!(list.bytes.len() <= before + 6, "at most one line with a value of one byte was stored anew");
        assert_eq!(text(&list), pairs(&[("x", "1")]));
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

    fn received(block: &str, headers: &[(&str, &str)], keep_case: bool) -> HeaderList {
        let mut list = HeaderList::default();
        list.receive(block.as_bytes());
        let mut at = 0;
        for (name, value) in headers {
            let name_at = at + block[at..].find(name).unwrap();
            let value_at = name_at + name.len() + block[name_at + name.len()..].find(value).unwrap();
            at = value_at + value.len();
            let name = &block.as_bytes()[name_at..name_at + name.len()];
            let header = HeaderPair { id: HeaderId::of(name), name, value: &block.as_bytes()[value_at..at] };
            list.append_received(block.as_bytes(), header, keep_case);
        }
        list
    }

    fn written(list: &HeaderList) -> String {
        let mut out = Vec::new();
        list.write_lines(&mut out, |_| true);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn received_lines_are_taken_over_where_they_are_and_in_lower_case() {
        let block = "Host: h\r\nX-A: 1\r\naccept: */*\r\n\r\n";
        let list = received(block, &[("X-A", "1"), ("accept", "*/*")], false);
        assert_eq!(list.bytes.len(), block.len(), "nothing was copied a second time");
        assert_eq!(text(&list), pairs(&[("x-a", "1"), ("accept", "*/*")]));
        assert_eq!(written(&list), "x-a: 1\r\naccept: */*\r\n");
        assert!(!list.has_mixed_case());
        let list = received(block, &[("X-A", "1"), ("accept", "*/*")], true);
        assert_eq!(written(&list), "X-A: 1\r\naccept: */*\r\n");
        assert!(list.has_mixed_case());
    }

    #[test]
    fn received_lines_with_other_spaces_are_written_with_one() {
        let block = "A:1\r\nb:  2\r\nc: 3 \r\nd:\r\ne: 5\r\n\r\n";
        let list = received(block, &[("A", "1"), ("b", "2"), ("c", "3"), ("d", ""), ("e", "5")], false);
        assert_eq!(written(&list).to_ascii_lowercase(), "a: 1\r\nb: 2\r\nc: 3\r\nd: \r\ne: 5\r\n");
    }

    #[test]
    fn names_are_lowered_as_the_standard_library_does() {
        let all: Vec<u8> = (0..=u8::MAX).chain(0..=u8::MAX).collect();
        for length in 0..all.len() {
            let (mut ours, mut theirs) = (all[..length].to_vec(), all[..length].to_vec());
            lower_case(&mut ours);
            theirs.make_ascii_lowercase();
            assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn what_would_be_more_than_a_line_is_not_taken() {
        let mut list = list(&[("a", "1")]);
        for (name, value) in
            [("b", "2\r\nc: 3"), ("b", "\n"), ("b", "\0"), ("b c", "1"), ("b:", "1"), ("", "1")]
        {
            list.append(name.as_bytes(), value.as_bytes());
            list.set(b"a", value.as_bytes());
        }
        assert_eq!(written(&list).lines().count(), 1);
    }

    /// What may be done to a list: append, set, remove, keep those that are longer.
    #[derive(Clone, Debug)]
    enum Edit {
        Append(&'static str, String),
        Set(&'static str, String),
        Remove(&'static str),
        KeepLonger(usize),
    }

    fn edit() -> impl Strategy<Value = Edit> {
        let name = prop::sample::select(vec!["a", "B", "accept", "Via", "x-request-id", "b"]);
        let value = "[a-z]{0,6}";
        prop_oneof![
            (name.clone(), value).prop_map(|(name, value)| Edit::Append(name, value)),
            (name.clone(), value).prop_map(|(name, value)| Edit::Set(name, value)),
            name.prop_map(Edit::Remove),
            (0..4usize).prop_map(Edit::KeepLonger),
        ]
    }

    proptest! {
        /// Whatever is done to it, a list says and writes what a vector of pairs would.
        #[test]
        fn a_list_is_a_vector_of_pairs(edits in prop::collection::vec(edit(), 0..24)) {
            let block = "ACCEPT: x\r\nB: first\r\nb:second\r\n\r\n";
            let mut list = received(block, &[("ACCEPT", "x"), ("B", "first"), ("b", "second")], false);
            let mut model = pairs(&[("accept", "x"), ("b", "first"), ("b", "second")]);
            for edit in edits {
                match edit {
                    Edit::Append(name, value) => {
                        list.append(name.as_bytes(), value.as_bytes());
                        model.push((name.to_owned(), value));
                    }
                    Edit::Set(name, value) => {
                        list.set(name.as_bytes(), value.as_bytes());
                        match model.iter().position(|(n, _)| n.eq_ignore_ascii_case(name)) {
                            Some(first) => {
                                model[first].1 = value;
                                let mut index = 0;
                                model.retain(|(n, _)| {
                                    index += 1;
                                    index - 1 <= first || !n.eq_ignore_ascii_case(name)
                                });
                            }
                            None => model.push((name.to_owned(), value)),
                        }
                    }
                    Edit::Remove(name) => {
                        let found = model.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
                        prop_assert_eq!(list.remove(name.as_bytes()), found);
                        model.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
                    }
                    Edit::KeepLonger(length) => {
                        list.retain(|header| header.value.len() > length);
                        model.retain(|(_, value)| value.len() > length);
                    }
                }
                let text: Vec<_> = text(&list).into_iter().map(|(n, v)| (n.to_ascii_lowercase(), v)).collect();
                let model: Vec<_> = model.iter().map(|(n, v)| (n.to_ascii_lowercase(), v.clone())).collect();
                prop_assert_eq!(&text, &model);
                let lines: String = model.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
                prop_assert_eq!(written(&list).to_ascii_lowercase(), lines);
                for id in [HeaderId::Accept, HeaderId::Via, HeaderId::XRequestId] {
                    let first = model.iter().find(|(n, _)| n == id.as_str()).map(|(_, v)| v.as_bytes());
                    prop_assert_eq!(list.get_id(id), first);
                    prop_assert_eq!(list.contains_id(id), first.is_some());
                }
            }
        }
    }

    #[test]
    fn five_entries_share_a_cache_line() {
        assert_eq!(size_of::<Entry>(), 12);
    }
}
