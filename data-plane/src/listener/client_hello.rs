//! The TLS inspector: whether a connection begins with a ClientHello, and the names in it.

use super::peek::peek;
use super::stats::TlsInspectorStats;
use std::io;
use tokio::net::TcpStream;

/// What a ClientHello asks for (RFC 8446, section 4.1.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hello {
    /// SNI, lowercase.
    pub(super) server_name: Option<Box<str>>,
    /// ALPN.
    pub(super) protocols: Vec<Box<str>>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Tls(Hello),
    /// Anything else.
    NotTls,
    /// It looked like TLS and could not be read.
    Broken,
    TooLarge,
}

/// Looks at the first bytes without taking them. `None`: the peer closed before they said anything.
///
/// # Cancel safety
/// Cancel safe: nothing is taken.
pub(super) async fn inspect(
    stream: &TcpStream,
    max_bytes: usize,
    stats: &TlsInspectorStats,
) -> io::Result<Option<Found>> {
    // A record's header comes with every record; a hello of the largest size may come in several.
    let most = max_bytes + max_bytes / 64 + 64;
    let found = peek(stream, most, |bytes| match parse(bytes, max_bytes) {
        None if bytes.len() == most => Some((Found::TooLarge, most)),
        found => found.map(|found| (found, bytes.len())),
    })
    .await?;
    let Some((found, read)) = found else { return Ok(None) };
    stats.bytes_processed.record(read as u64);
    match &found {
        Found::Tls(hello) => {
            stats.tls_found.inc();
            if hello.server_name.is_some() { &stats.sni_found } else { &stats.sni_not_found }.inc();
            if hello.protocols.is_empty() { &stats.alpn_not_found } else { &stats.alpn_found }.inc();
        }
        Found::NotTls | Found::Broken => stats.tls_not_found.inc(),
        Found::TooLarge => stats.client_hello_too_large.inc(),
    }
    Ok(Some(found))
}

/// `None` while more bytes are needed.
fn parse(bytes: &[u8], max: usize) -> Option<Found> {
    const HANDSHAKE: u8 = 22;
    const CLIENT_HELLO: u8 = 1;
    let mut message: Vec<u8> = Vec::new();
    let mut rest = bytes;
    loop {
        // The first bytes decide whether this is TLS at all.
        if rest.first().is_some_and(|kind| *kind != HANDSHAKE) || rest.get(1).is_some_and(|major| *major != 3)
        {
            return Some(if message.is_empty() { Found::NotTls } else { Found::Broken });
        }
        let [_, _, _, high, low, body @ ..] = rest else { return None };
        let length = usize::from(*high) << 8 | usize::from(*low);
        if length == 0 || length > 0x4000 + 256 {
            return Some(Found::NotTls);
        }
        message.extend_from_slice(&body[..length.min(body.len())]);
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Some(Found::Broken);
        }
        if let [_, a, b, c, hello @ ..] = message.as_slice() {
            let wanted = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if wanted > max {
                return Some(Found::TooLarge);
            }
            if let Some(hello) = hello.get(..wanted) {
                return Some(read(hello).map_or(Found::Broken, Found::Tls));
            }
        }
        rest = body.get(length..)?;
    }
}

/// Takes `n` bytes.
fn take<'a>(from: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, tail) = from.split_at_checked(n)?;
    *from = tail;
    Some(head)
}

/// Takes what a length of `bytes` bytes says.
fn vector<'a>(from: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let length = take(from, bytes)?.iter().fold(0, |sum, b| sum << 8 | usize::from(*b));
    take(from, length)
}

fn read(hello: &[u8]) -> Option<Hello> {
    let mut rest = hello;
    take(&mut rest, 2 + 32)?; // version, random
    vector(&mut rest, 1)?; // session id
    vector(&mut rest, 2)?; // suites
    vector(&mut rest, 1)?; // compression
    let mut found = Hello::default();
    if rest.is_empty() {
        return Some(found);
    }
    let mut extensions = vector(&mut rest, 2)?;
    while !extensions.is_empty() {
        let kind = take(&mut extensions, 2)?;
        let mut content = vector(&mut extensions, 2)?;
        match kind {
            // server_name, RFC 6066
            [0, 0] => {
                let mut names = vector(&mut content, 2)?;
                while !names.is_empty() {
                    let kind = take(&mut names, 1)?;
                    let name = vector(&mut names, 2)?;
                    if kind == [0] && found.server_name.is_none() {
                        let name = std::str::from_utf8(name).ok()?;
                        found.server_name = (!name.is_empty()).then(|| name.to_ascii_lowercase().into());
                    }
                }
            }
            // application_layer_protocol_negotiation, RFC 7301
            [0, 16] => {
                let mut names = vector(&mut content, 2)?;
                while !names.is_empty() {
                    let name = vector(&mut names, 1)?;
                    found.protocols.push(String::from_utf8_lossy(name).into());
                }
            }
            _ => {}
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(bytes: usize, content: &[u8]) -> Vec<u8> {
        let mut out = content.len().to_be_bytes()[8 - bytes..].to_vec();
        out.extend_from_slice(content);
        out
    }

    /// A ClientHello with an SNI, two protocols and `padding` bytes of another extension.
    fn hello(padding: usize) -> Vec<u8> {
        let name = [&[0][..], &vector(2, b"A.example.com")].concat();
        let protocols = [vector(1, b"h2"), vector(1, b"http/1.1")].concat();
        let extension = |kind: u8, content: &[u8]| [&[0, kind][..], &vector(2, content)].concat();
        let extensions = [
            extension(21, &vec![0; padding]),
            extension(0, &vector(2, &name)),
            extension(16, &vector(2, &protocols)),
        ]
        .concat();
        let body = [
            &[3, 3][..],
            &[7; 32],
            &vector(1, &[1; 32]),
            &vector(2, &[0x13, 1]),
            &vector(1, &[0]),
            &vector(2, &extensions),
        ]
        .concat();
        [&[1][..], &vector(3, &body)].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|part| [&[22, 3, 1][..], &vector(2, part)].concat()).collect()
    }

    fn expected() -> Found {
        Found::Tls(Hello {
            server_name: Some("a.example.com".into()),
            protocols: vec!["h2".into(), "http/1.1".into()],
        })
    }

    #[test]
    fn hellos_are_read_however_they_are_cut() {
        // A post-quantum key share takes more than a kilobyte.
        for padding in [0, 1200, 9000] {
            for size in [16, 700, 16_000] {
                let bytes = records(&hello(padding), size);
                assert_eq!(parse(&bytes, 16 * 1024), Some(expected()), "{padding} in records of {size}");
                for cut in [1, 3, 5, 20, bytes.len() / 2, bytes.len() - 1] {
                    assert_eq!(parse(&bytes[..cut], 16 * 1024), None, "{cut} bytes do not decide");
                }
            }
        }
    }

    #[test]
    fn other_protocols_and_damage_are_told_apart() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\n", 1000), Some(Found::NotTls));
        assert_eq!(parse(b"\x16\x02\x01", 1000), Some(Found::NotTls));
        assert_eq!(parse(b"", 1000), None);
        assert_eq!(parse(&records(&hello(2000), 16_000), 1000), Some(Found::TooLarge));
        let mut wrong = hello(0);
        wrong[0] = 2;
        assert_eq!(parse(&records(&wrong, 16_000), 16_000), Some(Found::Broken), "a ServerHello");
        let good = records(&hello(10), 16_000);
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0xff;
            drop(parse(&bytes, 16_000));
        }
    }
}
