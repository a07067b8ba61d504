//! What a stream at rest holds for each resource: thousands of proxies have hundreds of resources each, and nearly all
//! of them rest.
//!
//! A test of its own with an allocator of its own: all of the process is counted, so nothing else may run here.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use control_plane::ads::Mode;
use control_plane::ads::delta;
use control_plane::ads::session::{Limits, Request, Response, Session};
use control_plane::snapshot::{Reference, Resource, Snapshot};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::sync::Arc;
use tokio::time::Instant;
use xds_types::ResourceType::{self, Cluster as CDS, ClusterLoadAssignment as EDS};
use xds_types::envoy::config::cluster::v3::Cluster;
use xds_types::envoy::config::endpoint::v3::ClusterLoadAssignment;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CLUSTERS: usize = 1_000;

/// Bytes for each cluster with its endpoints: two names known and one subscribed. Change it downwards.
const ALLOWED: usize = 112;

#[test]
fn a_stream_at_rest_holds_little_for_each_resource() {
    let names: Vec<String> = (0..CLUSTERS).map(|i| format!("a-service-with-a-long-name-{i}")).collect();
    let snapshot = Arc::new(snapshot(&names));
    let region = Region::new(ALLOCATOR);
    let mut session = Session::new(Mode::Delta, None, Limits::default());
    session.snapshot(snapshot);
    ask(&mut session, CDS, vec![]);
    ask(&mut session, EDS, names.clone());
    let counted = region.change();
    let held = counted.bytes_allocated - counted.bytes_deallocated;
    let each = held / CLUSTERS;
    println!("{each} bytes for each cluster");
    assert!(each <= ALLOWED, "a stream holds {each} bytes for each cluster, where {ALLOWED} are allowed");
}

/// Asks, and accepts all that comes.
fn ask(session: &mut Session, kind: ResourceType, subscribe: Vec<String>) {
    let type_url = kind.type_url().to_owned();
    send(session, delta::Request { type_url, subscribe, ..Default::default() });
    let mut received = 0;
    loop {
        let responses = session.poll(Instant::now());
        if responses.is_empty() {
            break;
        }
        for Response { kind, nonce, resources, .. } in responses {
            received += resources.len();
            let (type_url, nonce) = (kind.type_url().to_owned(), nonce.to_string());
            send(session, delta::Request { type_url, nonce, ..Default::default() });
        }
    }
    assert_eq!(received, CLUSTERS);
}

fn send(session: &mut Session, request: delta::Request) {
    session.request(&Request::Delta(request)).unwrap();
}

fn snapshot(names: &[String]) -> Snapshot {
    let cluster = |name: &String| {
        let message = Cluster { name: name.clone(), ..Cluster::default() };
        let to = Reference::new(EDS, name.as_str());
        Arc::new(Resource::encode(CDS, name.as_str(), &message, vec![to], vec![]))
    };
    let endpoints = |name: &String| {
        let message = ClusterLoadAssignment { cluster_name: name.clone(), ..Default::default() };
        Arc::new(Resource::encode(EDS, name.as_str(), &message, vec![], vec![]))
    };
    let sets = [
        (CDS, Arc::new(names.iter().map(cluster).collect())),
        (EDS, Arc::new(names.iter().map(endpoints).collect())),
    ];
    Snapshot::new(1, sets.into(), None, None)
}
