//! `%COMMAND(ARGS):LENGTH%` text: compiled once, rendered from what is known of a stream.
//!
//! Used by header edits, access logs and local replies. The commands and their results are Envoy's
//! (`configuration/advanced/substitution_formatter`). A command whose facts this proxy does not keep is refused
//! when it is compiled, never rendered as if it had no value; what only exists with TLS renders as missing.

mod command;
mod grpc;
mod time;
mod tls;

#[cfg(test)]
mod tests;

pub(crate) use grpc::{grpc_status, is_grpc};

use super::Record;
use command::{Command, Kind};
use std::fmt;

/// Compiled text; equal when its source is.
#[derive(Clone, Debug)]
pub struct Format {
    source: Box<str>,
    missing: Missing,
    pieces: Box<[Piece]>,
}

/// What a command without a value becomes inside a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// `-`: access logs and local replies.
    Dash,
    /// Nothing: header values, and formats with `omit_empty_values`.
    Empty,
}

/// Why a format does not compile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {message}")]
pub struct FormatError {
    /// Byte column in the format, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

#[derive(Clone, Debug)]
enum Piece {
    Literal(Box<str>),
    Command {
        command: Command,
        /// Most bytes of the result.
        limit: Option<usize>,
    },
}

impl Format {
    /// Compiles `source`.
    ///
    /// # Errors
    /// An unknown command, a bad argument or an unbalanced `%`, with its column.
    pub fn compile(source: &str, missing: Missing) -> Result<Self, FormatError> {
        Ok(Self { source: source.into(), missing, pieces: parse(source)?.into() })
    }

    /// The text as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text itself, when it has no commands.
    pub fn as_literal(&self) -> Option<&str> {
        match &*self.pieces {
            [] => Some(""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether it is one command and nothing else.
    pub fn is_single_command(&self) -> bool {
        matches!(&*self.pieces, [Piece::Command { .. }])
    }

    /// Appends the text for `record`.
    pub fn render(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Command { command, limit } => {
                    if command.render(*limit, record, out) == Kind::Missing && self.missing == Missing::Dash {
                        out.push(b'-');
                    }
                }
            }
        }
    }

    /// Appends a JSON value: numbers stay numbers and a missing value is `null` if the format is a single
    /// command; all else is a string. Returns whether there was a value; nothing else is missing.
    pub fn render_json(&self, record: &Record<'_>, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let kind = match &*self.pieces {
            [Piece::Command { command, limit }] => match command.render(*limit, record, out) {
                // Half a value is none.
                Kind::Json if limit.is_some() => {
                    out.truncate(start);
                    command.render(None, record, out)
                }
                kind => kind,
            },
            _ => {
                self.render(record, out);
                Kind::Text
            }
        };
        match kind {
            Kind::Number | Kind::Json => {}
            Kind::Missing => out.extend_from_slice(b"null"),
            Kind::Text => {
                let text = smallvec::SmallVec::<[u8; 128]>::from_slice(&out[start..]);
                out.truncate(start);
                write_json_string(&text, out);
            }
        }
        kind != Kind::Missing
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source && self.missing == other.missing
    }
}

impl Eq for Format {}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

/// Appends `text` as a JSON string. Bytes that are not UTF-8 become U+FFFD.
pub fn write_json_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for chunk in text.utf8_chunks() {
        let valid = chunk.valid().as_bytes();
        let mut written = 0;
        for (at, byte) in valid.iter().enumerate() {
            if !matches!(byte, b'"' | b'\\' | 0..=0x1f) {
                continue;
            }
            out.extend_from_slice(&valid[written..at]);
            written = at + 1;
            match byte {
                b'"' => out.extend_from_slice(b"\\\""),
                b'\\' => out.extend_from_slice(b"\\\\"),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                byte => {
                    const HEX: &[u8; 16] = b"0123456789abcdef";
                    out.extend_from_slice(b"\\u00");
                    out.push(HEX[usize::from(byte >> 4)]);
                    out.push(HEX[usize::from(byte & 15)]);
                }
            }
        }
        out.extend_from_slice(&valid[written..]);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    out.push(b'"');
}

/// Splits a format into literals and commands.
fn parse(source: &str) -> Result<Vec<Piece>, FormatError> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut at = 0;
    while let Some(percent) = memchr::memchr(b'%', &source.as_bytes()[at..]).map(|found| at + found) {
        literal.push_str(&source[at..percent]);
        if source[percent + 1..].starts_with('%') {
            literal.push('%');
            at = percent + 2;
            continue;
        }
        let (piece, end) = parse_command(source, percent)?;
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
        }
        pieces.push(piece);
        at = end;
    }
    literal.push_str(&source[at..]);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal.into()));
    }
    Ok(pieces)
}

/// Reads the command that begins with the `%` at `start`. Returns where it ends.
fn parse_command(source: &str, start: usize) -> Result<(Piece, usize), FormatError> {
    let fail = |at: usize, message: String| FormatError { column: at + 1, message };
    let rest = &source[start + 1..];
    let name_len = rest
        .find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
        .unwrap_or(rest.len());
    let (name, mut rest) = rest.split_at(name_len);
    let mut at = start + 1 + name_len;
    if name.is_empty() {
        return Err(fail(start, "`%` begins a command like `%REQ(X)%`; a plain percent sign is `%%`".into()));
    }
    let mut args = None;
    if let Some(inner) = rest.strip_prefix('(') {
        let Some(close) = inner.find(')') else {
            return Err(fail(at, format!("`(` of {name} is not closed")));
        };
        args = Some((&inner[..close], at + 1));
        rest = &inner[close + 1..];
        at += close + 2;
    }
    let mut limit = None;
    if let Some(digits) = rest.strip_prefix(':') {
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let Ok(number) = digits[..end].parse::<usize>() else {
            return Err(fail(at + 1, format!("`:` after {name} must be followed by a length")));
        };
        limit = Some((number, at + 1));
        rest = &digits[end..];
        at += 1 + end;
    }
    if !rest.starts_with('%') {
        return Err(fail(at, format!("{name} is not ended by `%`")));
    }
    let command = command::compile(name, args.map(|(text, _)| text), limit.is_some()).map_err(|error| {
        let at = match error.part {
            command::Part::Name => start + 1,
            command::Part::Args(offset) => args.map_or(start, |(_, at)| at) + offset,
            command::Part::Limit => limit.map_or(start, |(_, at)| at),
        };
        fail(at, error.message)
    })?;
    Ok((Piece::Command { command, limit: limit.map(|(number, _)| number) }, at + 1))
}
