//! Discovery streams over gRPC: thin glue around [`super::subscription`].
//!
//! One task a stream. It opens the stream, sends what the machines say, applies what comes and sends their
//! answers; a lost stream is opened again after a jittered wait, on the next server when there are several.

mod bucket;
mod channel;
mod protocol;

use super::Xds;
use super::backoff::Backoff;
use super::kind::Kind;
use super::stats::ControlPlane;
use super::wanted::{ALL, Interests, SourceKey};
use bucket::Bucket;
use data_plane_core::config::{GrpcSource, GrpcTarget, TransportApi};
use protocol::{DeltaApi, Protocol, SotwApi};
use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, info, warn};

/// Requests handed to the transport but not yet written. Full: requests wait in the outbox.
const REQUEST_QUEUE: usize = 16;

/// Requests waiting for the transport or the rate limit. Beyond it nothing more is read from the server; the
/// machines merge what they have to say meanwhile.
const OUTBOX: usize = 64;

/// Longest time that the ACK of clusters is held back until they are warm, as Envoy's.
const WARM_UP: Duration = Duration::from_secs(15);

/// Subscribes through `source` for as long as anything is wanted of it. `only`: the stream of one kind; `None`:
/// the aggregated stream.
pub(super) async fn run(
    xds: Xds,
    key: SourceKey,
    source: GrpcSource,
    only: Option<Kind>,
    interests: watch::Receiver<Interests>,
) {
    match source.api {
        TransportApi::Sotw => subscribe::<SotwApi>(xds, key, source, only, interests).await,
        TransportApi::Delta => subscribe::<DeltaApi>(xds, key, source, only, interests).await,
    }
}

async fn subscribe<P: Protocol>(
    xds: Xds,
    key: SourceKey,
    source: GrpcSource,
    only: Option<Kind>,
    mut interests: watch::Receiver<Interests>,
) {
    let mut backoff = Backoff::default();
    let mut session = Session::<P> {
        xds,
        key,
        machines: BTreeMap::new(),
        outbox: VecDeque::new(),
        held: VecDeque::new(),
        answered: false,
    };
    let mut bucket = source.rate_limit.map(|(size, fill)| Bucket::new(size, fill.get(), Instant::now()));
    let mut attempt = 0;
    loop {
        let target = &source.targets[attempt % source.targets.len()];
        session.answered = false;
        let ended = session.stream(&source, target, only, &mut interests, &mut bucket).await;
        session.close();
        let Err(reason) = ended else { return };
        if session.answered {
            backoff.reset();
            attempt = 0;
        } else {
            attempt += 1;
        }
        let wait = backoff.next(fastrand::f64());
        let wait_ms = wait.as_millis() as u64;
        warn!(cluster = &*target.cluster, wait_ms, "discovery stream ended: {reason}");
        session.report_loss(&interests);
        sleep(wait).await;
    }
}

/// What outlives one stream, and the stream's outbox.
struct Session<P: Protocol> {
    xds: Xds,
    key: SourceKey,
    machines: BTreeMap<Kind, P::Machine>,
    outbox: VecDeque<(Kind, P::Ask)>,
    /// Answers to clusters, oldest first, and when they go out at the latest: servers wait for them before they
    /// send routes to what is not warm yet.
    held: VecDeque<(P::Ask, Instant)>,
    /// This stream brought at least one response.
    answered: bool,
}

impl<P: Protocol> Session<P> {
    /// One stream, from connecting to its end. `Ok`: nothing is wanted any more.
    async fn stream(
        &mut self,
        source: &GrpcSource,
        target: &GrpcTarget,
        only: Option<Kind>,
        interests: &mut watch::Receiver<Interests>,
        bucket: &mut Option<Bucket>,
    ) -> Result<(), String> {
        let channel = channel::connect(&self.xds.clusters(), target).await?;
        let xds = self.xds.clone();
        let stats = xds.control_plane();
        stats.connected_state.set(1);
        info!(cluster = &*target.cluster, "connected to the control plane");

        let current = interests.borrow_and_update().clone();
        for (kind, interest) in current {
            let machine = self.machines.entry(kind).or_default();
            P::set_interest(machine, interest);
        }
        for (kind, machine) in &mut self.machines {
            self.outbox.extend(P::open(machine).map(|ask| (*kind, ask)));
        }

        let (requests_tx, requests) = mpsc::channel(REQUEST_QUEUE);
        let max = target.max_receive_message_bytes.map_or(usize::MAX, |max| max as usize);
        let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(max);
        grpc.ready().await.map_err(|e| e.to_string())?;
        let mut call = tonic::Request::new(ReceiverStream::new(requests));
        channel::add_metadata(call.metadata_mut(), target);
        let mut opening = pin!(grpc.streaming(call, P::path(only), P::codec()));
        let mut inbound: Option<tonic::Streaming<P::Response>> = None;
        let mut first = true;
        let mut warming = xds.upstream().warming();

        loop {
            stats.pending_requests.set(self.outbox.len() as u64);
            let allowed_at = bucket.as_mut().map_or_else(Instant::now, |b| b.ready_at(Instant::now()));
            let held_back = allowed_at > Instant::now();
            let to_send = !self.outbox.is_empty();
            let hold_ends = self.held.front().map(|(_, at)| *at);
            // Every arm is cancel safe: a permit, a frame or a change not taken stays where it is.
            tokio::select! {
                permit = requests_tx.reserve(), if to_send && !held_back => {
                    let permit = permit.map_err(|_| "the stream closed".to_owned())?;
                    if let Some((kind, ask)) = self.outbox.pop_front() {
                        let with_node = first || !source.node_on_first_message_only;
                        first = false;
                        if let Some(bucket) = bucket {
                            bucket.take(Instant::now());
                        }
                        permit.send(P::request(ask, kind, with_node.then(|| xds.node().clone())));
                    }
                }
                () = sleep_until(allowed_at), if to_send && held_back => stats.rate_limit_enforced.inc(),
                opened = &mut opening, if inbound.is_none() => {
                    inbound = Some(opened.map_err(|status| describe(&status))?.into_inner());
                }
                () = warm(&mut warming, hold_ends), if hold_ends.is_some() => {
                    self.outbox.extend(self.held.drain(..).map(|(ask, _)| (Kind::Cluster, ask)));
                }
                message = next(&mut inbound), if inbound.is_some() && self.outbox.len() + self.held.len() < OUTBOX => {
                    let message = message.map_err(|status| describe(&status))?;
                    self.respond(message.ok_or("the server closed the stream")?, only.is_none());
                }
                changed = interests.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.interests_changed(&interests.borrow_and_update().clone());
                }
            }
        }
    }

    fn respond(&mut self, response: P::Response, aggregated: bool) {
        self.answered = true;
        let (type_url, identifier) = P::describe(&response);
        if let Some(identifier) = identifier {
            self.xds.set_control_plane_identifier(identifier);
        }
        let Some(kind) = Kind::from_type_url(type_url) else {
            return warn!(type_url, "response of a type never asked for, dropped");
        };
        let Some(machine) = self.machines.get_mut(&kind) else {
            return warn!(type_url, "response of a type never asked for, dropped");
        };
        let (xds, key) = (&self.xds, &self.key);
        let Some(ask) = P::deal(machine, kind, response, |update| xds.apply(key, kind, update)) else {
            return;
        };
        // Not at the start: nothing is served yet that a route could be moved from.
        let holds = kind == Kind::Cluster
            && aggregated
            && xds.is_live()
            && (!self.held.is_empty() || *xds.upstream().warming().borrow() > 0);
        if !holds {
            return self.outbox.push_back((kind, ask));
        }
        if P::NEWEST_ANSWERS_ALL {
            self.held.clear();
        }
        self.held.push_back((ask, Instant::now() + WARM_UP));
    }

    fn interests_changed(&mut self, interests: &Interests) {
        for kind in Kind::ALL {
            let interest = interests.get(&kind).cloned().unwrap_or_default();
            if interest.is_empty() && !self.machines.contains_key(&kind) {
                continue;
            }
            let is_new = !self.machines.contains_key(&kind);
            let machine = self.machines.entry(kind).or_default();
            let asked = P::set_interest(machine, interest);
            let opened = is_new.then(|| P::open(machine)).flatten();
            self.outbox.extend(asked.or(opened).map(|ask| (kind, ask)));
        }
    }

    fn close(&mut self) {
        self.machines.values_mut().for_each(P::close);
        self.outbox.clear();
        self.held.clear();
        let stats: &ControlPlane = self.xds.control_plane();
        stats.connected_state.set(0);
        stats.pending_requests.set(0);
    }

    fn report_loss(&self, interests: &watch::Receiver<Interests>) {
        let interests = interests.borrow().clone();
        for (kind, interest) in interests {
            let mut names: Vec<Box<str>> = interest.names.into_iter().collect();
            names.extend(interest.wildcard.then(|| ALL.into()));
            debug!(kind = %kind.resource_type(), resources = names.len(), "waiting for the control plane");
            self.xds.failed(&self.key, kind, &names, false);
        }
    }
}

/// Waits until every cluster is warm, or until `ends`.
///
/// # Cancel safety
/// Nothing is lost.
async fn warm(warming: &mut watch::Receiver<usize>, ends: Option<Instant>) {
    let Some(ends) = ends else { return };
    // A manager that is gone has nothing to warm.
    let _ = timeout_at(ends, warming.wait_for(|left| *left == 0)).await;
}

/// The next message of an open stream.
async fn next<M>(inbound: &mut Option<tonic::Streaming<M>>) -> Result<Option<M>, tonic::Status> {
    match inbound {
        Some(stream) => stream.message().await,
        None => std::future::pending().await,
    }
}

fn describe(status: &tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
