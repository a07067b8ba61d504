//! JSON text to the marked tree (RFC 8259), with places.
//!
//! JSON is nearly YAML, but YAML readers refuse surrogate pairs (`\ud83d\ude00`) and are three times slower.

use std::borrow::Cow;

use super::positions::Place;
use super::tree::{Data, MAX_DEPTH, NodeId, Style, SyntaxError, Tree};

/// Reads a text that is one JSON value.
pub(crate) fn read(text: &str) -> Result<Tree<'_>, SyntaxError> {
    let mut reader = Reader { text, at: 0, line: 1, column: 1, counted: 0, tree: Tree::default() };
    let root = reader.value(0)?;
    reader.space();
    if reader.at < text.len() {
        return Err(reader.error("has more after the end of the JSON value"));
    }
    reader.tree.documents.push(root);
    Ok(reader.tree)
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    line: u32,
    /// Column of the byte `counted`: columns are counted in characters, each of them once.
    column: u32,
    counted: usize,
    tree: Tree<'t>,
}

impl<'t> Reader<'t> {
    fn value(&mut self, depth: usize) -> Result<NodeId, SyntaxError> {
        self.space();
        let place = self.place();
        match self.peek() {
            Some(b'{' | b'[') if depth >= MAX_DEPTH => {
                Err(self.error(&format!("is nested deeper than {MAX_DEPTH} levels")))
            }
            Some(b'{') => self.object(place, depth),
            Some(b'[') => self.array(place, depth),
            Some(b'"') => {
                let string = self.string()?;
                Ok(self.tree.add(Data::Scalar(string, Style::Quoted), place))
            }
            Some(_) => {
                let word = self.literal()?;
                Ok(self.tree.add(Data::Scalar(Cow::Borrowed(word), Style::Json), place))
            }
            None => Err(self.error("is not JSON: ends where a value is expected")),
        }
    }

    fn object(&mut self, place: Place, depth: usize) -> Result<NodeId, SyntaxError> {
        let id = self.tree.add(Data::Map(Vec::new()), place);
        let mut entries = Vec::new();
        self.at += 1;
        self.space();
        if !self.take(b'}') {
            loop {
                self.space();
                let key_place = self.place();
                if self.peek() != Some(b'"') {
                    return Err(self.error("is not JSON: expected a key in double quotes"));
                }
                let key = self.string()?;
                let key = self.tree.add(Data::Scalar(key, Style::Quoted), key_place);
                self.space();
                if !self.take(b':') {
                    return Err(self.error("is not JSON: expected `:`"));
                }
                entries.push((key, self.value(depth + 1)?));
                self.space();
                if self.take(b'}') {
                    break;
                }
                if !self.take(b',') {
                    return Err(self.error("is not JSON: expected `,` or `}`"));
                }
            }
        }
        self.tree.get_mut(id).data = Data::Map(entries);
        Ok(id)
    }

    fn array(&mut self, place: Place, depth: usize) -> Result<NodeId, SyntaxError> {
        let id = self.tree.add(Data::List(Vec::new()), place);
        let mut items = Vec::new();
        self.at += 1;
        self.space();
        if !self.take(b']') {
            loop {
                items.push(self.value(depth + 1)?);
                self.space();
                if self.take(b']') {
                    break;
                }
                if !self.take(b',') {
                    return Err(self.error("is not JSON: expected `,` or `]`"));
                }
            }
        }
        self.tree.get_mut(id).data = Data::List(items);
        Ok(id)
    }

    /// A string; borrowed when it has no escape.
    fn string(&mut self) -> Result<Cow<'t, str>, SyntaxError> {
        self.at += 1;
        let mut owned: Option<String> = None;
        loop {
            let start = self.at;
            let rest = &self.text.as_bytes()[start..];
            let Some(len) = rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20)) else {
                self.at = self.text.len();
                return Err(self.error("is not JSON: a string does not end"));
            };
            let run = &self.text[start..start + len];
            self.at += len;
            match rest[len] {
                b'"' => {
                    self.at += 1;
                    return Ok(match owned {
                        None => Cow::Borrowed(run),
                        Some(mut owned) => {
                            owned.push_str(run);
                            Cow::Owned(owned)
                        }
                    });
                }
                b'\\' => {
                    let owned = owned.get_or_insert_default();
                    owned.push_str(run);
                    let c = self.escape()?;
                    owned.push(c);
                }
                _ => return Err(self.error("is not JSON: a control character in a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, SyntaxError> {
        let c = match self.text.as_bytes().get(self.at + 1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            _ => return Err(self.error("is not JSON: no such escape")),
        };
        self.at += 2;
        Ok(c)
    }

    /// `\uXXXX`, or two of them that make a surrogate pair.
    fn unicode(&mut self) -> Result<char, SyntaxError> {
        let Some(first) = self.hex4(self.at) else {
            return Err(self.error("is not JSON: `\\u` wants four hexadecimal digits"));
        };
        let (code, len) = match first {
            0xd800..0xdc00 => match self.hex4(self.at + 6) {
                Some(second @ 0xdc00..0xe000) => (0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00), 12),
                _ => return Err(self.error("is not JSON: half of a surrogate pair")),
            },
            code => (code, 6),
        };
        let Some(c) = char::from_u32(code) else {
            return Err(self.error("is not JSON: half of a surrogate pair"));
        };
        self.at += len;
        Ok(c)
    }

    /// The code of the `\uXXXX` at a place.
    fn hex4(&self, at: usize) -> Option<u32> {
        let escape = self.text.as_bytes().get(at..at + 6)?;
        if !escape.starts_with(b"\\u") || !escape[2..].iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        u32::from_str_radix(&self.text[at + 2..at + 6], 16).ok()
    }

    /// `true`, `false`, `null` or a number.
    fn literal(&mut self) -> Result<&'t str, SyntaxError> {
        let rest = &self.text[self.at..];
        let len = rest
            .bytes()
            .position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.')))
            .unwrap_or(rest.len());
        let word = &rest[..len];
        if !matches!(word, "true" | "false" | "null") && !is_number(word) {
            return Err(self.error("is not JSON: expected a value"));
        }
        self.at += len;
        Ok(word)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn space(&mut self) {
        while let Some(byte @ (b' ' | b'\t' | b'\n' | b'\r')) = self.peek() {
            self.at += 1;
            if byte == b'\n' {
                self.line += 1;
                (self.column, self.counted) = (1, self.at);
            }
        }
    }

    fn place(&mut self) -> Place {
        self.column += self.text[self.counted..self.at].chars().count() as u32;
        self.counted = self.at;
        Place { line: self.line, column: self.column }
    }

    fn error(&mut self, message: &str) -> SyntaxError {
        SyntaxError { message: message.to_owned(), place: self.place() }
    }
}

/// The number grammar of RFC 8259 section 6.
fn is_number(word: &str) -> bool {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = match word.split_once(['e', 'E']) {
        Some((m, e)) => (m, Some(e)),
        None => (word, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((w, f)) => (w, Some(f)),
        None => (mantissa, None),
    };
    let whole = whole.strip_prefix('-').unwrap_or(whole);
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|e| digits(e.strip_prefix(['+', '-']).unwrap_or(e)))
}
