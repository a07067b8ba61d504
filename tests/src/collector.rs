//! A collector of telemetry: takes spans by OTLP (gRPC and HTTP) and Zipkin JSON, and log entries by gRPC, and does
//! as badly as it is told.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use parking_lot::Mutex;
use prost::Message;
use serde_json::Value;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What it does with what it gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// Takes it.
    #[default]
    Healthy,
    /// Takes it after a while.
    Slow(Duration),
    /// Says that it cannot now.
    Unavailable,
    /// Says that it is wrong.
    Refuses,
    /// Never answers.
    Hangs,
}

/// A span as it was told, whichever protocol told it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Hex.
    pub trace_id: String,
    /// Hex.
    pub span_id: String,
    /// Hex; empty for a root.
    pub parent_id: String,
    /// Operation.
    pub name: String,
    /// `SERVER` or `CLIENT`.
    pub kind: String,
    /// What it says.
    pub tags: BTreeMap<String, String>,
    /// Names of its moments.
    pub events: Vec<String>,
    /// Its status is an error (OTLP).
    pub error: bool,
    /// Attributes of its resource, or the service's name.
    pub resource: BTreeMap<String, String>,
    /// `shared` (Zipkin).
    pub shared: bool,
    /// `tracestate`.
    pub state: String,
}

#[derive(Debug, Default)]
struct State {
    mood: Mood,
    spans: Vec<Span>,
    requests: u64,
    headers: Vec<(String, String)>,
    /// gRPC messages to other methods: path, message.
    messages: Vec<(String, Bytes)>,
}

/// A running collector; stops, and closes its connections, when dropped.
#[derive(Debug)]
pub struct Collector {
    /// Where it listens.
    pub addr: SocketAddr,
    state: Arc<Mutex<State>>,
    accept: JoinSet<()>,
}

impl Collector {
    /// Starts one on a port of its own.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let mut collector = Self { addr, state: Arc::default(), accept: JoinSet::new() };
        collector.accept.spawn(serve(listener, Arc::clone(&collector.state)));
        Ok(collector)
    }

    /// Stops listening and closes all connections.
    pub async fn stop(&mut self) {
        self.accept.shutdown().await;
    }

    /// Listens again where it did.
    ///
    /// # Errors
    /// Somebody else has the port.
    pub async fn resume(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.addr).await.context("binding the collector's port again")?;
        self.accept.spawn(serve(listener, Arc::clone(&self.state)));
        Ok(())
    }

    /// Changes what it does.
    pub fn set(&self, mood: Mood) {
        self.state.lock().mood = mood;
    }

    /// Spans taken so far.
    pub fn spans(&self) -> Vec<Span> {
        self.state.lock().spans.clone()
    }

    /// Forgets what it took.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        state.spans.clear();
        state.messages.clear();
    }

    /// Requests that came, taken or not.
    pub fn requests(&self) -> u64 {
        self.state.lock().requests
    }

    /// Headers of the last request.
    pub fn headers(&self) -> Vec<(String, String)> {
        self.state.lock().headers.clone()
    }

    /// Messages to gRPC methods other than OTLP's, with the method's path.
    pub fn messages(&self) -> Vec<(String, Bytes)> {
        self.state.lock().messages.clone()
    }
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&state), request));
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    let body = match read(&state, head.uri.path(), body).await {
        Ok(body) => body,
        // The peer has gone.
        Err(_) => Bytes::new(),
    };
    let mood = {
        let mut state = state.lock();
        state.requests += 1;
        let headers = head.headers.iter();
        state.headers = headers
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        state.mood
    };
    match mood {
        Mood::Healthy | Mood::Unavailable | Mood::Refuses => {}
        Mood::Slow(delay) => tokio::time::sleep(delay).await,
        Mood::Hangs => std::future::pending().await,
    }
    let kind = head.headers.get("content-type").map_or(&[][..], HeaderValue::as_bytes);
    let grpc = kind.starts_with(b"application/grpc");
    if matches!(mood, Mood::Healthy | Mood::Slow(_)) {
        let mut state = state.lock();
        if grpc && !head.uri.path().contains("TraceService") {
            // Taken while it came.
        } else if grpc {
            state.spans.extend(messages(&body).iter().flat_map(|message| otlp(message)));
        } else if kind == b"application/json" {
            state.spans.extend(zipkin(&body));
        } else {
            state.spans.extend(otlp(&body));
        }
    }
    let (status, grpc_status) = match mood {
        Mood::Unavailable => (503, "14"),
        Mood::Refuses => (400, "3"),
        _ => (200, "0"),
    };
    if !grpc {
        return Ok(Response::builder().status(status).body(Full::default().boxed()).unwrap_or_default());
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(grpc_status));
    let body = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async move { Some(Ok(trailers)) });
    Ok(Response::builder().header("content-type", "application/grpc").body(body.boxed()).unwrap_or_default())
}

/// Reads a body to its end. Messages of streams that are not OTLP's are taken as they come: such streams need not end.
async fn read(state: &Mutex<State>, path: &str, mut body: Incoming) -> Result<Bytes> {
    let streams = path.ends_with("/StreamAccessLogs");
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        all.extend_from_slice(frame?.data_ref().unwrap_or(&Bytes::new()));
        let mut state = state.lock();
        if streams && matches!(state.mood, Mood::Healthy | Mood::Slow(_)) {
            let whole = messages(&all);
            let taken: usize = whole.iter().map(|message| message.len() + 5).sum();
            all.drain(..taken);
            state.messages.extend(whole.into_iter().map(|message| (path.to_owned(), message)));
        }
    }
    Ok(all.into())
}

/// The whole messages of a gRPC body.
fn messages(mut body: &[u8]) -> Vec<Bytes> {
    let mut messages = Vec::new();
    while let [_, a, b, c, d, rest @ ..] = body {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if rest.len() < length {
            break;
        }
        messages.push(Bytes::copy_from_slice(&rest[..length]));
        body = &rest[length..];
    }
    messages
}

fn otlp(message: &[u8]) -> Vec<Span> {
    let Ok(request) = ExportTraceServiceRequest::decode(message) else { return Vec::new() };
    let mut spans = Vec::new();
    for all in request.resource_spans {
        let resource = attributes(&all.resource.unwrap_or_default().attributes);
        for span in all.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(Span {
                trace_id: hex(&span.trace_id),
                span_id: hex(&span.span_id),
                parent_id: hex(&span.parent_span_id),
                name: span.name,
                kind: if span.kind == 3 { "CLIENT" } else { "SERVER" }.into(),
                tags: attributes(&span.attributes),
                events: span.events.into_iter().map(|event| event.name).collect(),
                error: span.status.is_some_and(|status| status.code == 2),
                resource: resource.clone(),
                shared: false,
                state: span.trace_state,
            });
        }
    }
    spans
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Any::StringValue(text)) => text.clone(),
        other => format!("{other:?}"),
    };
    list.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn zipkin(body: &[u8]) -> Vec<Span> {
    let list: Vec<Value> = serde_json::from_slice(body).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let span = |span: &Value| Span {
        trace_id: text(&span["traceId"]),
        span_id: text(&span["id"]),
        parent_id: text(&span["parentId"]),
        name: text(&span["name"]),
        kind: text(&span["kind"]),
        tags: span["tags"].as_object().into_iter().flatten().map(|(k, v)| (k.clone(), text(v))).collect(),
        events: span["annotations"].as_array().into_iter().flatten().map(|a| text(&a["value"])).collect(),
        error: false,
        resource: [("service.name".to_owned(), text(&span["localEndpoint"]["serviceName"]))].into(),
        shared: span["shared"] == true,
        state: String::new(),
    };
    list.iter().map(span).collect()
}
