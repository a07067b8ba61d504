//! Query parameter matchers (Envoy `config.route.v3.QueryParameterMatcher`).

use super::StringMatcher;
use crate::headers::{parameters, percent_decoded};

/// A query parameter matcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatcher {
    /// Parameter name, compared exactly.
    pub name: Box<str>,
    /// `None`: presence is enough.
    pub value: Option<StringMatcher>,
}

impl QueryMatcher {
    /// Whether the query of `path` matches. The first parameter of the name decides.
    pub fn matches(&self, path: &str) -> bool {
        let Some((_, value)) = parameters(path).find(|(name, _)| *name == &*self.name) else { return false };
        self.value.as_ref().is_none_or(|matcher| matcher.matches(value.as_bytes()))
    }

    /// As [`Self::matches`], with names and values decoded: rate limits look at them so, routes do not.
    pub fn matches_decoded(&self, path: &str) -> bool {
        let name = self.name.as_bytes();
        let Some((_, value)) = parameters(path).find(|(key, _)| *percent_decoded(key) == *name) else {
            return false;
        };
        self.value.as_ref().is_none_or(|matcher| matcher.matches(&percent_decoded(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::StringPattern;

    // As Envoy 1.40 answers.
    #[test]
    fn the_first_parameter_decides_undecoded() {
        let matcher = |value: Option<&str>| QueryMatcher {
            name: "f".into(),
            value: value
                .map(|text| StringMatcher { pattern: StringPattern::Exact(text.into()), ignore_case: false }),
        };
        for (path, value, want) in [
            ("/q?f=1", Some("1"), true),
            ("/q?f=2&f=1", Some("1"), false),
            ("/q?f=1&f=2", Some("1"), true),
            ("/q?a&f=1", Some("1"), true),
            ("/q?f=b%20c", Some("b c"), false),
            ("/q?f=b%20c", Some("b%20c"), true),
            ("/q?f", Some(""), true),
            ("/q?f", None, true),
            ("/q?f=", None, true),
            ("/q?ff=1", None, false),
            ("/q", None, false),
            ("/q?", None, false),
        ] {
            assert_eq!(matcher(value).matches(path), want, "{path} {value:?}");
        }
    }
}
