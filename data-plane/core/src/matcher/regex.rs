//! Regular expressions as Envoy uses them: RE2 syntax, the whole input must match.

use regex_automata::util::syntax;
use std::sync::OnceLock;

/// Most bytes a compiled expression may take; RE2's program size limit in spirit.
const SIZE_LIMIT: usize = 1 << 20;

/// A compiled expression; equal when its source is.
#[derive(Clone, Debug)]
pub struct Regex {
    source: Box<str>,
    whole: regex::bytes::Regex,
    /// For replacing; most expressions only match.
    part: OnceLock<regex::bytes::Regex>,
    groups: usize,
}

impl Regex {
    /// Compiles `source`.
    ///
    /// # Errors
    /// The syntax error in words, or that the expression is too large.
    pub fn new(source: &str) -> Result<Self, regex::Error> {
        // The source is parsed on its own first: in `\A(?:` .. `)\z` an unbalanced `)` could change its meaning.
        let options = syntax::Config::new().utf8(false);
        let groups = match syntax::parse_with(source, &options) {
            Ok(parsed) => parsed.properties().explicit_captures_len(),
            Err(_) => build(source, SIZE_LIMIT)?.captures_len() - 1,
        };
        let whole = build(&format!(r"\A(?:{source})\z"), SIZE_LIMIT)?;
        Ok(Self { source: source.into(), whole, part: OnceLock::new(), groups })
    }

    /// The expression as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether all of `value` matches.
    pub fn is_full_match(&self, value: &[u8]) -> bool {
        self.whole.is_match(value)
    }

    /// Replaces every match in `value`; `\1` in `substitution` names a group (RE2 rewrite syntax).
    pub fn replace_all(&self, value: &[u8], substitution: &Substitution) -> Vec<u8> {
        let part = self.part.get_or_init(|| {
            build(&self.source, 4 * SIZE_LIMIT).expect(
                "INVARIANT: the source compiled within a quarter of this limit with anchors around it",
            )
        });
        part.replace_all(value, substitution.template.as_bytes()).into_owned()
    }

    /// Number of capture groups, without the whole.
    pub fn groups(&self) -> usize {
        self.groups
    }
}

fn build(source: &str, limit: usize) -> Result<regex::bytes::Regex, regex::Error> {
    regex::bytes::RegexBuilder::new(source).size_limit(limit).dfa_size_limit(SIZE_LIMIT).build()
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Regex {}

/// A rewrite text, translated from RE2's `\N` to this engine's `${N}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Substitution {
    source: Box<str>,
    template: Box<str>,
}

/// Why a rewrite text is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubstitutionError {
    /// A backslash that names nothing.
    #[error("`\\` must be followed by a digit or `\\`")]
    Escape,
    /// A group the expression has not.
    #[error("the expression has {groups} groups, and `\\{named}` names another")]
    Group {
        /// Groups of the expression.
        groups: usize,
        /// The group named.
        named: usize,
    },
}

impl Substitution {
    /// Translates a rewrite text for `regex`.
    ///
    /// # Errors
    /// A backslash that is not followed by a digit or a backslash, or a group that `regex` has not.
    pub fn new(source: &str, regex: &Regex) -> Result<Self, SubstitutionError> {
        let mut template = String::with_capacity(source.len() + 8);
        let mut chars = source.chars();
        while let Some(c) = chars.next() {
            match c {
                '$' => template.push_str("$$"),
                '\\' => match chars.next() {
                    Some('\\') => template.push('\\'),
                    Some(digit @ '0'..='9') => {
                        let named = digit as usize - '0' as usize;
                        if named > regex.groups() {
                            return Err(SubstitutionError::Group { groups: regex.groups(), named });
                        }
                        template.push_str("${");
                        template.push(digit);
                        template.push('}');
                    }
                    _ => return Err(SubstitutionError::Escape),
                },
                c => template.push(c),
            }
        }
        Ok(Self { source: source.into(), template: template.into() })
    }

    /// The text as written.
    pub fn source(&self) -> &str {
        &self.source
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite(regex: &str, substitution: &str, value: &str) -> String {
        let regex = Regex::new(regex).unwrap();
        let substitution = Substitution::new(substitution, &regex).unwrap();
        String::from_utf8(regex.replace_all(value.as_bytes(), &substitution)).unwrap()
    }

    #[test]
    fn the_whole_value_must_match() {
        let regex = Regex::new("/a|/ab").unwrap();
        assert!(
            regex.is_full_match(b"/ab"),
            "a later alternative may match where an earlier one stops short"
        );
        assert!(!regex.is_full_match(b"/abc"));
        assert!(!regex.is_full_match(b"x/a"));
    }

    #[test]
    fn an_unbalanced_group_cannot_escape_the_anchors() {
        assert!(Regex::new("a)|(b").is_err());
    }

    #[test]
    fn substitutions_follow_re2() {
        assert_eq!(
            rewrite("^/service/([^/]+)(/.*)$", r"\2/instance/\1", "/service/foo/v1/api"),
            "/v1/api/instance/foo"
        );
        assert_eq!(rewrite("one", "two", "/xxx/one/yyy/one/zzz"), "/xxx/two/yyy/two/zzz");
        assert_eq!(rewrite("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb"), "/aaa/yyy/bbb");
        assert_eq!(rewrite("a", r"\\$1${0}", "a"), r"\$1${0}", "`$` is plain text in RE2");
        assert_eq!(rewrite("b+", r"[\0]", "abbc"), "a[bb]c");
        assert_eq!(rewrite("(a)", r"\10", "a"), "a0", "only one digit names a group");
    }

    #[test]
    fn bad_substitutions_are_refused() {
        let regex = Regex::new("(a)").unwrap();
        assert_eq!(Substitution::new(r"\x", &regex), Err(SubstitutionError::Escape));
        assert_eq!(Substitution::new("a\\", &regex), Err(SubstitutionError::Escape));
        assert_eq!(Substitution::new(r"\2", &regex), Err(SubstitutionError::Group { groups: 1, named: 2 }));
    }

    #[test]
    fn oversized_expressions_are_refused() {
        assert!(Regex::new("((a{1000}){1000}){1000}").is_err());
    }
}
