//! Header matchers (Envoy `config.route.v3.HeaderMatcher`).

use super::StringMatcher;
use crate::headers::{HeaderList, RequestHead, ResponseHead};

/// A header matcher.
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

impl HeaderMatcher {
    /// Whether a request matches.
    pub fn matches(&self, head: &RequestHead) -> bool {
        self.matches_value(head.header(self.name.as_bytes()).as_deref())
    }

    /// Whether a response matches.
    pub fn matches_response(&self, head: &ResponseHead) -> bool {
        self.matches_value(head.header(self.name.as_bytes()).as_deref())
    }

    /// Whether a plain list of headers, such as trailers, matches.
    pub fn matches_list(&self, headers: &HeaderList) -> bool {
        self.matches_value(headers.joined(self.name.as_bytes()).as_deref())
    }

    /// Whether a value matches; `None` is a missing header.
    fn matches_value(&self, value: Option<&[u8]>) -> bool {
        let value = match (value, &self.rule) {
            (value, HeaderRule::Present(present)) => {
                let there = value.is_some() || self.treat_missing_as_empty;
                return (there == *present) != self.invert;
            }
            (Some(value), _) => value,
            (None, _) if self.treat_missing_as_empty => b"",
            // Envoy: what asks for a value never holds without one, inverted or not.
            (None, _) => return false,
        };
        self.rule.holds(value) != self.invert
    }
}

impl HeaderRule {
    fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Present(present) => *present,
            Self::Range { start, end } => {
                integer(value).is_some_and(|number| (*start..*end).contains(&number))
            }
            Self::Text(matcher) => matcher.matches(value),
        }
    }
}

/// A decimal integer that takes all of `value`, as `absl::SimpleAtoi` reads it.
fn integer(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value.trim_ascii()).ok()?.parse().ok()
}
