//! Static configuration and the admin interface.

use crate::support::*;
use data_plane::server::{Boot, Options, Proxy, StartError};

fn bootstrap(listeners: &[String], clusters: &[String]) -> String {
    format!(
        "{ADMIN}static_resources: {{listeners: [{}], clusters: [{}]}}\n",
        listeners.join(", "),
        clusters.join(", ")
    )
}

#[tokio::test]
async fn requests_reach_the_upstream_and_are_counted() {
    let upstream = Upstream::start("one").await;
    let proxy =
        start(&bootstrap(&[listener("web", &to_cluster("up"))], &[static_cluster("up", upstream.address)]));
    let proxy = ready(proxy).await;
    let web = bound(&proxy, "web").await;
    for _ in 0..3 {
        let answer = get(web, "/").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "one"));
    }
    let admin = proxy.admin_addr().unwrap();
    eventually("requests are counted", async || {
        let stats = get(admin, "/stats?filter=upstream_rq_200|downstream_rq_2xx").await.body;
        (stats.contains("cluster.up.upstream_rq_200: 3\n")
            && stats.contains("http.web.downstream_rq_2xx: 3\n"))
        .then_some(())
    })
    .await;
    let prometheus = get(admin, "/stats/prometheus").await.body;
    let sample = "envoy_cluster_upstream_rq{envoy_response_code=\"200\",envoy_cluster_name=\"up\"} 3\n";
    assert!(prometheus.contains(sample), "{prometheus}");
    assert_eq!(proxy.stats().value("cluster.up.upstream_rq_total"), Some(3));
}

#[tokio::test]
async fn several_workers_share_a_listener() {
    let upstream = Upstream::start("one").await;
    let yaml = bootstrap(&[listener("web", &to_cluster("up"))], &[static_cluster("up", upstream.address)]);
    let options = Options { concurrency: 3, ..Options::default() };
    let proxy = ready(start_with(Boot::from_yaml(&yaml).unwrap(), options)).await;
    let web = bound(&proxy, "web").await;
    for _ in 0..20 {
        assert_eq!(get(web, "/").await.status, 200);
    }
}

#[tokio::test]
async fn admin_pages_have_envoys_headers_and_shapes() {
    let upstream = Upstream::start("one").await;
    let proxy =
        start(&bootstrap(&[listener("web", &to_cluster("up"))], &[static_cluster("up", upstream.address)]));
    let proxy = ready(proxy).await;
    let (admin, web) = (proxy.admin_addr().unwrap(), bound(&proxy, "web").await);
    let answer = get(admin, "/ready").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "LIVE\n"));
    for header in [
        "content-type: text/plain; charset=utf-8",
        "cache-control: no-cache, max-age=0",
        "x-content-type-options: nosniff",
        "transfer-encoding: chunked",
    ] {
        assert!(answer.head.contains(header), "{header} in {}", answer.head);
    }
    assert_eq!(get(admin, "/listeners").await.body, format!("web::{web}\n"));
    let clusters = get(admin, "/clusters").await.body;
    assert!(clusters.starts_with("up::observability_name::up\n"), "{clusters}");
    assert!(clusters.contains(&format!("up::{}::health_flags::healthy\n", upstream.address)), "{clusters}");
    let dump: serde_json::Value = serde_json::from_str(&get(admin, "/config_dump").await.body).unwrap();
    let types: Vec<_> = dump["configs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["@type"].as_str().unwrap().rsplit('.').next().unwrap())
        .collect();
    assert_eq!(
        types,
        [
            "BootstrapConfigDump",
            "ClustersConfigDump",
            "ListenersConfigDump",
            "ScopedRoutesConfigDump",
            "RoutesConfigDump",
            "SecretsConfigDump"
        ]
    );
    assert_eq!(dump["configs"][1]["static_clusters"][0]["cluster"]["name"], "up");
    assert_eq!(dump["configs"][4]["static_route_configs"][0]["route_config"]["name"], "local");
    assert_eq!(get(admin, "/logging").await.status, 405);
    assert_eq!(get(admin, "/nope").await.status, 404);
    let info: serde_json::Value = serde_json::from_str(&get(admin, "/server_info").await.body).unwrap();
    assert_eq!(info["state"], "LIVE");
}

#[tokio::test]
async fn failing_health_checks_says_draining_while_traffic_goes_on() {
    let upstream = Upstream::start("one").await;
    let proxy =
        start(&bootstrap(&[listener("web", &to_cluster("up"))], &[static_cluster("up", upstream.address)]));
    let proxy = ready(proxy).await;
    let (admin, web) = (proxy.admin_addr().unwrap(), bound(&proxy, "web").await);
    assert_eq!(post(admin, "/healthcheck/fail").await.body, "OK\n");
    let answer = get(admin, "/ready").await;
    assert_eq!((answer.status, answer.body.as_str()), (503, "DRAINING\n"));
    assert_eq!(get(web, "/").await.status, 200);
    post(admin, "/healthcheck/ok").await;
    assert_eq!(get(admin, "/ready").await.status, 200);
}

#[tokio::test]
async fn every_address_that_cannot_be_bound_is_named_and_nothing_keeps_running() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let at = |name: &str| {
        listener(name, &to_cluster("up")).replace("port_value: 0", &format!("port_value: {port}"))
    };
    let up = static_cluster("up", "127.0.0.1:1".parse().unwrap());
    let yaml = bootstrap(&[at("web")], &[up]);
    match Proxy::start(Boot::from_yaml(&yaml).unwrap(), Options::default()) {
        Err(StartError::Static(failures)) => {
            assert_eq!(&*failures[0].name, "web");
            assert!(failures[0].reason.contains(&port.to_string()), "{failures:?}");
        }
        other => panic!("expected a bind failure, got {other:?}"),
    }
}

#[tokio::test]
async fn admin_address_is_written_where_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.txt");
    let options = Options { admin_address_path: Some(path.clone()), ..Options::default() };
    let proxy = start_with(Boot::from_yaml(ADMIN).unwrap(), options);
    assert_eq!(std::fs::read_to_string(path).unwrap(), proxy.admin_addr().unwrap().to_string());
}

#[tokio::test]
async fn two_proxies_of_a_process_know_nothing_of_each_other() {
    let (one, two) = (Upstream::start("one").await, Upstream::start("two").await);
    let make =
        |address| start(&bootstrap(&[listener("web", &to_cluster("up"))], &[static_cluster("up", address)]));
    let (a, b) = (ready(make(one.address)).await, ready(make(two.address)).await);
    assert_eq!(get(bound(&a, "web").await, "/").await.body, "one");
    assert_eq!(get(bound(&b, "web").await, "/").await.body, "two");
    assert_eq!(a.stats().value("cluster.up.upstream_rq_total"), Some(1));
}

#[tokio::test]
async fn admin_requests_are_logged_where_asked() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("admin.log");
    let file = format!(
        "{{name: file, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {}, log_format: {{text_format_source: {{inline_string: \"%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %BYTES_SENT%\\n\"}}}}}}}}",
        log.display()
    );
    let yaml = ADMIN.replace("admin: {", &format!("admin: {{access_log: [{file}], "));
    let options = Options { access_log_flush: std::time::Duration::from_millis(20), ..Options::default() };
    let proxy = ready(start_with(Boot::from_yaml(&yaml).unwrap(), options)).await;
    get(proxy.admin_addr().unwrap(), "/ready").await;
    get(proxy.admin_addr().unwrap(), "/nope?a=b").await;
    eventually("both requests are logged", async || {
        let text = std::fs::read_to_string(&log).ok()?;
        (text.starts_with("GET /ready 200 5\nGET /nope?a=b 404 ") && text.lines().count() == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn tls_of_static_clusters_that_cannot_be_had_ends_the_start_with_all_else_that_is_wrong() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let web = at_port(&listener("web", &to_cluster("up")), taken.local_addr().unwrap().port());
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let clusters = [static_cluster("up", nowhere), broken_tls_cluster("secure", nowhere)];
    let failure = Proxy::start(Boot::from_yaml(&bootstrap(&[web], &clusters)).unwrap(), Options::default())
        .unwrap_err();
    let told = failure.describe();
    assert!(told.contains("static_resources.clusters[1]: cluster \"secure\": TLS: "), "{told}");
    assert!(told.contains("static_resources.listeners[0]: listener \"web\": cannot bind "), "{told}");
    assert!(!told.contains("\"up\""), "{told}");
}
