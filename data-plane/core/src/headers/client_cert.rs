//! x-forwarded-client-cert: who the client is, as its certificate says.

use super::{HeaderId, HeaderList, Tls};
use crate::certificate::San;

/// What becomes of the header (Envoy `ForwardClientCertDetails`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardClientCert {
    /// Removed.
    #[default]
    Sanitize,
    /// Kept on connections with a client certificate, else removed.
    ForwardOnly,
    /// With a client certificate: this connection's is appended; else removed.
    AppendForward,
    /// With a client certificate: this connection's takes its place; else removed.
    SanitizeSet,
    /// Kept.
    AlwaysForwardOnly,
}

/// What is told of a client certificate besides its hash (Envoy `SetCurrentClientCertDetails`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCertDetails {
    /// `Subject=`
    pub subject: bool,
    /// `Cert=`
    pub cert: bool,
    /// `Chain=`
    pub chain: bool,
    /// `DNS=`
    pub dns: bool,
    /// `URI=`
    pub uri: bool,
}

/// Edits the header of a request that came by a connection with `tls`.
pub fn forward_client_cert(
    headers: &mut HeaderList,
    mode: ForwardClientCert,
    details: ClientCertDetails,
    tls: Option<&Tls>,
) {
    use ForwardClientCert as Mode;
    const ID: HeaderId = HeaderId::XForwardedClientCert;
    let mutual = tls.filter(|tls| !tls.peer.is_empty());
    let tls = match (mode, mutual) {
        (Mode::AlwaysForwardOnly, _) | (Mode::ForwardOnly, Some(_)) => return,
        (Mode::Sanitize | Mode::ForwardOnly, _) | (_, None) => {
            headers.remove_id(ID);
            return;
        }
        (Mode::AppendForward | Mode::SanitizeSet, Some(tls)) => tls,
    };
    let mut value = match headers.joined(ID.as_str().as_bytes()) {
        Some(former) if mode == Mode::AppendForward && !former.is_empty() => {
            let mut former = former.into_owned();
            former.push(b',');
            former
        }
        _ => Vec::new(),
    };
    element(tls, details, &mut value);
    headers.set_id(ID, &value);
}

fn element(tls: &Tls, details: ClientCertDetails, out: &mut Vec<u8>) {
    let Some(peer) = tls.peer.first() else { return };
    let start = out.len();
    let key = |out: &mut Vec<u8>, key: &str| {
        if out.len() > start {
            out.push(b';');
        }
        out.extend_from_slice(key.as_bytes());
    };
    for uri in tls.local.iter().flat_map(|local| local.names(|san| matches!(san, San::Uri(_)))) {
        key(out, "By=");
        out.extend_from_slice(uri.as_bytes());
    }
    key(out, "Hash=");
    out.extend_from_slice(peer.sha256.as_bytes());
    if details.cert {
        key(out, "Cert=\"");
        peer.append_pem(out);
        out.push(b'"');
    }
    if details.chain {
        key(out, "Chain=\"");
        tls.peer.iter().for_each(|certificate| certificate.append_pem(out));
        out.push(b'"');
    }
    if details.subject {
        key(out, "Subject=\"");
        out.extend_from_slice(peer.certificate.subject.as_bytes());
        out.push(b'"');
    }
    if details.uri {
        let mut uris = peer.names(|san| matches!(san, San::Uri(_)));
        // Envoy: also where there is none, then empty.
        key(out, "URI=");
        out.extend_from_slice(uris.next().unwrap_or_default().as_bytes());
        for uri in uris {
            key(out, "URI=");
            out.extend_from_slice(uri.as_bytes());
        }
    }
    if details.dns {
        for name in peer.names(|san| matches!(san, San::Dns(_))) {
            key(out, "DNS=");
            out.extend_from_slice(name.as_bytes());
        }
    }
}
