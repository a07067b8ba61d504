//! Commands about certificates and TLS connections.

use super::time::Pattern;
use crate::certificate::San;
use crate::headers::{CertificateFacts, Record, Tls};
use std::time::{Duration, UNIX_EPOCH};
use time::UtcOffset;

/// Whose connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Downstream,
    Upstream,
}

/// What is printed of it.
#[derive(Clone, Debug)]
pub(super) enum What {
    Of(fn(&Tls, &mut Vec<u8>) -> Option<()>),
    ValidFrom(Pattern),
    ValidUntil(Pattern),
}

impl Side {
    fn of<'a>(self, record: &Record<'a>) -> Option<&'a Tls> {
        match self {
            Self::Downstream => record.downstream?.tls.as_deref(),
            Self::Upstream => record.upstream?.tls,
        }
    }
}

/// Prints what a command stands for; `None` when there is nothing.
pub(super) type Print = fn(&Tls, &mut Vec<u8>) -> Option<()>;

/// What a command prints; `None` when there is none of that name, or nothing ever has its value here (session ids are
/// not known, JA3 and JA4 fingerprints not made).
pub(super) fn command(rest: &str) -> Option<Print> {
    Some(match rest {
        "TLS_VERSION" => |tls, out| text(tls.version, out),
        "TLS_CIPHER" => |tls, out| text(tls.cipher, out),
        "TLS_GROUP" => |tls, out| text(tls.group, out),
        "LOCAL_SUBJECT" => |tls, out| text(&tls.local.as_ref()?.certificate.subject, out),
        "LOCAL_URI_SAN" => |tls, out| names(tls.local.as_deref(), |san| matches!(san, San::Uri(_)), out),
        "LOCAL_DNS_SAN" => |tls, out| names(tls.local.as_deref(), |san| matches!(san, San::Dns(_)), out),
        "LOCAL_IP_SAN" => |tls, out| names(tls.local.as_deref(), |san| matches!(san, San::Ip(_)), out),
        "LOCAL_EMAIL_SAN" => |tls, out| names(tls.local.as_deref(), |san| matches!(san, San::Email(_)), out),
        "LOCAL_OTHERNAME_SAN" => {
            |tls, out| names(tls.local.as_deref(), |san| matches!(san, San::Other(..)), out)
        }
        "PEER_SUBJECT" => |tls, out| text(&tls.peer.first()?.certificate.subject, out),
        "PEER_ISSUER" => |tls, out| text(&tls.peer.first()?.certificate.issuer, out),
        "PEER_URI_SAN" => |tls, out| names(tls.peer.first(), |san| matches!(san, San::Uri(_)), out),
        "PEER_DNS_SAN" => |tls, out| names(tls.peer.first(), |san| matches!(san, San::Dns(_)), out),
        "PEER_IP_SAN" => |tls, out| names(tls.peer.first(), |san| matches!(san, San::Ip(_)), out),
        "PEER_EMAIL_SAN" => |tls, out| names(tls.peer.first(), |san| matches!(san, San::Email(_)), out),
        "PEER_OTHERNAME_SAN" => |tls, out| names(tls.peer.first(), |san| matches!(san, San::Other(..)), out),
        "PEER_SERIAL" => |tls, out| text(&tls.peer.first()?.certificate.serial, out),
        "PEER_FINGERPRINT_256" => |tls, out| text(&tls.peer.first()?.sha256, out),
        "PEER_FINGERPRINT_1" => |tls, out| text(&tls.peer.first()?.sha1, out),
        "PEER_CHAIN_FINGERPRINTS_256" => |tls, out| list(tls.peer.iter().map(|c| &*c.sha256), out),
        "PEER_CHAIN_FINGERPRINTS_1" => |tls, out| list(tls.peer.iter().map(|c| &*c.sha1), out),
        "PEER_CHAIN_SERIALS" => |tls, out| list(tls.peer.iter().map(|c| &*c.certificate.serial), out),
        "PEER_ISSUER_FINGERPRINT_256" => |tls, out| text(&tls.peer.get(1)?.sha256, out),
        "PEER_ISSUER_SERIAL" => |tls, out| text(&tls.peer.get(1)?.certificate.serial, out),
        "PEER_CERT" => |tls, out| {
            tls.peer.first()?.append_pem(out);
            Some(())
        },
        _ => return None,
    })
}

/// Renders; `None` when there is no value.
pub(super) fn render(side: Side, what: &What, record: &Record<'_>, out: &mut Vec<u8>) -> Option<()> {
    let tls = side.of(record)?;
    let (pattern, seconds) = match what {
        What::Of(print) => return print(tls, out),
        What::ValidFrom(pattern) => (pattern, tls.peer.first()?.certificate.not_before),
        What::ValidUntil(pattern) => (pattern, tls.peer.first()?.certificate.not_after),
    };
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))?;
    pattern.render(at, UtcOffset::UTC, out);
    Some(())
}

fn text(value: &str, out: &mut Vec<u8>) -> Option<()> {
    if value.is_empty() {
        return None;
    }
    out.extend_from_slice(value.as_bytes());
    Some(())
}

fn names(of: Option<&CertificateFacts>, kind: fn(&San) -> bool, out: &mut Vec<u8>) -> Option<()> {
    let names: Vec<String> = of?.names(kind).collect();
    text(&names.join(","), out)
}

fn list<'a>(parts: impl Iterator<Item = &'a str>, out: &mut Vec<u8>) -> Option<()> {
    text(&parts.collect::<Vec<_>>().join(","), out)
}
