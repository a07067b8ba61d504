//! Regular expressions as Envoy uses them: RE2 syntax, the whole input must match.

/// A compiled expression; equal when its source is.
#[derive(Clone, Debug)]
pub struct Regex {
    source: Box<str>,
    whole: regex::bytes::Regex,
    part: regex::bytes::Regex,
}

impl Regex {
    /// Compiles `source`.
    ///
    /// # Errors
    /// The syntax error in words.
    pub fn new(source: &str) -> Result<Self, regex::Error> {
        let part = regex::bytes::RegexBuilder::new(source).size_limit(1 << 20).build()?;
        let whole =
            regex::bytes::RegexBuilder::new(&format!(r"\A(?:{source})\z")).size_limit(1 << 20).build()?;
        Ok(Self { source: source.into(), whole, part })
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
        self.part.replace_all(value, substitution.0.as_bytes()).into_owned()
    }

    /// Number of capture groups, without the whole.
    pub fn groups(&self) -> usize {
        self.part.captures_len() - 1
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Regex {}

/// A rewrite text, translated from RE2's `\N` to this engine's `${N}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Substitution(Box<str>);
