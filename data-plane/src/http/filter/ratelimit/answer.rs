//! What the service's answer adds to the client's.

use bytes::Bytes;
use std::fmt::Write;
use xds_types::envoy::config::core::v3::HeaderValue;
use xds_types::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use xds_types::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus};

/// Headers of the answer, in order.
#[derive(Debug, Default)]
pub(super) struct Headers(Vec<(Bytes, Bytes)>);

impl Headers {
    pub(super) fn take(&mut self) -> Vec<(Bytes, Bytes)> {
        std::mem::take(&mut self.0)
    }

    pub(super) fn add(&mut self, name: &'static str, value: impl Into<Bytes>) {
        self.0.push((Bytes::from_static(name.as_bytes()), value.into()));
    }

    pub(super) fn add_all(&mut self, headers: Vec<HeaderValue>) {
        self.0.extend(pairs(headers));
    }

    /// `x-ratelimit-*` of draft 03: the limit closest to being reached, and all limits as policy.
    pub(super) fn add_limits(&mut self, statuses: &[DescriptorStatus]) {
        let limited = || statuses.iter().filter_map(|status| Some((status, status.current_limit.as_ref()?)));
        let Some((closest, limit)) = limited().min_by_key(|(status, _)| status.limit_remaining) else {
            return;
        };
        let mut policy = limit.requests_per_unit.to_string();
        for (_, limit) in limited() {
            let Some(window) = Unit::try_from(limit.unit).ok().and_then(seconds) else { continue };
            let _ = write!(policy, ", {};w={window}", limit.requests_per_unit);
            if !limit.name.is_empty() {
                let _ = write!(policy, ";name=\"{}\"", limit.name);
            }
        }
        let reset = closest.duration_until_reset.as_ref().map_or(0, |duration| duration.seconds);
        self.add("x-ratelimit-limit", policy);
        self.add("x-ratelimit-remaining", closest.limit_remaining.to_string());
        self.add("x-ratelimit-reset", reset.to_string());
    }

    /// `retry-after`: the longest wait of the limits that were passed; the service's own header wins.
    pub(super) fn add_retry_after(&mut self, statuses: &[DescriptorStatus]) {
        if self.0.iter().any(|(name, _)| **name == *b"retry-after") {
            return;
        }
        let over = statuses.iter().filter(|status| status.code == i32::from(Code::OverLimit));
        let seconds = over.map(|status| status.duration_until_reset.as_ref().map_or(0, |wait| wait.seconds));
        if let Some(wait) = seconds.max() {
            self.add("retry-after", wait.max(1).to_string());
        }
    }
}

/// Names and values of headers that can be sent as they are.
pub(super) fn pairs(headers: Vec<HeaderValue>) -> impl Iterator<Item = (Bytes, Bytes)> {
    headers.into_iter().filter_map(|HeaderValue { key, value, raw_value }| {
        let value = if value.is_empty() { raw_value } else { value.into_bytes() };
        let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        let plain = !key.is_empty()
            && key.as_bytes().iter().all(legal)
            && !value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
        plain.then(|| (Bytes::from(key.to_ascii_lowercase()), Bytes::from(value)))
    })
}

fn seconds(unit: Unit) -> Option<u32> {
    const DAY: u32 = 24 * 60 * 60;
    match unit {
        Unit::Unknown => None,
        Unit::Second => Some(1),
        Unit::Minute => Some(60),
        Unit::Hour => Some(60 * 60),
        Unit::Day => Some(DAY),
        Unit::Week => Some(7 * DAY),
        Unit::Month => Some(30 * DAY),
        Unit::Year => Some(365 * DAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xds_types::envoy::service::ratelimit::v3::rate_limit_response::RateLimit;
    use xds_types::google::protobuf::Duration;

    fn status(limit: Option<(u32, Unit, &str)>, remaining: u32, reset: i64, code: Code) -> DescriptorStatus {
        DescriptorStatus {
            code: code.into(),
            current_limit: limit.map(|(requests_per_unit, unit, name)| RateLimit {
                name: name.into(),
                requests_per_unit,
                unit: unit.into(),
            }),
            limit_remaining: remaining,
            duration_until_reset: Some(Duration { seconds: reset, nanos: 0 }),
            quota: None,
        }
    }

    fn text(headers: &mut Headers) -> Vec<String> {
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        headers.take().into_iter().map(|(name, value)| format!("{}: {}", text(name), text(value))).collect()
    }

    #[test]
    fn the_limit_closest_to_its_end_is_told_and_all_are_policy() {
        let mut headers = Headers::default();
        headers.add_limits(&[
            status(Some((10, Unit::Second, "per-ip")), 4, 1, Code::Ok),
            status(None, 0, 9, Code::Ok),
            status(Some((1000, Unit::Hour, "")), 2, 1800, Code::Ok),
            status(Some((7, Unit::Unknown, "")), 5, 1, Code::Ok),
        ]);
        assert_eq!(
            text(&mut headers),
            [
                "x-ratelimit-limit: 1000, 10;w=1;name=\"per-ip\", 1000;w=3600",
                "x-ratelimit-remaining: 2",
                "x-ratelimit-reset: 1800"
            ]
        );
        headers.add_limits(&[status(None, 1, 1, Code::Ok)]);
        assert!(text(&mut headers).is_empty());
    }

    #[test]
    fn clients_wait_for_the_longest_limit_passed() {
        let passed = [status(None, 0, 5, Code::OverLimit), status(None, 0, 9, Code::Ok)];
        let mut headers = Headers::default();
        headers.add_retry_after(&passed);
        assert_eq!(text(&mut headers), ["retry-after: 5"]);
        headers.add_retry_after(&[status(None, 0, 0, Code::OverLimit)]);
        headers.add_retry_after(&[status(None, 0, 7, Code::OverLimit)]);
        assert_eq!(text(&mut headers), ["retry-after: 1"], "one that is there stays");
        headers.add_retry_after(&[status(None, 0, 9, Code::Ok)]);
        assert!(text(&mut headers).is_empty());
    }

    #[test]
    fn headers_that_would_break_the_message_are_left_out() {
        let header = |key: &str, value: &str| HeaderValue {
            key: key.into(),
            value: value.into(),
            raw_value: Vec::new(),
        };
        let given =
            vec![header("X-A", "1"), header("x b", "1"), header("x-c", "1\r\nx-d: 2"), header("", "1")];
        assert_eq!(pairs(given).collect::<Vec<_>>(), [(Bytes::from("x-a"), Bytes::from("1"))]);
    }
}
