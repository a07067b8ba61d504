//! HTTP/2 over the `h2` crate: its frames and flow control, our heads, bodies and deadlines.
//!
//! - `batch`: writes of a loop turn gathered into one
//! - `convert`: heads to and from the `http` crate's types
//! - `flow`: bodies over streams, both directions
//! - `server`: downstream connections
//! - `client`: upstream connections

mod client;

pub use client::{Client, connect};

use super::{ConnectionEnd, Handler, Io, ServerOptions};
use crate::task::Shutdown;
use bytes::BytesMut;
use std::rc::Rc;
use tokio::time::Instant;

pub(super) async fn serve<S: Io, H: Handler>(
    _io: S,
    _received: BytesMut,
    _born: Instant,
    _options: &ServerOptions,
    _handler: Rc<H>,
    _shutdown: Shutdown,
) -> ConnectionEnd {
    todo!()
}
