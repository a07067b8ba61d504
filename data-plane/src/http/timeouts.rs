//! How long a request may take: routes, request headers and gRPC have a say (Envoy `FilterUtility::finalTimeout`
//! and `ActiveStream::refreshDurationTimeout`).

use data_plane_core::config::Forward;
use data_plane_core::headers::{HeaderId, HeaderList};
use std::time::Duration;

/// Largest number in a grpc-timeout header.
const MAX_GRPC_TIMEOUT: u64 = 99_999_999;

/// Timeouts of a request that goes upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RouteTimeout {
    /// From the end of the request to the end of the answer.
    pub(super) route: Option<Duration>,
    /// What the upstream is told, in x-envoy-expected-rq-timeout-ms.
    pub(super) expected: Option<Duration>,
    /// Of one try, to the head of its response.
    pub(super) per_try: Option<Duration>,
    /// Longest silence of one try.
    pub(super) per_try_idle: Option<Duration>,
}

impl RouteTimeout {
    /// What the upstream of a further try is told, this long after the end of the request.
    pub(super) fn expected_after(&self, elapsed: Duration) -> Option<Duration> {
        let expected = self.expected?;
        // Zero would be no timeout: who is out of time is told a millisecond, as by Envoy.
        let left = self.route.map(|route| route.saturating_sub(elapsed).max(Duration::from_millis(1)));
        Some(left.map_or(expected, |left| expected.min(left)))
    }
}

/// The timeout of a route, which trusted callers may change by header.
pub(super) fn route_timeout(forward: &Forward, headers: &HeaderList, respect_expected: bool) -> RouteTimeout {
    let by_header = |id| milliseconds(headers.get_id(id)?);
    let asked = respect_expected
        .then(|| by_header(HeaderId::XEnvoyExpectedRqTimeoutMs))
        .flatten()
        .or_else(|| by_header(HeaderId::XEnvoyUpstreamRqTimeoutMs));
    // Zero is no timeout, as everywhere in Envoy.
    let route = asked.or(forward.timeout).filter(|timeout| !timeout.is_zero());
    let policy = forward.retry.as_deref();
    let per_try = by_header(HeaderId::XEnvoyUpstreamRqPerTryTimeoutMs);
    let per_try = per_try.or(policy.and_then(|policy| policy.per_try_timeout)).filter(|t| !t.is_zero());
    let per_try = per_try.filter(|per_try| route.is_none_or(|route| *per_try < route));
    let per_try_idle = policy.and_then(|policy| policy.per_try_idle_timeout);
    RouteTimeout { route, expected: per_try.or(route), per_try, per_try_idle }
}

/// The longest life of a stream. `manager`: the connection manager's, used when the route has none.
pub(super) fn stream_duration(
    forward: Option<&Forward>,
    manager: Option<Duration>,
    headers: &HeaderList,
) -> Option<Duration> {
    let grpc = headers.get_id(HeaderId::GrpcTimeout).and_then(grpc_timeout);
    let by_grpc = forward.and_then(|forward| Some((forward, forward.grpc_timeout_header_max?, grpc?)));
    if let Some((forward, max, asked)) = by_grpc {
        let capped = if max.is_zero() { asked } else { asked.min(max) };
        return Some(capped.saturating_sub(forward.grpc_timeout_header_offset));
    }
    let duration = forward.and_then(|forward| forward.max_stream_duration).or(manager);
    duration.filter(|duration| !duration.is_zero())
}

/// Writes a grpc-timeout header (`PROTOCOL-HTTP2.md`).
pub(super) fn set_grpc_timeout(headers: &mut HeaderList, timeout: Duration) {
    let mut amount = timeout.as_millis() as u64;
    let mut unit = b'm';
    for (next, factor) in [(b'S', 1000), (b'M', 60), (b'H', 60)] {
        if amount <= MAX_GRPC_TIMEOUT {
            break;
        }
        amount /= factor;
        unit = next;
    }
    let mut digits = itoa::Buffer::new();
    let mut text = digits.format(amount.min(MAX_GRPC_TIMEOUT)).as_bytes().to_vec();
    text.push(unit);
    headers.set_id(HeaderId::GrpcTimeout, &text);
}

fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let amount = number(digits)?;
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

fn milliseconds(value: &[u8]) -> Option<Duration> {
    number(value).map(Duration::from_millis)
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_plane_core::config::ClusterChoice;

    fn forward() -> Forward {
        Forward {
            upgrades: Vec::new(),
            cluster: ClusterChoice::Named("up".into()),
            metadata_match: None,
            cluster_not_found_status: 503,
            path_rewrite: None,
            host_rewrite: None,
            append_x_forwarded_host: false,
            timeout: Some(Duration::from_secs(15)),
            idle_timeout: None,
            max_stream_duration: None,
            grpc_timeout_header_max: None,
            grpc_timeout_header_offset: Duration::ZERO,
            rate_limits: Vec::new(),
            include_vh_rate_limits: false,
            hash_policy: Vec::new(),
            high_priority: false,
            retry: None,
            body_limit: Default::default(),
            mirrors: Default::default(),
        }
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderList {
        let mut headers = HeaderList::default();
        pairs.iter().for_each(|(name, value)| headers.append(name.as_bytes(), value.as_bytes()));
        headers
    }

    const fn ms(ms: u64) -> Option<Duration> {
        Some(Duration::from_millis(ms))
    }

    #[test]
    fn the_routes_timeout_is_told_upstream() {
        let got = route_timeout(&forward(), &headers(&[]), false);
        assert_eq!(
            got,
            RouteTimeout { route: ms(15_000), expected: ms(15_000), per_try: None, per_try_idle: None }
        );
        let none = route_timeout(&Forward { timeout: None, ..forward() }, &headers(&[]), false);
        assert_eq!(none, RouteTimeout { route: None, expected: None, per_try: None, per_try_idle: None });
    }

    #[test]
    fn trusted_callers_change_the_timeout_by_header() {
        let timeout = |pairs: &[(&str, &str)]| route_timeout(&forward(), &headers(pairs), false);
        assert_eq!(timeout(&[("x-envoy-upstream-rq-timeout-ms", "300")]).route, ms(300));
        assert_eq!(timeout(&[("x-envoy-upstream-rq-timeout-ms", "0")]).route, None, "zero is none");
        assert_eq!(timeout(&[("x-envoy-upstream-rq-timeout-ms", "x")]).route, ms(15_000), "junk is ignored");
        let per_try = timeout(&[("x-envoy-upstream-rq-per-try-timeout-ms", "200")]);
        assert_eq!((per_try.route, per_try.expected, per_try.per_try), (ms(15_000), ms(200), ms(200)));
        let too_long = timeout(&[("x-envoy-upstream-rq-per-try-timeout-ms", "20000")]);
        assert_eq!((too_long.expected, too_long.per_try), (ms(15_000), None));
    }

    #[test]
    fn further_tries_are_told_what_is_left() {
        let timeout =
            RouteTimeout { route: ms(300), expected: ms(200), per_try: ms(200), per_try_idle: None };
        for (elapsed, expected) in [(0, 200), (50, 200), (150, 150), (300, 1), (900, 1)] {
            assert_eq!(timeout.expected_after(Duration::from_millis(elapsed)), ms(expected), "{elapsed}");
        }
    }

    #[test]
    fn an_expected_timeout_counts_only_where_it_is_respected() {
        let sent = headers(&[("x-envoy-expected-rq-timeout-ms", "77")]);
        assert_eq!(route_timeout(&forward(), &sent, false).route, ms(15_000));
        assert_eq!(route_timeout(&forward(), &sent, true).route, ms(77));
    }

    #[test]
    fn a_streams_life_is_bounded_by_route_then_manager() {
        let none = headers(&[]);
        let manager = ms(9_000);
        assert_eq!(stream_duration(Some(&forward()), manager, &none), manager);
        let bounded = Forward { max_stream_duration: ms(500), ..forward() };
        assert_eq!(stream_duration(Some(&bounded), manager, &none), ms(500));
        let unbounded = Forward { max_stream_duration: ms(0), ..forward() };
        assert_eq!(stream_duration(Some(&unbounded), manager, &none), None, "zero lifts the manager's bound");
        assert_eq!(stream_duration(None, manager, &none), manager);
    }

    #[test]
    fn a_grpc_timeout_is_capped_and_shortened() {
        let bounded = |max| Forward {
            grpc_timeout_header_max: ms(max),
            grpc_timeout_header_offset: Duration::from_millis(100),
            ..forward()
        };
        let asked = headers(&[("grpc-timeout", "5S")]);
        assert_eq!(stream_duration(Some(&bounded(2_000)), None, &asked), ms(1_900));
        assert_eq!(stream_duration(Some(&bounded(0)), None, &asked), ms(4_900), "zero is no cap");
        assert_eq!(stream_duration(Some(&forward()), None, &asked), None, "not looked at unless configured");
        assert_eq!(stream_duration(Some(&bounded(0)), None, &headers(&[("grpc-timeout", "5x")])), None);
    }

    #[test]
    fn grpc_timeouts_are_written_with_at_most_eight_digits() {
        let written = |timeout| {
            let mut list = headers(&[("grpc-timeout", "1S")]);
            set_grpc_timeout(&mut list, timeout);
            String::from_utf8(list.get(b"grpc-timeout").unwrap().to_vec()).unwrap()
        };
        assert_eq!(written(Duration::from_millis(1_900)), "1900m");
        assert_eq!(written(Duration::from_secs(1_000_000)), "1000000S");
    }
}
