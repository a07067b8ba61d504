//! One check of one host: connecting, asking, and what the answer means.

use super::{grpc, http, tcp};
use crate::codec::ClientOptions;
use crate::codec::h1::{ClientConn, Reuse};
use crate::codec::h2::{self, Client};
use crate::transport::tls::Offer;
use crate::transport::{Counted, Stream, socket};
use crate::upstream::cluster::Cluster;
use crate::upstream::host::Host;
use crate::upstream::tls;
use data_plane_core::config::{HealthCheck, Probe};
use data_plane_core::guard::health::{Failure, Verdict};
use data_plane_core::headers::edit::HeaderEdits;
use data_plane_core::headers::{Record, RequestHead, Upstream};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) verdict: Verdict,
    /// Why it failed.
    pub(super) failure: Option<Failure>,
    /// The response's status, for events.
    pub(super) status: Option<u16>,
    /// The response asked for the host to be left out.
    pub(super) exclude: bool,
}

impl Report {
    pub(super) const PASS: Self =
        Self { verdict: Verdict::Pass { degraded: false }, failure: None, status: None, exclude: false };

    pub(super) fn fail(failure: Failure) -> Self {
        let verdict = Verdict::Fail { failure, retriable: false };
        Self { verdict, failure: Some(failure), status: None, exclude: false }
    }
}

/// A check that could not be brought to its end.
pub(super) struct Broken;

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// Where and how one host is checked; keeps its connection between checks.
pub(super) struct Prober {
    cluster: Arc<Cluster>,
    check: Arc<HealthCheck>,
    address: SocketAddr,
    /// The name its `host` header has, where the endpoint says.
    hostname: Box<str>,
    seat: Rc<Seat>,
    /// The host's own name, for SNI.
    name: Box<str>,
    /// Choose the transport socket.
    transport_labels: BTreeMap<String, serde_json::Value>,
}

/// The kept connection.
#[derive(Default)]
pub(super) struct Seat {
    pub(super) h1: RefCell<Option<ClientConn<Stream>>>,
    pub(super) h2: RefCell<Option<(Client, AbortOnDropHandle<()>)>>,
    pub(super) tcp: RefCell<Option<Stream>>,
}

impl Seat {
    fn clear(&self) {
        self.h1.take();
        self.h2.take();
        self.tcp.take();
    }
}

impl Reuse<Stream> for Seat {
    fn put(&self, conn: ClientConn<Stream>) {
        self.h1.replace(Some(conn));
    }
}

impl Prober {
    pub(super) fn new(cluster: &Arc<Cluster>, check: &Arc<HealthCheck>, host: &Host) -> Rc<Self> {
        let own = host.check.as_deref();
        let mut address = own.and_then(|own| own.check_address).unwrap_or(host.address);
        if let Some(port) = own.and_then(|own| own.port).or(check.alt_port) {
            address.set_port(port);
        }
        Rc::new(Self {
            cluster: Arc::clone(cluster),
            check: Arc::clone(check),
            address,
            hostname: own.map_or_else(Default::default, |own| own.hostname.clone()),
            name: host.hostname.clone(),
            transport_labels: host.transport_labels.clone(),
            seat: Rc::default(),
        })
    }

    /// Checks the host within the timeout.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the connection.
    pub(super) async fn run(&self) -> Report {
        let asked = async {
            match &self.check.probe {
                Probe::Http(probe) => http::check(self, probe).await,
                Probe::Tcp(probe) => tcp::check(self, probe).await,
                Probe::Grpc(probe) => grpc::check(self, probe).await,
            }
        };
        let report = match timeout(self.check.timeout, asked).await {
            Ok(Ok(report)) => report,
            Ok(Err(Broken)) => Report::fail(Failure::Network),
            Err(_) => Report::fail(Failure::NetworkTimeout),
        };
        let network = matches!(report.failure, Some(Failure::Network | Failure::NetworkTimeout));
        if network || !self.check.reuse_connection {
            self.seat.clear();
        }
        report
    }

    /// How long a check may take.
    pub(super) fn timeout(&self) -> Duration {
        self.check.timeout
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub(super) fn seat(&self) -> &Rc<Seat> {
        &self.seat
    }

    /// The `host` header: the endpoint's, else the check's, else the cluster's name.
    pub(super) fn authority(&self, configured: &str) -> String {
        [&*self.hostname, configured]
            .into_iter()
            .find(|name| !name.is_empty())
            .unwrap_or(&self.cluster.config.name)
            .into()
    }

    /// A fresh connection.
    pub(super) async fn connect(&self, offer: Offer) -> io::Result<Stream> {
        let stream = socket::connect(self.address, self.cluster.config.tcp_keepalive).await?;
        let peer =
            tls::Peer { address: self.address.ip(), hostname: &self.name, labels: &self.transport_labels };
        match tls::secure(&self.cluster, peer, stream, offer, None).await {
            Ok((io, _)) => Ok(Counted::new(io, None)),
            Err(reason) => Err(io::Error::other(reason.into_string())),
        }
    }

    /// An HTTP/2 connection: the kept one, or a fresh one.
    pub(super) async fn h2(&self) -> Result<Client, Broken> {
        let kept = self.seat.h2.borrow().as_ref().map(|(client, _)| client.clone());
        if let Some(client) = kept.filter(Client::is_usable) {
            return Ok(client);
        }
        let io = self.connect(Offer::Http2).await?;
        let options = Arc::new(ClientOptions::new(&self.cluster.config));
        let (client, driver) = h2::connect(io, options).await.map_err(|_| Broken)?;
        let driver = AbortOnDropHandle::new(tokio::task::spawn_local(driver));
        self.seat.h2.replace(Some((client.clone(), driver)));
        Ok(client)
    }

    /// Edits a request as configured.
    pub(super) fn edit(&self, edits: &HeaderEdits, head: &mut RequestHead) {
        let upstream = Upstream {
            address: self.address,
            hostname: &self.hostname,
            local: None,
            protocol: Some(head.version),
            connection_id: None,
            connect: None,
            transport_failure: None,
            tls: None,
        };
        let record = Record {
            protocol: Some(head.version),
            upstream: Some(&upstream),
            cluster: Some(&self.cluster.config.name),
            cluster_stat_name: Some(&self.cluster.config.stat_name),
            ..Record::new(SystemTime::now())
        };
        edits.apply_request(head, &record);
    }
}

/// Whether `parts` are found in `data`, in this order, perhaps with other bytes between.
pub(super) fn holds(data: &[u8], parts: &[Box<[u8]>]) -> bool {
    let mut rest = data;
    parts.iter().all(|part| match rest.windows(part.len().max(1)).position(|window| window == &**part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => part.is_empty(),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn parts_are_found_in_their_order() {
        let holds = |data: &str, parts: &[&str]| {
            let parts: Vec<Box<[u8]>> = parts.iter().map(|part| part.as_bytes().into()).collect();
            super::holds(data.as_bytes(), &parts)
        };
        assert!(holds("abc", &["a", "c"]));
        assert!(holds("abc", &[]));
        assert!(!holds("abc", &["c", "a"]));
        assert!(!holds("aab", &["ab", "ab"]));
        assert!(holds("abab", &["ab", "ab"]));
        assert!(!holds("", &["a"]));
    }
}
