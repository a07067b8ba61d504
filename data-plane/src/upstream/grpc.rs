//! Unary gRPC calls through the pools of a worker: what filters ask of services beside the request.
//!
//! A call has a deadline that holds whatever the service does: connecting, waiting for a stream, hanging after the
//! head, sending for ever. Nothing is sent twice, but for what a host says that it did not process.

use super::cluster::{Cluster, Clusters};
use super::guard::{Admission, Outcome};
use super::host::Host;
use super::pick::PickRequest;
use super::pool::{Exchange, Local, UpstreamError, UpstreamErrorKind};
use super::stats::Traffic;
use crate::codec::{Body, Frame};
use bytes::{BufMut, Bytes, BytesMut};
use data_plane_core::config::GrpcTarget;
use data_plane_core::headers::{HeaderId, HeaderList, RequestHead, ResponseHead, Scheme, Version};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Longest answer where the configuration sets no limit, bytes: gRPC's own default.
const MAX_ANSWER: u32 = 4 << 20;

/// Compressed flag and length before a message.
const PREFIX: usize = 5;

/// A call to make.
#[derive(Clone, Copy, Debug)]
pub struct GrpcCall<'a> {
    /// Whom to ask.
    pub target: &'a GrpcTarget,
    /// `/package.Service/Method`.
    pub path: &'static str,
    /// All of the call, connecting included; `None`: the target's, or none.
    pub timeout: Option<Duration>,
    /// Further metadata: lowercase names, values.
    pub metadata: &'a [(&'a str, &'a [u8])],
}

/// A call that got no answer, with gRPC's status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("gRPC status {code}: {message}")]
pub struct GrpcError {
    /// gRPC status: 4 deadline, 8 too long an answer, 14 service not there; others are the service's.
    pub code: u32,
    /// What happened; of a service's own status its words.
    pub message: Box<str>,
}

impl GrpcError {
    const UNKNOWN: u32 = 2;
    const DEADLINE_EXCEEDED: u32 = 4;
    const RESOURCE_EXHAUSTED: u32 = 8;
    const UNIMPLEMENTED: u32 = 12;
    const INTERNAL: u32 = 13;
    const UNAVAILABLE: u32 = 14;

    fn new(code: u32, message: impl Into<Box<str>>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Calls a service: one message there, one back.
///
/// # Errors
/// No answer came in time, or the service refused.
///
/// # Cancel safety
/// Dropping the future resets the call's stream; outlier detection counts it as a timeout.
pub async fn unary<A: Message + Default>(
    clusters: &Clusters,
    pools: &Local,
    random: u64,
    call: GrpcCall<'_>,
    question: &impl Message,
) -> Result<A, GrpcError> {
    let cluster = clusters.load().get(&call.target.cluster).map(Arc::clone);
    let Some(cluster) = cluster else {
        let message = format!("there is no cluster {:?}", call.target.cluster);
        return Err(GrpcError::new(GrpcError::UNAVAILABLE, message));
    };
    let work = exchange(&cluster, pools, random, call, question);
    let answer = match call.timeout.or(call.target.timeout) {
        None => work.await,
        Some(timeout) => tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
            cluster.stats.upstream_rq_timeout.inc();
            cluster.stats.codes().charge(504, Traffic::Internal, false);
            Err(GrpcError::new(GrpcError::DEADLINE_EXCEEDED, "deadline exceeded"))
        }),
    };
    let bytes = answer?;
    A::decode(bytes).map_err(|error| GrpcError::new(GrpcError::INTERNAL, error.to_string()))
}

async fn exchange(
    cluster: &Arc<Cluster>,
    pools: &Local,
    random: u64,
    call: GrpcCall<'_>,
    question: &impl Message,
) -> Result<Bytes, GrpcError> {
    let head = request(call);
    if cluster.version_for(head.version) != Version::Http2 {
        let message = format!("cluster {:?} does not speak HTTP/2", call.target.cluster);
        return Err(GrpcError::new(GrpcError::UNAVAILABLE, message));
    }
    let Some(host) = cluster.pick(&PickRequest::random(random)) else {
        cluster.stats.codes().charge(503, Traffic::Internal, false);
        return Err(GrpcError::new(GrpcError::UNAVAILABLE, "no healthy upstream"));
    };
    let begun = Instant::now();
    let Ok(admission) = cluster.admit(begun) else {
        cluster.stats.codes().charge(503, Traffic::Internal, false);
        return Err(GrpcError::new(GrpcError::UNAVAILABLE, "circuit_breaker_open"));
    };
    // Cut off by the deadline, the call says of the host what is to be said.
    let mut attempt = Attempt { admission: Some(admission), host: &host, begun };
    let sent = pools.send(cluster, &host, &head, Body::Full(framed(question))).await;
    attempt.finish(match &sent {
        Ok(exchange) => {
            let grpc_status = exchange.head.headers.get_id(HeaderId::GrpcStatus);
            let grpc_status = grpc_status.and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
            Outcome::Response { status: exchange.head.status, grpc_status }
        }
        Err(error) => match error.kind {
            UpstreamErrorKind::ConnectFailure => Outcome::ConnectFailure,
            UpstreamErrorKind::ConnectTimeout => Outcome::ConnectTimeout,
            UpstreamErrorKind::Overflow | UpstreamErrorKind::RequestBody(_) => Outcome::Void,
            _ => Outcome::Reset,
        },
    });
    let Exchange { head, body, .. } = sent.map_err(|error| {
        cluster.stats.codes().charge(503, Traffic::Internal, false);
        no_answer(&error)
    })?;
    cluster.stats.codes().charge(head.status, Traffic::Internal, false);
    if head.status != 200 {
        return Err(GrpcError::new(by_http(head.status), format!("HTTP status {}", head.status)));
    }
    read(&head, body, call.target.max_receive_message_bytes.unwrap_or(MAX_ANSWER)).await
}

/// An attempt that counts as timed out when it is dropped under way.
struct Attempt<'a> {
    admission: Option<Admission>,
    host: &'a Host,
    begun: Instant,
}

impl Attempt<'_> {
    fn finish(&mut self, outcome: Outcome) {
        if let Some(admission) = self.admission.take() {
            admission.finish(self.host, outcome, self.begun.elapsed());
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.finish(Outcome::Timeout);
    }
}

fn request(call: GrpcCall<'_>) -> RequestHead {
    let mut headers = HeaderList::default();
    headers.append(b"te", b"trailers");
    headers.append_id(HeaderId::ContentType, b"application/grpc");
    if let Some(timeout) = call.timeout.or(call.target.timeout) {
        headers.append(b"grpc-timeout", stated(timeout).as_bytes());
    }
    for (name, value) in &call.target.metadata {
        headers.append(name.as_bytes(), value.as_bytes());
    }
    for (name, value) in call.metadata {
        headers.append(name.as_bytes(), value);
    }
    RequestHead {
        method: "POST".into(),
        path: call.path.into(),
        authority: call.target.authority.as_deref().unwrap_or(&call.target.cluster).into(),
        scheme: Scheme::Http,
        version: Version::Http2,
        headers,
    }
}

/// `grpc-timeout`: at most eight digits and a unit, rounded up.
pub(super) fn stated(timeout: Duration) -> String {
    let up = |unit: u128| timeout.as_nanos().div_ceil(unit);
    let units = [(1_000_000, 'm'), (1_000_000_000, 'S'), (60_000_000_000, 'M')];
    for (unit, name) in units {
        if up(unit) < 100_000_000 {
            return format!("{}{name}", up(unit));
        }
    }
    format!("{}H", up(3_600_000_000_000).min(99_999_999))
}

/// A message with its prefix, not compressed.
pub(super) fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // The buffer grows: there is always room.
    let _ = message.encode(&mut out);
    out.freeze()
}

fn no_answer(error: &UpstreamError) -> GrpcError {
    let code = match &error.kind {
        // As gRPC maps HTTP/2 error codes.
        UpstreamErrorKind::Reset(0xb) => GrpcError::RESOURCE_EXHAUSTED,
        UpstreamErrorKind::Reset(_) | UpstreamErrorKind::Protocol(_) => GrpcError::INTERNAL,
        _ => GrpcError::UNAVAILABLE,
    };
    GrpcError::new(code, error.to_string())
}

/// The gRPC status of an HTTP status (gRPC `http-grpc-status-mapping`).
fn by_http(status: u16) -> u32 {
    match status {
        400 => GrpcError::INTERNAL,
        401 => 16,
        403 => 7,
        404 => GrpcError::UNIMPLEMENTED,
        429 | 502 | 503 | 504 => GrpcError::UNAVAILABLE,
        _ => GrpcError::UNKNOWN,
    }
}

/// Reads the one message and the status after it.
pub(super) async fn read(head: &ResponseHead, mut body: Body, max: u32) -> Result<Bytes, GrpcError> {
    let mut data = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(Frame::Data(chunk)) => {
                if data.len() + chunk.len() > PREFIX + max as usize {
                    let message = format!("the answer is longer than {max} bytes");
                    return Err(GrpcError::new(GrpcError::RESOURCE_EXHAUSTED, message));
                }
                data.extend_from_slice(&chunk);
            }
            Ok(Frame::Trailers(list)) => trailers = Some(list),
            Err(error) => return Err(GrpcError::new(GrpcError::UNAVAILABLE, error.to_string())),
        }
    }
    // Without a body the head carries the status.
    status(trailers.as_ref().unwrap_or(&head.headers))?;
    let Some((prefix, rest)) = data.split_at_checked(PREFIX) else {
        return Err(GrpcError::new(GrpcError::INTERNAL, "the answer holds no message"));
    };
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if prefix[0] != 0 {
        return Err(GrpcError::new(GrpcError::UNIMPLEMENTED, "the answer is compressed"));
    }
    if rest.len() != length as usize {
        return Err(GrpcError::new(GrpcError::INTERNAL, "the answer is not one message"));
    }
    Ok(data.freeze().slice(PREFIX..))
}

fn status(headers: &HeaderList) -> Result<(), GrpcError> {
    let code = headers.get_id(HeaderId::GrpcStatus);
    match code.and_then(|code| std::str::from_utf8(code).ok()?.parse().ok()) {
        Some(0) => Ok(()),
        Some(code) => {
            let message = headers.get_id(HeaderId::GrpcMessage).unwrap_or_default();
            Err(GrpcError::new(code, decoded(message)))
        }
        None => Err(GrpcError::new(GrpcError::UNKNOWN, "the answer has no grpc-status")),
    }
}

/// A percent-encoded `grpc-message`.
fn decoded(text: &[u8]) -> String {
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let (mut out, mut at) = (Vec::with_capacity(text.len()), 0);
    while at < text.len() {
        match (text[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests;
