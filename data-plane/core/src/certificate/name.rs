//! Distinguished names as text (RFC 2253, as BoringSSL's `XN_FLAG_RFC2253` prints them).

use super::der::{Reader, Tag, oid_text};
use super::hex;
use std::fmt::Write;

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// Short names of attribute types.
fn short(oid: &[u8]) -> Option<&'static str> {
    Some(match oid {
        [0x55, 0x04, last] => match last {
            0x03 => "CN",
            0x04 => "SN",
            0x05 => "serialNumber",
            0x06 => "C",
            0x07 => "L",
            0x08 => "ST",
            0x09 => "street",
            0x0a => "O",
            0x0b => "OU",
            0x0c => "title",
            0x0d => "description",
            0x11 => "postalCode",
            0x29 => "name",
            0x2a => "GN",
            0x2b => "initials",
            0x2e => "dnQualifier",
            0x41 => "pseudonym",
            _ => return None,
        },
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x01] => "UID",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19] => "DC",
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01] => "emailAddress",
        _ => return None,
    })
}

/// A name, its last part first.
pub(super) fn text(der: &[u8]) -> Option<String> {
    let mut name = Reader::new(der).enter(Tag::SEQUENCE)?;
    let mut parts = Vec::new();
    while !name.is_empty() {
        let mut set = name.enter(Tag::SET)?;
        let mut attributes = Vec::new();
        while !set.is_empty() {
            let mut attribute = set.enter(Tag::SEQUENCE)?;
            let oid = attribute.read(Tag::OID)?;
            let (tag, value) = attribute.any()?;
            attributes.push(match (short(oid), decode(tag, value)) {
                (Some(kind), Some(value)) => format!("{kind}={}", escape(&value)),
                // What has no name is dumped with its header.
                (kind, _) => {
                    let kind = kind.map_or_else(|| oid_text(oid), |kind| Some(kind.to_owned()))?;
                    format!("{kind}=#{}", hex(&dump(tag, value)).to_uppercase())
                }
            });
        }
        // OpenSSL prints the whole list backwards.
        attributes.reverse();
        parts.push(attributes.join("+"));
    }
    parts.reverse();
    Some(parts.join(","))
}

fn dump(tag: Tag, value: &[u8]) -> Vec<u8> {
    let mut out = vec![tag.0];
    match u8::try_from(value.len()) {
        Ok(length @ 0..=0x7f) => out.push(length),
        Ok(length) => out.extend([0x81, length]),
        Err(_) => {
            out.push(0x84);
            out.extend(u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
    out.extend(value);
    out
}

/// The last common name.
pub(super) fn common_name(der: &[u8]) -> Option<String> {
    let mut name = Reader::new(der).enter(Tag::SEQUENCE)?;
    let mut found = None;
    while !name.is_empty() {
        let mut set = name.enter(Tag::SET)?;
        while !set.is_empty() {
            let mut attribute = set.enter(Tag::SEQUENCE)?;
            let oid = attribute.read(Tag::OID)?;
            let (tag, value) = attribute.any()?;
            if oid == COMMON_NAME {
                found = decode(tag, value);
            }
        }
    }
    found
}

/// The text of a string type; `None` for other types.
fn decode(tag: Tag, value: &[u8]) -> Option<String> {
    match tag.0 {
        // UTF8String, NumericString, PrintableString, IA5String
        0x0c | 0x12 | 0x13 | 0x16 => std::str::from_utf8(value).ok().map(str::to_owned),
        // T61String, as everyone: Latin-1
        0x14 => Some(value.iter().copied().map(char::from).collect()),
        // BMPString
        0x1e => {
            let units: Vec<u16> =
                value.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            String::from_utf16(&units).ok()
        }
        // UniversalString
        0x1c => value
            .chunks_exact(4)
            .map(|c| char::from_u32(u32::from_be_bytes([c[0], c[1], c[2], c[3]])))
            .collect(),
        _ => None,
    }
}

fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b' ' if at == 0 || at == last => out.push_str("\\ "),
            b'#' if at == 0 => out.push_str("\\#"),
            0x20..=0x7e => out.push(char::from(byte)),
            // Writing to a string does not fail.
            _ => _ = write!(out, "\\{byte:02X}"),
        }
    }
    out
}
