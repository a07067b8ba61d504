//! Cleaning paths and hosts before routing, as Envoy's connection manager does.
//!
//! The path rules are those of Envoy 1.40, found by asking it: dot segments (also percent-encoded) resolved and
//! clamped at the root, unreserved characters decoded, unsafe ones encoded, backslashes turned.

use data_plane_core::config::{EscapedSlashes, PathNormalization, StripPort};
use data_plane_core::headers::RequestHead;

/// What became of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Normalized {
    /// Go on.
    Forward,
    /// Ask the client to use the new path.
    Redirect,
    /// Refuse the request.
    Reject,
}

/// Normalises `path` in place.
pub(super) fn path(path: &mut String, rules: PathNormalization) -> Normalized {
    // A fragment never reaches a server; one that does is an attempt to get around a rule on paths.
    if path.contains('#') {
        return Normalized::Reject;
    }
    let mut outcome = Normalized::Forward;
    let query_at = path.find('?').unwrap_or(path.len());
    if rules.escaped_slashes != EscapedSlashes::Keep
        && let Some(unescaped) = unescape_slashes(&path[..query_at])
    {
        match rules.escaped_slashes {
            EscapedSlashes::Reject => return Normalized::Reject,
            EscapedSlashes::UnescapeAndRedirect => outcome = Normalized::Redirect,
            EscapedSlashes::UnescapeAndForward | EscapedSlashes::Keep => {}
        }
        path.replace_range(..query_at, &unescaped);
    }
    if rules.normalize {
        let query_at = path.find('?').unwrap_or(path.len());
        match canonical(&path[..query_at]) {
            Some(canonical) if canonical != path[..query_at] => path.replace_range(..query_at, &canonical),
            Some(_) => {}
            None => return Normalized::Reject,
        }
    }
    if rules.merge_slashes {
        merge_slashes(path);
    }
    outcome
}

/// Cleans the host of a request. `port`: the listener's.
pub(super) fn host(head: &mut RequestHead, strip: StripPort, strip_dot: bool, port: u16) {
    if strip_dot && let Some(at) = host_end(&head.authority) {
        // The dot stands before the port, if there is one.
        if head.authority[..at].ends_with('.') {
            head.authority.remove(at - 1);
        }
    }
    let Some(at) = host_end(&head.authority) else { return };
    let Some(found) = head.authority[at..].strip_prefix(':') else { return };
    let strip = match strip {
        StripPort::No => false,
        StripPort::Any => found.bytes().all(|b| b.is_ascii_digit()),
        StripPort::Matching => found.parse() == Ok(port),
    };
    if strip {
        head.authority.truncate(at);
    }
}

/// Where the host ends and the port's colon begins; `None` when the host is empty.
fn host_end(authority: &str) -> Option<usize> {
    let end = match authority.strip_prefix('[') {
        // An IPv6 literal holds colons itself.
        Some(rest) => rest.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    (end > 0).then_some(end)
}

/// `%2F` and `%5C` decoded; `None` when there are none.
fn unescape_slashes(path: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = path;
    let mut found = false;
    while let Some(at) = rest.find('%') {
        let (before, tail) = rest.split_at(at);
        out.push_str(before);
        let slash = match tail.as_bytes().get(1..3) {
            Some([b'2', b'f' | b'F']) => Some('/'),
            Some([b'5', b'c' | b'C']) => Some('\\'),
            _ => None,
        };
        found |= slash.is_some();
        out.push(slash.unwrap_or('%'));
        rest = &tail[if slash.is_some() { 3 } else { 1 }..];
    }
    out.push_str(rest);
    found.then_some(out)
}

/// The canonical form of a path without query; `None` when it has none.
fn canonical(path: &str) -> Option<String> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(path.len());
    let mut at = 0;
    while at < bytes.len() {
        let (byte, len) = match decoded(&bytes[at..]) {
            Some(0) => return None,
            Some(byte) if is_unreserved(byte) => (byte, 3),
            Some(_) => {
                out.push_str(&path[at..at + 3]);
                at += 3;
                continue;
            }
            None => (bytes[at], 1),
        };
        at += len;
        match byte {
            0 => return None,
            b'/' | b'\\' => {
                pop_dots(&mut out);
                out.push('/');
            }
            b'"' | b'<' | b'>' | b'`' | b'{' | b'}' | b'|' | b'^' | ..=b' ' | 0x7f.. => {
                out.push('%');
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
            _ => out.push(char::from(byte)),
        }
    }
    if pop_dots(&mut out) {
        out.push('/');
    }
    Some(out)
}

/// Resolves a last segment of `.` or `..`, leaving the path without its final slash. Returns whether it was one.
/// Called at each end of a segment.
fn pop_dots(out: &mut String) -> bool {
    let Some(start) = out.rfind('/') else { return false };
    match &out[start..] {
        "/." => out.truncate(start),
        "/.." => {
            out.truncate(start);
            // Above the root there is nothing to take away.
            out.truncate(out.rfind('/').unwrap_or(0));
        }
        _ => return false,
    }
    true
}

fn decoded(bytes: &[u8]) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    match bytes {
        [b'%', high, low, ..] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Makes runs of slashes one, in the path only. As Envoy, a path of nothing but slashes becomes `//`.
fn merge_slashes(path: &mut String) {
    let query_at = path.find('?').unwrap_or(path.len());
    let (before, query) = path.split_at(query_at);
    if !before.contains("//") {
        return;
    }
    let mut merged = String::with_capacity(path.len());
    if before.starts_with('/') {
        merged.push('/');
    }
    for (i, segment) in before.split('/').filter(|s| !s.is_empty()).enumerate() {
        if i > 0 {
            merged.push('/');
        }
        merged.push_str(segment);
    }
    if before.ends_with('/') {
        merged.push('/');
    }
    merged.push_str(query);
    *path = merged;
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_plane_core::headers::{HeaderList, Scheme, Version};
    use proptest::prelude::*;

    const NORMALIZE: PathNormalization =
        PathNormalization { normalize: true, merge_slashes: false, escaped_slashes: EscapedSlashes::Keep };
    const ALL: PathNormalization = PathNormalization {
        normalize: true,
        merge_slashes: true,
        escaped_slashes: EscapedSlashes::UnescapeAndForward,
    };

    fn with(rules: PathNormalization, from: &str) -> Option<String> {
        let mut text = from.to_owned();
        (path(&mut text, rules) != Normalized::Reject).then_some(text)
    }

    #[test]
    fn paths_become_what_envoy_makes_of_them() {
        // Path, normalised, and with slashes unescaped and merged too; measured on Envoy 1.40.
        let table = [
            ("/", "/", "/"),
            ("/a/./b", "/a/b", "/a/b"),
            ("/a/../b", "/b", "/b"),
            ("/a/..", "/", "/"),
            ("/a/.", "/a/", "/a/"),
            ("/..", "/", "/"),
            ("/../../a", "/a", "/a"),
            ("/a//b", "/a//b", "/a/b"),
            ("/a//../b", "/a/b", "/a/b"),
            ("/a/%2e/b", "/a/b", "/a/b"),
            ("/a/%2E%2e/b", "/b", "/b"),
            ("/a/.%2e", "/", "/"),
            ("/%41%7e%2d%5f", "/A~-_", "/A~-_"),
            ("/%2f", "/%2f", "//"),
            ("/a%2Fb", "/a%2Fb", "/a/b"),
            ("/a%5cb", "/a%5cb", "/a/b"),
            ("/a\\b", "/a/b", "/a/b"),
            ("/%zz", "/%zz", "/%zz"),
            ("/%", "/%", "/%"),
            ("/%4", "/%4", "/%4"),
            ("/%01", "/%01", "/%01"),
            ("/%7f", "/%7f", "/%7f"),
            ("/a;b=c/../d", "/d", "/d"),
            ("/a?x=/../y%41", "/a?x=/../y%41", "/a?x=/../y%41"),
            ("/\"<>`{}|^", "/%22%3C%3E%60%7B%7D%7C%5E", "/%22%3C%3E%60%7B%7D%7C%5E"),
            ("/%c3%a9", "/%c3%a9", "/%c3%a9"),
            ("/!$&'()*+,;=:@[]", "/!$&'()*+,;=:@[]", "/!$&'()*+,;=:@[]"),
            ("/a...b/...", "/a...b/...", "/a...b/..."),
            ("/..a/.b", "/..a/.b", "/..a/.b"),
            ("/%25", "/%25", "/%25"),
            ("/a/b/../../..//c", "//c", "/c"),
            ("//", "//", "//"),
            ("///a", "///a", "/a"),
            ("/a/b/", "/a/b/", "/a/b/"),
            ("/a/b/..", "/a/", "/a/"),
            ("/a/b/../", "/a/", "/a/"),
            ("/.", "/", "/"),
            ("/%2e", "/", "/"),
            ("/a%2f..%2fb", "/a%2f..%2fb", "/b"),
            ("/a%5c..%5cb", "/a%5c..%5cb", "/b"),
            ("/%21%24%2a%40", "/%21%24%2a%40", "/%21%24%2a%40"),
        ];
        for (from, normalized, all) in table {
            assert_eq!(with(NORMALIZE, from).as_deref(), Some(normalized), "{from}");
            assert_eq!(with(ALL, from).as_deref(), Some(all), "{from}, all rules");
        }
        for from in ["/%00", "/a/../b?c#d", "/a#b/../c"] {
            assert_eq!(with(NORMALIZE, from), None, "{from}");
        }
    }

    #[test]
    fn paths_stay_as_they_are_by_default() {
        assert_eq!(with(PathNormalization::default(), "/a/../b//c%2f\\").as_deref(), Some("/a/../b//c%2f\\"));
    }

    #[test]
    fn escaped_slashes_may_be_refused_or_redirected() {
        let rules = |escaped_slashes| PathNormalization { escaped_slashes, ..PathNormalization::default() };
        let mut text = "/a%2fb?c%2fd".to_owned();
        assert_eq!(path(&mut text.clone(), rules(EscapedSlashes::Reject)), Normalized::Reject);
        assert_eq!(path(&mut text, rules(EscapedSlashes::UnescapeAndRedirect)), Normalized::Redirect);
        assert_eq!(text, "/a/b?c%2fd", "the query keeps its own");
        let mut plain = "/a/b".to_owned();
        assert_eq!(path(&mut plain, rules(EscapedSlashes::Reject)), Normalized::Forward);
    }

    #[test]
    fn ports_and_dots_are_stripped_as_configured() {
        let stripped = |authority: &str, strip, dot| {
            let mut head = RequestHead {
                method: "GET".into(),
                path: "/".into(),
                authority: authority.into(),
                scheme: Scheme::Http,
                version: Version::Http11,
                headers: HeaderList::default(),
            };
            host(&mut head, strip, dot, 8080);
            std::mem::take(&mut head.authority)
        };
        assert_eq!(stripped("a.com:8080", StripPort::No, false), "a.com:8080");
        assert_eq!(stripped("a.com:8080", StripPort::Matching, false), "a.com");
        assert_eq!(stripped("a.com:81", StripPort::Matching, false), "a.com:81");
        assert_eq!(stripped("a.com:81", StripPort::Any, false), "a.com");
        assert_eq!(stripped("[::1]:81", StripPort::Any, false), "[::1]");
        assert_eq!(stripped("[::1]", StripPort::Any, false), "[::1]");
        assert_eq!(stripped("a.com.:81", StripPort::No, true), "a.com:81");
        assert_eq!(stripped("a.com.", StripPort::Any, true), "a.com");
        assert_eq!(stripped("", StripPort::Any, true), "");
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing_more(text in "/[a-c./%2eEfF5cC\\\\;?]{0,24}") {
            if let Some(once) = with(NORMALIZE, &text) {
                prop_assert_eq!(with(NORMALIZE, &once), Some(once));
            }
        }

        #[test]
        fn no_dot_segment_survives(text in "/[ab./%2e\\\\]{0,24}") {
            if let Some(clean) = with(NORMALIZE, &text) {
                let dots = clean.split('/').any(|s| s == "." || s == "..");
                prop_assert!(!dots, "{} -> {}", text, clean);
            }
        }
    }
}
