//! The body of an answer on its way to the client: counts it, holds its deadlines, and ends the stream.

use super::alarm::Alarm;
use super::conduct::count_expired;
use super::filter::router;
use super::local_reply::{Cause, LocalReply, Reset};
use super::stream::{End, Stream};
use super::vitals::Expired;
use crate::codec::{Body, BodyError, BodySource, Frame};
use crate::transport::Pipe;
use crate::turn;
use data_plane_core::headers::{HeaderList, ResponseHead, Version};
use std::rc::Rc;
use std::task::{Context, Poll};

/// The one allocation of a streamed answer.
pub(super) struct Tail {
    stream: Stream,
    body: Body,
    alarm: Alarm,
    /// Kept for access logs.
    head: Option<ResponseHead>,
    trailers: Option<HeaderList>,
    /// It comes from upstream, not from a filter.
    upstream: bool,
    upgraded: bool,
    /// All bytes the length promised are out; whoever reads may stop here.
    whole: bool,
}

impl Tail {
    /// The body to send, around `body`.
    pub(super) fn body(
        stream: Stream,
        head: Option<ResponseHead>,
        body: Body,
        alarm: Alarm,
        upstream: bool,
        upgraded: bool,
    ) -> Body {
        if upgraded {
            stream.cx.served.hcm.stats.manager.downstream_cx_upgrades_active.inc();
        }
        let whole = body.remaining() == Some(0);
        Body::Stream(Box::new(Self { stream, body, alarm, head, trailers: None, upstream, upgraded, whole }))
    }

    fn finish(&mut self, end: End) {
        let now = turn::now();
        if self.upstream && end == End::Answered {
            let served = Rc::clone(&self.stream.cx.served);
            let Stream { head, cx, .. } = &mut self.stream;
            served.hcm.chain.router.completed(head, cx, now);
        }
        self.stream.finish(end, now, self.head.as_ref(), self.trailers.as_ref());
    }

    fn passed(&mut self, bytes: usize) {
        let now = turn::now();
        let cx = &mut self.stream.cx;
        cx.vitals.activity.set(now);
        cx.moments.upstream_body.get_or_insert(now);
        cx.sent += bytes as u64;
        self.whole = self.body.remaining() == Some(0);
    }

    fn passed_trailers(&mut self, trailers: &HeaderList) {
        self.passed(0);
        self.whole = true;
        self.trailers = self.head.is_some().then(|| trailers.clone());
    }

    fn broke(&mut self, error: &BodyError) {
        let cx = &mut self.stream.cx;
        if cx.vitals.failed.get() {
            // The client's own part failed first, and took the exchange with it.
            return self.finish(End::Aborted);
        }
        let reset = match error {
            BodyError::Closed if cx.upstream.protocol == Some(Version::Http2) => Reset::Termination,
            // An HTTP/1 upstream that closes before the promised end breaks the protocol.
            BodyError::Closed | BodyError::Protocol(_) => Reset::Protocol,
            BodyError::Reset(_) => Reset::Remote,
            BodyError::Io(_) => Reset::Termination,
            BodyError::Timeout => Reset::Local,
        };
        cx.flags |= reset.flags();
        cx.details = reset.details(true, None).into();
        if cx.grpc {
            cx.served.hcm.stats.manager.rq_reset_after_downstream_response_started.inc();
        }
        if let Some(host) = &cx.host {
            host.stats().error();
        }
        self.finish(End::Broken);
    }

    fn expired(&mut self, expired: Expired) {
        let cx = &mut self.stream.cx;
        count_expired(cx, expired);
        if expired == Expired::Route {
            router::charge_timeout(cx);
        }
        let complete = cx.is_request_complete();
        let reply = LocalReply::from(Cause::Deadline { expired, complete });
        cx.flags |= reply.flags;
        cx.details = reply.details;
        self.finish(End::Broken);
    }
}

impl Tail {
    /// Ready when a deadline passed while the body was waited for.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let Some((deadline, expired)) = self.stream.cx.vitals.next() else { return Poll::Pending };
        if self.alarm.poll(cx, Some(deadline)).is_pending() {
            return Poll::Pending;
        }
        self.expired(expired);
        // Drops the exchange: its connection closes or its stream is reset.
        self.body = Body::Empty;
        Poll::Ready(BodyError::Timeout)
    }
}

impl BodySource for Tail {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match self.body.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                match &frame {
                    Frame::Data(data) => self.passed(data.len()),
                    Frame::Trailers(trailers) => self.passed_trailers(trailers),
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.broke(&error);
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                self.finish(End::Answered);
                Poll::Ready(None)
            }
            Poll::Pending => self.poll_deadline(cx).map(|error| Some(Err(error))),
        }
    }

    fn poll_pipe(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Option<Poll<Result<usize, BodyError>>> {
        let polled = self.body.poll_pipe(cx, pipe)?;
        match &polled {
            Poll::Ready(Ok(bytes)) => self.passed(*bytes),
            Poll::Ready(Err(error)) => self.broke(error),
            Poll::Pending => return Some(self.poll_deadline(cx).map(Err)),
        }
        Some(polled)
    }

    fn remaining(&self) -> Option<u64> {
        self.body.remaining()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        // Does nothing when the stream has ended already.
        let end = if self.whole { End::Answered } else { End::Aborted };
        self.finish(end);
        if self.upgraded {
            self.stream.cx.served.hcm.stats.manager.downstream_cx_upgrades_active.dec();
        }
    }
}
