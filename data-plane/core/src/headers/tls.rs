//! What is known of a TLS connection: for logs, header values and x-forwarded-client-cert.

use crate::certificate::{Certificate, San};
use std::sync::Arc;

/// A connection past its handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// `TLSv1.3`
    pub version: &'static str,
    /// Name of the suite, as OpenSSL spells it.
    pub cipher: &'static str,
    /// Key exchange group; empty when a session was resumed without an exchange.
    pub group: &'static str,
    /// The certificate we showed.
    pub local: Option<Arc<CertificateFacts>>,
    /// The certificates that the peer showed, its own first.
    pub peer: Box<[CertificateFacts]>,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Its content.
    pub certificate: Certificate,
    /// SHA-256 of the whole, lowercase hexadecimal.
    pub sha256: Box<str>,
    /// SHA-1 of the whole, lowercase hexadecimal.
    pub sha1: Box<str>,
    /// The whole.
    pub der: Box<[u8]>,
}

impl CertificateFacts {
    /// As PEM, percent-encoded.
    pub fn append_pem(&self, out: &mut Vec<u8>) {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        out.extend_from_slice(b"-----BEGIN%20CERTIFICATE-----%0A");
        // A line holds 64 digits: 48 bytes.
        for line in self.der.chunks(48) {
            for group in line.chunks(3) {
                let bits =
                    group.iter().fold(0u32, |sum, b| sum << 8 | u32::from(*b)) << (8 * (3 - group.len()));
                for at in 0..4 {
                    match DIGITS[(bits >> (18 - 6 * at)) as usize & 63] {
                        _ if at > group.len() => out.extend_from_slice(b"%3D"),
                        b'+' => out.extend_from_slice(b"%2B"),
                        b'/' => out.extend_from_slice(b"%2F"),
                        digit => out.push(digit),
                    }
                }
            }
            out.extend_from_slice(b"%0A");
        }
        out.extend_from_slice(b"-----END%20CERTIFICATE-----%0A");
    }

    /// Its names of one kind.
    pub fn names<'a>(&'a self, kind: fn(&San) -> bool) -> impl Iterator<Item = String> + 'a {
        self.certificate.sans.iter().filter(move |san| kind(san)).map(San::text)
    }
}
