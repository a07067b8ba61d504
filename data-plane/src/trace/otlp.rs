//! Spans as OTLP has them (<https://opentelemetry.io/docs/specs/otlp/>).

use crate::export::Encode;
use bytes::Bytes;
use data_plane_core::config::OpenTelemetry;
use data_plane_core::trace::{Kind, Span};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{self as proto, ResourceSpans, ScopeSpans, SpanFlags, Status};
use prost::Message;
use std::time::{SystemTime, UNIX_EPOCH};

/// The method, over gRPC.
pub(super) const PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Over HTTP.
pub(super) const CONTENT_TYPE: &str = "application/x-protobuf";

/// Makes export requests.
pub(super) struct Encoder {
    resource: Resource,
    scope: Option<InstrumentationScope>,
}

impl Encoder {
    pub(super) fn new(config: &OpenTelemetry) -> Self {
        let attributes = config.resource.iter().map(|(name, value)| attribute(name, value)).collect();
        let scope = InstrumentationScope {
            name: "portolan".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..InstrumentationScope::default()
        };
        Self {
            resource: Resource { attributes, ..Resource::default() },
            scope: config.scope.then_some(scope),
        }
    }
}

impl Encode<Span> for Encoder {
    fn encode(&self, items: &[Span]) -> Bytes {
        let spans = ScopeSpans {
            scope: self.scope.clone(),
            spans: items.iter().map(span).collect(),
            ..ScopeSpans::default()
        };
        let all = ResourceSpans {
            resource: Some(self.resource.clone()),
            scope_spans: vec![spans],
            ..ResourceSpans::default()
        };
        ExportTraceServiceRequest { resource_spans: vec![all] }.encode_to_vec().into()
    }
}

fn span(span: &Span) -> proto::Span {
    let Span { context, kind, name, start, duration, tags, events, shared: _ } = span;
    let remote = if context.parent.is_some() && *kind == Kind::Server {
        SpanFlags::ContextIsRemoteMask as u32
    } else {
        0
    };
    proto::Span {
        trace_id: context.trace_id.to_be_bytes().to_vec(),
        span_id: context.span_id.to_be_bytes().to_vec(),
        trace_state: context.state.as_deref().unwrap_or_default().into(),
        parent_span_id: context.parent.map(|id| id.to_be_bytes().to_vec()).unwrap_or_default(),
        flags: u32::from(context.sampled) | SpanFlags::ContextHasIsRemoteMask as u32 | remote,
        name: name.to_string(),
        kind: match kind {
            Kind::Server => SpanKind::Server,
            Kind::Client => SpanKind::Client,
        }
        .into(),
        start_time_unix_nano: nanos(*start),
        end_time_unix_nano: nanos(*start + *duration),
        attributes: tags.iter().map(|tag| attribute(&tag.name, &tag.value)).collect(),
        events: events
            .iter()
            .map(|(at, name)| Event {
                time_unix_nano: nanos(*start + *at),
                name: (*name).into(),
                ..Event::default()
            })
            .collect(),
        status: tags.is_error().then(|| Status { code: StatusCode::Error.into(), message: String::new() }),
        ..proto::Span::default()
    }
}

fn attribute(name: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.into())) });
    KeyValue { key: name.into(), value, ..KeyValue::default() }
}

/// Since 1970.
fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
