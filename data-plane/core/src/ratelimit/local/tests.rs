use super::*;
use crate::config::{LocalDescriptor, VirtualHostLimits};
use crate::guard::Fill;
use std::borrow::Cow;

fn fill(max: u32, per_fill: u32) -> Fill {
    Fill { max, per_fill, interval: Duration::from_secs(3600) }
}

/// Entries, how it fills, whether it is a shadow.
type Row<'a> = (&'a [(&'a str, &'a str)], Fill, bool);

fn config(bucket: Option<Fill>, descriptors: &[Row<'_>]) -> LocalRateLimit {
    let entries = |list: &[(&str, &str)]| list.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    LocalRateLimit {
        stat_prefix: "p".into(),
        status: 429,
        bucket,
        enabled: None,
        enforced: None,
        request_edits: Default::default(),
        response_edits: Default::default(),
        descriptors: descriptors
            .iter()
            .map(|(list, fill, shadow)| LocalDescriptor {
                entries: entries(list),
                fill: *fill,
                shadow: *shadow,
            })
            .collect(),
        stage: 0,
        per_connection: false,
        x_ratelimit: false,
        virtual_host_limits: VirtualHostLimits::Override,
        always_consume_default: true,
        resource_exhausted: false,
        rate_limits: Vec::new(),
        max_dynamic_descriptors: 20,
        retry_after: false,
    }
}

fn limiter(config: &LocalRateLimit) -> LocalLimiter {
    LocalLimiter::new(config, Duration::ZERO, 1)
}

fn descriptor<'a>(entries: &[(&'a str, &'a str)]) -> Descriptor<'a> {
    let entry =
        |(key, value): &(&'a str, &'a str)| Entry { key: Cow::Borrowed(*key), value: Cow::Borrowed(*value) };
    Descriptor { entries: entries.iter().map(entry).collect(), ..Descriptor::default() }
}

/// How many of ten requests may go on.
fn allowed(limiter: &LocalLimiter, entries: &[&[(&str, &str)]]) -> usize {
    let descriptors: Vec<_> = entries.iter().map(|e| descriptor(e)).collect();
    (0..10).filter(|_| limiter.decide(&descriptors, Duration::ZERO).allowed).count()
}

#[test]
fn requests_without_a_descriptor_take_from_the_default() {
    let limiter = limiter(&config(Some(fill(3, 1)), &[]));
    assert_eq!(allowed(&limiter, &[]), 3);
    let decision = limiter.decide(&[], Duration::ZERO);
    assert!(!decision.allowed && decision.bucket.is_some_and(|bucket| bucket.max() == 3));
}

#[test]
fn without_a_default_nothing_else_is_limited() {
    let limiter = limiter(&config(None, &[(&[("a", "1")], fill(2, 1), false)]));
    assert_eq!(allowed(&limiter, &[]), 10);
    assert!(limiter.decide(&[], Duration::ZERO).bucket.is_none());
    assert_eq!(allowed(&limiter, &[&[("a", "1")]]), 2);
}

#[test]
fn descriptors_match_whole_and_in_order() {
    let limiter = limiter(&config(None, &[(&[("a", "1"), ("b", "2")], fill(1, 1), false)]));
    for other in [&[("a", "1")][..], &[("b", "2"), ("a", "1")], &[("a", "1"), ("b", "3")]] {
        assert_eq!(allowed(&limiter, &[other]), 10, "{other:?}");
    }
    assert_eq!(allowed(&limiter, &[&[("a", "1"), ("b", "2")]]), 1);
}

#[test]
fn the_default_is_taken_from_too_unless_told_otherwise() {
    let rules: &[Row<'_>] = &[(&[("a", "1")], fill(5, 1), false)];
    let always = config(Some(fill(3, 1)), rules);
    assert_eq!(allowed(&limiter(&always), &[&[("a", "1")]]), 3);
    let only_others = LocalRateLimit { always_consume_default: false, ..always };
    assert_eq!(allowed(&limiter(&only_others), &[&[("a", "1")]]), 5);
}

#[test]
fn the_slowest_bucket_is_asked_first_and_the_others_keep_their_tokens() {
    let slow = fill(1, 1);
    let fast = fill(4, 100);
    let limiter = limiter(&config(None, &[(&[("fast", "")], fast, false), (&[("slow", "1")], slow, false)]));
    let both: &[&[(&str, &str)]] = &[&[("fast", "x")], &[("slow", "1")]];
    assert_eq!(allowed(&limiter, both), 1);
    assert_eq!(allowed(&limiter, &[&[("fast", "x")]]), 3, "refused requests took nothing from it");
}

#[test]
fn open_values_have_buckets_of_their_own_and_fixed_ones_come_first() {
    let rules: &[Row<'_>] = &[(&[("ip", "")], fill(2, 1), false), (&[("ip", "10.0.0.1")], fill(5, 1), false)];
    let limiter = limiter(&config(None, rules));
    assert_eq!(allowed(&limiter, &[&[("ip", "10.0.0.2")]]), 2);
    assert_eq!(allowed(&limiter, &[&[("ip", "10.0.0.3")]]), 2);
    assert_eq!(allowed(&limiter, &[&[("ip", "10.0.0.1")]]), 5);
}

#[test]
fn hits_count_and_may_be_given_back() {
    let limiter = limiter(&config(None, &[(&[("a", "1")], fill(5, 1), false)]));
    let hits = |hits, negative| Descriptor { hits: Some(hits), negative, ..descriptor(&[("a", "1")]) };
    let allowed = |hits: &Descriptor<'_>| limiter.decide(std::slice::from_ref(hits), Duration::ZERO).allowed;
    assert!(allowed(&hits(4, false)) && !allowed(&hits(2, false)));
    assert!(allowed(&hits(3, true)));
    assert!(allowed(&hits(4, false)));
}

#[test]
fn a_shadow_says_that_it_would_limit_and_the_default_is_taken_from() {
    let shadow = fill(1, 1);
    let limiter = limiter(&config(Some(fill(3, 1)), &[(&[("a", "1")], shadow, true)]));
    let descriptors = [descriptor(&[("a", "1")])];
    let told: Vec<_> = (0..4)
        .map(|_| limiter.decide(&descriptors, Duration::ZERO))
        .map(|decision| (decision.allowed, decision.shadow))
        .collect();
    assert_eq!(told, [(true, false), (false, true), (false, true), (false, false)]);
}
