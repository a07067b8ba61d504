//! Spans of requests: begun by the connection manager, told on by the router, ended with the stream, exported by
//! `export`.
//!
//! What a connection manager knows of tracing is a [`Tracer`]; a request that has a place in a trace carries a
//! [`Trace`], recorded or not. A request without one costs a branch.

mod otlp;
mod zipkin;

use crate::export::{Exporters, Queue, Target};
use crate::runtime::Runtime;
use crate::stats::{Counter, Registry};
use data_plane_core::config::{
    self, Collector, CustomTag, Decorator, RouteTracing, Sampling, TraceProvider, Tracing,
};
use data_plane_core::headers::format::Format;
use data_plane_core::headers::{HeaderId, HeaderList, Record, RequestHead};
use data_plane_core::trace::{
    Caller, Context, Decision, Extracted, Kind, Span, b3, client_tags, decide, events, new_id, samples,
    server_tags, w3c,
};
use parking_lot::Mutex;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Makes tracers; those with the same provider share an exporter. Clones share them.
#[derive(Clone)]
pub struct Tracers(Arc<Shared>);

struct Shared {
    exporters: Exporters,
    runtime: Runtime,
    registry: Registry,
    node: Arc<Node>,
    open: Mutex<Vec<(TraceProvider, Weak<Queue<Span>>)>>,
}

/// Who this proxy is, as spans say it.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// `node.id`.
    pub id: Box<str>,
    /// `node.cluster`: Zipkin's service name.
    pub cluster: Box<str>,
    /// `node.locality.zone`.
    pub zone: Box<str>,
    /// An address of this machine.
    pub address: Option<IpAddr>,
}

/// Tracing of one connection manager.
pub struct Tracer {
    config: Arc<Tracing>,
    runtime: Runtime,
    node: Arc<Node>,
    /// `None`: spans go nowhere, so that none are begun.
    spans: Option<Sink>,
}

struct Sink {
    queue: Arc<Queue<Span>>,
    sent: Counter,
}

/// A request's place in a trace.
#[derive(Debug)]
pub struct Trace {
    context: Context,
    kind: Kind,
    shared: bool,
    /// The decorator's operation, or the caller's.
    operation: Option<Box<str>>,
    /// Answered in `x-envoy-decorator-operation`.
    answered: Option<Box<str>>,
    /// The request upstream that is under way.
    child: Option<Child>,
}

#[derive(Debug)]
struct Child {
    context: Context,
    /// From the start of the request.
    begun: Duration,
    attempt: u32,
}

impl Tracers {
    /// No tracer yet.
    pub fn new(exporters: Exporters, runtime: Runtime, registry: Registry, node: Node) -> Self {
        Self(Arc::new(Shared { exporters, runtime, registry, node: Arc::new(node), open: Mutex::default() }))
    }

    /// The tracer of a connection manager.
    ///
    /// # Errors
    /// There is no thread to export spans.
    pub fn tracer(&self, config: &Arc<Tracing>) -> io::Result<Tracer> {
        let shared = &*self.0;
        let spans = match &config.provider {
            None => None,
            Some(provider) => Some(self.sink(provider)?),
        };
        Ok(Tracer {
            config: Arc::clone(config),
            runtime: shared.runtime.clone(),
            node: Arc::clone(&shared.node),
            spans,
        })
    }

    fn sink(&self, provider: &TraceProvider) -> io::Result<Sink> {
        let shared = &*self.0;
        let mut open = shared.open.lock();
        open.retain(|(_, queue)| queue.strong_count() > 0);
        let known = open.iter().find(|(other, _)| other == provider).and_then(|(_, queue)| queue.upgrade());
        let queue = match known {
            Some(queue) => queue,
            None => {
                let queue = Arc::new(self.export(provider)?);
                open.push((provider.clone(), Arc::downgrade(&queue)));
                queue
            }
        };
        let name = match provider {
            TraceProvider::OpenTelemetry(_) => "opentelemetry",
            TraceProvider::Zipkin(_) => "zipkin",
        };
        let prefix = format!("tracing.{name}.");
        let sent = shared.registry.scope(&prefix, &prefix, &[]).named_counter("spans_sent");
        Ok(Sink { queue, sent })
    }

    fn export(&self, provider: &TraceProvider) -> io::Result<Queue<Span>> {
        let exporters = &self.0.exporters;
        match provider {
            TraceProvider::OpenTelemetry(provider) => {
                let target = match &provider.collector {
                    Collector::Grpc(target) => Target::grpc(target, otlp::PATH),
                    Collector::Http(target) => Target::http(target, otlp::CONTENT_TYPE),
                };
                let encoder = otlp::Encoder::new(provider);
                exporters.open("opentelemetry", target, encoder, |knobs| {
                    if let Some(size) = provider.max_cache_size {
                        knobs.queue_entries = size as usize;
                    }
                })
            }
            TraceProvider::Zipkin(provider) => {
                let target = Target::http(&provider.collector, zipkin::CONTENT_TYPE);
                exporters.open("zipkin", target, zipkin::Encoder::new(&self.0.node), |_| ())
            }
        }
    }
}

impl Trace {
    /// Whether its spans are exported; a record of the stream is only of use then.
    pub fn is_recorded(&self) -> bool {
        self.context.sampled
    }
}

impl Tracer {
    /// Decides on a request that came in, writes the reason into its id, and finds its place in a trace. `random`
    /// gives random bits.
    pub fn begin(
        &self,
        head: &mut RequestHead,
        route: Option<&RouteTracing>,
        mut random: impl FnMut() -> u64,
    ) -> (Decision, Option<Box<Trace>>) {
        let config = &*self.config;
        let headers = &mut head.headers;
        let sampling = self.sampling(route.and_then(|route| route.sampling).unwrap_or(config.sampling));
        let decision = decide(headers, sampling, config.pack_reason, config.sample_by_request_id, random());
        let Some(provider) = config.provider.as_ref().filter(|_| self.spans.is_some()) else {
            return (decision, None);
        };
        let kind = if config.egress && !config.spawn_upstream_span { Kind::Client } else { Kind::Server };
        let place = match provider {
            TraceProvider::OpenTelemetry(provider) => open_telemetry(provider, headers, decision, random),
            TraceProvider::Zipkin(provider) => zipkin_place(provider, headers, kind, decision, random),
        };
        let Some((context, shared)) = place else { return (decision, None) };
        let mut trace = Trace { context, kind, shared, operation: None, answered: None, child: None };
        trace.decorate(headers, route.and_then(|route| route.decorator.as_ref()), config.egress);
        (decision, Some(Box::new(trace)))
    }

    /// Shares as runtime has them now.
    fn sampling(&self, configured: Sampling) -> Sampling {
        let now = |key, share| self.runtime.per_million(key).unwrap_or(share);
        Sampling {
            client: now("tracing.client_enabled", configured.client),
            random: now("tracing.random_sampling", configured.random),
            overall: now("tracing.global_enabled", configured.overall),
        }
    }

    /// A request goes upstream: begins its span, if there is to be one, and tells the next hop of the trace. `since`:
    /// from the start of the request; `attempt` counts from 1.
    pub fn forward(
        &self,
        trace: &mut Trace,
        headers: &mut HeaderList,
        since: impl FnOnce() -> Duration,
        attempt: u32,
        random: u64,
    ) {
        if self.config.spawn_upstream_span {
            let Context { trace_id, span_id, sampled, ref state, .. } = trace.context;
            let context = Context {
                trace_id,
                span_id: new_id(random),
                parent: Some(span_id),
                sampled,
                state: state.clone(),
            };
            trace.child = Some(Child { context, begun: since(), attempt });
        }
        if !self.config.propagate {
            return;
        }
        let context = trace.child.as_ref().map_or(&trace.context, |child| &child.context);
        match &self.config.provider {
            Some(TraceProvider::OpenTelemetry(_)) => w3c::inject(context, headers),
            Some(TraceProvider::Zipkin(provider)) => {
                b3::inject(context, headers);
                if provider.with_w3c {
                    w3c::inject(context, headers);
                }
            }
            None => {}
        }
    }

    /// The request upstream has ended; `record` says how.
    pub fn attempted(
        &self,
        trace: &mut Trace,
        route: Option<&RouteTracing>,
        worker: usize,
        record: &Record<'_>,
    ) {
        let Some(Child { context, begun, attempt }) = trace.child.take() else { return };
        if !context.sampled {
            return;
        }
        let name = match &self.config.upstream_operation {
            Some(format) => text(format, record),
            None => format!("router {} egress", record.cluster.unwrap_or("-")),
        };
        let ended = record.timing.upstream_rx_end.unwrap_or(record.now);
        let moments = if self.config.verbose { events(Kind::Client, &record.timing) } else { Vec::new() };
        let span = Span {
            context,
            kind: Kind::Client,
            name: name.into(),
            start: record.start + begun,
            duration: ended.saturating_sub(begun),
            tags: client_tags(record, attempt, &self.custom_tags(route)),
            events: moments.into_iter().map(|(at, name)| (at.saturating_sub(begun), name)).collect(),
            shared: false,
        };
        self.export(span, worker);
    }

    /// The request has ended; `record` says how. A request upstream that has not, ends with it.
    pub fn end(
        &self,
        mut trace: Box<Trace>,
        route: Option<&RouteTracing>,
        worker: usize,
        record: &Record<'_>,
    ) {
        self.attempted(&mut trace, route, worker, record);
        if !trace.context.sampled {
            return;
        }
        let config = &*self.config;
        let operation = route.and_then(|route| route.operation.as_ref()).or(config.operation.as_ref());
        let name = match (&trace.operation, operation) {
            (Some(name), _) => name.to_string(),
            (None, Some(format)) => text(format, record),
            (None, None) => self.default_name(record.request),
        };
        let span = Span {
            kind: trace.kind,
            name: name.into(),
            start: record.start,
            duration: record.now,
            tags: server_tags(
                record,
                (&self.node.id, &self.node.zone),
                config.max_path_tag_bytes as usize,
                &self.custom_tags(route),
            ),
            events: if config.verbose { events(Kind::Server, &record.timing) } else { Vec::new() },
            shared: trace.shared,
            context: trace.context,
        };
        self.export(span, worker);
    }

    fn export(&self, span: Span, worker: usize) {
        if let Some(Sink { queue, sent }) = &self.spans {
            sent.inc();
            queue.push(worker, span);
        }
    }

    fn default_name(&self, request: Option<&RequestHead>) -> String {
        let host = request.map_or("", |request| &*request.authority);
        match (&self.config.provider, self.config.egress) {
            (Some(TraceProvider::Zipkin(_)), _) => host.to_owned(),
            (_, true) => format!("egress {host}"),
            (_, false) => "ingress".to_owned(),
        }
    }

    /// The manager's and the route's, of which the route's win, by name.
    fn custom_tags<'a>(&'a self, route: Option<&'a RouteTracing>) -> Vec<&'a CustomTag> {
        let of_route = route.map_or(&[][..], |route| &route.custom_tags);
        let overridden = |tag: &&CustomTag| of_route.iter().any(|other| other.name == tag.name);
        let mut tags: Vec<_> = self.config.custom_tags.iter().filter(|tag| !overridden(tag)).collect();
        tags.extend(of_route);
        tags.sort_by(|a, b| a.name.cmp(&b.name));
        tags
    }
}

impl Trace {
    /// The trace's and the span's id, as logs tell them; `None` while nothing is recorded of them? Always told.
    pub fn ids(&self) -> (u128, u64) {
        (self.context.trace_id, self.context.span_id)
    }

    /// Whether it is recorded.
    pub fn is_sampled(&self) -> bool {
        self.context.sampled
    }

    /// Names of operations that routes and callers give (Envoy `Decorator`).
    fn decorate(&mut self, headers: &mut HeaderList, decorator: Option<&Decorator>, egress: bool) {
        let told = decorator.filter(|decorator| decorator.propagate).map(|decorator| &decorator.operation);
        self.operation = decorator.map(|decorator| decorator.operation.clone());
        if egress {
            if let Some(operation) = told {
                headers.set_id(HeaderId::XEnvoyDecoratorOperation, operation.as_bytes());
            }
            return;
        }
        self.answered = told.cloned();
        let Some(asked) = headers.get_id(HeaderId::XEnvoyDecoratorOperation) else { return };
        if !asked.is_empty() {
            self.operation = Some(String::from_utf8_lossy(asked).into());
            self.answered = None;
        }
        headers.remove_id(HeaderId::XEnvoyDecoratorOperation);
    }

    /// A response goes to the client: names the operation where its caller is to know, and takes the name that an
    /// upstream gave.
    pub fn answer(&mut self, egress: bool, headers: &mut HeaderList) {
        if !egress {
            if let Some(operation) = &self.answered {
                headers.set_id(HeaderId::XEnvoyDecoratorOperation, operation.as_bytes());
            }
            return;
        }
        let told = headers.get_id(HeaderId::XEnvoyDecoratorOperation).filter(|told| !told.is_empty());
        if let Some(told) = told {
            self.operation = Some(String::from_utf8_lossy(told).into());
        }
        headers.remove_id(HeaderId::XEnvoyDecoratorOperation);
    }
}

fn text(format: &Format, record: &Record<'_>) -> String {
    let mut out = Vec::new();
    format.render(record, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// A new context below `caller`.
fn below(caller: Caller, sampled: bool, span_id: u64) -> Context {
    let Caller { trace_id, span_id: parent, state, .. } = caller;
    Context { trace_id, span_id, parent: Some(parent), sampled, state }
}

fn open_telemetry(
    provider: &config::OpenTelemetry,
    headers: &HeaderList,
    decision: Decision,
    mut random: impl FnMut() -> u64,
) -> Option<(Context, bool)> {
    let sampler = provider.sampler.as_ref();
    let context = match w3c::extract(headers) {
        Extracted::Malformed => return None,
        Extracted::Absent => {
            let trace_id = u128::from(new_id(random())) << 64 | u128::from(random());
            let sampled = sampler.map_or(decision.traced, |sampler| samples(sampler, trace_id, None));
            Context { trace_id, span_id: new_id(random()), parent: None, sampled, state: None }
        }
        Extracted::Caller(caller) => {
            let told = caller.sampled;
            let sampled = match sampler {
                Some(sampler) => samples(sampler, caller.trace_id, told),
                None => told.unwrap_or(decision.traced),
            };
            below(caller, sampled, new_id(random()))
        }
    };
    Some((context, false))
}

fn zipkin_place(
    provider: &config::Zipkin,
    headers: &HeaderList,
    kind: Kind,
    decision: Decision,
    mut random: impl FnMut() -> u64,
) -> Option<(Context, bool)> {
    let (mut extracted, told) = b3::extract(headers);
    if extracted == Extracted::Absent && provider.with_w3c {
        extracted = w3c::extract(headers);
    }
    let context = match extracted {
        Extracted::Malformed => return None,
        Extracted::Absent => {
            let low = new_id(random());
            let high = if provider.long_ids { new_id(random()) } else { 0 };
            Context {
                trace_id: u128::from(high) << 64 | u128::from(low),
                span_id: low,
                parent: None,
                sampled: told.unwrap_or(decision.traced),
                state: None,
            }
        }
        Extracted::Caller(caller) => {
            let sampled = told.or(caller.sampled).unwrap_or(decision.traced);
            if kind == Kind::Server && provider.shared_span_context {
                let Caller { trace_id, span_id, parent, state, .. } = caller;
                Context { trace_id, span_id, parent, sampled, state }
            } else {
                below(caller, sampled, new_id(random()))
            }
        }
    };
    Some((context, kind == Kind::Server && provider.shared_span_context))
}

impl crate::export::Item for Span {
    fn bytes(&self) -> usize {
        Span::bytes(self)
    }
}
