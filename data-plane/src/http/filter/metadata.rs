//! Filters that say something of a stream, for others to act upon (Envoy `envoy.filters.http.header_to_metadata`,
//! `envoy.filters.http.set_metadata`).

use super::{Built, CONTINUE, Factory, HttpFilter, HttpFilterConfig, Step};
use crate::http::stream::StreamCx;
use crate::http::{BuildError, Deps};
use data_plane_core::config::{
    FilterOverrideKind, HeaderRule, HeaderSource, HeaderToMetadata, HttpFilter as Config, HttpFilterKind,
    SetMetadata,
};
use data_plane_core::headers::{HeaderList, RequestHead, ResponseHead};
use data_plane_core::saying::{cookie, of_config, of_header};
use std::borrow::Cow;
use std::sync::Arc;

/// See the module.
pub(super) const FROM_HEADERS: Factory =
    Factory { name: "envoy.filters.http.header_to_metadata", build: build_from_headers };

/// See the module.
pub(super) const FROM_CONFIG: Factory =
    Factory { name: "envoy.filters.http.set_metadata", build: build_from_config };

fn build_from_headers(filter: &Config, _: &Deps) -> Option<Result<Built, BuildError>> {
    let HttpFilterKind::HeaderToMetadata(config) = &filter.kind else { return None };
    let filter = FromHeaders { name: filter.name.clone(), own: Arc::clone(config) };
    Some(Ok(Built::Filter(Arc::new(filter))))
}

fn build_from_config(filter: &Config, _: &Deps) -> Option<Result<Built, BuildError>> {
    let HttpFilterKind::SetMetadata(entries) = &filter.kind else { return None };
    Some(Ok(Built::Filter(Arc::new(FromConfig(Arc::clone(entries))))))
}

struct FromHeaders {
    name: Box<str>,
    own: Arc<HeaderToMetadata>,
}

impl HttpFilterConfig for FromHeaders {
    fn start(&self, cx: &StreamCx) -> Option<Box<dyn HttpFilter>> {
        let config = match cx.filter_override(&self.name).and_then(|entry| entry.config.as_ref()) {
            Some(FilterOverrideKind::HeaderToMetadata(config)) => config,
            _ => &self.own,
        };
        Some(Box::new(Headers(Arc::clone(config))))
    }
}

struct Headers(Arc<HeaderToMetadata>);

impl HttpFilter for Headers {
    fn on_request<'a>(&'a mut self, head: &'a mut RequestHead, cx: &'a mut StreamCx) -> Step<'a> {
        for rule in &self.0.request {
            let value = match &rule.source {
                HeaderSource::Header(name) => head.header(name.as_bytes()),
                HeaderSource::Cookie(name) => cookie_of(&head.headers, name),
            };
            of_header(rule, value.as_deref(), cx.metadata_mut());
            remove(rule, &mut head.headers);
        }
        CONTINUE
    }

    fn on_response<'a>(&'a mut self, head: &'a mut ResponseHead, cx: &'a mut StreamCx) -> Step<'a> {
        for rule in &self.0.response {
            let value = match &rule.source {
                HeaderSource::Header(name) => head.header(name.as_bytes()),
                HeaderSource::Cookie(name) => cookie_of(&head.headers, name),
            };
            of_header(rule, value.as_deref(), cx.metadata_mut());
            remove(rule, &mut head.headers);
        }
        CONTINUE
    }
}

fn cookie_of<'a>(headers: &'a HeaderList, name: &str) -> Option<Cow<'a, [u8]>> {
    cookie(headers.get_all(b"cookie"), name).map(Cow::Borrowed)
}

fn remove(rule: &HeaderRule, headers: &mut HeaderList) {
    if let HeaderSource::Header(name) = &rule.source
        && rule.remove
    {
        headers.remove(name.as_bytes());
    }
}

struct FromConfig(Arc<[SetMetadata]>);

impl HttpFilterConfig for FromConfig {
    fn start(&self, _: &StreamCx) -> Option<Box<dyn HttpFilter>> {
        Some(Box::new(Self(Arc::clone(&self.0))))
    }
}

impl HttpFilter for FromConfig {
    fn on_request<'a>(&'a mut self, _: &'a mut RequestHead, cx: &'a mut StreamCx) -> Step<'a> {
        for entry in &*self.0 {
            of_config(entry, cx.metadata_mut());
        }
        CONTINUE
    }
}
