//! Distinguished encoding rules (X.690), as far as certificates need them.

use std::ops::Range;
use time::{Date, Month, PrimitiveDateTime, Time};

/// First byte of an element. Tags above 30 do not occur in certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(pub(super) u8);

impl Tag {
    pub(super) const BOOLEAN: Self = Self(0x01);
    pub(super) const INTEGER: Self = Self(0x02);
    pub(super) const BITS: Self = Self(0x03);
    pub(super) const OCTETS: Self = Self(0x04);
    pub(super) const OID: Self = Self(0x06);
    pub(super) const SEQUENCE: Self = Self(0x30);
    pub(super) const SET: Self = Self(0x31);
    const UTC_TIME: Self = Self(0x17);
    const GENERAL_TIME: Self = Self(0x18);

    /// `[n]` around something.
    pub(super) const fn context(n: u8) -> Self {
        Self(0xa0 | n)
    }

    /// `[n]` in the place of a simple type.
    pub(super) const fn context_primitive(n: u8) -> Self {
        Self(0x80 | n)
    }
}

/// Reads elements one after another; knows where they are in the whole.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    /// Offset of `bytes` in the whole.
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next element: tag, content, and how long the header is.
    fn next(&self) -> Option<(Tag, &'a [u8], usize)> {
        let (&tag, rest) = self.bytes.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, header) = match first {
            0..=0x7f => (usize::from(first), 2),
            0x81..=0x84 => {
                let digits = usize::from(first & 0x7f);
                let length = rest.get(..digits)?.iter().fold(0, |sum, b| sum << 8 | usize::from(*b));
                (length, 2 + digits)
            }
            _ => return None,
        };
        let content = self.bytes.get(header..header.checked_add(length)?)?;
        Some((Tag(tag), content, header))
    }

    /// Any element.
    pub(super) fn any(&mut self) -> Option<(Tag, &'a [u8])> {
        let (tag, content, header) = self.next()?;
        self.advance(header + content.len());
        Some((tag, content))
    }

    fn advance(&mut self, by: usize) {
        self.bytes = &self.bytes[by..];
        self.at += by;
    }

    /// The content of the next element, which must be a `tag`.
    pub(super) fn read(&mut self, tag: Tag) -> Option<&'a [u8]> {
        self.any().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    /// The next element's content if it is a `tag`.
    pub(super) fn read_if(&mut self, tag: Tag) -> Option<Option<&'a [u8]>> {
        if self.bytes.first() == Some(&tag.0) { self.read(tag).map(Some) } else { Some(None) }
    }

    pub(super) fn skip_if(&mut self, tag: Tag) -> Option<()> {
        self.read_if(tag).map(|_| ())
    }

    /// Inside the next element, which must be a `tag`.
    pub(super) fn enter(&mut self, tag: Tag) -> Option<Reader<'a>> {
        let (found, content, header) = self.next()?;
        let inner = Reader { bytes: content, at: self.at + header };
        self.advance(header + content.len());
        (found == tag).then_some(inner)
    }

    /// Inside the next element if it is a `tag`.
    pub(super) fn enter_if(&mut self, tag: Tag) -> Option<Option<Reader<'a>>> {
        if self.bytes.first() == Some(&tag.0) { self.enter(tag).map(Some) } else { Some(None) }
    }

    /// Where the next element, which must be a `tag`, is in the whole, header included.
    pub(super) fn whole(&mut self, tag: Tag) -> Option<Range<usize>> {
        let start = self.at;
        self.read(tag)?;
        Some(start..self.at)
    }

    /// A time, in seconds since 1970.
    pub(super) fn time(&mut self) -> Option<i64> {
        let (tag, text) = self.any()?;
        let digits = text.strip_suffix(b"Z")?;
        let (year, rest) = match tag {
            Tag::UTC_TIME => {
                let (year, rest) = digits.split_at_checked(2)?;
                // RFC 5280, section 4.1.2.5.1.
                let year = number(year)?;
                (if year >= 50 { 1900 + year } else { 2000 + year }, rest)
            }
            Tag::GENERAL_TIME => {
                let (year, rest) = digits.split_at_checked(4)?;
                (number(year)?, rest)
            }
            _ => return None,
        };
        let part = |at: usize| number(rest.get(at..at + 2)?).and_then(|n| u8::try_from(n).ok());
        if rest.len() != 10 {
            return None;
        }
        let date =
            Date::from_calendar_date(i32::from(year), Month::try_from(part(0)?).ok()?, part(2)?).ok()?;
        let time = Time::from_hms(part(4)?, part(6)?, part(8)?).ok()?;
        Some(PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp())
    }
}

fn number(digits: &[u8]) -> Option<u16> {
    digits
        .iter()
        .try_fold(0u16, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u16::from(digit - b'0')))
}

/// An object identifier in dots.
pub(super) fn oid_text(bytes: &[u8]) -> Option<String> {
    let mut arcs = Vec::new();
    let mut arc = 0u64;
    for byte in bytes {
        arc = arc.checked_mul(128)? | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if arcs.is_empty() {
                let first = (arc / 40).min(2);
                arcs.push(first);
                arcs.push(arc - first * 40);
            } else {
                arcs.push(arc);
            }
            arc = 0;
        }
    }
    Some(arcs.iter().map(u64::to_string).collect::<Vec<_>>().join("."))
}
