//! `/listeners`: names and bound addresses.

use super::page::{Page, Params};
use super::proxy::Proxy;
use crate::listener::State;
use serde_json::{Value, json};
use std::fmt::Write;
use std::net::SocketAddr;

pub(super) fn page(proxy: &dyn Proxy, params: &Params) -> Page {
    let listeners = proxy.listeners();
    let active = listeners.iter().filter(|l| l.state == State::Active);
    if params.get("format") == Some("json") {
        let statuses: Vec<Value> = active
            .map(|listener| {
                let mut addresses = listener.addresses.iter().map(address);
                let mut status = json!({ "name": listener.name, "local_address": addresses.next() });
                let more: Vec<Value> = addresses.collect();
                if !more.is_empty() {
                    status["additional_local_addresses"] = more.into();
                }
                status
            })
            .collect();
        return Page::json(&json!({ "listener_statuses": statuses }));
    }
    let mut out = String::new();
    for listener in active {
        for address in &listener.addresses {
            let _ = writeln!(out, "{}::{address}", listener.name);
        }
    }
    Page::text(out)
}

/// An address in the shape of `envoy.config.core.v3.Address`.
pub(super) fn address(address: &SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}
