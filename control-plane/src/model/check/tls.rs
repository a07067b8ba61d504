//! Checks of what Gateways and Services say of TLS.

use std::collections::BTreeSet;

use super::{Checker, host};
use crate::model::{ObjectName, ServiceName, listener_address};
use xds_types::portolan::config::v1::listener::Protocol;
use xds_types::portolan::config::v1::mutual_tls::Mode;
use xds_types::portolan::config::v1::subject_name::Name;
use xds_types::portolan::config::v1::{
    Gateway, Listener, ListenerTls, ServiceTls, SubjectName, service_tls, tls_version,
};

/// Longest name of a protocol in ALPN, bytes (RFC 7301).
const MAX_ALPN: usize = 255;

pub(super) fn service(mtls: i32, tls: Option<&ServiceTls>, at: &mut Checker<'_>) {
    if Mode::try_from(mtls).is_err() {
        at.error("spec.mtls", "must be off, permissive or strict");
    }
    let Some(tls) = tls else { return };
    let ServiceTls { mode, sni, ca, client_certificate, sans, min_version } = tls;
    if is_on(mtls) {
        at.error("spec.tls", "cannot be used with `mtls`, which sets up TLS by itself");
    }
    if service_tls::Mode::try_from(*mode).is_err() {
        at.error("spec.tls.mode", "must be verify or skip_verify");
    }
    let skips = *mode == i32::from(service_tls::Mode::SkipVerify);
    if skips && (!ca.is_empty() || !sans.is_empty()) {
        at.error("spec.tls", "has nothing to verify with `skip_verify`: leave `ca` and `sans` out");
    } else if skips {
        at.warn("spec.tls.mode", "whoever answers is believed");
    }
    if !sni.is_empty() && (host(sni, false).is_err() || sni.contains(['*', '['])) {
        at.error("spec.tls.sni", format!("`{sni}` is not a host name"));
    }
    for (field, name) in [("ca", ca), ("client_certificate", client_certificate)] {
        if !name.is_empty() {
            secret_name(&format!("spec.tls.{field}"), name, at);
        }
    }
    for (i, SubjectName { name }) in sans.iter().enumerate() {
        let path = format!("spec.tls.sans[{i}]");
        match name {
            None => at.error(path, "must be one of dns, ip and uri"),
            Some(Name::Dns(dns)) if host(dns, false).is_err() => {
                at.error(path, format!("`{dns}` is not a host name"));
            }
            Some(Name::Ip(ip)) if ip.parse::<std::net::IpAddr>().is_err() => {
                at.error(path, format!("`{ip}` is not an IP address"));
            }
            Some(Name::Uri(uri)) if !uri.contains(':') => at.error(path, format!("`{uri}` is not a URI")),
            Some(_) => {}
        }
    }
    version("spec.tls.min_version", *min_version, at);
}

pub(super) fn gateway(group: &str, service: &str, at: &mut Checker<'_>) {
    if service.is_empty() {
        return;
    }
    if let Err(e) = ServiceName::new(service) {
        at.error("spec.service", format!("`{service}` {e}"));
    }
    if group.is_empty() {
        at.error("spec.group", "is needed with `service`: the proxies of the group take its identity");
    }
}

pub(super) fn listener(path: &str, l: &Listener, g: &Gateway, at: &mut Checker<'_>) {
    let https = l.protocol == i32::from(Protocol::Https);
    let http = l.protocol == i32::from(Protocol::Http);
    let passes = l.protocol == i32::from(Protocol::TlsPassthrough);
    if Mode::try_from(l.mtls).is_err() {
        at.error(format!("{path}.mtls"), "must be off, permissive or strict");
    }
    match &l.tls {
        None if https => at.error(format!("{path}.tls"), "is needed by HTTPS"),
        Some(_) if !https => at.error(format!("{path}.tls"), "needs `protocol: HTTPS`"),
        Some(tls) => listener_tls(&format!("{path}.tls"), tls, at),
        None => {}
    }
    if is_on(l.mtls) && https {
        at.error(format!("{path}.mtls"), "needs `protocol: HTTP`: it sets up TLS by itself");
    }
    if is_on(l.mtls) && passes {
        at.error(format!("{path}.mtls"), "needs `protocol: TCP`: TLS is not ended here");
    }
    if is_on(l.mtls) && g.group.is_empty() {
        at.error("spec.group", "is needed with `mtls`: the proxies of the group take its identity");
    }
    if l.redirect_to_https > 0 {
        let path = format!("{path}.redirect_to_https");
        if !http {
            at.error(&*path, "is of use on HTTP listeners only");
        }
        at.port(&path, l.redirect_to_https);
    }
}

fn listener_tls(path: &str, tls: &ListenerTls, at: &mut Checker<'_>) {
    let ListenerTls { certificates, client_ca, require_client_certificate, min_version, alpn } = tls;
    if certificates.is_empty() {
        at.error(format!("{path}.certificates"), "must name at least one Secret");
    }
    let mut seen = BTreeSet::new();
    for (i, name) in certificates.iter().enumerate() {
        let path = format!("{path}.certificates[{i}]");
        secret_name(&path, name, at);
        if !seen.insert(name) {
            at.error(path, format!("`{name}` is there twice"));
        }
    }
    if !client_ca.is_empty() {
        secret_name(&format!("{path}.client_ca"), client_ca, at);
    } else if *require_client_certificate {
        at.error(format!("{path}.client_ca"), "is needed by `require_client_certificate`");
    }
    version(&format!("{path}.min_version"), *min_version, at);
    for (i, name) in alpn.iter().enumerate() {
        if name.is_empty() || name.len() > MAX_ALPN {
            at.error(format!("{path}.alpn[{i}]"), "must be 1 to 255 bytes");
        } else if !matches!(name.as_str(), "h2" | "http/1.1") {
            at.error(format!("{path}.alpn[{i}]"), "must be `h2` or `http/1.1`");
        }
    }
}

fn version(path: &str, version: i32, at: &mut Checker<'_>) {
    if tls_version::Version::try_from(version).is_err() {
        at.error(path, "must be tls_1_2 or tls_1_3");
    }
}

fn secret_name(path: &str, name: &str, at: &mut Checker<'_>) {
    if let Err(e) = ObjectName::new(name) {
        at.error(path, format!("`{name}` {e}"));
    }
}

/// Whether mutual TLS is spoken.
pub fn is_on(mtls: i32) -> bool {
    matches!(Mode::try_from(mtls), Ok(Mode::Permissive | Mode::Strict))
}

/// Whether two listeners of one gateway may share a socket, because SNI tells their connections apart.
pub(super) fn told_apart(a: &Listener, b: &Listener) -> bool {
    let names = |l: &Listener| {
        matches!(Protocol::try_from(l.protocol), Ok(Protocol::Https | Protocol::TlsPassthrough))
    };
    let hosts = |l: &Listener| -> BTreeSet<String> {
        if l.hostnames.is_empty() {
            [String::new()].into()
        } else {
            l.hostnames.iter().map(|h| h.to_ascii_lowercase()).collect()
        }
    };
    names(a) && names(b) && listener_address(a) == listener_address(b) && hosts(a).is_disjoint(&hosts(b))
}
