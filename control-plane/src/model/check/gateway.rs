//! Checks of a Gateway.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Checker, host, observe, resilience};
use crate::model::{ObjectName, listener_address, listener_name};
use xds_types::portolan::config::v1::{Gateway, Listener, listener};

pub(super) fn check(g: &Gateway, at: &mut Checker<'_>) {
    let Gateway {
        listeners,
        group,
        access_log,
        use_remote_address,
        limits,
        trusted_hops,
        tracing,
        metadata,
        local_replies,
        service,
        patch: _,
    } = g;
    super::tls::gateway(group, service, at);
    if listeners.is_empty() {
        at.error("spec.listeners", "must hold at least one listener");
    }
    let (mut names, mut ports) = (BTreeSet::new(), Vec::<(IpAddr, u32, usize)>::new());
    for (i, l) in listeners.iter().enumerate() {
        let path = format!("spec.listeners[{i}]");
        let Listener {
            name,
            address,
            port,
            protocol,
            hostnames,
            tls: _,
            mtls: _,
            redirect_to_https: _,
            proxy_protocol,
        } = l;
        super::tls::listener(&path, l, g, at);
        let full = listener_name(l);
        if let Err(e) = ObjectName::new(&full) {
            at.error(format!("{path}.name"), format!("`{name}` {e}"));
        }
        if !names.insert(full.clone()) {
            at.error(format!("{path}.name"), format!("`{full}` is there twice"));
        }
        at.port(&format!("{path}.port"), *port);
        if listener::Protocol::try_from(*protocol).is_err() {
            at.error(format!("{path}.protocol"), "is not a protocol");
        }
        match listener_address(l) {
            None => at.error(format!("{path}.address"), format!("`{address}` is not an IP address")),
            Some(ip) => {
                let taken = |(a, p, other): &&(IpAddr, u32, usize)| {
                    p == port && addresses_clash(*a, ip) && !super::tls::told_apart(&listeners[*other], l)
                };
                if let Some((_, _, other)) = ports.iter().find(taken) {
                    at.error(format!("{path}.port"), format!("{port} is taken by listeners[{other}]"));
                }
                let on_it = |(a, p, other): &&(IpAddr, u32, usize)| {
                    *a == ip && p == port && listeners[*other].proxy_protocol != *proxy_protocol
                };
                if let Some((_, _, other)) = ports.iter().find(on_it) {
                    let message = format!("must be as that of listeners[{other}], on the same port");
                    at.error(format!("{path}.proxy_protocol"), message);
                }
                ports.push((ip, *port, i));
            }
        }
        check_hosts(&format!("{path}.hostnames"), hostnames, false, at);
        if !hostnames.is_empty() && *protocol == i32::from(listener::Protocol::Tcp) {
            at.error(format!("{path}.hostnames"), "cannot be told apart on a TCP listener");
        }
    }
    if let Some(log) = access_log {
        observe::access_log(log, at);
    }
    if let Some(tracing) = tracing {
        observe::tracing(tracing, at);
    }
    observe::header_metadata(metadata, at);
    if let Some(replies) = local_replies {
        observe::local_replies(replies, at);
    }
    if let Some(limits) = limits {
        resilience::gateway(limits, at);
    }
    if *trusted_hops > 32 {
        at.error("spec.trusted_hops", "must be 0 to 32");
    }
    if *trusted_hops > 0 && use_remote_address.as_ref().is_some_and(|u| !u.value) {
        at.warn("spec.trusted_hops", "is counted from the end of x-forwarded-for, without the peer itself");
    }
}

/// Whether sockets on these two addresses and one port cannot both be bound.
pub fn addresses_clash(a: IpAddr, b: IpAddr) -> bool {
    a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
}

/// Host names, each once whatever their case.
pub(super) fn check_hosts(path: &str, hosts: &[String], any: bool, at: &mut Checker<'_>) {
    let mut seen = BTreeSet::new();
    for (i, name) in hosts.iter().enumerate() {
        let path = format!("{path}[{i}]");
        if let Err(message) = host(name, any) {
            at.error(path, format!("`{name}` {message}"));
        } else if !seen.insert(name.to_ascii_lowercase()) {
            at.error(path, format!("`{name}` is there twice"));
        }
    }
}
