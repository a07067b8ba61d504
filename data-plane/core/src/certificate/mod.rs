//! X.509 certificates: what configuration, logs and headers ask of them.
//!
//! Reading only: no signature is checked here, and nothing here decides whom to trust. Called with certificates
//! out of configuration and with those that peers present, so that every length is checked.

mod der;
mod name;
mod san;
#[cfg(test)]
pub(crate) mod tests;

pub use san::{dns_matches, host_matches};

use der::{Reader, Tag};
use std::net::IpAddr;
use std::ops::Range;

/// Why bytes are not a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid X.509 certificate")]
pub struct NotACertificate;

/// A certificate, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Serial number, lowercase hexadecimal of its bytes.
    pub serial: String,
    /// Issuer as RFC 2253 text.
    pub issuer: String,
    /// Subject as RFC 2253 text.
    pub subject: String,
    /// The subject's last common name.
    pub common_name: Option<String>,
    /// Valid from, seconds since 1970.
    pub not_before: i64,
    /// Valid until, seconds since 1970.
    pub not_after: i64,
    /// Subject alternative names, in order.
    pub sans: Vec<San>,
    /// Whether basic constraints make it an authority.
    pub is_ca: bool,
    /// Bits of `keyUsage`, the first bit highest; `None`: all uses.
    pub key_usage: Option<u16>,
    /// Kind of key.
    pub key: KeyKind,
    /// Where `SubjectPublicKeyInfo` is in the certificate.
    spki: Range<usize>,
    /// Where the subject's name is in the certificate.
    subject_der: Range<usize>,
    issuer_der: Range<usize>,
}

/// Kind of a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA.
    Rsa,
    /// Elliptic curve.
    Ecdsa,
    /// Another.
    Other,
}

/// A subject alternative name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum San {
    /// `dNSName`.
    Dns(String),
    /// `uniformResourceIdentifier`.
    Uri(String),
    /// `iPAddress`.
    Ip(IpAddr),
    /// `rfc822Name`.
    Email(String),
    /// `otherName`: its OID, and its value if that is text.
    Other(String, Option<String>),
}

/// Bit of `keyUsage`: signing handshakes.
pub const DIGITAL_SIGNATURE: u16 = 0x8000;

impl Certificate {
    /// Reads a DER certificate.
    ///
    /// # Errors
    /// It is none, or malformed where it is looked at.
    pub fn parse(der: &[u8]) -> Result<Self, NotACertificate> {
        parse(der).ok_or(NotACertificate)
    }

    /// The public key of the certificate that was read from `der`.
    pub fn spki<'a>(&self, der: &'a [u8]) -> &'a [u8] {
        der.get(self.spki.clone()).unwrap_or_default()
    }

    /// The subject's name of the certificate that was read from `der`.
    pub fn subject_der<'a>(&self, der: &'a [u8]) -> &'a [u8] {
        der.get(self.subject_der.clone()).unwrap_or_default()
    }

    /// The issuer's name of the certificate that was read from `der`.
    pub fn issuer_der<'a>(&self, der: &'a [u8]) -> &'a [u8] {
        der.get(self.issuer_der.clone()).unwrap_or_default()
    }

    /// DNS names.
    pub fn dns_names(&self) -> impl Iterator<Item = &str> {
        self.sans.iter().filter_map(|san| match san {
            San::Dns(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// URIs.
    pub fn uris(&self) -> impl Iterator<Item = &str> {
        self.sans.iter().filter_map(|san| match san {
            San::Uri(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Whether `now`, in seconds since 1970, is within its validity.
    pub fn is_valid_at(&self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

fn parse(der: &[u8]) -> Option<Certificate> {
    let mut outer = Reader::new(der).enter(Tag::SEQUENCE)?;
    let mut tbs = outer.enter(Tag::SEQUENCE)?;
    tbs.skip_if(Tag::context(0))?; // version
    let serial = tbs.read(Tag::INTEGER)?;
    tbs.read(Tag::SEQUENCE)?; // signature algorithm
    let issuer_der = tbs.whole(Tag::SEQUENCE)?;
    let mut validity = tbs.enter(Tag::SEQUENCE)?;
    let (not_before, not_after) = (validity.time()?, validity.time()?);
    let subject_der = tbs.whole(Tag::SEQUENCE)?;
    let spki = tbs.whole(Tag::SEQUENCE)?;
    let key = key_kind(&der[spki.clone()])?;
    tbs.skip_if(Tag::context_primitive(1))?; // issuer's unique id
    tbs.skip_if(Tag::context_primitive(2))?; // subject's
    let mut found = Certificate {
        serial: serial_text(serial),
        issuer: name::text(&der[issuer_der.clone()])?,
        subject: name::text(&der[subject_der.clone()])?,
        common_name: name::common_name(&der[subject_der.clone()]),
        not_before,
        not_after,
        sans: Vec::new(),
        is_ca: false,
        key_usage: None,
        key,
        spki,
        subject_der,
        issuer_der,
    };
    if let Some(mut extensions) = tbs.enter_if(Tag::context(3))? {
        let mut list = extensions.enter(Tag::SEQUENCE)?;
        while !list.is_empty() {
            let mut extension = list.enter(Tag::SEQUENCE)?;
            let oid = extension.read(Tag::OID)?;
            extension.skip_if(Tag::BOOLEAN)?;
            let value = extension.read(Tag::OCTETS)?;
            match oid {
                [0x55, 0x1d, 0x11] => found.sans = san::read(value)?,
                [0x55, 0x1d, 0x0f] => found.key_usage = Some(key_usage(value)?),
                [0x55, 0x1d, 0x13] => found.is_ca = is_ca(value)?,
                _ => {}
            }
        }
    }
    Some(found)
}

fn key_kind(spki: &[u8]) -> Option<KeyKind> {
    let mut algorithm = Reader::new(spki).enter(Tag::SEQUENCE)?.enter(Tag::SEQUENCE)?;
    Some(match algorithm.read(Tag::OID)? {
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, _] => KeyKind::Rsa,
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01] => KeyKind::Ecdsa,
        _ => KeyKind::Other,
    })
}

fn key_usage(value: &[u8]) -> Option<u16> {
    let [_unused, bits @ ..] = Reader::new(value).read(Tag::BITS)? else { return None };
    let byte = |at: usize| u16::from(bits.get(at).copied().unwrap_or(0));
    Some(byte(0) << 8 | byte(1))
}

fn is_ca(value: &[u8]) -> Option<bool> {
    let mut constraints = Reader::new(value).enter(Tag::SEQUENCE)?;
    Some(constraints.read_if(Tag::BOOLEAN)?.is_some_and(|flag| flag != [0]))
}

/// As BoringSSL's `BN_bn2hex`: whole bytes without the sign's, zero is one digit.
fn serial_text(bytes: &[u8]) -> String {
    let significant = &bytes[bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len())..];
    if significant.is_empty() { "0".into() } else { hex(significant) }
}

/// Lowercase hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}
