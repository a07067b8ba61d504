//! Runs the filters of one stream: in order on the request, backwards on the response.

use super::filter::{BUILTIN, BodyUse, Built, HttpFilter, HttpFilterConfig, Step, Verdict, router::Router};
use super::local_reply::LocalReply;
use super::stream::StreamCx;
use super::{BuildError, Deps};
use crate::codec::{Body, Frame};
use bytes::{Bytes, BytesMut};
use data_plane_core::config::HttpFilter as FilterConfig;
use data_plane_core::headers::{HeaderId, RequestHead, ResponseHead};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;

/// The filters of a connection manager.
pub(super) struct ChainConfig {
    pub(super) filters: Vec<Link>,
    pub(super) router: Router,
}

/// A filter before the router.
pub(super) struct Link {
    /// By which routes speak of it.
    pub(super) name: Box<str>,
    /// Runs only where a route enables it.
    pub(super) disabled: bool,
    pub(super) filter: Arc<dyn HttpFilterConfig>,
}

impl ChainConfig {
    /// Builds a chain, which ends in the router.
    pub(super) fn build(config: &[FilterConfig], deps: &Deps) -> Result<Self, BuildError> {
        let (last, before) = config.split_last().ok_or(BuildError::EmptyChain)?;
        let build = |filter: &FilterConfig| {
            let built = BUILTIN.iter().find_map(|factory| (factory.build)(filter, deps));
            built.unwrap_or(Err(BuildError::UnknownFilter))
        };
        let Built::Router(router) = build(last)? else { return Err(BuildError::NoRouter) };
        let mut filters = Vec::new();
        for filter in before {
            match build(filter)? {
                Built::Filter(built) => {
                    let FilterConfig { name, disabled, kind: _ } = filter;
                    filters.push(Link { name: name.clone(), disabled: *disabled, filter: built });
                }
                Built::Router(_) => return Err(BuildError::RouterNotLast),
            }
        }
        Ok(Self { filters, router })
    }

    /// The filters of one stream.
    pub(super) fn start(&self, cx: &StreamCx) -> Chain {
        let overridden = cx.table.as_ref().is_some_and(|table| table.overrides_filters());
        let runs = |link: &&Link| match overridden.then(|| cx.is_filter_disabled(&link.name)).flatten() {
            Some(disabled) => !disabled,
            None => !link.disabled,
        };
        Chain { filters: self.filters.iter().filter(runs).filter_map(|link| link.filter.start(cx)).collect() }
    }
}

/// The filters of one stream.
pub(super) struct Chain {
    filters: SmallVec<[Box<dyn HttpFilter>; 4]>,
}

impl Chain {
    pub(super) fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Passes a request through the filters.
    ///
    /// # Errors
    /// What a filter answers instead.
    pub(super) async fn on_request(
        &mut self,
        head: &mut RequestHead,
        mut body: Body,
        cx: &mut StreamCx,
    ) -> Result<Body, LocalReply> {
        for filter in &mut self.filters {
            decided(filter.on_request(head, cx)).await?;
            match filter.request_body() {
                BodyUse::None => {}
                BodyUse::Stream => body = filter.wrap_request(body),
                BodyUse::Buffer(max) => {
                    let mut buffered = match collect(body, max).await {
                        Ok(buffered) => buffered,
                        Err(Overrun::TooLarge) => {
                            cx.served.hcm.stats.manager.downstream_rq_too_large.inc();
                            let reply = LocalReply::new(413, "request_payload_too_large");
                            return Err(reply.body("Payload Too Large"));
                        }
                        // The client is going away; what it gets does not matter.
                        Err(Overrun::Failed) => return Err(LocalReply::new(400, "request_body_failed")),
                    };
                    let before = buffered.data.len();
                    let step = filter.on_request_buffered(head, &mut buffered.data, cx);
                    decided(Step::Done(step)).await?;
                    if buffered.data.len() != before && head.headers.contains_id(HeaderId::ContentLength) {
                        let mut digits = itoa::Buffer::new();
                        let length = digits.format(buffered.data.len()).as_bytes();
                        head.headers.set_id(HeaderId::ContentLength, length);
                    }
                    body = buffered.into_body();
                }
            }
        }
        Ok(body)
    }

    /// Passes a response back through the filters.
    ///
    /// # Errors
    /// What a filter answers instead.
    pub(super) async fn on_response(
        &mut self,
        head: &mut ResponseHead,
        mut body: Body,
        cx: &mut StreamCx,
    ) -> Result<Body, LocalReply> {
        for filter in self.filters.iter_mut().rev() {
            decided(filter.on_response(head, cx)).await?;
            match filter.response_body() {
                BodyUse::None => {}
                BodyUse::Stream => body = filter.wrap_response(body),
                BodyUse::Buffer(max) => {
                    let Ok(mut buffered) = collect(body, max).await else {
                        cx.served.hcm.stats.manager.rs_too_large.inc();
                        let reply = LocalReply::new(500, "response_payload_too_large");
                        return Err(reply.body("Internal Server Error"));
                    };
                    filter.on_response_buffered(head, &mut buffered.data, cx);
                    let mut digits = itoa::Buffer::new();
                    let length = digits.format(buffered.data.len()).as_bytes();
                    head.headers.set_id(HeaderId::ContentLength, length);
                    body = buffered.into_body();
                }
            }
        }
        Ok(body)
    }
}

async fn decided(step: Step<'_>) -> Result<(), LocalReply> {
    let verdict = match step {
        Step::Done(verdict) => verdict,
        Step::Wait(future) => future.await,
    };
    match verdict {
        Verdict::Continue => Ok(()),
        Verdict::Reply(reply) => Err(reply),
    }
}

/// A body read to its end.
struct Buffered {
    data: Bytes,
    trailers: Option<Frame>,
}

impl Buffered {
    fn into_body(self) -> Body {
        match self.trailers {
            None => Body::from(self.data),
            Some(trailers) => {
                let data = (!self.data.is_empty()).then_some(Frame::Data(self.data));
                Body::Frames(data.into_iter().chain([trailers]).collect::<VecDeque<_>>())
            }
        }
    }
}

enum Overrun {
    TooLarge,
    Failed,
}

async fn collect(mut body: Body, max: usize) -> Result<Buffered, Overrun> {
    let mut data = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(Frame::Data(chunk)) if data.len() + chunk.len() > max => return Err(Overrun::TooLarge),
            Ok(Frame::Data(chunk)) => data.extend_from_slice(&chunk),
            Ok(frame) => trailers = Some(frame),
            Err(_) => return Err(Overrun::Failed),
        }
    }
    Ok(Buffered { data: data.freeze(), trailers })
}
