//! One stream in operation: moves requests, publications and time into its [`Session`], and responses out.
//!
//! It is the response stream that tonic polls, not a task of its own: a client that does not take responses
//! stops it, requests included, and its gathered changes go out together when it is back. What waits to be sent
//! is bounded by the session (responses that wait for their answers).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::{Stream, StreamExt, stream};
use metrics::{counter, gauge};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{debug, info, warn};
use xds_types::ResourceType;
use xds_types::envoy::config::core::v3::Node as ProtoNode;

use super::metrics::Metrics;
use super::session::{Kind, Limits, Note, Request, Session};
use super::wire::Frame;
use super::{Mode, Nack, Node, NodeStatus, Peer, Registry, StreamId};
use crate::snapshot::{Audience, Cache, Published, Snapshot};

/// A request with the node it may carry.
pub(super) struct Inbound {
    pub node: Option<ProtoNode>,
    pub request: Request,
}

/// Requests of a client.
pub(super) type Requests = Pin<Box<dyn Stream<Item = Result<Inbound, Status>> + Send>>;

/// What a stream needs of its server.
pub(super) struct Context {
    pub mode: Mode,
    pub only: Option<ResourceType>,
    pub limits: Limits,
    pub peer: Peer,
    pub identifier: Arc<str>,
    pub cache: Arc<Cache>,
    pub registry: Arc<Registry>,
    pub metrics: Arc<Metrics>,
    pub stop: CancellationToken,
}

/// Responses to these requests.
pub(super) fn responses(requests: Requests, cx: Context) -> impl Stream<Item = Result<Frame, Status>> + Send {
    gauge!("xds_streams", "mode" => cx.mode.to_string()).increment(1.0);
    let running = Running {
        published: cx.cache.subscribe(),
        session: Session::new(cx.mode, cx.only, cx.limits),
        requests,
        client: None,
        queue: VecDeque::new(),
        over: false,
        cx,
    };
    stream::unfold(running, |mut running| async move { running.next().await.map(|item| (item, running)) })
}

/// Who is on the other side, once it has said so.
struct Client {
    id: StreamId,
    node: Node,
    audience: Audience,
}

struct Running {
    cx: Context,
    requests: Requests,
    published: watch::Receiver<Option<Arc<Published>>>,
    session: Session,
    client: Option<Client>,
    queue: VecDeque<Frame>,
    over: bool,
}

impl Running {
    async fn next(&mut self) -> Option<Result<Frame, Status>> {
        loop {
            if let Some(frame) = self.queue.pop_front() {
                return Some(Ok(frame));
            }
            if self.over {
                return None;
            }
            let now = Instant::now();
            let deadline = self.session.deadline(now);
            // Every arm is cancel-safe: `next` of a stream and `changed` lose nothing, the others only wait.
            tokio::select! {
                request = self.requests.next() => match request {
                    None => return None,
                    Some(Err(status)) => {
                        debug!(%status, "stream broke");
                        return None;
                    }
                    Some(Ok(inbound)) => {
                        if let Err(status) = self.request(inbound) {
                            self.over = true;
                            return Some(Err(status));
                        }
                    }
                },
                changed = self.published.changed() => {
                    if changed.is_err() {
                        return None; // the control plane is going away
                    }
                    self.look();
                }
                () = sleep_until(deadline.unwrap_or(now)), if deadline.is_some() => {}
                () = self.cx.stop.cancelled() => return None,
            }
            self.collect(Instant::now());
        }
    }

    fn request(&mut self, inbound: Inbound) -> Result<(), Status> {
        if self.client.is_none() {
            self.meet(inbound.node.as_ref(), &inbound.request)?;
        }
        let (kind, note) =
            self.session.request(&inbound.request).map_err(|e| Status::invalid_argument(e.to_string()))?;
        self.record(&kind, note);
        Ok(())
    }

    /// The first request says who the client is; later nodes are not looked at (point 20).
    ///
    /// Where it showed a certificate, that says which group it is of, and so which secrets it may fetch.
    fn meet(&mut self, node: Option<&ProtoNode>, first: &Request) -> Result<(), Status> {
        let node = Node::read(node);
        if !self.cx.peer.may_be_of(&node.group) {
            let names = self.cx.peer.names.as_deref().unwrap_or_default().join(", ");
            warn!(
                node = node.id,
                group = &*node.group,
                names,
                "refused: its certificate names another group"
            );
            counter!("xds_refused_nodes_total").increment(1);
            return Err(Status::permission_denied(format!(
                "node.cluster is `{}`, but the client certificate names {}",
                node.group,
                if names.is_empty() { "no group" } else { &names },
            )));
        }
        let mut audience = node.audience();
        if asks_for_a_service(first) && self.lacks(&audience, first) {
            audience = Audience::Grpc;
        }
        self.session.set_traits(node.traits());
        let peer = self.cx.peer.address.map_or_else(String::new, |p| p.to_string());
        let status = NodeStatus {
            id: node.id.clone(),
            group: node.group.to_string(),
            user_agent: node.agent(),
            peer,
            mode: self.cx.mode,
            connected: SystemTime::now(),
            types: Default::default(),
        };
        info!(node = node.id, group = &*node.group, agent = status.user_agent, mode = %self.cx.mode, "connected");
        let id = self.cx.registry.enter(status);
        self.client = Some(Client { id, node, audience });
        self.look();
        Ok(())
    }

    /// Whether no listener of a proxy has the names asked for.
    fn lacks(&self, audience: &Audience, first: &Request) -> bool {
        let Some(published) = self.cx.cache.latest() else { return false };
        let listeners = published.snapshot(audience).set(ResourceType::Listener);
        names(first).iter().all(|name| listeners.get(name).is_none())
    }

    /// Takes the newest publication.
    fn look(&mut self) {
        let newest: Option<Arc<Snapshot>> = {
            let published = self.published.borrow_and_update();
            let audience = self.client.as_ref().map(|c| &c.audience);
            audience.and_then(|a| Some(published.as_ref()?.snapshot(a).clone()))
        };
        if let Some(newest) = newest
            && self.session.current().is_none_or(|have| have.id() != newest.id())
        {
            self.session.snapshot(newest);
        }
    }

    /// Queues what the session wants sent.
    fn collect(&mut self, now: Instant) {
        for response in self.session.poll(now) {
            let frame = Frame { mode: self.cx.mode, response, identifier: self.cx.identifier.clone() };
            let counters = self.cx.metrics.of(&frame.response.kind);
            counters.pushes.increment(1);
            counters.push_bytes.increment(frame.size() as u64);
            if let Some(client) = &self.client {
                let sent = (frame.response.version.clone(), SystemTime::now());
                self.cx.registry.update(client.id, frame.response.kind.name(), |t| t.sent = Some(sent));
            }
            self.queue.push_back(frame);
        }
    }

    /// Writes down what a request said.
    fn record(&mut self, kind: &Kind, note: Note) {
        let Some(client) = &self.client else { return };
        let (subscribed, wildcard) = self.session.subscribed(kind);
        let stands = self.session.stands_refused(kind);
        let counters = self.cx.metrics.of(kind);
        let now = SystemTime::now();
        let (mut acked, mut nack) = (None, None);
        match note {
            Note::Acked { version } => {
                counters.acks.increment(1);
                acked = Some((version, now));
            }
            Note::Nacked { version, names, reason } => {
                counters.nacks.increment(1);
                let found = blame(kind, self.session.current().map(|s| &**s), names, &reason);
                let (resources, objects) = found;
                let blamed: Vec<String> = objects.iter().map(ToString::to_string).collect();
                warn!(
                    node = client.node.id, r#type = %kind, version, reason, ?resources, objects = ?blamed,
                    "client refused a response"
                );
                nack = Some(Box::new(Nack { version, reason, at: now, resources, objects }));
            }
            Note::Subscribed => {}
            Note::Stale => counters.stale.increment(1),
        }
        self.cx.registry.update(client.id, kind.name(), |t| {
            (t.subscribed, t.wildcard) = (subscribed, wildcard);
            t.acked = acked.or_else(|| t.acked.take());
            if nack.is_some() {
                t.nack = nack;
            } else if !stands {
                t.nack = None;
            }
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        gauge!("xds_streams", "mode" => self.cx.mode.to_string()).decrement(1.0);
        if let Some(client) = &self.client {
            debug!(node = client.node.id, "disconnected");
            self.cx.registry.leave(client.id);
        }
    }
}

fn names(request: &Request) -> &[String] {
    match request {
        Request::Sotw(r) => &r.names,
        Request::Delta(r) => &r.subscribe,
    }
}

/// A client that begins with listeners by name is a gRPC library, even if its user agent does not say so, when
/// no gateway has such listeners.
fn asks_for_a_service(first: &Request) -> bool {
    let url = match first {
        Request::Sotw(r) => &r.type_url,
        Request::Delta(r) => &r.type_url,
    };
    let names = names(first);
    url == ResourceType::Listener.type_url() && !names.is_empty() && !names.iter().any(|n| n == "*")
}

/// Which resources of a refused response are at fault: those that the reason names, else all; and the objects
/// that they were made of.
fn blame(
    kind: &Kind,
    snapshot: Option<&Snapshot>,
    names: Vec<Arc<str>>,
    reason: &str,
) -> (Vec<Arc<str>>, Vec<crate::model::ObjectKey>) {
    let said: Vec<Arc<str>> = names.iter().filter(|n| mentions(reason, n)).cloned().collect();
    let blamed = if said.is_empty() { names } else { said };
    let mut objects = Vec::new();
    if let (Kind::Served(kind), Some(snapshot)) = (kind, snapshot) {
        objects.extend(blamed.iter().filter_map(|n| snapshot.get(*kind, n)).flat_map(|r| r.origin.to_vec()));
    }
    objects.sort();
    objects.dedup();
    (blamed, objects)
}

/// Whether a text has a name as a whole word: `cart` is not in `cart-v2`.
fn mentions(text: &str, name: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        // A full stop that ends a sentence ends the name too.
        let after = after.strip_prefix('.').filter(|rest| !rest.starts_with(part)).unwrap_or(after);
        let goes_on = after.starts_with(part);
        !before.chars().next_back().is_some_and(part) && !goes_on
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_names_a_resource_only_as_a_whole_word() {
        let reason = "Error adding/updating cluster(s) cart: bad, pay/v2: worse. See shop.";
        for (name, said) in
            [("cart", true), ("pay/v2", true), ("pay", false), ("car", false), ("shop", true), ("v2", false)]
        {
            assert_eq!(mentions(reason, name), said, "{name}");
        }
        assert!(!mentions("cluster cart-v2: bad", "cart"));
    }
}
