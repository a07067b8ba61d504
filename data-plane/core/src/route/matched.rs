//! A route that was chosen: its cluster, its rewrites, its answer.

use crate::config::{DirectResponse, Forward, Redirect, Route, RouteConfig, VirtualHost};
use crate::headers::{Record, RequestHead, ResponseHead};

/// A chosen route without its table, to be kept over awaits: [`super::RouteTable::matched`] gives the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteId {
    pub(super) virtual_host: u32,
    pub(super) route: u32,
    /// Index into the weighted clusters.
    pub(super) cluster: u32,
}

/// A chosen route.
#[derive(Clone, Copy, Debug)]
pub struct Matched<'a> {
    /// The whole configuration.
    pub config: &'a RouteConfig,
    /// The virtual host.
    pub virtual_host: &'a VirtualHost,
    /// The route; a redirect to https when the virtual host requires TLS.
    pub route: &'a Route,
    pub(super) id: RouteId,
}

/// What a route says to do.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// Send to [`Matched::cluster`].
    Forward(&'a Forward),
    /// Answer with [`Matched::location`].
    Redirect(&'a Redirect),
    /// Answer as written.
    Direct(&'a DirectResponse),
}

impl<'a> Matched<'a> {
    /// To keep over awaits.
    pub fn id(&self) -> RouteId {
        self.id
    }

    /// What to do.
    pub fn answer(&self) -> Answer<'a> {
        match &self.route.action {
            crate::config::Action::Forward(forward) => Answer::Forward(forward),
            crate::config::Action::Redirect(redirect) => Answer::Redirect(redirect),
            crate::config::Action::Direct(direct) => Answer::Direct(direct),
        }
    }

    /// The cluster to forward to. `None` when the route does not forward, or the header that names it is missing.
    pub fn cluster<'b>(&self, head: &'b RequestHead) -> Option<&'b str>
    where
        'a: 'b,
    {
        let _ = head;
        None
    }

    /// Edits the request that goes upstream: header edits of all levels, host and path rewrites. Call once a
    /// request, before the first try. `original_path`: keep the old path in x-envoy-original-path when it is
    /// rewritten (not with `suppress_envoy_headers`).
    pub fn finalize_request(&self, head: &mut RequestHead, record: &Record<'_>, original_path: bool) {
        let _ = (head, record, original_path);
    }

    /// Whether the host becomes the chosen endpoint's name: then call [`Matched::rewrite_host`] for each try.
    pub fn wants_endpoint_host(&self) -> bool {
        false
    }

    /// Sets the host of a request, and keeps the old one in x-forwarded-host if the route says so.
    pub fn rewrite_host(&self, head: &mut RequestHead, host: &str) {
        let _ = (head, host);
    }

    /// Edits the response that goes downstream: header edits of all levels. Local replies that were made after
    /// this route was chosen too.
    pub fn finalize_response(&self, head: &mut ResponseHead, record: &Record<'_>) {
        let _ = (head, record);
    }

    /// The `location` of a redirect; empty for other answers.
    pub fn location(&self, head: &RequestHead) -> String {
        let _ = head;
        String::new()
    }
}
