//! gRPC checks: `grpc.health.v1.Health/Check`.

use super::probe::{Broken, Prober, Report};
use crate::codec::{Body, BodyError, BodySource, Frame};
use crate::upstream::grpc::{framed, read, stated};
use bytes::Bytes;
use data_plane_core::config::GrpcProbe;
use data_plane_core::guard::health::Failure;
use data_plane_core::headers::{HeaderId, HeaderList, RequestHead, Scheme, Version};
use prost::Message;
use std::task::{Context, Poll};

/// Longest answer, bytes.
const MAX_ANSWER: u32 = 64 * 1024;

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: i32 = 1;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct Question {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// A message whose length the head does not say, as gRPC has it.
struct Unsized(Option<Bytes>);

impl BodySource for Unsized {
    fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        Poll::Ready(self.0.take().map(|message| Ok(Frame::Data(message))))
    }
}

pub(super) async fn check(prober: &Prober, probe: &GrpcProbe) -> Result<Report, Broken> {
    let mut headers = HeaderList::default();
    headers.append(b"te", b"trailers");
    headers.append_id(HeaderId::ContentType, b"application/grpc");
    headers.append(b"grpc-timeout", stated(prober.timeout()).as_bytes());
    headers.append(b"user-agent", b"Envoy/HC");
    let mut head = RequestHead {
        method: "POST".into(),
        path: "/grpc.health.v1.Health/Check".into(),
        authority: prober.authority(&probe.authority),
        scheme: Scheme::Http,
        version: Version::Http2,
        headers,
    };
    prober.edit(&probe.edits, &mut head);
    let question = Question { service: probe.service_name.to_string() };
    let client = prober.h2().await?;
    let question = Body::Stream(Box::new(Unsized(Some(framed(&question)))));
    let (head, body) = client.exchange(&head, question).await.map_err(|_| Broken)?;
    if head.status != 200 {
        return Ok(Report::fail(Failure::Active));
    }
    let answer = read(&head, body, MAX_ANSWER).await.ok().and_then(|bytes| Answer::decode(bytes).ok());
    Ok(match answer {
        Some(Answer { status: SERVING }) => Report::PASS,
        _ => Report::fail(Failure::Active),
    })
}
