//! Rate limits: who is limited, what they are told, what the service is asked, what is counted.

use super::clusters;
use e2e::pair::{Case, Pair, SPEAKS_H2, cluster, difference, filtering_listener, routes};

const LOCAL: &str =
    "'@type': type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
const GLOBAL: &str = "'@type': type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit";
const PER_ROUTE: &str =
    "'@type': type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute";
const ALWAYS: &str =
    "filter_enabled: {default_value: {numerator: 100}}, filter_enforced: {default_value: {numerator: 100}}";
const TO_UP: &str = "{match: {prefix: /}, route: {cluster: up}}";

fn local(prefix: &str, fields: &str) -> String {
    format!("{{{LOCAL}, stat_prefix: {prefix}, {fields}}}")
}

fn local_filter(config: &str) -> String {
    format!("{{name: local, typed_config: {config}}},")
}

/// A bucket that does not fill while a test runs.
fn bucket(tokens: u32) -> String {
    format!("token_bucket: {{max_tokens: {tokens}, tokens_per_fill: 1, fill_interval: 3600s}}")
}

fn get(name: &str, path: &str, headers: &[&str]) -> Case {
    Case::ask(name, &format!("GET {path}"), headers)
}

/// Stats of both whose names hold one of `parts`, compared; what is said to differ left out.
async fn same_stats(pair: &Pair, parts: &[&str]) {
    let (envoy, ours) = tokio::join!(pair.envoy.proxy.stats(), pair.ours.proxy.stats());
    let text = |stats: std::collections::BTreeMap<String, u64>| -> String {
        let wanted = stats.iter().filter(|(name, _)| parts.iter().any(|part| name.contains(part)));
        wanted.map(|(name, value)| format!("{name}: {value}\n")).collect()
    };
    let (envoy, ours) = (text(envoy.unwrap()), text(ours.unwrap()));
    assert!(envoy == ours, "stats (- Envoy, + ours):\n{}", difference(&envoy, &ours));
}

#[tokio::test]
async fn local_rate_limits() {
    let main = local_filter(&local(
        "main",
        &format!(
            "{ALWAYS}, {}, enable_x_ratelimit_headers: DRAFT_VERSION_03, enable_retry_after_header: true,
             response_headers_to_add: [{{header: {{key: x-limited, value: 'by %REQ(:path)%'}}}},
               {{header: {{key: server, value: me}}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}]",
            bucket(3)
        ),
    ));
    let rules = "descriptors: [
        {entries: [{key: user, value: ann}], token_bucket: {max_tokens: 2, tokens_per_fill: 1, fill_interval: 3600s}},
        {entries: [{key: user}], token_bucket: {max_tokens: 1, tokens_per_fill: 1, fill_interval: 7200s}},
        {entries: [{key: user, value: shadow}], shadow_mode: true, token_bucket: {max_tokens: 1, tokens_per_fill: 1, fill_interval: 3600s}},
        {entries: [{key: never}], token_bucket: {max_tokens: 0, fill_interval: 1s}}],
        rate_limits: [
          {actions: [{request_headers: {header_name: x-user, descriptor_key: user}}]},
          {actions: [{request_headers: {header_name: x-never, descriptor_key: never}}], x_ratelimit_option: 'OFF'}]";
    let by_descriptor = local_filter(&local(
        "rules",
        &format!(
            "{ALWAYS}, {}, {rules}, enable_x_ratelimit_headers: DRAFT_VERSION_03, rate_limited_as_resource_exhausted: true, status: {{code: 503}},
             request_headers_to_add_when_not_enforced: [{{header: {{key: x-would, value: limit}}}}]",
            bucket(100)
        ),
    ));
    let shares = local_filter(&local(
        "shares",
        &format!(
            "filter_enabled: {{default_value: {{numerator: 100}}}}, {}, status: {{code: 200}},
             request_headers_to_add_when_not_enforced: [{{header: {{key: x-would, value: 'limit'}}}}]",
            bucket(1)
        ),
    ));
    let off = local_filter(&local("unused", &bucket(0)));
    let per_route = format!("{{name: local, typed_config: {{{LOCAL}, stat_prefix: none}}}},");
    let limited = |tokens| local("route", &format!("{ALWAYS}, {}", bucket(tokens)));
    let disabled = "{'@type': type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}";
    let routed = format!(
        "virtual_hosts: [{{name: all, domains: ['*'], typed_per_filter_config: {{local: {}}}, routes: [
           {{match: {{path: /own}}, route: {{cluster: up}}, typed_per_filter_config: {{local: {}}}}},
           {{match: {{path: /off}}, route: {{cluster: up}}, typed_per_filter_config: {{local: {disabled}}}}},
           {{match: {{path: /made}}, direct_response: {{status: 200}}}},
           {{match: {{path: /weighted}}, route: {{weighted_clusters: {{clusters: [{{name: up, weight: 1, typed_per_filter_config: {{local: {}}}}}]}}}}}},
           {TO_UP}]}}]",
        limited(4), limited(1), limited(2)
    );
    let up = routes(TO_UP);
    let dormant = format!(
        "{{name: local, disabled: true, typed_config: {}}},",
        local("dormant", &format!("{ALWAYS}, {}", bucket(0)))
    );
    let awake = format!(
        "virtual_hosts: [{{name: all, domains: ['*'], routes: [
           {{match: {{path: /on}}, route: {{cluster: up}}, typed_per_filter_config: {{local: {}}}}}, {TO_UP}]}}]",
        local("awake", &format!("{ALWAYS}, {}", bucket(0)))
    );
    let by_client = local_filter(&local(
        "client",
        &format!(
            "{ALWAYS}, rate_limits: [{{actions: [{{remote_address: {{}}}}]}}], max_dynamic_descriptors: 2,
             descriptors: [{{entries: [{{key: remote_address}}], {}}}]",
            bucket(2)
        ),
    ));
    let alone = local_filter(&local(
        "alone",
        &format!("{ALWAYS}, local_rate_limit_per_downstream_connection: true, {}", bucket(1)),
    ));
    let listeners = [
        filtering_listener("web", &main, "", &up),
        filtering_listener("rules", &by_descriptor, "", &up),
        filtering_listener("shares", &shares, "", &up),
        filtering_listener("idle", &off, "", &up),
        filtering_listener("routed", &per_route, "", &routed),
        filtering_listener("dormant", &dormant, "", &awake),
        filtering_listener("edge", &by_client, "use_remote_address: true", &up),
        filtering_listener("hops", &by_client, "use_remote_address: true, xff_num_trusted_hops: 1", &up),
        filtering_listener("alone", &alone, "", &up),
    ];
    let pair = Pair::start(&listeners, &clusters()).await.unwrap();
    let grpc = "content-type: application/grpc";
    let mut cases: Vec<_> = (0..4).map(|i| get(&format!("main {i}"), "/m", &[])).collect();
    cases.push(Case::ask("main, HEAD", "HEAD /m", &[]));
    cases.push(Case::ask("main, gRPC", "POST /m", &[grpc]));
    for user in ["ann", "ann", "ann", "bob", "bob", "eve", "shadow", "shadow", "shadow"] {
        cases.push(get(&format!("rules {user}"), "/r", &[&format!("x-user: {user}")]).at("rules"));
    }
    cases.push(get("rules, nobody", "/r", &[]).at("rules"));
    cases.push(get("rules, never", "/r", &["x-never: 1"]).at("rules"));
    cases.push(get("rules, never and eve", "/r", &["x-never: 1", "x-user: eve"]).at("rules"));
    cases.push(Case::ask("rules, gRPC", "POST /r", &[grpc, "x-user: bob"]).at("rules"));
    cases.extend((0..3).map(|i| get(&format!("shares {i}"), "/s", &[]).at("shares")));
    cases.extend((0..2).map(|i| get(&format!("idle {i}"), "/o", &[]).at("idle")));
    for path in
        ["/own", "/own", "/off", "/x", "/x", "/x", "/made", "/off", "/weighted", "/weighted", "/weighted"]
    {
        cases.push(get(&format!("routed {path}"), path, &[]).at("routed"));
    }
    for path in ["/x", "/on"] {
        cases.push(get(&format!("dormant {path}"), path, &[]).at("dormant"));
    }
    // The probe after each case takes from the bucket of 127.0.0.1 too.
    for (listener, forged) in [
        ("edge", ["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"]),
        ("hops", ["9.9.9.9, 1.1.1.1", "8.8.8.8, 1.1.1.1", "7.7.7.7, 1.1.1.1", "1.1.1.1, 2.2.2.2"]),
    ] {
        for addresses in forged {
            let header = format!("x-forwarded-for: {addresses}");
            cases.push(get(&format!("{listener} {addresses}"), "/e", &[&header]).at(listener));
        }
    }
    // Forgotten once two others were seen: a fresh bucket.
    for client in ["5.5.5.5", "5.5.5.5", "5.5.5.5", "6.6.6.6", "7.7.7.7", "5.5.5.5"] {
        let header = format!("x-forwarded-for: {client}");
        cases.push(get(&format!("forgets {client}"), "/e", &[&header]).at("hops"));
    }
    let two = "GET /a HTTP/1.1\r\nhost: test\r\n\r\n".repeat(2);
    cases.extend(
        (0..2).map(|i| Case::new(format!("a connection of its own {i}"), &*two).at("alone").answers(2)),
    );
    pair.compare(&cases).await;
    same_stats(&pair, &["_rate_limit."]).await;
}

fn global(fields: &str) -> String {
    format!(
        "{{name: global, typed_config: {{{GLOBAL}, domain: shop, timeout: 2s,
           rate_limit_service: {{transport_api_version: V3, grpc_service: {{envoy_grpc: {{cluster_name: rls}}}}}}, {fields}}}}},"
    )
}

const SCRIPTED: &str = "{actions: [{request_headers: {header_name: x-limit, descriptor_key: do}}]}";

#[tokio::test]
async fn global_rate_limits() {
    let actions = format!(
        "{SCRIPTED},
         {{actions: [{{source_cluster: {{}}}}, {{destination_cluster: {{}}}}, {{remote_address: {{}}}}]}},
         {{actions: [{{masked_remote_address: {{v4_prefix_mask_len: 8}}}}, {{generic_key: {{descriptor_value: all}}}}, {{generic_key: {{descriptor_value: all, descriptor_key: kind}}}}]}},
         {{actions: [{{request_headers: {{header_name: x-none, descriptor_key: none, skip_if_absent: true}}}}, {{generic_key: {{descriptor_value: skipped}}}}]}},
         {{actions: [{{request_headers: {{header_name: x-none, descriptor_key: none, skip_if_absent: true}}}}]}},
         {{actions: [{{request_headers: {{header_name: ':path', descriptor_key: path}}}}, {{request_headers: {{header_name: ':authority', descriptor_key: host}}}}]}},
         {{actions: [{{request_headers: {{header_name: x-many, descriptor_key: many}}}}]}},
         {{actions: [{{request_headers: {{header_name: x-empty, descriptor_key: empty}}}}]}},
         {{actions: [{{query_parameters: {{query_parameter_name: q, descriptor_key: q}}}}]}},
         {{actions: [{{query_parameters: {{query_parameter_name: num, descriptor_key: num, skip_if_absent: true}}}}, {{generic_key: {{descriptor_value: noquery}}}}]}},
         {{actions: [{{header_value_match: {{descriptor_value: many, headers: [{{name: x-many, present_match: true}}]}}}}]}},
         {{actions: [{{header_value_match: {{descriptor_value: none, expect_match: false, headers: [{{name: x-many, present_match: true}}]}}}}]}},
         {{actions: [{{query_parameter_value_match: {{descriptor_value: exact, query_parameters: [{{name: q, string_match: {{exact: a b}}}}]}}}}]}},
         {{actions: [{{query_parameter_value_match: {{descriptor_value: raw, query_parameters: [{{name: q, string_match: {{exact: a%20b}}}}]}}}}]}},
         {{actions: [{{query_parameter_value_match: {{descriptor_value: asks, query_parameters: [{{name: q, string_match: {{prefix: a}}}}]}}}}]}},
         {{actions: [{{metadata: {{descriptor_key: tier, source: ROUTE_ENTRY, metadata_key: {{key: route, path: [{{key: tier}}]}}}}}}]}},
         {{actions: [{{metadata: {{descriptor_key: claim, metadata_key: {{key: jwt, path: [{{key: sub}}]}}, default_value: nobody}}}}]}},
         {{actions: [{{metadata: {{descriptor_key: claim, metadata_key: {{key: jwt, path: [{{key: sub}}]}}}}}}]}},
         {{actions: [{{generic_key: {{descriptor_value: '%REQ(x-many)%'}}}}]}},
         {{actions: [{{remote_address_match: {{descriptor_value: 'in-%REQ(x-many)%', address_matcher: {{ranges: [{{address_prefix: 127.0.0.0, prefix_len: 8}}]}}}}}}]}},
         {{actions: [{{generic_key: {{descriptor_value: turned}}}}], disable_key: turned_off}},
         {{actions: [{{generic_key: {{descriptor_value: stage1}}}}], stage: 1}},
         {{actions: [{{generic_key: {{descriptor_value: fixed}}}}], limit: {{rate_limit: {{requests_per_unit: 5, unit: HOUR}}}}}},
         {{actions: [{{generic_key: {{descriptor_value: dyn}}}}], limit: {{dynamic_metadata: {{metadata_key: {{key: a, path: [{{key: b}}]}}}}}}}}"
    );
    let routed = format!(
        "virtual_hosts: [{{name: all, domains: ['*'], rate_limits: [{{actions: [{{generic_key: {{descriptor_value: host}}}}]}}], routes: [
           {{match: {{prefix: /actions}}, metadata: {{filter_metadata: {{route: {{tier: gold}}}}}}, route: {{cluster: up, rate_limits: [{actions}]}}}},
           {{match: {{prefix: /include}}, route: {{cluster: up, include_vh_rate_limits: true, rate_limits: [{SCRIPTED}]}}}},
           {{match: {{prefix: /per-include}}, route: {{cluster: up, rate_limits: [{SCRIPTED}]}}, typed_per_filter_config: {{global: {{{PER_ROUTE}, vh_rate_limits: INCLUDE, domain: other}}}}}},
           {{match: {{prefix: /per-ignore}}, route: {{cluster: up}}, typed_per_filter_config: {{global: {{{PER_ROUTE}, vh_rate_limits: IGNORE}}}}}},
           {{match: {{prefix: /per-own}}, route: {{cluster: up, rate_limits: [{SCRIPTED}]}}, typed_per_filter_config: {{global: {{{PER_ROUTE}, rate_limits: [
              {{actions: [{{generic_key: {{descriptor_value: own}}}}], hits_addend: {{number: 3}}}},
              {{actions: [{{generic_key: {{descriptor_value: cost}}}}], hits_addend: {{format: '%REQ(x-cost)%', is_negative_hits: true}}}}]}}}}}},
           {{match: {{prefix: /stage}}, route: {{cluster: up, rate_limits: [{{actions: [{{generic_key: {{descriptor_value: later}}}}], stage: 1}}]}}}},
           {{match: {{prefix: /host}}, route: {{cluster: up}}}},
           {{match: {{prefix: /gone}}, route: {{cluster: nowhere}}}},
           {{match: {{prefix: /made}}, direct_response: {{status: 200}}}},
           {{match: {{prefix: /redirect}}, redirect: {{path_redirect: /x}}}},
           {{match: {{prefix: /}}, route: {{cluster: up, rate_limits: [{SCRIPTED}]}}}}]}}]"
    );
    let logged = "access_log: [{name: file, typed_config: {'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: $DIR/log,
        log_format: {text_format_source: {inline_string: \"%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %DYNAMIC_METADATA(envoy.filters.http.ratelimit)% %DYNAMIC_METADATA(envoy.filters.http.ratelimit:tier)%\\n\"}}}}]";
    let no_validation = format!("validate_clusters: false, {routed}");
    let all = "enable_x_ratelimit_headers: DRAFT_VERSION_03, enable_retry_after_header: true, rate_limited_as_resource_exhausted: true,
        response_headers_to_add: [{header: {key: x-limited, value: 'at %REQ(:path)%'}}]";
    let listeners = [
        filtering_listener("web", &global(""), logged, &no_validation),
        filtering_listener("more", &global(all), logged, &no_validation),
        filtering_listener(
            "deny",
            &global("timeout: 0.1s, failure_mode_deny: true, status_on_error: {code: 503}, rate_limited_status: {code: 420}, disable_x_envoy_ratelimited_header: true, stat_prefix: deny")
                .replace("timeout: 2s,", "")
                .replace("420", "403"),
            logged,
            &no_validation,
        ),
        filtering_listener("allow", &global("timeout: 0.1s").replace("timeout: 2s,", ""), logged, &no_validation),
        filtering_listener("internal", &global("request_type: internal"), logged, &no_validation),
        filtering_listener("external", &global("request_type: external"), logged, &no_validation),
        filtering_listener("watched", &global("filter_enforced: {default_value: {numerator: 0}}"), logged, &no_validation),
        filtering_listener("unasked", &global("filter_enabled: {default_value: {numerator: 0}}"), logged, &no_validation),
        filtering_listener("second", &global("stage: 1"), logged, &no_validation),
        filtering_listener(
            "inline",
            &global("rate_limits: [{actions: [{generic_key: {descriptor_value: inline}}], limit: {rate_limit: {requests_per_unit: 5, unit: DAY}}}]"),
            logged,
            &no_validation,
        ),
        filtering_listener("edge", &global(""), &format!("{logged}, use_remote_address: true"), &no_validation),
        filtering_listener("hops", &global(""), &format!("{logged}, use_remote_address: true, xff_num_trusted_hops: 1"), &no_validation),
        filtering_listener("dead", &global("").replace("cluster_name: rls", "cluster_name: refused"), logged, &no_validation),
        filtering_listener("absent", &global("failure_mode_deny: true").replace("cluster_name: rls", "cluster_name: nowhere"), logged, &no_validation),
    ];
    let clusters = [&clusters()[..], &[cluster("rls", "$RLS", SPEAKS_H2)]].concat();
    let clusters: Vec<String> = clusters
        .into_iter()
        .map(|c| if c.contains("name: refused") { cluster("refused", "$REFUSED", SPEAKS_H2) } else { c })
        .collect();
    let pair = Pair::start(&listeners, &clusters).await.unwrap();
    let grpc = "content-type: application/grpc";
    let mut cases = Vec::new();
    for listener in ["web", "more"] {
        for script in ["ok", "over", "body", "headers"] {
            let limit = format!("x-limit: {script}");
            cases.push(get(&format!("{listener} {script}"), "/x", &[&limit]).at(listener));
            cases.push(
                Case::ask(format!("{listener} {script}, gRPC"), "POST /x", &[&limit, grpc]).at(listener),
            );
        }
        cases.push(Case::ask(format!("{listener} body, HEAD"), "HEAD /x", &["x-limit: body"]).at(listener));
        cases.push(get(&format!("{listener} nothing to ask"), "/x", &[]).at(listener));
        cases.push(get(&format!("{listener} fail"), "/x", &["x-limit: fail"]).at(listener));
    }
    for headers in [&["x-many: a", "x-many: b", "x-empty:"][..], &[], &["x-limit: ok"]] {
        for path in ["/actions?q=a%20b&q=c", "/actions", "/actions?q=b"] {
            cases.push(get(&format!("actions {path} {headers:?}"), path, headers));
        }
    }
    for path in ["/include", "/per-include", "/per-ignore", "/stage", "/host", "/gone", "/made", "/redirect"]
    {
        cases.push(get(path, path, &["x-limit: ok"]));
        cases.push(get(&format!("{path}, stage 1"), path, &["x-limit: ok"]).at("second"));
        cases.push(get(&format!("{path}, inline"), path, &["x-limit: ok"]).at("inline"));
    }
    for cost in ["5", "0", "1.9", "-1", "x", "2000000000"] {
        cases.push(get(&format!("hits {cost}"), "/per-own", &[&format!("x-cost: {cost}")]));
    }
    for listener in ["deny", "allow"] {
        for script in ["hang", "fail", "over"] {
            let limit = format!("x-limit: {script}");
            cases.push(get(&format!("{listener} {script}"), "/x", &[&limit]).at(listener));
        }
    }
    for listener in ["internal", "external"] {
        for headers in [&["x-limit: over"][..], &["x-limit: over", "x-envoy-internal: true"]] {
            cases.push(get(&format!("{listener} {headers:?}"), "/x", headers).at(listener));
        }
    }
    for listener in ["edge", "hops"] {
        for addresses in ["1.1.1.1", "1.1.1.1, 2.2.2.2", "1.1.1.1, 2.2.2.2, 3.3.3.3", "nonsense"] {
            let header = format!("x-forwarded-for: {addresses}");
            cases.push(get(&format!("{listener} {addresses}"), "/actions", &[&header]).at(listener));
        }
    }
    for listener in ["watched", "unasked", "dead", "absent"] {
        cases.push(get(&format!("{listener} over"), "/x", &["x-limit: over"]).at(listener));
        cases.push(get(&format!("{listener} headers"), "/x", &["x-limit: headers"]).at(listener));
    }
    pair.compare(&cases).await;
    same_stats(&pair, &[".ratelimit."]).await;
    let mut pair = pair;
    let (envoy, ours) = (&mut pair.envoy, &mut pair.ours);
    tokio::try_join!(envoy.quit(), ours.quit()).unwrap();
    let (envoy, ours) = (pair.envoy.file("log"), pair.ours.file("log"));
    assert!(envoy == ours, "access log (- Envoy, + ours):\n{}", difference(&envoy, &ours));
}
