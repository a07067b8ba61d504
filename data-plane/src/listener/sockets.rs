//! The sockets of one address: one for each worker.

use super::balance::Balance;
use crate::transport::socket::{self, Sharing};
use parking_lot::Mutex;
use socket2::Socket;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// How the sockets of an address are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// As configured; port 0 lets the system choose.
    pub(super) address: SocketAddr,
    pub(super) reuse_port: bool,
    pub(super) backlog: Option<u32>,
}

impl Plan {
    /// Whether sockets made so serve an updated listener without being closed. Those that share their port are made anew for
    /// another backlog; the one of a port that is not shared listens anew instead ([`Sockets::listen`]).
    pub(super) fn serves(&self, wanted: &Self) -> bool {
        let Self { address, reuse_port, backlog } = *self;
        address == wanted.address
            && reuse_port == wanted.reuse_port
            && (!reuse_port || backlog == wanted.backlog)
    }
}

/// The bound sockets of an address, until workers take them.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) plan: Plan,
    /// As bound.
    pub(super) address: SocketAddr,
    pub(super) balance: Arc<Balance>,
    by_worker: Mutex<Vec<Option<Socket>>>,
    /// The one socket of a port that is not shared, however many workers accept on it.
    exclusive: Option<Socket>,
}

impl Sockets {
    /// Binds a socket for each worker.
    pub(super) fn bind(plan: Plan, workers: usize) -> io::Result<Self> {
        let sharing = if plan.reuse_port { Sharing::ReusePort } else { Sharing::Exclusive };
        let first = socket::bind(plan.address, sharing)?;
        let address = socket::local_address(&first)?;
        let mut all = vec![Some(first)];
        for _ in 1..workers {
            let next = match sharing {
                Sharing::ReusePort => socket::bind(address, sharing)?,
                // One queue of connections that all workers accept from.
                Sharing::Exclusive => {
                    let first = all.iter().flatten().next();
                    first.ok_or(io::ErrorKind::NotFound)?.try_clone()?
                }
            };
            all.push(Some(next));
        }
        let exclusive = match sharing {
            Sharing::ReusePort => None,
            Sharing::Exclusive => all.iter().flatten().next().map(Socket::try_clone).transpose()?,
        };
        Ok(Self { plan, address, balance: Arc::default(), by_worker: Mutex::new(all), exclusive })
    }

    /// Those of an address that is not bound: nothing comes of them.
    pub(super) fn imagined(plan: Plan) -> Self {
        Self {
            plan,
            address: plan.address,
            balance: Arc::default(),
            by_worker: Mutex::default(),
            exclusive: None,
        }
    }

    /// Lets connections queue up, so many of them. Where no other socket may have the port, also of one that listens
    /// already.
    pub(super) fn listen(&self, backlog: Option<u32>) -> io::Result<()> {
        let backlog = backlog.unwrap_or(socket::DEFAULT_BACKLOG);
        if let Some(socket) = &self.exclusive {
            return socket::listen(socket, backlog);
        }
        self.by_worker.lock().iter().flatten().try_for_each(|s| socket::listen(s, backlog))
    }

    /// Whether no other socket may have the port.
    pub(super) fn is_exclusive(&self) -> bool {
        self.exclusive.is_some()
    }

    /// The socket of a worker, from 0; `None` when it was taken before.
    pub(super) fn take(&self, worker: usize) -> Option<Socket> {
        self.by_worker.lock().get_mut(worker)?.take()
    }
}
