//! Checks of a Gateway.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Checker, format, host, resilience};
use crate::model::{ObjectName, listener_address, listener_name};
use xds_types::google::protobuf::{Struct, Value, value::Kind};
use xds_types::portolan::config::v1::{AccessLog, Gateway, Listener, listener};

pub(super) fn check(g: &Gateway, at: &mut Checker<'_>) {
    let Gateway { listeners, group, access_log, use_remote_address, limits, trusted_hops, service, patch: _ } =
        g;
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
        check_access_log(log, at);
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

fn check_access_log(log: &AccessLog, at: &mut Checker<'_>) {
    let AccessLog { path, format: line, json } = log;
    if path.is_empty() {
        at.error("spec.access_log.path", "must not be empty; `/dev/stdout` is the standard output");
    }
    if !line.is_empty() && json.is_some() {
        at.error("spec.access_log", "must not have both format and json");
    }
    if let Err(message) = format(&line.replace('\n', " ")) {
        at.error("spec.access_log.format", message);
    }
    if let Some(json) = json {
        check_json("spec.access_log.json", json, at);
    }
}

fn check_json(path: &str, json: &Struct, at: &mut Checker<'_>) {
    let mut members: Vec<_> = json.fields.iter().collect();
    members.sort_by_key(|(name, _)| *name);
    for (name, value) in members {
        check_value(&format!("{path}[\"{name}\"]"), value, at);
    }
}

fn check_value(path: &str, value: &Value, at: &mut Checker<'_>) {
    match &value.kind {
        Some(Kind::StringValue(text)) => {
            if let Err(message) = format(text) {
                at.error(path, message);
            }
        }
        Some(Kind::StructValue(inner)) => check_json(path, inner, at),
        Some(Kind::ListValue(list)) => {
            for (i, v) in list.values.iter().enumerate() {
                check_value(&format!("{path}[{i}]"), v, at);
            }
        }
        Some(Kind::NumberValue(_) | Kind::BoolValue(_) | Kind::NullValue(_)) | None => {}
    }
}
