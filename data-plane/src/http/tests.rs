//! The layer as a whole: bytes in on a connection, bytes out at loopback upstreams, and back.

use super::testing::{Act, Proxy, Setup, Upstream, answer, ok, refusing, run, run_paused};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LOG: &str = r#"
access_log:
- name: file
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
    path: LOG
    log_format: { text_format_source: { inline_string: "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_HOST% %UPSTREAM_CLUSTER% %UPSTREAM_REQUEST_ATTEMPT_COUNT%\n" } }
"#;

const TO_UP: &str = "- { match: { prefix: / }, route: { cluster: up } }\n";

/// An upstream by path.
fn script(head: &str) -> Act {
    let path = head.split(' ').nth(1).unwrap();
    match path {
        "/close" => Act::SendAndClose(String::new()),
        "/reset" => Act::Reset,
        "/garbage" => Act::SendAndClose("blah blah\r\n\r\n".into()),
        "/silence" => Act::Silence,
        "/half" => Act::SendAndClose("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc".into()),
        "/stall" => Act::Send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc".into()),
        "/empty" => Act::Send("HTTP/1.1 204 No Content\r\nX-Foo: Bar\r\n\r\n".into()),
        "/own" => Act::Send(
            "HTTP/1.1 200 OK\r\nServer: mine\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nKeep-Alive: timeout=5\r\n\
             X-Foo: Bar\r\ncontent-length: 2\r\n\r\nok"
                .into(),
        ),
        "/canary" => Act::Send(
            "HTTP/1.1 500 No\r\nx-envoy-upstream-canary: true\r\ncontent-length: 2\r\n\r\nno".into(),
        ),
        "/chunks" => Act::Send(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n".into(),
        ),
        _ => ok("ok"),
    }
}

async fn proxied(manager: &str, routes: &str) -> (Proxy, Upstream) {
    let upstream = Upstream::start(script).await;
    let clusters: &[(&str, &[_])] = &[("up", &[upstream.address])];
    let proxy = Setup { manager, routes, clusters, ..Setup::default() }.start();
    (proxy, upstream)
}

#[test]
fn local_replies_are_envoys_byte_for_byte() {
    run(async {
        let upstream = Upstream::start(script).await;
        let refused = refusing().await;
        let clusters: &[(&str, &[_])] =
            &[("up", &[upstream.address]), ("nobody", &[]), ("refused", &[refused])];
        let routes = r#"
- { match: { prefix: /nocluster }, route: { cluster: nope } }
- { match: { prefix: /nocluster404 }, route: { cluster: nope, cluster_not_found_response_code: NOT_FOUND } }
- { match: { prefix: /nobody }, route: { cluster: nobody } }
- { match: { prefix: /refused }, route: { cluster: refused } }
- { match: { prefix: /direct }, direct_response: { status: 200, body: { inline_string: hello } } }
- { match: { prefix: /gone }, direct_response: { status: 204 } }
- { match: { prefix: /redirect }, redirect: { host_redirect: foo.com, path_redirect: /x } }
- { match: { prefix: /up/ }, route: { cluster: up, prefix_rewrite: / } }
"#;
        let proxy = Setup { manager: LOG, routes, clusters, ..Setup::default() }.start();
        let text = |status: &str, body: &str| {
            let length = body.len();
            format!(
                "HTTP/1.1 {status}\ncontent-length: {length}\ncontent-type: text/plain\ndate: DATE\n\
                 server: envoy\n\n{body}"
            )
        };
        let empty =
            |status: &str| format!("HTTP/1.1 {status}\ndate: DATE\nserver: envoy\ncontent-length: 0\n\n");
        let failed = "upstream connect error or disconnect/reset before headers. reset reason: ";

        let unavailable = "503 Service Unavailable";
        let failure = |reason: &str| text(unavailable, &format!("{failed}{reason}"));
        assert_eq!(proxy.get("/none").await, empty("404 Not Found"));
        assert_eq!(proxy.get("/nocluster").await, empty(unavailable));
        assert_eq!(proxy.get("/nobody").await, text(unavailable, "no healthy upstream"));
        assert_eq!(proxy.get("/refused").await, failure("remote connection failure"));
        assert_eq!(proxy.get("/up/close").await, failure("connection termination"));
        assert_eq!(proxy.get("/up/reset").await, failure("connection termination"));
        let garbage = proxy.get("/up/garbage").await;
        assert_eq!(garbage, text("502 Bad Gateway", &format!("{failed}protocol error")));
        assert_eq!(proxy.get("/direct").await, text("200 OK", "hello"));
        let gone = proxy.get("/gone").await;
        assert_eq!(gone, "HTTP/1.1 204 No Content\ndate: DATE\nserver: envoy\n\n");
        assert_eq!(
            proxy.get("/redirect?a=b").await,
            "HTTP/1.1 301 Moved Permanently\nlocation: http://foo.com/x?a=b\ndate: DATE\nserver: envoy\n\
             content-length: 0\n\n"
        );

        let host = upstream.address;
        let expected = [
            "GET /none HTTP/1.1 404 NR route_not_found 0 0 - - 0".to_owned(),
            "GET /nocluster HTTP/1.1 503 NC cluster_not_found 0 0 - - 0".into(),
            "GET /nobody HTTP/1.1 503 UH no_healthy_upstream 0 19 - nobody 1".into(),
            format!(
                "GET /refused HTTP/1.1 503 UF upstream_reset_before_response_started{{remote_connection_failure|\
                 delayed_connect_error:_Connection_refused}} 0 98 {refused} refused 1"
            ),
            format!(
                "GET /up/close HTTP/1.1 503 UC upstream_reset_before_response_started{{connection_termination}} 0 95 {host} up 1"
            ),
            format!(
                "GET /up/reset HTTP/1.1 503 UC upstream_reset_before_response_started{{connection_termination}} 0 95 {host} up 1"
            ),
            format!(
                "GET /up/garbage HTTP/1.1 502 UPE upstream_reset_before_response_started{{protocol_error}} 0 87 {host} up 1"
            ),
            "GET /direct HTTP/1.1 200 - direct_response 0 5 - - 0".into(),
            "GET /gone HTTP/1.1 204 - direct_response 0 0 - - 0".into(),
            "GET /redirect?a=b HTTP/1.1 301 - direct_response 0 0 - - 0".into(),
        ];
        let log = proxy.log();
        for (line, expected) in log.lines().zip(&expected) {
            assert_eq!(line, expected);
        }
        assert_eq!(log.lines().count(), expected.len(), "{log}");
        for (name, value) in [
            ("http.test.no_route", 1),
            ("http.test.no_cluster", 1),
            ("http.test.rq_direct_response", 3),
            ("http.test.rq_total", 10),
            ("http.test.downstream_rq_rx_reset", 0),
            ("http.test.downstream_rq_5xx", 6),
            ("http.test.downstream_rq_active", 0),
            ("listener.127.0.0.1_8080.http.test.downstream_rq_4xx", 1),
            ("cluster.nobody.upstream_rq_503", 1),
            ("cluster.nobody.external.upstream_rq_5xx", 1),
            ("cluster.up.upstream_rq_502", 1),
        ] {
            assert_eq!(proxy.stat(name), value, "{name}");
        }
    });
}

#[test]
fn requests_that_cannot_be_served_are_refused_as_envoy_does() {
    run(async {
        let (proxy, _upstream) = proxied(LOG, TO_UP).await;
        let closing = |status: &str, body: &str| {
            let length = body.len();
            if body.is_empty() {
                return format!(
                    "HTTP/1.1 {status}\ndate: DATE\nserver: envoy\nconnection: close\ncontent-length: 0\n\n"
                );
            }
            format!(
                "HTTP/1.1 {status}\ncontent-length: {length}\ncontent-type: text/plain\ndate: DATE\n\
                 server: envoy\nconnection: close\n\n{body}"
            )
        };
        assert_eq!(proxy.ask("GET / HTTP/1.1\r\n\r\n").await, closing("400 Bad Request", ""));
        assert_eq!(
            proxy.ask("GET / HTTP/1.0\r\n\r\n").await,
            closing("426 Upgrade Required", "Upgrade Required")
        );
        assert_eq!(proxy.ask("BLAH BLAH\r\n\r\n").await, closing("400 Bad Request", "Bad Request"));
        assert_eq!(
            proxy.ask("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n").await,
            "HTTP/1.1 404 Not Found\ndate: DATE\nserver: envoy\ncontent-length: 0\n\n"
        );
        let upgrade = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        assert_eq!(proxy.ask(upgrade).await, closing("403 Forbidden", ""));
        assert_eq!(proxy.get("/a#b").await, closing("400 Bad Request", ""));
        let log = proxy.log();
        let expected = [
            "GET / HTTP/1.1 400 - missing_host_header 0 0 - - 0",
            "- - HTTP/1.1 426 DPE low_version 0 16 - - 0",
            "- - HTTP/1.1 400 DPE http1.codec_error 0 11 - - 0",
            "OPTIONS * HTTP/1.1 404 - absolute_path_rejected 0 0 - - 0",
            "GET / HTTP/1.1 403 - upgrade_failed 0 0 - - 0",
            "GET /a#b HTTP/1.1 400 - path_normalization_failed 0 0 - - 0",
        ];
        assert_eq!(log.lines().collect::<Vec<_>>(), expected);
        assert_eq!(proxy.stat("http.test.downstream_cx_protocol_error"), 2);
        assert_eq!(proxy.stat("http.test.downstream_rq_ws_on_non_ws_route"), 1);
        assert_eq!(proxy.stat("http.test.downstream_rq_total"), 6);
        assert_eq!(proxy.stat("http.test.downstream_rq_non_relative_path"), 1);
    });
}

#[test]
fn a_request_reaches_the_upstream_with_envoys_headers() {
    run(async {
        let (proxy, upstream) = proxied("", TO_UP).await;
        let sent = "GET /x HTTP/1.1\r\nHost: ex.com:80\r\nX-Foo: 1\r\nx-envoy-internal: true\r\n\
                    x-envoy-upstream-rq-timeout-ms: 300\r\nx-envoy-retry-on: 5xx\r\nx-envoy-foo: 1\r\n\
                    Connection: keep-alive, x-hop\r\nx-hop: 1\r\nKeep-Alive: 5\r\n\r\n";
        let got = proxy.ask(sent).await;
        assert_eq!(
            upstream.seen(),
            ["GET /x HTTP/1.1\nhost: ex.com:80\nx-foo: 1\nx-envoy-foo: 1\nx-forwarded-proto: http\n\
              x-request-id: ID\nx-envoy-expected-rq-timeout-ms: 15000"]
        );
        assert_eq!(
            got,
            "HTTP/1.1 200 OK\ncontent-length: 2\nx-envoy-upstream-service-time: MS\ndate: DATE\nserver: envoy\n\nok"
        );
    });
}

#[test]
fn an_edge_tells_the_upstream_who_the_client_is() {
    run(async {
        let manager = "use_remote_address: true\nvia: hop\nalways_set_request_id_in_response: true\n";
        let (proxy, upstream) = proxied(manager, TO_UP).await;
        let sent = "GET /x HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 1.2.3.4\r\nx-forwarded-proto: https\r\n\
                    x-request-id: mine\r\nvia: 1.1 other\r\n\r\n";
        let got = proxy.ask(sent).await;
        assert_eq!(
            upstream.seen(),
            ["GET /x HTTP/1.1\nhost: a\nx-forwarded-for: 1.2.3.4,192.0.2.2\nx-forwarded-proto: http\n\
              x-request-id: ID\nvia: 1.1 other, hop\nx-envoy-external-address: 127.0.0.1\n\
              x-envoy-expected-rq-timeout-ms: 15000"]
        );
        assert!(!got.contains("mine"), "an edge makes its own request id: {got}");
        let tail: Vec<_> = got.lines().skip(5).map(|l| l.split(':').next().unwrap()).collect();
        assert_eq!(tail, ["x-request-id", "via", "", "ok"], "{got}");
    });
}

#[test]
fn responses_keep_what_upstream_said_but_for_the_server() {
    run(async {
        let (proxy, _upstream) = proxied("", TO_UP).await;
        assert_eq!(
            proxy.get("/own").await,
            "HTTP/1.1 200 OK\nserver: envoy\ndate: DATE\nx-foo: Bar\ncontent-length: 2\n\
             x-envoy-upstream-service-time: MS\n\nok"
        );
        assert_eq!(
            proxy.get("/empty").await,
            "HTTP/1.1 204 No Content\nx-foo: Bar\nx-envoy-upstream-service-time: MS\ndate: DATE\nserver: envoy\n\n"
        );
        assert!(proxy.get("/chunks").await.ends_with("\n\n2\nab\n1\nc\n0\n\n"));

        let (proxy, _upstream) = proxied("server_header_transformation: PASS_THROUGH\n", TO_UP).await;
        assert!(proxy.get("/own").await.contains("\nserver: mine\n"));
        assert!(!proxy.get("/x").await.contains("\nserver: "));
        let (proxy, _upstream) = proxied("server_header_transformation: APPEND_IF_ABSENT\n", TO_UP).await;
        assert!(proxy.get("/own").await.contains("\nserver: mine\n"));
        assert!(proxy.get("/x").await.contains("\nserver: envoy\n"));
        let (proxy, _upstream) = proxied("server_name: portolan\n", TO_UP).await;
        assert!(proxy.get("/own").await.contains("\nserver: portolan\n"));
    });
}

#[test]
fn routes_edit_requests_and_responses_at_every_level() {
    run(async {
        let upstream = Upstream::start(script).await;
        let clusters: &[(&str, &[_])] = &[("up", &[upstream.address]), ("nobody", &[])];
        let routes = r#"
- match: { prefix: /rewrite }
  route: { cluster: up, prefix_rewrite: /rw, host_rewrite_literal: newhost, append_x_forwarded_host: true }
  request_headers_to_add: [{ header: { key: x-req, value: "%REQ(:path)% %REQ(:authority)%" } }]
  response_headers_to_add: [{ header: { key: x-route, value: r } }]
- match: { prefix: /nobody }
  route: { cluster: nobody }
  response_headers_to_add: [{ header: { key: x-route, value: r } }]
- match: { prefix: /redirect }
  redirect: { path_redirect: /x }
  response_headers_to_add: [{ header: { key: x-route, value: r } }]
"#;
        let host = "include_request_attempt_count: true\ninclude_attempt_count_in_response: true\n";
        let table = "response_headers_to_add: [{ header: { key: x-table, value: t } }]\n";
        let proxy = Setup { routes, host, table, clusters, ..Setup::default() }.start();
        assert_eq!(
            proxy.get("/rewrite/a?b").await,
            "HTTP/1.1 200 OK\ncontent-length: 2\nx-envoy-upstream-service-time: MS\nx-route: r\nx-table: t\n\
             x-envoy-attempt-count: 1\ndate: DATE\nserver: envoy\n\nok"
        );
        assert_eq!(
            upstream.seen(),
            ["GET /rw/a?b HTTP/1.1\nhost: newhost\nx-forwarded-proto: http\nx-request-id: ID\n\
              x-envoy-expected-rq-timeout-ms: 15000\nx-envoy-attempt-count: 1\nx-req: /rewrite/a?b a\n\
              x-envoy-original-host: a\nx-forwarded-host: a\nx-envoy-original-path: /rewrite/a?b"]
        );
        assert_eq!(
            proxy.get("/nobody").await,
            "HTTP/1.1 503 Service Unavailable\nx-route: r\nx-table: t\nx-envoy-attempt-count: 1\n\
             content-length: 19\ncontent-type: text/plain\ndate: DATE\nserver: envoy\n\nno healthy upstream"
        );
        assert_eq!(
            proxy.get("/redirect").await,
            "HTTP/1.1 301 Moved Permanently\nlocation: http://a/x\nx-route: r\nx-table: t\ndate: DATE\n\
             server: envoy\ncontent-length: 0\n\n"
        );
        assert_eq!(
            proxy.get("/none").await,
            "HTTP/1.1 404 Not Found\ndate: DATE\nserver: envoy\ncontent-length: 0\n\n",
            "what no route took is edited by none"
        );
    });
}

#[test]
fn envoy_headers_are_left_out_when_suppressed() {
    run(async {
        let upstream = Upstream::start(script).await;
        let clusters: &[(&str, &[_])] = &[("up", &[upstream.address])];
        let routes = "- { match: { prefix: / }, route: { cluster: up, prefix_rewrite: /rw/ } }\n";
        let router = "suppress_envoy_headers: true\n";
        let proxy = Setup { routes, clusters, router, ..Setup::default() }.start();
        let got = proxy.get("/a").await;
        assert_eq!(got, "HTTP/1.1 200 OK\ncontent-length: 2\ndate: DATE\nserver: envoy\n\nok");
        assert_eq!(
            upstream.seen(),
            ["GET /rw/a HTTP/1.1\nhost: a\nx-forwarded-proto: http\nx-request-id: ID"]
        );
    });
}

#[test]
fn paths_and_hosts_are_normalised_before_routing() {
    run(async {
        let manager = "normalize_path: true\nmerge_slashes: true\nstrip_any_host_port: true\n\
                       path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT\n";
        let (proxy, upstream) = proxied(manager, TO_UP).await;
        proxy.ask("GET /a/../b//c HTTP/1.1\r\nhost: ex.com:99\r\n\r\n").await;
        assert!(upstream.seen()[0].starts_with("GET /b/c HTTP/1.1\nhost: ex.com\n"));
        assert_eq!(
            proxy.get("/a%2fb?c%2fd").await,
            "HTTP/1.1 307 Temporary Redirect\nlocation: /a/b?c%2fd\ndate: DATE\nserver: envoy\n\
             content-length: 0\n\n"
        );
        assert!(proxy.get("/%00").await.starts_with("HTTP/1.1 400 Bad Request\n"));
        assert_eq!(proxy.stat("http.test.downstream_rq_redirected_with_normalized_path"), 1);
        assert_eq!(proxy.stat("http.test.downstream_rq_failed_path_normalization"), 1);
    });
}

#[test]
fn weighted_clusters_share_the_requests() {
    run(async {
        let (one, two) = (Upstream::start(script).await, Upstream::start(script).await);
        let clusters: &[(&str, &[_])] = &[("one", &[one.address]), ("two", &[two.address])];
        let routes = "- match: { prefix: / }\n  route:\n    weighted_clusters:\n      clusters:\n\
                      \x20     - { name: one, weight: 75, request_headers_to_add: [{ header: { key: x-to, value: one } }] }\n\
                      \x20     - { name: two, weight: 25 }\n";
        let proxy = Setup { routes, clusters, ..Setup::default() }.start();
        for _ in 0..400 {
            proxy.get("/").await;
        }
        let (first, second) = (one.seen(), two.seen());
        assert_eq!(first.len() + second.len(), 400, "no request is lost");
        assert!((240..360).contains(&first.len()), "about three quarters, not {}", first.len());
        assert!(first.iter().all(|head| head.contains("\nx-to: one")), "the choice's own edits apply");
        assert!(second.iter().all(|head| !head.contains("x-to")));
    });
}

#[test]
fn an_answer_before_the_end_of_the_request_closes_the_connection() {
    run(async {
        let (proxy, _upstream) = proxied("", TO_UP).await;
        let got = proxy.ask("POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc").await;
        assert_eq!(
            got, "HTTP/1.1 200 OK\ncontent-length: 2\ndate: DATE\nserver: envoy\nconnection: close\n\nok",
            "no service time: the request never ended"
        );
        assert_eq!(proxy.stat("http.test.downstream_rq_response_before_rq_complete"), 1);
        assert_eq!(proxy.stat("http.test.downstream_rq_rx_reset"), 1);
    });
}

#[test]
fn head_requests_get_the_head_of_local_replies() {
    run(async {
        let clusters: &[(&str, &[_])] = &[("up", &[])];
        let proxy = Setup { routes: TO_UP, clusters, ..Setup::default() }.start();
        let mut client = proxy.connect();
        let requests =
            "HEAD / HTTP/1.1\r\nhost: a\r\n\r\nHEAD / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        client.write_all(requests.as_bytes()).await.unwrap();
        // Two heads in a row: no body came between them.
        let got = answer(&mut client).await;
        let head = "HTTP/1.1 503 Service Unavailable\ncontent-length: 19\ncontent-type: text/plain\ndate: DATE\n\
                    server: envoy\n";
        assert_eq!(got, format!("{head}\n{head}connection: close\n\n"));
    });
}

#[test]
fn grpc_requests_get_grpc_errors() {
    run(async {
        let clusters: &[(&str, &[_])] = &[("up", &[])];
        let proxy = Setup { routes: TO_UP, clusters, ..Setup::default() }.start();
        let got = proxy
            .ask("POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n\r\n")
            .await;
        assert_eq!(
            got,
            "HTTP/1.1 200 OK\ncontent-type: application/grpc\ngrpc-status: 14\ngrpc-message: no healthy upstream\n\
             date: DATE\nserver: envoy\ncontent-length: 0\n\n"
        );
        assert_eq!(proxy.stat("cluster.up.upstream_rq_503"), 1, "the cluster's stats know the HTTP status");
    });
}

#[test]
fn a_route_timeout_is_answered_with_504() {
    run_paused(async {
        let routes = "- { match: { prefix: / }, route: { cluster: up, timeout: 0.5s } }\n";
        let (proxy, _upstream) = proxied(LOG, routes).await;
        let start = tokio::time::Instant::now();
        let got = proxy.get("/silence").await;
        assert!(
            start.elapsed() >= Duration::from_millis(500) && start.elapsed() < Duration::from_millis(600)
        );
        assert!(got.starts_with("HTTP/1.1 504 Gateway Timeout\n"), "{got}");
        assert!(got.ends_with("\n\nupstream request timeout"), "{got}");
        assert!(proxy.log().contains(" 504 UT response_timeout "));
        assert_eq!(proxy.stat("cluster.up.upstream_rq_timeout"), 1);
        assert_eq!(proxy.stat("cluster.up.upstream_rq_504"), 1);
    });
}

#[test]
fn a_route_timeout_within_the_answer_breaks_it_off() {
    run_paused(async {
        let routes = "- { match: { prefix: / }, route: { cluster: up, timeout: 0.5s } }\n";
        let (proxy, _upstream) = proxied(LOG, routes).await;
        let got = proxy.get("/stall").await;
        assert!(got.ends_with("\n\nabc<end>"), "{got}");
        assert!(proxy.log().contains(" 200 UT response_timeout 0 3 "), "{}", proxy.log());
        assert_eq!(proxy.stat("http.test.downstream_rq_tx_reset"), 1);
        assert_eq!(proxy.stat("cluster.up.upstream_rq_timeout"), 1);
    });
}

#[test]
fn the_streams_deadlines_are_answered_by_what_the_client_owes() {
    run_paused(async {
        let routes = r#"
- { match: { prefix: /long }, route: { cluster: up, prefix_rewrite: /silence, max_stream_duration: { max_stream_duration: 0.5s } } }
- { match: { prefix: /idle }, route: { cluster: up, prefix_rewrite: /silence, idle_timeout: 0.5s } }
- { match: { prefix: / }, route: { cluster: up } }
"#;
        let (proxy, _upstream) = proxied(&format!("request_timeout: 2s\n{LOG}"), routes).await;
        let post = |path: &str| format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc");
        for (request, status, body) in [
            (
                "GET /long HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
                "504 Gateway Timeout",
                "downstream duration timeout",
            ),
            (post("/long"), "408 Request Timeout", "downstream duration timeout"),
            ("GET /idle HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), "504 Gateway Timeout", "stream timeout"),
            (post("/idle"), "408 Request Timeout", "stream timeout"),
            (post("/x"), "408 Request Timeout", "request timeout"),
        ] {
            let got = proxy.ask(&request).await;
            assert!(got.starts_with(&format!("HTTP/1.1 {status}\n")), "{request}\n{got}");
            assert!(got.ends_with(body), "{request}\n{got}");
        }
        let log = proxy.log();
        let details: Vec<_> = log.lines().map(|line| line.split(' ').nth(5).unwrap()).collect();
        assert_eq!(
            details,
            [
                "max_duration_timeout",
                "max_duration_timeout",
                "stream_idle_timeout",
                "stream_idle_timeout",
                "request_overall_timeout",
            ]
        );
        assert_eq!(proxy.stat("http.test.downstream_rq_idle_timeout"), 2);
        assert_eq!(proxy.stat("http.test.downstream_rq_max_duration_reached"), 2);
        assert_eq!(proxy.stat("http.test.downstream_rq_timeout"), 1);
    });
}

#[test]
fn an_upstream_that_breaks_off_breaks_the_answer_off() {
    run(async {
        let (proxy, _upstream) = proxied(LOG, TO_UP).await;
        let got = proxy.get("/half").await;
        assert!(got.ends_with("\n\nabc<end>"), "{got}");
        let expected = " 200 UPE upstream_reset_after_response_started{protocol_error} 0 3 ";
        assert!(proxy.log().contains(expected), "{}", proxy.log());
    });
}

#[test]
fn a_client_that_leaves_is_logged_as_such() {
    run_paused(async {
        let (proxy, _upstream) = proxied(LOG, TO_UP).await;
        let mut client = proxy.connect();
        client.write_all(b"GET /silence HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(client);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(
            proxy.log().contains("GET /silence HTTP/1.1 0 DC downstream_remote_disconnect 0 0 "),
            "{}",
            proxy.log()
        );
        assert_eq!(proxy.stat("http.test.downstream_rq_rx_reset"), 1);
        assert_eq!(proxy.stat("http.test.downstream_rq_active"), 0);
        assert_eq!(proxy.stat("http.test.downstream_cx_active"), 0);
        assert_eq!(proxy.stat("http.test.downstream_cx_destroy_remote_active_rq"), 1);
    });
}

#[test]
fn a_full_cluster_answers_overflow() {
    run(async {
        let upstream = Upstream::start(script).await;
        let clusters: &[(&str, &[_])] = &[("up", &[upstream.address])];
        let cluster = "circuit_breakers: { thresholds: [{ max_requests: 0 }] }\n";
        let proxy = Setup { routes: TO_UP, clusters, cluster, manager: LOG, ..Setup::default() }.start();
        assert_eq!(
            proxy.get("/").await,
            "HTTP/1.1 503 Service Unavailable\nx-envoy-overloaded: true\ncontent-length: 81\n\
             content-type: text/plain\ndate: DATE\nserver: envoy\n\nupstream connect error or disconnect/reset \
             before headers. reset reason: overflow"
        );
        assert!(proxy.log().contains(" 503 UO upstream_reset_before_response_started{overflow} "));
    });
}

#[test]
fn responses_are_counted_by_code_for_cluster_manager_and_listener() {
    run(async {
        let (proxy, _upstream) = proxied("", TO_UP).await;
        proxy.get("/x").await;
        proxy.get("/empty").await;
        proxy.get("/canary").await;
        let mut client = proxy.connect();
        let expects = "POST /x HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
        client.write_all(expects.as_bytes()).await.unwrap();
        assert_eq!(answer(&mut client).await, "HTTP/1.1 100 Continue\n\n");
        client.write_all(b"abc").await.unwrap();
        assert!(answer(&mut client).await.starts_with("HTTP/1.1 200 OK\n"));
        for (name, value) in [
            ("cluster.up.upstream_rq_200", 2),
            ("cluster.up.upstream_rq_204", 1),
            ("cluster.up.upstream_rq_2xx", 3),
            ("cluster.up.external.upstream_rq_500", 1),
            ("cluster.up.canary.upstream_rq_500", 1),
            ("cluster.up.upstream_rq_completed", 4),
            ("cluster.up.upstream_rq_time", 4),
            ("http.test.downstream_rq_1xx", 1),
            ("http.test.downstream_rq_2xx", 3),
            ("http.test.downstream_rq_5xx", 1),
            ("http.test.downstream_rq_completed", 5),
            ("http.test.downstream_rq_total", 4),
            ("http.test.downstream_rq_http1_total", 4),
            ("http.test.downstream_rq_time", 4),
            ("http.test.downstream_cx_http1_total", 4),
            ("listener.127.0.0.1_8080.http.test.downstream_rq_2xx", 3),
        ] {
            assert_eq!(proxy.stat(name), value, "{name}");
        }
    });
}

#[test]
fn the_default_access_log_line_is_envoys() {
    run(async {
        let manager = r#"
access_log:
- name: file
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
    path: LOG
"#;
        let (proxy, upstream) = proxied(manager, TO_UP).await;
        proxy.ask("POST /x HTTP/1.1\r\nhost: a\r\nuser-agent: me\r\nx-request-id: id\r\ncontent-length: 3\r\n\r\nabc").await;
        let line = proxy.log();
        let (time, rest) = line.split_once("] ").unwrap();
        assert_eq!(time.len(), "[2026-01-01T00:00:00.000Z".len(), "{line}");
        let mut fields: Vec<_> = rest.split(' ').collect();
        for (index, shown) in [(7, "D"), (8, "S")] {
            assert!(fields[index].parse::<u32>().is_ok(), "duration and service time: {line}");
            fields[index] = shown;
        }
        let expected = format!(
            "\"POST /x HTTP/1.1\" 200 - 3 2 D S \"-\" \"me\" \"id\" \"a\" \"{}\"\n",
            upstream.address
        );
        assert_eq!(fields.join(" "), expected);
    });
}

#[test]
fn requests_find_no_route_until_routes_are_published() {
    use data_plane_core::config;
    use data_plane_core::route::RouteTable;
    use std::sync::Arc;
    run(async {
        let routes = "- { match: { prefix: / }, direct_response: { status: 200 } }\n";
        let mut proxy = Setup { routes, ..Setup::default() }.start();
        let config::RouteSource::Static(table) = proxy.hcm.config.routes.clone() else { panic!("static") };
        let source = config::ConfigSource::Ads { initial_fetch_timeout: None };
        proxy.rebuild(|config| config.routes = config::RouteSource::Rds { name: "late".into(), source });
        assert!(proxy.get("/").await.starts_with("HTTP/1.1 404 "));
        let slot = proxy.deps.routes.slot("late");
        slot.publish(Some(Arc::new(RouteTable::build(table))));
        assert!(proxy.get("/").await.starts_with("HTTP/1.1 200 "));
        slot.publish(None);
        assert!(proxy.get("/").await.starts_with("HTTP/1.1 404 "));
    });
}

#[test]
fn upgrades_that_are_enabled_become_tunnels() {
    run(async {
        let upstream = Upstream::start(|head| {
            assert!(
                head.contains("\nconnection: upgrade") && head.contains("\nupgrade: websocket"),
                "{head}"
            );
            Act::Echo(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
                    .into(),
            )
        })
        .await;
        let clusters: &[(&str, &[_])] = &[("up", &[upstream.address])];
        let mut proxy = Setup { routes: TO_UP, clusters, manager: LOG, ..Setup::default() }.start();
        let upgrades = vec!["websocket".into()];
        proxy.rebuild(|config| config.upgrades = upgrades);
        let mut client = proxy.connect();
        let request = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
        client.write_all(request.as_bytes()).await.unwrap();
        let head = answer(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\n"), "{head}");
        assert!(
            head.contains("\nconnection: upgrade\n") && head.contains("\nupgrade: websocket\n"),
            "{head}"
        );
        assert_eq!(proxy.stat("http.test.downstream_cx_upgrades_active"), 1);
        for word in ["ping", "pong"] {
            client.write_all(word.as_bytes()).await.unwrap();
            let mut got = [0; 4];
            client.read_exact(&mut got).await.unwrap();
            assert_eq!(got, word.as_bytes(), "bytes pass both ways");
        }
        drop(client);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(proxy.stat("http.test.downstream_cx_upgrades_active"), 0);
        assert_eq!(proxy.stat("http.test.downstream_cx_upgrades_total"), 1);
        assert!(proxy.log().contains("GET /ws HTTP/1.1 101 "), "{}", proxy.log());
    });
}

#[test]
fn http2_clients_are_served_over_http1_upstreams() {
    run(async {
        let (proxy, upstream) = proxied(LOG, TO_UP).await;
        let (mut client, connection) = h2::client::handshake(proxy.connect()).await.unwrap();
        let driver = tokio::task::spawn_local(async move {
            // Ends with the client.
            let _ = connection.await;
        });
        let request =
            |path: &str| http::Request::get(format!("http://a{path}")).header("x-foo", "1").body(()).unwrap();
        let (answer, _) = client.send_request(request("/x"), true).unwrap();
        let answer = answer.await.unwrap();
        let names: Vec<_> = answer.headers().keys().map(|name| name.as_str().to_owned()).collect();
        assert_eq!(answer.status(), 200);
        assert_eq!(names, ["content-length", "x-envoy-upstream-service-time", "date", "server"]);
        assert_eq!(answer.into_body().data().await.unwrap().unwrap(), "ok");
        assert_eq!(
            upstream.seen(),
            ["GET /x HTTP/1.1\nhost: a\nx-foo: 1\nx-forwarded-proto: http\nx-request-id: ID\n\
              x-envoy-expected-rq-timeout-ms: 15000"]
        );

        let (silent, mut sender) = client.send_request(request("/silence"), true).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        sender.send_reset(h2::Reason::CANCEL);
        drop(silent);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(proxy.stat("http.test.downstream_rq_rx_reset"), 1);
        assert_eq!(proxy.stat("http.test.downstream_rq_http2_total"), 2);
        assert_eq!(proxy.stat("http.test.downstream_cx_http2_active"), 1);
        drop((client, sender));
        driver.await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(proxy.stat("http.test.downstream_cx_http2_active"), 0);
        assert_eq!(proxy.stat("http.test.downstream_rq_active"), 0);
        let log = proxy.log();
        let lines: Vec<_> = log.lines().collect();
        assert!(lines[0].starts_with("GET /x HTTP/2 200 - via_upstream 0 2 "), "{log}");
        assert!(lines[1].starts_with("GET /silence HTTP/2 0 DC downstream_remote_disconnect 0 0 "), "{log}");
    });
}

mod filters {
    //! Filters of tests: they leave their name in headers, and do what the path says.

    use super::*;
    use crate::codec::{Body, BodyError, BodySource, Frame};
    use crate::http::filter::{BodyUse, CONTINUE, HttpFilter, HttpFilterConfig, Step, Verdict};
    use crate::http::{LocalReply, StreamCx};
    use bytes::Bytes;
    use data_plane_core::headers::{RequestHead, ResponseHead};
    use std::sync::Arc;
    use std::task::{Context, Poll};

    struct Named(&'static str, BodyUse);

    impl HttpFilterConfig for Named {
        fn start(&self, cx: &StreamCx) -> Option<Box<dyn HttpFilter>> {
            let skip = cx.route().is_some_and(|route| &*route.route.name == "bare");
            (!skip).then(|| Box::new(Named(self.0, self.1)) as Box<dyn HttpFilter>)
        }
    }

    impl HttpFilter for Named {
        fn on_request<'a>(&'a mut self, head: &'a mut RequestHead, _: &'a mut StreamCx) -> Step<'a> {
            head.headers.append(b"x-passed", self.0.as_bytes());
            let deny = || Verdict::Reply(LocalReply::new(403, "denied").body("no"));
            if !head.path.ends_with(self.0) {
                return CONTINUE;
            }
            match head.path.as_str() {
                path if path.starts_with("/deny") => Step::Done(deny()),
                path if path.starts_with("/wait") => Step::Wait(Box::pin(async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    deny()
                })),
                path if path.starts_with("/hang") => Step::Wait(Box::pin(std::future::pending())),
                _ => CONTINUE,
            }
        }

        fn on_response<'a>(&'a mut self, head: &'a mut ResponseHead, _: &'a mut StreamCx) -> Step<'a> {
            head.headers.append(b"x-back", self.0.as_bytes());
            CONTINUE
        }

        fn request_body(&self) -> BodyUse {
            self.1
        }

        fn response_body(&self) -> BodyUse {
            self.1
        }

        fn wrap_response(&mut self, body: Body) -> Body {
            Body::Stream(Box::new(Loud(body)))
        }

        fn on_request_buffered(
            &mut self,
            head: &mut RequestHead,
            body: &mut Bytes,
            _: &mut StreamCx,
        ) -> Verdict {
            head.headers.append(b"x-body", body);
            Verdict::Continue
        }

        fn on_response_buffered(&mut self, _: &mut ResponseHead, body: &mut Bytes, _: &mut StreamCx) {
            *body = [body, &b"+more"[..]].concat().into();
        }
    }

    struct Loud(Body);

    impl BodySource for Loud {
        fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
            self.0.poll_frame(cx).map_ok(|frame| match frame {
                Frame::Data(data) => Frame::Data(data.to_ascii_uppercase().into()),
                trailers => trailers,
            })
        }

        fn remaining(&self) -> Option<u64> {
            self.0.remaining()
        }
    }

    async fn filtered(filters: &[(&'static str, BodyUse)]) -> (Proxy, Upstream) {
        let (mut proxy, upstream) = proxied(LOG, TO_UP).await;
        let built = |&(name, uses): &(&'static str, BodyUse)| Arc::new(Named(name, uses)) as _;
        proxy.with_filters(filters.iter().map(built).collect());
        (proxy, upstream)
    }

    const PLAIN: &[(&str, BodyUse)] = &[("one", BodyUse::None), ("two", BodyUse::None)];

    #[test]
    fn requests_pass_filters_in_order_and_responses_backwards() {
        run(async {
            let (proxy, upstream) = filtered(PLAIN).await;
            let got = proxy.get("/x").await;
            assert!(upstream.seen()[0].contains("x-passed: one\nx-passed: two\n"));
            assert!(got.contains("\nx-back: two\nx-back: one\n") && got.ends_with("\n\nok"), "{got}");
        });
    }

    #[test]
    fn a_filter_answers_in_place_of_the_upstream() {
        run_paused(async {
            let (proxy, upstream) = filtered(PLAIN).await;
            for path in ["/deny/one", "/wait/two"] {
                let got = proxy.get(path).await;
                assert!(got.starts_with("HTTP/1.1 403 Forbidden\ncontent-length: 2\n"), "{got}");
                assert!(got.contains("\nx-back: two\nx-back: one\n") && got.ends_with("\n\nno"), "{got}");
            }
            assert!(upstream.seen().is_empty());
            assert!(proxy.log().contains("GET /deny/one HTTP/1.1 403 - denied 0 2 - - 0"), "{}", proxy.log());
        });
    }

    #[test]
    fn a_filter_that_hangs_runs_into_the_streams_deadline() {
        run_paused(async {
            let (proxy, _upstream) = filtered(PLAIN).await;
            let got = proxy.get("/hang/one").await;
            assert!(got.starts_with("HTTP/1.1 504 ") && got.ends_with("stream timeout"), "{got}");
        });
    }

    #[test]
    fn a_filter_may_change_frames_as_they_pass() {
        run(async {
            let (proxy, _upstream) = filtered(&[("one", BodyUse::Stream)]).await;
            assert!(proxy.get("/chunks").await.ends_with("2\nAB\n1\nC\n0\n\n"));
        });
    }

    #[test]
    fn a_filter_may_take_bodies_whole() {
        run(async {
            let (proxy, upstream) = filtered(&[("one", BodyUse::Buffer(32))]).await;
            let post = |body: &str| {
                format!("POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            };
            let got = proxy.ask(&post("abc")).await;
            assert!(upstream.seen()[0].contains("\nx-body: abc"), "{:?}", upstream.seen());
            assert!(got.contains("\ncontent-length: 7\n") && got.ends_with("\n\nok+more"), "{got}");
            let got = proxy.ask(&post(&"long ".repeat(10))).await;
            assert!(got.starts_with("HTTP/1.1 413 ") && got.ends_with("\n\nPayload Too Large+more"), "{got}");
            assert_eq!(proxy.stat("http.test.downstream_rq_too_large"), 1);
        });
    }
}

mod overrides {
    //! Filters that routes turn off.

    use super::*;
    use crate::http::StreamCx;
    use crate::http::filter::{CONTINUE, HttpFilter, HttpFilterConfig, Step};
    use data_plane_core::headers::{Fields, RequestHead};
    use std::sync::Arc;

    /// Says its name in a request header and in metadata.
    struct Says(&'static str);

    impl HttpFilterConfig for Says {
        fn start(&self, _: &StreamCx) -> Option<Box<dyn HttpFilter>> {
            Some(Box::new(Says(self.0)))
        }
    }

    impl HttpFilter for Says {
        fn on_request<'a>(&'a mut self, head: &'a mut RequestHead, cx: &'a mut StreamCx) -> Step<'a> {
            head.headers.append(b"x-ran", self.0.as_bytes());
            cx.metadata_mut().merge("says", Fields::from_iter([("last".to_owned(), self.0.into())]));
            CONTINUE
        }
    }

    const OFF: &str =
        r#"{ "@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true }"#;

    #[test]
    fn the_most_specific_level_that_speaks_of_a_filter_decides() {
        run(async {
            let upstream = Upstream::start(script).await;
            let clusters: &[(&str, &[_])] = &[("up", &[upstream.address])];
            let weighted = format!(
                "weighted_clusters: {{ clusters: [ {{ name: up, weight: 1, typed_per_filter_config: {{ \"2\": {OFF} }} }} ] }}"
            );
            let routes = format!(
                "- {{ match: {{ prefix: /route }}, route: {{ cluster: up }}, typed_per_filter_config: {{ \"1\": {OFF} }} }}\n\
                 - {{ match: {{ prefix: /weighted }}, route: {{ {weighted} }} }}\n\
                 - {{ match: {{ prefix: / }}, route: {{ cluster: up }} }}\n"
            );
            let host = format!("typed_per_filter_config: {{ \"0\": {OFF} }}");
            let manager = &LOG.replace("%REQ(:METHOD)%", "%DYNAMIC_METADATA(says:last)%");
            let setup = Setup { manager, routes: &routes, host: &host, clusters, ..Setup::default() };
            let mut proxy = setup.start();
            proxy.with_filters(["zero", "one", "two"].map(|name| Arc::new(Says(name)) as _).into());
            for path in ["/route", "/weighted", "/", "/none"] {
                proxy.get(path).await;
            }
            let ran: Vec<Vec<_>> = upstream
                .seen()
                .iter()
                .map(|head| {
                    head.lines().filter_map(|l| l.strip_prefix("x-ran: ")).map(str::to_owned).collect()
                })
                .collect();
            assert_eq!(ran, [vec!["two"], vec!["one"], vec!["one", "two"], vec!["one", "two"]]);
            let last: Vec<_> = proxy.log().lines().map(|l| l.split(' ').next().unwrap().to_owned()).collect();
            assert_eq!(last, ["two", "one", "two", "two"], "metadata reaches the access log");
        });
    }
}
