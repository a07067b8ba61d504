use super::*;
use crate::config::RateLimit;
use crate::headers::format::Missing;
use crate::headers::{HeaderList, MetadataKey, PathSegment, Scheme, Version};
use crate::matcher::{HeaderMatcher, HeaderRule, QueryMatcher};
use std::time::SystemTime;

struct World {
    head: RequestHead,
    client: IpAddr,
    metadata: Metadata,
    route_metadata: Metadata,
}

impl World {
    fn new() -> Self {
        let mut headers = HeaderList::default();
        for (name, value) in [("x-user", "ann"), ("x-user", "bob"), ("x-empty", "")] {
            headers.append(name.as_bytes(), value.as_bytes());
        }
        let head = RequestHead {
            method: "GET".into(),
            path: "/p?k=v%20w&k=2&flag".into(),
            authority: "shop.com".into(),
            scheme: Scheme::Http,
            version: Version::Http11,
            headers,
        };
        let fields = |value: serde_json::Value| match value {
            serde_json::Value::Object(fields) => fields,
            _ => unreachable!(),
        };
        let mut metadata = Metadata::default();
        metadata.merge(
            "jwt",
            fields(serde_json::json!({
                "sub": "me", "n": 7, "empty": "",
                "limit": {"requests_per_unit": 42, "unit": "HOUR"}, "bad": {"requests_per_unit": "x"},
            })),
        );
        let mut route_metadata = Metadata::default();
        route_metadata.merge("route", fields(serde_json::json!({"tier": "gold"})));
        Self { head, client: "10.1.2.3".parse().unwrap(), metadata, route_metadata }
    }

    fn describe(&self, limit: &RateLimit) -> Option<String> {
        let record = Record {
            request: Some(&self.head),
            metadata: Some(&self.metadata),
            ..Record::new(SystemTime::UNIX_EPOCH)
        };
        let cx = Context {
            head: &self.head,
            record: &record,
            client: self.client,
            service_cluster: "fleet",
            cluster: "up",
            metadata: &self.metadata,
            route_metadata: &self.route_metadata,
        };
        let descriptor = describe(limit, &cx)?;
        let mut text: Vec<_> = descriptor.entries.iter().map(|e| format!("{}={}", e.key, e.value)).collect();
        text.extend(descriptor.limit.map(|(requests, unit)| format!("limit {requests}/{unit}")));
        text.extend(descriptor.hits.map(|hits| format!("hits {hits}")));
        Some(text.join(" "))
    }

    fn entries(&self, actions: Vec<RateLimitAction>) -> Option<String> {
        self.describe(&limit(actions))
    }
}

fn limit(actions: Vec<RateLimitAction>) -> RateLimit {
    RateLimit { stage: 0, disable_key: "".into(), actions, limit: None, hits: None, x_ratelimit: None }
}

fn value(name: &str, skip_if_absent: bool) -> ValueAction {
    ValueAction { name: name.into(), key: "k".into(), skip_if_absent }
}

fn key(namespace: &str, path: &str) -> MetadataKey {
    MetadataKey { namespace: namespace.into(), path: [PathSegment::Key(path.into())].into() }
}

fn generic() -> RateLimitAction {
    RateLimitAction::Generic { key: "generic_key".into(), value: "all".into() }
}

#[test]
fn each_action_adds_what_envoy_adds() {
    let world = World::new();
    let header = |name, skip| RateLimitAction::Header(value(name, skip));
    let query = |name, skip| RateLimitAction::QueryParameter(value(name, skip));
    let metadata = |at, default: &str, of_route, skip_if_absent| {
        let (key, default) = ("k".into(), default.into());
        RateLimitAction::Metadata(MetadataAction { key, at, default, of_route, skip_if_absent })
    };
    let by_header = |expected| {
        let matcher = HeaderMatcher {
            name: "x-user".into(),
            rule: HeaderRule::Present(true),
            invert: false,
            treat_missing_as_empty: false,
        };
        let (key, value) = ("header_match".into(), "v".into());
        RateLimitAction::HeaderMatch(MatchAction { key, value, expected, matchers: vec![matcher] })
    };
    let by_query = |name: &str| {
        let matchers = vec![QueryMatcher { name: name.into(), value: None }];
        let (key, value) = ("query_match".into(), "v".into());
        RateLimitAction::QueryMatch(MatchAction { key, value, expected: true, matchers })
    };
    let by_address = |range: &str, invert, format: &str, default: &str| {
        let value = Format::compile(format, Missing::Empty).unwrap();
        let ranges = vec![range.parse().unwrap()];
        let (key, default) = ("remote_address_match".into(), default.into());
        RateLimitAction::RemoteAddressMatch { key, value, default, ranges, invert }
    };
    for (action, expected) in [
        (RateLimitAction::SourceCluster, Some("source_cluster=fleet")),
        (RateLimitAction::DestinationCluster, Some("destination_cluster=up")),
        (header("x-user", false), Some("k=ann")),
        (header(":path", false), Some("k=/p?k=v%20w&k=2&flag")),
        (header("x-none", false), None),
        (header("x-none", true), Some("")),
        (query("k", false), Some("k=v w")),
        (query("none", false), None),
        (query("none", true), Some("")),
        (RateLimitAction::RemoteAddress, Some("remote_address=10.1.2.3")),
        (RateLimitAction::MaskedRemoteAddress { v4: 16, v6: 64 }, Some("masked_remote_address=10.1.0.0/16")),
        (generic(), Some("generic_key=all")),
        (by_header(true), Some("header_match=v")),
        (by_header(false), None),
        (by_query("flag"), Some("query_match=v")),
        (by_query("none"), None),
        (metadata(key("jwt", "sub"), "", false, false), Some("k=me")),
        (metadata(key("jwt", "n"), "", false, false), None),
        (metadata(key("jwt", "empty"), "d", false, false), Some("k=d")),
        (metadata(key("jwt", "none"), "", false, true), Some("")),
        (metadata(key("route", "tier"), "", true, false), Some("k=gold")),
        (metadata(key("route", "tier"), "", false, false), None),
        (
            by_address("10.0.0.0/8", false, "%REQ(x-user)%-%REQ(:method)%", ""),
            Some("remote_address_match=ann-GET"),
        ),
        (by_address("10.0.0.0/8", true, "x", ""), None),
        (by_address("11.0.0.0/8", true, "x", ""), Some("remote_address_match=x")),
        (by_address("10.0.0.0/8", false, "%REQ(x-none)%", "d"), Some("remote_address_match=d")),
        (by_address("10.0.0.0/8", false, "%REQ(x-none)%", ""), None),
    ] {
        assert_eq!(world.entries(vec![action.clone()]).as_deref(), expected, "{action:?}");
    }
}

#[test]
fn an_action_without_an_entry_undoes_the_descriptor() {
    let world = World::new();
    let absent = |skip| RateLimitAction::Header(value("x-none", skip));
    assert_eq!(world.entries(vec![generic(), absent(false), generic()]), None);
    let skipped = world.entries(vec![generic(), absent(true), RateLimitAction::RemoteAddress]);
    assert_eq!(skipped.as_deref(), Some("generic_key=all remote_address=10.1.2.3"));
}

#[test]
fn masks_are_of_the_clients_family() {
    let world = World { client: "2001:db8:1:2:3::4".parse().unwrap(), ..World::new() };
    let masked = RateLimitAction::MaskedRemoteAddress { v4: 16, v6: 64 };
    assert_eq!(world.entries(vec![masked]).as_deref(), Some("masked_remote_address=2001:db8:1:2::/64"));
}

#[test]
fn limits_and_hits_come_along() {
    let world = World::new();
    for (key_name, expected) in
        [("limit", "generic_key=all limit 42/3"), ("bad", "generic_key=all"), ("none", "generic_key=all")]
    {
        let limit = RateLimit {
            limit: Some(LimitOverride::Metadata(key("jwt", key_name))),
            ..limit(vec![generic()])
        };
        assert_eq!(world.describe(&limit).as_deref(), Some(expected), "{key_name}");
    }
    let format = |text| HitsNumber::Format(Format::compile(text, Missing::Empty).unwrap());
    for (number, expected) in [
        (HitsNumber::Fixed(3), Some("generic_key=all hits 3")),
        (format("%DYNAMIC_METADATA(jwt:n)%"), Some("generic_key=all hits 7")),
        (format("%REQ(x-user)%"), None),
        (format("%REQ(x-none)%"), None),
    ] {
        let hits = Some(Hits { number, negative: false });
        let limit = RateLimit { hits, limit: None, ..limit(vec![generic()]) };
        assert_eq!(world.describe(&limit).as_deref(), expected, "{limit:?}");
    }
}
