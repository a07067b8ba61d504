//! Matchers over strings, headers, queries and addresses: built once from configuration, pure to ask.

mod regex;
mod string;

pub use regex::{Regex, Substitution};
pub use string::{StringMatcher, StringPattern};

use ipnet::IpNet;

/// A header matcher (Envoy `config.route.v3.HeaderMatcher`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatcher {
    /// Name, lowercase. Pseudo-headers `:method`, `:path`, `:authority`, `:scheme` may be named.
    pub name: Box<str>,
    /// What the value must be.
    pub rule: HeaderRule,
    /// Turns the answer around.
    pub invert: bool,
    /// A missing header counts as the empty value.
    pub treat_missing_as_empty: bool,
}

/// What a header's value must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderRule {
    /// Present (`true`) or absent (`false`).
    Present(bool),
    /// An integer in `start..end`.
    Range {
        /// Inclusive.
        start: i64,
        /// Exclusive.
        end: i64,
    },
    /// The comma-joined values match.
    Text(StringMatcher),
}

/// A query parameter matcher (Envoy `config.route.v3.QueryParameterMatcher`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatcher {
    /// Parameter name, compared exactly.
    pub name: Box<str>,
    /// `None`: presence is enough.
    pub value: Option<StringMatcher>,
}

/// An address range.
pub type Cidr = IpNet;
