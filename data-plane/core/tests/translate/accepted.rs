//! What is accepted, what it becomes, and what is reported as ignored on the way.

use super::*;
use data_plane_core::config::{
    Action, CircuitThresholds, ClusterChoice, CodecType, ConfigSource, Discovery, DnsFamily, EndpointAddress,
    EndpointHealth, EscapedSlashes, Forward, GrpcSource, GrpcTarget, Hcm, Http1Options, Http2Options,
    HttpFilter, HttpFilterKind, LbPolicy, LocalReplyConfig, NetworkFilter, PathNormalization, PathRewrite,
    RouteConfig, RouteSource, ServerHeader, StripPort, TransportApi, Underscores, UpstreamProtocol,
};
use std::sync::Arc;
use std::time::Duration;
use xds_types::google::protobuf::Any;
use xds_types::type_url::ResourceType;

/// The configuration and what was reported as ignored.
pub(super) fn accepted(yaml: &Yaml) -> (Config, Vec<String>) {
    let (config, d) = translate(yaml);
    let ignored = d.ignored.iter().map(ToString::to_string).collect();
    (config.unwrap_or_else(|| panic!("{yaml:?}: {d}")), ignored)
}

pub(super) fn silent(yaml: &Yaml) -> Config {
    let (config, ignored) = accepted(yaml);
    assert_eq!(ignored, Vec::<String>::new(), "nothing is reported for {yaml:?}");
    config
}

pub(super) fn as_cluster(config: Config) -> config::Cluster {
    let Config::Cluster(cluster) = config else { panic!("a cluster") };
    cluster
}

fn as_hcm(config: Config) -> Arc<Hcm> {
    let Config::Listener(listener) = config else { panic!("a listener") };
    let NetworkFilter::Http(hcm) = &listener.filter_chains[0].filters[0] else { panic!("HTTP") };
    hcm.clone()
}

fn as_forward(config: Config) -> Forward {
    let Config::Routes(mut routes) = config else { panic!("routes") };
    match routes.virtual_hosts.remove(0).routes.remove(0).action {
        Action::Forward(forward) => *forward,
        other => panic!("{other:?} does not forward"),
    }
}

#[test]
fn a_bare_connection_manager_has_envoys_defaults() {
    let routes = RouteConfig {
        name: "r".into(),
        virtual_hosts: Vec::new(),
        request_edits: Default::default(),
        response_edits: Default::default(),
        internal_only_headers: Vec::new(),
        most_specific_header_mutations_wins: false,
        ignore_port_in_host_matching: false,
        ignore_path_parameters: false,
        validate_clusters: true,
        overrides: Default::default(),
    };
    let expected = Hcm {
        stat_prefix: "web".into(),
        client_cert: Default::default(),
        client_cert_details: Default::default(),
        codec: CodecType::Auto,
        routes: RouteSource::Static(Arc::new(routes)),
        filters: vec![HttpFilter {
            name: "router".into(),
            kind: HttpFilterKind::Router {
                suppress_envoy_headers: false,
                dynamic_stats: true,
                respect_expected_rq_timeout: false,
            },
            disabled: false,
        }],
        access_log: Vec::new(),
        grpc_logs: Vec::new(),
        tracing: None,
        log_on_new_request: false,
        server_name: "envoy".into(),
        server_header: ServerHeader::Overwrite,
        via: "".into(),
        use_remote_address: false,
        xff_num_trusted_hops: 0,
        skip_xff_append: false,
        internal_ranges: Vec::new(),
        generate_request_id: true,
        preserve_external_request_id: false,
        always_set_request_id_in_response: false,
        scheme_override: None,
        idle_timeout: Some(Duration::from_secs(3600)),
        max_connection_duration: None,
        max_stream_duration: None,
        stream_idle_timeout: Some(Duration::from_secs(300)),
        request_timeout: None,
        request_headers_timeout: None,
        drain_timeout: Duration::from_secs(5),
        delayed_close_timeout: Some(Duration::from_secs(1)),
        max_requests_per_connection: None,
        max_headers_count: 100,
        max_request_headers_kb: 60,
        underscores: Underscores::Allow,
        http1: Http1Options::default(),
        http2: Http2Options::default(),
        path: PathNormalization {
            normalize: false,
            merge_slashes: false,
            escaped_slashes: EscapedSlashes::Keep,
        },
        strip_port: StripPort::No,
        strip_trailing_host_dot: false,
        local_reply: LocalReplyConfig::default(),
        upgrades: Vec::new(),
        add_user_agent: false,
        proxy_100_continue: false,
        append_x_forwarded_port: false,
        stream_error_on_invalid_http_message: false,
    };
    assert_eq!(*as_hcm(silent(&hcm(""))), expected);
}

#[test]
fn zero_turns_timeouts_of_a_connection_manager_off() {
    let hcm = as_hcm(silent(&hcm(
        "stream_idle_timeout: 0s, delayed_close_timeout: 0s, common_http_protocol_options: {idle_timeout: 0s}",
    )));
    assert_eq!((hcm.stream_idle_timeout, hcm.delayed_close_timeout, hcm.idle_timeout), (None, None, None));
}

#[test]
fn upgrades_are_lowercase_and_can_be_turned_off() {
    let yaml = hcm("upgrade_configs: [{upgrade_type: WebSocket}, {upgrade_type: other, enabled: false}]");
    assert_eq!(as_hcm(silent(&yaml)).upgrades, vec!["websocket".into()]);
}

#[test]
fn http1_options_override_the_managers_handling_of_bad_messages() {
    let yaml = hcm("stream_error_on_invalid_http_message: true, \
         http_protocol_options: {override_stream_error_on_invalid_http_message: false}");
    let (config, ignored) = accepted(&yaml);
    assert!(!as_hcm(config).http1.stream_error_on_invalid_http_message);
    assert_eq!(
        ignored,
        [
            "filter_chains[0].filters[0].typed_config.stream_error_on_invalid_http_message: a malformed message always \
          ends its HTTP/1 connection"
        ]
    );
}

#[test]
fn an_unknown_optional_filter_is_left_out_and_reported() {
    let cors = "{name: cors, is_optional: true, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}}";
    let (config, ignored) =
        accepted(&bare_hcm(&format!("route_config: {{}}, http_filters: [{cors}, {ROUTER}]")));
    assert_eq!(as_hcm(config).filters.len(), 1);
    assert_eq!(
        ignored,
        [
            "filter_chains[0].filters[0].typed_config.http_filters[0].typed_config: optional HTTP filter \"cors\" is \
          not supported and left out"
        ]
    );
}

#[test]
fn a_bare_cluster_has_envoys_defaults() {
    let cluster = as_cluster(silent(&cluster("")));
    assert_eq!(cluster.stat_name, cluster.name);
    assert!(matches!(&cluster.discovery, Discovery::Static(a) if a.localities.is_empty()));
    assert_eq!(cluster.lb, LbPolicy::ROUND_ROBIN);
    assert_eq!(cluster.connect_timeout, Duration::from_secs(5));
    assert_eq!(cluster.protocol, UpstreamProtocol::Http1);
    assert_eq!(cluster.idle_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(cluster.circuit_breakers, [CircuitThresholds::default(), CircuitThresholds::default()]);
    assert_eq!((cluster.max_headers_count, cluster.max_response_headers_kb), (100, None));
    assert_eq!(cluster.healthy_panic_threshold, 50);
}

#[test]
fn clusters_take_http_options_from_the_extension_before_the_deprecated_fields() {
    let (config, ignored) = accepted(&cluster(
        "http_protocol_options: {enable_trailers: true}, max_requests_per_connection: 3, \
         typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": \
         type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: \
         {http2_protocol_options: {max_concurrent_streams: 7}}}}",
    ));
    let cluster = as_cluster(config);
    assert_eq!(cluster.protocol, UpstreamProtocol::Http2);
    assert_eq!(cluster.http2.max_concurrent_streams, 7);
    assert_eq!((cluster.http1, cluster.max_requests_per_connection), (Http1Options::default(), None));
    assert_eq!(
        ignored,
        [
            "http_protocol_options: typed_extension_protocol_options takes its place",
            "max_requests_per_connection: typed_extension_protocol_options takes its place",
        ]
    );
}

#[test]
fn http2_options_alone_make_a_cluster_speak_http2() {
    assert_eq!(as_cluster(silent(&cluster("http2_protocol_options: {}"))).protocol, UpstreamProtocol::Http2);
}

#[test]
fn the_first_known_policy_of_a_list_is_taken() {
    let policy = |name: &str, message: &str| {
        format!(
            "{{typed_extension_config: {{name: {name}, typed_config: {{\"@type\": \
             type.googleapis.com/envoy.extensions.load_balancing_policies.{message}}}}}}}"
        )
    };
    let list = [
        policy("mine", "client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin"),
        policy("random", "random.v3.Random"),
        policy("rr", "round_robin.v3.RoundRobin"),
    ];
    let (config, ignored) =
        accepted(&cluster(&format!("load_balancing_policy: {{policies: [{}]}}", list.join(", "))));
    assert_eq!(as_cluster(config).lb, LbPolicy::Random);
    assert_eq!(
        ignored,
        [
            "load_balancing_policy.policies[0].typed_extension_config.typed_config: policy \"mine\" is not \
             supported: the next one is tried",
            "load_balancing_policy.policies[2]: a policy before it is taken",
        ]
    );
}

#[test]
fn dns_clusters_may_be_written_both_ways() {
    let hosts = format!(
        "load_assignment: {{cluster_name: c, endpoints: [{{lb_endpoints: [{}]}}]}}",
        endpoint("a.example", 80)
    );
    let old = as_cluster(silent(&cluster(&format!(
        "type: STRICT_DNS, {hosts}, dns_lookup_family: V4_ONLY, dns_refresh_rate: 7s"
    ))));
    let new = as_cluster(silent(&cluster(&format!(
        "{hosts}, cluster_type: {{name: envoy.clusters.dns, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster, dns_lookup_family: V4_ONLY, \
         dns_refresh_rate: 7s}}}}"
    ))));
    assert_eq!(old, new);
    let Discovery::StrictDns(assignment, options) = old.discovery else { panic!("strict") };
    assert_eq!(assignment.localities[0].endpoints[0].address, EndpointAddress::Name("a.example".into(), 80));
    assert_eq!((options.family, options.refresh_rate), (DnsFamily::V4Only, Duration::from_secs(7)));
}

#[test]
fn dns_fields_of_other_clusters_are_reported() {
    let (_, ignored) = accepted(&cluster("type: STATIC, dns_lookup_family: V4_ONLY"));
    assert_eq!(ignored, ["dns_lookup_family: is for DNS clusters"]);
}

#[test]
fn repeated_addresses_of_an_assignment_count_once() {
    let one = endpoint("10.0.0.1", 80);
    let (config, ignored) = accepted(&endpoints(&format!("{{lb_endpoints: [{one}, {one}]}}")));
    let Config::Assignment(assignment) = config else { panic!("an assignment") };
    assert_eq!(assignment.localities[0].endpoints.len(), 1);
    assert_eq!(assignment.overprovisioning_factor, 140);
    assert_eq!(ignored, ["endpoints[0].lb_endpoints[1]: duplicate address: the first one counts"]);
}

#[test]
fn endpoints_keep_health_weight_and_labels() {
    let yaml = endpoints(
        "{lb_endpoints: [{endpoint: {hostname: a, address: {socket_address: {address: 10.0.0.1, port_value: 80}}}, \
         health_status: TIMEOUT, load_balancing_weight: 9, metadata: {filter_metadata: {envoy.lb: {v: 2, canary: true, \
         n: x}, other: {a: b}}}}]}",
    );
    let (config, ignored) = accepted(&yaml);
    let Config::Assignment(mut assignment) = config else { panic!("an assignment") };
    let endpoint = assignment.localities.remove(0).endpoints.remove(0);
    assert_eq!((endpoint.health, endpoint.weight), (EndpointHealth::Unhealthy, 9));
    let labels: Vec<_> = endpoint.labels.iter().map(|(k, v)| (k.as_str(), v.to_string())).collect();
    assert_eq!(labels, [("canary", "true".into()), ("n", "\"x\"".into()), ("v", "2".into())]);
    assert_eq!(
        ignored,
        [
            "endpoints[0].lb_endpoints[0].metadata.filter_metadata[\"other\"]: has no reader: only envoy.lb and envoy.transport_socket_match have"
        ]
    );
}

#[test]
fn a_bare_route_has_envoys_defaults() {
    let expected = Forward {
        upgrades: Vec::new(),
        cluster: ClusterChoice::Named("c".into()),
        metadata_match: None,
        cluster_not_found_status: 503,
        path_rewrite: None,
        host_rewrite: None,
        append_x_forwarded_host: false,
        timeout: Some(Duration::from_secs(15)),
        idle_timeout: None,
        max_stream_duration: None,
        grpc_timeout_header_max: None,
        grpc_timeout_header_offset: Duration::ZERO,
        rate_limits: Vec::new(),
        include_vh_rate_limits: false,
        hash_policy: Vec::new(),
        high_priority: false,
        retry: None,
        body_limit: Default::default(),
        mirrors: Default::default(),
    };
    assert_eq!(as_forward(silent(&forward(""))), expected);
}

#[test]
fn zero_turns_timeouts_of_a_route_off() {
    let forward = as_forward(silent(&forward("timeout: 0s, idle_timeout: 0s")));
    assert_eq!((forward.timeout, forward.idle_timeout), (None, Some(None)));
}

#[test]
fn a_stream_duration_takes_the_place_of_the_timeout() {
    let (config, ignored) =
        accepted(&forward("timeout: 3s, max_stream_duration: {grpc_timeout_header_max: 0s}"));
    let forward = as_forward(config);
    assert_eq!((forward.timeout, forward.grpc_timeout_header_max), (None, Some(Duration::ZERO)));
    assert_eq!(ignored, ["virtual_hosts[0].routes[0].route.timeout: max_stream_duration takes its place"]);
}

#[test]
fn weights_are_summed_and_headers_lowercased() {
    let yaml = route(
        "match: {prefix: /}, route: {weighted_clusters: {total_weight: 100, clusters: [{name: a, weight: 30, \
         request_headers_to_add: [{header: {key: X-A, value: b}}]}, {name: b, weight: 70}]}, prefix_rewrite: /v2}",
    );
    let forward = as_forward(silent(&yaml));
    let ClusterChoice::Weighted(weighted) = &forward.cluster else { panic!("weighted") };
    assert_eq!((weighted.total, weighted.clusters.len()), (100, 2));
    assert_eq!(&*weighted.clusters[0].request_edits.add[0].name, "x-a");
    assert_eq!(forward.path_rewrite, Some(PathRewrite::Prefix("/v2".into())));
}

#[test]
fn a_total_weight_that_is_not_the_sum_is_reported() {
    let yaml = route(
        "match: {prefix: /}, route: {weighted_clusters: {total_weight: 9, clusters: [{name: a, weight: 1}]}}",
    );
    let (_, ignored) = accepted(&yaml);
    assert_eq!(
        ignored,
        [
            "virtual_hosts[0].routes[0].route.weighted_clusters.total_weight: deprecated: the weights' own sum is used"
        ]
    );
}

#[test]
fn bodies_of_direct_responses_come_from_four_places() {
    let sources = [
        ("inline_string: in place", "in place"),
        ("inline_bytes: Ynl0ZXM=", "bytes"),
        ("filename: /body.txt", "from a file"),
        ("environment_variable: BODY", "from a variable"),
    ];
    for (source, body) in sources {
        let yaml =
            route(&format!("match: {{prefix: /}}, direct_response: {{status: 200, body: {{{source}}}}}"));
        let Config::Routes(routes) = silent(&yaml) else { panic!("routes") };
        let Action::Direct(direct) = &routes.virtual_hosts[0].routes[0].action else { panic!("direct") };
        assert_eq!(direct.body, body);
    }
}

#[test]
fn domains_that_cannot_match_are_reported_and_kept() {
    let (config, ignored) =
        accepted(&routes("virtual_hosts: [{name: v, domains: [a.*.com, \"*.B.com\", \"*\"]}]"));
    let Config::Routes(routes) = config else { panic!("routes") };
    assert_eq!(*routes.virtual_hosts[0].domains, ["a.*.com".into(), "*.b.com".into(), "*".into()]);
    assert_eq!(
        ignored,
        ["virtual_hosts[0].domains[0]: \"a.*.com\" never matches: a wildcard is either first or last"]
    );
}

/// A message is several times as large as what it becomes, and there may be 50,000 of them.
#[test]
fn lists_do_not_keep_the_memory_of_their_messages() {
    let many: String =
        (0..100).map(|n| format!("{{match: {{path: /{n}}}, route: {{cluster: c}}}}, ")).collect();
    let host = format!("virtual_hosts: [{{name: all, domains: ['*'], routes: [{many}]}}]");
    let (Some(Config::Routes(config)), _) = translate(&routes(&host)) else { panic!("it is refused") };
    let list = &config.virtual_hosts[0].routes;
    assert_eq!((list.len(), list.capacity()), (100, 100));
}

#[test]
fn routes_of_rds_validate_clusters_only_if_asked() {
    let Config::Routes(routes) = silent(&routes("")) else { panic!("routes") };
    assert!(!routes.validate_clusters);
}

#[test]
fn chains_that_differ_in_one_part_stand_side_by_side() {
    let matches =
        ["", "destination_port: 80", "source_ports: [1]", "source_ports: [2]", "application_protocols: [h2]"];
    let list: Vec<_> = matches.iter().map(|m| chain(&format!("filter_chain_match: {{{m}}}"))).collect();
    let Config::Listener(listener) = silent(&chains(&list)) else { panic!("a listener") };
    assert_eq!(listener.filter_chains.len(), 5);
}

#[test]
fn a_listener_without_a_name_is_named_by_its_address() {
    let yaml = Yaml::Listener(format!("{{{ADDRESS}, filter_chains: [{}]}}", chain("")));
    let Config::Listener(listener) = silent(&yaml) else { panic!("a listener") };
    assert_eq!(&*listener.name, "127.0.0.1:80");
    assert_eq!(listener.listener_filters_timeout, Some(Duration::from_secs(15)));
    assert!(listener.reuse_port);
}

#[test]
fn bootstraps_tell_where_resources_come_from() {
    let control = format!(
        "static_resources: {{clusters: [{{name: control, type: STATIC, load_assignment: {{cluster_name: control, \
         endpoints: [{{lb_endpoints: [{}]}}]}}}}]}}",
        endpoint("127.0.0.1", 18000)
    );
    let Config::Bootstrap(bootstrap) = silent(&bootstrap(&format!(
        "{control}, node: {{id: proxy, metadata: {{b: 1, a: [x]}}}}, dynamic_resources: {{lds_config: {{ads: {{}}}}, \
         cds_config: {{path_config_source: {{path: /cds.yaml, watched_directory: {{path: /w}}}}}}, ads_config: \
         {{api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: control}}}}]}}}}"
    ))) else {
        panic!("a bootstrap")
    };
    let wait = Some(Duration::from_secs(15));
    assert_eq!(bootstrap.dynamic.lds, Some(ConfigSource::Ads { initial_fetch_timeout: wait }));
    let path = ConfigSource::Path { path: "/cds.yaml".into(), watched_directory: Some("/w".into()) };
    assert_eq!(bootstrap.dynamic.cds, Some(path));
    let target = GrpcTarget {
        cluster: "control".into(),
        authority: None,
        timeout: None,
        max_receive_message_bytes: None,
        metadata: Vec::new(),
    };
    let expected = GrpcSource {
        api: TransportApi::Delta,
        targets: vec![target],
        node_on_first_message_only: false,
        rate_limit: None,
    };
    assert_eq!(bootstrap.dynamic.ads, Some(expected));
    assert_eq!(serde_json::Value::Object(bootstrap.node.metadata).to_string(), r#"{"a":["x"],"b":1}"#);
    assert!(bootstrap.runtime_admin_layer, "without layers there is one admin layer");
}

#[test]
fn runtime_layers_are_flattened_and_the_last_wins() {
    let Config::Bootstrap(bootstrap) = silent(&bootstrap(
        "layered_runtime: {layers: [{name: a, static_layer: {x: {y: 1, z: true}, share: {numerator: 5}}}, \
         {name: b, static_layer: {x.y: two}}]}",
    )) else {
        panic!("a bootstrap")
    };
    let values: Vec<_> = bootstrap.runtime.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(values, [("share", "{\"numerator\":5}"), ("x.y", "two"), ("x.z", "true")]);
    assert!(!bootstrap.runtime_admin_layer);
}

#[test]
fn defaults_written_out_are_not_reported() {
    silent(&listener(&format!(
        "{ADDRESS}, use_original_dst: false, bind_to_port: true, transparent: false, drain_type: DEFAULT"
    )));
    silent(&forward("include_vh_rate_limits: false, priority: DEFAULT, append_x_forwarded_host: false"));
}

#[test]
fn what_is_not_supported_is_told_before_the_rules_broken_inside_of_it() {
    let (config, d) = translate(&cluster("health_checks: [{}]"));
    assert!(config.is_none());
    let found: Vec<_> = d.rejected.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(found[..2], ["health_checks[0]", "health_checks[0].timeout"]);
}

#[test]
fn packed_resources_are_translated_by_their_type() {
    let o = Options::new(&Data);
    let proto: xds_types::envoy::config::cluster::v3::Cluster = parse("{name: c}");
    let packed = xds_types::any::pack(&proto);
    let mut d = Diagnostics::default();
    let resource = translate::resource(ResourceType::Cluster, &packed, &Path::root("c"), &mut d, &o);
    assert_eq!(resource.map(|r| r.name().to_owned()), Ok("c".to_owned()));

    let resource = translate::resource(ResourceType::Listener, &packed, &Path::root("c"), &mut d, &o);
    assert!(resource.is_err());
    assert_eq!(
        d.to_string(),
        "c: holds `envoy.config.cluster.v3.Cluster`, not `envoy.config.listener.v3.Listener`"
    );

    let mut d = Diagnostics::default();
    let bytes = Any { value: vec![0xff], ..packed };
    assert!(translate::resource(ResourceType::Cluster, &bytes, &Path::root("c"), &mut d, &o).is_err());
    assert!(d.to_string().starts_with("c: "), "{d}");

    let mut d = Diagnostics::default();
    assert!(translate::resource(ResourceType::ScopedRoute, &bytes, &Path::root("c"), &mut d, &o).is_err());
    assert_eq!(d.to_string(), "c: SRDS resources are not supported");
}

#[test]
fn sources_of_xds_resources_are_checked_against_the_bootstrap() {
    let sources = translate::Sources::default();
    let o = Options { sources: Some(&sources), ..Options::new(&Data) };
    let proto: xds_types::envoy::config::cluster::v3::Cluster =
        parse("{name: c, type: EDS, eds_cluster_config: {eds_config: {ads: {}}}}");
    let mut d = Diagnostics::default();
    assert!(translate::cluster(proto, &Path::root(""), &mut d, &o).is_err());
    assert_eq!(
        d.to_string(),
        "eds_cluster_config.eds_config.ads: the bootstrap has no dynamic_resources.ads_config"
    );
}

#[test]
fn the_command_line_overrides_the_node() {
    let mut proto = parse("{node: {id: a, cluster: b, locality: {region: r, zone: z}}}");
    let overrides =
        translate::Overrides { node_id: Some("n".into()), node_cluster: None, zone: Some("y".into()) };
    overrides.apply(&mut proto);
    let mut d = Diagnostics::default();
    let bootstrap = translate::bootstrap(proto, &Path::root(""), &mut d, &Options::new(&Data)).unwrap();
    assert_eq!((bootstrap.node.id.as_str(), bootstrap.node.cluster.as_str()), ("n", "b"));
    assert_eq!((bootstrap.node.locality.region.as_str(), bootstrap.node.locality.zone.as_str()), ("r", "y"));
}

#[test]
fn priorities_may_have_gaps() {
    let one = |address: &str| format!("lb_endpoints: [{}]", endpoint(address, 80));
    let Config::Assignment(assignment) = silent(&endpoints(&format!(
        "{{priority: 3, {}}}, {{priority: 1, {}}}",
        one("10.0.0.1"),
        one("10.0.0.2")
    ))) else {
        panic!("an assignment")
    };
    let priorities: Vec<u32> = assignment.localities.iter().map(|l| l.priority).collect();
    assert_eq!(priorities, [3, 1]);
}

#[test]
fn the_older_name_of_spawn_upstream_span_is_honoured_where_something_is_traced() {
    let router = ROUTER.replace("v3.Router", "v3.Router, start_child_span: true");
    let manager =
        |tracing: &str| bare_hcm(&format!("{tracing}route_config: {{name: r}}, http_filters: [{router}]"));
    let spawns = |yaml: &Yaml| {
        let (Config::Listener(listener), ignored) = accepted(yaml) else { panic!("a listener") };
        let NetworkFilter::Http(hcm) = &listener.filter_chains[0].filters[0] else { panic!("HTTP") };
        (hcm.tracing.as_ref().map(|tracing| tracing.spawn_upstream_span), ignored)
    };
    assert_eq!(spawns(&manager("tracing: {}, ")).0, Some(true));
    let (traced, ignored) = spawns(&manager(""));
    assert_eq!(traced, None);
    assert!(
        ignored[0].contains("http_filters[0].typed_config.start_child_span: nothing is traced"),
        "{ignored:?}"
    );
}

/// Fields of a later version of the API, of the resource itself, of a message in it and of a packed one.
#[test]
fn fields_that_are_not_known_are_told_with_their_places() {
    use prost::Message;
    use xds_types::envoy::config::listener::v3 as proto;
    use xds_types::envoy::config::listener::v3::filter::ConfigType;
    use xds_types::type_url::ResourceType;
    // Number 1999, a varint.
    let unknown: &[u8] = &[0xf8, 0x7c, 1];
    let yaml = format!("{{name: web, {ADDRESS}, filter_chains: [{}]}}", chain(""));
    let mut listener: proto::Listener = xds_types::text::from_yaml(&yaml).unwrap();
    let resource = |listener: &proto::Listener, more: &[u8]| {
        let mut packed = xds_types::any::pack(listener);
        packed.value.extend(more);
        let mut d = Diagnostics::default();
        translate::resource(ResourceType::Listener, &packed, &Path::root(""), &mut d, &Options::new(&Data))
            .unwrap();
        d.unknown.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(resource(&listener, &[]), [""; 0]);
    let told = "field 1999 of envoy.config.listener.v3.Listener is not known here";
    assert_eq!(resource(&listener, unknown), [format!(": {told}")]);
    // A chain (field 3) of nothing but the unknown field is a message within: found through its parent's bytes.
    let mut chain = listener.filter_chains[0].encode_to_vec();
    chain.extend(unknown);
    let mut nested = vec![0x1a];
    prost::encode_length_delimiter(chain.len(), &mut nested).unwrap();
    nested.extend(&chain);
    let only_nested = proto::Listener { filter_chains: Vec::new(), ..listener.clone() };
    assert_eq!(
        resource(&only_nested, &nested),
        ["filter_chains[0]: field 1999 of envoy.config.listener.v3.FilterChain is not known here"]
    );
    let Some(ConfigType::TypedConfig(hcm)) = &mut listener.filter_chains[0].filters[0].config_type else {
        panic!("a packed filter")
    };
    hcm.value.extend(unknown);
    let told = resource(&listener, &[]);
    assert!(
        told.len() == 1
            && told[0].starts_with("filter_chains[0].filters[0].typed_config: field 1999 of ")
            && told[0].contains("HttpConnectionManager"),
        "{told:?}"
    );
}
