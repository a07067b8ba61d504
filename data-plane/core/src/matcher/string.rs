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
            StringPattern::Contains(want) => contains(value, want.as_bytes(), fold),
            StringPattern::Regex(regex) => regex.is_full_match(value),
        }
    }
}

fn contains(value: &[u8], want: &[u8], fold: bool) -> bool {
    if !fold {
        return memchr::memmem::find(value, want).is_some();
    }
    let Some(first) = want.first() else { return true };
    memchr::memchr2_iter(first.to_ascii_lowercase(), first.to_ascii_uppercase(), value)
        .any(|at| value[at..].get(..want.len()).is_some_and(|part| part.eq_ignore_ascii_case(want)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_matches_as_written_and_without_case_where_asked() {
        use StringPattern::{Contains, Exact, Prefix, Suffix};
        for (pattern, value, exactly, folded) in [
            (Exact("Ab".into()), "Ab", true, true),
            (Exact("Ab".into()), "aB", false, true),
            (Exact("".into()), "", true, true),
            (Prefix("Ab".into()), "Abc", true, true),
            (Prefix("Ab".into()), "abc", false, true),
            (Prefix("Abc".into()), "Ab", false, false),
            (Suffix("Bc".into()), "aBc", true, true),
            (Suffix("Bc".into()), "abc", false, true),
            (Suffix("aBc".into()), "Bc", false, false),
            (Contains("Bc".into()), "aBcd", true, true),
            (Contains("Bc".into()), "aabcd", false, true),
            (Contains("bc".into()), "ab", false, false),
            (Contains("".into()), "", true, true),
        ] {
            for (ignore_case, want) in [(false, exactly), (true, folded)] {
                let matcher = StringMatcher { pattern: pattern.clone(), ignore_case };
                assert_eq!(matcher.matches(value.as_bytes()), want, "{matcher:?} {value:?}");
            }
        }
    }
}
