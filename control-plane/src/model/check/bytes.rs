//! What a Route may say where bytes are carried and nothing is known of requests.

use crate::model::{carries_bytes, listener_name};
use xds_types::portolan::config::v1::hash_key::By;
use xds_types::portolan::config::v1::listener::Protocol;
use xds_types::portolan::config::v1::{HashKey, Listener, Route, Rule};

/// What is wrong with `route` for a listener that carries bytes: where, and why.
pub fn problems(route: &Route, listener: &Listener) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if !carries_bytes(listener) {
        return found;
    }
    let name = listener_name(listener);
    let mut say = |path: &str, what: &str| {
        found.push((path.to_owned(), format!("{what}: listener `{name}` carries bytes")));
    };
    let Route { gateways: _, mesh, hosts, rules, listeners: _, patch } = route;
    if *mesh {
        say("spec.mesh", "is of use for requests only");
    }
    if !patch.is_empty() {
        say("spec.patch", "has nothing to change");
    }
    if !hosts.is_empty() && listener.protocol == i32::from(Protocol::Tcp) {
        say("spec.hosts", "cannot be told apart");
    }
    if rules.len() > 1 {
        say("spec.rules", "must hold one rule only");
    }
    let Some(rule) = rules.first() else { return found };
    let Rule {
        name: _,
        matches,
        backends,
        redirect,
        respond,
        rewrite,
        request_headers,
        response_headers,
        timeout,
        retry,
        mirrors,
        hash,
        idle_timeout: _,
        priority,
    } = rule;
    for (field, is_set) in [
        ("matches", !matches.is_empty()),
        ("redirect", redirect.is_some()),
        ("respond", respond.is_some()),
        ("rewrite", rewrite.is_some()),
        ("request_headers", request_headers.is_some()),
        ("response_headers", response_headers.is_some()),
        ("timeout", timeout.is_some()),
        ("retry", retry.is_some()),
        ("mirrors", !mirrors.is_empty()),
        ("priority", *priority != 0),
    ] {
        if is_set {
            say(&format!("spec.rules[0].{field}"), "is of use for requests only");
        }
    }
    if backends.is_empty() {
        say("spec.rules[0].backends", "must name a service");
    }
    for (i, HashKey { by, terminal: _ }) in hash.iter().enumerate() {
        if i > 0 || !matches!(by, Some(By::ClientIp(true))) {
            say(&format!("spec.rules[0].hash[{i}]"), "must be `client_ip` alone");
        }
    }
    found
}
