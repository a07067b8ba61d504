//! The service over memory: whole calls.

use super::*;
use xds_types::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::{Entry, RateLimitOverride};
use xds_types::google::protobuf::UInt64Value;
use xds_types::portolan::config::v1::RateLimitDomain;
use xds_types::text::{self, Source};

const DOMAIN: &str = "
domain: d
descriptors:
  - {key: two, rate_limit: {unit: hour, requests_per_unit: 2, name: two}}
  - {key: dark, shadow_mode: true, rate_limit: {unit: hour, requests_per_unit: 1}}
  - {key: free, rate_limit: {unlimited: true}}
  - {key: vip, rate_limit: {unit: hour, requests_per_unit: 9, name: vip, replaces: [{name: two}]}}
";

fn limiter(shadow: bool) -> Limiter {
    let limiter = Limiter::new(Backend::Memory(Memory::new(1000)), shadow);
    let domain = text::parse::<RateLimitDomain>(Source { name: "", text: DOMAIN }).unwrap().message;
    limiter.set(Limits::new([&domain]));
    limiter
}

fn descriptor(key: &str) -> RateLimitDescriptor {
    let entries = vec![Entry { key: key.to_owned(), value: "x".to_owned() }];
    RateLimitDescriptor { entries, ..RateLimitDescriptor::default() }
}

async fn ask(
    limiter: &Limiter,
    descriptors: Vec<RateLimitDescriptor>,
    hits_addend: u32,
) -> RateLimitResponse {
    let request = RateLimitRequest { domain: "d".to_owned(), descriptors, hits_addend };
    limiter.decide(&request).await.unwrap()
}

fn passes(answer: &RateLimitResponse) -> bool {
    answer.overall_code == i32::from(Code::Ok)
}

#[tokio::test]
async fn a_call_is_over_when_one_of_its_descriptors_is() {
    let l = limiter(false);
    for expected in [true, true, false] {
        let answer = ask(&l, vec![descriptor("free"), descriptor("two"), descriptor("unknown")], 0).await;
        assert_eq!(passes(&answer), expected);
        assert_eq!(answer.statuses.len(), 3);
    }
    let status = ask(&l, vec![descriptor("two")], 0).await.statuses[0].clone();
    assert_eq!((status.limit_remaining, status.current_limit.unwrap().requests_per_unit), (0, 2));
    let reset = status.duration_until_reset.unwrap().seconds;
    assert!((1..=3600).contains(&reset), "{reset}");
}

#[tokio::test]
async fn hits_may_be_many_or_none_or_given_back() {
    let l = limiter(false);
    assert!(!passes(&ask(&l, vec![descriptor("two")], 3).await), "more than the limit at once");
    assert!(passes(&ask(&l, vec![descriptor("two")], 2).await), "what was refused was not counted");
    assert!(!passes(&ask(&l, vec![descriptor("two")], 0).await), "none said is one");
    let look = RateLimitDescriptor { hits_addend: Some(UInt64Value { value: 0 }), ..descriptor("two") };
    assert!(passes(&ask(&l, vec![look], 5).await));
    let back = RateLimitDescriptor { is_negative_hits: true, ..descriptor("two") };
    assert!(passes(&ask(&l, vec![back], 0).await));
    assert!(passes(&ask(&l, vec![descriptor("two")], 0).await));
}

#[tokio::test]
async fn shadow_mode_refuses_nothing() {
    let l = limiter(false);
    for _ in 0..3 {
        assert!(passes(&ask(&l, vec![descriptor("dark")], 0).await));
    }
    let all = limiter(true);
    let answers = [ask(&all, vec![descriptor("two")], 9).await];
    assert!(answers.iter().all(passes));
    assert_eq!(answers[0].statuses[0].code, i32::from(Code::OverLimit), "what would be is still told");
}

#[tokio::test]
async fn a_limit_may_stand_in_place_of_another() {
    let l = limiter(false);
    for _ in 0..5 {
        assert!(passes(&ask(&l, vec![descriptor("two"), descriptor("vip")], 0).await));
    }
    assert!(passes(&ask(&l, vec![descriptor("two")], 2).await), "it was not counted");
}

#[tokio::test]
async fn a_request_may_bring_its_own_limit() {
    let l = limiter(false);
    let limit = Some(RateLimitOverride { requests_per_unit: 1, unit: 3 });
    let one = || RateLimitDescriptor { limit, ..descriptor("two") };
    assert!(passes(&ask(&l, vec![one()], 0).await));
    assert!(!passes(&ask(&l, vec![one()], 0).await));
}

#[tokio::test]
async fn counters_go_on_when_other_limits_change() {
    let l = limiter(false);
    ask(&l, vec![descriptor("two")], 2).await;
    let text = format!("{DOMAIN}  - {{key: new, rate_limit: {{unit: hour, requests_per_unit: 1}}}}\n");
    let domain = text::parse::<RateLimitDomain>(Source { name: "", text: &text }).unwrap().message;
    l.set(Limits::new([&domain]));
    assert!(!passes(&ask(&l, vec![descriptor("two")], 0).await));
}

#[tokio::test]
async fn calls_that_make_no_sense_are_refused() {
    let l = limiter(false);
    for request in [
        RateLimitRequest { domain: String::new(), descriptors: vec![descriptor("two")], hits_addend: 0 },
        RateLimitRequest { domain: "d".to_owned(), descriptors: Vec::new(), hits_addend: 0 },
    ] {
        assert_eq!(l.decide(&request).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    }
}
