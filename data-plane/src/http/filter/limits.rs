//! What the rate limiting filters share: the descriptors of a request, and shares that runtime may override.

use crate::http::stream::StreamCx;
use data_plane_core::config::{RateLimit, RuntimeFraction, VirtualHostLimits};
use data_plane_core::headers::{Metadata, RequestHead};
use data_plane_core::ratelimit::{Context, Descriptor, describe};
use data_plane_core::route::Answer;
use smallvec::SmallVec;

/// Which rate limits count for a request.
pub(super) struct Limits<'a> {
    /// In place of those of routes when not empty.
    pub(super) own: &'a [RateLimit],
    pub(super) stage: u32,
    pub(super) virtual_host: VirtualHostLimits,
    /// The cluster this proxy says it is of.
    pub(super) service_cluster: &'a str,
    /// Whether a rate limit with this key is turned off.
    pub(super) is_disabled: &'a dyn Fn(&str) -> bool,
}

impl Limits<'_> {
    /// Calls `f` with the descriptors of a request.
    pub(super) fn with_descriptors<T>(
        &self,
        head: &RequestHead,
        cx: &StreamCx,
        f: impl FnOnce(&[Descriptor<'_>]) -> T,
    ) -> T {
        let matched = cx.route();
        let none = Metadata::default();
        cx.with_record(Some(head), None, None, |record| {
            let context = Context {
                head,
                record,
                client: cx.client().ip(),
                service_cluster: self.service_cluster,
                cluster: matched.as_ref().and_then(|matched| matched.cluster(head)).unwrap_or_default(),
                metadata: cx.metadata(),
                route_metadata: matched.as_ref().map_or(&none, |matched| &matched.route.metadata),
            };
            let mut found = SmallVec::<[Descriptor<'_>; 4]>::new();
            for limits in self.lists(cx) {
                let counts = |limit: &&RateLimit| {
                    limit.stage == self.stage
                        && (limit.disable_key.is_empty() || !(self.is_disabled)(&limit.disable_key))
                };
                found.extend(limits.iter().filter(counts).filter_map(|limit| describe(limit, &context)));
            }
            f(&found)
        })
    }

    /// The lists that count: the filter's own, or the route's and the virtual host's.
    fn lists<'b>(&'b self, cx: &'b StreamCx) -> [&'b [RateLimit]; 2] {
        if !self.own.is_empty() {
            return [self.own, &[]];
        }
        let Some(matched) = cx.route() else { return [&[], &[]] };
        let Answer::Forward(forward) = matched.answer() else { return [&[], &[]] };
        let of_host = if forward.include_vh_rate_limits {
            true
        } else {
            match self.virtual_host {
                VirtualHostLimits::Override => forward.rate_limits.is_empty(),
                VirtualHostLimits::Include => true,
                VirtualHostLimits::Ignore => false,
            }
        };
        [&forward.rate_limits, if of_host { &matched.virtual_host.rate_limits } else { &[] }]
    }
}

/// Whether a share takes this request: asked with a fresh random number, as Envoy does.
pub(super) fn takes(share: &RuntimeFraction, cx: &StreamCx) -> bool {
    if share.key.is_empty() && share.default.per_million >= 1_000_000 {
        return true;
    }
    let runtime = |key: &str| cx.served.hcm.runtime.per_million(key);
    share.takes(cx.served.worker.random(), Some(&runtime))
}
