//! Formats and records.
