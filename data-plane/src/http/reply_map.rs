//! What a connection manager makes of its local replies (Envoy `local_reply_config`).

use super::local_reply::LocalReply;
use super::stream::StreamCx;
use data_plane_core::accesslog::{Filter, Renderer};
use data_plane_core::config;
use data_plane_core::headers::edit::HeaderEdits;
use data_plane_core::headers::{HeaderId, Record, RequestHead, ResponseHead};

/// Compiled; nothing for a manager without the field.
pub(super) struct ReplyMap {
    mappers: Vec<Mapper>,
    format: Option<Body>,
}

struct Mapper {
    filter: Filter,
    status: Option<u16>,
    body: Option<bytes::Bytes>,
    format: Option<Body>,
    headers: HeaderEdits,
    /// `headers` say what type the body has.
    is_typed: bool,
}

struct Body {
    renderer: Renderer,
    content_type: Box<str>,
}

impl Body {
    fn new(config: &config::BodyFormat) -> Self {
        Self { renderer: Renderer::new(&config.format), content_type: config.content_type.clone() }
    }
}

impl ReplyMap {
    pub(super) fn new(config: &config::LocalReplyConfig) -> Self {
        let mapper = |config: &config::ResponseMapper| Mapper {
            filter: Filter::new(&config.filter),
            status: config.status,
            body: config.body.clone(),
            format: config.body_format.as_ref().map(Body::new),
            headers: config.headers.clone(),
            is_typed: config.headers.add.iter().any(|add| &*add.name == "content-type"),
        };
        Self {
            mappers: config.mappers.iter().map(mapper).collect(),
            format: config.body_format.as_ref().map(Body::new),
        }
    }

    /// Changes a reply whose head has all but what its body brings.
    pub(super) fn apply(
        &self,
        head: &mut ResponseHead,
        reply: &mut LocalReply,
        request: Option<&RequestHead>,
        cx: &StreamCx,
    ) {
        if self.mappers.is_empty() && self.format.is_none() {
            return;
        }
        let before = reply.body.clone();
        let mut is_typed = false;
        let runtime = |key: &str| cx.served.hcm.runtime.per_million(key);
        let mapper = self.mappers.iter().find(|mapper| {
            with_record(Some(head), reply, request, cx, |record| {
                mapper.filter.passes(record, cx.random, Some(&runtime))
            })
        });
        if let Some(mapper) = mapper {
            if let Some(body) = &mapper.body {
                reply.body = body.clone();
            }
            // The edits bring the head along themselves.
            with_record(None, reply, request, cx, |record| mapper.headers.apply_response(head, record));
            is_typed = mapper.is_typed;
            if let Some(status) = mapper.status {
                (reply.status, head.status) = (status, status);
            }
        }
        if let Some(format) = mapper.and_then(|mapper| mapper.format.as_ref()).or(self.format.as_ref()) {
            let mut body = Vec::new();
            with_record(Some(head), reply, request, cx, |record| format.renderer.render(record, &mut body));
            reply.body = body.into();
            reply.content_type = Some(format.content_type.clone());
        }
        // Measured on Envoy: a body that was changed has the type it was made with, whatever the route says, but not
        // whatever the mapper says.
        if reply.body != before && !is_typed && head.headers.contains_id(HeaderId::ContentType) {
            head.headers.set_id(HeaderId::ContentType, reply.content_type().as_bytes());
        }
    }
}

/// All that is known, the reply included.
fn with_record<T>(
    head: Option<&ResponseHead>,
    reply: &LocalReply,
    request: Option<&RequestHead>,
    cx: &StreamCx,
    f: impl FnOnce(&Record<'_>) -> T,
) -> T {
    cx.with_record(request, head, None, |record| {
        f(&Record { status: Some(reply.status), local_reply_body: Some(&reply.body), ..*record })
    })
}
