//! One request to a collector, through the export thread's own pools.

use crate::codec::{Body, Frame};
use crate::upstream::{Clusters, Local, PickRequest};
use bytes::{BufMut, Bytes, BytesMut};
use data_plane_core::config::{GrpcTarget, HttpTarget};
use data_plane_core::headers::{HeaderId, HeaderList, RequestHead, Scheme, Version};
use std::sync::Arc;
use std::time::Duration;

/// Longest answer that is read.
const MAX_ANSWER: usize = 64 << 10;

/// Where an exporter sends to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The cluster.
    pub cluster: Box<str>,
    /// `:authority`.
    pub authority: Box<str>,
    /// `:path`.
    pub path: Box<str>,
    /// How.
    pub protocol: Protocol,
    /// For one request; `None`: by runtime `telemetry.timeout_ms`.
    pub timeout: Option<Duration>,
    /// Sent with every request.
    pub headers: Vec<(Box<str>, Box<str>)>,
}

/// How a batch is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The one message of a gRPC call.
    Grpc,
    /// The body of a POST with this content type.
    Http(&'static str),
}

/// Why a batch was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(super) struct Failure {
    /// Another try may do.
    pub(super) retry: bool,
    /// In words.
    pub(super) reason: String,
}

impl Failure {
    fn again(reason: impl Into<String>) -> Self {
        Self { retry: true, reason: reason.into() }
    }
}

impl Target {
    /// A method of a gRPC service.
    pub fn grpc(target: &GrpcTarget, path: &str) -> Self {
        let GrpcTarget { cluster, authority, timeout, max_receive_message_bytes: _, metadata } = target;
        Self {
            cluster: cluster.clone(),
            authority: authority.clone().unwrap_or_else(|| cluster.clone()),
            path: path.into(),
            protocol: Protocol::Grpc,
            timeout: *timeout,
            headers: metadata.clone(),
        }
    }

    /// An HTTP service that takes bodies of `content_type`.
    pub fn http(target: &HttpTarget, content_type: &'static str) -> Self {
        let HttpTarget { cluster, authority, path, timeout, headers } = target;
        Self {
            cluster: cluster.clone(),
            authority: authority.clone(),
            path: path.clone(),
            protocol: Protocol::Http(content_type),
            timeout: Some(*timeout),
            headers: headers.clone(),
        }
    }

    fn head(&self, length: usize) -> RequestHead {
        let mut headers = HeaderList::default();
        match self.protocol {
            Protocol::Grpc => {
                headers.append_id(HeaderId::Te, b"trailers");
                headers.append_id(HeaderId::ContentType, b"application/grpc");
            }
            Protocol::Http(kind) => {
                headers.append_id(HeaderId::ContentType, kind.as_bytes());
                headers.append_id(HeaderId::ContentLength, length.to_string().as_bytes());
            }
        }
        headers.append_id(HeaderId::UserAgent, concat!("portolan/", env!("CARGO_PKG_VERSION")).as_bytes());
        for (name, value) in &self.headers {
            headers.append(name.as_bytes(), value.as_bytes());
        }
        RequestHead {
            method: "POST".into(),
            path: (*self.path).into(),
            authority: (*self.authority).into(),
            scheme: Scheme::Http,
            version: if self.protocol == Protocol::Grpc { Version::Http2 } else { Version::Http11 },
            headers,
        }
    }

    /// Sends a batch and reads the answer.
    pub(super) async fn send(&self, clusters: &Clusters, pools: &Local, batch: Bytes) -> Result<(), Failure> {
        let cluster = clusters.load().get(&self.cluster).map(Arc::clone);
        let cluster =
            cluster.ok_or_else(|| Failure::again(format!("there is no cluster {:?}", self.cluster)))?;
        let body = match self.protocol {
            Protocol::Grpc if cluster.version_for(Version::Http2) != Version::Http2 => {
                return Err(Failure::again(format!("cluster {:?} does not speak HTTP/2", self.cluster)));
            }
            Protocol::Grpc => {
                let mut framed = BytesMut::with_capacity(batch.len() + 5);
                framed.put_u8(0);
                framed.put_u32(u32::try_from(batch.len()).unwrap_or(u32::MAX));
                framed.extend_from_slice(&batch);
                framed.freeze()
            }
            Protocol::Http(_) => batch,
        };
        let request = PickRequest { random: fastrand::u64(..), ..PickRequest::default() };
        let host = cluster.pick(&request).ok_or_else(|| Failure::again("no healthy upstream"))?;
        let head = self.head(body.len());
        let exchange = pools.send(&cluster, &host, &head, Body::Full(body)).await;
        let exchange = exchange.map_err(|error| Failure::again(error.kind.to_string()))?;
        let trailers = read(exchange.body).await?;
        match self.protocol {
            Protocol::Http(_) => by_http(exchange.head.status),
            Protocol::Grpc if exchange.head.status != 200 => by_http(exchange.head.status),
            Protocol::Grpc => by_grpc(trailers.as_ref().unwrap_or(&exchange.head.headers)),
        }
    }
}

/// Reads an answer to its end; what it says beside its status is of no interest.
async fn read(mut body: Body) -> Result<Option<HeaderList>, Failure> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        match frame.map_err(|error| Failure::again(error.to_string()))? {
            Frame::Data(data) => length += data.len(),
            Frame::Trailers(trailers) => return Ok(Some(trailers)),
        }
        if length > MAX_ANSWER {
            return Err(Failure::again("the answer is too long"));
        }
    }
    Ok(None)
}

/// OTLP/HTTP: 429, 502, 503 and 504 may be tried again, and so may what says "later" or nothing at all.
fn by_http(status: u16) -> Result<(), Failure> {
    match status {
        200..=299 => Ok(()),
        408 | 429 | 500 | 502..=504 => Err(Failure::again(format!("HTTP status {status}"))),
        _ => Err(Failure { retry: false, reason: format!("HTTP status {status}") }),
    }
}

/// OTLP/gRPC: which statuses may be tried again.
fn by_grpc(headers: &HeaderList) -> Result<(), Failure> {
    let status = headers.get_id(HeaderId::GrpcStatus).and_then(|status| std::str::from_utf8(status).ok());
    let Some(status) = status.and_then(|status| status.parse::<u32>().ok()) else {
        return Err(Failure::again("an answer without a gRPC status"));
    };
    let message = headers.get_id(HeaderId::GrpcMessage).map(String::from_utf8_lossy).unwrap_or_default();
    match status {
        0 => Ok(()),
        // CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS
        1 | 4 | 8 | 10 | 11 | 14 | 15 => Err(Failure::again(format!("gRPC status {status}: {message}"))),
        _ => Err(Failure { retry: false, reason: format!("gRPC status {status}: {message}") }),
    }
}
