//! Whether, and when, a request is tried again (Envoy `RetryStateImpl`).

use super::Backoff;
use crate::headers::{HeaderId, HeaderList, RequestHead, ResponseHead};
use crate::matcher::HeaderMatcher;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Most status codes and header names taken from one request's headers; more are ignored.
const MAX_BY_HEADER: usize = 64;

/// By which an Envoy upstream says that it limits the rate.
const RATE_LIMITED: &[u8] = b"x-envoy-ratelimited";

/// What is worth another try: a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(u32);

macro_rules! conditions {
    ($all:ident: $($(#[$doc:meta])* $name:ident = $bit:expr, $text:expr;)+) => {
        impl RetryOn {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)+
        }

        /// Names as in `retry_on`.
        const $all: &[(&str, RetryOn)] = &[$(($text, RetryOn::$name)),+];
    };
}

conditions! { HTTP:
    /// Any 5xx, and no response at all.
    SERVER_ERROR = 0, "5xx";
    /// 502, 503, 504, and no response at all.
    GATEWAY_ERROR = 1, "gateway-error";
    /// The connection could not be made.
    CONNECT_FAILURE = 2, "connect-failure";
    /// 409.
    RETRIABLE_4XX = 3, "retriable-4xx";
    /// The stream was refused (HTTP/2 REFUSED_STREAM).
    REFUSED_STREAM = 4, "refused-stream";
    /// The policy's status codes.
    STATUS_CODES = 5, "retriable-status-codes";
    /// No response at all.
    RESET = 6, "reset";
    /// Responses that the policy's header matchers match.
    HEADERS = 7, "retriable-headers";
    /// The response says `x-envoy-ratelimited`.
    RATE_LIMITED = 8, "envoy-ratelimited";
    /// After HTTP/3 was left; there is none here.
    HTTP3_POST_CONNECT = 9, "http3-post-connect-failure";
    /// No response at all, and not a byte was sent.
    RESET_BEFORE_REQUEST = 10, "reset-before-request";
}

conditions! { GRPC:
    /// gRPC status 1.
    CANCELLED = 16, "cancelled";
    /// gRPC status 4.
    DEADLINE_EXCEEDED = 17, "deadline-exceeded";
    /// gRPC status 8.
    RESOURCE_EXHAUSTED = 18, "resource-exhausted";
    /// gRPC status 14.
    UNAVAILABLE = 19, "unavailable";
    /// gRPC status 13.
    INTERNAL = 20, "internal";
}

impl RetryOn {
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// The condition of that name in `retry_on`.
    pub fn named(name: &str) -> Option<Self> {
        HTTP.iter().chain(GRPC).find(|(known, _)| *known == name).map(|(_, on)| *on)
    }

    /// Whether nothing is worth another try.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn has(self, any: Self) -> bool {
        self.0 & any.0 != 0
    }

    /// Of a comma-separated list as headers hold it; unknown names are passed over, as in Envoy.
    fn of_header(value: &[u8], known: &[(&str, Self)]) -> Self {
        tokens(value).fold(Self::NONE, |all, token| {
            let found = known.iter().find(|(name, _)| name.as_bytes() == token);
            found.map_or(all, |(_, on)| all.with(*on))
        })
    }
}

/// A retry policy (Envoy `config.route.v3.RetryPolicy`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// What is worth another try; headers may add to it.
    pub on: RetryOn,
    /// Tries after the first. Default 1.
    pub retries: u32,
    /// From the end of the request, or the start of the try where that is later, to the head of its response.
    pub per_try_timeout: Option<Duration>,
    /// Longest silence of a try.
    pub per_try_idle_timeout: Option<Duration>,
    /// The first wait is below this. Default 25 ms.
    pub base_interval: Duration,
    /// No wait is as long. Default ten times the base.
    pub max_interval: Duration,
    /// Waits that upstreams ask for.
    pub rate_limited: Option<RateLimited>,
    /// For [`RetryOn::STATUS_CODES`].
    pub status_codes: Vec<u16>,
    /// For [`RetryOn::HEADERS`]: one must match the response.
    pub headers: Vec<HeaderMatcher>,
    /// When there are any, one must match the request for it to be retried at all.
    pub request_headers: Vec<HeaderMatcher>,
    /// Which hosts further tries avoid.
    pub avoid: Vec<Avoid>,
    /// How often another host is drawn when one to avoid was, beyond the first. Default 1.
    pub host_attempts: u32,
    /// Further tries avoid the priorities of hosts tried before, looked at anew after every so many tries
    /// (`previous_priorities.update_frequency`).
    pub previous_priorities: Option<u32>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            on: RetryOn::NONE,
            retries: 1,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            base_interval: Duration::from_millis(25),
            max_interval: Duration::from_millis(250),
            rate_limited: None,
            status_codes: Vec::new(),
            headers: Vec::new(),
            request_headers: Vec::new(),
            avoid: Vec::new(),
            host_attempts: 1,
            previous_priorities: None,
        }
    }
}

impl RetryPolicy {
    /// Whether further tries choose their hosts by what was tried, or by what hosts are.
    pub fn chooses_hosts(&self) -> bool {
        !self.avoid.is_empty() || self.previous_priorities.is_some()
    }
}

/// A host that a further try avoids (Envoy `retry_host_predicate`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Avoid {
    /// One tried before.
    Previous,
    /// One whose metadata `envoy.lb` say `canary: true`.
    Canary,
    /// One whose metadata `envoy.lb` hold all of these.
    Metadata(BTreeMap<String, Value>),
}

/// Waits that upstreams ask for (Envoy `rate_limited_retry_back_off`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimited {
    /// Asked in this order.
    pub headers: Vec<ResetHeader>,
    /// Longer ones are ignored. Default 300 s.
    pub max_interval: Duration,
}

/// A header that says when to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetHeader {
    /// Name, lowercase.
    pub name: Box<str>,
    /// Its value is a moment in seconds since 1970, not a number of seconds.
    pub is_timestamp: bool,
}

/// How a try ended without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// The connection could not be made, or not in time.
    Connect,
    /// The stream was refused unprocessed.
    Refused,
    /// A limit of ours.
    Overflow,
    /// In any other way, a timeout of the try included.
    Other,
}

/// How long to wait before the next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// At least this.
    pub time: Duration,
    /// The upstream asked for it.
    pub rate_limited: bool,
}

/// One request's retries.
#[derive(Clone, Debug)]
pub struct Retries {
    policy: Arc<RetryPolicy>,
    on: RetryOn,
    remaining: u32,
    codes: Vec<u16>,
    names: Vec<Box<[u8]>>,
    backoff: Backoff,
}

impl Retries {
    /// The retries of a request, by its route's policy and its own headers; `None`: there are none.
    ///
    /// The headers are read as they are: whoever may not steer the proxy must have lost them before.
    pub fn new(policy: Option<&Arc<RetryPolicy>>, head: &RequestHead) -> Option<Self> {
        let by_http = head.headers.get_id(HeaderId::XEnvoyRetryOn);
        let by_grpc = head.headers.get_id(HeaderId::XEnvoyRetryGrpcOn);
        let by_header = RetryOn::of_header(by_http.unwrap_or_default(), HTTP)
            .with(RetryOn::of_header(by_grpc.unwrap_or_default(), GRPC));
        let on = policy.map_or(RetryOn::NONE, |policy| policy.on).with(by_header);
        if on.is_empty() {
            return None;
        }
        let policy = policy.map_or_else(|| Arc::new(RetryPolicy::default()), Arc::clone);
        let wanted = &policy.request_headers;
        if !wanted.is_empty() && !wanted.iter().any(|matcher| matcher.matches(head)) {
            return None;
        }
        let asked = head.headers.get_id(HeaderId::XEnvoyMaxRetries).and_then(number);
        let codes = head.headers.get_id(HeaderId::XEnvoyRetriableStatusCodes).unwrap_or_default();
        let names = head.headers.get_id(HeaderId::XEnvoyRetriableHeaderNames).unwrap_or_default();
        Some(Self {
            on,
            remaining: asked.map_or(policy.retries, |asked| u32::try_from(asked).unwrap_or(u32::MAX)),
            codes: tokens(codes).filter_map(number).flat_map(u16::try_from).take(MAX_BY_HEADER).collect(),
            names: tokens(names).map(Box::from).take(MAX_BY_HEADER).collect(),
            backoff: Backoff::new(policy.base_interval, policy.max_interval),
            policy,
        })
    }

    /// The policy.
    pub fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    /// Whether a response is worth another try, without regard to how many there have been.
    pub fn wants_response(&self, head: &ResponseHead) -> bool {
        let on = self.on;
        // Only an Envoy upstream says so, and its word stands above all else.
        if head.headers.get(RATE_LIMITED).is_some() {
            return on.has(RetryOn::RATE_LIMITED);
        }
        let status = head.status;
        (on.has(RetryOn::SERVER_ERROR) && (500..600).contains(&status))
            || (on.has(RetryOn::GATEWAY_ERROR) && matches!(status, 502..=504))
            || (on.has(RetryOn::RETRIABLE_4XX) && status == 409)
            || (on.has(RetryOn::STATUS_CODES) && self.is_retriable_code(status))
            || (on.has(RetryOn::HEADERS) && self.has_retriable_header(head))
            || grpc_condition(&head.headers).is_some_and(|condition| on.has(condition))
    }

    /// Whether a try without a response is worth another. `started`: something of the request was sent in any
    /// try.
    pub fn wants_reset(&self, reset: Reset, started: bool) -> bool {
        let on = self.on;
        let any = RetryOn::RESET.with(RetryOn::SERVER_ERROR).with(RetryOn::GATEWAY_ERROR);
        reset != Reset::Overflow
            && (on.has(any)
                || (on.has(RetryOn::RESET_BEFORE_REQUEST) && !started)
                || (on.has(RetryOn::REFUSED_STREAM) && reset == Reset::Refused)
                || (on.has(RetryOn::CONNECT_FAILURE) && reset == Reset::Connect))
    }

    /// Takes one of the tries that are left; false when there is none.
    pub fn spend(&mut self) -> bool {
        let left = self.remaining > 0;
        self.remaining = self.remaining.saturating_sub(1);
        left
    }

    /// How long to wait before the next try. `response`: what the last one was answered with. `random`: fresh
    /// bits.
    pub fn wait(&mut self, response: Option<&ResponseHead>, now: SystemTime, random: u64) -> Wait {
        let asked = self.policy.rate_limited.as_ref().zip(response);
        if let Some(interval) = asked.and_then(|(limited, head)| limited.interval(head, now)) {
            // Between once and one and a half times of what was asked for.
            let jitter = (interval.as_nanos() / 2 * u128::from(random)) >> 64;
            let jitter = Duration::from_nanos(u64::try_from(jitter).unwrap_or(u64::MAX));
            return Wait { time: interval + jitter, rate_limited: true };
        }
        Wait { time: self.backoff.next(random), rate_limited: false }
    }

    fn is_retriable_code(&self, status: u16) -> bool {
        self.policy.status_codes.contains(&status) || self.codes.contains(&status)
    }

    fn has_retriable_header(&self, head: &ResponseHead) -> bool {
        self.policy.headers.iter().any(|matcher| matcher.matches_response(head))
            || self.names.iter().any(|name| head.headers.get(name).is_some())
    }
}

impl RateLimited {
    fn interval(&self, head: &ResponseHead, now: SystemTime) -> Option<Duration> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.headers.iter().find_map(|header| {
            let value = number(head.headers.get(header.name.as_bytes())?)?;
            let seconds = if header.is_timestamp { value.checked_sub(now)? } else { value };
            let interval = Duration::from_secs(seconds);
            (seconds > 0 && interval <= self.max_interval).then_some(interval)
        })
    }
}

fn grpc_condition(headers: &HeaderList) -> Option<RetryOn> {
    Some(match headers.get_id(HeaderId::GrpcStatus)? {
        b"1" => RetryOn::CANCELLED,
        b"4" => RetryOn::DEADLINE_EXCEEDED,
        b"8" => RetryOn::RESOURCE_EXHAUSTED,
        b"13" => RetryOn::INTERNAL,
        b"14" => RetryOn::UNAVAILABLE,
        _ => return None,
    })
}

/// Parts between commas, trimmed, without empty ones.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests;
