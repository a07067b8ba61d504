//! Checks of a Route, and of what gRPC clients can follow of it.
//!
//! A proxyless gRPC client ignores, or refuses as a whole, what it does not know: redirects, direct answers,
//! rewrites, header edits, query matches (gRFC A28). A route attached to the mesh must not have them, because
//! it would quietly do something else than it says.

use std::collections::BTreeSet;

use super::gateway::check_hosts;
use super::{Checker, Zero, format, header_name, resilience};
use crate::model::{ObjectName, ServiceName};
use xds_types::portolan::config::v1::{
    Backend, DirectResponse, HeaderEdits, Match, Redirect, Rewrite, Route, Rule, ValueMatch, r#match::Path,
    rule::Priority, value_match::Value,
};

/// Largest answer of a direct response, bytes (Envoy: `max_direct_response_body_size_bytes`).
const MAX_BODY: usize = 4096;

pub(super) fn check(r: &Route, at: &mut Checker<'_>) {
    let Route { gateways, mesh, hosts, rules, listeners, patch: _ } = r;
    if gateways.is_empty() && !mesh {
        at.error(
            "spec.gateways",
            "must name a gateway, or `mesh` must be true: else the route serves nobody",
        );
    }
    let mut seen = BTreeSet::new();
    for (i, gateway) in gateways.iter().enumerate() {
        let path = format!("spec.gateways[{i}]");
        if let Err(e) = ObjectName::new(gateway) {
            at.error(path, format!("`{gateway}` {e}"));
        } else if !seen.insert(gateway) {
            at.error(path, format!("`{gateway}` is there twice"));
        }
    }
    let mut seen = BTreeSet::new();
    for (i, name) in listeners.iter().enumerate() {
        let path = format!("spec.listeners[{i}]");
        if let Err(e) = ObjectName::new(name) {
            at.error(path, format!("`{name}` {e}"));
        } else if !seen.insert(name) {
            at.error(path, format!("`{name}` is there twice"));
        }
    }
    if !listeners.is_empty() && gateways.is_empty() {
        at.error("spec.listeners", "needs `gateways`");
    }
    check_hosts("spec.hosts", hosts, true, at);
    if rules.is_empty() {
        at.error("spec.rules", "must hold at least one rule");
    }
    let mut names = BTreeSet::new();
    for (i, rule) in rules.iter().enumerate() {
        let path = format!("spec.rules[{i}]");
        if !rule.name.is_empty() && !names.insert(&rule.name) {
            at.error(format!("{path}.name"), format!("`{}` is there twice", rule.name));
        }
        check_rule(&path, rule, at);
        if *mesh {
            check_for_grpc(&path, rule, at);
        }
    }
    check_shadowed(rules, at);
}

fn check_rule(path: &str, rule: &Rule, at: &mut Checker<'_>) {
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
        idle_timeout,
        priority,
    } = rule;
    for (i, m) in matches.iter().enumerate() {
        check_match(&format!("{path}.matches[{i}]"), m, at);
    }
    let actions =
        usize::from(!backends.is_empty()) + usize::from(redirect.is_some()) + usize::from(respond.is_some());
    match actions {
        0 => at.error(path, "must say what happens: backends, redirect or respond"),
        1 => {}
        _ => at.error(path, "must have only one of backends, redirect and respond"),
    }
    check_backends(path, backends, at);
    if let Some(r) = redirect {
        check_redirect(&format!("{path}.redirect"), r, matches, at);
    }
    if let Some(DirectResponse { status, body }) = respond {
        if !(200..600).contains(status) {
            at.error(format!("{path}.respond.status"), "must be 200 to 599");
        }
        if body.len() > MAX_BODY {
            at.error(format!("{path}.respond.body"), format!("must be at most {MAX_BODY} bytes long"));
        }
    }
    if let Some(Rewrite { prefix, host }) = rewrite {
        let at_path = format!("{path}.rewrite");
        if backends.is_empty() {
            at.error(&at_path, "needs backends: nothing is sent on");
        }
        if !prefix.is_empty() {
            check_new_path(&format!("{at_path}.prefix"), prefix, at);
            check_prefix_known(&format!("{at_path}.prefix"), matches, at);
        }
        if !host.is_empty() && !is_authority(host) {
            at.error(format!("{at_path}.host"), format!("`{host}` is not a host"));
        }
        if prefix.is_empty() && host.is_empty() {
            at.error(at_path, "must have a prefix or a host");
        }
    }
    for (field, edits) in [("request_headers", request_headers), ("response_headers", response_headers)] {
        if let Some(edits) = edits {
            check_edits(&format!("{path}.{field}"), edits, at);
        }
    }
    if request_headers.is_some() && backends.is_empty() {
        at.error(format!("{path}.request_headers"), "needs backends: nothing is sent on");
    }
    at.duration(&format!("{path}.timeout"), timeout.as_ref(), Zero::Allowed);
    if timeout.is_some() && backends.is_empty() {
        at.error(format!("{path}.timeout"), "needs backends: nothing is waited for");
    }
    at.duration(&format!("{path}.idle_timeout"), idle_timeout.as_ref(), Zero::Allowed);
    let needs = [
        ("idle_timeout", idle_timeout.is_some()),
        ("retry", retry.is_some()),
        ("mirrors", !mirrors.is_empty()),
        ("hash", !hash.is_empty()),
        ("priority", *priority != 0),
    ];
    if Priority::try_from(*priority).is_err() {
        at.error(format!("{path}.priority"), "must be normal or high");
    }
    for (field, _) in needs.iter().filter(|(_, set)| *set && backends.is_empty()) {
        at.error(format!("{path}.{field}"), "needs backends: nothing is sent on");
    }
    resilience::rule(path, retry.as_ref(), mirrors, hash, at);
}

fn check_match(path: &str, m: &Match, at: &mut Checker<'_>) {
    let Match { path: on, method, headers, query, grpc } = m;
    match on {
        Some(Path::Prefix(p)) => check_path(&format!("{path}.prefix"), p, at),
        Some(Path::Exact(p)) => check_path(&format!("{path}.exact"), p, at),
        Some(Path::PathPrefix(p)) => check_path(&format!("{path}.path_prefix"), p, at),
        Some(Path::Regex(r)) => at.regex(&format!("{path}.regex"), r),
        None => {}
    }
    if !method.is_empty() && !method.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
        at.error(format!("{path}.method"), format!("`{method}` is not a method"));
    } else if method.bytes().any(|b| b.is_ascii_lowercase()) {
        at.warn(format!("{path}.method"), format!("`{method}`: methods are case-sensitive, and uppercase"));
    }
    for (i, h) in headers.iter().enumerate() {
        let path = format!("{path}.headers[{i}]");
        if let Err(message) = header_name(&h.name) {
            at.error(format!("{path}.name"), format!("`{}` {message}", h.name));
        }
        check_value(&path, h, at);
    }
    for (i, q) in query.iter().enumerate() {
        let path = format!("{path}.query[{i}]");
        if q.name.is_empty() {
            at.error(format!("{path}.name"), "must not be empty");
        }
        if q.not {
            at.error(format!("{path}.not"), "is not possible for query parameters");
        }
        if matches!(q.value, Some(Value::Present(false))) {
            at.error(format!("{path}.present"), "must be true: a parameter cannot be required to be absent");
        }
        check_value(&path, q, at);
    }
    if !grpc.is_empty() {
        if on.is_some() {
            at.error(format!("{path}.grpc"), "stands in place of a path; remove one of them");
        }
        let part =
            |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b"._".contains(&b));
        let (service, call) = grpc.split_once('/').map_or((grpc.as_str(), None), |(s, c)| (s, Some(c)));
        if !part(service) || call.is_some_and(|c| !part(c)) {
            at.error(format!("{path}.grpc"), "must be `package.Service` or `package.Service/Method`");
        }
    }
}

fn check_value(path: &str, m: &ValueMatch, at: &mut Checker<'_>) {
    match &m.value {
        Some(Value::Regex(r)) => at.regex(&format!("{path}.regex"), r),
        Some(Value::Prefix(p)) if p.is_empty() => at.error(format!("{path}.prefix"), "must not be empty"),
        Some(Value::Suffix(s)) if s.is_empty() => at.error(format!("{path}.suffix"), "must not be empty"),
        Some(Value::Exact(_) | Value::Prefix(_) | Value::Suffix(_) | Value::Present(_)) | None => {}
    }
}

/// A path to compare with that of requests.
fn check_path(path: &str, value: &str, at: &mut Checker<'_>) {
    if !value.starts_with('/') {
        at.error(path, format!("`{value}` must begin with `/`"));
    } else if value.contains(['?', '#']) {
        at.error(path, format!("`{value}` must not hold `?` or `#`: a path is matched without its query"));
    } else if value.bytes().any(|b| b <= b' ' || b == 0x7f) {
        at.error(path, "must not hold spaces or control characters");
    }
}

/// A path to write into requests or answers.
fn check_new_path(path: &str, value: &str, at: &mut Checker<'_>) {
    if !value.starts_with('/') {
        at.error(path, format!("`{value}` must begin with `/`"));
    } else if value.bytes().any(|b| b <= b' ' || b == 0x7f) {
        at.error(path, "must not hold spaces or control characters");
    }
}

fn check_prefix_known(path: &str, matches: &[Match], at: &mut Checker<'_>) {
    let by_prefix =
        |m: &Match| matches!(m.path, Some(Path::Prefix(_) | Path::PathPrefix(_) | Path::Exact(_)));
    if !matches.iter().all(by_prefix) || matches.is_empty() {
        at.error(
            path,
            "needs every match to be by prefix, path_prefix or exact: there is nothing to replace",
        );
    }
}

fn check_backends(path: &str, backends: &[Backend], at: &mut Checker<'_>) {
    let (mut total, mut seen) = (0u64, BTreeSet::new());
    for (i, Backend { service, subset, weight }) in backends.iter().enumerate() {
        let path = format!("{path}.backends[{i}]");
        if let Err(e) = ServiceName::new(service) {
            at.error(format!("{path}.service"), format!("`{service}` {e}"));
        }
        if !subset.is_empty()
            && let Err(e) = ObjectName::new(subset)
        {
            at.error(format!("{path}.subset"), format!("`{subset}` {e}"));
        }
        if !seen.insert((service, subset)) {
            at.error(&path, "is there twice");
        }
        total += u64::from(weight.as_ref().map_or(1, |w| w.value));
    }
    if !backends.is_empty() && total == 0 {
        at.error(format!("{path}.backends"), "must not all have weight 0");
    }
    if total > u64::from(u32::MAX) {
        at.error(format!("{path}.backends"), format!("weights must sum to at most {}", u32::MAX));
    }
}

fn check_redirect(path: &str, r: &Redirect, matches: &[Match], at: &mut Checker<'_>) {
    let Redirect { scheme, host, port, path: whole, prefix, status } = r;
    if !matches!(scheme.as_str(), "" | "http" | "https") {
        at.error(format!("{path}.scheme"), "must be `http` or `https`");
    }
    if !host.is_empty() && !is_authority(host) {
        at.error(format!("{path}.host"), format!("`{host}` is not a host"));
    }
    if *port > 65_535 {
        at.error(format!("{path}.port"), "must be 1 to 65535");
    }
    if !matches!(status, 0 | 301 | 302 | 303 | 307 | 308) {
        at.error(format!("{path}.status"), "must be 301, 302, 303, 307 or 308");
    }
    match (whole.is_empty(), prefix.is_empty()) {
        (false, false) => at.error(path, "must not have both path and prefix"),
        (false, true) => check_new_path(&format!("{path}.path"), whole, at),
        (true, false) => {
            check_new_path(&format!("{path}.prefix"), prefix, at);
            check_prefix_known(&format!("{path}.prefix"), matches, at);
        }
        (true, true) => {}
    }
    if scheme.is_empty() && host.is_empty() && *port == 0 && whole.is_empty() && prefix.is_empty() {
        at.error(path, "must change something: it would lead back to where it came from");
    }
}

fn is_authority(text: &str) -> bool {
    let host = match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => host,
        _ => text,
    };
    super::host(host, false).is_ok() && !host.starts_with("*.")
}

fn check_edits(path: &str, edits: &HeaderEdits, at: &mut Checker<'_>) {
    let HeaderEdits { set, add, remove } = edits;
    for (field, values) in [("set", set), ("add", add)] {
        let mut values: Vec<_> = values.iter().collect();
        values.sort();
        let mut seen = BTreeSet::new();
        for (name, value) in values {
            let path = format!("{path}.{field}[\"{name}\"]");
            check_edited(&path, name, at);
            if !seen.insert(name.to_ascii_lowercase()) {
                at.error(&path, "is there twice: header names do not differ by case");
            }
            if let Err(message) = format(value) {
                at.error(path, format!("the value {message}"));
            }
        }
    }
    for (i, name) in remove.iter().enumerate() {
        check_edited(&format!("{path}.remove[{i}]"), name, at);
    }
}

fn check_edited(path: &str, name: &str, at: &mut Checker<'_>) {
    if let Err(message) = header_name(name) {
        at.error(path, format!("`{name}` {message}"));
    } else if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        at.error(path, format!("`{name}` cannot be edited; `rewrite.host` changes the host"));
    }
}

/// What a gRPC client would not follow.
fn check_for_grpc(path: &str, rule: &Rule, at: &mut Checker<'_>) {
    const WHY: &str = "is not followed by gRPC clients, so a route of the mesh must not have it";
    let set = [
        ("redirect", rule.redirect.is_some()),
        ("respond", rule.respond.is_some()),
        ("rewrite", rule.rewrite.is_some()),
        ("request_headers", rule.request_headers.is_some()),
        ("response_headers", rule.response_headers.is_some()),
        ("mirrors", !rule.mirrors.is_empty()),
        ("idle_timeout", rule.idle_timeout.is_some()),
        ("priority", rule.priority != 0),
    ];
    resilience::rule_for_grpc(path, rule, WHY, at);
    for (field, _) in set.iter().filter(|(_, set)| *set) {
        at.error(format!("{path}.{field}"), WHY);
    }
    for (i, m) in rule.matches.iter().enumerate() {
        let path = format!("{path}.matches[{i}]");
        if !m.query.is_empty() {
            at.error(format!("{path}.query"), WHY);
        }
        if !matches!(m.method.as_str(), "" | "POST") {
            at.error(format!("{path}.method"), "gRPC calls are POST, so that this would match none");
        }
        for (j, h) in m.headers.iter().enumerate() {
            if h.name.starts_with(':') || h.name.to_ascii_lowercase().ends_with("-bin") {
                let path = format!("{path}.headers[{j}].name");
                at.error(path, format!("`{}` cannot be matched by gRPC clients", h.name));
            }
        }
    }
}

/// A rule after one that takes every request is never reached.
fn check_shadowed(rules: &[Rule], at: &mut Checker<'_>) {
    let takes_all = |m: &Match| {
        let any_path = match &m.path {
            None => m.grpc.is_empty(),
            Some(Path::Prefix(p) | Path::PathPrefix(p)) => p == "/",
            Some(_) => false,
        };
        any_path && m.method.is_empty() && m.headers.is_empty() && m.query.is_empty()
    };
    let all = |r: &Rule| r.matches.is_empty() || r.matches.iter().any(takes_all);
    if let Some(i) = rules.iter().position(all)
        && i + 1 < rules.len()
    {
        at.warn(
            format!("spec.rules[{}]", i + 1),
            format!("is never reached: rules[{i}] takes every request"),
        );
    }
}
