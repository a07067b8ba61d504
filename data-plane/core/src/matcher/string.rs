//! String matchers (Envoy `type.matcher.v3.StringMatcher`).

use super::Regex;

/// A string matcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StringMatcher {
    /// The form.
    pub pattern: StringPattern,
    /// ASCII case is ignored; has no effect on regexes.
    pub ignore_case: bool,
}

/// The form of a string matcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringPattern {
    /// Equal.
    Exact(Box<str>),
    /// Starts with.
    Prefix(Box<str>),
    /// Ends with.
    Suffix(Box<str>),
    /// Contains.
    Contains(Box<str>),
    /// Matches in full.
    Regex(Regex),
}

impl StringMatcher {
    /// Whether `value` matches.
    pub fn matches(&self, value: &[u8]) -> bool {
        let fold = self.ignore_case;
        let same = |a: &[u8], b: &[u8]| if fold { a.eq_ignore_ascii_case(b) } else { a == b };
        match &self.pattern {
            StringPattern::Exact(want) => same(value, want.as_bytes()),
            StringPattern::Prefix(want) => {
                value.get(..want.len()).is_some_and(|head| same(head, want.as_bytes()))
            }
            StringPattern::Suffix(want) => {
                value.len().checked_sub(want.len()).is_some_and(|at| same(&value[at..], want.as_bytes()))
            }
            StringPattern::Contains(want) => {
                want.is_empty() || value.windows(want.len()).any(|part| same(part, want.as_bytes()))
            }
            StringPattern::Regex(regex) => regex.is_full_match(value),
        }
    }
}
