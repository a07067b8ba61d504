//! A certificate that the real Envoy was shown, and names.

use super::*;
use std::net::IpAddr;

/// Made with openssl; what Envoy 1.40 says of it is in the tests.
const CLIENT: &str = include_str!("client.pem");

/// The certificate, and what was read of it.
pub(crate) fn client() -> (Vec<u8>, Certificate) {
    let body: String = CLIENT.lines().filter(|line| !line.starts_with("--")).collect();
    let der = decode_base64(&body);
    let read = Certificate::parse(&der).unwrap();
    (der, read)
}

fn decode_base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::new();
    let (mut bits, mut held) = (0u32, 0);
    for byte in text.bytes().take_while(|b| *b != b'=') {
        bits = bits << 6 | DIGITS.iter().position(|d| *d == byte).unwrap() as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    out
}

#[test]
fn a_certificate_reads_as_envoy_shows_it() {
    let (der, read) = client();
    assert_eq!(read.subject, r#"emailAddress=x@y.z,CN=cli,O=Acme \"X\"\, Inc.+OU=R\;D,ST=CA,C=US"#);
    assert_eq!(read.issuer, r"CN=lab ca,O=Lab\, Inc.,C=DE");
    assert_eq!(read.serial, "24997e406b6a4f4e76a3386551a23f38f5a4ee9b");
    assert_eq!(read.common_name.as_deref(), Some("cli"));
    assert_eq!(read.uris().collect::<Vec<_>>(), ["spiffe://lab/client", "spiffe://lab/two"]);
    assert_eq!(read.dns_names().collect::<Vec<_>>(), ["cli.example.com", "other.example.com"]);
    assert!(read.sans.contains(&San::Ip(IpAddr::from([10, 0, 0, 1]))));
    assert!(read.sans.contains(&San::Email("me@x.y".into())));
    // 2026-11-21T05:03:44Z and 30 days later.
    assert_eq!((read.not_before, read.not_after), (1_795_237_424, 1_797_829_424));
    assert_eq!((read.is_ca, read.key_usage, read.key), (false, None, KeyKind::Ecdsa));
    assert_eq!(read.spki(&der).len(), 91, "an uncompressed P-256 key");
}

#[test]
fn cut_and_damaged_certificates_are_refused_or_read_without_panic() {
    let (der, _) = client();
    for length in 0..der.len() {
        assert_eq!(Certificate::parse(&der[..length]), Err(NotACertificate), "{length} bytes");
    }
    for at in 0..der.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = der.clone();
            damaged[at] ^= flip;
            drop(Certificate::parse(&damaged));
        }
    }
}

#[test]
fn wildcards_stand_for_one_label_as_in_envoy() {
    for (name, pattern, want) in [
        ("a.example.com", "a.example.com", true),
        ("A.example.com", "a.EXAMPLE.com", true),
        ("a.example.com", "*.example.com", true),
        ("a.b.example.com", "*.example.com", false),
        ("example.com", "*.example.com", false),
        ("example.com", "*.com", false),
        ("foobar.example.com", "foo*.example.com", true),
        ("foobar.example.com", "*bar.example.com", true),
        ("foobar.example.com", "f*r.example.com", true),
        ("xn--bar.example.com", "xn*.example.com", false),
        ("a.example.com", "*.*.com", false),
        ("a.example.com", "a.*.com", false),
        ("a.example.com", "b.example.com", false),
        ("a.example.com", "*", false),
    ] {
        assert_eq!(dns_matches(name, pattern), want, "{name} by {pattern}");
    }
}

#[test]
fn a_host_is_a_name_or_an_address_of_the_certificate() {
    let (_, read) = client();
    assert!(host_matches(&read, "10.0.0.1") && host_matches(&read, "cli.example.com"));
    assert!(!host_matches(&read, "10.0.0.2") && !host_matches(&read, "cli"));
}
