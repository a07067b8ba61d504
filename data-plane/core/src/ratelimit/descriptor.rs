//! What a request is told apart by: the descriptors that the rate limits of a route make of it.

use crate::config::{
    Hits, HitsNumber, LimitOverride, MatchAction, MetadataAction, RateLimit, RateLimitAction, ValueAction,
};
use crate::headers::format::Format;
use crate::headers::{Metadata, Record, RequestHead, parameters, percent_decoded};
use ipnet::IpNet;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::net::IpAddr;

/// Most hits a request may be.
const MAX_HITS: f64 = 1e9;

/// What is known of a request.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The request.
    pub head: &'a RequestHead,
    /// The stream; its request is `head`.
    pub record: &'a Record<'a>,
    /// The client as far as it can be trusted.
    pub client: IpAddr,
    /// The cluster this proxy says it is of.
    pub service_cluster: &'a str,
    /// The route's cluster.
    pub cluster: &'a str,
    /// What filters said of the stream.
    pub metadata: &'a Metadata,
    /// The route's own metadata.
    pub route_metadata: &'a Metadata,
}

/// One part of a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Key.
    pub key: Cow<'a, str>,
    /// Value.
    pub value: Cow<'a, str>,
}

impl<'a> Entry<'a> {
    fn new(key: &'a str, value: impl Into<Cow<'a, str>>) -> Self {
        Self { key: Cow::Borrowed(key), value: value.into() }
    }
}

/// What a request is told apart by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Descriptor<'a> {
    /// From general to specific.
    pub entries: SmallVec<[Entry<'a>; 2]>,
    /// A limit in place of the service's own: requests, and the unit's number (Envoy `RateLimitUnit`).
    pub limit: Option<(u32, i32)>,
    /// Hits in place of one.
    pub hits: Option<u64>,
    /// The hits are given back.
    pub negative: bool,
    /// X-RateLimit headers in place of what the filter says.
    pub x_ratelimit: Option<bool>,
}

/// Units of limits by name.
#[derive(Clone, Copy, Debug)]
pub struct LimitUnit;

impl LimitUnit {
    const NAMES: &'static [&'static str] = &["UNKNOWN", "SECOND", "MINUTE", "HOUR", "DAY", "MONTH", "YEAR"];

    /// The number of a unit's name (Envoy `RateLimitUnit`).
    pub fn number(name: &str) -> Option<i32> {
        Self::NAMES.iter().position(|known| *known == name).map(|at| at as i32)
    }
}

/// The descriptor a rate limit makes; `None` when an action has nothing to add.
pub fn describe<'a>(limit: &'a RateLimit, cx: &Context<'a>) -> Option<Descriptor<'a>> {
    let mut entries = SmallVec::new();
    for action in &limit.actions {
        entries.extend(entry(action, cx)?);
    }
    let (hits, negative) = match &limit.hits {
        None => (None, false),
        Some(Hits { number: HitsNumber::Fixed(number), negative }) => (Some(*number), *negative),
        Some(Hits { number: HitsNumber::Format(format), negative }) => {
            (Some(counted(format, cx)?), *negative)
        }
    };
    let limit_override = match &limit.limit {
        None => None,
        Some(LimitOverride::Fixed(requests, unit)) => Some((*requests, *unit)),
        Some(LimitOverride::Metadata(key)) => cx.metadata.get(key).and_then(stated_limit),
    };
    Some(Descriptor { entries, limit: limit_override, hits, negative, x_ratelimit: limit.x_ratelimit })
}

/// `None`: no descriptor. `Some(None)`: no entry, and the descriptor goes on without it.
fn entry<'a>(action: &'a RateLimitAction, cx: &Context<'a>) -> Option<Option<Entry<'a>>> {
    let found = |key, value| Some(Some(Entry::new(key, value)));
    match action {
        RateLimitAction::SourceCluster => found("source_cluster", Cow::Borrowed(cx.service_cluster)),
        RateLimitAction::DestinationCluster => found("destination_cluster", Cow::Borrowed(cx.cluster)),
        RateLimitAction::Header(action) => optional(action, header(cx.head, &action.name)),
        RateLimitAction::QueryParameter(action) => optional(action, parameter(cx.head, &action.name)),
        RateLimitAction::RemoteAddress => found("remote_address", cx.client.to_string().into()),
        RateLimitAction::MaskedRemoteAddress { v4, v6 } => {
            let length = if cx.client.is_ipv4() { *v4 } else { *v6 };
            let network = IpNet::new(cx.client, length).ok()?;
            found("masked_remote_address", network.trunc().to_string().into())
        }
        RateLimitAction::Generic { key, value } => found(key, Cow::Borrowed(&**value)),
        RateLimitAction::HeaderMatch(action) => matched(action, |matcher| matcher.matches(cx.head)),
        RateLimitAction::QueryMatch(action) => {
            matched(action, |matcher| matcher.matches_decoded(&cx.head.path))
        }
        RateLimitAction::Metadata(action) => metadata(action, cx),
        RateLimitAction::RemoteAddressMatch { key, value, default, ranges, invert } => {
            let inside = ranges.iter().any(|range| range.contains(&cx.client));
            if inside == *invert {
                return None;
            }
            let mut text = Vec::new();
            value.render(cx.record, &mut text);
            match (text.is_empty(), default.is_empty()) {
                (false, _) => found(key, String::from_utf8_lossy(&text).into_owned().into()),
                (true, false) => found(key, Cow::Borrowed(&**default)),
                (true, true) => None,
            }
        }
    }
}

fn optional<'a>(action: &'a ValueAction, value: Option<Cow<'a, str>>) -> Option<Option<Entry<'a>>> {
    match value {
        Some(value) => Some(Some(Entry::new(&action.key, value))),
        None => action.skip_if_absent.then_some(None),
    }
}

fn header<'a>(head: &'a RequestHead, name: &str) -> Option<Cow<'a, str>> {
    match head.pseudo(name.as_bytes()) {
        Some(value) => (!value.is_empty()).then_some(Cow::Borrowed(value)),
        // Envoy: the first value of a repeated header.
        None => head.headers.get(name.as_bytes()).map(String::from_utf8_lossy),
    }
}

fn parameter<'a>(head: &'a RequestHead, name: &str) -> Option<Cow<'a, str>> {
    let (_, value) = parameters(&head.path).find(|(key, _)| *percent_decoded(key) == *name.as_bytes())?;
    Some(match percent_decoded(value) {
        Cow::Borrowed(_) => Cow::Borrowed(value),
        Cow::Owned(bytes) => String::from_utf8_lossy(&bytes).into_owned().into(),
    })
}

fn matched<'a, M>(action: &'a MatchAction<M>, matches: impl Fn(&M) -> bool) -> Option<Option<Entry<'a>>> {
    let all = action.matchers.iter().all(matches);
    (all == action.expected).then(|| Some(Entry::new(&action.key, &*action.value)))
}

fn metadata<'a>(action: &'a MetadataAction, cx: &Context<'a>) -> Option<Option<Entry<'a>>> {
    let source = if action.of_route { cx.route_metadata } else { cx.metadata };
    let value = source.text(&action.at).filter(|text| !text.is_empty());
    match value.or((!action.default.is_empty()).then_some(&*action.default)) {
        Some(value) => Some(Some(Entry::new(&action.key, value))),
        None => action.skip_if_absent.then_some(None),
    }
}

/// A number of hits out of a format.
fn counted(format: &Format, cx: &Context<'_>) -> Option<u64> {
    let mut text = Vec::new();
    format.render(cx.record, &mut text);
    let number: f64 = std::str::from_utf8(&text).ok()?.trim().parse().ok()?;
    (0.0..=MAX_HITS).contains(&number).then_some(number as u64)
}

/// `{requests_per_unit: 42, unit: HOUR}`.
fn stated_limit(value: &serde_json::Value) -> Option<(u32, i32)> {
    let requests = value.get("requests_per_unit")?.as_f64()?;
    let unit = LimitUnit::number(value.get("unit")?.as_str()?)?;
    Some((requests as u32, unit))
}

#[cfg(test)]
mod tests;
