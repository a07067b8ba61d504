//! The protocol table of xds.md, point by point; numbers in brackets are its numbers. Properties at the end.

use super::*;
use crate::snapshot::Reference;
use xds_types::envoy::config::cluster::v3::Cluster;
use xds_types::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_types::envoy::config::listener::v3::Listener;
use xds_types::envoy::config::route::v3::{RouteConfiguration, VirtualHost};

mod properties;

const CDS: ResourceType = ResourceType::Cluster;
const EDS: ResourceType = ResourceType::ClusterLoadAssignment;
const LDS: ResourceType = ResourceType::Listener;
const RDS: ResourceType = ResourceType::RouteConfiguration;

fn cluster(name: &str, revision: u32) -> Arc<Resource> {
    let m = Cluster { name: name.into(), alt_stat_name: revision.to_string(), ..Cluster::default() };
    Arc::new(Resource::encode(CDS, name, &m, vec![Reference::new(EDS, name)], vec![]))
}

fn endpoints(name: &str, revision: u32) -> Arc<Resource> {
    let mut m = ClusterLoadAssignment { cluster_name: name.into(), ..ClusterLoadAssignment::default() };
    m.endpoints.resize(revision as usize, Default::default());
    Arc::new(Resource::encode(EDS, name, &m, vec![], vec![]))
}

fn listener(name: &str, revision: u32) -> Arc<Resource> {
    let m = Listener { name: name.into(), stat_prefix: revision.to_string(), ..Listener::default() };
    Arc::new(Resource::encode(LDS, name, &m, vec![Reference::new(RDS, name)], vec![]))
}

fn routes(name: &str, clusters: &[&str]) -> Arc<Resource> {
    let host = VirtualHost { name: clusters.join(","), ..VirtualHost::default() };
    let m = RouteConfiguration { name: name.into(), virtual_hosts: vec![host], ..Default::default() };
    let to = clusters.iter().map(|c| Reference::new(CDS, *c)).collect();
    Arc::new(Resource::encode(RDS, name, &m, to, vec![]))
}

/// A control plane and a client's end of one stream.
struct Bench {
    session: Session,
    now: Instant,
    last: Option<Snapshot>,
}

impl Bench {
    fn new(mode: Mode) -> Self {
        let session = Session::new(mode, None, Limits::default());
        Self { session, now: Instant::now(), last: None }
    }

    fn envoy(mode: Mode) -> Self {
        let mut b = Self::new(mode);
        b.session.set_traits(Traits { waits_for_missing_routes: true });
        b
    }

    fn publish(&mut self, resources: &[Arc<Resource>]) -> Vec<Response> {
        let mut sets: BTreeMap<ResourceType, Vec<Arc<Resource>>> = BTreeMap::new();
        for r in resources {
            sets.entry(r.kind).or_default().push(r.clone());
        }
        let sets = sets.into_iter().map(|(kind, all)| (kind, Arc::new(all.into_iter().collect()))).collect();
        let id = self.last.as_ref().map_or(1, |s| s.id() + 1);
        let snapshot = Snapshot::new(id, sets, None, self.last.as_ref());
        self.session.snapshot(Arc::new(snapshot.clone()));
        self.last = Some(snapshot);
        self.poll()
    }

    fn poll(&mut self) -> Vec<Response> {
        self.session.poll(self.now)
    }

    fn pass(&mut self, time: Duration) -> Vec<Response> {
        self.now += time;
        self.poll()
    }

    fn send(&mut self, request: Request) -> (Note, Vec<Response>) {
        let (_, note) = self.session.request(&request).expect("the stream goes on");
        (note, self.poll())
    }

    fn sotw(&mut self, kind: ResourceType, names: &[&str], nonce: &str) -> Vec<Response> {
        self.send(sotw_request(kind, names, nonce, None)).1
    }

    fn delta(&mut self, kind: ResourceType, subscribe: &[&str], unsubscribe: &[&str]) -> Vec<Response> {
        self.send(delta_request(kind, subscribe, unsubscribe)).1
    }

    fn ack(&mut self, response: &Response, names: &[&str]) -> Vec<Response> {
        self.answer(response, names, None).1
    }

    fn nack(&mut self, response: &Response, names: &[&str]) -> (Note, Vec<Response>) {
        self.answer(response, names, Some("bad"))
    }

    fn answer(&mut self, response: &Response, names: &[&str], error: Option<&str>) -> (Note, Vec<Response>) {
        let Kind::Served(kind) = response.kind else { panic!("{response:?}") };
        let nonce = response.nonce.to_string();
        self.send(match self.session.mode {
            Mode::Sotw => sotw_request(kind, names, &nonce, error),
            Mode::Delta => Request::Delta(delta::Request {
                type_url: kind.type_url().into(),
                nonce,
                error: error.map(Into::into),
                ..Default::default()
            }),
        })
    }
}

fn sotw_request(kind: ResourceType, names: &[&str], nonce: &str, error: Option<&str>) -> Request {
    Request::Sotw(sotw::Request {
        type_url: kind.type_url().into(),
        names: names.iter().map(ToString::to_string).collect(),
        nonce: nonce.into(),
        error: error.map(Into::into),
    })
}

fn delta_request(kind: ResourceType, subscribe: &[&str], unsubscribe: &[&str]) -> Request {
    Request::Delta(delta::Request {
        type_url: kind.type_url().into(),
        subscribe: subscribe.iter().map(ToString::to_string).collect(),
        unsubscribe: unsubscribe.iter().map(ToString::to_string).collect(),
        ..Default::default()
    })
}

/// `CDS[a b] -[c]`, one for each response.
fn show(responses: &[Response]) -> Vec<String> {
    let one = |r: &Response| {
        let names: Vec<&str> = r.resources.iter().map(|r| &*r.name).collect();
        let gone = if r.removed.is_empty() { String::new() } else { format!(" -[{}]", r.removed.join(" ")) };
        format!("{}[{}]{gone}", r.kind, names.join(" "))
    };
    responses.iter().map(one).collect()
}

#[track_caller]
fn sent(responses: &[Response], wanted: &[&str]) {
    assert_eq!(show(responses), wanted);
}

const NONE: &[&str] = &[];

// --- ACK, NACK -----------------------------------------------------------------------------------------------

#[test]
fn n1_only_error_detail_refuses_and_only_the_first_request_with_a_nonce_answers_it() {
    let mut b = Bench::new(Mode::Sotw);
    b.publish(&[endpoints("a", 1), endpoints("b", 1)]);
    let r = b.sotw(EDS, &["a"], "");
    sent(&r, &["EDS[a]"]);
    let (note, _) = b.nack(&r[0], &["a"]);
    assert!(matches!(note, Note::Nacked { .. }));
    // Envoy adds names with the nonce that it refused, and no error.
    let (note, more) = b.send(sotw_request(EDS, &["a", "b"], &r[0].nonce.to_string(), None));
    assert!(matches!(note, Note::Subscribed), "{note:?}");
    sent(&more, &["EDS[b]"]);
}

#[test]
fn n2_a_refused_response_is_not_sent_again_unchanged() {
    let mut b = Bench::new(Mode::Sotw);
    b.publish(&[cluster("a", 1), cluster("bad", 1)]);
    let r = b.sotw(CDS, &[], "");
    let (_, again) = b.nack(&r[0], &[]);
    sent(&again, NONE);
    sent(&b.publish(&[cluster("a", 1), cluster("bad", 1), endpoints("x", 1)]), NONE);
    sent(&b.publish(&[cluster("a", 1), cluster("bad", 2)]), &["CDS[a bad]"]);

    for mode in [Mode::Sotw, Mode::Delta] {
        let mut b = Bench::new(mode);
        b.publish(&[endpoints("bad", 1)]);
        let r = match mode {
            Mode::Sotw => b.sotw(EDS, &["bad"], ""),
            Mode::Delta => b.delta(EDS, &["bad"], &[]),
        };
        sent(&b.nack(&r[0], &["bad"]).1, NONE);
        assert!(b.session.stands_refused(&Kind::Served(EDS)));
        sent(&b.publish(&[endpoints("bad", 1), endpoints("x", 1)]), NONE);
        let fixed = b.publish(&[endpoints("bad", 2)]);
        sent(&fixed, &["EDS[bad]"]);
        b.ack(&fixed[0], &["bad"]);
        assert!(!b.session.stands_refused(&Kind::Served(EDS)));
    }
}

#[test]
fn n24_after_a_refused_full_state_the_old_one_is_sent_again_though_it_was_accepted_before() {
    let mut b = Bench::new(Mode::Sotw);
    b.publish(&[cluster("a", 1)]);
    let r = b.sotw(CDS, &[], "");
    b.ack(&r[0], &[]);
    let r = b.publish(&[cluster("a", 2), cluster("bad", 1)]);
    b.nack(&r[0], &[]);
    // The client may have applied half of it.
    sent(&b.publish(&[cluster("a", 1)]), &["CDS[a]"]);
}

#[test]
fn n33_the_good_resources_of_a_refused_response_arrive_and_the_bad_one_is_found() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut b = Bench::new(mode);
        let names = ["a", "b", "bad", "c", "d"];
        b.publish(&names.map(|n| endpoints(n, 1)));
        let mut waiting = match mode {
            Mode::Sotw => b.sotw(EDS, &names, ""),
            Mode::Delta => b.delta(EDS, &names, &[]),
        };
        let (mut accepted, mut refused_alone) = (BTreeSet::new(), 0);
        while let Some(r) = waiting.pop() {
            let held: Vec<String> = r.resources.iter().map(|r| r.name.to_string()).collect();
            let bad = held.iter().any(|n| n == "bad");
            refused_alone += usize::from(bad && held.len() == 1);
            if !bad {
                accepted.extend(held);
            }
            let (_, more) = b.answer(&r, &names, bad.then_some("bad"));
            waiting.extend(more);
        }
        assert_eq!(accepted.iter().map(String::as_str).collect::<Vec<_>>(), ["a", "b", "c", "d"], "{mode}");
        assert_eq!(refused_alone, 1, "{mode}: found, and not tried again");
        // Fixed, it arrives alone.
        sent(
            &b.publish(
                &["a", "b", "c", "d"]
                    .map(|n| endpoints(n, 1))
                    .into_iter()
                    .chain([endpoints("bad", 2)])
                    .collect::<Vec<_>>(),
            ),
            &["EDS[bad]"],
        );
    }
}

#[test]
fn n33_a_bad_resource_that_is_withdrawn_is_removed() {
    let mut b = Bench::new(Mode::Delta);
    b.publish(&[cluster("a", 1), cluster("bad", 1)]);
    let mut waiting = b.delta(CDS, &[], &[]);
    while let Some(r) = waiting.pop() {
        let bad = r.resources.iter().any(|r| &*r.name == "bad");
        let (_, more) = b.answer(&r, &[], bad.then_some("bad"));
        waiting.extend(more);
    }
    sent(&b.publish(&[cluster("a", 1)]), &["CDS[] -[bad]"]);
}

// --- nonce ---------------------------------------------------------------------------------------------------

#[test]
fn n4_nonces_are_never_used_twice() {
    let mut b = Bench::new(Mode::Sotw);
    b.publish(&[cluster("a", 1), endpoints("a", 1), listener("l", 1)]);
    let all = [b.sotw(CDS, &[], ""), b.sotw(EDS, &["a"], ""), b.sotw(LDS, &[], "")].concat();
    let nonces: BTreeSet<u64> = all.iter().map(|r| r.nonce).collect();
    assert_eq!(nonces.len(), all.len());
}

#[test]
fn n3_a_stale_request_counts_for_nothing_in_sotw() {
    let mut b = Bench::new(Mode::Sotw);
    b.publish(&[endpoints("a", 1), endpoints("b", 1)]);
    let one = b.sotw(EDS, &["a"], "");
    b.ack(&one[0], &["a"]);
    b.publish(&[endpoints("a", 2), endpoints("b", 1)]);
    let (note, out) = b.send(sotw_request(EDS, &["a", "b"], &one[0].nonce.to_string(), None));
    assert!(matches!(note, Note::Stale));
    sent(&out, NONE);
}

#[test]
fn n3_changes_of_a_delta_subscription_count_whatever_the_nonce() {
    let mut b = Bench::new(Mode::Delta);
    b.publish(&[endpoints("a", 1), endpoints("b", 1)]);
    let one = b.delta(EDS, &["a"], &[]);
    b.ack(&one[0], &[]);
    let mut stale =
        delta::Request { type_url: EDS.type_url().into(), nonce: "99".into(), ..Default::default() };
    stale.subscribe = vec!["b".into()];
    sent(&b.send(Request::Delta(stale)).1, &["EDS[b]"]);
}

// --- versions ------------------------------------------------------------------------------------------------

#[test]
fn n15_versions_of_an_earlier_stream_spare_what_is_equal_and_remove_what_is_gone() {
    let (a, b2) = (cluster("a", 1), cluster("b", 2));
    let mut b = Bench::new(Mode::Delta);
    b.publish(&[a.clone(), b2]);
    let mut first = delta::Request { type_url: CDS.type_url().into(), ..Default::default() };
    first.initial_versions = [
        ("a".to_owned(), a.version.to_string()),
        ("b".to_owned(), cluster("b", 1).version.to_string()),
        ("gone".to_owned(), "whatever".to_owned()),
    ]
    .into();
    sent(&b.send(Request::Delta(first)).1, &["CDS[b] -[gone]"]);
}

#[test]
fn n15_versions_count_in_the_first_request_of_a_type_only() {
    let a = endpoints("a", 1);
    let mut b = Bench::new(Mode::Delta);
    b.publish(&[a.clone(), endpoints("b", 1)]);
    b.delta(EDS, &["b"], &[]);
    let mut later = delta::Request { type_url: EDS.type_url().into(), ..Default::default() };
    later.subscribe = vec!["a".into()];
    later.initial_versions = [("a".to_owned(), a.version.to_string())].into();
    b.send(Request::Delta(later));
    let r = b.pass(ACK_TIMEOUT);
    sent(&r, &["EDS[a]"]);
}

#[test]
fn n15_versions_told_before_the_first_publication_count_too() {
    let a = endpoints("a", 1);
    let mut b = Bench::new(Mode::Delta);
    let mut first = delta::Request { type_url: EDS.type_url().into(), ..Default::default() };
    first.subscribe = vec!["a".into(), "b".into()];
    first.initial_versions =
        [("a".to_owned(), a.version.to_string()), ("b".to_owned(), endpoints("b", 1).version.to_string())]
            .into();
    b.send(Request::Delta(first));
    sent(&b.publish(&[a, endpoints("b", 2)]), &["EDS[b]"]);
}

#[test]
fn n26_the_version_of_a_response_depends_on_content_only() {
    let version = || {
        let mut b = Bench::new(Mode::Sotw);
        b.publish(&[cluster("a", 1), cluster("b", 1)]);
        b.sotw(CDS, &[], "")[0].version.clone()
    };
    assert_eq!(version(), version());
}

// --- wildcard ------------------------------------------------------------------------------------------------

#[test]
fn n6_no_names_mean_all_until_one_was_named_and_nothing_afterwards() {
    let mut b = Bench::new(Mode::Sotw);
    b.publish(&[cluster("a", 1), cluster("b", 1)]);
    let all = b.sotw(CDS, &[], "");
    sent(&all, &["CDS[a b]"]);
    let one = b.ack(&all[0], &["a"]);
    sent(&one, &["CDS[a]"]);
    let none = b.ack(&one[0], &[]);
    sent(&none, NONE);
    sent(&b.publish(&[cluster("a", 2), cluster("b", 2)]), NONE);
}

#[test]
fn n6_no_names_of_endpoints_or_routes_mean_none() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut b = Bench::new(mode);
        b.publish(&[endpoints("a", 1), routes("r", &[])]);
        for kind in [EDS, RDS] {
            let out = match mode {
                Mode::Sotw => b.sotw(kind, &[], ""),
                Mode::Delta => b.delta(kind, &[], &[]),
            };
            sent(&out, NONE);
        }
    }
}

#[test]
fn n7_a_star_goes_together_with_names() {
    let mut b = Bench::new(Mode::Sotw);
    b.publish(&[cluster("a", 1), cluster("b", 1)]);
    let r = b.sotw(CDS, &["*", "a"], "");
    sent(&r, &["CDS[a b]"]);
    sent(&b.ack(&r[0], &["a"]), NONE);
    sent(&b.publish(&[cluster("a", 2), cluster("b", 2)]), &["CDS[a]"]);

    let mut b = Bench::new(Mode::Delta);
    b.publish(&[cluster("a", 1), cluster("b", 1)]);
    let r = b.delta(CDS, &["a"], &[]);
    sent(&r, &["CDS[a]"]);
    b.ack(&r[0], &[]);
    let r = b.delta(CDS, &["*"], &[]);
    sent(&r, &["CDS[b]"]);
    b.ack(&r[0], &[]);
    sent(&b.delta(CDS, &[], &["*"]), NONE);
    sent(&b.publish(&[cluster("a", 2), cluster("b", 2)]), &["CDS[a]"]);
}

#[test]
fn n8_unsubscribing_a_name_while_all_are_subscribed_is_answered() {
    let mut b = Bench::new(Mode::Delta);
    b.publish(&[cluster("a", 1)]);
    let r = b.delta(CDS, &["*", "a", "gone"], &[]);
    sent(&r, &["CDS[a] -[gone]"]);
    b.ack(&r[0], &[]);
    sent(&b.delta(CDS, &[], &["a", "gone"]), &["CDS[a] -[gone]"]);
}

#[test]
fn n16_the_first_wildcard_request_is_answered_even_if_there_is_nothing() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut b = Bench::new(mode);
        b.publish(&[]);
        for kind in [CDS, LDS] {
            let out = match mode {
                Mode::Sotw => b.sotw(kind, &[], ""),
                Mode::Delta => b.delta(kind, &[], &[]),
            };
            sent(&out, &[&format!("{kind}[]")]);
            sent(&b.poll(), NONE);
        }
    }
}

#[test]
fn n16_a_wildcard_request_before_the_first_publication_is_answered_after_it() {
    let mut b = Bench::new(Mode::Delta);
    sent(&b.delta(CDS, &[], &[]), NONE);
    sent(&b.publish(&[]), &["CDS[]"]);
}

// --- names ---------------------------------------------------------------------------------------------------

#[test]
fn n13_a_new_name_gets_its_resource_at_once_and_a_dropped_one_needs_no_answer() {
    let mut b = Bench::new(Mode::Sotw);
    b.publish(&[endpoints("a", 1), endpoints("b", 1)]);
    let r = b.sotw(EDS, &["a"], "");
    let r = b.ack(&r[0], &["a", "b"]);
    sent(&r, &["EDS[b]"]);
    sent(&b.ack(&r[0], &["b"]), NONE);
    sent(&b.publish(&[endpoints("a", 2), endpoints("b", 1)]), NONE);
}

#[test]
fn n13_names_are_compared_as_sets() {
    let mut b = Bench::new(Mode::Sotw);
    b.publish(&[endpoints("a", 1), endpoints("b", 1)]);
    let r = b.sotw(EDS, &["a", "b"], "");
    sent(&b.ack(&r[0], &["b", "a"]), NONE);
}

#[test]
fn n14_unsubscribing_and_subscribing_again_sends_again() {
    let mut b = Bench::new(Mode::Sotw);
    b.publish(&[endpoints("a", 1), endpoints("b", 1)]);
    let r = b.sotw(EDS, &["a", "b"], "");
    b.ack(&r[0], &["b"]);
    sent(&b.sotw(EDS, &["a", "b"], &r[0].nonce.to_string()), &["EDS[a]"]);

    let mut b = Bench::new(Mode::Delta);
    b.publish(&[endpoints("a", 1)]);
    let r = b.delta(EDS, &["a"], &[]);
    b.ack(&r[0], &[]);
    b.delta(EDS, &[], &["a"]);
    sent(&b.delta(EDS, &["a"], &[]), &["EDS[a]"]);
}

#[test]
fn n9_subscribing_again_sends_again_even_what_the_client_has() {
    let mut b = Bench::new(Mode::Delta);
    b.publish(&[endpoints("a", 1)]);
    let r = b.delta(EDS, &["a"], &[]);
    b.ack(&r[0], &[]);
    sent(&b.delta(EDS, &["a"], &[]), &["EDS[a]"]);
}

#[test]
fn n34_names_that_do_not_exist_yet_are_remembered_and_no_name_is_twice_in_a_response() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut b = Bench::new(mode);
        b.publish(&[]);
        match mode {
            Mode::Sotw => sent(&b.sotw(EDS, &["a", "a"], ""), NONE),
            Mode::Delta => {
                let r = b.delta(EDS, &["a", "a"], &[]);
                sent(&r, &["EDS[] -[a]"]);
                b.ack(&r[0], &[]);
            }
        }
        sent(&b.publish(&[endpoints("a", 1)]), &["EDS[a]"]);
    }
}

// --- absence -------------------------------------------------------------------------------------------------

#[test]
fn n11_full_state_is_sent_whole_and_what_it_leaves_out_is_gone() {
    let mut b = Bench::new(Mode::Sotw);
    b.publish(&[listener("a", 1), listener("b", 1)]);
    let r = b.sotw(LDS, &[], "");
    b.ack(&r[0], &[]);
    let r = b.publish(&[listener("a", 1), listener("b", 2)]);
    sent(&r, &["LDS[a b]"]);
    b.ack(&r[0], &[]);
    sent(&b.publish(&[listener("b", 2)]), &["LDS[b]"]);
}

#[test]
fn n12_endpoints_of_sotw_are_sent_where_they_changed_and_never_emptied() {
    let mut b = Bench::new(Mode::Sotw);
    b.publish(&[endpoints("a", 1), endpoints("b", 1)]);
    let r = b.sotw(EDS, &["a", "b"], "");
    b.ack(&r[0], &["a", "b"]);
    let r = b.publish(&[endpoints("a", 1), endpoints("b", 2)]);
    sent(&r, &["EDS[b]"]);
    b.ack(&r[0], &["a", "b"]);
    sent(&b.publish(&[endpoints("a", 1)]), NONE);
}

#[test]
fn n18_an_empty_assignment_is_sent() {
    let mut b = Bench::new(Mode::Delta);
    b.publish(&[endpoints("a", 0)]);
    sent(&b.delta(EDS, &["a"], &[]), &["EDS[a]"]);
}

#[test]
fn n10_a_missing_name_is_removed_at_once_in_delta_and_only_once() {
    let mut b = Bench::new(Mode::Delta);
    b.publish(&[]);
    let r = b.delta(EDS, &["a"], &[]);
    sent(&r, &["EDS[] -[a]"]);
    b.ack(&r[0], &[]);
    sent(&b.publish(&[endpoints("x", 1)]), NONE);
    let again = b.delta(EDS, &["a"], &[]);
    sent(&again, &["EDS[] -[a]"]);
}

#[test]
fn n10_real_envoy_is_not_told_of_missing_routes() {
    let mut b = Bench::envoy(Mode::Delta);
    b.publish(&[]);
    sent(&b.delta(RDS, &["r"], &[]), NONE);
    sent(&b.publish(&[routes("r", &[])]), &["RDS[r]"]);
    let mut b = Bench::new(Mode::Delta);
    b.publish(&[]);
    sent(&b.delta(RDS, &["r"], &[]), &["RDS[] -[r]"]);
}

// --- order ---------------------------------------------------------------------------------------------------

/// A client that has accepted everything of a snapshot, as Envoy asks for it.
fn settled(mode: Mode, resources: &[Arc<Resource>]) -> Bench {
    let mut b = Bench::envoy(mode);
    b.publish(resources);
    let named =
        |kind| -> Vec<&str> { resources.iter().filter(|r| r.kind == kind).map(|r| &*r.name).collect() };
    for kind in [CDS, EDS, LDS, RDS] {
        let wildcard = matches!(kind, CDS | LDS);
        let names = if wildcard { Vec::new() } else { named(kind) };
        let out = match mode {
            Mode::Sotw => b.sotw(kind, &names, ""),
            Mode::Delta => b.delta(kind, &names, &[]),
        };
        for r in &out {
            let more = b.ack(r, &names);
            sent(&more, NONE);
        }
    }
    b
}

#[test]
fn n17_endpoints_are_sent_again_after_their_cluster_changed() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut b = settled(mode, &[cluster("a", 1), cluster("b", 1), endpoints("a", 1), endpoints("b", 1)]);
        let r = b.publish(&[cluster("a", 2), cluster("b", 1), endpoints("a", 1), endpoints("b", 1)]);
        let clusters = if mode == Mode::Sotw { "CDS[a b]" } else { "CDS[a]" };
        sent(&r, &[clusters, "EDS[a]"]);
    }
}

#[test]
fn n19_types_go_out_in_the_order_clusters_endpoints_listeners_routes() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let old = [cluster("a", 1), endpoints("a", 1), listener("l", 1), routes("l", &["a"])];
        let mut b = settled(mode, &old);
        let r = b.publish(&[cluster("a", 2), endpoints("a", 2), listener("l", 2), routes("l", &["a", "a"])]);
        sent(&r, &["CDS[a]", "EDS[a]", "LDS[l]", "RDS[l]"]);
    }
}

#[test]
fn n19_a_route_to_a_new_cluster_waits_until_the_cluster_is_accepted() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let old = [cluster("a", 1), endpoints("a", 1), listener("l", 1), routes("l", &["a"])];
        let mut b = settled(mode, &old);
        let new = [
            cluster("a", 1),
            cluster("b", 1),
            endpoints("a", 1),
            endpoints("b", 1),
            listener("l", 1),
            routes("l", &["b"]),
        ];
        let cds = b.publish(&new);
        let clusters = if mode == Mode::Sotw { "CDS[a b]" } else { "CDS[b]" };
        sent(&cds, &[clusters]);
        // Envoy asks for the endpoints, and accepts the clusters when they are warm.
        let eds = match mode {
            Mode::Sotw => b.sotw(EDS, &["a", "b"], "2"),
            Mode::Delta => b.delta(EDS, &["b"], &[]),
        };
        sent(&eds, &["EDS[b]"]);
        sent(&b.ack(&eds[0], &["a", "b"]), NONE);
        sent(&b.ack(&cds[0], &[]), &["RDS[l]"]);
    }
}

#[test]
fn n19_a_route_waits_for_endpoints_that_the_client_is_about_to_ask_for() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let old = [cluster("a", 1), endpoints("a", 1), listener("l", 1), routes("l", &["a"])];
        let mut b = settled(mode, &old);
        let new = [cluster("b", 1), endpoints("b", 1), listener("l", 1), routes("l", &["b"])];
        let cds = b.publish(&new);
        // Ours accepts clusters at once, and asks for the endpoints next.
        sent(&b.ack(&cds[0], &[]), NONE);
        let eds = match mode {
            Mode::Sotw => b.sotw(EDS, &["a", "b"], "2"),
            Mode::Delta => b.delta(EDS, &["b"], &[]),
        };
        sent(&eds, &["EDS[b]"]);
        sent(&b.ack(&eds[0], &["a", "b"]), &["RDS[l]"]);
    }
}

#[test]
fn n19_a_route_waits_for_a_cluster_only_so_long() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut b = settled(mode, &[cluster("a", 1), listener("l", 1), routes("l", &["a"])]);
        b.publish(&[cluster("a", 1), cluster("b", 1), listener("l", 1), routes("l", &["b"])]);
        assert_eq!(b.session.deadline(b.now), Some(b.now + HOLD));
        sent(&b.pass(HOLD - Duration::from_millis(1)), NONE);
        sent(&b.pass(Duration::from_millis(1)), &["RDS[l]"]);
    }
}

#[test]
fn n19_a_route_does_not_wait_for_a_cluster_that_was_refused() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut b = settled(mode, &[cluster("a", 1), listener("l", 1), routes("l", &["a"])]);
        let cds = b.publish(&[cluster("a", 1), cluster("b", 1), listener("l", 1), routes("l", &["a", "b"])]);
        sent(&b.nack(&cds[0], &[]).1, &["RDS[l]"]);
    }
}

#[test]
fn n19_a_cluster_is_taken_away_after_the_routes_that_named_it() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let old = [cluster("a", 1), cluster("b", 1), listener("l", 1), routes("l", &["a"])];
        let mut b = settled(mode, &old);
        let rds = b.publish(&[cluster("b", 1), listener("l", 1), routes("l", &["b"])]);
        sent(&rds, &["RDS[l]"]);
        let cds = b.ack(&rds[0], &["l"]);
        sent(&cds, &[if mode == Mode::Sotw { "CDS[b]" } else { "CDS[] -[a]" }]);
    }
}

#[test]
fn n19_a_held_cluster_stays_in_every_full_state() {
    let old = [cluster("a", 1), cluster("b", 1), listener("l", 1), routes("l", &["a"])];
    let mut b = settled(Mode::Sotw, &old);
    let r = b.publish(&[cluster("b", 1), cluster("c", 1), listener("l", 1), routes("l", &["c"])]);
    sent(&r, &["CDS[a b c]"]);
    let r = b.ack(&r[0], &[]);
    sent(&r, &["RDS[l]"]);
    sent(&b.ack(&r[0], &["l"]), &["CDS[b c]"]);
}

#[test]
fn n19_a_client_that_refuses_the_new_routes_keeps_the_cluster_of_the_old_ones() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let old = [cluster("a", 1), cluster("b", 1), listener("l", 1), routes("l", &["a"])];
        let mut b = settled(mode, &old);
        let rds = b.publish(&[cluster("b", 1), listener("l", 1), routes("l", &["b"])]);
        sent(&b.nack(&rds[0], &["l"]).1, NONE);
        sent(&b.pass(HOLD * 10), NONE);
        let rds = b.publish(&[cluster("b", 1), listener("l", 1), routes("l", &["b", "b"])]);
        sent(&rds, &["RDS[l]"]);
        sent(&b.ack(&rds[0], &["l"]), &[if mode == Mode::Sotw { "CDS[b]" } else { "CDS[] -[a]" }]);
    }
}

#[test]
fn n19_endpoints_go_after_their_cluster() {
    let mut b =
        settled(Mode::Delta, &[cluster("a", 1), endpoints("a", 1), listener("l", 1), routes("l", &["a"])]);
    let rds = b.publish(&[listener("l", 1), routes("l", &[])]);
    sent(&rds, &["RDS[l]"]);
    let cds = b.ack(&rds[0], &[]);
    sent(&cds, &["CDS[] -[a]"]);
    sent(&b.ack(&cds[0], &[]), &["EDS[] -[a]"]);
}

#[test]
fn n23_a_client_may_begin_with_endpoints() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut b = Bench::envoy(mode);
        b.publish(&[cluster("a", 1), endpoints("a", 1), listener("l", 1), routes("l", &["a"])]);
        let ask = |b: &mut Bench, kind, names: &[&str]| match mode {
            Mode::Sotw => b.sotw(kind, names, ""),
            Mode::Delta => b.delta(kind, names, &[]),
        };
        sent(&ask(&mut b, EDS, &["a"]), &["EDS[a]"]);
        sent(&ask(&mut b, RDS, &["l"]), &["RDS[l]"]);
        sent(&ask(&mut b, LDS, &[]), &["LDS[l]"]);
    }
}

#[test]
fn n25_further_clusters_do_not_wait_for_an_acknowledgement_that_is_held_back() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut b = settled(mode, &[cluster("a", 1)]);
        sent(&b.publish(&[cluster("a", 2)]), &["CDS[a]"]);
        let newest = b.publish(&[cluster("a", 3)]);
        sent(&newest, &["CDS[a]"]);
        // SotW answers the last only.
        sent(&b.ack(&newest[0], &[]), NONE);
    }
}

#[test]
fn changes_gather_while_an_answer_is_out() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut b = settled(mode, &[endpoints("a", 1), endpoints("b", 1)]);
        let first = b.publish(&[endpoints("a", 2), endpoints("b", 1)]);
        sent(&first, &["EDS[a]"]);
        sent(&b.publish(&[endpoints("a", 3), endpoints("b", 1)]), NONE);
        sent(&b.publish(&[endpoints("a", 3), endpoints("b", 2)]), NONE);
        sent(&b.ack(&first[0], &["a", "b"]), &["EDS[a b]"]);
    }
}

#[test]
fn an_answer_that_never_comes_is_not_waited_for_for_ever() {
    let mut b = settled(Mode::Delta, &[endpoints("a", 1)]);
    sent(&b.publish(&[endpoints("a", 2)]), &["EDS[a]"]);
    sent(&b.publish(&[endpoints("a", 3)]), NONE);
    assert_eq!(b.session.deadline(b.now), Some(b.now + ACK_TIMEOUT));
    sent(&b.pass(ACK_TIMEOUT), &["EDS[a]"]);
}

#[test]
fn equal_content_is_not_sent_again() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let all = [cluster("a", 1), endpoints("a", 1), listener("l", 1), routes("l", &["a"])];
        let mut b = settled(mode, &all);
        sent(&b.publish(&all), NONE);
        let again = [cluster("a", 1), endpoints("a", 1), listener("l", 1), routes("l", &["a"])];
        sent(&b.publish(&again), NONE);
    }
}

// --- stream --------------------------------------------------------------------------------------------------

#[test]
fn n22_an_unknown_type_does_not_end_the_stream() {
    let unknown = "type.googleapis.com/some.other.Type";
    let mut b = Bench::new(Mode::Sotw);
    b.publish(&[cluster("a", 1)]);
    let r = sotw::Request { type_url: unknown.into(), names: vec!["x".into()], ..Default::default() };
    sent(&b.send(Request::Sotw(r)).1, NONE);
    sent(&b.sotw(CDS, &[], ""), &["CDS[a]"]);

    let mut b = Bench::new(Mode::Delta);
    b.publish(&[cluster("a", 1)]);
    let r = delta::Request { type_url: unknown.into(), subscribe: vec!["x".into()], ..Default::default() };
    let r = b.send(Request::Delta(r)).1;
    assert_eq!(
        (r[0].kind.type_url(), &*r[0].removed[0]),
        (unknown, "x"),
        "no client waits for what we do not have"
    );
    sent(&b.delta(CDS, &[], &[]), &["CDS[a]"]);
}

#[test]
fn n28_responses_that_may_be_split_stay_below_the_limit_of_grpc_clients() {
    let big = |name: &str| {
        let m = ClusterLoadAssignment { cluster_name: "x".repeat(1_000_000), ..Default::default() };
        Arc::new(Resource::encode(EDS, name, &m, vec![], vec![]))
    };
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut b = Bench::new(mode);
        let names = ["a", "b", "c", "d", "e"];
        b.publish(&names.map(big));
        let mut waiting = match mode {
            Mode::Sotw => b.sotw(EDS, &names, ""),
            Mode::Delta => b.delta(EDS, &names, &[]),
        };
        let mut got = Vec::new();
        while let Some(r) = waiting.pop() {
            assert!(r.resources.iter().map(|r| r.any.len()).sum::<usize>() < 4_000_000);
            got.extend(r.resources.iter().map(|r| r.name.to_string()));
            waiting.extend(b.ack(&r, &names));
        }
        assert_eq!(got, names, "{mode}");
    }
}

#[test]
fn limits_and_types_of_a_stream_are_held() {
    let limits = Limits { names: 2, types: 1 };
    let mut s = Session::new(Mode::Sotw, None, limits);
    assert_eq!(
        s.request(&sotw_request(EDS, &["a", "b", "c"], "", None)).unwrap_err(),
        Refusal::TooManyNames { max: 2 }
    );
    assert_eq!(
        s.request(&sotw_request(RDS, &["a"], "", None)).unwrap_err(),
        Refusal::TooManyTypes { max: 1 }
    );
    let mut s = Session::new(Mode::Sotw, Some(EDS), Limits::default());
    assert!(matches!(s.request(&sotw_request(RDS, &[], "", None)), Err(Refusal::WrongType { .. })));
    assert!(
        s.request(&Request::Sotw(sotw::Request::default())).is_ok(),
        "the type of the service may be left out"
    );
    let mut s = Session::new(Mode::Sotw, None, Limits::default());
    assert_eq!(s.request(&Request::Sotw(sotw::Request::default())).unwrap_err(), Refusal::NoType);
}

#[test]
fn n19_a_cluster_that_went_and_came_again_is_waited_for_like_a_new_one() {
    let mut b =
        settled(Mode::Delta, &[cluster("a", 1), cluster("b", 1), listener("l", 1), routes("l", &["a"])]);
    sent(&b.publish(&[cluster("a", 1), listener("l", 1), routes("l", &["a"])]), &["CDS[] -[b]"]);
    let cds = b.publish(&[cluster("a", 1), cluster("b", 1), listener("l", 1), routes("l", &["a", "b"])]);
    sent(&cds, &["CDS[b]"]);
    sent(&b.ack(&cds[0], &[]), &["RDS[l]"]);
}

#[test]
fn n19_a_cluster_is_held_only_so_long_when_the_new_routes_are_not_answered() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut b = settled(mode, &[cluster("a", 1), cluster("b", 1), listener("l", 1), routes("l", &["a"])]);
        sent(&b.publish(&[cluster("b", 1), listener("l", 1), routes("l", &["b"])]), &["RDS[l]"]);
        sent(&b.pass(HOLD), &[if mode == Mode::Sotw { "CDS[b]" } else { "CDS[] -[a]" }]);
    }
}

#[test]
fn n2_a_refused_full_state_may_come_again_when_another_came_between() {
    let bad = [cluster("a", 1), cluster("bad", 1)];
    let mut b = Bench::new(Mode::Sotw);
    b.publish(&bad);
    let r = b.sotw(CDS, &[], "");
    b.nack(&r[0], &[]);
    sent(&b.publish(&[]), &["CDS[]"]);
    sent(&b.publish(&bad), &["CDS[a bad]"]);
}
