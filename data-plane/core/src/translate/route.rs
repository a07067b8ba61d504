//! Route configurations: virtual hosts, routes and what routes match.

use super::edits::{self, Direction};
use super::field::{self, ignored, required, unsupported};
use super::{
    Options, action, answer, filters, fraction, matcher, metadata, mirror, ratelimit, retry, tracing,
};
use crate::config::{
    self, BodyLimit, Mirror, PathMatch, RequireTls, RetryPolicy, Route, RouteConfig, RouteMatch, VirtualHost,
};
use crate::path::{Diagnostics, Path, Rejected};
use std::collections::HashMap;
use std::sync::Arc;
use xds_types::envoy::config::route::v3 as proto;
use xds_types::envoy::config::route::v3::route::Action;
use xds_types::envoy::config::route::v3::route_match::{GrpcRouteMatchOptions, PathSpecifier};
use xds_types::envoy::config::route::v3::virtual_host::TlsRequirementType;

/// Envoy's default of `max_direct_response_body_size_bytes`.
const DIRECT_RESPONSE_BODY_BYTES: u32 = 4096;

/// Why hedging is refused.
pub(super) const HEDGING: &str = "requests are not hedged";

/// Whether routes to clusters that do not exist are refused when the configuration does not say.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ValidateClusters {
    /// Routes written into the connection manager.
    ByDefault,
    /// Routes received by RDS.
    IfAsked,
}

/// What a route must know of the configuration around it.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) options: &'a Options<'a>,
    /// Most bytes of a direct response's body.
    pub(super) max_body_bytes: u32,
    /// Refuse clusters that do not exist.
    pub(super) validate_clusters: bool,
    /// What holds where the route says nothing.
    pub(super) inherited: &'a Inherited,
}

/// What a route takes over from its virtual host and the route configuration where it says nothing itself.
#[derive(Default)]
pub(super) struct Inherited {
    pub(super) retry: Option<Arc<RetryPolicy>>,
    pub(super) body_limit: BodyLimit,
    pub(super) mirrors: Arc<[Mirror]>,
}

/// A route configuration.
pub(super) fn config(
    proto: proto::RouteConfiguration,
    validate: ValidateClusters,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<RouteConfig, Rejected> {
    let proto::RouteConfiguration {
        name,
        virtual_hosts,
        vhds,
        internal_only_headers,
        response_headers_to_add,
        response_headers_to_remove,
        request_headers_to_add,
        request_headers_to_remove,
        most_specific_header_mutations_wins,
        validate_clusters,
        max_direct_response_body_size_bytes,
        cluster_specifier_plugins,
        request_mirror_policies,
        ignore_port_in_host_matching,
        vhost_header,
        ignore_path_parameters_in_path_matching,
        typed_per_filter_config,
        metadata,
        route_specifiers,
    } = proto;
    unsupported!(d, at; vhds, cluster_specifier_plugins, vhost_header, route_specifiers);
    ignored!(d, at, "has no reader"; metadata);
    let overrides = filters::per_route(typed_per_filter_config, at, d, o);
    let validate_clusters = validate_clusters.map_or(validate == ValidateClusters::ByDefault, |v| v.value);
    let inherited = Inherited {
        mirrors: mirror::mirrors(request_mirror_policies, &Arc::default(), at, d),
        ..Inherited::default()
    };
    let scope = Scope {
        options: o,
        inherited: &inherited,
        max_body_bytes: max_direct_response_body_size_bytes.map_or(DIRECT_RESPONSE_BODY_BYTES, |v| v.value),
        validate_clusters,
    };
    let internal_at = at.field("internal_only_headers");
    Ok(RouteConfig {
        name: name.into(),
        virtual_hosts: virtual_hosts_of(virtual_hosts, &at.field("virtual_hosts"), d, scope),
        request_edits: edits::edits(
            Direction::Request,
            request_headers_to_add,
            request_headers_to_remove,
            at,
            d,
        ),
        response_edits: edits::edits(
            Direction::Response,
            response_headers_to_add,
            response_headers_to_remove,
            at,
            d,
        ),
        internal_only_headers: field::each(internal_only_headers, &internal_at, d, |name, at, d| {
            edits::name(&name, at, d)?;
            Ok(name.to_ascii_lowercase().into())
        }),
        most_specific_header_mutations_wins,
        ignore_port_in_host_matching,
        ignore_path_parameters: ignore_path_parameters_in_path_matching,
        validate_clusters,
        overrides,
    })
}

fn virtual_hosts_of(
    list: Vec<proto::VirtualHost>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    scope: Scope<'_>,
) -> Vec<VirtualHost> {
    // Where each name and domain was first seen.
    let mut names: HashMap<String, usize> = HashMap::new();
    let mut domains: HashMap<String, usize> = HashMap::new();
    field::each(list.into_iter().enumerate(), at, d, |(index, proto), at, d| {
        if let Some(first) = names.insert(proto.name.clone(), index) {
            d.reject(
                &at.field("name"),
                format_args!("{:?} is already the name of virtual_hosts[{first}]", proto.name),
            );
        }
        let domains_at = at.field("domains");
        for (i, domain) in proto.domains.iter().enumerate() {
            if let Some(first) = domains.insert(domain.to_ascii_lowercase(), index) {
                let message = format!("domain {domain:?} is already taken by virtual_hosts[{first}]");
                d.reject(&domains_at.index(i), message);
            }
        }
        virtual_host(proto, at, d, scope)
    })
}

fn virtual_host(
    proto: proto::VirtualHost,
    at: &Path<'_>,
    d: &mut Diagnostics,
    scope: Scope<'_>,
) -> Result<VirtualHost, Rejected> {
    let proto::VirtualHost {
        name,
        domains,
        routes,
        matcher,
        require_tls,
        virtual_clusters,
        rate_limits,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        cors,
        typed_per_filter_config,
        include_request_attempt_count,
        include_attempt_count_in_response,
        retry_policy,
        retry_policy_typed_config,
        hedge_policy,
        include_is_timeout_retry_header,
        per_request_buffer_limit_bytes,
        request_body_buffer_limit,
        request_mirror_policies,
        metadata,
        route_specifiers,
    } = proto;
    unsupported!(d, at; matcher, route_specifiers, cors);
    unsupported!(d, at; retry_policy_typed_config);
    unsupported!(d, at, HEDGING; hedge_policy);
    ignored!(d, at, "no stats of virtual clusters are kept"; virtual_clusters);
    ignored!(d, at, "has no reader"; metadata);
    let overrides = filters::per_route(typed_per_filter_config, at, d, scope.options);
    let inherited = Inherited {
        retry: retry_policy.and_then(|proto| retry::policy(proto, &at.field("retry_policy"), d).ok()),
        body_limit: retry::body_limit(per_request_buffer_limit_bytes, request_body_buffer_limit, at, d)
            .unwrap_or_default(),
        mirrors: mirror::mirrors(request_mirror_policies, &scope.inherited.mirrors, at, d),
    };
    let scope = Scope { inherited: &inherited, ..scope };
    let domains_at = at.field("domains");
    if domains.is_empty() {
        d.reject(&domains_at, "at least one is required");
    }
    Ok(VirtualHost {
        name: name.into(),
        domains: field::each(domains, &domains_at, d, domain),
        routes: field::each(routes, &at.field("routes"), d, |proto, at, d| route(proto, at, d, scope)),
        require_tls: match field::variant(require_tls, &at.field("require_tls"), d)? {
            TlsRequirementType::None => RequireTls::No,
            TlsRequirementType::ExternalOnly => RequireTls::External,
            TlsRequirementType::All => RequireTls::All,
        },
        request_edits: edits::edits(
            Direction::Request,
            request_headers_to_add,
            request_headers_to_remove,
            at,
            d,
        ),
        response_edits: edits::edits(
            Direction::Response,
            response_headers_to_add,
            response_headers_to_remove,
            at,
            d,
        ),
        include_request_attempt_count,
        include_attempt_count_in_response,
        rate_limits: ratelimit::limits(rate_limits, ratelimit::Reader::Routes, &at.field("rate_limits"), d),
        include_is_timeout_retry: include_is_timeout_retry_header,
        overrides,
    })
}

fn domain(domain: String, at: &Path<'_>, d: &mut Diagnostics) -> Result<Box<str>, Rejected> {
    if domain.is_empty() {
        return Err(d.reject(at, "must not be empty"));
    }
    // Envoy takes such a name as an exact one, which no client can send.
    let inner = domain.strip_prefix('*').or(domain.strip_suffix('*')).unwrap_or(&domain);
    if inner.contains('*') {
        d.ignored(at, format_args!("{domain:?} never matches: a wildcard is either first or last"));
    }
    Ok(domain.to_ascii_lowercase().into())
}

fn route(
    proto: proto::Route,
    at: &Path<'_>,
    d: &mut Diagnostics,
    scope: Scope<'_>,
) -> Result<Route, Rejected> {
    let proto::Route {
        name,
        r#match,
        metadata: data,
        decorator,
        typed_per_filter_config,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        tracing,
        per_request_buffer_limit_bytes,
        stat_prefix,
        request_body_buffer_limit,
        route_specifiers,
        action,
    } = proto;
    unsupported!(d, at; route_specifiers);
    let tracing = tracing::route(tracing, decorator, at, d, scope.options);
    ignored!(d, at, "no stats of single routes are kept"; stat_prefix);
    let overrides = filters::per_route(typed_per_filter_config, at, d, scope.options);
    let match_at = at.field("match");
    let matches = required(r#match, &match_at, d).and_then(|proto| route_match(proto, &match_at, d));
    let body_limit = retry::body_limit(per_request_buffer_limit_bytes, request_body_buffer_limit, at, d);
    if body_limit.is_some() && !matches!(action, Some(Action::Route(_))) {
        ignored!(d, at, "is for routes to clusters"; per_request_buffer_limit_bytes, request_body_buffer_limit);
    }
    let action = match action {
        Some(Action::Route(proto)) => action::forward(proto, body_limit, &at.field("route"), d, scope)
            .map(|f| config::Action::Forward(Box::new(f))),
        Some(Action::Redirect(proto)) => {
            answer::redirect(proto, &at.field("redirect"), d).map(|r| config::Action::Redirect(Box::new(r)))
        }
        Some(Action::DirectResponse(proto)) => {
            answer::direct(proto, &at.field("direct_response"), d, scope).map(config::Action::Direct)
        }
        Some(Action::FilterAction(_)) => Err(d.reject(&at.field("filter_action"), "not supported")),
        Some(Action::NonForwardingAction(_)) => {
            Err(d.reject(&at.field("non_forwarding_action"), "is for gRPC servers, a proxy must forward"))
        }
        None => Err(d.reject(at, "one of route, redirect, direct_response is required")),
    };
    let request_edits =
        edits::edits(Direction::Request, request_headers_to_add, request_headers_to_remove, at, d);
    let response_edits =
        edits::edits(Direction::Response, response_headers_to_add, response_headers_to_remove, at, d);
    Ok(Route {
        name: name.into(),
        matches: matches?,
        action: action?,
        tracing: tracing?,
        request_edits,
        response_edits,
        overrides,
        metadata: metadata::metadata(data, &at.field("metadata"), d),
    })
}

fn route_match(proto: proto::RouteMatch, at: &Path<'_>, d: &mut Diagnostics) -> Result<RouteMatch, Rejected> {
    let proto::RouteMatch {
        case_sensitive,
        runtime_fraction,
        headers,
        query_parameters,
        cookies,
        grpc,
        tls_context,
        dynamic_metadata,
        filter_state,
        path_specifier,
    } = proto;
    unsupported!(d, at; cookies, tls_context, dynamic_metadata, filter_state);
    let headers = field::each(headers, &at.field("headers"), d, matcher::header);
    let query = field::each(query_parameters, &at.field("query_parameters"), d, matcher::query);
    let path = path(path_specifier, at, d);
    Ok(RouteMatch {
        case_sensitive: case_sensitive.is_none_or(|v| v.value),
        fraction: match runtime_fraction {
            Some(proto) => Some(fraction::runtime(proto, &at.field("runtime_fraction"), d)?),
            None => None,
        },
        headers,
        query,
        grpc: grpc.map(|GrpcRouteMatchOptions {}| ()).is_some(),
        path: path?,
    })
}

fn path(proto: Option<PathSpecifier>, at: &Path<'_>, d: &mut Diagnostics) -> Result<PathMatch, Rejected> {
    match proto {
        Some(PathSpecifier::Prefix(prefix)) => Ok(PathMatch::Prefix(prefix.into())),
        Some(PathSpecifier::Path(path)) => Ok(PathMatch::Exact(path.into())),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            if prefix.len() < 2 || prefix.ends_with('/') || prefix.contains(['?', '#']) {
                let message = "must be longer than /, must not end with /, and must not hold ? or #";
                return Err(d.reject(&at.field("path_separated_prefix"), message));
            }
            Ok(PathMatch::Separated(prefix.into()))
        }
        Some(PathSpecifier::SafeRegex(proto)) => {
            Ok(PathMatch::Regex(matcher::regex(proto, &at.field("safe_regex"), d)?))
        }
        Some(PathSpecifier::ConnectMatcher(_)) => {
            Err(d.reject(&at.field("connect_matcher"), "CONNECT is not supported"))
        }
        Some(PathSpecifier::PathMatchPolicy(_)) => {
            Err(d.reject(&at.field("path_match_policy"), "not supported"))
        }
        None => Err(d.reject(at, "one of prefix, path, path_separated_prefix, safe_regex is required")),
    }
}
