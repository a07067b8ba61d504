//! The limits of a policy as messages: descriptors' actions, filters, and domains of the rate-limit service.

use std::collections::BTreeSet;
use std::sync::Arc;

use xds_types::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use xds_types::envoy::config::core::v3::{ApiVersion, GrpcService, RuntimeFractionalPercent};
use xds_types::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use xds_types::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use xds_types::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use xds_types::envoy::config::route::v3::rate_limit::Action;
use xds_types::envoy::config::route::v3::rate_limit::action::{
    ActionSpecifier, DestinationCluster, GenericKey, HeaderValueMatch, MaskedRemoteAddress, MetaData,
    QueryParameterValueMatch, QueryParameters, RemoteAddress, RequestHeaders, meta_data,
};
use xds_types::envoy::config::route::v3::{HeaderMatcher, QueryParameterMatcher, RateLimit as EnvoyLimit};
use xds_types::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use xds_types::envoy::extensions::common::ratelimit::v3::{
    LocalRateLimitDescriptor, XRateLimitHeadersRfcVersion,
};
use xds_types::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use xds_types::envoy::extensions::filters::http::ratelimit::v3::RateLimit as GlobalFilter;
use xds_types::envoy::extensions::filters::http::ratelimit::v3::rate_limit::XRateLimitHeadersRfcVersion as Global;
use xds_types::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use xds_types::envoy::r#type::metadata::v3::{MetadataKey as EnvoyKey, metadata_key};
use xds_types::envoy::r#type::v3::{
    FractionalPercent, HttpStatus, TokenBucket, fractional_percent::DenominatorType,
};
use xds_types::google::protobuf::{BoolValue, Duration, UInt32Value};
use xds_types::portolan::config::v1::{
    ClientIp, DescriptorLimit, Limit, LimitKey, MetadataKey, RateLimit, RateLimitDescriptor, RateLimitUnit,
    limit::Scope, limit_key::By, rate_limit::OnFailure,
};

use crate::model::check::{OWN_DOMAIN, limit_name};
use crate::translate::names;
use crate::translate::parts::uint;

/// Key of the entry that names the policy and the limit.
const POLICY: &str = "policy";
/// Key of the entry for the service asked.
const SERVICE: &str = "destination_cluster";
/// Buckets of one local limit whose values are open; the one used least goes first.
const LOCAL_BUCKETS: u32 = 10_000;
/// For the service's answer, when a policy does not say.
const TIMEOUT: Duration = Duration { seconds: 0, nanos: 100_000_000 };

/// What a filter is told; limits that say the same share one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Settings {
    // In this order, so that the defaults come first: their stage then seldom changes.
    Global { deny: bool, timeout: (i64, i32), status: u32, no_headers: bool },
    Local { shadow: bool, status: u32, no_headers: bool },
}

impl Settings {
    pub(super) fn of(policy: &RateLimit, limit: &Limit) -> Self {
        let timeout = policy.timeout.unwrap_or(TIMEOUT);
        let status = if policy.status == 0 { 429 } else { policy.status };
        let no_headers = policy.headers.as_ref().is_some_and(|h| !h.value);
        if is_local(limit) {
            return Self::Local { shadow: policy.shadow, status, no_headers };
        }
        let deny = policy.on_failure == i32::from(OnFailure::Deny);
        Self::Global { deny, timeout: (timeout.seconds, timeout.nanos), status, no_headers }
    }
}

pub(super) fn is_local(limit: &Limit) -> bool {
    limit.scope == i32::from(Scope::Local)
}

/// Whether a limit is about one service among others that a route has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// All that is sent there.
    Everything,
    /// What goes to a service, which an entry of its own tells.
    Service,
}

/// What makes a request's descriptor for one limit.
pub(super) fn actions(policy: &str, limit: &Limit, index: usize, about: About, route: &str) -> Vec<Action> {
    let name = format!("{policy}/{}", limit_name(limit, index));
    let mut all = vec![generic(POLICY, &name)];
    if about == About::Service {
        all.push(action(ActionSpecifier::DestinationCluster(DestinationCluster {})));
    }
    all.extend(limit.per.iter().filter_map(|key| key_action(key, route)));
    all
}

pub(super) fn limit_of_route(actions: Vec<Action>, stage: u32) -> EnvoyLimit {
    EnvoyLimit { stage: uint(stage), actions, ..EnvoyLimit::default() }
}

fn action(specifier: ActionSpecifier) -> Action {
    Action { action_specifier: Some(specifier) }
}

fn generic(key: &str, value: &str) -> Action {
    action(ActionSpecifier::GenericKey(GenericKey {
        descriptor_key: key.to_owned(),
        descriptor_value: value.to_owned(),
        ..GenericKey::default()
    }))
}

fn key_name(key: &LimitKey) -> String {
    match &key.by {
        Some(By::ClientIp(_)) => "client_ip".to_owned(),
        Some(By::Header(name)) => format!("header:{}", name.to_ascii_lowercase()),
        Some(By::Query(name)) => format!("query:{name}"),
        Some(By::Metadata(MetadataKey { namespace, path })) => {
            format!("metadata:{namespace}:{}", path.join("."))
        }
        Some(By::Method(_)) => "method".to_owned(),
        Some(By::Path(_)) => "path".to_owned(),
        Some(By::Route(_)) => "route".to_owned(),
        Some(By::Service(_)) => "service".to_owned(),
        None => String::new(),
    }
}

/// Keys that Envoy names by itself.
fn entry_key(key: &LimitKey) -> String {
    match &key.by {
        Some(By::ClientIp(ip)) if is_whole(ip) => "remote_address".to_owned(),
        Some(By::ClientIp(_)) => "masked_remote_address".to_owned(),
        Some(By::Service(_)) => SERVICE.to_owned(),
        _ => key_name(key),
    }
}

fn is_whole(ip: &ClientIp) -> bool {
    let ClientIp { v4_bits, v6_bits } = ip;
    v4_bits.as_ref().is_none_or(|n| n.value == 32) && v6_bits.as_ref().is_none_or(|n| n.value == 128)
}

fn key_action(key: &LimitKey, route: &str) -> Option<Action> {
    let LimitKey { by, value } = key;
    let name = entry_key(key);
    let header = |header: &str| match value.as_str() {
        "" => ActionSpecifier::RequestHeaders(RequestHeaders {
            header_name: header.to_ascii_lowercase(),
            descriptor_key: name.clone(),
            skip_if_absent: false,
        }),
        value => ActionSpecifier::HeaderValueMatch(HeaderValueMatch {
            descriptor_key: name.clone(),
            descriptor_value: value.to_owned(),
            headers: vec![HeaderMatcher {
                name: header.to_ascii_lowercase(),
                header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(exactly(value))),
                ..HeaderMatcher::default()
            }],
            ..HeaderValueMatch::default()
        }),
    };
    let specifier = match by.as_ref()? {
        By::ClientIp(ip) if is_whole(ip) => ActionSpecifier::RemoteAddress(RemoteAddress {}),
        By::ClientIp(ClientIp { v4_bits, v6_bits }) => {
            ActionSpecifier::MaskedRemoteAddress(MaskedRemoteAddress {
                v4_prefix_mask_len: uint(v4_bits.as_ref().map_or(32, |n| n.value)),
                v6_prefix_mask_len: uint(v6_bits.as_ref().map_or(128, |n| n.value)),
            })
        }
        By::Header(of) => header(of),
        By::Method(_) => header(":method"),
        By::Path(_) => header(":path"),
        By::Query(parameter) if value.is_empty() => ActionSpecifier::QueryParameters(QueryParameters {
            query_parameter_name: parameter.clone(),
            descriptor_key: name,
            skip_if_absent: false,
        }),
        By::Query(parameter) => ActionSpecifier::QueryParameterValueMatch(QueryParameterValueMatch {
            descriptor_key: name,
            descriptor_value: value.clone(),
            query_parameters: vec![QueryParameterMatcher {
                name: parameter.clone(),
                query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(exactly(
                    value,
                ))),
            }],
            ..QueryParameterValueMatch::default()
        }),
        By::Metadata(MetadataKey { namespace, path }) => {
            let segment = |key: &String| metadata_key::PathSegment {
                segment: Some(metadata_key::path_segment::Segment::Key(key.clone())),
            };
            ActionSpecifier::Metadata(MetaData {
                descriptor_key: name,
                metadata_key: Some(EnvoyKey {
                    key: namespace.clone(),
                    path: path.iter().map(segment).collect(),
                }),
                source: meta_data::Source::Dynamic.into(),
                ..MetaData::default()
            })
        }
        By::Route(_) => return Some(generic(&name, route)),
        By::Service(_) => ActionSpecifier::DestinationCluster(DestinationCluster {}),
    };
    Some(action(specifier))
}

fn exactly(value: &str) -> StringMatcher {
    StringMatcher { match_pattern: Some(MatchPattern::Exact(value.to_owned())), ..StringMatcher::default() }
}

/// What the rate-limit service is told of a policy's limits: a descriptor each.
pub(super) fn descriptors<'a>(
    policy: &'a str,
    spec: &'a RateLimit,
    services: &'a [&'a str],
) -> impl Iterator<Item = RateLimitDescriptor> + 'a {
    let global = spec.limits.iter().enumerate().filter(|(_, limit)| !is_local(limit));
    global.map(move |(i, limit)| {
        let name = limit_name(limit, i);
        let rate_limit = Some(DescriptorLimit {
            unit: match limit.unit {
                0 => RateLimitUnit::Second.into(),
                unit => unit,
            },
            requests_per_unit: limit.requests.as_ref().map_or(0, |n| n.value),
            name: format!("{policy}/{name}"),
            algorithm: limit.algorithm,
            burst: limit.burst.as_ref().map_or(0, |n| n.value),
            ..DescriptorLimit::default()
        });
        let mut first = RateLimitDescriptor {
            key: POLICY.to_owned(),
            value: format!("{policy}/{name}"),
            ..RateLimitDescriptor::default()
        };
        // From the last entry to the first.
        let mut below: Option<RateLimitDescriptor> = None;
        for key in limit.per.iter().rev() {
            let mut one = RateLimitDescriptor {
                key: entry_key(key),
                value: key.value.clone(),
                ..RateLimitDescriptor::default()
            };
            place(&mut one, below.take(), &rate_limit, spec.shadow);
            below = Some(one);
        }
        if services.is_empty() {
            place(&mut first, below, &rate_limit, spec.shadow);
            return first;
        }
        // A service, and its subsets, which count as the service.
        for service in services {
            for (value, share) in [((*service).to_owned(), false), (format!("{service}/*"), true)] {
                let mut one = RateLimitDescriptor {
                    key: SERVICE.to_owned(),
                    value,
                    share_threshold: share,
                    ..RateLimitDescriptor::default()
                };
                place(&mut one, below.clone(), &rate_limit, spec.shadow);
                first.descriptors.push(one);
            }
        }
        first
    })
}

/// The limit stands at the last entry.
fn place(
    one: &mut RateLimitDescriptor,
    below: Option<RateLimitDescriptor>,
    limit: &Option<DescriptorLimit>,
    shadow: bool,
) {
    match below {
        Some(below) => one.descriptors.push(below),
        None => (one.rate_limit, one.shadow_mode) = (limit.clone(), shadow),
    }
}

/// The filter that asks the rate-limit service for the limits of one stage.
pub(super) fn global_filter(settings: &Settings, stage: u32) -> Option<GlobalFilter> {
    let Settings::Global { deny, timeout, status, no_headers } = settings else { return None };
    let headers = if *no_headers { Global::Off } else { Global::DraftVersion03 };
    Some(GlobalFilter {
        domain: OWN_DOMAIN.to_owned(),
        stage,
        timeout: Some(Duration { seconds: timeout.0, nanos: timeout.1 }),
        failure_mode_deny: *deny,
        rate_limit_service: Some(RateLimitServiceConfig {
            grpc_service: Some(GrpcService {
                target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                    cluster_name: names::CONTROL.to_owned(),
                    ..EnvoyGrpc::default()
                })),
                ..GrpcService::default()
            }),
            transport_api_version: ApiVersion::V3.into(),
        }),
        enable_x_ratelimit_headers: headers.into(),
        rate_limited_status: code(*status),
        status_on_error: Some(HttpStatus { code: 503 }),
        ..GlobalFilter::default()
    })
}

fn code(status: u32) -> Option<HttpStatus> {
    Some(HttpStatus { code: i32::try_from(status).unwrap_or(429) })
}

/// The buckets of one local limit. `clusters`: those of the services that its policy targets, if it does.
pub(super) fn local_descriptors<'a>(
    policy: &str,
    limit: &'a Limit,
    index: usize,
    clusters: &'a BTreeSet<Arc<str>>,
) -> impl Iterator<Item = LocalRateLimitDescriptor> + 'a {
    let entry = |key: &str, value: &str| Entry { key: key.to_owned(), value: value.to_owned() };
    let name = entry(POLICY, &format!("{policy}/{}", limit_name(limit, index)));
    let about = clusters.iter().map(Some).chain(clusters.is_empty().then_some(None));
    about.filter(|_| is_local(limit)).map(move |cluster| LocalRateLimitDescriptor {
        entries: std::iter::once(name.clone())
            .chain(cluster.map(|c| entry(SERVICE, c)))
            .chain(limit.per.iter().map(|key| entry(&entry_key(key), &key.value)))
            .collect(),
        token_bucket: Some(bucket(limit)),
        ..LocalRateLimitDescriptor::default()
    })
}

/// The filter that counts the local limits of one stage.
pub(super) fn local_filter(
    settings: &Settings,
    stage: u32,
    descriptors: Vec<LocalRateLimitDescriptor>,
) -> Option<LocalRateLimit> {
    let Settings::Local { shadow, status, no_headers } = settings else { return None };
    let headers = match no_headers {
        false => XRateLimitHeadersRfcVersion::DraftVersion03,
        true => XRateLimitHeadersRfcVersion::Off,
    };
    Some(LocalRateLimit {
        stat_prefix: format!("policies_{stage}"),
        stage,
        status: code(*status),
        filter_enabled: share(100),
        filter_enforced: share(if *shadow { 0 } else { 100 }),
        descriptors,
        enable_x_ratelimit_headers: headers.into(),
        always_consume_default_token_bucket: Some(BoolValue { value: false }),
        max_dynamic_descriptors: Some(UInt32Value { value: LOCAL_BUCKETS }),
        ..LocalRateLimit::default()
    })
}

fn share(percent: u32) -> Option<RuntimeFractionalPercent> {
    Some(RuntimeFractionalPercent {
        default_value: Some(FractionalPercent {
            numerator: percent,
            denominator: DenominatorType::Hundred.into(),
        }),
        runtime_key: String::new(),
    })
}

/// Tokens that come back evenly: as Envoy counts, all of a unit's requests in that unit.
fn bucket(limit: &Limit) -> TokenBucket {
    let requests = limit.requests.as_ref().map_or(1, |n| n.value);
    let unit = RateLimitUnit::try_from(limit.unit).unwrap_or_default();
    let seconds = match unit {
        RateLimitUnit::Unknown | RateLimitUnit::Second => 1,
        RateLimitUnit::Minute => 60,
        RateLimitUnit::Hour => 3600,
        RateLimitUnit::Day => 86_400,
        RateLimitUnit::Week => 7 * 86_400,
        RateLimitUnit::Month => 30 * 86_400,
        RateLimitUnit::Year => 365 * 86_400,
    };
    TokenBucket {
        max_tokens: limit.burst.as_ref().map_or(requests, |n| n.value),
        tokens_per_fill: uint(requests),
        fill_interval: Some(Duration { seconds, nanos: 0 }),
    }
}
