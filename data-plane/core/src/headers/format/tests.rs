use super::*;
use crate::headers::{
    ByteCounts, Downstream, HeaderList, LogType, Metadata, Process, RequestHead, ResponseFlags, ResponseHead,
    Scheme, Timing, Upstream, Version,
};
use std::time::{Duration, SystemTime};

struct World {
    request: RequestHead,
    response: ResponseHead,
    trailers: HeaderList,
    downstream: Downstream,
    process: Process,
    metadata: Metadata,
}

impl World {
    fn new() -> Self {
        let mut headers = HeaderList::default();
        for (name, value) in [
            ("X-First", "one"),
            ("x-first", "two"),
            ("x-empty", ""),
            ("user-agent", "curl/8"),
            ("x-envoy-original-path", "/old?a=1"),
            ("content-type", "application/grpc"),
        ] {
            headers.append(name.as_bytes(), value.as_bytes());
        }
        let request = RequestHead {
            method: "GET".into(),
            path: "/new/path?k=v%20w&flag&k=2#frag".into(),
            authority: "shop.com:81".into(),
            scheme: Scheme::Http,
            version: Version::Http2,
            headers,
        };
        let mut response = ResponseHead::new(206);
        response.headers.append(b"server", b"x");
        let mut trailers = HeaderList::default();
        trailers.append(b"grpc-status", b"3");
        let downstream = Downstream {
            remote: "10.1.10.23:0".parse().unwrap(),
            direct_remote: "127.0.0.1:4242".parse().unwrap(),
            local: "[2001:db8:1234:5678:9abc:def0:1234:5678]:443".parse().unwrap(),
            direct_local: "127.0.0.1:8080".parse().unwrap(),
            server_name: None,
            connection_id: 7,
            handshake: None,
            transport_failure: None,
            tls: None,
        };
        let mut process = Process { hostname: "vm".into(), ..Process::default() };
        process.environment.insert("REGION".into(), "north".into());
        process.local_offset = ::time::UtcOffset::from_hms(-5, -30, 0).unwrap();
        let fields = serde_json::json!({"text": "long text", "n": 7, "list": [1, "a"], "none": null});
        let metadata = [("com.x".into(), fields.as_object().unwrap().clone())].into_iter().collect();
        Self { request, response, trailers, downstream, process, metadata }
    }

    fn record(&self) -> Record<'_> {
        let ms = |ms| Some(Duration::from_millis(ms));
        Record {
            request: Some(&self.request),
            response: Some(&self.response),
            trailers: Some(&self.trailers),
            protocol: Some(Version::Http2),
            now: Duration::from_millis(1500),
            timing: Timing {
                downstream_rx_end: ms(1),
                upstream_connect_begin: ms(2),
                upstream_connect_end: ms(3),
                upstream_tx_begin: ms(4),
                upstream_tx_end: ms(5),
                upstream_rx_begin: Some(Duration::from_micros(6_500)),
                upstream_rx_end: ms(8),
                downstream_tx_begin: ms(9),
                downstream_tx_end: ms(10),
                end: ms(11),
                ..Timing::NONE
            },
            status: Some(206),
            status_details: Some("via upstream"),
            downstream_bytes: ByteCounts { body_received: 5, body_sent: 6, ..ByteCounts::ZERO },
            upstream_bytes: ByteCounts { wire_sent: 70, ..ByteCounts::ZERO },
            downstream: Some(&self.downstream),
            cluster: Some("backend"),
            cluster_stat_name: Some("alt"),
            attempts: 2,
            route: "r1",
            filter_chain: "",
            stream_id: 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef,
            process: Some(&self.process),
            metadata: Some(&self.metadata),
            ..Record::new(SystemTime::UNIX_EPOCH + Duration::from_nanos(1_795_225_605_753_778_123))
        }
    }
}

fn render(source: &str, record: &Record<'_>) -> String {
    let mut out = Vec::new();
    Format::compile(source, Missing::Dash).unwrap().render(record, &mut out);
    String::from_utf8(out).unwrap()
}

/// Each command with what it prints for [`World::record`].
const TABLE: &[(&str, &str)] = &[
    ("%REQ(X-FIRST)%", "one"),
    ("%REQ(nope)%", "-"),
    ("%REQ(nope?user-agent)%", "curl/8"),
    ("%REQ(user-agent):4%", "curl"),
    ("%REQ(user-agent):0%", ""),
    ("%REQ(user-agent):99%", "curl/8"),
    ("%REQUEST_HEADER(x-empty)%", ""),
    (
        "%REQ(:METHOD)% %REQ(:PATH)% %REQ(:AUTHORITY)% %REQ(:SCHEME)%",
        "GET /new/path?k=v%20w&flag&k=2#frag shop.com:81 http",
    ),
    ("%REQ(host)%", "shop.com:81"),
    ("%REQ_WITHOUT_QUERY(x-envoy-original-path?:path)%", "/old"),
    ("%RESP(server)% %RESP(:STATUS)% %RESPONSE_HEADER(nope)%", "x 206 -"),
    ("%TRAILER(grpc-status)% %RESPONSE_TRAILER(x)%", "3 -"),
    ("%PATH%", "/old?a=1"),
    ("%PATH(NQ)%", "/old"),
    ("%PATH(WQ:PATH)%", "/new/path?k=v%20w&flag&k=2#frag"),
    ("%PATH(NQ:PATH)%", "/new/path"),
    ("%PATH(:ORIG):3%", "/ol"),
    ("%QUERY_PARAM(k)%", "v w"),
    ("%QUERY_PARAM(flag)%|%QUERY_PARAM(no)%", "|-"),
    ("%QUERY_PARAMS%", "k=v%20w&flag&k=2"),
    ("%QUERY_PARAMS(DECODED):3%", "k=v"),
    ("%PROTOCOL% %UPSTREAM_PROTOCOL%", "HTTP/2 -"),
    (
        "%RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%",
        "206 via_upstream via upstream",
    ),
    ("%RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%", "- -"),
    ("%CONNECTION_TERMINATION_DETAILS%", "-"),
    ("%BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_WIRE_BYTES_SENT% %UPSTREAM_HEADER_BYTES_RECEIVED%", "5 6 70 0"),
    ("%BYTES_RETRANSMITTED% %PACKETS_RETRANSMITTED%", "0 0"),
    ("%RESPONSE_HEADERS_BYTES% %RESPONSE_TRAILERS_BYTES%", "17 12"),
    ("%DURATION% %REQUEST_DURATION% %REQUEST_TX_DURATION% %RESPONSE_DURATION%", "11 1 5 6"),
    ("%RESPONSE_TX_DURATION% %ROUNDTRIP_DURATION% %DOWNSTREAM_HANDSHAKE_DURATION%", "3 - -"),
    ("%COMMON_DURATION(DS_RX_BEG:US_RX_BEG:us)%", "6500"),
    ("%COMMON_DURATION(DS_TX_END:US_TX_BEG:ms)%", "-6"),
    ("%COMMON_DURATION(US_CX_BEG:US_CX_END:ns)%", "1000000"),
    ("%COMMON_DURATION(DS_RX_BEG:US_RX_BODY_BEG:ns)%", "-"),
    ("%START_TIME%", "2026-11-21T01:46:45.753Z"),
    ("%EMIT_TIME%", "2026-11-21T01:46:47.253Z"),
    ("%START_TIME_LOCAL%", "2026-11-20T20:16:45.753-0530"),
    (
        "%START_TIME(%s.%3f %y-%m-%d %b %e %j %T %z %Z %E3S %f)%",
        "1795225605.753 26-11-21 Nov 21 325 01:46:45 +0000 UTC 45.753 753778123",
    ),
    ("%START_TIME(%Y/%m/%dT%H:%M:%S%z %1f %6f %%)%", "2026/11/21T01:46:45+0000 7 753778 %"),
    (
        "%START_TIME(%A %a %B %C %D %F %I %k %l %p %r %R %u %w %V %U %W %Ez %c)%",
        "Saturday Sat November 20 11/21/26 2026-11-21 01  1  1 AM 01:46:45 AM 01:46 6 6 47 46 46 +00:00 Sat Nov 21 01:46:45 2026",
    ),
    ("%UPSTREAM_HOST% %UPSTREAM_HOST_NAME% %UPSTREAM_LOCAL_ADDRESS% %UPSTREAM_REMOTE_PORT%", "- - - -"),
    ("%UPSTREAM_CLUSTER% %UPSTREAM_CLUSTER_RAW%", "alt backend"),
    ("%UPSTREAM_REQUEST_ATTEMPT_COUNT% %UPSTREAM_CONNECTION_ID% %CONNECTION_ID%", "2 0 7"),
    ("%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_PORT%", "10.1.10.23:0 0"),
    (
        "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(16)%",
        "10.1.10.23 10.1.0.0/16",
    ),
    ("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT(64)%", "127.0.0.1/32"),
    ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT(64)%", "2001:db8:1234:5678::/64"),
    ("%DOWNSTREAM_LOCAL_ADDRESS%", "[2001:db8:1234:5678:9abc:def0:1234:5678]:443"),
    ("%DOWNSTREAM_DIRECT_LOCAL_ADDRESS% %DOWNSTREAM_DIRECT_LOCAL_PORT%", "127.0.0.1:8080 8080"),
    (
        "%REQUESTED_SERVER_NAME% %REQUESTED_SERVER_NAME(SNI_FIRST)% %REQUESTED_SERVER_NAME(HOST_FIRST:ORIG)%",
        "- shop.com:81 -",
    ),
    ("%ROUTE_NAME% %VIRTUAL_HOST_NAME% %FILTER_CHAIN_NAME% %VIRTUAL_CLUSTER_NAME%", "r1 - - -"),
    (
        "%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS(NUMBER)% %GRPC_STATUS_NUMBER%",
        "InvalidArgument INVALID_ARGUMENT 3 3",
    ),
    ("%HOSTNAME% %ENVIRONMENT(REGION)% %ENVIRONMENT(REGION):2% %ENVIRONMENT(NOPE)%", "vm north no -"),
    ("%STREAM_ID%", "01234567-89ab-4def-8123-456789abcdef"),
    ("%UNIQUE_ID%", "01234567-89ab-4def-8123-456789abcdef"),
    ("%LOCAL_REPLY_BODY%|%CUSTOM_FLAGS%|%TRACE_ID%", "||-"),
    ("%ACCESS_LOG_TYPE%", "DownstreamEnd"),
    ("%DYNAMIC_METADATA(com.x:key):9% %FILTER_STATE(key:PLAIN)%", "- -"),
    (
        "%DYNAMIC_METADATA(com.x:text):4% %DYNAMIC_METADATA(com.x:n)% %DYNAMIC_METADATA(com.x:list)%",
        "long 7 [1,\"a\"]",
    ),
    ("%DYNAMIC_METADATA(com.x:none)% %DYNAMIC_METADATA(com.x:n:m)% %DYNAMIC_METADATA(com.y)%", "- - -"),
    (
        "%DYNAMIC_METADATA(com.x)% %DYNAMIC_METADATA(com.x):9%",
        r#"{"list":[1,"a"],"n":7,"none":null,"text":"long text"} {"list":["#,
    ),
    (
        "%DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_PEER_URI_SAN% %UPSTREAM_TLS_CIPHER% %TLS_JA3_FINGERPRINT%",
        "- - - -",
    ),
    (
        r#"%COALESCE({"operators": ["REQUESTED_SERVER_NAME", {"command": "REQ", "param": "x-empty"}, {"command": "REQ", "param": ":authority", "max_length": 6}]}):4%"#,
        "shop",
    ),
    (r#"%COALESCE({"operators": ["REQUESTED_SERVER_NAME"]})%"#, "-"),
    ("100%% of %%REQ(x)%%", "100% of %REQ(x)%"),
    ("", ""),
];

#[test]
fn every_command_prints_what_envoy_prints() {
    let world = World::new();
    for (source, want) in TABLE {
        assert_eq!(render(source, &world.record()), *want, "{source}");
    }
}

#[test]
fn nothing_known_is_no_reason_to_fail() {
    let record = Record::new(SystemTime::UNIX_EPOCH);
    for (source, _) in TABLE {
        render(source, &record);
    }
    assert_eq!(render("%RESPONSE_CODE% %BYTES_SENT% %REQ(x)% %DURATION% %STREAM_ID%", &record), "0 0 - 0 -");
}

#[test]
fn upstream_facts_are_printed() {
    let world = World::new();
    let upstream = Upstream {
        address: "10.0.0.5:8080".parse().unwrap(),
        hostname: "svc.local",
        local: Some("10.0.0.1:5555".parse().unwrap()),
        protocol: Some(Version::Http11),
        connection_id: Some(9),
        connect: Some(Duration::from_millis(4)),
        transport_failure: Some("TLS error"),
        tls: None,
    };
    let mut record = world.record();
    record.upstream = Some(&upstream);
    for (source, want) in [
        ("%UPSTREAM_HOST% %UPSTREAM_HOST_NAME%", "10.0.0.5:8080 svc.local"),
        (
            "%UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(8)% %UPSTREAM_REMOTE_PORT%",
            "10.0.0.5:8080 10.0.0.0/8 8080",
        ),
        (
            "%UPSTREAM_LOCAL_ADDRESS% %UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %UPSTREAM_LOCAL_PORT%",
            "10.0.0.1:5555 10.0.0.1 5555",
        ),
        ("%UPSTREAM_PROTOCOL% %UPSTREAM_CONNECTION_ID%", "HTTP/1.1 9"),
        ("%UPSTREAM_TRANSPORT_FAILURE_REASON%", "TLS_error"),
        ("%UPSTREAM_CONNECTION_POOL_READY_DURATION%", "4"),
    ] {
        assert_eq!(render(source, &record), want, "{source}");
    }
}

#[test]
fn flags_are_printed_short_and_long() {
    let mut record = Record::new(SystemTime::UNIX_EPOCH);
    record.flags = ResponseFlags::UPSTREAM_CONNECTION_FAILURE | ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED;
    record.log_type = LogType::DownstreamStart;
    assert_eq!(
        render("%RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG% %ACCESS_LOG_TYPE%", &record),
        "URX,UF UpstreamRetryLimitExceeded,UpstreamConnectionFailure DownstreamStart"
    );
}

#[test]
fn grpc_status_needs_a_grpc_request_and_falls_back_to_http() {
    let mut world = World::new();
    world.trailers.clear();
    assert_eq!(render("%GRPC_STATUS%", &Record { status: Some(503), ..world.record() }), "Unavailable");
    assert_eq!(render("%GRPC_STATUS%", &Record { status: None, ..world.record() }), "-");
    world.response.headers.append(b"grpc-status", b"99");
    assert_eq!(render("%GRPC_STATUS%", &world.record()), "99", "a code without a name is a number");
    world.request.headers.set(b"content-type", b"text/plain");
    assert_eq!(render("%GRPC_STATUS%", &world.record()), "-");
}

#[test]
fn a_missing_value_is_nothing_in_headers() {
    let mut out = Vec::new();
    let format = Format::compile("a%REQ(x)%b%ROUTE_NAME%", Missing::Empty).unwrap();
    format.render(&Record::new(SystemTime::UNIX_EPOCH), &mut out);
    assert_eq!(out, b"ab");
}

#[test]
fn json_values_keep_their_type_when_alone() {
    let world = World::new();
    let json = |source: &str| {
        let mut out = Vec::new();
        let found = Format::compile(source, Missing::Dash).unwrap().render_json(&world.record(), &mut out);
        (String::from_utf8(out).unwrap(), found)
    };
    for (source, want, found) in [
        ("%RESPONSE_CODE%", "206", true),
        ("%RESPONSE_CODE% ", "\"206 \"", true),
        ("%REQ(nope)%", "null", false),
        ("%REQ(nope)%x", "\"-x\"", true),
        ("%RESPONSE_FLAGS%", "\"-\"", true),
        ("%DOWNSTREAM_REMOTE_PORT%", "0", true),
        ("%GRPC_STATUS_NUMBER%", "3", true),
        ("%GRPC_STATUS%", "\"InvalidArgument\"", true),
        ("%COMMON_DURATION(DS_TX_END:DS_RX_BEG:ms)%", "-10", true),
        ("%LOCAL_REPLY_BODY%", "\"\"", true),
        ("5", "\"5\"", true),
        ("", "\"\"", true),
    ] {
        assert_eq!(json(source), (want.to_owned(), found), "{source}");
    }
}

#[test]
fn bad_formats_are_refused_with_their_column() {
    for (source, column, message) in [
        ("ab%", 3, "begins a command"),
        ("a%b%", 2, "begins a command"),
        ("x %NOPE% y", 4, "there is no command NOPE"),
        ("%REQ%", 2, "REQ needs an argument"),
        ("%REQ()%", 2, "REQ needs an argument"),
        ("%REQ(x%", 5, "`(` of REQ is not closed"),
        ("%REQ(x)", 8, "REQ is not ended by `%`"),
        ("%REQ(x):%", 9, "must be followed by a length"),
        ("%REQ(x):9999999999999999999999%", 9, "must be followed by a length"),
        ("%REQ(a?b?c)%", 9, "more than one alternative"),
        ("%REQ(a b)%", 6, "is not a header name"),
        ("%REQ(a?)%", 8, "is not a header name"),
        ("%PROTOCOL(x)%", 11, "PROTOCOL takes no argument"),
        ("%PROTOCOL:5%", 11, "PROTOCOL takes no length"),
        ("%START_TIME:5%", 13, "START_TIME takes no length"),
        ("%START_TIME(%Y %Q)%", 16, "`%Q` is not a time conversion"),
        ("%START_TIME(%)%", 13, "at the end of a time pattern"),
        ("%GRPC_STATUS(x)%", 14, "is none of CAMEL_STRING, SNAKE_STRING, NUMBER"),
        ("%PATH(NQ:x)%", 10, "is none of ORIG, PATH, ORIG_OR_PATH"),
        ("%COMMON_DURATION(DS_RX_BEG:x:ms)%", 28, "is none of"),
        ("%COMMON_DURATION(DS_RX_BEG:DS_TX_END:s)%", 38, "is none of ms, us, ns"),
        ("%COMMON_DURATION(DS_RX_BEG)%", 18, "needs START:END:PRECISION"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(x)%", 41, "is not a prefix length"),
        ("%DOWNSTREAM_REMOTE_PORT(1)%", 25, "takes no argument"),
        ("%DOWNSTREAM_TLS_CIPHERS%", 2, "there is no command"),
        ("%CLUSTER_METADATA(a:b)%", 2, "is not supported"),
        ("%CEL(request.path)%", 2, "is not supported"),
        ("%UPSTREAM_HOSTS_ATTEMPTED%", 2, "is not supported"),
        ("%DYNAMIC_METADATA%", 2, "needs an argument"),
        ("%COALESCE(x)%", 11, "is not JSON"),
        (r#"%COALESCE({"operators": ["NOPE"]})%"#, 11, "there is no command NOPE"),
    ] {
        let error = Format::compile(source, Missing::Dash).unwrap_err();
        assert_eq!(error.column, column, "{source}: {error}");
        assert!(error.message.contains(message), "{source}: {error}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_compiles_or_is_refused_without_a_panic(source in "[%A-Z_():?0-9a-z{}\" é]{0,40}") {
        match Format::compile(&source, Missing::Dash) {
            Ok(format) => format.render(&Record::new(SystemTime::UNIX_EPOCH), &mut Vec::new()),
            Err(error) => proptest::prop_assert!(error.column >= 1 && error.column <= source.len() + 1),
        }
    }
}
