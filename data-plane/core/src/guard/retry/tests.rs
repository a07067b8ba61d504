use super::*;
use crate::headers::{Scheme, Version};
use crate::matcher::{HeaderRule, StringMatcher, StringPattern};
use proptest::prelude::*;

fn request(headers: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead {
        method: "GET".into(),
        scheme: Scheme::Http,
        authority: "host".into(),
        path: "/".into(),
        version: Version::Http11,
        headers: HeaderList::default(),
    };
    headers.iter().for_each(|(name, value)| head.headers.append(name.as_bytes(), value.as_bytes()));
    head
}

fn response(status: u16, headers: &[(&str, &str)]) -> ResponseHead {
    let mut head = ResponseHead::new(status);
    headers.iter().for_each(|(name, value)| head.headers.append(name.as_bytes(), value.as_bytes()));
    head
}

fn on(names: &str) -> Arc<RetryPolicy> {
    let on = names.split(',').fold(RetryOn::NONE, |all, name| all.with(RetryOn::named(name).unwrap()));
    Arc::new(RetryPolicy { on, ..RetryPolicy::default() })
}

fn retries(names: &str) -> Retries {
    Retries::new(Some(&on(names)), &request(&[])).unwrap()
}

fn matcher(name: &str, rule: HeaderRule) -> HeaderMatcher {
    HeaderMatcher { name: name.into(), rule, invert: false, treat_missing_as_empty: false }
}

#[test]
fn responses_worth_another_try() {
    for (names, status, headers, expected) in [
        ("5xx", 500, &[][..], true),
        ("5xx", 504, &[], true),
        ("5xx", 499, &[], false),
        ("5xx", 503, &[("x-envoy-ratelimited", "true")], false),
        ("5xx,envoy-ratelimited", 429, &[("x-envoy-ratelimited", "true")], true),
        ("envoy-ratelimited", 429, &[], false),
        ("gateway-error", 500, &[], false),
        ("gateway-error", 502, &[], true),
        ("gateway-error", 504, &[], true),
        ("retriable-4xx", 409, &[], true),
        ("retriable-4xx", 404, &[], false),
        ("connect-failure,refused-stream,reset,reset-before-request", 503, &[], false),
        ("retriable-status-codes", 503, &[], false),
        ("retriable-headers", 200, &[("x-again", "1")], false),
        ("http3-post-connect-failure", 503, &[], false),
        ("cancelled", 200, &[("grpc-status", "1")], true),
        ("deadline-exceeded", 200, &[("grpc-status", "4")], true),
        ("resource-exhausted", 200, &[("grpc-status", "8")], true),
        ("internal", 200, &[("grpc-status", "13")], true),
        ("unavailable", 200, &[("grpc-status", "14")], true),
        ("unavailable", 200, &[("grpc-status", "13")], false),
        ("unavailable", 200, &[("grpc-status", "0")], false),
    ] {
        let got = retries(names).wants_response(&response(status, headers));
        assert_eq!(got, expected, "{names}: {status} {headers:?}");
    }
}

#[test]
fn resets_worth_another_try() {
    use Reset::{Connect, Other, Overflow, Refused};
    for (names, reset, started, expected) in [
        ("5xx", Connect, false, true),
        ("5xx", Other, true, true),
        ("5xx,gateway-error,reset,reset-before-request", Overflow, false, false),
        ("gateway-error", Other, true, true),
        ("reset", Refused, true, true),
        ("reset-before-request", Other, true, false),
        ("reset-before-request", Connect, false, true),
        ("refused-stream", Refused, true, true),
        ("refused-stream", Other, true, false),
        ("connect-failure", Connect, false, true),
        ("connect-failure", Refused, true, false),
        ("retriable-4xx,retriable-headers,retriable-status-codes,envoy-ratelimited", Other, true, false),
        ("unavailable,internal", Other, true, false),
    ] {
        let got = retries(names).wants_reset(reset, started);
        assert_eq!(got, expected, "{names}: {reset:?}, started: {started}");
    }
}

#[test]
fn codes_and_headers_come_from_the_policy_and_from_the_request() {
    let policy = Arc::new(RetryPolicy {
        on: RetryOn::STATUS_CODES.with(RetryOn::HEADERS),
        status_codes: vec![418],
        headers: vec![matcher("x-again", HeaderRule::Present(true))],
        ..RetryPolicy::default()
    });
    let steer = [
        ("x-envoy-retriable-status-codes", "429, x, 70000,  201"),
        ("x-envoy-retriable-header-names", "X-Later, x-then"),
    ];
    let retries = Retries::new(Some(&policy), &request(&steer)).unwrap();
    for status in [418, 429, 201] {
        assert!(retries.wants_response(&response(status, &[])), "{status}");
    }
    for name in ["x-again", "x-later", "x-then"] {
        assert!(retries.wants_response(&response(200, &[(name, "")])), "{name}");
    }
    assert!(!retries.wants_response(&response(200, &[("x-other", "")])));
}

#[test]
fn headers_alone_make_a_policy_with_one_retry() {
    assert!(Retries::new(None, &request(&[])).is_none());
    assert!(Retries::new(None, &request(&[("x-envoy-retry-on", "nonsense")])).is_none());
    let asked = request(&[("x-envoy-retry-on", "5xx , reset"), ("x-envoy-retry-grpc-on", "unavailable")]);
    let mut retries = Retries::new(None, &asked).unwrap();
    assert!(retries.wants_response(&response(500, &[])));
    assert!(retries.wants_response(&response(200, &[("grpc-status", "14")])));
    assert!(retries.spend());
    assert!(!retries.spend(), "one retry by default");
}

#[test]
fn the_request_says_how_many() {
    for (asked, expected) in [("3", 3), ("0", 0), ("x", 1), ("-1", 1)] {
        let mut retries =
            Retries::new(Some(&on("5xx")), &request(&[("x-envoy-max-retries", asked)])).unwrap();
        let spent = (0..10).take_while(|_| retries.spend()).count();
        assert_eq!(spent, expected, "{asked}");
    }
}

#[test]
fn a_policy_may_be_for_some_requests_only() {
    let exact = |value: &str| {
        let pattern = StringPattern::Exact(value.into());
        HeaderRule::Text(StringMatcher { pattern, ignore_case: false })
    };
    let policy = Arc::new(RetryPolicy {
        request_headers: vec![matcher(":method", exact("PUT")), matcher("x-safe", exact("yes"))],
        ..(*on("5xx")).clone()
    });
    assert!(Retries::new(Some(&policy), &request(&[])).is_none());
    assert!(Retries::new(Some(&policy), &request(&[("x-safe", "yes")])).is_some());
}

#[test]
fn an_upstream_says_when_to_come_back() {
    let headers = [("x-at", true), ("retry-after", false)];
    let headers = headers.map(|(name, is_timestamp)| ResetHeader { name: name.into(), is_timestamp });
    let limited = RateLimited { headers: headers.into(), max_interval: Duration::from_secs(300) };
    let policy = Arc::new(RetryPolicy { rate_limited: Some(limited), ..(*on("5xx")).clone() });
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    let wait = |headers: &[(&str, &str)], random| {
        let mut retries = Retries::new(Some(&policy), &request(&[])).unwrap();
        retries.wait(Some(&response(503, headers)), now, random)
    };
    let limited = |ms| Wait { time: Duration::from_millis(ms), rate_limited: true };
    assert_eq!(wait(&[("retry-after", "2")], 0), limited(2000));
    assert_eq!(wait(&[("retry-after", "2")], 1 << 63), limited(2500));
    assert_eq!(wait(&[("x-at", "1010"), ("retry-after", "2")], 0), limited(10_000));
    assert_eq!(
        wait(&[("x-at", "990"), ("retry-after", "2")], 0),
        limited(2000),
        "a past moment is passed over"
    );
    for ignored in ["301", "0", "soon", "-1"] {
        assert!(!wait(&[("retry-after", ignored)], 0).rate_limited, "{ignored}");
    }
    let mut retries = Retries::new(Some(&policy), &request(&[])).unwrap();
    assert!(!retries.wait(None, now, 0).rate_limited);
}

proptest! {
    #[test]
    fn no_wait_is_longer_than_the_policy_allows(base in 1u64..500, factor in 1u64..20, randoms in prop::collection::vec(any::<u64>(), 1..20)) {
        let (base, max) = (Duration::from_millis(base), Duration::from_millis(base * factor));
        let policy = RetryPolicy { base_interval: base, max_interval: max, ..(*on("5xx")).clone() };
        let mut retries = Retries::new(Some(&Arc::new(policy)), &request(&[])).unwrap();
        for (n, random) in randoms.into_iter().enumerate() {
            let wait = retries.wait(None, SystemTime::UNIX_EPOCH, random).time;
            prop_assert!(wait < max.min(base.saturating_mul(1 << n.min(30))));
        }
    }

    #[test]
    fn an_overflow_is_never_retried_and_no_more_is_spent_than_there_is(bits in any::<u32>(), retries in 0u32..10) {
        let policy = Arc::new(RetryPolicy { on: RetryOn(bits), retries, ..RetryPolicy::default() });
        if let Some(mut state) = Retries::new(Some(&policy), &request(&[])) {
            prop_assert!(!state.wants_reset(Reset::Overflow, false));
            prop_assert_eq!((0..100).filter(|_| state.spend()).count() as u32, retries);
        }
    }
}
