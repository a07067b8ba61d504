//! The limits in force: domains of nested descriptors, and which of them a request's descriptor meets.
//!
//! Pure. Built from the `RateLimitDomain`s of policies whenever one changes, then shared by all requests.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use xds_types::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use xds_types::portolan::config::v1::{
    DescriptorLimit, RateLimitAlgorithm, RateLimitDescriptor, RateLimitDomain, RateLimitUnit, Replaced,
};

use super::algorithm::{Algorithm, Rate};
use super::stats::{Detailed, RuleStats};
use crate::model::check::OWN_DOMAIN;

/// Most hits of a limit from which it is near, as a share of it (envoyproxy/ratelimit: `NEAR_LIMIT_RATIO`).
pub const NEAR: f64 = 0.8;

/// Every domain.
#[derive(Debug, Default)]
pub struct Limits {
    domains: HashMap<Box<str>, Domain>,
}

#[derive(Debug)]
struct Domain {
    below: Level,
    /// Of limits that requests bring along.
    overrides: RuleStats,
}

/// The descriptors below another.
#[derive(Debug, Default)]
struct Level {
    by_key: HashMap<Box<str>, Values>,
}

#[derive(Debug, Default)]
struct Values {
    exact: HashMap<Box<str>, Node>,
    /// By what stands before the `*`, the longest first.
    prefixes: Vec<(Box<str>, Node)>,
    any: Option<Box<Node>>,
}

#[derive(Debug)]
struct Node {
    rule: Option<Arc<Rule>>,
    /// All values that it takes in are counted together.
    share: Option<Box<str>>,
    below: Level,
}

/// One limit.
#[derive(Debug)]
pub struct Rule {
    /// As its configuration says where it is: `key_value.key`.
    pub path: Box<str>,
    /// For `replaces`, and for clients. May be empty.
    pub name: Box<str>,
    /// Hits in a time; `None`: unlimited.
    pub rate: Option<Rate>,
    /// Unit that the limit was given in, as protos number it.
    pub unit: i32,
    /// Counted, and never refused.
    pub shadow: bool,
    /// Names of limits that do not count beside this one.
    pub replaces: Vec<Box<str>>,
    /// What is counted of it.
    pub stats: RuleStats,
    /// Metrics for each value, when they are asked for.
    pub detailed: Option<Detailed>,
}

/// The limit that a descriptor meets.
#[derive(Clone, Debug)]
pub struct Met {
    /// The limit.
    pub rule: Arc<Rule>,
    /// What its hits are counted under.
    pub key: String,
}

impl Limits {
    /// The limits of these domains. Of two with one name the first counts.
    pub fn new<'a>(domains: impl IntoIterator<Item = &'a RateLimitDomain>) -> Self {
        let mut all = HashMap::new();
        for domain in domains {
            let name: Box<str> = domain.domain.as_str().into();
            all.entry(name).or_insert_with(|| Domain {
                below: level(&domain.domain, "", &domain.descriptors),
                overrides: RuleStats::new(&domain.domain, "override"),
            });
        }
        Self { domains: all }
    }

    /// Names of the domains, in order.
    pub fn domains(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.domains.keys().map(|name| &**name).collect();
        names.sort_unstable();
        names
    }

    /// The limit that these entries meet: all of them must be met, one level each, each by the most specific
    /// descriptor of its level.
    pub fn meet(&self, domain: &str, entries: &[Entry]) -> Option<Met> {
        let mut level = &self.domains.get(domain)?.below;
        let mut key = String::with_capacity(64);
        write_part(&mut key, domain);
        let last = entries.len().checked_sub(1)?;
        for (i, entry) in entries.iter().enumerate() {
            let node = level.by_key.get(&*entry.key)?.get(&entry.value)?;
            key.push('|');
            write_part(&mut key, &entry.key);
            key.push('=');
            write_part(&mut key, node.share.as_deref().unwrap_or(&entry.value));
            if i == last {
                return node.rule.as_ref().map(|rule| Met { rule: rule.clone(), key });
            }
            level = &node.below;
        }
        None
    }

    /// A limit that the request brings along, in place of what is configured.
    pub fn brought(&self, domain: &str, entries: &[Entry], hits: u32, unit: RateLimitUnit) -> Option<Met> {
        let found = self.domains.get(domain)?;
        let mut key = String::with_capacity(64);
        write_part(&mut key, domain);
        for entry in entries {
            key.push('|');
            write_part(&mut key, &entry.key);
            key.push('=');
            write_part(&mut key, &entry.value);
        }
        let rate = Rate { hits, window: window(unit)?, algorithm: Algorithm::FixedWindow };
        let rule = Rule {
            path: "override".into(),
            name: "".into(),
            rate: Some(rate),
            unit: unit.into(),
            shadow: false,
            replaces: Vec::new(),
            stats: found.overrides.clone(),
            detailed: None,
        };
        Some(Met { rule: Arc::new(rule), key })
    }
}

impl Values {
    fn get(&self, value: &str) -> Option<&Node> {
        let prefix = || self.prefixes.iter().find(|(prefix, _)| value.starts_with(&**prefix)).map(|(_, n)| n);
        self.exact.get(value).or_else(prefix).or(self.any.as_deref())
    }
}

/// A text in which none of the separators stands.
fn write_part(key: &mut String, text: &str) {
    if text.bytes().any(|b| matches!(b, b'|' | b'=' | b'\\')) {
        for c in text.chars() {
            if matches!(c, '|' | '=' | '\\') {
                key.push('\\');
            }
            key.push(c);
        }
    } else {
        key.push_str(text);
    }
}

/// Length of a unit; `None` when none is said.
pub fn window(unit: RateLimitUnit) -> Option<Duration> {
    const DAY: u64 = 24 * 3600;
    let seconds = match unit {
        RateLimitUnit::Unknown => return None,
        RateLimitUnit::Second => 1,
        RateLimitUnit::Minute => 60,
        RateLimitUnit::Hour => 3600,
        RateLimitUnit::Day => DAY,
        RateLimitUnit::Week => 7 * DAY,
        RateLimitUnit::Month => 30 * DAY,
        RateLimitUnit::Year => 365 * DAY,
    };
    Some(Duration::from_secs(seconds))
}

fn level(domain: &str, above: &str, descriptors: &[RateLimitDescriptor]) -> Level {
    let mut by_key: BTreeMap<&str, Values> = BTreeMap::new();
    for one in descriptors {
        let RateLimitDescriptor {
            key,
            value,
            rate_limit,
            shadow_mode,
            detailed_metric,
            descriptors,
            share_threshold,
        } = one;
        let mut path = above.to_owned();
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
        if !value.is_empty() {
            let _ = write!(path, "_{value}");
        }
        let rule =
            rate_limit.as_ref().and_then(|limit| rule(domain, &path, limit, *shadow_mode, *detailed_metric));
        let node = Node {
            rule: rule.map(Arc::new),
            share: share_threshold.then(|| shared_as(domain, value).into()),
            below: level(domain, &path, descriptors),
        };
        let values = by_key.entry(key).or_default();
        match value.strip_suffix('*') {
            Some(prefix) => values.prefixes.push((prefix.into(), node)),
            None if value.is_empty() => values.any = Some(Box::new(node)),
            None => drop(values.exact.insert(value.as_str().into(), node)),
        }
    }
    for values in by_key.values_mut() {
        values.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
    }
    Level { by_key: by_key.into_iter().map(|(key, values)| (key.into(), values)).collect() }
}

/// What shared values are counted as. In our own domain a service's subsets, `NAME/*`, count as the service itself.
fn shared_as<'a>(domain: &str, value: &'a str) -> &'a str {
    match value.strip_suffix("/*") {
        Some(service) if domain == OWN_DOMAIN => service,
        _ => value,
    }
}

fn rule(domain: &str, path: &str, limit: &DescriptorLimit, shadow: bool, detailed: bool) -> Option<Rule> {
    let DescriptorLimit { unit, requests_per_unit, unlimited, name, replaces, algorithm, burst } = limit;
    let algorithm = match RateLimitAlgorithm::try_from(*algorithm).unwrap_or_default() {
        RateLimitAlgorithm::Default | RateLimitAlgorithm::FixedWindow => Algorithm::FixedWindow,
        RateLimitAlgorithm::SlidingWindow => Algorithm::SlidingWindow,
        RateLimitAlgorithm::TokenBucket => {
            let burst = if *burst > 0 { *burst } else { *requests_per_unit };
            Algorithm::TokenBucket { burst: burst.max(1) }
        }
    };
    let rate = match unlimited {
        true => None,
        false => {
            let window = window(RateLimitUnit::try_from(*unit).ok()?)?;
            Some(Rate { hits: *requests_per_unit, window, algorithm })
        }
    };
    Some(Rule {
        path: path.into(),
        name: name.as_str().into(),
        rate,
        unit: *unit,
        shadow,
        replaces: replaces.iter().map(|Replaced { name }| name.as_str().into()).collect(),
        stats: RuleStats::new(domain, path),
        detailed: detailed.then(|| Detailed::new(domain, path)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use xds_types::text::{self, Source};

    const EXAMPLE: &str = "
domain: edge
descriptors:
  - key: database
    value: users
    rate_limit: {unit: second, requests_per_unit: 500}
  - key: database
    rate_limit: {unit: second, requests_per_unit: 100}
  - key: path
    value: /api/*
    rate_limit: {unit: minute, requests_per_unit: 7}
  - key: path
    value: /api/slow/*
    share_threshold: true
    rate_limit: {unit: minute, requests_per_unit: 2}
  - key: tenant
    descriptors:
      - key: user
        rate_limit: {unit: hour, requests_per_unit: 9, name: user, replaces: [{name: all}]}
        shadow_mode: true
      - key: user
        value: root
        rate_limit: {unlimited: true}
";

    fn limits() -> Limits {
        Limits::new([&text::parse::<RateLimitDomain>(Source { name: "", text: EXAMPLE }).unwrap().message])
    }

    fn entries(pairs: &[(&str, &str)]) -> Vec<Entry> {
        pairs.iter().map(|(k, v)| Entry { key: (*k).into(), value: (*v).into() }).collect()
    }

    fn met(pairs: &[(&str, &str)]) -> Option<(String, Option<u32>, String)> {
        let met = limits().meet("edge", &entries(pairs))?;
        Some((met.rule.path.to_string(), met.rule.rate.map(|r| r.hits), met.key))
    }

    #[test]
    fn the_most_specific_descriptor_counts() {
        for (pairs, path, hits) in [
            (&[("database", "users")][..], "database_users", Some(500)),
            (&[("database", "carts")], "database", Some(100)),
            (&[("path", "/api/fast")], "path_/api/*", Some(7)),
            (&[("path", "/api/slow/x")], "path_/api/slow/*", Some(2)),
            (&[("tenant", "a"), ("user", "joe")], "tenant.user", Some(9)),
            (&[("tenant", "a"), ("user", "root")], "tenant.user_root", None),
        ] {
            let (found, rate, _) = met(pairs).unwrap_or_else(|| panic!("{pairs:?} must meet {path}"));
            assert_eq!((found.as_str(), rate), (path, hits));
        }
    }

    #[test]
    fn entries_must_be_met_in_full() {
        for pairs in [
            &[][..],
            &[("tenant", "a")],
            &[("user", "joe")],
            &[("path", "/other")],
            &[("database", "users"), ("more", "x")],
        ] {
            assert!(met(pairs).is_none(), "{pairs:?}");
        }
        assert!(limits().meet("other", &entries(&[("database", "users")])).is_none());
    }

    #[test]
    fn each_value_has_a_key_of_its_own_unless_it_is_shared() {
        let key = |pairs: &[(&str, &str)]| met(pairs).unwrap().2;
        assert_ne!(key(&[("database", "a")]), key(&[("database", "b")]));
        assert_ne!(key(&[("path", "/api/a")]), key(&[("path", "/api/b")]));
        assert_eq!(key(&[("path", "/api/slow/a")]), key(&[("path", "/api/slow/b")]));
        assert_ne!(key(&[("tenant", "a"), ("user", "b")]), key(&[("tenant", "a|user=b"), ("user", "b")]));
    }

    #[test]
    fn in_our_own_domain_subsets_count_as_their_service() {
        let text = "
domain: portolan
descriptors:
- key: policy
  value: calm/0
  descriptors:
  - {key: destination_cluster, value: cart, rate_limit: {unit: hour, requests_per_unit: 1}}
  - {key: destination_cluster, value: cart/*, share_threshold: true, rate_limit: {unit: hour, requests_per_unit: 1}}
";
        let domain = text::parse::<RateLimitDomain>(Source { name: "", text }).unwrap().message;
        let limits = Limits::new([&domain]);
        let key = |cluster: &str| {
            let pairs = [("policy", "calm/0"), ("destination_cluster", cluster)];
            limits.meet("portolan", &entries(&pairs)).map(|m| m.key)
        };
        assert!(key("cart").is_some());
        assert_eq!(key("cart"), key("cart/v2"));
        assert_eq!((key("other"), key("cart2")), (None, None));
    }

    #[test]
    fn a_request_may_bring_its_limit_along() {
        let met = limits().brought("edge", &entries(&[("new", "x")]), 3, RateLimitUnit::Hour).unwrap();
        assert_eq!(met.rule.rate.map(|r| (r.hits, r.window)), Some((3, Duration::from_secs(3600))));
        assert!(limits().brought("other", &entries(&[("new", "x")]), 3, RateLimitUnit::Hour).is_none());
    }
}
