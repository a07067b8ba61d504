//! Headers added and removed at four levels, with formats.

use super::clusters;
use e2e::pair::{Case, Pair, http_listener};

fn add(pairs: &[(&str, &str)], action: &str) -> String {
    let one = |(key, value): &(&str, &str)| format!("{{header: {{key: {key}, value: '{value}'}}{action}}}");
    pairs.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn headers_are_edited_the_same() {
    let level = |name: &str| {
        format!(
            "request_headers_to_add: [{}, {}, {}, {}], request_headers_to_remove: [x-remove-{name}], \
             response_headers_to_add: [{}, {}], response_headers_to_remove: [x-gone-{name}, x-mixed-case]",
            add(&[(&format!("x-{name}"), name), ("x-level", name), ("x-shared", name)], ""),
            add(&[("x-over", name)], ", append_action: OVERWRITE_IF_EXISTS_OR_ADD"),
            add(&[("x-once", name)], ", append_action: ADD_IF_ABSENT"),
            add(&[("x-only", name)], ", append_action: OVERWRITE_IF_EXISTS"),
            add(&[("x-level", name), ("set-cookie", name)], ""),
            add(&[("x-over", name)], ", append_action: OVERWRITE_IF_EXISTS_OR_ADD"),
        )
    };
    let table = |specific: &str| {
        format!(
            "{specific}{}, virtual_hosts: [{{name: all, domains: ['*'], {}, routes: [\
             {{match: {{path: /direct}}, direct_response: {{status: 200}}, {}}}, \
             {{match: {{prefix: /}}, {}, route: {{weighted_clusters: {{clusters: [{{name: up, weight: 1, {}}}]}}}}}}]}}]",
            level("table"),
            level("host"),
            level("route"),
            level("route"),
            level("cluster"),
        )
    };
    let pair = Pair::start(
        &[
            http_listener("web", "", &table("")),
            http_listener("specific", "", &table("most_specific_header_mutations_wins: true, ")),
        ],
        &clusters(),
    )
    .await
    .unwrap();
    let own = [
        "x-level: own",
        "x-over: own",
        "x-once: own",
        "x-only: own",
        "x-remove-table: 1",
        "x-remove-host: 1",
        "x-remove-route: 1",
        "x-remove-cluster: 1",
    ];
    let mut cases = Vec::new();
    for listener in ["web", "specific"] {
        cases.push(Case::ask(format!("{listener}: plain"), "GET /", &[]).at(listener));
        cases.push(Case::ask(format!("{listener}: own"), "GET /", &own).at(listener));
        cases.push(Case::ask(format!("{listener}: rich"), "GET /", &["x-do: rich"]).at(listener));
        cases.push(Case::ask(format!("{listener}: direct"), "GET /direct", &own).at(listener));
    }
    pair.compare(&cases).await;
}

#[tokio::test]
async fn formats_come_out_the_same() {
    let formats = [
        "plain",
        "100%%",
        "%PROTOCOL%",
        "%REQ(:METHOD)%",
        "%REQ(x-a)%",
        "%REQ(X-A?x-b)%",
        "%REQ(x-none?x-b):2%",
        "%REQ(x-none)%",
        "a%REQ(x-none)%b",
        "%REQ(:PATH)%",
        "%REQ(:PATH):3%",
        "%REQ(:AUTHORITY)%",
        "%REQ(:SCHEME)%",
        "%RESPONSE_CODE%",
        "%RESP(content-length)%",
        "%RESPONSE_FLAGS%",
        "%RESPONSE_CODE_DETAILS%",
        "%UPSTREAM_HOST%",
        "%UPSTREAM_CLUSTER%",
        "%UPSTREAM_REMOTE_ADDRESS%",
        "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%",
        "%DOWNSTREAM_LOCAL_ADDRESS%",
        "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%",
        "%ROUTE_NAME%",
        "%VIRTUAL_CLUSTER_NAME%",
        "%REQUESTED_SERVER_NAME%",
        "%DOWNSTREAM_PEER_SUBJECT%",
        "%DOWNSTREAM_TLS_VERSION%",
        "%DYNAMIC_METADATA(a:b)%",
        "%FILTER_STATE(k)%",
        "%START_TIME(%%Y)%",
        "%START_TIME(%Y)%",
        "%BYTES_SENT%",
        "%CONNECTION_TERMINATION_DETAILS%",
        "%HOSTNAME%",
        "%FILTER_CHAIN_NAME%",
        "%ATTEMPT_COUNT%",
        "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "%UPSTREAM_PROTOCOL%",
        "%RESPONSE_FLAGS_LONG%",
        "%PATH(NQ)%",
        "%PATH(WQ)%",
        "%QUERY_PARAM(q)%",
        "%QUERY_PARAM(none)%",
        "%STREAM_ID%x",
        "%ENVIRONMENT(NOSUCH)%",
        "%TRACE_ID%",
        "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
        "%GRPC_STATUS%",
        "%REQUEST_HEADERS_BYTES%",
        "%RESPONSE_TRAILERS_BYTES%",
        "%CONNECTION_ID%",
        "%TRAILER(x)%",
    ];
    let usable: Vec<_> = formats
        .iter()
        .enumerate()
        .filter(|(_, f)| {
            !["%ATTEMPT_COUNT%", "%STREAM_ID%x", "%START_TIME(%%Y)%", "%CONNECTION_ID%", "%HOSTNAME%"]
                .contains(f)
        })
        .collect();
    let adds = |prefix: &str| {
        usable
            .iter()
            .map(|(i, f)| format!("{{header: {{key: {prefix}-{i}, value: '{f}'}}}}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let table = format!(
        "virtual_hosts: [{{name: all, domains: ['*'], routes: [{{name: the_route, match: {{prefix: /}}, route: {{cluster: up}}, \
         request_headers_to_add: [{}], response_headers_to_add: [{}]}}]}}]",
        adds("q"),
        adds("r")
    );
    let pair = Pair::start(&[http_listener("web", "", &table)], &clusters()).await.unwrap();
    let cases = [
        Case::ask("get", "GET /some/path?q=v", &["x-a: aa", "x-b: bbb"]),
        Case::with_body("post", "POST /some/path", &["x-b: bbb"], b"body"),
        Case::ask("failing", "GET /", &["x-do: close"]),
    ];
    pair.compare(&cases).await;
}
