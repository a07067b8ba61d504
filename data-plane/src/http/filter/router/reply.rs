//! What becomes of an attempt's end: the upstream's answer as it goes on, or an answer of our own.

use super::Router;
use super::attempt::Failed;
use super::books::{charge_timeout, settle, upstream_status};
use crate::codec::{Body, BodyError};
use crate::http::local_reply::{Cause, LocalReply, Reset};
use crate::http::stream::StreamCx;
use crate::upstream::{Exchange, Outcome, UpstreamErrorKind};
use data_plane_core::accesslog::Renderer;
use data_plane_core::config::DirectResponse;
use data_plane_core::headers::{HeaderId, RequestHead, ResponseHead};
use std::borrow::Cow;
use tokio::time::Instant;

impl Router {
    /// The upstream's answer, which goes to the client.
    pub(super) fn answered(
        &self,
        exchange: Exchange,
        request: &RequestHead,
        cx: &mut StreamCx,
    ) -> (ResponseHead, Body) {
        let now = cx.moments.upstream_head.unwrap_or_else(Instant::now);
        let Exchange { mut head, body, .. } = exchange;
        cx.details = Cow::Borrowed("via_upstream");
        if let Some(host) = &cx.host {
            host.stats().response(upstream_status(&head, cx.grpc));
        }
        self.charge(cx, request, head.status, cx.upstream.canary);
        // Not for an answer that came before the end of the request: there is nothing to measure from.
        if let Some(complete) = cx.vitals.complete.get().filter(|_| !self.suppress_envoy_headers) {
            let elapsed = now.saturating_duration_since(complete).as_millis() as u64;
            let mut digits = itoa::Buffer::new();
            head.headers.set_id(HeaderId::XEnvoyUpstreamServiceTime, digits.format(elapsed).as_bytes());
        }
        cx.status = Some(head.status);
        for cookie in &cx.new_cookies {
            head.headers.append(b"set-cookie", cookie.as_bytes());
        }
        self.edit_response(&mut head, request, cx);
        Self::count_attempts(&mut head, cx);
        (head, body)
    }

    /// What to answer when the last attempt failed so.
    pub(super) fn failed(&self, failed: Failed, request: &RequestHead, cx: &mut StreamCx) -> LocalReply {
        let kind = match failed {
            Failed::NoHost => {
                self.charge(cx, request, 503, false);
                return Cause::NoHealthyUpstream.into();
            }
            Failed::BreakerOpen(retry_after) => {
                self.charge(cx, request, 503, false);
                return Cause::BreakerOpen(retry_after).into();
            }
            Failed::Upstream(error) => error.kind,
        };
        let reset = match reset_of(&kind) {
            Ok(reset) => reset,
            Err(error) => return client_body_failed(error),
        };
        let why = cx.upstream.transport_failure.as_deref().map(|why| why.replace(' ', "_"));
        let retried = cx.attempts > 1;
        let mut reply = LocalReply::from(Cause::Upstream { reset, transport: why.as_deref(), retried });
        reply.overloaded &= !self.suppress_envoy_headers;
        if let Some(host) = &cx.host {
            host.stats().error();
        }
        self.charge(cx, request, reply.status, false);
        reply
    }

    /// The route's timeout passed before a response began: the books of it, and what to answer.
    pub(in crate::http) fn timed_out(&self, request: &RequestHead, cx: &mut StreamCx) -> LocalReply {
        let reply = LocalReply::from(Cause::ResponseTimeout { quiet: cx.quiet_timeout });
        charge_timeout(cx);
        settle(cx, Outcome::Timeout, Instant::now());
        self.charge(cx, request, reply.status, false);
        if let Some(host) = &cx.host {
            host.stats().error();
        }
        reply
    }
}

/// What an error of the pool is to the router; the error of the client's body where that is at fault.
pub(super) fn reset_of(kind: &UpstreamErrorKind) -> Result<Reset, &BodyError> {
    Ok(match kind {
        UpstreamErrorKind::ConnectFailure => Reset::ConnectFailure,
        UpstreamErrorKind::ConnectTimeout => Reset::ConnectTimeout,
        UpstreamErrorKind::Terminated => Reset::Termination,
        UpstreamErrorKind::Reset(_) => Reset::Remote,
        UpstreamErrorKind::Refused => Reset::RemoteRefused,
        UpstreamErrorKind::Protocol(_) => Reset::Protocol,
        UpstreamErrorKind::Overflow => Reset::Overflow,
        UpstreamErrorKind::RequestBody(error) => return Err(error),
    })
}

/// What the guard is told of an attempt that got no response.
pub(super) fn outcome_of(kind: &UpstreamErrorKind) -> Outcome {
    match kind {
        UpstreamErrorKind::ConnectFailure => Outcome::ConnectFailure,
        UpstreamErrorKind::ConnectTimeout => Outcome::ConnectTimeout,
        UpstreamErrorKind::Terminated
        | UpstreamErrorKind::Reset(_)
        | UpstreamErrorKind::Refused
        | UpstreamErrorKind::Protocol(_) => Outcome::Reset,
        UpstreamErrorKind::Overflow | UpstreamErrorKind::RequestBody(_) => Outcome::Void,
    }
}

/// An answer that the route has written down.
pub(super) fn direct_response(direct: &DirectResponse, head: &RequestHead, cx: &StreamCx) -> LocalReply {
    // Envoy names the request's own address in 201 and 3xx.
    let location = (direct.status == 201 || (300..400).contains(&direct.status))
        .then(|| format!("{}://{}{}", head.scheme.as_str(), head.authority, head.path).into());
    let Some(format) = &direct.body_format else {
        let reply = LocalReply::from(Cause::Direct(direct.status, direct.body.clone()));
        return LocalReply { location, ..reply };
    };
    let (mut body, renderer) = (Vec::new(), Renderer::new(&format.format));
    cx.with_record(Some(head), None, None, |record| renderer.render(record, &mut body));
    let mut reply = LocalReply::from(Cause::Direct(direct.status, body.into()));
    reply.content_type = Some(format.content_type.clone());
    reply.location = location;
    reply
}

/// The client's part of the exchange failed. It is mostly gone; one that broke the protocol may still listen.
fn client_body_failed(error: &BodyError) -> LocalReply {
    let (status, body, details, protocol) = match error {
        BodyError::Protocol(_) => (400, "Bad Request", "http1.codec_error", true),
        _ => (400, "", "downstream_remote_disconnect", false),
    };
    Cause::Codec { status, body, details, protocol }.into()
}
