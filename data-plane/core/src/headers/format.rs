//! `%COMMAND(ARGS):LENGTH%` text: compiled once, rendered from what is known of a stream.
//!
//! Used by header edits, access logs and local replies. The commands and their results are Envoy's
//! (`config/observability/access_log/usage`).

use std::fmt;

/// Compiled text; equal when its source is.
#[derive(Clone, Debug)]
pub struct Format {
    source: Box<str>,
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Format {}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}
