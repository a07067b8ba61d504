use super::*;

fn render(registry: &Registry, format: Format, query: Query) -> String {
    let bytes: Vec<u8> = registry.render(format, query).flatten().collect();
    String::from_utf8(bytes).unwrap()
}

fn cluster(registry: &Registry, name: &str) -> Scope {
    registry.scope(&format!("cluster.{name}."), "cluster.", &[("envoy_cluster_name", name)])
}

#[test]
fn text_is_sorted_with_histograms_last_and_texts_first() {
    let registry = Registry::new(1);
    let web = cluster(&registry, "web");
    let main =
        web.block(&["upstream_rq_total", "assignment_stale"], &["membership_total"], &["upstream_rq_time"]);
    let outlier = web.child("outlier_detection.", "outlier_detection.", &[]).counter(&["ejections"]);
    let api = cluster(&registry, "api").counter(&["upstream_rq_total"]);
    let version = registry.scope("cluster_manager.cds.", "cluster_manager.cds.", &[]).text("version_text");
    version.set("v1");
    main.counter(0).add(2);
    main.gauge(0).set(3);
    main.histogram(0).record(2);
    assert_eq!(
        render(&registry, Format::Text, Query::default()),
        "cluster_manager.cds.version_text: \"v1\"\n\
         cluster.api.upstream_rq_total: 0\n\
         cluster.web.assignment_stale: 0\n\
         cluster.web.membership_total: 3\n\
         cluster.web.outlier_detection.ejections: 0\n\
         cluster.web.upstream_rq_total: 2\n\
         cluster.web.upstream_rq_time: P0(nan,2) P25(nan,2.025) P50(nan,2.05) P75(nan,2.075) P90(nan,2.09) \
         P95(nan,2.095) P99(nan,2.099) P99.5(nan,2.0995) P99.9(nan,2.0999) P100(nan,2.1)\n"
    );
    drop((outlier, api));
}

#[test]
fn histogram_without_values_says_so() {
    let registry = Registry::new(1);
    let _h = cluster(&registry, "a").histogram(&["upstream_cx_length_ms"]);
    let text = render(&registry, Format::Text, Query::default());
    assert_eq!(text, "cluster.a.upstream_cx_length_ms: No recorded values\n");
}

#[test]
fn filter_kind_and_usedonly_narrow_the_answer() {
    let registry = Registry::new(1);
    let block = cluster(&registry, "web").block(&["a", "b"], &["c"], &[]);
    block.counter(0).inc();
    block.gauge(0).set(1);
    let with = |query| render(&registry, Format::Text, query);
    assert_eq!(with(Query { used_only: true, ..Query::default() }), "cluster.web.a: 1\ncluster.web.c: 1\n");
    assert_eq!(with(Query { kinds: Kinds::Gauges, ..Query::default() }), "cluster.web.c: 1\n");
    let filter = Some(Regex::new("web.[bc]").unwrap());
    assert_eq!(with(Query { filter, ..Query::default() }), "cluster.web.b: 0\ncluster.web.c: 1\n");
}

#[test]
fn prometheus_has_one_type_line_a_family_and_tags_for_names_and_codes() {
    let registry = Registry::new(1);
    let (web, api) = (cluster(&registry, "web"), cluster(&registry, "a\"p"));
    let counters: Vec<_> =
        [&web, &api].map(|s| s.block(&["upstream_rq_2xx", "upstream_rq_total"], &[], &[])).into();
    let code = web.named_counter("upstream_rq_503");
    let live = registry.scope("server.", "server.", &[]).gauge(&["live"]);
    counters[0].counter(0).add(4);
    code.inc();
    live.set(1);
    assert_eq!(
        render(&registry, Format::Prometheus, Query::default()),
        "# TYPE envoy_cluster_upstream_rq counter\n\
         envoy_cluster_upstream_rq{envoy_response_code=\"503\",envoy_cluster_name=\"web\"} 1\n\
         # TYPE envoy_cluster_upstream_rq_total counter\n\
         envoy_cluster_upstream_rq_total{envoy_cluster_name=\"a\\\"p\"} 0\n\
         envoy_cluster_upstream_rq_total{envoy_cluster_name=\"web\"} 0\n\
         # TYPE envoy_cluster_upstream_rq_xx counter\n\
         envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"2\",envoy_cluster_name=\"a\\\"p\"} 0\n\
         envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"2\",envoy_cluster_name=\"web\"} 4\n\
         # TYPE envoy_server_live gauge\n\
         envoy_server_live{} 1\n"
    );
}

#[test]
fn prometheus_histogram_has_cumulative_buckets_sum_and_count() {
    let registry = Registry::new(1);
    let h = cluster(&registry, "web").histogram(&["upstream_rq_time"]);
    [0, 1, 7, 4_000_000].into_iter().for_each(|v| h.record(v));
    let text = render(&registry, Format::Prometheus, Query::default());
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "# TYPE envoy_cluster_upstream_rq_time histogram");
    let name = "envoy_cluster_upstream_rq_time";
    for line in [
        format!("{name}_bucket{{envoy_cluster_name=\"web\",le=\"0.5\"}} 1"),
        format!("{name}_bucket{{envoy_cluster_name=\"web\",le=\"1\"}} 2"),
        format!("{name}_bucket{{envoy_cluster_name=\"web\",le=\"10\"}} 3"),
        format!("{name}_bucket{{envoy_cluster_name=\"web\",le=\"3600000\"}} 3"),
        format!("{name}_bucket{{envoy_cluster_name=\"web\",le=\"+Inf\"}} 4"),
        format!("{name}_sum{{envoy_cluster_name=\"web\"}} 4000008"),
        format!("{name}_count{{envoy_cluster_name=\"web\"}} 4"),
    ] {
        assert!(lines.contains(&line.as_str()), "{line} in {text}");
    }
}

#[test]
fn equal_names_of_different_blocks_are_one_sample() {
    let registry = Registry::new(1);
    let (a, b) =
        (cluster(&registry, "web").block(&["x", "y"], &[], &[]), cluster(&registry, "web").counter(&["x"]));
    a.counter(0).inc();
    b.add(2);
    assert_eq!(render(&registry, Format::Text, Query::default()), "cluster.web.x: 3\ncluster.web.y: 0\n");
    let prometheus = render(&registry, Format::Prometheus, Query::default());
    assert!(prometheus.contains("envoy_cluster_x{envoy_cluster_name=\"web\"} 3\n"), "{prometheus}");
}

#[test]
fn fixed_tags_are_on_every_sample() {
    let registry = Registry::new(1);
    registry.set_fixed_tags(&[("zone".into(), "a".into())]);
    let _live = registry.scope("server.", "server.", &[]).gauge(&["live"]);
    assert!(
        render(&registry, Format::Prometheus, Query::default()).contains("envoy_server_live{zone=\"a\"} 0")
    );
}

#[test]
fn json_lists_numbers_then_histograms_with_values() {
    let registry = Registry::new(1);
    let block = cluster(&registry, "web").block(&["c"], &[], &["h", "unused"]);
    block.histogram(0).record(0);
    let value: serde_json::Value =
        serde_json::from_str(&render(&registry, Format::Json, Query::default())).unwrap();
    assert_eq!(value["stats"][0], serde_json::json!({ "name": "cluster.web.c", "value": 0 }));
    let histograms = &value["stats"][1]["histograms"];
    assert_eq!(histograms["supported_quantiles"][1], 25.0);
    assert_eq!(histograms["computed_quantiles"].as_array().unwrap().len(), 1);
    assert_eq!(histograms["computed_quantiles"][0]["values"][0]["cumulative"], 0.0);
    assert!(histograms["computed_quantiles"][0]["values"][0]["interval"].is_null());
}

#[test]
fn ten_thousand_clusters_are_written_in_small_pieces() {
    let registry = Registry::new(1);
    let held: Vec<_> = (0..10_000)
        .map(|i| cluster(&registry, &format!("c{i:05}")).block(&["a", "b"], &["g"], &[]))
        .collect();
    for format in [Format::Text, Format::Prometheus, Format::Json] {
        let pieces: Vec<_> = registry.render(format, Query::default()).collect();
        assert!(pieces.len() > 10);
        assert!(pieces.iter().all(|p| p.len() < 2 * PIECE_BYTES), "{format:?}");
    }
    drop(held);
}

#[test]
fn floats_are_written_as_c_does() {
    for (value, text) in [
        (0.0, "0"),
        (2.1, "2.1"),
        (99.5, "99.5"),
        (1.045_833_3, "1.04583"),
        (123_456.0, "123456"),
        (1_234_567.0, "1.23457e+06"),
        (0.000_01, "1e-05"),
        (f64::NAN, "nan"),
    ] {
        assert_eq!(general(value), text);
    }
}
