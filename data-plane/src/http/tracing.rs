//! A stream's side of tracing: when its spans begin and end, and what is counted of it.

use super::stream::StreamCx;
use crate::trace::Trace;
use data_plane_core::config::RouteTracing;
use data_plane_core::headers::{HeaderList, Record, RequestHead, ResponseHead};
use data_plane_core::trace::{Decision, Reason};
use std::rc::Rc;

/// What a stream keeps of tracing.
#[derive(Default)]
pub(super) struct Traced {
    /// It is to be recorded, as far as this proxy decides (Envoy: `traceable_filter`).
    pub(super) decided: bool,
    pub(super) trace: Option<Box<Trace>>,
    /// Status of the attempt that ended last.
    attempt_status: Option<u16>,
}

impl StreamCx {
    /// The request is routed: decides on it, and begins its span.
    pub(super) fn begin_trace(&mut self, head: &mut RequestHead) {
        let served = Rc::clone(&self.served);
        let Some(tracer) = &served.hcm.tracer else { return };
        let (Decision { traced, reason }, trace) =
            self.with_route_tracing(|route| tracer.begin(head, route, || served.worker.random()));
        let stats = &served.hcm.stats.tracing;
        match reason {
            Reason::NotTraceable => &stats.not_traceable,
            Reason::Sampling => &stats.random_sampling,
            Reason::ServiceForced => &stats.service_forced,
            Reason::ClientForced => &stats.client_enabled,
        }
        .inc();
        self.traced = Traced { decided: traced, trace, attempt_status: None };
    }

    /// A request is about to go upstream.
    pub(super) fn forward_trace(&mut self, head: &mut RequestHead) {
        if self.traced.trace.is_none() {
            return;
        }
        // Of the attempt before, where this is a retry.
        self.end_attempt(head);
        let served = Rc::clone(&self.served);
        if let (Some(tracer), Some(trace)) = (&served.hcm.tracer, &mut self.traced.trace) {
            let start = self.start;
            let since = || start.elapsed();
            tracer.forward(trace, &mut head.headers, since, self.attempts, served.worker.random());
        }
    }

    /// How an attempt ended; `None`: without a response.
    pub(super) fn attempt_status(&mut self, status: Option<u16>) {
        self.traced.attempt_status = status;
    }

    fn end_attempt(&mut self, head: &RequestHead) {
        let Some(mut trace) = self.traced.trace.take_if(|trace| trace.is_recorded()) else { return };
        let served = Rc::clone(&self.served);
        if let Some(tracer) = &served.hcm.tracer {
            let status = self.traced.attempt_status.take();
            self.with_record(Some(head), None, None, |record| {
                let record = Record { status, ..*record };
                self.with_route_tracing(|route| {
                    tracer.attempted(&mut trace, route, served.worker.index, &record);
                });
            });
        }
        self.traced.trace = Some(trace);
    }

    /// A response is about to go to the client.
    pub(super) fn answer_trace(&mut self, head: &mut ResponseHead) {
        if let (Some(tracing), Some(trace)) = (&self.served.hcm.config.tracing, &mut self.traced.trace) {
            trace.answer(tracing.egress, &mut head.headers);
        }
    }

    /// The stream has ended.
    pub(super) fn end_trace(
        &mut self,
        request: &RequestHead,
        response: Option<&ResponseHead>,
        trailers: Option<&HeaderList>,
    ) {
        let Some(trace) = self.traced.trace.take().filter(|trace| trace.is_recorded()) else { return };
        let served = Rc::clone(&self.served);
        let Some(tracer) = &served.hcm.tracer else { return };
        self.with_record(Some(request), response, trailers, |record| {
            self.with_route_tracing(|route| tracer.end(trace, route, served.worker.index, record));
        });
    }

    fn with_route_tracing<T>(&self, f: impl FnOnce(Option<&RouteTracing>) -> T) -> T {
        let matched = self.route();
        f(matched.as_ref().and_then(|matched| matched.route.tracing.as_deref()))
    }
}
