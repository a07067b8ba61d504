//! What a rule says of retries, mirrors and hashing -> fields of a `RouteAction`.

use xds_types::envoy::config::core::v3::{RoutingPriority, RuntimeFractionalPercent};
use xds_types::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use xds_types::envoy::config::route::v3::retry_policy::{
    RetryBackOff, RetryHostPredicate, retry_host_predicate,
};
use xds_types::envoy::config::route::v3::route_action::hash_policy::{
    ConnectionProperties, Cookie, Header, PolicySpecifier, QueryParameter,
};
use xds_types::envoy::config::route::v3::route_action::{HashPolicy, RequestMirrorPolicy};
use xds_types::envoy::config::route::v3::{HeaderMatcher, RetryPolicy, RouteAction};
use xds_types::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use xds_types::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use xds_types::google::protobuf::Duration;
use xds_types::portolan::config::v1::{
    HashCookie, HashKey, Mirror, Retry, Rule, hash_key::By, rule::Priority,
};

use super::Dialect;
use super::names;
use super::parts::uint;
use crate::model::check;

/// What is tried again when a rule does not say: what the instance did not begin on.
const DEFAULT_ON: [&str; 4] = ["connect-failure", "refused-stream", "reset-before-request", "unavailable"];
/// How often another host is looked for before a retry takes one that was asked before.
const OTHER_HOST_ATTEMPTS: i64 = 5;

/// Adds what this rule says to the action of its routes.
pub(super) fn apply(action: &mut RouteAction, rule: &Rule, dialect: Dialect) {
    action.retry_policy = rule.retry.as_ref().and_then(|r| retry(r, dialect));
    action.hash_policy = rule.hash.iter().filter_map(|key| hash(key, dialect)).collect();
    if dialect == Dialect::Envoy {
        action.request_mirror_policies = rule.mirrors.iter().map(mirror).collect();
        action.idle_timeout = rule.idle_timeout;
        if rule.priority == i32::from(Priority::High) {
            action.priority = RoutingPriority::High.into();
        }
    }
}

fn retry(r: &Retry, dialect: Dialect) -> Option<RetryPolicy> {
    let Retry { on, attempts, per_try_timeout, backoff, max_backoff, statuses, headers, other_instances } = r;
    let mut on: Vec<&str> = match on.is_empty() {
        true => DEFAULT_ON.to_vec(),
        false => on.iter().map(String::as_str).collect(),
    };
    let num_retries = uint(attempts.as_ref().map_or(1, |n| n.value));
    if dialect == Dialect::Grpc {
        // gRFC A44: the five conditions of gRPC, the number, and the backoff.
        on.retain(|condition| check::grpc_conditions().contains(condition));
        let retry_back_off = backoff_of(backoff, max_backoff);
        return (!on.is_empty()).then(|| RetryPolicy {
            retry_on: on.join(","),
            num_retries,
            retry_back_off,
            ..RetryPolicy::default()
        });
    }
    if !statuses.is_empty() {
        on.push("retriable-status-codes");
    }
    if !headers.is_empty() {
        on.push("retriable-headers");
    }
    let present = |name: &String| HeaderMatcher {
        name: name.to_ascii_lowercase(),
        header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
        ..HeaderMatcher::default()
    };
    let others = other_instances.then(|| RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(xds_types::any::pack(
            &PreviousHostsPredicate::default(),
        ))),
    });
    Some(RetryPolicy {
        retry_on: on.join(","),
        num_retries,
        per_try_timeout: *per_try_timeout,
        host_selection_retry_max_attempts: if *other_instances { OTHER_HOST_ATTEMPTS } else { 0 },
        retry_host_predicate: others.into_iter().collect(),
        retriable_status_codes: statuses.clone(),
        retry_back_off: backoff_of(backoff, max_backoff),
        retriable_headers: headers.iter().map(present).collect(),
        ..RetryPolicy::default()
    })
}

fn backoff_of(base: &Option<Duration>, max: &Option<Duration>) -> Option<RetryBackOff> {
    let set = base.is_some() || max.is_some();
    let base_interval = base.unwrap_or(Duration { seconds: 0, nanos: 25_000_000 });
    set.then_some(RetryBackOff { base_interval: Some(base_interval), max_interval: *max })
}

fn mirror(m: &Mirror) -> RequestMirrorPolicy {
    let Mirror { service, subset, percent } = m;
    RequestMirrorPolicy {
        cluster: names::cluster(service, subset).to_string(),
        runtime_fraction: percent.as_ref().map(|p| RuntimeFractionalPercent {
            default_value: Some(fraction(p.value)),
            runtime_key: String::new(),
        }),
        ..RequestMirrorPolicy::default()
    }
}

/// A percentage in millionths, the finest that Envoy has.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be within 0 and 100")]
fn fraction(percent: f64) -> FractionalPercent {
    FractionalPercent {
        numerator: (percent * 10_000.0).round() as u32,
        denominator: DenominatorType::Million.into(),
    }
}

/// gRPC clients know headers alone (gRFC A42).
fn hash(key: &HashKey, dialect: Dialect) -> Option<HashPolicy> {
    let HashKey { by, terminal } = key;
    let specifier = match (by.as_ref()?, dialect) {
        (By::Header(name), _) => {
            PolicySpecifier::Header(Header { header_name: name.to_ascii_lowercase(), ..Header::default() })
        }
        (_, Dialect::Grpc) => return None,
        (By::Cookie(HashCookie { name, ttl, path }), _) => PolicySpecifier::Cookie(Cookie {
            name: name.clone(),
            ttl: *ttl,
            path: match (ttl, path.is_empty()) {
                (Some(_), true) => "/".to_owned(),
                _ => path.clone(),
            },
            ..Cookie::default()
        }),
        (By::ClientIp(source_ip), _) => {
            PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: *source_ip })
        }
        (By::Query(name), _) => PolicySpecifier::QueryParameter(QueryParameter { name: name.clone() }),
    };
    Some(HashPolicy { terminal: *terminal, policy_specifier: Some(specifier) })
}
