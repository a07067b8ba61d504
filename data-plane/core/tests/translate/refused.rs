//! What is refused: input, then every finding as `path: message`, in order.

use super::*;

/// Stands for the path of the connection manager in a listener.
const AT_HCM: &str = "filter_chains[0].filters[0].typed_config";
const AT_ROUTE: &str = "virtual_hosts[0].routes[0]";

pub(super) fn check(cases: Vec<(Yaml, &[&str])>) {
    let mut wrong = Vec::new();
    for (yaml, expected) in cases {
        let expected: Vec<String> =
            expected.iter().map(|e| e.replace("HCM", AT_HCM).replace("ROUTE", AT_ROUTE)).collect();
        let (config, d) = translate(&yaml);
        let found: Vec<String> = d.rejected.iter().map(ToString::to_string).collect();
        if found != expected {
            wrong.push(format!("{yaml:?}\n   expected {expected:#?}\n   found    {found:#?}"));
        }
        assert_eq!(
            config.is_none(),
            d.is_rejected(),
            "an error is returned exactly when something is rejected"
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn bootstraps() {
    let control = format!(
        "static_resources: {{clusters: [{{name: control, type: STATIC, load_assignment: {{cluster_name: control, \
         endpoints: [{{lb_endpoints: [{}]}}]}}}}]}}",
        endpoint("127.0.0.1", 18000)
    );
    let ads =
        |fields: &str| bootstrap(&format!("{control}, dynamic_resources: {{ads_config: {{{fields}}}}}"));
    let grpc = "grpc_services: [{envoy_grpc: {cluster_name: control}}]";
    let web = |name: &str, port: u16| {
        format!(
            "{{name: {name}, address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}, filter_chains: [{}]}}",
            chain("")
        )
    };
    check(vec![
        (
            bootstrap("static_resources: {clusters: [{name: c}, {name: d}, {name: c}]}"),
            &["static_resources.clusters[2].name: \"c\" is already the name of clusters[0]"],
        ),
        (
            bootstrap(&format!("static_resources: {{listeners: [{}, {}]}}", web("a", 80), web("a", 81))),
            &["static_resources.listeners[1].name: \"a\" is already the name of listeners[0]"],
        ),
        (
            bootstrap(&format!("static_resources: {{listeners: [{}, {}]}}", web("a", 80), web("b", 80))),
            &["static_resources.listeners[1].address: 127.0.0.1:80 is already the address of listeners[0]"],
        ),
        (
            bootstrap("static_resources: {secrets: [{name: s}]}"),
            &[
                "static_resources.secrets[0]: one of tls_certificate, session_ticket_keys, validation_context, \
                 generic_secret is required",
            ],
        ),
        (
            bootstrap("dynamic_resources: {lds_config: {ads: {}}}"),
            &["dynamic_resources.lds_config.ads: the bootstrap has no dynamic_resources.ads_config"],
        ),
        (
            bootstrap("dynamic_resources: {cds_config: {self: {}}}"),
            &["dynamic_resources.cds_config.self: not supported: name the source itself"],
        ),
        (
            bootstrap("dynamic_resources: {cds_config: {path: /a, resource_api_version: V2}}"),
            &["dynamic_resources.cds_config.resource_api_version: the v2 API is gone: V3 is required"],
        ),
        (
            bootstrap("dynamic_resources: {lds_resources_locator: \"xdstp://a\"}"),
            &["dynamic_resources.lds_resources_locator: xdstp names are not supported"],
        ),
        (
            ads(&format!("api_type: GRPC, {grpc}")),
            &["dynamic_resources.ads_config.transport_api_version: V3 is required"],
        ),
        (
            ads(&format!("api_type: REST, transport_api_version: V3, {grpc}")),
            &["dynamic_resources.ads_config.api_type: REST is not supported: GRPC or DELTA_GRPC are"],
        ),
        (
            ads("api_type: GRPC, transport_api_version: V3"),
            &["dynamic_resources.ads_config.grpc_services: at least one is required"],
        ),
        (
            ads(&format!("api_type: GRPC, transport_api_version: V3, cluster_names: [control], {grpc}")),
            &[
                "dynamic_resources.ads_config.cluster_names: is for REST only: gRPC servers are named by grpc_services",
            ],
        ),
        (
            ads(
                "api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: other}}]",
            ),
            &[
                "dynamic_resources.ads_config.grpc_services[0].envoy_grpc.cluster_name: \"other\" is not a static \
               cluster of the bootstrap, or gets its endpoints by EDS",
            ],
        ),
        (
            ads(
                "api_type: GRPC, transport_api_version: V3, grpc_services: [{google_grpc: {target_uri: a, stat_prefix: b}}]",
            ),
            &[
                "dynamic_resources.ads_config.grpc_services[0].google_grpc: not supported: use envoy_grpc with a \
               static cluster",
            ],
        ),
        (
            bootstrap(&format!(
                "{control}, dynamic_resources: {{lds_config: {{api_config_source: {{api_type: AGGREGATED_GRPC, \
                 transport_api_version: V3, {grpc}}}}}}}"
            )),
            &[
                "dynamic_resources.lds_config.api_config_source.api_type: aggregated streams belong in ads_config: \
               say `ads: {}` here",
            ],
        ),
        (
            bootstrap(
                "layered_runtime: {layers: [{name: a, disk_layer: {}}, {name: b, rtds_layer: {name: r}}]}",
            ),
            &[
                "layered_runtime.layers[0].disk_layer: runtime on disk is not supported",
                "layered_runtime.layers[1].rtds_layer: runtime discovery (RTDS) is not supported",
            ],
        ),
        (
            bootstrap("layered_runtime: {layers: [{name: a, admin_layer: {}}, {name: a, admin_layer: {}}]}"),
            &[
                "layered_runtime.layers[1].admin_layer: at most one admin layer is allowed",
                "layered_runtime.layers[1].name: duplicate layer name \"a\"",
            ],
        ),
        (
            bootstrap("layered_runtime: {layers: [{name: a, static_layer: {list: [1]}}]}"),
            &[
                "layered_runtime.layers[0].static_layer[\"list\"]: must be a text, a number, a boolean or an object",
            ],
        ),
        (
            bootstrap("admin: {address: {pipe: {path: /run/admin}}}"),
            &["admin.address.pipe: unix sockets are not supported"],
        ),
        (
            bootstrap("admin: {address: {socket_address: {address: localhost, port_value: 1}}}"),
            &["admin.address.socket_address.address: malformed IP address: localhost"],
        ),
        (
            bootstrap("admin: {allow_paths: [{exact: /stats}]}, hds_config: {}, header_prefix: x-acme"),
            &[
                "hds_config: not supported",
                "header_prefix: not supported",
                "admin.allow_paths: not supported",
            ],
        ),
        (
            bootstrap(
                "overload_manager: {resource_monitors: [{name: heap, typed_config: {\"@type\": type.googleapis.com/google.protobuf.Empty}}]}",
            ),
            &["overload_manager: overload management is not built yet"],
        ),
        (
            bootstrap("tracing: {}"),
            &["tracing: not supported here: use tracing.provider of HTTP connection managers"],
        ),
    ]);
}

#[test]
fn every_error_of_a_bootstrap_is_reported_at_once() {
    check(vec![(
        bootstrap(
            "static_resources: {clusters: [{name: c, upstream_bind_config: {}}, {name: d, outlier_detection: {detect_degraded_hosts: true}}]}, \
             admin: {address: {socket_address: {address: x, port_value: 1}}}, tracing: {}",
        ),
        &[
            "tracing: not supported here: use tracing.provider of HTTP connection managers",
            "static_resources.clusters[0].upstream_bind_config: not supported",
            "static_resources.clusters[1].outlier_detection.detect_degraded_hosts: not supported",
            "admin.address.socket_address.address: malformed IP address: x",
        ],
    )]);
}

#[test]
fn listeners() {
    check(vec![
        (listener(""), &["address: is required"]),
        (
            Yaml::Listener(format!("{{name: web, {ADDRESS}}}")),
            &["filter_chains: at least one filter chain is required"],
        ),
        (
            listener("address: {socket_address: {address: 1.2.3.4, port_value: 1, protocol: UDP}}"),
            &["address.socket_address.protocol: UDP is not supported"],
        ),
        (
            listener("address: {socket_address: {address: 1.2.3.4, named_port: http}}"),
            &["address.socket_address.named_port: named ports are not supported"],
        ),
        (
            listener("address: {socket_address: {address: \"::\", port_value: 1, ipv4_compat: true}}"),
            &[
                "address.socket_address.ipv4_compat: one socket for both families is not supported: list 0.0.0.0 and \
               :: as two addresses",
            ],
        ),
        (
            listener(&format!("{ADDRESS}, additional_addresses: [{{{ADDRESS}}}]")),
            &["additional_addresses[0].address: duplicate address 127.0.0.1:80"],
        ),
        (listener(&format!("{ADDRESS}, use_original_dst: true")), &["use_original_dst: not supported"]),
        (
            listener(&format!("{ADDRESS}, bind_to_port: false")),
            &["bind_to_port: listeners that others hand connections to are not supported"],
        ),
        (
            listener(&format!("{ADDRESS}, listener_filters_timeout: -1s")),
            &["listener_filters_timeout: must not be negative nor longer than 10000 years"],
        ),
        (
            listener(&format!("{ADDRESS}, listener_filters: [{{name: tls}}]")),
            &["listener_filters[0].typed_config: is required"],
        ),
        (
            chains(&[chain(
                "transport_socket: {name: tls, typed_config: {\"@type\": \
                 type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext}}",
            )]),
            &[
                "filter_chains[0].transport_socket.typed_config.common_tls_context.tls_certificates: a server needs \
               a certificate",
            ],
        ),
        (
            chains(&["{name: empty}".into()]),
            &["filter_chains[0].filters: at least one network filter is required"],
        ),
        (
            chains(&["{filters: [{name: echo, typed_config: {\"@type\": \
                 type.googleapis.com/envoy.extensions.filters.network.sni_cluster.v3.SniCluster}}]}"
                .into()]),
            &["filter_chains[0].filters[0].typed_config: network filter \"echo\" of type \
               envoy.extensions.filters.network.sni_cluster.v3.SniCluster is not supported"],
        ),
        (
            chains(&[format!("{{filters: [{0}, {0}]}}", manager("route_config: {name: r}", ""))]),
            &["filter_chains[0].filters[0]: a terminal filter must be the last one"],
        ),
    ]);
}

#[test]
fn filter_chain_matches() {
    let matches = |list: &[&str]| {
        chains(&list.iter().map(|m| chain(&format!("filter_chain_match: {{{m}}}"))).collect::<Vec<_>>())
    };
    let at = "filter_chains[1].filter_chain_match: matches the same connections as filter_chains[0]";
    check(vec![
        (matches(&["", ""]), &[at]),
        (matches(&["source_ports: [1, 2]", "source_ports: [2, 3]"]), &[at]),
        (matches(&["server_names: [a.com]", "server_names: [b.com, A.com]"]), &[at]),
        (
            matches(&[
                "prefix_ranges: [{address_prefix: 10.0.0.1, prefix_len: 8}]",
                "prefix_ranges: [{address_prefix: 10.0.0.2, prefix_len: 8}]",
            ]),
            &[at],
        ),
        (
            matches(&["suffix_len: 3, address_suffix: a"]),
            &[
                "filter_chains[0].filter_chain_match.address_suffix: not supported",
                "filter_chains[0].filter_chain_match.suffix_len: not supported",
            ],
        ),
        (
            matches(&["source_type: EXTERNAL"]),
            &["filter_chains[0].filter_chain_match.source_type: not supported: use source_prefix_ranges"],
        ),
        (
            matches(&["transport_protocol: quic"]),
            &[
                "filter_chains[0].filter_chain_match.transport_protocol: \"quic\" is neither raw_buffer nor tls",
            ],
        ),
        (
            matches(&["server_names: [\"*a.com\"]"]),
            &[
                "filter_chains[0].filter_chain_match.server_names[0]: \"*a.com\": a wildcard must be a whole first \
               label, as in *.example.com",
            ],
        ),
        (
            matches(&["prefix_ranges: [{address_prefix: 10.0.0.0, prefix_len: 33}]"]),
            &[
                "filter_chains[0].filter_chain_match.prefix_ranges[0].prefix_len: 33 is too long, must be 0 to 32",
            ],
        ),
        (
            matches(&["prefix_ranges: [{address_prefix: ten}]"]),
            &[
                "filter_chains[0].filter_chain_match.prefix_ranges[0].address_prefix: malformed IP address: ten",
            ],
        ),
    ]);
}

#[test]
fn connection_managers() {
    let cors = "{name: cors, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}}";
    check(vec![
        (bare_hcm(&format!("http_filters: [{ROUTER}]")), &["HCM: one of route_config, rds is required"]),
        (
            bare_hcm("route_config: {}"),
            &["HCM.http_filters: must end with the router filter (envoy.filters.http.router)"],
        ),
        (
            bare_hcm(&format!("route_config: {{}}, http_filters: [{ROUTER}, {ROUTER}]")),
            &["HCM.http_filters[0]: the router must be the last filter"],
        ),
        (
            bare_hcm(&format!("route_config: {{}}, http_filters: [{cors}, {ROUTER}]")),
            &["HCM.http_filters[0].typed_config: HTTP filter \"cors\" of type \
               envoy.extensions.filters.http.cors.v3.Cors is not supported"],
        ),
        (
            bare_hcm(
                "route_config: {}, http_filters: [{name: f, config_discovery: {config_source: {ads: {}}, type_urls: [a]}}]",
            ),
            &["HCM.http_filters[0].config_discovery: extension discovery (ECDS) is not supported"],
        ),
        (
            bare_hcm(&format!(
                "rds: {{route_config_name: r, config_source: {{}}}}, http_filters: [{ROUTER}]"
            )),
            &["HCM.rds.config_source: one of ads, path_config_source, api_config_source is required"],
        ),
        (
            bare_hcm(&format!(
                "rds: {{route_config_name: r, config_source: {{path_config_source: {{path: /nowhere}}}}}}, http_filters: [{ROUTER}]"
            )),
            &["HCM.rds.config_source.path_config_source.path: /nowhere does not exist"],
        ),
        (hcm("codec_type: HTTP3"), &["HCM.codec_type: HTTP/3 is not built yet"]),
        (
            hcm("tracing: {client_sampling: {value: 101}, custom_tags: [{tag: a, literal: {value: v}},
                 {tag: a, metadata: {kind: {request: {}}}}, {tag: a, literal: {value: w}}]}"),
            &[
                "HCM.tracing.custom_tags[1].metadata: not supported: use value with %DYNAMIC_METADATA()%",
                "HCM.tracing.custom_tags[2].tag: duplicate tag \"a\"",
                "HCM.tracing.client_sampling.value: must be at least 0 and at most 100",
            ],
        ),
        (
            hcm("tracing: {provider: {name: x, typed_config: {
                 '@type': type.googleapis.com/envoy.config.trace.v3.ZipkinConfig, collector_endpoint: spans}}}"),
            &[
                "HCM.tracing.provider.typed_config.collector_endpoint_version: the v1 API is gone: HTTP_JSON is required",
                "HCM.tracing.provider.typed_config.collector_cluster: is required where there is no collector_service",
            ],
        ),
        (
            hcm(
                "upgrade_configs: [{upgrade_type: websocket}, {upgrade_type: CONNECT}, {upgrade_type: WebSocket}]",
            ),
            &[
                "HCM.upgrade_configs[1].upgrade_type: CONNECT is not supported",
                "HCM.upgrade_configs[2].upgrade_type: duplicate upgrade type \"websocket\"",
            ],
        ),
        (
            hcm("forward_client_cert_details: SANITIZE_SET, set_current_client_cert_details: {issuer: true}"),
            &["HCM.set_current_client_cert_details.issuer: not supported"],
        ),
        (
            hcm("local_reply_config: {mappers: [{filter: {log_type_filter: {}}, status_code: 700}]}"),
            &[
                "HCM.local_reply_config.mappers[0].filter.log_type_filter: not supported",
                "HCM.local_reply_config.mappers[0].status_code: must be 200 to 599",
            ],
        ),
        (
            hcm("scheme_header_transformation: {scheme_to_overwrite: ftp}"),
            &["HCM.scheme_header_transformation.scheme_to_overwrite: \"ftp\" is neither http nor https"],
        ),
        (
            hcm("strip_any_host_port: true, strip_matching_host_port: true"),
            &["HCM.strip_any_host_port: strip_any_host_port and strip_matching_host_port exclude each other"],
        ),
        (
            hcm("access_log_options: {}, flush_access_log_on_new_request: true"),
            &["HCM.access_log_options: excludes the deprecated access_log_flush_interval and \
               flush_access_log_on_new_request"],
        ),
        (
            hcm("http_protocol_options: {allow_chunked_length: true}"),
            &[
                "HCM.http_protocol_options.allow_chunked_length: both framings in one message are refused: request \
               smuggling",
            ],
        ),
        (
            hcm("http_protocol_options: {header_key_format: {}}"),
            &[
                "HCM.http_protocol_options.header_key_format: one of proper_case_words, stateful_formatter is required",
            ],
        ),
        (
            hcm("internal_address_config: {cidr_ranges: [{address_prefix: a}]}"),
            &["HCM.internal_address_config.cidr_ranges[0].address_prefix: malformed IP address: a"],
        ),
    ]);
}

#[test]
fn access_logs() {
    check(vec![
        (access_log("filter: {not_health_check_filter: {}}"), &["access_log[0].typed_config: is required"]),
        (
            access_log(
                "typed_config: {\"@type\": type.googleapis.com/envoy.extensions.access_loggers.wasm.v3.WasmAccessLog}",
            ),
            &["access_log[0].typed_config: access log \"log\" of type \
               envoy.extensions.access_loggers.wasm.v3.WasmAccessLog is not supported"],
        ),
        (
            access_log(&format!("filter: {{log_type_filter: {{}}}}, {STDOUT}")),
            &["access_log[0].filter.log_type_filter: not supported"],
        ),
        (
            access_log(&format!("filter: {{metadata_filter: {{}}}}, {STDOUT}")),
            &["access_log[0].filter.metadata_filter: not supported"],
        ),
        (
            access_log(&format!("filter: {{response_flag_filter: {{flags: [UF, XYZ]}}}}, {STDOUT}")),
            &["access_log[0].filter.response_flag_filter.flags[1]: \"XYZ\" is not a response flag"],
        ),
        (
            access_log(
                "typed_config: {\"@type\": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog, log_format: {}}",
            ),
            &[
                "access_log[0].typed_config.log_format: one of text_format_source, json_format, text_format is required",
            ],
        ),
        (
            access_log(
                "typed_config: {\"@type\": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog, log_format: {json_format: {a: {b: \"%NOPE%\"}}}}",
            ),
            &[
                "access_log[0].typed_config.log_format.json_format[\"a\"][\"b\"]: column 2: there is no command NOPE",
            ],
        ),
    ]);
}

#[test]
fn route_configurations() {
    check(vec![
        (
            routes("virtual_hosts: [{name: v, domains: [a.com]}, {name: w, domains: [b.com, A.COM]}]"),
            &["virtual_hosts[1].domains[1]: domain \"A.COM\" is already taken by virtual_hosts[0]"],
        ),
        (
            routes("virtual_hosts: [{name: v, domains: [a]}, {name: v, domains: [b]}]"),
            &["virtual_hosts[1].name: \"v\" is already the name of virtual_hosts[0]"],
        ),
        (routes("virtual_hosts: [{name: v}]"), &["virtual_hosts[0].domains: at least one is required"]),
        (routes("vhds: {config_source: {ads: {}}}"), &["vhds: not supported"]),
        (
            routes("internal_only_headers: [\"bad name\"]"),
            &["internal_only_headers[0]: \"bad name\" is not a header name"],
        ),
        (host("cors: {}"), &["virtual_hosts[0].cors: not supported"]),
        (host("hedge_policy: {}"), &["virtual_hosts[0].hedge_policy: requests are not hedged"]),
        (
            host("per_request_buffer_limit_bytes: 1, request_body_buffer_limit: 1"),
            &["virtual_hosts[0].request_body_buffer_limit: excludes per_request_buffer_limit_bytes"],
        ),
        (
            host(
                "typed_per_filter_config: {cors: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy}}",
            ),
            &[
                "virtual_hosts[0].typed_per_filter_config[\"cors\"]: configuration of HTTP filter \"cors\" of type \
               envoy.extensions.filters.http.cors.v3.CorsPolicy is not supported",
            ],
        ),
        (
            host(
                "request_headers_to_add: [{header: {key: \":path\", value: a}}, {header: {key: Host, value: a}}]",
            ),
            &[
                "virtual_hosts[0].request_headers_to_add[0].header.key: :-prefixed or host headers may not be modified",
                "virtual_hosts[0].request_headers_to_add[1].header.key: :-prefixed or host headers may not be modified",
            ],
        ),
        (
            host("request_headers_to_remove: [host]"),
            &["virtual_hosts[0].request_headers_to_remove[0]: :-prefixed or host headers may not be removed"],
        ),
        (
            host("request_headers_to_add: [{header: {key: a, value: \"a\\r\\nb\"}}]"),
            &["virtual_hosts[0].request_headers_to_add[0].header.value: must not hold line ends or NUL"],
        ),
        (
            host(
                "request_headers_to_add: [{header: {key: a, value: b}, append: true, append_action: ADD_IF_ABSENT}]",
            ),
            &[
                "virtual_hosts[0].request_headers_to_add[0].append_action: append (deprecated) and append_action \
               exclude each other",
            ],
        ),
        (
            host("response_headers_to_add: [{header: {key: a, value: \"%REQ(\"}}]"),
            &["virtual_hosts[0].response_headers_to_add[0].header.value: column 5: `(` of REQ is not closed"],
        ),
    ]);
}

#[test]
fn matches() {
    let matching = |fields: &str| route(&format!("match: {{{fields}}}, route: {{cluster: c}}"));
    check(vec![
        (
            matching("grpc: {}"),
            &["ROUTE.match: one of prefix, path, path_separated_prefix, safe_regex is required"],
        ),
        (
            matching("safe_regex: {regex: \"a(\"}"),
            &["ROUTE.match.safe_regex.regex: does not compile: unclosed group"],
        ),
        (
            matching("path_separated_prefix: /a/"),
            &[
                "ROUTE.match.path_separated_prefix: must be longer than /, must not end with /, and must not hold ? or #",
            ],
        ),
        (matching("connect_matcher: {}"), &["ROUTE.match.connect_matcher: CONNECT is not supported"]),
        (
            matching("prefix: /, tls_context: {}, cookies: [{name: a, string_match: {exact: b}}]"),
            &["ROUTE.match.cookies: not supported", "ROUTE.match.tls_context: not supported"],
        ),
        (
            matching("prefix: /, headers: [{name: a, string_match: {}}]"),
            &[
                "ROUTE.match.headers[0].string_match: one of exact, prefix, suffix, contains, safe_regex is required",
            ],
        ),
        (
            matching("prefix: /, query_parameters: [{name: a, present_match: false}]"),
            &["ROUTE.match.query_parameters[0].present_match: matching on absence is not supported"],
        ),
        (route("route: {cluster: c}"), &["ROUTE.match: is required"]),
    ]);
}

#[test]
fn actions() {
    let weighted = |fields: &str| {
        route(&format!("match: {{prefix: /}}, route: {{weighted_clusters: {{clusters: [{fields}]}}}}"))
    };
    let direct = |fields: &str| route(&format!("match: {{prefix: /}}, direct_response: {{{fields}}}"));
    check(vec![
        (route("match: {prefix: /}"), &["ROUTE: one of route, redirect, direct_response is required"]),
        (
            route("match: {prefix: /}, route: {}"),
            &["ROUTE.route: one of cluster, cluster_header, weighted_clusters is required"],
        ),
        (
            forward("hash_policy: [{filter_state: {key: a}}]"),
            &["ROUTE.route.hash_policy[0].filter_state: no filter keeps state to hash"],
        ),
        (
            forward(
                "retry_policy: {refresh_cluster_on_retry: true, retry_priority: {name: p}, retriable_status_codes: [70000], \
                 retry_back_off: {base_interval: 2s, max_interval: 1s}, host_selection_retry_max_attempts: -1, \
                 rate_limited_retry_back_off: {reset_headers: [{name: \"a b\"}]}}",
            ),
            &[
                "ROUTE.route.retry_policy.refresh_cluster_on_retry: not supported",
                "ROUTE.route.retry_policy.retry_back_off.max_interval: must not be shorter than base_interval",
                "ROUTE.route.retry_policy.rate_limited_retry_back_off.reset_headers[0].name: \"a b\" is not a header name",
                "ROUTE.route.retry_policy.retriable_status_codes[0]: 70000 is not a status code",
                "ROUTE.route.retry_policy.host_selection_retry_max_attempts: -1 is not a number of attempts",
                "ROUTE.route.retry_policy.retry_priority.typed_config: is required",
            ],
        ),
        (
            forward(
                "retry_policy: {retry_host_predicate: [{name: mine, typed_config: {\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig}}]}",
            ),
            &[
                "ROUTE.route.retry_policy.retry_host_predicate[0].typed_config: retry host predicate \"mine\" of type \
               envoy.config.route.v3.FilterConfig is not supported",
            ],
        ),
        (forward("hedge_policy: {}"), &["ROUTE.route.hedge_policy: requests are not hedged"]),
        (
            forward("request_mirror_policies: [{}, {cluster: a, cluster_header: b}]"),
            &[
                "ROUTE.route.request_mirror_policies[0]: one of cluster, cluster_header is required",
                "ROUTE.route.request_mirror_policies[1].cluster_header: excludes cluster",
            ],
        ),
        (
            forward("prefix_rewrite: /a, regex_rewrite: {pattern: {regex: a}, substitution: b}"),
            &["ROUTE.route.regex_rewrite: prefix_rewrite and regex_rewrite exclude each other"],
        ),
        (
            forward("internal_redirect_action: HANDLE_INTERNAL_REDIRECT"),
            &["ROUTE.route.internal_redirect_action: internal redirects are not built yet"],
        ),
        (forward("timeout: -3s"), &["ROUTE.route.timeout: must not be negative nor longer than 10000 years"]),
        (
            weighted("{name: a, weight: 0}, {name: b, weight: 0}"),
            &["ROUTE.route.weighted_clusters.clusters: the sum of weights must be greater than 0"],
        ),
        (
            weighted("{name: a, weight: 4294967295}, {name: b, weight: 1}"),
            &["ROUTE.route.weighted_clusters.clusters: the sum of weights 4294967296 exceeds 4294967295"],
        ),
        (weighted("{name: a}"), &["ROUTE.route.weighted_clusters.clusters[0].weight: is required"]),
        (
            direct("status: 200, body: {filename: /nope}"),
            &["ROUTE.direct_response.body.filename: /nope: no such file"],
        ),
        (
            direct("status: 200, body: {environment_variable: NOPE}"),
            &["ROUTE.direct_response.body.environment_variable: NOPE: not set"],
        ),
        (
            routes(
                "max_direct_response_body_size_bytes: 3, virtual_hosts: [{name: v, domains: [a], routes: [{match: \
                 {prefix: /}, direct_response: {status: 200, body: {inline_string: four}}}]}]",
            ),
            &["ROUTE.direct_response.body: has 4 bytes, more than the 3 allowed"],
        ),
    ]);
}

#[test]
fn unknown_clusters_are_refused_where_routes_are_validated() {
    let listener = format!(
        "{{name: web, {ADDRESS}, filter_chains: [{{filters: [{}]}}]}}",
        manager(
            "route_config: {virtual_hosts: [{name: v, domains: [a], routes: [{match: {prefix: /}, route: {cluster: gone}}]}]}",
            ""
        )
    );
    check(vec![(
        bootstrap(&format!("static_resources: {{clusters: [{{name: here}}], listeners: [{listener}]}}")),
        &["static_resources.listeners[0].HCM.route_config.ROUTE.route.cluster: unknown cluster \"gone\""],
    )]);
}

#[test]
fn clusters() {
    let one = format!(
        "load_assignment: {{cluster_name: c, endpoints: [{{lb_endpoints: [{}]}}]}}",
        endpoint("a.example", 80)
    );
    let http = |fields: &str| {
        cluster(&format!(
            "typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{\"@type\": \
             type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, {fields}}}}}"
        ))
    };
    let at_http =
        "typed_extension_protocol_options[\"envoy.extensions.upstreams.http.v3.HttpProtocolOptions\"]";
    check(vec![
        (
            cluster(&format!("type: STATIC, {one}")),
            &[
                "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: malformed IP \
               address: a.example",
            ],
        ),
        (
            cluster("type: LOGICAL_DNS"),
            &["load_assignment: LOGICAL_DNS clusters must have a single locality with a single endpoint"],
        ),
        (cluster("type: ORIGINAL_DST"), &["type: ORIGINAL_DST is not supported"]),
        (cluster("type: EDS"), &["eds_cluster_config: is required"]),
        (
            cluster("type: STATIC, eds_cluster_config: {eds_config: {ads: {}}}"),
            &["eds_cluster_config: is for EDS clusters"],
        ),
        (
            cluster(&format!("type: EDS, eds_cluster_config: {{eds_config: {{ads: {{}}}}}}, {one}")),
            &["load_assignment: EDS clusters get their endpoints from eds_cluster_config"],
        ),
        (
            cluster(
                "cluster_type: {name: agg, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig, clusters: [a]}}",
            ),
            &["cluster_type.typed_config: cluster type \"agg\" of type \
               envoy.extensions.clusters.aggregate.v3.ClusterConfig is not supported"],
        ),
        (
            cluster(
                "lb_policy: RING_HASH, ring_hash_lb_config: {minimum_ring_size: 9, maximum_ring_size: 8}",
            ),
            &["ring_hash_lb_config.minimum_ring_size: 9 is above maximum_ring_size 8"],
        ),
        (
            cluster("lb_policy: MAGLEV, maglev_lb_config: {table_size: 65536}"),
            &["maglev_lb_config.table_size: 65536 is not a prime number up to 5000011"],
        ),
        (
            cluster(
                "lb_policy: MAGLEV, common_lb_config: {consistent_hashing_lb_config: {use_hostname_for_hashing: true}}",
            ),
            &[
                "common_lb_config.consistent_hashing_lb_config.use_hostname_for_hashing: is for STRICT_DNS clusters only",
            ],
        ),
        (cluster("lb_policy: CLUSTER_PROVIDED"), &["lb_policy: CLUSTER_PROVIDED is not supported"]),
        (
            cluster("lb_policy: LOAD_BALANCING_POLICY_CONFIG"),
            &["load_balancing_policy: is required by lb_policy LOAD_BALANCING_POLICY_CONFIG"],
        ),
        (
            cluster("lb_policy: RANDOM, round_robin_lb_config: {}"),
            &["round_robin_lb_config: is for another lb_policy"],
        ),
        (
            cluster(
                "round_robin_lb_config: {slow_start_config: {slow_start_window: 1s, aggression: {default_value: 0, \
                     runtime_key: a}}}",
            ),
            &["round_robin_lb_config.slow_start_config.aggression: must be greater than 0"],
        ),
        (
            cluster(
                "load_balancing_policy: {policies: [{typed_extension_config: {name: mine, typed_config: {\"@type\": \
                 type.googleapis.com/envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin}}}]}",
            ),
            &["load_balancing_policy.policies: none of these policies is supported: mine"],
        ),
        (
            cluster(
                "transport_socket: {name: tls, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext}}",
            ),
            &["transport_socket.typed_config: transport socket \"tls\" of type \
               envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext is not supported"],
        ),
        (
            cluster("lb_subset_config: {locality_weight_aware: true, subset_selectors: [{keys: [a]}]}"),
            &[
                "lb_subset_config.locality_weight_aware: requires common_lb_config.locality_weighted_lb_config",
            ],
        ),
        (
            cluster(
                "lb_subset_config: {subset_selectors: [{keys: [a], fallback_keys_subset: [a]}, {keys: [a, b], \
                 fallback_policy: KEYS_SUBSET}, {keys: [a, b], fallback_policy: KEYS_SUBSET, \
                 fallback_keys_subset: [c]}, {keys: [a, b], fallback_policy: KEYS_SUBSET, fallback_keys_subset: [b, a]}]}",
            ),
            &[
                "lb_subset_config.subset_selectors[0].fallback_keys_subset: is for fallback_policy KEYS_SUBSET",
                "lb_subset_config.subset_selectors[1].fallback_keys_subset: is required by fallback_policy KEYS_SUBSET",
                "lb_subset_config.subset_selectors[2].fallback_keys_subset: must hold nothing but some of keys",
                "lb_subset_config.subset_selectors[3].fallback_keys_subset: must not hold all of keys",
            ],
        ),
        (
            cluster(
                "lb_subset_config: {}, load_balancing_policy: {policies: [{typed_extension_config: {name: a, \
                 typed_config: {\"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.random.v3.Random}}}]}",
            ),
            &["lb_subset_config: excludes load_balancing_policy: list the policy subset there"],
        ),
        (
            cluster("http_protocol_options: {}, http2_protocol_options: {}"),
            &["http2_protocol_options: excludes http_protocol_options unless protocol_selection is \
               USE_DOWNSTREAM_PROTOCOL"],
        ),
        (http("auto_config: {}"), &["transport_socket: auto_config chooses by ALPN, which only TLS has"]),
        (
            http("explicit_http_config: {http3_protocol_options: {}}"),
            &[&format!("{at_http}.explicit_http_config.http3_protocol_options: HTTP/3 is not built yet")],
        ),
        (
            http(
                "explicit_http_config: {http_protocol_options: {}}, common_http_protocol_options: {max_stream_duration: 3s}",
            ),
            &[&format!(
                "{at_http}.common_http_protocol_options.max_stream_duration: not supported on clusters: set it on the route"
            )],
        ),
        (
            cluster(&format!(
                "type: STRICT_DNS, {one}, dns_failure_refresh_rate: {{base_interval: 9s, max_interval: 3s}}"
            )),
            &["dns_failure_refresh_rate.max_interval: must not be shorter than base_interval"],
        ),
        (
            cluster(&format!(
                "type: STRICT_DNS, {one}, typed_dns_resolver_config: {{name: apple, typed_config: {{\"@type\": \
                 type.googleapis.com/envoy.extensions.network.dns_resolver.apple.v3.AppleDnsResolverConfig}}}}"
            )),
            &["typed_dns_resolver_config.typed_config: DNS resolver \"apple\" of type \
               envoy.extensions.network.dns_resolver.apple.v3.AppleDnsResolverConfig is not supported"],
        ),
    ]);
}

#[test]
fn assignments() {
    let hosts = |list: &[String]| format!("lb_endpoints: [{}]", list.join(", "));
    let one = hosts(&[endpoint("10.0.0.1", 80)]);
    check(vec![
        (
            endpoints(&format!("{{locality: {{zone: a}}, {one}}}, {{locality: {{zone: a}}, {one}}}")),
            &["endpoints[1].locality: duplicate locality at priority 0"],
        ),
        (
            endpoints(&format!("{{{}}}", hosts(&[endpoint("name.example", 80)]))),
            &[
                "endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: malformed IP address: name.example",
            ],
        ),
        (
            endpoints("{lb_endpoints: [{endpoint_name: a}]}"),
            &["endpoints[0].lb_endpoints[0].endpoint_name: not supported: write the endpoint in place"],
        ),
        (
            endpoints("{leds_cluster_locality_config: {leds_config: {ads: {}}}}"),
            &["endpoints[0].leds_cluster_locality_config: LEDS is not supported"],
        ),
        (
            Yaml::Endpoints("{cluster_name: c, policy: {drop_overloads: [{category: a}]}}".into()),
            &["policy.drop_overloads: not supported"],
        ),
    ]);
}

#[test]
fn tcp_proxies_and_proxy_protocol() {
    let tcp = |fields: &str| {
        chains(&[format!(
            "{{filters: [{{name: t, typed_config: {{'@type': \
             type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, {fields}}}}}]}}"
        )])
    };
    let taking = |fields: &str| {
        Yaml::Listener(format!(
            "{{name: web, {ADDRESS}, listener_filters: [{{name: p, typed_config: {{'@type': \
             type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol, {fields}}}}}], \
             filter_chains: [{{filters: [{{name: t, typed_config: {{'@type': \
             type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: a}}}}]}}]}}"
        ))
    };
    check(vec![
        (
            tcp("cluster: a, tunneling_config: {hostname: b}, on_demand: {}"),
            &["HCM.on_demand: not supported", "HCM.tunneling_config: not supported"],
        ),
        (
            tcp(
                "cluster: a, upstream_connect_mode: ON_DOWNSTREAM_DATA, backoff_options: {base_interval: 1s}",
            ),
            &[
                "HCM.backoff_options: the next host is tried at once",
                "HCM.upstream_connect_mode: hosts are connected as soon as a connection is accepted",
            ],
        ),
        (
            tcp(
                "cluster: a, flush_access_log_on_connected: true, access_log_options: {access_log_flush_interval: 5s}",
            ),
            &["HCM.flush_access_log_on_connected: access_log_options says the same"],
        ),
        (
            taking("rules: [{tlv_type: 2, on_tlv_present: {key: a}}], pass_through_tlvs: {}"),
            &[
                "listener_filters[0].typed_config.rules: TLVs are skipped",
                "listener_filters[0].typed_config.pass_through_tlvs: TLVs are skipped",
            ],
        ),
    ]);
}
