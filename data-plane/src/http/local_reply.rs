//! Answers of the proxy itself: the one place where causes become a status, a body, a flag and details.
//!
//! Everything a client sees that no upstream said goes through [`LocalReply`]. Texts and codes are Envoy's, since
//! people and tests match on them.

use super::vitals::Expired;
use bytes::Bytes;
use data_plane_core::headers::edit::HeaderEdits;
use data_plane_core::headers::{HeaderId, RequestHead, ResponseFlags, ResponseHead};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// Why an exchange with an upstream ended without a whole answer (Envoy `StreamResetReason`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reset {
    /// The host refused the connection or could not be reached.
    ConnectFailure,
    /// The host did not accept the connection in time.
    ConnectTimeout,
    /// The connection ended.
    Termination,
    /// The host reset the stream.
    Remote,
    /// The host reset the stream without processing it.
    RemoteRefused,
    /// The proxy gave the exchange up.
    Local,
    /// A circuit breaker is open.
    Overflow,
    /// The host broke the protocol.
    Protocol,
}

impl Reset {
    /// As Envoy words it in bodies and details.
    fn as_str(self) -> &'static str {
        match self {
            Self::ConnectFailure => "remote connection failure",
            Self::ConnectTimeout => "connection timeout",
            Self::Termination => "connection termination",
            Self::Remote => "remote reset",
            Self::RemoteRefused => "remote refused stream reset",
            Self::Local => "local reset",
            Self::Overflow => "overflow",
            Self::Protocol => "protocol error",
        }
    }

    /// The response flag.
    pub(super) fn flags(self) -> ResponseFlags {
        match self {
            Self::ConnectFailure | Self::ConnectTimeout => ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
            Self::Termination => ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
            Self::Remote | Self::RemoteRefused => ResponseFlags::UPSTREAM_REMOTE_RESET,
            Self::Local => ResponseFlags::LOCAL_RESET,
            Self::Overflow => ResponseFlags::UPSTREAM_OVERFLOW,
            Self::Protocol => ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
        }
    }

    /// Response code details. `started`: the answer had begun. `transport`: why connecting failed.
    pub(super) fn details(self, started: bool, transport: Option<&str>) -> String {
        let when = if started { "after" } else { "before" };
        let mut text = format!("upstream_reset_{when}_response_started{{{}", self.as_str());
        if let Some(transport) = transport {
            text.push('|');
            text.push_str(transport);
        }
        text.push('}');
        text.replace(char::is_whitespace, "_")
    }
}

/// Why the proxy answers by itself.
#[derive(Clone, Debug)]
pub(super) enum Cause<'a> {
    /// No route matches.
    RouteNotFound,
    /// The route's cluster does not exist, or its header is missing; with the status the route wants.
    ClusterNotFound(u16),
    /// The cluster has no host to send to.
    NoHealthyUpstream,
    /// The cluster's circuit breaker is open; with when to try again.
    BreakerOpen(Option<Duration>),
    /// No answer came from upstream; with why connecting failed.
    Upstream {
        /// How.
        reset: Reset,
        /// What the transport said.
        transport: Option<&'a str>,
        /// It was not the first attempt.
        retried: bool,
    },
    /// The route's timeout passed. `quiet`: the client asked for 204 instead (x-envoy-upstream-rq-timeout-alt-response).
    ResponseTimeout {
        /// Answer 204 without a body.
        quiet: bool,
    },
    /// A timeout of one try passed, and there is no other try. `quiet`: as above.
    TryTimeout {
        /// Which.
        expired: Expired,
        /// Answer 204 without a body.
        quiet: bool,
    },
    /// More of the request came than may be kept, while it waited for another try.
    RetryBufferExceeded,
    /// A deadline of the stream passed. `complete`: the request was read to its end.
    Deadline {
        /// Which.
        expired: Expired,
        /// Whether the client has done its part.
        complete: bool,
    },
    /// No `host`.
    MissingHost,
    /// A path that does not begin with `/`.
    NotAPath,
    /// A path that cannot be normalised, or must not be as it is.
    BadPath,
    /// The client must ask for the normalised path.
    NormalizedPath(&'a str),
    /// An upgrade that is not enabled.
    UpgradeRefused,
    /// The route answers by itself.
    Direct(u16, Bytes),
    /// The route redirects there.
    Redirect(u16, String),
    /// The codec refused the message.
    Codec {
        /// Status.
        status: u16,
        /// Body; may be empty.
        body: &'static str,
        /// Details.
        details: &'static str,
        /// Whether the client broke the protocol.
        protocol: bool,
    },
}

/// An answer of the proxy itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalReply {
    /// Status; gRPC requests get it as grpc-status.
    pub status: u16,
    /// Body as plain text; may be empty.
    pub body: Bytes,
    /// In place of `text/plain`.
    pub content_type: Option<Box<str>>,
    /// For access logs.
    pub flags: ResponseFlags,
    /// For access logs.
    pub details: Cow<'static, str>,
    /// In place of the one that follows from the status.
    pub grpc_status: Option<u32>,
    /// `location`.
    pub location: Option<Box<str>>,
    /// Say x-envoy-overloaded.
    pub overloaded: bool,
    /// Say x-envoy-attempt-count where the virtual host wants it.
    pub attempts: bool,
    /// Close the connection after it (HTTP/1).
    pub close: bool,
    /// What a filter adds after the route's edits.
    pub added: Option<Box<Added>>,
}

/// Headers that a filter adds to its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// Names and values, first. A `content-type` takes the place of the body's own.
    pub headers: Vec<(Bytes, Bytes)>,
    /// As configured, after `headers`.
    pub edits: Option<Arc<HeaderEdits>>,
    /// `retry-after` in seconds, unless one is there by then.
    pub retry_after: Option<u64>,
}

impl LocalReply {
    /// An answer without body.
    pub fn new(status: u16, details: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            body: Bytes::new(),
            content_type: None,
            flags: ResponseFlags::NONE,
            details: details.into(),
            grpc_status: None,
            location: None,
            overloaded: false,
            attempts: false,
            close: false,
            added: None,
        }
    }

    /// With that body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// With those flags.
    #[must_use]
    pub fn flags(mut self, flags: ResponseFlags) -> Self {
        self.flags = flags;
        self
    }

    fn text(status: u16, details: &'static str, body: &'static str) -> Self {
        Self::new(status, details).body(Bytes::from_static(body.as_bytes()))
    }

    /// Of the router: a try was made, or would have been.
    fn tried(mut self) -> Self {
        self.attempts = true;
        self
    }

    fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    fn location(mut self, location: String) -> Self {
        self.location = (!location.is_empty()).then(|| location.into());
        self
    }
}

impl From<Cause<'_>> for LocalReply {
    fn from(cause: Cause<'_>) -> Self {
        use ResponseFlags as F;
        match cause {
            Cause::RouteNotFound => Self::new(404, "route_not_found").flags(F::NO_ROUTE_FOUND),
            Cause::ClusterNotFound(status) => {
                Self::new(status, "cluster_not_found").flags(F::NO_CLUSTER_FOUND)
            }
            Cause::NoHealthyUpstream => {
                let reply = Self::text(503, "no_healthy_upstream", "no healthy upstream");
                reply.flags(F::NO_HEALTHY_UPSTREAM).tried()
            }
            Cause::BreakerOpen(retry_after) => {
                let text =
                    "upstream connect error or disconnect/reset before headers. reset reason: overflow";
                let mut reply = Self::text(503, "circuit_breaker_open", text).flags(F::UPSTREAM_OVERFLOW);
                reply.added = retry_after.map(|wait| {
                    // Whole seconds, and not too early.
                    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                    let header = (Bytes::from_static(b"retry-after"), Bytes::from(seconds.to_string()));
                    Box::new(Added { headers: vec![header], ..Added::default() })
                });
                reply.tried()
            }
            Cause::Upstream { reset, transport, retried } => Self::upstream(reset, transport, retried),
            Cause::ResponseTimeout { quiet } => {
                let reply = if quiet {
                    Self::new(204, "response_timeout")
                } else {
                    Self::text(504, "response_timeout", "upstream request timeout")
                };
                reply.flags(F::UPSTREAM_REQUEST_TIMEOUT).tried()
            }
            Cause::TryTimeout { expired, quiet } => {
                let reply: Self = Cause::ResponseTimeout { quiet }.into();
                Self { details: try_details(expired).into(), ..reply }
            }
            Cause::RetryBufferExceeded => {
                let text = "exceeded request buffer limit while retrying upstream";
                Self::text(507, "request_payload_exceeded_retry_buffer_limit", text).tried()
            }
            Cause::Deadline { expired, complete } => Self::deadline(expired, complete),
            Cause::MissingHost => Self::new(400, "missing_host_header").closing(),
            Cause::NotAPath => Self::new(404, "absolute_path_rejected"),
            Cause::BadPath => Self::new(400, "path_normalization_failed").closing(),
            Cause::NormalizedPath(path) => {
                Self::new(307, "path_normalization_failed").location(path.to_owned())
            }
            Cause::UpgradeRefused => Self::new(403, "upgrade_failed").closing(),
            Cause::Direct(status, body) => Self::new(status, "direct_response").body(body),
            Cause::Redirect(status, location) => Self::new(status, "direct_response").location(location),
            Cause::Codec { status, body, details, protocol } => {
                let flags = if protocol { F::DOWNSTREAM_PROTOCOL_ERROR } else { F::NONE };
                Self::text(status, details, body).flags(flags).closing()
            }
        }
    }
}

impl LocalReply {
    fn upstream(reset: Reset, transport: Option<&str>, retried: bool) -> Self {
        // Envoy answers 502 to upstream protocol errors only.
        let status = if reset == Reset::Protocol { 502 } else { 503 };
        let body = format!(
            "upstream connect error or disconnect/reset before headers. {}reset reason: {}",
            if retried { "retried and the latest " } else { "" },
            reset.as_str()
        );
        let mut reply = Self::new(status, reset.details(false, transport)).body(body).flags(reset.flags());
        reply.overloaded = reset == Reset::Overflow;
        reply.tried()
    }

    fn deadline(expired: Expired, complete: bool) -> Self {
        // 408 while the client still owes a part of its request (Envoy `maybeRequestTimeoutCode`).
        let status = if complete { 504 } else { 408 };
        match expired {
            Expired::Route => Cause::ResponseTimeout { quiet: false }.into(),
            Expired::Try | Expired::TryIdle => Cause::TryTimeout { expired, quiet: false }.into(),
            Expired::Idle => Self::text(status, "stream_idle_timeout", "stream timeout")
                .flags(ResponseFlags::STREAM_IDLE_TIMEOUT),
            Expired::Duration => {
                let mut reply = Self::text(status, "max_duration_timeout", "downstream duration timeout");
                reply.grpc_status = Some(4);
                reply
            }
            Expired::Request => Self::text(408, "request_overall_timeout", "request timeout"),
        }
    }

    /// The head and body as they go to the client, before the connection manager's own headers. `edit` applies
    /// what the route, the router and `local_reply_config` make of it; it comes before the reply's own headers, as in
    /// Envoy.
    pub(super) fn render(
        mut self,
        request: Option<&RequestHead>,
        edit: impl FnOnce(&mut ResponseHead, &mut Self),
    ) -> (ResponseHead, Bytes) {
        let mut head = ResponseHead::new(self.status);
        if let Some(location) = &self.location {
            head.headers.append_id(HeaderId::Location, location.as_bytes());
        }
        if let Some(content_type) = &self.content_type {
            head.headers.append_id(HeaderId::ContentType, content_type.as_bytes());
        }
        edit(&mut head, &mut self);
        let is_head = request.is_some_and(|r| &*r.method == "HEAD");
        if request.is_some_and(is_grpc) {
            self.render_grpc(&mut head, is_head);
            return (head, Bytes::new());
        }
        if self.body.is_empty() {
            head.headers.remove_id(HeaderId::ContentLength);
            head.headers.remove_id(HeaderId::ContentType);
            return (head, Bytes::new());
        }
        let mut digits = itoa::Buffer::new();
        head.headers.set_id(HeaderId::ContentLength, digits.format(self.body.len()).as_bytes());
        if !head.headers.contains_id(HeaderId::ContentType) {
            head.headers.append_id(HeaderId::ContentType, self.content_type().as_bytes());
        }
        (head, if is_head { Bytes::new() } else { self.body })
    }

    /// The type of its body.
    pub(super) fn content_type(&self) -> &str {
        self.content_type.as_deref().unwrap_or("text/plain")
    }

    fn render_grpc(&self, head: &mut ResponseHead, is_head: bool) {
        head.status = 200;
        head.headers.set_id(HeaderId::ContentType, b"application/grpc");
        if !head.headers.contains_id(HeaderId::GrpcStatus) {
            let status = self.grpc_status.unwrap_or_else(|| grpc_status(self.status));
            head.headers.append_id(HeaderId::GrpcStatus, itoa::Buffer::new().format(status).as_bytes());
        }
        if !self.body.is_empty() && !is_head {
            // A formatted body ends its line, a message does not.
            let message = self.body.trim_ascii_end();
            head.headers.set_id(HeaderId::GrpcMessage, &percent_encode(message));
        }
        head.headers.remove_id(HeaderId::ContentLength);
    }
}

/// Response code details of a try's timeout.
fn try_details(expired: Expired) -> &'static str {
    match expired {
        Expired::TryIdle => "upstream_per_try_idle_timeout",
        _ => "upstream_per_try_timeout",
    }
}

/// Whether a request is gRPC: `application/grpc` or `application/grpc+..`.
pub(super) fn is_grpc(request: &RequestHead) -> bool {
    request.headers.get_id(HeaderId::ContentType).is_some_and(|value| {
        value.strip_prefix(b"application/grpc").is_some_and(|rest| rest.is_empty() || rest[0] == b'+')
    })
}

/// The gRPC status that stands for an HTTP status (gRPC `http-grpc-status-mapping`).
fn grpc_status(http: u16) -> u32 {
    match http {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// Percent-encodes a grpc-message: all but printable ASCII, and `%` itself.
fn percent_encode(text: &[u8]) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Vec::with_capacity(text.len());
    for &byte in text {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            out.push(byte);
        } else {
            out.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_plane_core::headers::{HeaderList, Scheme, Version};

    fn request(content_type: &[u8]) -> RequestHead {
        let mut headers = HeaderList::default();
        headers.append(b"content-type", content_type);
        RequestHead {
            method: "POST".into(),
            path: "/".into(),
            authority: "a".into(),
            scheme: Scheme::Http,
            version: Version::Http11,
            headers,
        }
    }

    fn text(head: &ResponseHead) -> String {
        let lines = head
            .headers
            .iter()
            .map(|h| format!("{}: {}\n", String::from_utf8_lossy(h.name), String::from_utf8_lossy(h.value)));
        lines.collect()
    }

    #[test]
    fn causes_become_what_envoy_answers() {
        let complete = |expired| Cause::Deadline { expired, complete: true };
        let open = |expired| Cause::Deadline { expired, complete: false };
        let refused = Some("delayed connect error: Connection refused");
        #[rustfmt::skip]
        let table: &[(Cause<'_>, u16, &str, &str, &str)] = &[
            (Cause::RouteNotFound, 404, "", "NR", "route_not_found"),
            (Cause::ClusterNotFound(503), 503, "", "NC", "cluster_not_found"),
            (Cause::ClusterNotFound(404), 404, "", "NC", "cluster_not_found"),
            (Cause::NoHealthyUpstream, 503, "no healthy upstream", "UH", "no_healthy_upstream"),
            (Cause::Upstream { reset: Reset::ConnectFailure, transport: refused, retried: false }, 503,
                "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure",
                "UF", "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"),
            (Cause::Upstream { reset: Reset::ConnectTimeout, transport: None, retried: false }, 503,
                "upstream connect error or disconnect/reset before headers. reset reason: connection timeout",
                "UF", "upstream_reset_before_response_started{connection_timeout}"),
            (Cause::Upstream { reset: Reset::Termination, transport: None, retried: false }, 503,
                "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
                "UC", "upstream_reset_before_response_started{connection_termination}"),
            (Cause::Upstream { reset: Reset::Remote, transport: None, retried: false }, 503,
                "upstream connect error or disconnect/reset before headers. reset reason: remote reset",
                "UR", "upstream_reset_before_response_started{remote_reset}"),
            (Cause::Upstream { reset: Reset::Protocol, transport: None, retried: false }, 502,
                "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
                "UPE", "upstream_reset_before_response_started{protocol_error}"),
            (Cause::Upstream { reset: Reset::Overflow, transport: None, retried: false }, 503,
                "upstream connect error or disconnect/reset before headers. reset reason: overflow",
                "UO", "upstream_reset_before_response_started{overflow}"),
            (Cause::ResponseTimeout { quiet: false }, 504, "upstream request timeout", "UT", "response_timeout"),
            (Cause::ResponseTimeout { quiet: true }, 204, "", "UT", "response_timeout"),
            (complete(Expired::Idle), 504, "stream timeout", "SI", "stream_idle_timeout"),
            (open(Expired::Idle), 408, "stream timeout", "SI", "stream_idle_timeout"),
            (complete(Expired::Duration), 504, "downstream duration timeout", "-", "max_duration_timeout"),
            (open(Expired::Duration), 408, "downstream duration timeout", "-", "max_duration_timeout"),
            (open(Expired::Request), 408, "request timeout", "-", "request_overall_timeout"),
            (Cause::MissingHost, 400, "", "-", "missing_host_header"),
            (Cause::NotAPath, 404, "", "-", "absolute_path_rejected"),
            (Cause::BadPath, 400, "", "-", "path_normalization_failed"),
            (Cause::UpgradeRefused, 403, "", "-", "upgrade_failed"),
        ];
        for (cause, status, body, flags, details) in table {
            let reply = LocalReply::from(cause.clone());
            assert_eq!(reply.status, *status, "{cause:?}");
            assert_eq!(reply.body, body.as_bytes(), "{cause:?}");
            assert_eq!(reply.flags.to_string(), *flags, "{cause:?}");
            assert_eq!(reply.details, *details, "{cause:?}");
        }
    }

    #[test]
    fn plain_replies_have_length_then_type_after_the_routes_headers() {
        let mut reply = LocalReply::from(Cause::NoHealthyUpstream);
        reply.overloaded = true;
        let (head, body) = reply.render(None, |head, _| head.headers.append(b"x-route", b"r"));
        assert_eq!(text(&head), "x-route: r\ncontent-length: 19\ncontent-type: text/plain\n");
        assert_eq!(body, "no healthy upstream");
    }

    #[test]
    fn replies_without_body_have_neither_length_nor_type() {
        let (head, body) = LocalReply::from(Cause::RouteNotFound).render(None, |_, _| ());
        assert_eq!((head.headers.len(), body.len()), (0, 0));
    }

    #[test]
    fn head_requests_learn_the_length_only() {
        let mut request = request(b"text/plain");
        request.method = "HEAD".into();
        let (head, body) = LocalReply::from(Cause::NoHealthyUpstream).render(Some(&request), |_, _| ());
        assert_eq!(text(&head), "content-length: 19\ncontent-type: text/plain\n");
        assert!(body.is_empty());
    }

    #[test]
    fn redirects_name_their_location_before_the_routes_headers() {
        let reply = LocalReply::from(Cause::Redirect(301, "http://foo.com/x".into()));
        let (head, _) = reply.render(None, |head, _| head.headers.append(b"x-route", b"r"));
        assert_eq!(head.status, 301);
        assert_eq!(text(&head), "location: http://foo.com/x\nx-route: r\n");
    }

    #[test]
    fn grpc_requests_get_a_grpc_status_with_200() {
        for content_type in [&b"application/grpc"[..], b"application/grpc+proto"] {
            let request = request(content_type);
            let (head, body) = LocalReply::from(Cause::NoHealthyUpstream).render(Some(&request), |_, _| ());
            assert_eq!(head.status, 200);
            let expected =
                "content-type: application/grpc\ngrpc-status: 14\ngrpc-message: no healthy upstream\n";
            assert_eq!(text(&head), expected);
            assert!(body.is_empty());
        }
        let (head, _) =
            LocalReply::from(Cause::RouteNotFound).render(Some(&request(b"application/grpc-web")), |_, _| ());
        assert_eq!(head.status, 404, "gRPC-Web is another protocol");
    }

    #[test]
    fn grpc_messages_are_percent_encoded() {
        assert_eq!(percent_encode("50% \u{e9}\n".as_bytes()), b"50%25 %C3%A9%0A");
    }
}
