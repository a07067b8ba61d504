//! Filters that say something of a stream.

use crate::headers::Fields;
use crate::matcher::{Regex, Substitution};

/// `envoy.filters.http.header_to_metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderToMetadata {
    /// Of requests.
    pub request: Vec<HeaderRule>,
    /// Of responses.
    pub response: Vec<HeaderRule>,
}

/// What becomes of one header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderRule {
    /// Where the value is.
    pub source: HeaderSource,
    /// When it is there.
    pub present: Option<MetadataValue>,
    /// When it is not; with a value of its own.
    pub missing: Option<MetadataValue>,
    /// Remove the header.
    pub remove: bool,
}

/// Where a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderSource {
    /// A header; lowercase.
    Header(Box<str>),
    /// A cookie.
    Cookie(Box<str>),
}

/// A value to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataValue {
    /// Under which namespace.
    pub namespace: Box<str>,
    /// And key.
    pub key: Box<str>,
    /// In place of the header's value; may be empty.
    pub value: Box<str>,
    /// Rewrites the header's value.
    pub rewrite: Option<(Regex, Substitution)>,
    /// A number, not a text.
    pub number: bool,
    /// Is base64.
    pub base64: bool,
}

/// One entry of `envoy.filters.http.set_metadata`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetMetadata {
    /// Under which namespace.
    pub namespace: Box<str>,
    /// Merge into what is there; else it stays.
    pub overwrite: bool,
    /// What.
    pub value: Fields,
}
