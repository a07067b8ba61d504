//! No field is silent: whatever is set in a message that we translate changes the configuration, is refused with
//! its path, or is reported as ignored with its path. Held for every field of every message that a translator looks
//! into, by walking the descriptors, so that a new version of the API cannot slip in a field unseen.
//!
//! The files beside this one are valid resources that hold every message we honour. The test visits each message in
//! them, sets each field of its type to something else, and looks at the outcome.

#![expect(clippy::unwrap_used, reason = "a test may fail so")]

mod exceptions;
mod place;
mod values;

use data_plane_core::config;
use data_plane_core::path::{Diagnostics, Finding, Path};
use data_plane_core::translate::{self, DataLoader, Options};
use exceptions::{Change, Exceptions};
use place::Place;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage};
use std::collections::BTreeSet;
use xds_types::envoy::config::{
    bootstrap::v3::Bootstrap, cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment,
    listener::v3::Listener, route::v3::RouteConfiguration,
};
use xds_types::envoy::extensions::transport_sockets::tls::v3::Secret;
use xds_types::{descriptors, rules};

const FIXTURES: &[(&str, &str, &str)] = &[
    ("envoy.config.bootstrap.v3.Bootstrap", "bootstrap", include_str!("bootstrap.yaml")),
    ("envoy.config.bootstrap.v3.Bootstrap", "bootstrap_typed_dns", include_str!("bootstrap_typed_dns.yaml")),
    ("envoy.config.listener.v3.Listener", "listener", include_str!("listener.yaml")),
    ("envoy.config.listener.v3.Listener", "filters", include_str!("filters.yaml")),
    ("envoy.config.route.v3.RouteConfiguration", "limits", include_str!("limits.yaml")),
    ("envoy.config.listener.v3.Listener", "listener_tls", include_str!("listener_tls.yaml")),
    ("envoy.config.listener.v3.Listener", "tcp", include_str!("tcp.yaml")),
    ("envoy.config.listener.v3.Listener", "access_logs", include_str!("access_logs.yaml")),
    ("envoy.config.listener.v3.Listener", "grpc_logs", include_str!("grpc_logs.yaml")),
    ("envoy.config.listener.v3.Listener", "tracing_otlp", include_str!("tracing_otlp.yaml")),
    ("envoy.config.listener.v3.Listener", "tracing_zipkin", include_str!("tracing_zipkin.yaml")),
    ("envoy.config.route.v3.RouteConfiguration", "routes", include_str!("routes.yaml")),
    ("envoy.config.cluster.v3.Cluster", "cluster_static", include_str!("cluster_static.yaml")),
    ("envoy.config.cluster.v3.Cluster", "cluster_strict_dns", include_str!("cluster_strict_dns.yaml")),
    ("envoy.config.cluster.v3.Cluster", "cluster_dns_extension", include_str!("cluster_dns_extension.yaml")),
    ("envoy.config.cluster.v3.Cluster", "cluster_eds", include_str!("cluster_eds.yaml")),
    ("envoy.config.cluster.v3.Cluster", "cluster_health", include_str!("cluster_health.yaml")),
    ("envoy.config.cluster.v3.Cluster", "cluster_health_tcp", include_str!("cluster_health_tcp.yaml")),
    ("envoy.config.cluster.v3.Cluster", "cluster_health_grpc", include_str!("cluster_health_grpc.yaml")),
    ("envoy.config.cluster.v3.Cluster", "cluster_tls", include_str!("cluster_tls.yaml")),
    (
        "envoy.config.cluster.v3.Cluster",
        "cluster_proxy_protocol",
        include_str!("cluster_proxy_protocol.yaml"),
    ),
    ("envoy.config.cluster.v3.Cluster", "cluster_random", include_str!("cluster_random.yaml")),
    ("envoy.config.cluster.v3.Cluster", "cluster_ring_hash", include_str!("cluster_ring_hash.yaml")),
    (
        "envoy.config.cluster.v3.Cluster",
        "cluster_ring_hash_extension",
        include_str!("cluster_ring_hash_extension.yaml"),
    ),
    ("envoy.config.cluster.v3.Cluster", "cluster_maglev", include_str!("cluster_maglev.yaml")),
    (
        "envoy.config.cluster.v3.Cluster",
        "cluster_maglev_extension",
        include_str!("cluster_maglev_extension.yaml"),
    ),
    ("envoy.config.cluster.v3.Cluster", "cluster_subsets", include_str!("cluster_subsets.yaml")),
    (
        "envoy.config.cluster.v3.Cluster",
        "cluster_subsets_extension",
        include_str!("cluster_subsets_extension.yaml"),
    ),
    ("envoy.config.endpoint.v3.ClusterLoadAssignment", "endpoints", include_str!("endpoints.yaml")),
    (
        "envoy.extensions.transport_sockets.tls.v3.Secret",
        "secret_certificate",
        include_str!("secret_certificate.yaml"),
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.Secret",
        "secret_validation",
        include_str!("secret_validation.yaml"),
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.Secret",
        "secret_validation_old",
        include_str!("secret_validation_old.yaml"),
    ),
    ("envoy.extensions.transport_sockets.tls.v3.Secret", "secret_keys", include_str!("secret_keys.yaml")),
    (
        "envoy.extensions.transport_sockets.tls.v3.Secret",
        "secret_generic",
        include_str!("secret_generic.yaml"),
    ),
];

/// Every file and variable holds a short text.
struct Anything;

impl DataLoader for Anything {
    fn file(&self, _: &std::path::Path) -> Result<Vec<u8>, String> {
        Ok(b"text".to_vec())
    }

    fn exists(&self, _: &std::path::Path) -> bool {
        true
    }

    fn variable(&self, _: &str) -> Result<String, String> {
        Ok("text=text".into())
    }
}

#[derive(Debug, PartialEq)]
enum Config {
    Bootstrap(Box<config::Bootstrap>),
    Listener(Box<config::Listener>),
    Routes(Box<config::RouteConfig>),
    Cluster(Box<config::Cluster>),
    Assignment(Box<config::Assignment>),
    Secret(Box<config::Secret>),
}

/// What became of a message.
struct Outcome {
    config: Option<Config>,
    diagnostics: Diagnostics,
}

fn translate(message: &DynamicMessage) -> Outcome {
    let mut d = Diagnostics::default();
    let (at, o) = (Path::root(""), Options::new(&Anything));
    let config = match message.descriptor().full_name() {
        "envoy.config.bootstrap.v3.Bootstrap" => {
            let proto = descriptors::from_dynamic::<Bootstrap>(message).unwrap();
            translate::bootstrap(proto, &at, &mut d, &o).map(|c| Config::Bootstrap(Box::new(c)))
        }
        "envoy.config.listener.v3.Listener" => {
            let proto = descriptors::from_dynamic::<Listener>(message).unwrap();
            translate::listener(proto, &at, &mut d, &o).map(|c| Config::Listener(Box::new(c)))
        }
        "envoy.config.route.v3.RouteConfiguration" => {
            let proto = descriptors::from_dynamic::<RouteConfiguration>(message).unwrap();
            translate::route_config(proto, &at, &mut d, &o).map(|c| Config::Routes(Box::new(c)))
        }
        "envoy.config.cluster.v3.Cluster" => {
            let proto = descriptors::from_dynamic::<Cluster>(message).unwrap();
            translate::cluster(proto, &at, &mut d, &o).map(|c| Config::Cluster(Box::new(c)))
        }
        "envoy.config.endpoint.v3.ClusterLoadAssignment" => {
            let proto = descriptors::from_dynamic::<ClusterLoadAssignment>(message).unwrap();
            translate::assignment(proto, &at, &mut d).map(|c| Config::Assignment(Box::new(c)))
        }
        "envoy.extensions.transport_sockets.tls.v3.Secret" => {
            let proto = descriptors::from_dynamic::<Secret>(message).unwrap();
            translate::secret(proto, &at, &mut d, &o).map(|c| Config::Secret(Box::new(c)))
        }
        other => panic!("no translator for {other}"),
    };
    Outcome { config: config.ok(), diagnostics: d }
}

fn fixture(type_name: &str, name: &str, text: &str) -> DynamicMessage {
    let of = descriptors::message(type_name).unwrap();
    let source = xds_types::text::Source { name, text };
    xds_types::text::parse_dynamic(source, &of, Default::default())
        .unwrap_or_else(|e| panic!("{name}: {e}"))
        .message
}

/// Failures printed.
const SHOWN: usize = 40;

/// How a change showed.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Changed,
    /// Refused at the field itself or below it.
    Refused {
        below: bool,
    },
    /// Reported at the field itself or below it.
    Ignored {
        below: bool,
    },
    /// Refused at a field that it does not go with.
    RefusedElsewhere,
    /// Refused by the API's rules alone.
    Barred,
    Silent,
}

/// `path` lies at `at`: `Some(false)`, below it: `Some(true)`.
fn relation(path: &str, at: &str) -> Option<bool> {
    let rest = path.strip_prefix(at)?;
    match rest.chars().next() {
        None => Some(false),
        Some('.' | '[') => Some(true),
        Some(_) => None,
    }
}

/// What a change did, told from what the API's own rules say of it: those say nothing about translators.
fn verdict(base: &Outcome, changed: &DynamicMessage, outcome: &Outcome, at: &str, repeated: bool) -> Verdict {
    let Outcome { config, diagnostics: d } = outcome;
    let broken_rules: BTreeSet<String> = match config {
        Some(_) => BTreeSet::new(),
        None => rules::check_dynamic(changed).into_iter().map(|v| v.path).collect(),
    };
    let refused = d.rejected.iter().filter(|f| !broken_rules.contains(&f.path));
    if let Some(below) = refused.filter_map(|f| relation(&f.path, at)).min() {
        return Verdict::Refused { below };
    }
    // Elements that were there before may have been reported before; a single field is the same one.
    let known = |f: &&Finding| repeated && base.diagnostics.ignored.contains(f);
    let ignored = d.ignored.iter().filter(|f| !known(f));
    if let Some(below) = ignored.filter_map(|f| relation(&f.path, at)).min() {
        return Verdict::Ignored { below };
    }
    // What is reported as a whole needs no report of its parts.
    if d.ignored.iter().any(|f| relation(at, &f.path) == Some(true)) {
        return Verdict::Ignored { below: false };
    }
    match (&base.config, config) {
        (Some(base), Some(changed)) if base != changed => Verdict::Changed,
        (_, Some(_)) => Verdict::Silent,
        (_, None) if !broken_rules.is_empty() => Verdict::Barred,
        (_, None) => Verdict::RefusedElsewhere,
    }
}

#[test]
fn every_fixture_is_accepted() {
    for (type_name, name, text) in FIXTURES {
        let outcome = translate(&fixture(type_name, name, text));
        assert!(outcome.config.is_some(), "{name}: {}", outcome.diagnostics);
    }
}

/// Types whose content is data, not configuration: they are set as a whole.
fn is_leaf(full_name: &str) -> bool {
    matches!(
        full_name,
        "google.protobuf.Struct"
            | "google.protobuf.Value"
            | "google.protobuf.ListValue"
            | "google.protobuf.Duration"
    ) || full_name.starts_with("google.protobuf.") && full_name.ends_with("Value")
}

#[test]
fn no_field_is_silent() {
    let mut exceptions = Exceptions::default();
    let mut failures = Vec::new();
    let mut seen = BTreeSet::new();
    let (mut tried, mut visited, mut looked_into) = (0, BTreeSet::new(), BTreeSet::new());
    for (type_name, name, text) in FIXTURES {
        let root = fixture(type_name, name, text);
        let base = translate(&root);
        for place in Place::all(&root, &|of| !is_leaf(of)) {
            let message = place.get(&root);
            // The same message in the same field, with the same fields set, needs no second visit.
            if !seen.insert(place.shape(&root)) {
                continue;
            }
            visited.insert(message.descriptor().full_name().to_owned());
            for field in message.descriptor().fields() {
                let at = place.field_path(&field);
                let mut verdicts = Vec::new();
                let cases = values::cases(&message, &field);
                let has_cases = !cases.is_empty();
                for case in cases {
                    let changed = place.set(&root, &field, case.value.clone());
                    let outcome = translate(&changed);
                    let repeated = field.is_list() || field.is_map();
                    let verdict = verdict(&base, &changed, &outcome, &at, repeated);
                    verdicts.push((case, verdict, outcome));
                    tried += 1;
                }
                let barred = |v: &Verdict| *v == Verdict::Barred;
                if has_cases
                    && verdicts.iter().all(|(_, v, _)| barred(v))
                    && !exceptions.covers_barred(&field)
                {
                    let why = verdicts
                        .last()
                        .map(|(_, _, outcome)| outcome.diagnostics.to_string())
                        .unwrap_or_default();
                    failures.push(format!(
                        "{name}: {at} ({}): no value passes the rules: {why}",
                        field.full_name()
                    ));
                }
                let inner = message_type(&field);
                for (case, verdict, outcome) in &verdicts {
                    let below = matches!(
                        verdict,
                        Verdict::Changed
                            | Verdict::Refused { below: true }
                            | Verdict::Ignored { below: true }
                    );
                    if let Some(inner) = inner.as_deref().filter(|inner| below && !is_leaf(inner)) {
                        looked_into.insert((inner.to_owned(), at.clone()));
                    }
                    // Where cases are alternatives, one that shows is enough.
                    let shows = |v: &Verdict| {
                        !matches!(v, Verdict::Silent | Verdict::RefusedElsewhere | Verdict::Barred)
                    };
                    if shows(verdict) || case.any_will_do && verdicts.iter().any(|(_, v, _)| shows(v)) {
                        continue;
                    }
                    if barred(verdict) {
                        continue;
                    }
                    let change = Change { fixture: name, path: &at, field: &field, label: &case.label };
                    let covered = match verdict {
                        Verdict::Silent => exceptions.covers_silence(&change),
                        _ => exceptions.covers_refusal_elsewhere(&change),
                    };
                    if !covered {
                        failures.push(format!("{change}: {verdict:?} {}", outcome.diagnostics));
                    }
                    if case.any_will_do {
                        break;
                    }
                }
            }
        }
    }
    let unvisited: BTreeSet<_> = looked_into
        .into_iter()
        .filter(|(inner, _)| {
            !visited.contains(inner) && inner != "google.protobuf.Any" && !exceptions.covers_type(inner)
        })
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {tried} silent:\n{}",
        failures.len(),
        failures.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n")
    );
    assert!(unvisited.is_empty(), "translators look into these, and no fixture holds them:\n{unvisited:#?}");
    assert_eq!(exceptions.unused(), Vec::<String>::new(), "exceptions that are no longer needed");
    println!("{tried} changes tried in {} message types", visited.len());
}

/// The full name of a field's message type, elements and map values included.
fn message_type(field: &FieldDescriptor) -> Option<String> {
    let kind = match field.kind() {
        Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
        kind => kind,
    };
    match kind {
        Kind::Message(of) => Some(of.full_name().to_owned()),
        _ => None,
    }
}
