//! An upstream HTTP/2 connection: many exchanges at a time.

use crate::codec::{Body, ClientOptions, ExchangeError, Io};
use data_plane_core::headers::{RequestHead, ResponseHead};
use std::future::Future;
use std::sync::Arc;

/// A handle to an upstream HTTP/2 connection; clones share it.
#[derive(Clone)]
pub struct Client {}

/// Starts HTTP/2 on a fresh connection. The second value drives the connection and ends with it: spawn it.
/// It also ends, after its streams, once all handles are dropped.
///
/// # Errors
/// When the connection fails before the preface is written.
pub async fn connect<S: Io>(
    io: S,
    options: Arc<ClientOptions>,
) -> Result<(Client, impl Future<Output = ()> + 'static), ExchangeError> {
    let _ = (io, options);
    Ok((Client {}, async {}))
}

impl Client {
    /// Sends a request and waits for the response's head; the response's body goes on sending the request's body.
    ///
    /// # Cancel safety
    /// Dropping the future, or the response's body before its end, resets the stream.
    pub async fn exchange(
        &self,
        head: &RequestHead,
        body: Body,
    ) -> Result<(ResponseHead, Body), ExchangeError> {
        let _ = (head, body);
        todo!()
    }

    /// Exchanges under way.
    pub fn active(&self) -> usize {
        todo!()
    }

    /// Whether a new exchange may be started: neither closed nor going away. Says nothing of [`Self::max_concurrent`].
    pub fn is_usable(&self) -> bool {
        todo!()
    }

    /// Exchanges the peer and the configuration allow at a time.
    pub fn max_concurrent(&self) -> usize {
        todo!()
    }

    /// No new exchanges; the connection ends after those under way.
    pub fn close(&self) {
        todo!()
    }
}
