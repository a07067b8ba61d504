//! Simulated proxies: one TCP connection and one ADS stream each, all of them on one thread.
//!
//! They ask as Envoy does: clusters, then the endpoints of every cluster, and when those are there the
//! acknowledgement of the clusters, listeners, and routes. Everything is acknowledged. Resources are counted and
//! not decoded, so that the clients leave the machine to the control plane.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use prost::Message;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use xds_types::ResourceType;

use crate::http2::Connection;
use crate::requests::{Mode, Requests, Skim};

/// Longest wait for all proxies.
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections at a time that wait for the first answer: the queue of a listening socket is short, and an attempt that
/// finds it full is made again a second later.
const OPENING: usize = 512;

/// What every proxy is to ask for.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    /// Node group.
    pub group: String,
    /// Clusters, which are named as their endpoints are.
    pub clusters: Vec<String>,
    /// Route configurations.
    pub routes: Vec<String>,
}

/// Many proxies. They disconnect when dropped.
pub(crate) struct Fleet {
    shared: Rc<Shared>,
    tasks: JoinSet<Result<()>>,
}

/// What the proxies share: what to send, and how far they are. All on one thread, hence cells.
struct Shared {
    count: usize,
    clusters: usize,
    requests: Requests,
    opening: Semaphore,
    synced: Cell<usize>,
    round: Cell<u64>,
    acked: Cell<usize>,
    responses: Cell<u64>,
    bytes: Cell<u64>,
    /// The last proxy has done what was waited for.
    done: Notify,
}

impl Fleet {
    /// Connects so many proxies, all at once. Call on a `LocalSet`.
    pub(crate) fn connect(to: SocketAddr, mode: Mode, count: usize, names: &Names) -> Self {
        let shared = Rc::new(Shared {
            count,
            clusters: names.clusters.len(),
            requests: Requests::new(mode, names),
            opening: Semaphore::new(OPENING),
            synced: Cell::new(0),
            round: Cell::new(0),
            acked: Cell::new(0),
            responses: Cell::new(0),
            bytes: Cell::new(0),
            done: Notify::new(),
        });
        let mut tasks = JoinSet::new();
        for i in 0..count {
            let shared = Rc::clone(&shared);
            let group = names.group.clone();
            tasks.spawn_local(async move {
                let slot = shared.opening.acquire().await?;
                let connection = Connection::open(to, shared.requests.path());
                let mut connection = connection.await.with_context(|| format!("proxy {i} connects"))?;
                connection.send(&shared.requests.first(i, &group))?;
                connection.flush().await?;
                connection.receive().await?;
                drop(slot);
                Proxy::new(Rc::clone(&shared), connection).run().await
            });
        }
        Self { shared, tasks }
    }

    /// Waits until every proxy has all there is.
    pub(crate) async fn synced(&mut self) -> Result<()> {
        self.until("have synced", |s| s.synced.get()).await
    }

    /// From now on, the next response with endpoints that a proxy acknowledges counts.
    pub(crate) fn start_round(&self) {
        self.shared.round.set(self.shared.round.get() + 1);
        self.shared.acked.set(0);
    }

    /// Waits until every proxy has acknowledged endpoints in this round.
    pub(crate) async fn acked(&mut self) -> Result<()> {
        self.until("have acknowledged", |s| s.acked.get()).await
    }

    async fn until(&mut self, what: &str, progress: impl Fn(&Shared) -> usize) -> Result<()> {
        let (count, start) = (self.shared.count, Instant::now());
        while progress(&self.shared) < count {
            let left = PATIENCE.saturating_sub(start.elapsed());
            tokio::select! {
                () = self.shared.done.notified() => {}
                Some(ended) = self.tasks.join_next() => {
                    ended??;
                    bail!("a proxy's stream has ended");
                }
                () = tokio::time::sleep(left) => {
                    bail!("{} of {count} proxies {what} within {PATIENCE:?}", progress(&self.shared));
                }
            }
        }
        Ok(())
    }

    /// Responses that all proxies have received so far.
    pub(crate) fn responses(&self) -> u64 {
        self.shared.responses.get()
    }

    /// Bytes of the responses that all proxies have received so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.bytes.get()
    }

    /// Disconnects them all.
    pub(crate) async fn disconnect(mut self) {
        self.tasks.shutdown().await;
    }
}

/// One proxy.
struct Proxy {
    shared: Rc<Shared>,
    connection: Connection,
    /// Acknowledgements of clusters, held back until the clusters are warm.
    clusters: Vec<Bytes>,
    /// Assignments received, until all are there.
    endpoints: usize,
    /// The newest round in which it has acknowledged endpoints.
    round: u64,
    /// What is reached once everything is written.
    reached: Option<Reached>,
}

#[derive(Clone, Copy)]
enum Reached {
    Synced,
    Acked,
}

impl Proxy {
    fn new(shared: Rc<Shared>, connection: Connection) -> Self {
        Self { shared, connection, clusters: Vec::new(), endpoints: 0, round: 0, reached: None }
    }

    async fn run(&mut self) -> Result<()> {
        loop {
            while let Some(message) = self.connection.message()? {
                self.take(message)?;
            }
            self.connection.flush().await?;
            match self.reached.take() {
                None => {}
                Some(Reached::Synced) => self.shared.progress(&self.shared.synced),
                Some(Reached::Acked) => self.shared.progress(&self.shared.acked),
            }
            self.connection.receive().await?;
        }
    }

    fn take(&mut self, message: Bytes) -> Result<()> {
        let shared = Rc::clone(&self.shared);
        shared.responses.set(shared.responses.get() + 1);
        shared.bytes.set(shared.bytes.get() + message.len() as u64);
        let response = Skim::decode(message)?;
        let kind = ResourceType::from_type_url(&response.type_url).context("an unknown type")?;
        let ack = shared.requests.ack(kind, &response);
        match kind {
            ResourceType::Cluster => {
                if !self.is_warm() {
                    if self.clusters.is_empty() {
                        self.connection.send(&shared.requests.endpoints)?;
                    }
                    self.clusters.push(ack);
                    return Ok(());
                }
                self.connection.send(&ack)
            }
            ResourceType::ClusterLoadAssignment => {
                self.connection.send(&ack)?;
                if !self.is_warm() {
                    self.endpoints += response.resources.len();
                    if self.is_warm() {
                        for ack in std::mem::take(&mut self.clusters) {
                            self.connection.send(&ack)?;
                        }
                        self.connection.send(&shared.requests.listeners)?;
                    }
                } else if self.round < shared.round.get() {
                    self.round = shared.round.get();
                    self.reached = Some(Reached::Acked);
                }
                Ok(())
            }
            ResourceType::Listener => {
                self.connection.send(&shared.requests.routes)?;
                self.connection.send(&ack)
            }
            ResourceType::RouteConfiguration => {
                self.connection.send(&ack)?;
                self.reached = Some(Reached::Synced);
                Ok(())
            }
            other => bail!("{other} was not asked for"),
        }
    }

    fn is_warm(&self) -> bool {
        self.endpoints >= self.shared.clusters
    }
}

impl Shared {
    fn progress(&self, of: &Cell<usize>) {
        of.set(of.get() + 1);
        if of.get() == self.count {
            self.done.notify_one();
        }
    }
}
