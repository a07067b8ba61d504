//! What is and is not a header.

use super::*;
use proptest::prelude::*;

const BOTH: Wanted = Wanted { v1: true, v2: true };

fn at(source: &str, destination: &str) -> Option<Ends> {
    Some(Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
}

fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    out.extend([command, family]);
    out.extend((body.len() as u16).to_be_bytes());
    out.extend(body);
    out
}

const V4: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 0, 111, 0, 222];

fn v6(source: &str, destination: &str) -> Vec<u8> {
    let octets = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    [&octets(source)[..], &octets(destination), &[0, 111, 0, 222]].concat()
}

#[test]
fn headers_tell_whose_connection_it_is() {
    let v4 = at("1.2.3.4:111", "5.6.7.8:222");
    let six = at("[2001:db8::1]:111", "[2001:db8::2]:222");
    let cases: Vec<(&str, Vec<u8>, Option<Ends>, usize)> = vec![
        ("v1", b"PROXY TCP4 1.2.3.4 5.6.7.8 111 222\r\n".into(), v4, 0),
        ("v1, IPv6", b"PROXY TCP6 2001:db8::1 2001:db8::2 111 222\r\n".into(), six, 0),
        ("v1, port 0", b"PROXY TCP4 1.2.3.4 5.6.7.8 0 222\r\n".into(), at("1.2.3.4:0", "5.6.7.8:222"), 0),
        ("v1, nobody knows", b"PROXY UNKNOWN\r\n".into(), None, 0),
        ("v1, nobody knows, and more", b"PROXY UNKNOWN a b c d\r\n".into(), None, 0),
        ("v2", binary(0x21, 0x11, &V4), v4, 0),
        ("v2 of datagrams", binary(0x21, 0x12, &V4), v4, 0),
        ("v2, IPv6", binary(0x21, 0x21, &v6("2001:db8::1", "2001:db8::2")), six, 0),
        ("v2, the sender's own", binary(0x20, 0, b""), None, 0),
        ("v2, the sender's own, with more", binary(0x20, 0x11, b"anything"), None, 8),
        ("v2 with extensions", binary(0x21, 0x11, &[&V4[..], b"\x04\0\x03abc"].concat()), v4, 6),
    ];
    for (name, bytes, ends, extensions) in cases {
        let rest = [&bytes[..], b"more"].concat();
        let Ok(Found::Header(header)) = read(&rest, BOTH) else { panic!("{name}: a header") };
        assert_eq!((header.ends, header.extensions), (ends, extensions), "{name}");
        assert_eq!(header.length + header.extensions, bytes.len(), "{name}: its end");
        for cut in 0..header.length {
            assert_eq!(read(&bytes[..cut], BOTH), Ok(Found::Partial), "{name}, the first {cut} bytes");
        }
    }
}

#[test]
fn headers_that_cannot_be_read_are_refused() {
    let v1: &[&[u8]] = &[
        b"PROXY UNKNOWNx\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4\r\n",
        b"PROXY UDP4 1.2.3.4 5.6.7.8 111 222\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 111 222\r\n",
        b"PROXY TCP6 1.2.3.4 5.6.7.8 111 222\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 111\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 111 222 9\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 111 222 \r\n",
        b"PROXY TCP4  1.2.3.4 5.6.7.8 111 222\r\n",
        b"PROXY TCP4 1.2.3.04 5.6.7.8 111 222\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 111 99999\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 222\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 222\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 0x1 222\r\n",
        b"PROXY TCP4 224.0.0.1 5.6.7.8 111 222\r\n",
        b"PROXY TCP4 255.255.255.255 5.6.7.8 111 222\r\n",
        b"PROXY TCP4 1.2.3.4 0.0.0.0 111 222\r\n",
        b"PROXY TCP6 ff02::1 ::1 111 222\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 111 222\r\n",
        b"PROXY TCP4 1.2.3.4\t5.6.7.8 111 222\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 111 222\xff\r\n",
    ];
    let v1 = v1.iter().map(|bytes| bytes.to_vec()).chain([
        [&b"PROXY UNKNOWN "[..], &[b'x'; 100], b"\r\n"].concat(),
        [&b"PROXY TCP4 1.2.3.4 5.6.7.8 111 222\n"[..], &[b'x'; 100]].concat(),
    ]);
    let v2 = [
        binary(0x11, 0x11, &V4),
        binary(0x31, 0x11, &V4),
        binary(0x22, 0x11, &V4),
        binary(0x21, 0, b""),
        binary(0x21, 0x10, &V4),
        binary(0x21, 0x13, &V4),
        binary(0x21, 0x31, &[0; 216]),
        binary(0x21, 0x41, &V4),
        binary(0x21, 0x11, &V4[1..]),
        binary(0x21, 0x21, &V4),
        binary(0x21, 0x11, &[0; 12]),
        binary(0x21, 0x21, &v6("ff02::1", "::1")),
    ];
    let all = v1.map(|bytes| (Version::V1, bytes)).chain(v2.map(|bytes| (Version::V2, bytes)));
    for (version, bytes) in all {
        let refused = read(&bytes, BOTH).expect_err(&format!("{}", bytes.escape_ascii()));
        assert_eq!(refused.version, version, "{}", bytes.escape_ascii());
    }
}

#[test]
fn what_is_not_wanted_or_no_header_is_absent() {
    let (v1, v2) = (&b"PROXY UNKNOWN\r\n"[..], &SIGNATURE[..]);
    assert_eq!(read(v1, Wanted { v1: false, v2: true }), Ok(Found::Absent));
    assert_eq!(read(v2, Wanted { v1: true, v2: false }), Ok(Found::Absent));
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"PROXX", b"proxy TCP4", b"\r\n\r\n\0\r\nQUIX", b"\x16\x03\x01"]
    {
        assert_eq!(read(bytes, BOTH), Ok(Found::Absent), "{}", bytes.escape_ascii());
    }
    assert_eq!(read(b"", Wanted { v1: false, v2: false }), Ok(Found::Partial), "nothing says nothing");
}

fn check(bytes: &[u8], piece: usize) -> bool {
    let own = Ends { source: ([1, 1, 1, 1], 1).into(), destination: ([1, 1, 1, 1], 1).into() };
    let header = Header { version: Version::V2, length: 28, ends: Some(own), extensions: bytes.len() };
    let mut extensions = Extensions::of(&header);
    let whole = bytes.chunks(piece).all(|piece| extensions.take(piece).is_ok());
    whole && extensions.left() == 0
}

#[test]
fn extensions_are_whole_or_refused_in_whatever_pieces_they_come() {
    for piece in 1..8 {
        assert!(check(b"\x04\0\x03abc\x05\0\0\x01\0\x01z", piece));
        assert!(!check(b"\x04\0\x04abc", piece), "longer than the header");
        assert!(!check(b"\x04\0\x03abc\x05\0", piece), "a head cut short");
        assert!(!check(b"\x04\xff\xffabc", piece));
    }
}

#[test]
fn what_a_sender_says_of_itself_is_not_looked_at() {
    let header = Header { version: Version::V2, length: 16, ends: None, extensions: 5 };
    let mut extensions = Extensions::of(&header);
    assert_eq!(extensions.take(b"\x04\xff\xff"), Ok(()));
    assert_eq!(extensions.take(b"ab"), Ok(()));
    assert_eq!(extensions.left(), 0);
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let unicast = |ip: &IpAddr| ends((*ip, 0), (*ip, 0)).is_ok();
    (any::<IpAddr>().prop_filter("of one host", unicast), any::<u16>()).prop_map(SocketAddr::from)
}

proptest! {
    #[test]
    fn what_is_written_is_read(source in address(), destination in address(), v2 in any::<bool>()) {
        let version = if v2 { Version::V2 } else { Version::V1 };
        let ends = Ends { source, destination };
        let mut out = Vec::new();
        write(version, Some(ends), ends, &mut out);
        let Ok(Found::Header(header)) = read(&out, BOTH) else { panic!("{}", out.escape_ascii()) };
        let (from, to) = same_family(source.ip(), destination.ip());
        let expected =
            Ends { source: (from, source.port()).into(), destination: (to, destination.port()).into() };
        prop_assert_eq!((header.length, header.ends), (out.len(), Some(expected)));
    }

    #[test]
    fn no_bytes_at_all_make_it_wait_beyond_its_limit(mut bytes in proptest::collection::vec(any::<u8>(), MAX_READ), kind in 0..3) {
        match kind {
            0 => bytes[..6].copy_from_slice(WORD),
            1 => bytes[..12].copy_from_slice(SIGNATURE),
            _ => {}
        }
        prop_assert_ne!(read(&bytes, BOTH), Ok(Found::Partial));
    }

    #[test]
    fn a_header_never_reaches_beyond_the_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..64), command in 0x20..0x23_u8, family in any::<u8>()) {
        let bytes = binary(command, family, &bytes);
        if let Ok(Found::Header(header)) = read(&bytes, BOTH) {
            prop_assert_eq!(header.length + header.extensions, bytes.len());
        }
    }
}
