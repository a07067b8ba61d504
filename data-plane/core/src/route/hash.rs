//! What a request is hashed by, for policies that keep a client on a host. Hashes are Envoy's.

use crate::config::{HashCookie, HashPolicy, HashSource};
use crate::headers::{HeaderId, RequestHead, parameters};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use xxhash_rust::xxh64::xxh64;

/// Whose request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashPeer {
    /// The client's address as it is trusted.
    pub client: IpAddr,
    /// The connection's other end.
    pub remote: SocketAddr,
    /// The connection's own end.
    pub local: SocketAddr,
}

/// A request's hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hashed {
    /// `None` when nothing that is hashed is there.
    pub hash: Option<u64>,
    /// Values of `set-cookie` for the response: cookies that the client is given.
    pub cookies: Vec<String>,
}

/// Hashes a request.
pub(super) fn hash(policies: &[HashPolicy], head: &RequestHead, peer: &HashPeer) -> Hashed {
    let mut hashed = Hashed::default();
    for policy in policies {
        let part = match &policy.source {
            HashSource::Header { name, rewrite } => {
                let mut values: SmallVec<[Cow<'_, [u8]>; 2]> =
                    values(head, name).map(Cow::Borrowed).collect();
                if let Some((regex, substitution)) = rewrite {
                    for value in &mut values {
                        *value = Cow::Owned(regex.replace_all(value, substitution));
                    }
                }
                values.sort_unstable();
                // One after the other; a single value hashes as itself.
                (!values.is_empty()).then(|| values.iter().fold(0, |seed, value| xxh64(value, seed)))
            }
            HashSource::Cookie(cookie) => match find_cookie(head, cookie.name.as_bytes()) {
                Some(value) if !value.is_empty() => Some(xxh64(value, 0)),
                _ => cookie.ttl_seconds.map(|ttl| {
                    let value = fresh_value(peer);
                    hashed.cookies.push(set_cookie(cookie, &value, ttl));
                    xxh64(value.as_bytes(), 0)
                }),
            },
            HashSource::SourceIp => Some(address(peer.client)),
            HashSource::Query(name) => parameters(&head.path)
                .find(|(known, _)| *known == &**name)
                .map(|(_, value)| xxh64(value.as_bytes(), 0)),
        };
        if let Some(part) = part {
            // Rotated, so that equal parts do not cancel each other out.
            hashed.hash = Some(hashed.hash.map_or(0, |hash| hash.rotate_left(1)) ^ part);
        }
        if policy.terminal && hashed.hash.is_some() {
            break;
        }
    }
    hashed
}

/// The hash of a client by its address.
pub fn address(client: IpAddr) -> u64 {
    xxh64(client.to_string().as_bytes(), 0)
}

/// Values of a header, pseudo-headers included.
fn values<'a>(head: &'a RequestHead, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let pseudo = match name {
        ":authority" | "host" => Some(head.authority.as_bytes()),
        ":method" => Some(head.method.as_bytes()),
        ":path" => Some(head.path.as_bytes()),
        ":scheme" => Some(head.scheme.as_str().as_bytes()),
        _ => None,
    };
    let listed = if pseudo.is_none() { Some(head.headers.get_all(name.as_bytes())) } else { None };
    pseudo.into_iter().chain(listed.into_iter().flatten())
}

/// The value of the first cookie of that name, without quotes around it.
fn find_cookie<'a>(head: &'a RequestHead, name: &[u8]) -> Option<&'a [u8]> {
    let pairs = head.headers.iter().filter(|header| header.id == HeaderId::Cookie);
    let pairs = pairs.flat_map(|header| header.value.split(|byte| *byte == b';'));
    let named = pairs.filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        (pair[..at].trim_ascii_start() == name).then_some(&pair[at + 1..])
    });
    named.map(|value| value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value)).next()
}

/// The same for all requests of a connection.
fn fresh_value(peer: &HashPeer) -> String {
    format!("{:016x}", xxh64(format!("{}{}", peer.remote, peer.local).as_bytes(), 0))
}

fn set_cookie(cookie: &HashCookie, value: &str, ttl_seconds: u64) -> String {
    let mut text = format!("{}=\"{value}\"", cookie.name);
    if ttl_seconds > 0 {
        let _ = write!(text, "; Max-Age={ttl_seconds}");
    }
    if !cookie.path.is_empty() {
        let _ = write!(text, "; Path={}", cookie.path);
    }
    for (name, value) in &cookie.attributes {
        let _ = write!(text, "; {name}");
        if !value.is_empty() {
            let _ = write!(text, "={value}");
        }
    }
    text.push_str("; HttpOnly");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::{HeaderList, Scheme, Version};
    use crate::matcher::{Regex, Substitution};

    fn head(path: &str, headers: &[(&str, &str)]) -> RequestHead {
        let mut list = HeaderList::default();
        for (name, value) in headers {
            list.append(name.as_bytes(), value.as_bytes());
        }
        RequestHead {
            method: "GET".into(),
            scheme: Scheme::Http,
            authority: "a".into(),
            path: path.into(),
            version: Version::Http11,
            headers: list,
        }
    }

    fn peer() -> HashPeer {
        HashPeer {
            client: [10, 0, 0, 1].into(),
            remote: ([10, 0, 0, 9], 1234).into(),
            local: ([10, 0, 0, 2], 80).into(),
        }
    }

    fn of(source: HashSource) -> HashPolicy {
        HashPolicy { source, terminal: false }
    }

    fn header(name: &str) -> HashSource {
        HashSource::Header { name: name.into(), rewrite: None }
    }

    fn cookie(ttl_seconds: Option<u64>) -> HashSource {
        let attributes = vec![("SameSite".into(), "Strict".into()), ("Secure".into(), "".into())];
        HashSource::Cookie(HashCookie { name: "sess".into(), ttl_seconds, path: "/p".into(), attributes })
    }

    fn plain(policies: &[HashPolicy], head: &RequestHead) -> Option<u64> {
        let Hashed { hash, cookies } = hash(policies, head, &peer());
        assert_eq!(cookies, [""; 0]);
        hash
    }

    #[test]
    fn each_source_hashes_what_it_names() {
        let head = head("/a?x=1&k=v&k=w", &[("id", "7"), ("cookie", "a=b; sess=\"s1\"; sess=s2")]);
        let one = |source| plain(&[of(source)], &head);
        assert_eq!(one(header("id")), Some(xxh64(b"7", 0)));
        assert_eq!(one(header(":path")), Some(xxh64(b"/a?x=1&k=v&k=w", 0)));
        assert_eq!(one(header("none")), None);
        assert_eq!(one(HashSource::Query("k".into())), Some(xxh64(b"v", 0)));
        assert_eq!(one(HashSource::Query("none".into())), None);
        assert_eq!(one(HashSource::SourceIp), Some(xxh64(b"10.0.0.1", 0)));
        assert_eq!(one(cookie(None)), Some(xxh64(b"s1", 0)));
    }

    #[test]
    fn values_of_a_header_hash_alike_in_any_order() {
        let a = plain(&[of(header("id"))], &head("/", &[("id", "1"), ("id", "2")]));
        let b = plain(&[of(header("id"))], &head("/", &[("id", "2"), ("id", "1")]));
        assert_eq!(a, b);
        assert_eq!(a, Some(xxh64(b"2", xxh64(b"1", 0))));
    }

    #[test]
    fn a_header_may_be_rewritten_first() {
        let regex = Regex::new("^([^-]+)-.*$").unwrap();
        let substitution = Substitution::new("\\1", &regex).unwrap();
        let source = HashSource::Header { name: "id".into(), rewrite: Some((regex, substitution)) };
        let got = plain(&[of(source)], &head("/", &[("id", "user7-session9")]));
        assert_eq!(got, Some(xxh64(b"user7", 0)));
    }

    #[test]
    fn parts_combine_and_a_terminal_one_ends_it() {
        let head = head("/", &[("a", "1"), ("b", "2")]);
        let (a, b) = (xxh64(b"1", 0), xxh64(b"2", 0));
        assert_eq!(plain(&[of(header("a")), of(header("b"))], &head), Some(a.rotate_left(1) ^ b));
        let terminal = |name| HashPolicy { source: header(name), terminal: true };
        assert_eq!(plain(&[terminal("a"), of(header("b"))], &head), Some(a));
        assert_eq!(plain(&[terminal("none"), of(header("b"))], &head), Some(b));
        assert_eq!(plain(&[], &head), None);
    }

    #[test]
    fn a_client_without_the_cookie_is_given_one_where_there_is_a_ttl() {
        let head = head("/", &[("cookie", "other=1")]);
        assert_eq!(plain(&[of(cookie(None))], &head), None);
        let got = hash(&[of(cookie(Some(60)))], &head, &peer());
        let value = format!("{:016x}", xxh64(b"10.0.0.9:123410.0.0.2:80", 0));
        assert_eq!(got.hash, Some(xxh64(value.as_bytes(), 0)));
        let want = format!("sess=\"{value}\"; Max-Age=60; Path=/p; SameSite=Strict; Secure; HttpOnly");
        assert_eq!(got.cookies, [want]);
        let session = hash(&[of(cookie(Some(0)))], &head, &peer());
        assert!(!session.cookies[0].contains("Max-Age"));
    }
}
