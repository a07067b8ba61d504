use super::*;
use crate::config::{AccessLogFilter, Comparison, Fraction, JsonFormat, RuntimeFraction};
use crate::headers::format::Missing;
use crate::headers::{HeaderList, RequestHead, ResponseHead, Scheme, Upstream, Version};
use crate::matcher::{HeaderMatcher, HeaderRule};
use std::time::{Duration, SystemTime};

fn request() -> RequestHead {
    let mut headers = HeaderList::default();
    headers.append(b"user-agent", b"curl/8");
    headers.append(b"x-request-id", b"abc");
    RequestHead {
        method: "GET".into(),
        path: "/new".into(),
        authority: "shop.com".into(),
        scheme: Scheme::Http,
        version: Version::Http11,
        headers,
    }
}

fn line(format: AccessLogFormat, record: &Record<'_>) -> String {
    let mut out = Vec::new();
    Renderer::new(&format).render(record, &mut out);
    String::from_utf8(out).unwrap()
}

fn record() -> Record<'static> {
    let mut record = Record::new(SystemTime::UNIX_EPOCH + Duration::from_millis(1_460_751_420_310));
    record.status = Some(200);
    record.timing.end = Some(Duration::from_micros(226_900));
    record
}

#[test]
fn the_default_format_prints_as_envoy() {
    let mut request = request();
    request.headers.append(b"x-envoy-original-path", b"/api?a=1");
    let mut response = ResponseHead::new(204);
    response.headers.append(b"x-envoy-upstream-service-time", b"100");
    let upstream = Upstream {
        address: "10.0.2.1:80".parse().unwrap(),
        hostname: "",
        local: None,
        protocol: Some(Version::Http11),
        connection_id: None,
        connect: None,
        transport_failure: None,
        tls: None,
    };
    let mut record = record();
    record.request = Some(&request);
    record.response = Some(&response);
    record.protocol = Some(Version::Http2);
    record.status = Some(204);
    record.downstream_bytes.body_received = 154;
    record.upstream = Some(&upstream);
    let format = AccessLogFormat::Text(Format::compile(DEFAULT_FORMAT, Missing::Dash).unwrap());
    assert_eq!(
        line(format, &record),
        "[2016-04-15T20:17:00.310Z] \"GET /api?a=1 HTTP/2\" 204 - 154 0 226 100 \"-\" \"curl/8\" \"abc\" \
         \"shop.com\" \"10.0.2.1:80\"\n"
    );
}

#[test]
fn a_malformed_request_prints_dashes() {
    let mut record = record();
    record.protocol = Some(Version::Http11);
    record.status = Some(400);
    record.flags = ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR;
    record.timing.end = Some(Duration::ZERO);
    let format = AccessLogFormat::Text(Format::compile(DEFAULT_FORMAT, Missing::Dash).unwrap());
    assert_eq!(
        line(format, &record),
        "[2016-04-15T20:17:00.310Z] \"- - HTTP/1.1\" 400 DPE 0 0 0 - \"-\" \"-\" \"-\" \"-\" \"-\"\n"
    );
}

fn text(source: &str) -> JsonFormat {
    JsonFormat::Text(Format::compile(source, Missing::Dash).unwrap())
}

fn member(name: &str, format: JsonFormat) -> (String, JsonFormat) {
    (name.to_owned(), format)
}

// What Envoy 1.40 prints for the same formats.
#[test]
fn json_keeps_types_and_sorts_members() {
    let object = JsonFormat::Object(vec![
        member("z_code", text("%RESPONSE_CODE%")),
        member("a_mixed", text("code %RESPONSE_CODE% %REQ(nope)%")),
        member("flags", text("%RESPONSE_FLAGS%")),
        member("missing", text("%REQ(nope)%")),
        member("num", JsonFormat::Literal("5".into())),
        member("nul", JsonFormat::Literal("null".into())),
        member("list", JsonFormat::Array(vec![text("%DURATION%"), text("x")])),
        member("nested", JsonFormat::Object(vec![member("b", text("1")), member("a", text("%ROUTE_NAME%"))])),
        member("esc", text("a\"b\\c\td/é<>&")),
        member("lrb", text("%LOCAL_REPLY_BODY%")),
        member("empty", text("")),
    ]);
    assert_eq!(
        line(AccessLogFormat::Json { object, omit_empty: false }, &record()),
        concat!(
            r#"{"a_mixed":"code 200 -","empty":"","esc":"a\"b\\c\td/é<>&","flags":"-","list":[226,"x"],"#,
            r#""lrb":"","missing":null,"nested":{"a":null,"b":"1"},"nul":null,"num":5,"z_code":200}"#,
            "\n"
        )
    );
}

#[test]
fn json_leaves_out_what_is_missing_when_asked() {
    let empty = |source| JsonFormat::Text(Format::compile(source, Missing::Empty).unwrap());
    let object = JsonFormat::Object(vec![
        member("code", empty("%RESPONSE_CODE%")),
        member("missing", empty("%REQ(nope)%")),
        member("mixed", empty("a%REQ(nope)%b%REQ(nope)%")),
        member("nested", JsonFormat::Object(vec![member("a", empty("%REQ(nope)%"))])),
        member("list", JsonFormat::Array(vec![empty("%REQ(nope)%"), empty("x")])),
        member("lrb", empty("%LOCAL_REPLY_BODY%")),
        member("empty", empty("")),
        member("nul", JsonFormat::Literal("null".into())),
    ]);
    assert_eq!(
        line(AccessLogFormat::Json { object, omit_empty: true }, &record()),
        "{\"code\":200,\"empty\":\"\",\"list\":[\"x\"],\"lrb\":\"\",\"mixed\":\"ab\"}\n"
    );
}

#[test]
fn json_stays_valid_whatever_headers_hold() {
    let mut request = request();
    request.headers.append(b"x", b"\xff\"\x01\x1f");
    let mut record = record();
    record.request = Some(&request);
    let object = JsonFormat::Object(vec![member("h", text("%REQ(x)%"))]);
    let line = line(AccessLogFormat::Json { object, omit_empty: false }, &record);
    assert_eq!(line, "{\"h\":\"\u{fffd}\\\"\\u0001\\u001f\"}\n");
    assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok());
}

fn passes(filter: &AccessLogFilter, record: &Record<'_>) -> bool {
    Filter::new(filter).passes(record, 500_000, None)
}

#[test]
fn numbers_are_compared() {
    use Comparison::{Eq, Ge, Le, Ne};
    for (comparison, wanted, want) in [
        (Eq, 200, true),
        (Eq, 201, false),
        (Ge, 200, true),
        (Ge, 201, false),
        (Le, 200, true),
        (Le, 199, false),
        (Ne, 200, false),
        (Ne, 404, true),
    ] {
        assert_eq!(passes(&AccessLogFilter::Status(comparison, wanted), &record()), want, "{comparison:?}");
    }
    assert!(passes(&AccessLogFilter::Duration(Ge, 226), &record()));
    assert!(!passes(&AccessLogFilter::Duration(Ge, 227), &record()));
    let unanswered = Record { status: None, ..record() };
    assert!(passes(&AccessLogFilter::Status(Eq, 0), &unanswered), "no status counts as 0");
}

#[test]
fn flags_are_matched_by_name_or_at_all() {
    let flagged =
        Record { flags: ResponseFlags::UPSTREAM_OVERFLOW | ResponseFlags::NO_ROUTE_FOUND, ..record() };
    let names =
        |names: &[&str]| AccessLogFilter::ResponseFlag(names.iter().map(|name| (*name).into()).collect());
    assert!(passes(&names(&["UO"]), &flagged));
    assert!(passes(&names(&["UF", "NR"]), &flagged));
    assert!(!passes(&names(&["UF"]), &flagged));
    assert!(passes(&names(&[]), &flagged));
    assert!(!passes(&names(&[]), &record()));
}

#[test]
fn grpc_statuses_are_those_that_http_means_where_there_are_none() {
    let of = |codes: &[u8], exclude| AccessLogFilter::GrpcStatus { codes: codes.to_vec(), exclude };
    for (status, code) in [(Some(503), 14), (Some(404), 12), (Some(200), 2), (None, 2)] {
        let record = Record { status, ..record() };
        assert!(passes(&of(&[code], false), &record) && !passes(&of(&[code], true), &record), "{status:?}");
        assert!(!passes(&of(&[0, 16], false), &record) && passes(&of(&[0, 16], true), &record), "{status:?}");
    }
    let mut trailers = HeaderList::default();
    for (value, code) in [("0", 0), ("16", 16)] {
        trailers.remove(b"grpc-status");
        trailers.append(b"grpc-status", value.as_bytes());
        assert!(passes(&of(&[code], false), &Record { trailers: Some(&trailers), ..record() }), "{value}");
    }
    trailers.remove(b"grpc-status");
    trailers.append(b"grpc-status", b"99");
    let unheard_of = Record { trailers: Some(&trailers), ..record() };
    assert!(!passes(&of(&[2, 16], false), &unheard_of) && passes(&of(&[2, 16], true), &unheard_of));
}

#[test]
fn conditions_combine() {
    let status = |wanted| AccessLogFilter::Status(Comparison::Eq, wanted);
    assert!(passes(&AccessLogFilter::And(vec![status(200), AccessLogFilter::NotHealthCheck]), &record()));
    assert!(!passes(&AccessLogFilter::And(vec![status(200), status(201)]), &record()));
    assert!(passes(&AccessLogFilter::Or(vec![status(201), status(200)]), &record()));
    let check = Record { health_check: true, ..record() };
    assert!(!passes(&AccessLogFilter::NotHealthCheck, &check));
    assert!(!passes(&AccessLogFilter::Traceable, &record()));
    assert!(passes(&AccessLogFilter::Traceable, &Record { traced: true, ..record() }));
}

#[test]
fn shares_and_headers_are_conditions() {
    let share = |per_million| {
        AccessLogFilter::Runtime(RuntimeFraction { default: Fraction { per_million }, key: "log".into() })
    };
    assert!(passes(&share(500_001), &record()));
    assert!(!passes(&share(500_000), &record()));
    assert!(Filter::new(&share(0)).passes(&record(), 7, Some(&|_| Some(8))));
    let header = AccessLogFilter::Header(HeaderMatcher {
        name: "x-request-id".into(),
        rule: HeaderRule::Present(true),
        invert: false,
        treat_missing_as_empty: false,
    });
    let request = request();
    assert!(passes(&header, &Record { request: Some(&request), ..record() }));
    assert!(!passes(&header, &record()));
}

#[test]
fn flags_print_in_envoys_order() {
    let flags = ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED | ResponseFlags::UPSTREAM_CONNECTION_FAILURE;
    assert_eq!(flags.to_string(), "URX,UF");
    assert_eq!(ResponseFlags::NONE.to_string(), "-");
    assert_eq!(
        flags.long_names().collect::<Vec<_>>(),
        ["UpstreamRetryLimitExceeded", "UpstreamConnectionFailure"]
    );
}
