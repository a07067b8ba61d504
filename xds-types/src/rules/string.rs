//! Constraints on strings.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use regex::Regex;

use super::constraint::check_count;

/// A form that a string must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Hostname,
    Ip,
    Ipv4,
    Ipv6,
    /// A host name or an IP address.
    Address,
    /// Absolute.
    Uri,
    /// Absolute or relative.
    UriReference,
    HeaderName,
    HeaderValue,
    /// Header names and values when not strict: no line breaks, no zero byte.
    HeaderText,
}

/// What a string must be.
#[derive(Clone, Debug, Default)]
pub(super) struct StringRule {
    pub(super) equal: Option<String>,
    pub(super) min_chars: Option<u64>,
    pub(super) max_chars: Option<u64>,
    pub(super) min_bytes: Option<u64>,
    pub(super) max_bytes: Option<u64>,
    pub(super) pattern: Option<Regex>,
    pub(super) prefix: Option<String>,
    pub(super) suffix: Option<String>,
    pub(super) contains: Option<String>,
    pub(super) not_contains: Option<String>,
    pub(super) among: Vec<String>,
    pub(super) not_among: Vec<String>,
    pub(super) form: Option<Form>,
}

impl StringRule {
    /// What is wrong with a string.
    pub(super) fn check(&self, text: &str) -> Option<String> {
        if let Some(wanted) = self.equal.as_ref().filter(|wanted| *wanted != text) {
            return Some(format!("must be {wanted:?}"));
        }
        if !self.among.is_empty() && !self.among.iter().any(|a| a == text) {
            return Some(format!("must be one of {}", self.among.join(", ")));
        }
        if self.not_among.iter().any(|a| a == text) {
            return Some(format!("must not be {text:?}"));
        }
        let (chars, bytes) = (text.chars().count() as u64, text.len() as u64);
        check_count(chars, self.min_chars, self.max_chars, "character", "be")
            .or_else(|| check_count(bytes, self.min_bytes, self.max_bytes, "byte", "be"))
            .or_else(|| self.check_parts(text))
            .or_else(|| self.form.and_then(|form| form.check(text)))
    }

    fn check_parts(&self, text: &str) -> Option<String> {
        if let Some(prefix) = self.prefix.as_deref().filter(|p| !text.starts_with(p)) {
            return Some(format!("must begin with {prefix:?}"));
        }
        if let Some(suffix) = self.suffix.as_deref().filter(|s| !text.ends_with(s)) {
            return Some(format!("must end with {suffix:?}"));
        }
        if let Some(part) = self.contains.as_deref().filter(|p| !text.contains(p)) {
            return Some(format!("must contain {part:?}"));
        }
        if let Some(part) = self.not_contains.as_deref().filter(|p| text.contains(p)) {
            return Some(format!("must not contain {part:?}"));
        }
        let pattern = self.pattern.as_ref().filter(|p| !p.is_match(text))?;
        Some(format!("must match the regular expression `{pattern}`"))
    }
}

impl Form {
    fn check(self, text: &str) -> Option<String> {
        let (holds, wanted) = match self {
            Self::Hostname => (is_hostname(text), "must be a host name"),
            Self::Ip => (text.parse::<IpAddr>().is_ok(), "must be an IP address"),
            Self::Ipv4 => (text.parse::<Ipv4Addr>().is_ok(), "must be an IPv4 address"),
            Self::Ipv6 => (text.parse::<Ipv6Addr>().is_ok(), "must be an IPv6 address"),
            Self::Address => {
                (is_hostname(text) || text.parse::<IpAddr>().is_ok(), "must be a host name or an IP address")
            }
            Self::Uri => (is_uri(text), "must be an absolute URI"),
            Self::UriReference => (is_uri_text(text), "must be a URI"),
            Self::HeaderName => (is_header_name(text), "must be a header name"),
            Self::HeaderValue => (
                !text.bytes().any(|b| b != b'\t' && (b < 0x20 || b == 0x7f)),
                "must hold no control character",
            ),
            Self::HeaderText => {
                (!text.contains(['\0', '\n', '\r']), "must hold no line break and no zero byte")
            }
        };
        (!holds).then(|| wanted.to_owned())
    }
}

/// The token of protoc-gen-validate: that of RFC 9110 5.6.2 and the comma, with a leading `:` allowed.
fn is_header_name(text: &str) -> bool {
    let name = text.strip_prefix(':').unwrap_or(text);
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+,-.^_|~`".contains(&b))
}

/// RFC 1034 3.5, as protoc-gen-validate checks it.
fn is_hostname(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn is_uri(text: &str) -> bool {
    let Some((scheme, _)) = text.split_once(':') else { return false };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        && is_uri_text(text)
}

/// The characters of RFC 3986, with whole percent escapes.
fn is_uri_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().enumerate().all(|(i, &b)| match b {
        b'%' => bytes.get(i + 1..i + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)),
        _ => b.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=".contains(&b),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_takes_its_own_and_nothing_else() {
        let cases: &[(Form, &[&str], &[&str])] = &[
            (Form::Hostname, &["a", "a-b.example.", "1.2"], &["", "-a", "a..b", "a_b", "é"]),
            (Form::Ip, &["::1", "10.0.0.1"], &["", "10.0.0", "a"]),
            (Form::Ipv4, &["10.0.0.1"], &["::1"]),
            (Form::Ipv6, &["::1"], &["10.0.0.1"]),
            (Form::Address, &["a.b", "::1"], &["a b"]),
            (Form::Uri, &["http://a/b?c#d", "urn:x", "a://%20"], &["", "/a", "1a:b", "a: b", "a:%2"]),
            (Form::UriReference, &["/a", "http://a", ""], &["a b", "<"]),
            (Form::HeaderName, &["x-a", ":path", "a,b"], &["", ":", "a b", "a:"]),
            (Form::HeaderValue, &["", "a\tb", "é"], &["a\n", "\u{7f}"]),
            (Form::HeaderText, &["", "\u{1}"], &["a\rb", "\0"]),
        ];
        for (form, good, bad) in cases {
            good.iter().for_each(|text| assert_eq!(form.check(text), None, "{form:?} takes {text:?}"));
            bad.iter().for_each(|text| assert!(form.check(text).is_some(), "{form:?} refuses {text:?}"));
        }
    }

    #[test]
    fn lengths_count_characters_or_bytes() {
        let rule = StringRule { min_chars: Some(1), max_chars: Some(3), ..StringRule::default() };
        assert_eq!(rule.check("").as_deref(), Some("must be at least 1 character"));
        assert_eq!(rule.check("éèê"), None);
        assert_eq!(rule.check("abcd").as_deref(), Some("must be at most 3 characters, not 4"));
        let rule = StringRule { max_bytes: Some(3), ..StringRule::default() };
        assert_eq!(rule.check("éè").as_deref(), Some("must be at most 3 bytes, not 4"));
    }
}
