//! HTTP filters: what a request passes on its way to the router, and a response on its way back.
//!
//! To add a filter: a file here that exports `FACTORY`, its `mod` line, and its line in [`BUILTIN`].

mod health_check;
mod limits;
mod local_ratelimit;
mod metadata;
mod ratelimit;
pub(super) mod router;

use super::local_reply::LocalReply;
use super::stream::StreamCx;
use super::{BuildError, Deps};
use crate::codec::Body;
use bytes::Bytes;
use data_plane_core::config;
use data_plane_core::headers::{RequestHead, ResponseHead};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// What a filter wants done with the message.
#[derive(Debug)]
pub enum Verdict {
    /// Go on with the next filter.
    Continue,
    /// Answer the client with this; the response passes the filters.
    Reply(LocalReply),
}

/// What a call of a filter gives: at once, or later. Only a filter that must wait boxes a future.
pub enum Step<'a> {
    /// At once.
    Done(Verdict),
    /// After waiting. Dropped when the client goes away or a deadline of the stream passes.
    Wait(Pin<Box<dyn Future<Output = Verdict> + 'a>>),
}

/// Continues at once.
pub const CONTINUE: Step<'static> = Step::Done(Verdict::Continue);

/// What a filter needs of a body. A chain whose filters need nothing passes frames through untouched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyUse {
    /// Nothing.
    #[default]
    None,
    /// Frames as they pass: the filter puts its own body around.
    Stream,
    /// All of it before the message goes on, up to this many bytes; more is answered with 413 (request) or 500
    /// (response).
    Buffer(usize),
}

/// One stream's instance of a filter.
pub trait HttpFilter {
    /// The request's head has come in.
    fn on_request<'a>(&'a mut self, head: &'a mut RequestHead, cx: &'a mut StreamCx) -> Step<'a>;

    /// The response's head is there, from upstream or as a local reply.
    fn on_response<'a>(&'a mut self, head: &'a mut ResponseHead, cx: &'a mut StreamCx) -> Step<'a> {
        let _ = (head, cx);
        CONTINUE
    }

    /// What it needs of the request's body; asked after [`HttpFilter::on_request`].
    fn request_body(&self) -> BodyUse {
        BodyUse::None
    }

    /// What it needs of the response's body; asked after [`HttpFilter::on_response`].
    fn response_body(&self) -> BodyUse {
        BodyUse::None
    }

    /// Puts its own body around the request's ([`BodyUse::Stream`]).
    fn wrap_request(&mut self, body: Body) -> Body {
        body
    }

    /// Puts its own body around the response's ([`BodyUse::Stream`]).
    fn wrap_response(&mut self, body: Body) -> Body {
        body
    }

    /// The whole body of the request ([`BodyUse::Buffer`]), which it may replace.
    fn on_request_buffered(
        &mut self,
        head: &mut RequestHead,
        body: &mut Bytes,
        cx: &mut StreamCx,
    ) -> Verdict {
        let _ = (head, body, cx);
        Verdict::Continue
    }

    /// The whole body of the response ([`BodyUse::Buffer`]), which it may replace.
    fn on_response_buffered(&mut self, head: &mut ResponseHead, body: &mut Bytes, cx: &mut StreamCx) {
        let _ = (head, body, cx);
    }
}

/// A configured filter, shared by workers.
pub trait HttpFilterConfig: Send + Sync {
    /// The filter of one stream. The stream's route is known, so that what it configures can be taken up here.
    /// `None`: the filter has nothing to do for it.
    fn start(&self, cx: &StreamCx) -> Option<Box<dyn HttpFilter>>;
}

/// A filter as built.
pub enum Built {
    /// Anywhere in the chain but last.
    Filter(Arc<dyn HttpFilterConfig>),
    /// Last: sends the request on.
    Router(router::Router),
}

/// How a kind of filter is built.
pub struct Factory {
    /// Envoy's name of the filter, for messages.
    pub name: &'static str,
    /// Builds the filter, or says that the configuration is of another kind.
    pub build: fn(&config::HttpFilter, &Deps) -> Option<Result<Built, BuildError>>,
}

/// Every kind of filter there is.
pub const BUILTIN: &[Factory] = &[
    metadata::FROM_CONFIG,
    metadata::FROM_HEADERS,
    health_check::FACTORY,
    local_ratelimit::FACTORY,
    ratelimit::FACTORY,
    router::FACTORY,
];
