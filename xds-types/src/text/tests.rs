use prost::Message as _;

use super::*;
use crate::envoy::config::bootstrap::v3::Bootstrap;

fn lines(text: &str) -> Vec<String> {
    named("a.yaml", text)
}

fn named(name: &str, text: &str) -> Vec<String> {
    match parse::<Bootstrap>(Source { name, text }) {
        Ok(_) => vec!["accepted".into()],
        Err(errors) => errors.lines().collect(),
    }
}

fn read(text: &str) -> Bootstrap {
    parse(Source { name: "a.yaml", text }).unwrap_or_else(|e| panic!("{e}\n{text}")).message
}

/// Wraps the fields of one cluster.
fn cluster(fields: &str) -> String {
    format!("static_resources: {{clusters: [{{{fields}}}]}}")
}

const CLUSTER: &str = "static_resources.clusters[0]";

#[test]
fn every_malformed_text_is_refused_with_its_place_and_reason() {
    let cases: &[(&str, &[&str])] = &[
        // Texts.
        ("", &["is empty (a.yaml)"]),
        ("~\n", &["is empty (a.yaml)"]),
        ("# only a comment\n", &["is empty (a.yaml)"]),
        ("foo", &["must be an object, not the string \"foo\" (a.yaml:1:1)"]),
        ("[]", &["must be an object, not a list (a.yaml:1:1)"]),
        (
            "node: {id: a}\n---\nnode: {id: b}\n",
            &["holds 2 documents separated by `---`; only one is allowed (a.yaml:3:1)"],
        ),
        ("? [a]\n: b\n", &["a key must be a string (a.yaml:1:3)"]),
        ("node: &a {id: *a}", &["is an alias of what holds it (a.yaml:1:15)"]),
        ("node: *b", &["is not YAML: while parsing node, found unknown anchor (a.yaml:1:7)"]),
        // Fields.
        (
            "static_resorces: {}",
            &["static_resorces: no such field; did you mean `static_resources`? (a.yaml:1:1)"],
        ),
        ("xyzzy: 1", &["xyzzy: no such field (a.yaml:1:1)"]),
        (
            "node:\n  id: a\n  cluster: b\n  lcoality: {}\n",
            &["node.lcoality: no such field; did you mean `locality`? (a.yaml:4:3)"],
        ),
        ("node: {id: a, id: b}", &["node.id: is given twice; first at 1:8 (a.yaml:1:15)"]),
        (
            "statsFlushInterval: 5s\nstats_flush_interval: 6s\n",
            &["stats_flush_interval: is given twice; first at 1:1 (a.yaml:2:1)"],
        ),
        ("node: [a]", &["node: must be an object, not a list (a.yaml:1:7)"]),
        ("node: a", &["node: must be an object, not the string \"a\" (a.yaml:1:7)"]),
        // Strings.
        (
            "node: {id: 123}",
            &["node.id: must be a string, but an unquoted 123 is a number; write \"123\" (a.yaml:1:12)"],
        ),
        (
            "node: {id: n}",
            &["node.id: must be a string, but an unquoted n is a boolean; write \"n\" (a.yaml:1:12)"],
        ),
        ("node: {id: {a: b}}", &["node.id: must be a string, not an object (a.yaml:1:12)"]),
        ("node:\n  id: [a]\n", &["node.id: must be a string, not a list (a.yaml:2:7)"]),
        // Booleans.
        (
            "enable_dispatcher_stats: 1",
            &["enable_dispatcher_stats: must be true or false, not the number 1 (a.yaml:1:26)"],
        ),
        (
            "enable_dispatcher_stats: 'yes'",
            &["enable_dispatcher_stats: must be true or false, not the string \"yes\" (a.yaml:1:26)"],
        ),
        // Durations and times.
        (
            "stats_flush_interval: 5",
            &[
                "stats_flush_interval: must be a duration such as `5s` or `0.25s`, not the number 5 (a.yaml:1:23)",
            ],
        ),
        (
            "stats_flush_interval: 5ms",
            &[
                "stats_flush_interval: must be a duration such as `5s` or `0.25s`, not the string \"5ms\" (a.yaml:1:23)",
            ],
        ),
        (
            "stats_flush_interval: {second: 5}",
            &["stats_flush_interval.second: no such field; did you mean `seconds`? (a.yaml:1:24)"],
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(&lines(text), expected, "{text}");
    }
}

#[test]
fn every_malformed_field_is_refused_with_its_place_and_reason() {
    let node_type = "type.googleapis.com/envoy.config.core.v3.Node";
    let any = |fields: &str| format!("typed_extension_protocol_options: {{x: {{{fields}}}}}");
    let at_any = "typed_extension_protocol_options[\"x\"]";
    let cases: Vec<(String, String)> = vec![
        ("lb_polcy: random".into(), "lb_polcy: no such field; did you mean `lb_policy`? (a.yaml:1:32)".into()),
        (
            "type: STRICT-DNS".into(),
            "type: no such value \"STRICT-DNS\"; did you mean `STRICT_DNS`? (a.yaml:1:38)".into(),
        ),
        (
            "type: magic".into(),
            "type: no such value \"magic\"; it may be STATIC, STRICT_DNS, LOGICAL_DNS, EDS, ORIGINAL_DST (a.yaml:1:38)".into(),
        ),
        ("type: 1.0".into(), "type: no such value \"1.0\"; it may be STATIC, STRICT_DNS, LOGICAL_DNS, EDS, ORIGINAL_DST (a.yaml:1:38)".into()),
        ("type: true".into(), "type: must be the name of an enum value, not the boolean `true` (a.yaml:1:38)".into()),
        ("type: 5000000000".into(), "type: 5000000000 is out of range for an enum (a.yaml:1:38)".into()),
        (
            "type: STATIC, cluster_type: {name: x}".into(),
            "cluster_type: excludes `type`, which is set too; only one of them may be (a.yaml:1:46)".into(),
        ),
        (
            "per_connection_buffer_limit_bytes: 5000000000".into(),
            "per_connection_buffer_limit_bytes: 5000000000 is out of range: from 0 to 4294967295 (a.yaml:1:67)".into(),
        ),
        (
            "per_connection_buffer_limit_bytes: -1".into(),
            "per_connection_buffer_limit_bytes: -1 is out of range: from 0 to 4294967295 (a.yaml:1:67)".into(),
        ),
        (
            "per_connection_buffer_limit_bytes: 1.5".into(),
            "per_connection_buffer_limit_bytes: must be an integer, but 1.5 is not (a.yaml:1:67)".into(),
        ),
        (
            "per_connection_buffer_limit_bytes: ' 5'".into(),
            "per_connection_buffer_limit_bytes: must be an integer, not the string \" 5\" (a.yaml:1:67)".into(),
        ),
        (
            "per_connection_buffer_limit_bytes: NaN".into(),
            "per_connection_buffer_limit_bytes: must be an integer, not the string \"NaN\" (a.yaml:1:67)".into(),
        ),
        (
            "per_connection_buffer_limit_bytes: []".into(),
            "per_connection_buffer_limit_bytes: must be an integer, not a list (a.yaml:1:67)".into(),
        ),
        ("health_checks: [~]".into(), "health_checks[0]: must not be null (a.yaml:1:48)".into()),
        (
            "health_checks: {timeout: 1}".into(),
            "health_checks[0].timeout: must be a duration such as `5s` or `0.25s`, not the number 1 (a.yaml:1:57)".into(),
        ),
        (
            "round_robin_lb_config: {slow_start_config: {min_weight_percent: {value: .inf}}}".into(),
            "round_robin_lb_config.slow_start_config.min_weight_percent.value: must be a number, not the string \".inf\" (a.yaml:1:104)".into(),
        ),
        (
            "round_robin_lb_config: {slow_start_config: {min_weight_percent: {value: 1e999}}}".into(),
            "round_robin_lb_config.slow_start_config.min_weight_percent.value: 1e999 is too large for a 64-bit number (a.yaml:1:104)".into(),
        ),
        (any("'id': a"), format!("{at_any}: must hold `@type`, the type of the message that stands here (a.yaml:1:70)")),
        (
            any(&format!("'@type': {node_type}, idd: a")),
            format!("{at_any}.idd: no such field; did you mean `id`? (a.yaml:1:127)"),
        ),
        (
            any("'@type': type.googleapis.com/envoy.config.core.v3.Nod"),
            format!("{at_any}.@type: no message type `envoy.config.core.v3.Nod` is known; did you mean `envoy.config.core.v3.Node`? (a.yaml:1:80)"),
        ),
        (
            any("'@type': envoy.config.core.v3.Node"),
            format!("{at_any}.@type: \"envoy.config.core.v3.Node\" is not of the form `type.googleapis.com/package.Message`; write `type.googleapis.com/envoy.config.core.v3.Node` (a.yaml:1:80)"),
        ),
        (
            any("'@type': [a]"),
            format!("{at_any}.@type: must be a string such as `type.googleapis.com/package.Message` (a.yaml:1:80)"),
        ),
        (
            any("'@type': type.googleapis.com/google.protobuf.Duration, seconds: 5"),
            format!("{at_any}.seconds: no such field; a `google.protobuf.Duration` stands under `value` (a.yaml:1:126)"),
        ),
        (
            any("'@type': type.googleapis.com/xds.type.v3.TypedStruct, type_url: type.googleapis.com/envoy.config.core.v3.Node, value: {id: 5, idd: b}"),
            format!("{at_any}.id: must be a string, but an unquoted 5 is a number; write \"5\" (a.yaml:1:194)\n{CLUSTER}.{at_any}.idd: no such field; did you mean `id`? (a.yaml:1:197)"),
        ),
        (
            "metadata: {filter_metadata: {a: {b: 1, b: 2}}}".into(),
            "metadata.filter_metadata[\"a\"][\"b\"]: is given twice (a.yaml:1:71)".into(),
        ),
        (
            "metadata: {filter_metadata: {a: [1]}}".into(),
            "metadata.filter_metadata[\"a\"]: must be an object, not a list (a.yaml:1:64)".into(),
        ),
        (
            "metadata: {filter_metadata: {a: {}, a: {}}}".into(),
            "metadata.filter_metadata[\"a\"]: is given twice (a.yaml:1:68)".into(),
        ),
        (
            "<<: 5".into(),
            "`<<` must name an object or a list of objects (a.yaml:1:36)".into(),
        ),
    ];
    for (fields, expected) in cases {
        let text = cluster(&fields);
        let separator = if expected.starts_with('`') { ": " } else { "." };
        assert_eq!(lines(&text).join("\n"), format!("{CLUSTER}{separator}{expected}"), "{text}");
    }
}

#[test]
fn base64_is_checked_and_every_alphabet_is_taken() {
    let secret = |value: &str| {
        format!(
            "static_resources: {{secrets: [{{name: x, tls_certificate: {{private_key: {{inline_bytes: {value}}}}}}}]}}"
        )
    };
    let expected = "static_resources.secrets[0].tls_certificate.private_key.inline_bytes: \"not base64!\" is not base64 (a.yaml:1:86)";
    assert_eq!(lines(&secret("'not base64!'")), [expected]);
    for good in ["aGVsbG8", "aGVsbG8=", "aGV_bG8-", "'aGV/bG8+'", "'aGVsbG8'"] {
        read(&secret(good));
    }
}

#[test]
fn broken_json_is_told_in_terms_of_json() {
    for (text, expected) in [
        ("{\"node\":{\"id\":\"a\"}", "is not JSON: expected `,` or `}` (a.json:1:19)"),
        ("{\"node\":\n  {\"id\":\"é\" \"b\"}}", "is not JSON: expected `,` or `}` (a.json:2:13)"),
        ("{\"node\":{\"id\":\"\\ud83d\"}}", "is not JSON: half of a surrogate pair (a.json:1:16)"),
        ("{\"node\":{\"id\":\"\\x\"}}", "is not JSON: no such escape (a.json:1:16)"),
        (
            "{\"node\":{\"id\":5}}",
            "node.id: must be a string, but an unquoted 5 is a number; write \"5\" (a.json:1:15)",
        ),
        ("{\"node\":{\"id\":\"a\",\"id\":\"b\"}}", "node.id: is given twice; first at 1:10 (a.json:1:19)"),
        ("{\"node\":{\"idd\":\"a\"}}", "node.idd: no such field; did you mean `id`? (a.json:1:10)"),
    ] {
        assert_eq!(named("a.json", text), [expected], "{text}");
    }
}

#[test]
fn all_errors_are_reported_at_once_in_the_order_of_the_text() {
    let text = "\
node: {id: 5, clustr: a}
static_resources:
  listeners:
  - name: a
    nope: 1
  clusters:
  - {name: b, type: NOPE}
  - name: c
    connect_timeout: soon
";
    let expected = [
        "node.id: must be a string, but an unquoted 5 is a number; write \"5\" (a.yaml:1:12)",
        "node.clustr: no such field; did you mean `cluster`? (a.yaml:1:15)",
        "static_resources.listeners[0].nope: no such field (a.yaml:5:5)",
        "static_resources.clusters[0].type: no such value \"NOPE\"; it may be STATIC, STRICT_DNS, LOGICAL_DNS, EDS, ORIGINAL_DST (a.yaml:7:21)",
        "static_resources.clusters[1].connect_timeout: must be a duration such as `5s` or `0.25s`, not the string \"soon\" (a.yaml:9:22)",
    ];
    assert_eq!(lines(text), expected);
}

#[test]
fn errors_past_the_limit_are_counted() {
    let fields: String = (0..250).map(|i| format!("zzzzz{i}: 1\n")).collect();
    let errors = parse::<Bootstrap>(Source { name: "a.yaml", text: &fields }).unwrap_err();
    assert_eq!((errors.list.len(), errors.omitted), (MAX_ERRORS, 150));
    assert!(errors.to_string().ends_with("\nand 150 more"));
}

#[test]
fn what_envoy_takes_is_taken() {
    let c = |fields: &str| read(&cluster(fields)).static_resources.unwrap().clusters.swap_remove(0);
    let limit = |text: &str| {
        c(&format!("per_connection_buffer_limit_bytes: {text}"))
            .per_connection_buffer_limit_bytes
            .unwrap()
            .value
    };
    for (text, value) in [
        ("0x50", 80),
        ("010", 8),
        ("08", 8),
        ("1e3", 1000),
        ("1.0", 1),
        ("+5", 5),
        ("'5'", 5),
        ("{value: 5}", 5),
    ] {
        assert_eq!(limit(text), value, "{text}");
    }
    assert_eq!(c("lb_policy: Least_Request").lb_policy, 1);
    assert_eq!(c("lb_policy: 1").lb_policy, 1);
    assert_eq!(c("lb_policy: '1'").lb_policy, 1);
    assert_eq!(c("lbPolicy: RANDOM, connectTimeout: 0.25s").connect_timeout.unwrap().nanos, 250_000_000);
    assert_eq!(c("connect_timeout: {seconds: 5}").connect_timeout.unwrap().seconds, 5);
    assert_eq!(c("name: 1.5").name, "1.5", "a float is text, as in Envoy");
    assert_eq!(c("name: !!str n").name, "n");
    assert_eq!(c("name: ~, type: ~").name, "");
    assert!(read("enable_dispatcher_stats: On").enable_dispatcher_stats);
    assert!(read("enable_dispatcher_stats: 'true'").enable_dispatcher_stats);
    assert_eq!(read("static_resources: {clusters: {name: one}}").static_resources.unwrap().clusters.len(), 1);
    assert_eq!(read("!ignore foo: &a {id: x}\nnode: *a").node.unwrap().id, "x");
    assert_eq!(read("---\nnode: {id: x}\n...\n---\n").node.unwrap().id, "x");
    assert_eq!(read("\u{feff}node: {id: x}").node.unwrap().id, "x");
    assert_eq!(read("{\"node\":{\"id\":\"a\\/b\\ud83d\\ude00\"}}").node.unwrap().id, "a/b😀");
    assert_eq!(read("{node: {'id': \"a\"},}").node.unwrap().id, "a", "YAML in braces is still YAML");
    let empty = c("typed_extension_protocol_options: {x: {}, y: ~}");
    assert_eq!(empty.typed_extension_protocol_options.len(), 2);
}

#[test]
fn merge_keys_fill_in_what_is_not_given() {
    let text = "\
!ignore base: &base {connect_timeout: 3s, lb_policy: RANDOM, name: base}
!ignore more: &more {<<: *base, lb_policy: MAGLEV}
static_resources:
  clusters:
  - {<<: *base, name: a}
  - <<: [*more, {alt_stat_name: s}]
    name: b
  - {\"<<\": 1}
";
    let errors = lines(text);
    assert_eq!(
        errors,
        ["static_resources.clusters[2].<<: no such field (a.yaml:8:6)"],
        "quoted, it is a name"
    );
    let clusters = read(text.trim_end_matches("  - {\"<<\": 1}\n")).static_resources.unwrap().clusters;
    let facts: Vec<_> = clusters
        .iter()
        .map(|c| (&*c.name, c.lb_policy, c.connect_timeout.unwrap().seconds, &*c.alt_stat_name))
        .collect();
    assert_eq!(facts, [("a", 3, 3, ""), ("b", 5, 3, "s")]);
}

#[test]
fn untyped_values_are_what_envoy_makes_of_them() {
    use crate::google::protobuf::value::Kind;
    let text = "node: {metadata: {a: 1.5, b: 5000000000, c: 1e3, d: -0x10, e: 010, f: \"5\", g: yes, j: ~, k: [1, {x: y}]}}";
    let fields = read(text).node.unwrap().metadata.unwrap().fields;
    let get = |k: &str| fields[k].kind.clone().unwrap();
    let string = |s: &str| Kind::StringValue(s.into());
    assert_eq!(get("a"), string("1.5"));
    assert_eq!(get("b"), string("5000000000"));
    assert_eq!(get("c"), string("1e3"));
    assert_eq!(get("d"), Kind::NumberValue(-16.0));
    assert_eq!(get("e"), Kind::NumberValue(8.0));
    assert_eq!(get("f"), string("5"));
    assert_eq!(get("g"), Kind::BoolValue(true));
    assert_eq!(get("j"), Kind::NullValue(0));
    let json = to_json(&read(text));
    assert_eq!(json["node"]["metadata"]["k"], serde_json::json!([1, {"x": true}]), "y is a boolean");
    let json = "{\"node\": {\"metadata\": {\"a\": 1.5, \"b\": 5000000000}}}";
    let fields = read(json).node.unwrap().metadata.unwrap().fields;
    assert_eq!(fields["a"].kind, Some(Kind::NumberValue(1.5)));
    assert_eq!(fields["b"].kind, Some(Kind::NumberValue(5e9)));
}

#[test]
fn unknown_fields_can_be_reported_instead() {
    let source = Source { name: "a.yaml", text: "node: {id: a, nope: 1}\nwat: 2\n" };
    let parsed = parse_with::<Bootstrap>(source, Options { unknown_fields: UnknownFields::Report }).unwrap();
    assert_eq!(parsed.message.node.unwrap().id, "a");
    let ignored: Vec<String> = parsed.ignored.lines().collect();
    assert_eq!(ignored, ["node.nope: no such field (a.yaml:1:15)", "wat: no such field (a.yaml:2:1)"]);
}

#[test]
fn later_errors_find_their_places() {
    let text = "\
static_resources:
  clusters:
  - name: a
    typed_extension_protocol_options:
      x:
        '@type': type.googleapis.com/envoy.config.core.v3.Node
        locality:
          zone: z
    connect_timeout:
      seconds: 5
";
    let positions = parse::<Bootstrap>(Source { name: "a.yaml", text }).unwrap().positions;
    let at = |path: &str| positions.locate(path).map(|p| (p.line, p.column));
    assert_eq!(at("static_resources.clusters[0].name"), Some((3, 11)));
    assert_eq!(
        at("static_resources.clusters[0].typed_extension_protocol_options[\"x\"].locality.zone"),
        Some((8, 17))
    );
    assert_eq!(at("static_resources.clusters[0].connect_timeout"), Some((9, 5)), "a block is at its key");
    assert_eq!(
        at("static_resources.clusters[0].lb_policy"),
        Some((3, 5)),
        "an absent field is at its message"
    );
    let errors = positions.explain("a.yaml", [("static_resources.clusters[0].name", "is taken")]);
    assert_eq!(errors.to_string(), "static_resources.clusters[0].name: is taken (a.yaml:3:11)");
}

#[test]
fn merging_follows_protobuf() {
    let base = read(
        "node: {id: a, cluster: c}\nstatic_resources: {clusters: [{name: x}]}\nadmin: {profile_path: p}",
    );
    let over = read("node: {id: b}\nstatic_resources: {clusters: [{name: z}]}");
    let merged = merge(&base, &over).unwrap();
    let node = merged.node.unwrap();
    assert_eq!((&*node.id, &*node.cluster), ("b", "c"));
    let names: Vec<_> = merged.static_resources.unwrap().clusters.into_iter().map(|c| c.name).collect();
    assert_eq!(names, ["x", "z"]);
    assert!(merged.admin.is_some());
}

#[test]
fn bombs_are_refused() {
    let mut laughs = String::from("!ignore a0: &a0 {k: [x, x, x, x, x, x, x, x, x, x]}\n");
    for i in 1..12 {
        let items = vec![format!("*a{}", i - 1); 10].join(", ");
        laughs += &format!("!ignore a{i}: &a{i} {{k: [{items}]}}\n");
    }
    laughs += "node: {metadata: *a11}\n";
    let errors = lines(&laughs);
    assert!(errors[0].contains("aliases expand to too many values"), "{errors:?}");
    assert_eq!(errors.len(), 1);

    let mut merges = String::from("!ignore a0: &a0 {id: x}\n");
    for i in 1..30 {
        merges += &format!("!ignore a{i}: &a{i} {{<<: [*a{0}, *a{0}]}}\n", i - 1);
    }
    merges += "node: {<<: *a29}\n";
    assert!(lines(&merges)[0].contains("aliases expand to too many values"));

    for open in ["[", "{a: ", "{\"a\": ", "- ", "? "] {
        let errors = lines(&open.repeat(200_000));
        assert_eq!(errors.len(), 1, "{open}");
    }
    let deep = |n: usize| format!("node: {{metadata: {}1{}}}", "{a: ".repeat(n), "}".repeat(n));
    assert_eq!(read(&deep(25)).encode_to_vec().len(), read(&deep(25)).encoded_len());
    assert!(lines(&deep(40))[0].contains("is nested too deeply"));
}

#[test]
fn the_deepest_text_that_is_read_fits_the_stack_everywhere() {
    let open =
        "{'@type': type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig, name: a, typed_config: ";
    let nested = |n: usize| {
        format!(
            "node: {{id: a}}\ndefault_socket_interface: x\nbootstrap_extensions: [{{name: a, typed_config: {}{{}}{}}}]",
            open.repeat(n),
            "}".repeat(n)
        )
    };
    let deepest = (1..100).rev().find(|n| parse::<Bootstrap>(Source { name: "", text: &nested(*n) }).is_ok());
    let deepest = deepest.expect("some depth is read");
    assert!(deepest > 40, "{deepest}");
    let message = read(&nested(deepest));
    let again: Bootstrap = from_yaml(&to_yaml(&message)).unwrap();
    assert_eq!(again, message);
    crate::redact::redacted(&message);
    assert_eq!(crate::rules::check(&message), []);
}

#[test]
fn json_comes_back_as_the_same_message() {
    let text = include_str!("../../tests/bootstraps/edge.yaml");
    let message = read(text);
    let json = to_json(&message);
    let again: Bootstrap = from_yaml(&json.to_string()).unwrap();
    assert_eq!(crate::canonical::encode(&again), crate::canonical::encode(&message));
    let again: Bootstrap = from_yaml(&to_yaml(&message)).unwrap();
    assert_eq!(crate::canonical::encode(&again), crate::canonical::encode(&message));
}
