//! An upstream HTTP/1.1 connection: one exchange at a time.

use crate::codec::{Body, ClientOptions, ExchangeError, Io};
use data_plane_core::headers::{RequestHead, ResponseHead};
use std::rc::Rc;
use std::sync::Arc;

/// Where a connection goes once its exchange is over and it can take another.
pub trait Reuse<S> {
    /// Takes the connection. A connection that cannot be used again is dropped instead.
    fn put(&self, conn: ClientConn<S>);
}

/// An upstream connection between exchanges. Holds no buffer while idle.
pub struct ClientConn<S> {
    io: S,
    options: Arc<ClientOptions>,
    exchanges: u64,
}

impl<S: Io> ClientConn<S> {
    /// A connection that has carried nothing yet.
    pub fn new(io: S, options: Arc<ClientOptions>) -> Self {
        Self { io, options, exchanges: 0 }
    }

    /// The byte stream beneath.
    pub fn io(&self) -> &S {
        &self.io
    }

    /// Exchanges begun on it.
    pub fn exchanges(&self) -> u64 {
        self.exchanges
    }

    /// Whether the peer has neither closed nor sent anything unasked. No system call in the common case.
    ///
    /// Leaves the current task registered for the next read event of the connection when there is one.
    pub fn is_alive(&mut self) -> bool {
        todo!()
    }

    /// Waits, while idle, until the peer closes or sends something unasked: the connection is of no more use.
    pub fn poll_dead(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        let _ = cx;
        todo!()
    }

    /// Sends a request and waits for the response's head; the response's body goes on sending the request's body,
    /// and hands the connection to `reuse` once both are over, if it can be used again.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn exchange(
        self,
        head: &RequestHead,
        body: Body,
        reuse: Rc<dyn Reuse<S>>,
    ) -> Result<(ResponseHead, Body), ExchangeError> {
        let _ = (head, body, reuse, &self.options);
        todo!()
    }
}
