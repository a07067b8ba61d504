//! Filters that say something of a stream, and who reads it: logs, headers, rate limits.

use super::clusters;
use e2e::pair::{Case, Pair, SPEAKS_H2, cluster, difference, filtering_listener};

const FROM_HEADERS: &str =
    "'@type': type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config";
const SET: &str = "'@type': type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config";
const GLOBAL: &str = "'@type': type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit";

#[tokio::test]
async fn what_filters_say_is_read_by_others() {
    let filters = format!(
        "{{name: set, typed_config: {{{SET}, metadata_namespace: old, value: {{a: {{x: 1}}, l: [1]}}, metadata: [
            {{metadata_namespace: old, allow_overwrite: true, value: {{a: {{z: 2.5}}, l: [2], t: true}}}},
            {{metadata_namespace: old, value: {{a: lost}}}},
            {{metadata_namespace: limits, value: {{limit: {{requests_per_unit: 42, unit: HOUR}}}}}}]}}}},
         {{name: said, typed_config: {{{FROM_HEADERS}, request_rules: [
            {{header: x-user, on_header_present: {{metadata_namespace: jwt, key: sub}}, on_header_missing: {{metadata_namespace: jwt, key: sub, value: nobody}}, remove: true}},
            {{header: x-number, on_header_present: {{metadata_namespace: jwt, key: number, type: NUMBER}}}},
            {{header: x-base64, on_header_present: {{metadata_namespace: jwt, key: decoded, encode: BASE64}}}},
            {{header: x-many, on_header_present: {{metadata_namespace: jwt, key: many}}}},
            {{header: ':path', on_header_present: {{metadata_namespace: jwt, key: tenant, regex_value_rewrite: {{pattern: {{regex: '^/([^/]+)/.*$'}}, substitution: '\\1'}}}}}},
            {{header: x-fixed, on_header_present: {{key: fixed, value: yes it is}}}},
            {{cookie: session, on_header_present: {{metadata_namespace: jwt, key: session}}, on_header_missing: {{metadata_namespace: jwt, key: session, value: none}}}}],
            response_rules: [{{header: ':status', on_header_present: {{metadata_namespace: answer, key: status, type: NUMBER}}}},
              {{header: x-none, on_header_missing: {{metadata_namespace: answer, key: none, value: missing}}}}]}}}},
         {{name: global, typed_config: {{{GLOBAL}, domain: said, timeout: 2s,
            rate_limit_service: {{transport_api_version: V3, grpc_service: {{envoy_grpc: {{cluster_name: rls}}}}}}}}}},"
    );
    let own = format!(
        "{{{FROM_HEADERS}, request_rules: [{{header: x-other, on_header_present: {{metadata_namespace: jwt, key: sub}}}}]}}"
    );
    let limits = "rate_limits: [{actions: [{metadata: {descriptor_key: user, metadata_key: {key: jwt, path: [{key: sub}]}}}],
            limit: {dynamic_metadata: {metadata_key: {key: limits, path: [{key: limit}]}}}},
          {actions: [{metadata: {descriptor_key: number, metadata_key: {key: jwt, path: [{key: number}]}}}]},
          {actions: [{metadata: {descriptor_key: tenant, metadata_key: {key: jwt, path: [{key: tenant}]}}}]}]";
    let said = "response_headers_to_add: [{header: {key: x-jwt, value: '%DYNAMIC_METADATA(jwt)%'}}, {header: {key: x-old, value: '%DYNAMIC_METADATA(old)%'}},
          {header: {key: x-short, value: '%DYNAMIC_METADATA(jwt:sub):2%'}}, {header: {key: x-deep, value: '%DYNAMIC_METADATA(old:a:z)% %DYNAMIC_METADATA(old:a)%'}},
          {header: {key: x-own, value: '%DYNAMIC_METADATA(envoy.filters.http.header_to_metadata:fixed)%'}}, {header: {key: x-absent, value: '%DYNAMIC_METADATA(jwt:nope)%'}}]";
    let routed = format!(
        "virtual_hosts: [{{name: all, domains: ['*'], {said}, routes: [
           {{match: {{prefix: /other}}, route: {{cluster: up, {limits}}}, typed_per_filter_config: {{said: {own}}}}},
           {{match: {{prefix: /}}, route: {{cluster: up, {limits}}}}}]}}]"
    );
    let logs = "access_log: [{name: file, typed_config: {'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: $DIR/text,
          log_format: {text_format_source: {inline_string: \"%DYNAMIC_METADATA(answer)% %DYNAMIC_METADATA(jwt:sub)% %DYNAMIC_METADATA(nope)%\\n\"}}}},
         {name: file, typed_config: {'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: $DIR/json,
          log_format: {json_format: {answer: '%DYNAMIC_METADATA(answer)%', status: '%DYNAMIC_METADATA(answer:status)%', sub: '%DYNAMIC_METADATA(jwt:sub)%', nope: '%DYNAMIC_METADATA(nope)%', text: 'a %DYNAMIC_METADATA(answer)%'}}}}]";
    let listeners = [filtering_listener("web", &filters, logs, &routed)];
    let clusters = [&clusters()[..], &[cluster("rls", "$RLS", SPEAKS_H2)]].concat();
    let mut pair = Pair::start(&listeners, &clusters).await.unwrap();
    let mut cases = Vec::new();
    for headers in [
        &[][..],
        &["x-user: ann", "x-number: 7", "x-base64: aGVsbG8=", "x-many: a", "x-many: b", "x-fixed: 1"],
        &["x-user:", "x-number: 1.5", "x-base64: aGVsbG8", "cookie: a=1; session=\"s1\"; b=2"],
        &["x-user: bob", "x-number: x", "x-base64: !!", "cookie: a=1", "cookie: session=s2"],
        &["x-other: eve", "x-number: -3", "x-number: 4"],
    ] {
        for path in ["/shop/a", "/other/b", "/flat"] {
            cases.push(Case::ask(format!("{path} {headers:?}"), &format!("GET {path}"), headers));
        }
    }
    pair.compare(&cases).await;
    let (envoy, ours) = (&mut pair.envoy, &mut pair.ours);
    tokio::try_join!(envoy.quit(), ours.quit()).unwrap();
    for file in ["text", "json"] {
        let (envoy, ours) = (pair.envoy.file(file), pair.ours.file(file));
        assert!(envoy == ours, "{file} (- Envoy, + ours):\n{}", difference(&envoy, &ours));
    }
}
