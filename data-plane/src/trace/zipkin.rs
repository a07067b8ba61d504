//! Spans as Zipkin's v2 API takes them, in JSON (<https://zipkin.io/zipkin-api/>).

use super::Node;
use crate::export::Encode;
use bytes::Bytes;
use data_plane_core::headers::trace_id_text;
use data_plane_core::trace::{Kind, Span};
use serde_json::{Map, Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Over HTTP.
pub(super) const CONTENT_TYPE: &str = "application/json";

/// Makes lists of spans.
pub(super) struct Encoder {
    endpoint: Value,
}

impl Encoder {
    pub(super) fn new(node: &Node) -> Self {
        let mut endpoint = Map::new();
        endpoint.insert("serviceName".into(), Value::from(&*node.cluster));
        if let Some(address) = node.address {
            let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
            endpoint.insert(family.into(), Value::from(address.to_string()));
        }
        Self { endpoint: endpoint.into() }
    }

    fn span(&self, span: &Span) -> Value {
        let Span { context, kind, name, start, duration, tags, events, shared } = span;
        let (kind, last) = match kind {
            Kind::Server => ("SERVER", "ss"),
            Kind::Client => ("CLIENT", "cr"),
        };
        let mut fields = Map::new();
        fields.insert("traceId".into(), trace_id_text(context.trace_id).into());
        fields.insert("id".into(), format!("{:016x}", context.span_id).into());
        if let Some(parent) = context.parent {
            fields.insert("parentId".into(), format!("{parent:016x}").into());
        }
        fields.insert("name".into(), Value::from(&**name));
        fields.insert("kind".into(), kind.into());
        fields.insert("timestamp".into(), micros(*start).into());
        // Zipkin takes 0 for "unknown".
        fields.insert("duration".into(), (duration.as_micros().max(1) as u64).into());
        fields.insert("localEndpoint".into(), self.endpoint.clone());
        if *shared {
            fields.insert("shared".into(), true.into());
        }
        let moments = events.iter().map(|&(at, name)| annotation(*start, at, name));
        let moments = moments.chain([annotation(*start, *duration, last)]);
        fields.insert("annotations".into(), moments.collect());
        let tags: Map<_, _> =
            tags.iter().map(|tag| (tag.name.to_string(), Value::from(&*tag.value))).collect();
        fields.insert("tags".into(), tags.into());
        fields.into()
    }
}

impl Encode<Span> for Encoder {
    fn encode(&self, items: &[Span]) -> Bytes {
        let list: Vec<_> = items.iter().map(|span| self.span(span)).collect();
        Value::from(list).to_string().into()
    }
}

fn annotation(start: SystemTime, at: Duration, name: &str) -> Value {
    json!({"timestamp": micros(start + at), "value": name})
}

/// Since 1970.
fn micros(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}
