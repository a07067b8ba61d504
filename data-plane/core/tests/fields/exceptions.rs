//! Changes that may stay without a trace of their own, each with its reason.

use prost_reflect::FieldDescriptor;
use std::fmt;

/// Which changes: a field (`type.field`) or one place (`fixture: path`), the case's label (`*`: any), why.
type Row = (&'static str, &'static str, &'static str);

/// May be silent.
const SILENT: &[Row] = &[
    // Labels: the type of an extension decides, as in Envoy.
    ("envoy.config.core.v3.TypedExtensionConfig.name", "*", "label"),
    ("envoy.config.core.v3.TransportSocket.name", "*", "label"),
    ("envoy.config.listener.v3.Filter.name", "*", "label"),
    ("envoy.config.listener.v3.ListenerFilter.name", "*", "label"),
    ("envoy.config.accesslog.v3.AccessLog.name", "*", "label"),
    ("envoy.config.cluster.v3.Cluster.CustomClusterType.name", "*", "label"),
    ("envoy.config.bootstrap.v3.RuntimeLayer.name", "*", "label, unique"),
    ("envoy.config.trace.v3.Tracing.Http.name", "*", "label"),
    (
        "envoy.extensions.access_loggers.grpc.v3.CommonGrpcAccessLogConfig.transport_api_version",
        "AUTO",
        "V3 is the only version",
    ),
    ("envoy.config.metrics.v3.StatsSink.name", "*", "label"),
    ("envoy.config.metrics.v3.MetricsServiceConfig.transport_api_version", "AUTO", "V3 is the only version"),
    ("envoy.config.listener.v3.Listener.traffic_direction", "OUTBOUND", "names spans, where there are any"),
    ("envoy.type.tracing.v3.CustomTag.Environment.name", "*", "the test's variables all hold the same"),
    ("envoy.type.tracing.v3.CustomTag.Environment.default_value", "*", "the variable is there"),
    ("envoy.config.route.v3.RetryPolicy.RetryHostPredicate.name", "*", "label"),
    ("envoy.config.route.v3.RetryPolicy.RetryPriority.name", "*", "label"),
    // Values that mean the same as the one in the fixture.
    ("envoy.config.core.v3.ConfigSource.resource_api_version", "AUTO", "V3 is the only version"),
    ("envoy.config.core.v3.ConfigSource.resource_api_version", "V3", "V3 is the only version"),
    (
        "envoy.config.core.v3.ApiConfigSource.api_type",
        "AGGREGATED_DELTA_GRPC",
        "ads_config is aggregated anyway",
    ),
    ("envoy.config.endpoint.v3.LbEndpoint.health_status", "HEALTHY", "as UNKNOWN"),
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\
         .path_with_escaped_slashes_action",
        "KEEP_UNCHANGED",
        "the default",
    ),
    (
        "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol.disallowed_versions",
        "V1",
        "it is disallowed already",
    ),
    ("envoy.config.listener.v3.Listener.deprecated_v1", "{bind_to_port{value:true}}", "the default"),
    (
        "cluster_dns_extension: lb_policy",
        "LOAD_BALANCING_POLICY_CONFIG",
        "says that the list decides, as it does",
    ),
    ("cluster_eds: lb_policy", "LOAD_BALANCING_POLICY_CONFIG", "says that the list decides, as it does"),
    ("cluster_random: lb_policy", "LOAD_BALANCING_POLICY_CONFIG", "says that the list decides, as it does"),
    (
        "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute.override_option",
        "INCLUDE_POLICY",
        "as vh_rate_limits says",
    ),
    (
        "cluster_ring_hash_extension: lb_policy",
        "LOAD_BALANCING_POLICY_CONFIG",
        "says that the list decides, as it does",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.TlsParameters.tls_minimum_protocol_version",
        "TLS_AUTO",
        "1.2",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.TlsParameters.tls_minimum_protocol_version",
        "TLSv1_2",
        "as AUTO",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.TlsParameters.tls_maximum_protocol_version",
        "TLS_AUTO",
        "1.3 of a server",
    ),
    // Limits of what is in the fixture.
    (
        "envoy.config.route.v3.RouteConfiguration.max_direct_response_body_size_bytes",
        "*",
        "no body is longer",
    ),
    // Parts of what is reported as ignored as a whole.
    (
        "listener: filter_chains[0].filters[0].typed_config.http_filters[0].name",
        "*",
        "of an optional filter that is reported",
    ),
    (
        "listener: filter_chains[0].filters[0].typed_config.http_filters[0].disabled",
        "*",
        "of an optional filter that is reported",
    ),
];

/// May be refused with the path of another field: one that does not go with the change.
const REFUSED_ELSEWHERE: &[Row] = &[
    // What decides which other fields are right: they are named.
    ("envoy.config.cluster.v3.Cluster.type", "*", "endpoints do not fit the type"),
    ("envoy.config.cluster.v3.Cluster.lb_policy", "*", "lb_config does not fit the policy"),
    ("envoy.config.cluster.v3.Cluster.load_balancing_policy", "*", "excludes lb_subset_config"),
    (
        "envoy.config.cluster.v3.Cluster.LbSubsetConfig.LbSubsetSelector.fallback_policy",
        "*",
        "fallback_keys_subset goes with KEYS_SUBSET only",
    ),
    (
        "envoy.extensions.load_balancing_policies.subset.v3.Subset.LbSubsetSelector.fallback_policy",
        "*",
        "fallback_keys_subset goes with KEYS_SUBSET only",
    ),
    ("envoy.config.cluster.v3.Cluster.name", "*", "management servers name the cluster"),
    (
        "envoy.extensions.filters.http.health_check.v3.HealthCheck.pass_through_mode",
        "*",
        "cache_time goes with it only",
    ),
    ("envoy.type.v3.Int64Range.start", "*", "the range is named"),
    ("envoy.type.v3.Int64Range.end", "*", "the range is named"),
    ("envoy.config.core.v3.HealthCheck.HttpHealthCheck.method", "*", "the body does not fit the method"),
    ("envoy.type.matcher.v3.RegexMatcher.regex", "*", "the substitution names a group"),
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter.is_optional",
        "false",
        "the filter is named",
    ),
    ("envoy.config.route.v3.FilterConfig.is_optional", "false", "the configuration is named"),
    // Content that does not fit its place: the place is named.
    ("secret_certificate: tls_certificate.ocsp_staple.inline_string", "*", "the staple is DER"),
    ("secret_keys: session_ticket_keys.keys[0].filename", "*", "80 bytes"),
    ("secret_keys: session_ticket_keys.keys[0].inline_bytes", "*", "80 bytes"),
    ("secret_keys: session_ticket_keys.keys[0].inline_string", "*", "80 bytes"),
    ("secret_keys: session_ticket_keys.keys[0].environment_variable", "*", "80 bytes"),
    ("envoy.config.core.v3.DataSource.filename", "*", "keys of tickets have 80 bytes"),
    ("envoy.config.core.v3.DataSource.inline_bytes", "*", "keys of tickets have 80 bytes"),
    ("envoy.config.core.v3.DataSource.inline_string", "*", "keys of tickets have 80 bytes"),
    ("envoy.config.core.v3.DataSource.environment_variable", "*", "keys of tickets have 80 bytes"),
    // Pairs that exclude each other: the other one is named.
    ("envoy.config.route.v3.RouteAction.prefix_rewrite", "*", "regex_rewrite"),
    ("envoy.config.core.v3.HeaderValueOption.append", "*", "append_action"),
    ("envoy.extensions.filters.http.header_to_metadata.v3.Config.Rule.header", "*", "cookie"),
    (
        "envoy.extensions.filters.http.header_to_metadata.v3.Config.KeyValuePair.value",
        "*",
        "regex_value_rewrite",
    ),
    ("envoy.config.route.v3.RateLimit.HitsAddend.number", "*", "hits_addend as a whole"),
    ("envoy.config.route.v3.RateLimit.HitsAddend.format", "*", "hits_addend as a whole"),
    ("envoy.config.route.v3.FilterConfig.disabled", "false", "a configuration is missing"),
    ("envoy.config.trace.v3.OpenTelemetryConfig.grpc_service", "*", "http_service"),
    ("envoy.config.bootstrap.v3.RuntimeLayer.admin_layer", "*", "the other admin layer"),
    ("envoy.config.route.v3.RetryPolicy.RetryBackOff.base_interval", "*", "max_interval"),
    ("envoy.config.route.v3.RouteAction.RequestMirrorPolicy.cluster", "*", "cluster_header"),
    ("envoy.config.route.v3.VirtualHost.per_request_buffer_limit_bytes", "*", "request_body_buffer_limit"),
    ("envoy.config.route.v3.Route.per_request_buffer_limit_bytes", "*", "request_body_buffer_limit"),
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.strip_matching_host_port",
        "*",
        "strip_any_host_port",
    ),
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\
         .flush_access_log_on_new_request",
        "*",
        "access_log_options",
    ),
    (
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.access_log_options",
        "*",
        "the deprecated fields that say the same",
    ),
];

/// Fields for which no value is known that the API's rules let through.
const BARRED: &[(&str, &str)] =
    &[("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.hash_policy", "one at most, which is there")];

/// Types that are looked into and that no fixture holds.
const TYPES: &[(&str, &str)] = &[];

/// One change that was tried.
pub(crate) struct Change<'a> {
    pub(crate) fixture: &'a str,
    pub(crate) path: &'a str,
    pub(crate) field: &'a FieldDescriptor,
    pub(crate) label: &'a str,
}

impl fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label: String = self.label.chars().take(60).collect();
        write!(f, "{}: {} = {label} ({})", self.fixture, self.path, self.field.full_name())
    }
}

impl Change<'_> {
    fn is(&self, (place, label, _): &Row) -> bool {
        let here = self.field.full_name() == *place || format!("{}: {}", self.fixture, self.path) == *place;
        here && (*label == "*" || *label == self.label)
    }
}

/// The tables, and which of their rows were needed.
#[derive(Default)]
pub(crate) struct Exceptions {
    used: std::collections::HashSet<String>,
}

impl Exceptions {
    pub(crate) fn covers_silence(&mut self, change: &Change<'_>) -> bool {
        self.covers(SILENT, change)
    }

    pub(crate) fn covers_refusal_elsewhere(&mut self, change: &Change<'_>) -> bool {
        self.covers(REFUSED_ELSEWHERE, change)
    }

    fn covers(&mut self, rows: &[Row], change: &Change<'_>) -> bool {
        let found: Vec<&Row> = rows.iter().filter(|row| change.is(row)).collect();
        self.used.extend(found.iter().map(|row| key(row)));
        !found.is_empty()
    }

    pub(crate) fn covers_barred(&mut self, field: &FieldDescriptor) -> bool {
        let found = BARRED.iter().any(|(name, _)| *name == field.full_name());
        found.then(|| self.used.insert(field.full_name().to_owned())).is_some()
    }

    pub(crate) fn covers_type(&mut self, full_name: &str) -> bool {
        let found = TYPES.iter().any(|(name, _)| *name == full_name);
        found.then(|| self.used.insert(full_name.to_owned())).is_some()
    }

    /// Rows that no change needed.
    pub(crate) fn unused(&self) -> Vec<String> {
        let rows = SILENT.iter().chain(REFUSED_ELSEWHERE).map(key);
        rows.chain(TYPES.iter().chain(BARRED).map(|(name, _)| (*name).to_owned()))
            .filter(|row| !self.used.contains(row))
            .collect()
    }
}

fn key((place, label, _): &Row) -> String {
    format!("{place} = {label}")
}
