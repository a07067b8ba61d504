//! Subject alternative names, and the hosts they name.

use super::der::{Reader, Tag, oid_text};
use super::{Certificate, San};
use std::net::IpAddr;

/// Whether a certificate's DNS name `pattern` covers `name` (Envoy `Utility::dnsNameMatch`): equal but for case, or
/// a wildcard in the first label, alone or at one of its ends, that stands for part of one label.
pub fn dns_matches(name: &str, pattern: &str) -> bool {
    let (name, pattern) = (name.to_ascii_lowercase(), pattern.to_ascii_lowercase());
    if name == pattern {
        return true;
    }
    let Some((first, rest)) = pattern.split_once('.') else { return false };
    let Some((label, domain)) = name.split_once('.') else { return false };
    // A wildcard directly below a top-level domain covers too much.
    if !first.contains('*') || rest != domain || !rest.contains('.') || label.is_empty() {
        return false;
    }
    let Some((head, tail)) = first.split_once('*') else { return false };
    if tail.contains('*') || (first != "*" && label.starts_with("xn--")) {
        return false;
    }
    label.len() >= head.len() + tail.len() && label.starts_with(head) && label.ends_with(tail)
}

/// Whether the certificate names the host: an address by its IP names, a name by its DNS names.
pub fn host_matches(certificate: &Certificate, host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => certificate.sans.contains(&San::Ip(address)),
        Err(_) => certificate.dns_names().any(|pattern| dns_matches(host, pattern)),
    }
}

/// Reads the extension's value.
pub(super) fn read(value: &[u8]) -> Option<Vec<San>> {
    let mut names = Reader::new(value).enter(Tag::SEQUENCE)?;
    let mut found = Vec::new();
    while !names.is_empty() {
        let (tag, content) = names.any()?;
        let text = || std::str::from_utf8(content).ok().map(str::to_owned);
        found.push(match tag {
            t if t == Tag::context_primitive(1) => San::Email(text()?),
            t if t == Tag::context_primitive(2) => San::Dns(text()?),
            t if t == Tag::context_primitive(6) => San::Uri(text()?),
            t if t == Tag::context_primitive(7) => match content.len() {
                4 => San::Ip(IpAddr::from(<[u8; 4]>::try_from(content).ok()?)),
                16 => San::Ip(IpAddr::from(<[u8; 16]>::try_from(content).ok()?)),
                _ => return None,
            },
            t if t == Tag::context(0) => {
                let mut other = Reader::new(content);
                let oid = oid_text(other.read(Tag::OID)?)?;
                let (_, value) = other.enter(Tag::context(0))?.any()?;
                San::Other(oid, std::str::from_utf8(value).ok().map(str::to_owned))
            }
            _ => continue,
        });
    }
    Some(found)
}

impl San {
    /// As Envoy prints it.
    pub fn text(&self) -> String {
        match self {
            Self::Dns(text) | Self::Uri(text) | Self::Email(text) => text.clone(),
            Self::Ip(address) => address.to_string(),
            Self::Other(_, text) => text.clone().unwrap_or_default(),
        }
    }
}
