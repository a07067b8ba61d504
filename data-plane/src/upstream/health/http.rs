//! HTTP checks.

use super::probe::{Broken, Prober, Report, Seat, holds};
use crate::codec::h1::{ClientConn, Reuse};
use crate::codec::{Body, ClientOptions, Frame};
use crate::transport::tls::Offer;
use bytes::Bytes;
use data_plane_core::config::HttpProbe;
use data_plane_core::guard::health::{Failure, Verdict};
use data_plane_core::headers::{HeaderId, HeaderList, RequestHead, ResponseHead, Scheme, Version};
use std::rc::Rc;
use std::sync::Arc;

/// Bytes of a response that are read at most; a connection with more to come is given up.
const MAX_BODY: usize = 1 << 20;

/// The cluster that the peer says it is.
const SERVED_BY: &[u8] = b"x-envoy-upstream-healthchecked-cluster";

pub(super) async fn check(prober: &Prober, probe: &HttpProbe) -> Result<Report, Broken> {
    let mut headers = HeaderList::default();
    headers.append(b"user-agent", b"Envoy/HC");
    let mut head = RequestHead {
        method: probe.method.clone(),
        path: probe.path.to_string(),
        authority: prober.authority(&probe.host),
        scheme: Scheme::Http,
        version: if probe.http2 { Version::Http2 } else { Version::Http11 },
        headers,
    };
    prober.edit(&probe.edits, &mut head);
    let body =
        if probe.send.is_empty() { Body::Empty } else { Body::Full(Bytes::copy_from_slice(&probe.send)) };
    let (head, body) = if probe.http2 {
        prober.h2().await?.exchange(&head, body).await.map_err(|_| Broken)?
    } else {
        let conn = h1(prober).await?;
        let reuse = Rc::clone(prober.seat()) as Rc<dyn Reuse<_>>;
        conn.exchange(&head, body, reuse).await.map_err(|_| Broken)?
    };
    let content = read(body, prober.seat()).await?;
    Ok(judge(prober, probe, &head, &content))
}

/// The kept connection, or a fresh one.
async fn h1(prober: &Prober) -> Result<ClientConn<crate::transport::Stream>, Broken> {
    let kept = prober.seat().h1.take();
    if let Some(mut conn) = kept
        && conn.is_alive()
    {
        return Ok(conn);
    }
    let options = Arc::new(ClientOptions::new(&prober.cluster().config));
    Ok(ClientConn::new(prober.connect(Offer::Http1).await?, options))
}

/// The body, as much as is ever looked at.
async fn read(mut body: Body, seat: &Rc<Seat>) -> Result<Vec<u8>, Broken> {
    let mut content = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Frame::Data(chunk) = frame.map_err(|_| Broken)? {
            content.extend_from_slice(&chunk);
        }
        if content.len() > MAX_BODY {
            seat.h2.take();
            break;
        }
    }
    Ok(content)
}

fn judge(prober: &Prober, probe: &HttpProbe, head: &ResponseHead, content: &[u8]) -> Report {
    let status = Some(head.status);
    let within = |ranges: &[std::ops::Range<u16>]| ranges.iter().any(|range| range.contains(&head.status));
    if !within(&probe.expected) {
        let exclude = head.headers.contains_id(HeaderId::XEnvoyImmediateHealthCheckFail);
        let verdict = Verdict::Fail { failure: Failure::Active, retriable: within(&probe.retriable) };
        return Report { verdict, failure: Some(Failure::Active), status, exclude };
    }
    let failed = Report { status, ..Report::fail(Failure::Active) };
    if let Some(expected) = &probe.service_name {
        prober.cluster().count_verified();
        let name = head.headers.joined(SERVED_BY).unwrap_or_default();
        if !expected.matches(&name) {
            return failed;
        }
    }
    let looked_at = &content[..content.len().min(probe.response_buffer.unwrap_or(usize::MAX))];
    if !holds(looked_at, &probe.receive) {
        return failed;
    }
    let degraded = head.headers.contains_id(HeaderId::XEnvoyDegraded);
    Report { verdict: Verdict::Pass { degraded }, status, ..Report::PASS }
}
