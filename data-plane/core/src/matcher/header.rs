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
    /// Text. Of a repeated header, one value must match: Envoy 1.40 does not join them any more.
    Text(StringMatcher),
}

impl HeaderMatcher {
    /// Whether a request matches.
    pub fn matches(&self, head: &RequestHead) -> bool {
        let name: &str = &self.name;
        match head.pseudo(name.as_bytes()) {
            Some(value) => {
                self.matches_values(Some(value.as_bytes()).filter(|value| !value.is_empty()).into_iter())
            }
            None => self.matches_list(&head.headers),
        }
    }

    /// Whether a response matches.
    pub fn matches_response(&self, head: &ResponseHead) -> bool {
        if &*self.name == ":status" {
            let mut status = itoa::Buffer::new();
            return self.matches_values(std::iter::once(status.format(head.status).as_bytes()));
        }
        self.matches_list(&head.headers)
    }

    /// Whether a plain list of headers, such as trailers, matches.
    pub fn matches_list(&self, headers: &HeaderList) -> bool {
        self.matches_values(headers.get_all(self.name.as_bytes()))
    }

    /// Whether the values of the header match; none is a missing header.
    fn matches_values<'a>(&self, values: impl Iterator<Item = &'a [u8]>) -> bool {
        let mut values = values.peekable();
        let missing = values.peek().is_none();
        if let HeaderRule::Present(present) = self.rule {
            return ((!missing || self.treat_missing_as_empty) == present) != self.invert;
        }
        if missing {
            // Envoy: what asks for a value never holds without one, inverted or not.
            return self.treat_missing_as_empty && self.rule.holds(b"") != self.invert;
        }
        values.any(|value| self.rule.holds(value)) != self.invert
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

/// A decimal integer that takes all of `value`.
fn integer(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value.trim_ascii()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::{Scheme, Version};
    use crate::matcher::StringPattern;

    fn request(headers: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead {
            method: "GET".into(),
            path: "/p?q".into(),
            authority: "host".into(),
            scheme: Scheme::Http,
            version: Version::Http11,
            headers: HeaderList::default(),
        };
        for (name, value) in headers {
            head.headers.append(name.as_bytes(), value.as_bytes());
        }
        head
    }

    fn exact(text: &str) -> HeaderRule {
        HeaderRule::Text(StringMatcher { pattern: StringPattern::Exact(text.into()), ignore_case: false })
    }

    /// Rule, inverted, missing as empty.
    fn matches(rule: HeaderRule, invert: bool, treat_missing_as_empty: bool, values: &[&str]) -> bool {
        let headers: Vec<_> = values.iter().map(|value| ("X-N", *value)).collect();
        HeaderMatcher { name: "x-n".into(), rule, invert, treat_missing_as_empty }.matches(&request(&headers))
    }

    #[test]
    fn presence_follows_envoys_table() {
        let present = |present, invert, empty, values: &[&str]| {
            matches(HeaderRule::Present(present), invert, empty, values)
        };
        assert!(present(true, false, false, &["x"]));
        assert!(!present(true, false, false, &[]));
        assert!(present(true, false, true, &[]), "missing counts as empty, and empty is present");
        assert!(present(false, false, false, &[]));
        assert!(!present(false, false, false, &["x"]));
        assert!(!present(false, false, true, &[]));
        assert!(present(true, true, false, &[]));
        assert!(present(false, true, true, &[]));
        assert!(present(false, true, true, &["1"]));
    }

    #[test]
    fn a_missing_header_satisfies_no_value_rule_even_inverted() {
        assert!(!matches(exact("a"), false, false, &[]));
        assert!(!matches(exact("a"), true, false, &[]));
        assert!(matches(exact("a"), true, true, &[]));
        assert!(matches(exact(""), false, true, &[]));
        assert!(!matches(exact(""), false, false, &[]));
    }

    #[test]
    fn of_a_repeated_header_one_value_must_match() {
        assert!(matches(exact("a"), false, false, &["b", "a"]));
        assert!(!matches(exact("a,b"), false, false, &["a", "b"]));
        assert!(!matches(exact("a"), true, false, &["b", "a"]));
        assert!(matches(exact("a"), true, false, &["b", "c"]));
    }

    #[test]
    fn a_range_takes_integers_and_excludes_its_end() {
        let range = HeaderRule::Range { start: -5, end: 10 };
        for (value, want) in [
            ("5", true),
            ("-5", true),
            ("-6", false),
            ("10", false),
            ("+5", true),
            ("5x", false),
            ("", false),
            ("0x5", false),
            ("99999999999999999999", false),
        ] {
            assert_eq!(matches(range.clone(), false, false, &[value]), want, "{value:?}");
        }
    }

    #[test]
    fn pseudo_headers_may_be_named() {
        for (name, value) in [
            (":method", "GET"),
            (":path", "/p?q"),
            (":authority", "host"),
            ("host", "host"),
            (":scheme", "http"),
        ] {
            let matcher = HeaderMatcher {
                name: name.into(),
                rule: exact(value),
                invert: false,
                treat_missing_as_empty: false,
            };
            assert!(matcher.matches(&request(&[])), "{name}");
        }
        let status = HeaderMatcher {
            name: ":status".into(),
            rule: exact("204"),
            invert: false,
            treat_missing_as_empty: false,
        };
        assert!(status.matches_response(&ResponseHead::new(204)));
        assert!(!status.matches_response(&ResponseHead::new(200)));
    }
}
