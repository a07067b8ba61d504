//! The HTTP connection manager: what is built once from its configuration, and what it keeps of a connection.

use super::chain::ChainConfig;
use super::conduct;
use super::grpc_log::RequestLog;
use super::line_log::LineLog;
use super::local_reply::{Cause, LocalReply};
use super::reply_map::ReplyMap;
use super::route_slot::RouteSlot;
use super::stats::Stats;
use super::stream::StreamCx;
use super::{BuildError, Connection, Deps, Told, Worker};
use crate::codec::{
    self, BufferLimit, EndReason, Handler, Io, ProtocolError, ProtocolErrorKind, Reply, Request,
    ServerOptions,
};
use crate::runtime::Runtime;
use crate::stats::{Counter, Scope};
use crate::trace::Tracer;
use data_plane_core::config::{self, RouteSource};
use data_plane_core::headers::forwarded::{self, Rules};
use data_plane_core::headers::{
    Downstream, HeaderId, HeaderList, LogType, Process, Record, RequestHead, ResponseHead, Version,
};
use data_plane_core::route::RouteTable;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tokio::time::Instant;

/// A connection manager, shared by workers and connections.
pub struct Hcm {
    pub(super) config: Arc<config::Hcm>,
    pub(super) stats: Stats,
    pub(super) routes: Arc<RouteSlot>,
    pub(super) chain: ChainConfig,
    pub(super) rules: Rules,
    pub(super) replies: ReplyMap,
    pub(super) process: Arc<Process>,
    pub(super) runtime: Runtime,
    pub(super) tracer: Option<Tracer>,
    /// Health checks fail: whoever asks is told to leave.
    fails: Arc<AtomicBool>,
    options: Arc<ServerOptions>,
    logs: Vec<LineLog>,
    grpc_logs: Vec<RequestLog>,
}

impl Hcm {
    /// Builds what requests need. `listener` is the scope `listener.<address>.`.
    ///
    /// # Errors
    /// The filters do not form a chain, or an access log cannot be opened.
    pub fn build(config: Arc<config::Hcm>, deps: &Deps, listener: &Scope) -> Result<Arc<Self>, BuildError> {
        let prefix = &*config.stat_prefix;
        let tags = [("envoy_http_conn_manager_prefix", prefix)];
        let scope = deps.stats.scope(&format!("http.{prefix}."), "http.", &tags);
        let routes = match &config.routes {
            RouteSource::Static(routes) => {
                let slot = Arc::<RouteSlot>::default();
                slot.publish(Some(Arc::new(RouteTable::build(Arc::clone(routes)))));
                slot
            }
            RouteSource::Rds { name, .. } => deps.routes.slot(name),
        };
        let logs = config.access_log.iter().map(|log| LineLog::open(log, deps)).collect::<Result<_, _>>()?;
        Ok(Arc::new(Self {
            stats: Stats::new(&scope, listener, prefix),
            routes,
            chain: ChainConfig::build(&config.filters, deps)?,
            rules: rules(&config, deps),
            replies: ReplyMap::new(&config.local_reply),
            process: Arc::clone(&deps.process),
            runtime: deps.runtime.clone(),
            tracer: config
                .tracing
                .as_ref()
                .map(|c| deps.tracers.tracer(c))
                .transpose()
                .map_err(BuildError::Export)?,
            fails: Arc::clone(&deps.fails_health_checks),
            options: Arc::new(ServerOptions::new(&config)),
            logs,
            grpc_logs: config
                .grpc_logs
                .iter()
                .map(|log| RequestLog::open(log, deps))
                .collect::<Result<_, _>>()?,
            config,
        }))
    }

    /// Where bytes of its connections are counted: received, sent.
    pub fn byte_counters(&self) -> (Counter, Counter) {
        let stats = &self.stats.manager;
        (stats.downstream_cx_rx_bytes_total.clone(), stats.downstream_cx_tx_bytes_total.clone())
    }

    /// Why a connection is to end with the answer that it gets, whatever the answer. Envoy drains those that ask while the
    /// process fails health checks, so that clients go to other replicas.
    pub(super) fn dismisses(&self) -> Option<EndReason> {
        self.fails.load(Relaxed).then_some(EndReason::Drained)
    }

    fn has_logs(&self) -> bool {
        !self.logs.is_empty() || !self.grpc_logs.is_empty()
    }

    /// Whether any access log may read a response's headers after they are sent.
    pub(super) fn keeps_heads(&self) -> bool {
        self.has_logs()
    }

    /// Writes the access logs of a stream that ended.
    pub(super) fn log(
        &self,
        cx: &StreamCx,
        request: Option<&RequestHead>,
        response: Option<&ResponseHead>,
        trailers: Option<&HeaderList>,
    ) {
        if self.has_logs() {
            cx.with_record(request, response, trailers, |record| self.write_logs(cx, record));
        }
    }

    /// Writes the access logs of a stream that begins.
    pub(super) fn log_start(&self, cx: &StreamCx, request: &RequestHead) {
        if self.config.log_on_new_request && self.has_logs() {
            cx.with_record(Some(request), None, None, |record| {
                self.write_logs(cx, &Record { log_type: LogType::DownstreamStart, ..*record });
            });
        }
    }

    fn write_logs(&self, cx: &StreamCx, record: &Record<'_>) {
        let runtime = |key: &str| self.runtime.per_million(key);
        for log in &self.logs {
            log.append(cx.served.worker.index, record, cx.random, Some(&runtime));
        }
        for log in &self.grpc_logs {
            log.append(cx.served.worker.index, record, cx.random, Some(&runtime));
        }
    }

    /// Gives a response head what every answer of this manager has.
    pub(super) fn seal(
        &self,
        head: &mut ResponseHead,
        request: Option<&RequestHead>,
        worker: &Worker,
        now: Instant,
    ) {
        use config::ServerHeader;
        let headers = &mut head.headers;
        if !headers.contains_id(HeaderId::Date) {
            worker.clock.with_date(worker.clock.wall(now), |date| headers.append_id(HeaderId::Date, date));
        }
        let server = self.config.server_name.as_bytes();
        match self.config.server_header {
            ServerHeader::Overwrite => headers.set_id(HeaderId::Server, server),
            ServerHeader::AppendIfAbsent if !headers.contains_id(HeaderId::Server) => {
                headers.append_id(HeaderId::Server, server);
            }
            ServerHeader::AppendIfAbsent | ServerHeader::PassThrough => {}
        }
        if let Some(request) = request
            && (self.config.always_set_request_id_in_response
                || request.headers.contains_id(HeaderId::XEnvoyForceTrace))
            && let Some(id) = request.headers.get_id(HeaderId::XRequestId)
        {
            headers.set_id(HeaderId::XRequestId, id);
        }
        forwarded::append_via(headers, &self.config.via);
    }
}

fn rules(config: &config::Hcm, deps: &Deps) -> Rules {
    Rules {
        use_remote_address: config.use_remote_address,
        xff_num_trusted_hops: config.xff_num_trusted_hops,
        skip_xff_append: config.skip_xff_append,
        append_x_forwarded_port: config.append_x_forwarded_port,
        via: config.via.clone(),
        client_cert: config.client_cert,
        client_cert_details: config.client_cert_details,
        generate_request_id: config.generate_request_id,
        preserve_external_request_id: config.preserve_external_request_id,
        scheme: config.scheme_override,
        internal_ranges: config.internal_ranges.iter().copied().collect(),
        user_agent: config.add_user_agent.then(|| (*deps.agent).clone()),
    }
}

/// Most things that filters keep of a connection.
const KEPT: usize = 64;

/// A connection being served: what its streams share.
pub(super) struct Served {
    pub(super) hcm: Arc<Hcm>,
    pub(super) worker: Rc<Worker>,
    pub(super) facts: Downstream,
    pub(super) filter_chain: Arc<str>,
    pub(super) is_tls: bool,
    pub(super) interface: Option<std::net::IpAddr>,
    /// Bytes of a body that are kept where something has to be, unless the route says otherwise.
    pub(super) buffer_limit: u64,
    protocol: Cell<Option<Version>>,
    /// Who logs the connection is told of it.
    told: Option<Arc<Told>>,
    begun: Instant,
    ended: Cell<Option<EndReason>>,
    /// What filters keep of the connection, by keys of theirs.
    kept: RefCell<Vec<(usize, Rc<dyn Any>)>>,
}

/// Serves a connection to its end.
///
/// # Cancel safety
/// Dropping the future closes the connection and ends its requests.
pub fn serve<S: Io>(
    hcm: Arc<Hcm>,
    connection: Connection<S>,
    worker: Rc<Worker>,
) -> impl Future<Output = ()> {
    let protocol = match (hcm.config.codec, connection.detected) {
        (config::CodecType::Auto, Some(detected)) => detected,
        (configured, _) => configured,
    };
    let is_tls = connection.tls.is_some();
    let served = Rc::new(Served {
        worker,
        facts: Downstream {
            remote: connection.peer,
            direct_remote: connection.direct_peer,
            local: connection.local,
            direct_local: connection.direct_local,
            server_name: connection.server_name,
            connection_id: connection.id,
            handshake: connection.handshake,
            transport_failure: None,
            tls: connection.tls,
        },
        filter_chain: connection.filter_chain,
        is_tls,
        interface: connection.interface,
        buffer_limit: connection.buffer_limit,
        protocol: Cell::new(None),
        told: connection.told,
        begun: Instant::now(),
        ended: Cell::new(None),
        kept: RefCell::default(),
        hcm,
    });
    served.opened();
    let hcm = Arc::clone(&served.hcm);
    // Counts the end also when this future is dropped before it.
    let books = Books(Rc::clone(&served));
    let front = Rc::new(Front(served));
    let limit = BufferLimit::of_bytes(connection.buffer_limit);
    let serving = codec::serve(connection.io, protocol, &hcm.options, limit, front, connection.shutdown);
    async move {
        let end = serving.await;
        books.0.ended.set(Some(end.reason));
    }
}

struct Books(Rc<Served>);

impl Drop for Books {
    fn drop(&mut self) {
        self.0.closed();
    }
}

impl Served {
    pub(super) fn local(&self) -> SocketAddr {
        self.facts.local
    }

    /// What a filter keeps of the connection under `key`, which no other filter uses; made by `make` the first time.
    pub(super) fn keep<T: 'static>(&self, key: usize, make: impl FnOnce() -> T) -> Rc<T> {
        let known = self.kept.borrow().iter().find(|(at, _)| *at == key).map(|(_, kept)| Rc::clone(kept));
        known.and_then(|kept| kept.downcast().ok()).unwrap_or_else(|| {
            let made = Rc::new(make());
            let mut all = self.kept.borrow_mut();
            // Of configurations long gone.
            if all.len() >= KEPT {
                all.remove(0);
            }
            all.push((key, Rc::clone(&made) as Rc<dyn Any>));
            made
        })
    }

    fn opened(&self) {
        let stats = &self.hcm.stats.manager;
        stats.downstream_cx_total.inc();
        stats.downstream_cx_active.inc();
        if self.is_tls {
            stats.downstream_cx_ssl_total.inc();
            stats.downstream_cx_ssl_active.inc();
        }
    }

    fn closed(&self) {
        let stats = &self.hcm.stats.manager;
        stats.downstream_cx_active.dec();
        stats.downstream_cx_length_ms.record(self.begun.elapsed().as_millis() as u64);
        if self.is_tls {
            stats.downstream_cx_ssl_active.dec();
        }
        match self.protocol.get() {
            Some(Version::Http2) => stats.downstream_cx_http2_active.dec(),
            Some(_) => stats.downstream_cx_http1_active.dec(),
            None => {}
        }
        stats.downstream_cx_destroy.inc();
        let reason = self.ended.get();
        if reason.is_some_and(EndReason::is_remote) {
            stats.downstream_cx_destroy_remote.inc();
        } else {
            stats.downstream_cx_destroy_local.inc();
        }
        match reason {
            Some(EndReason::RemoteActive) => {
                stats.downstream_cx_destroy_active_rq.inc();
                stats.downstream_cx_destroy_remote_active_rq.inc();
            }
            Some(EndReason::IdleTimeout) => stats.downstream_cx_idle_timeout.inc(),
            Some(EndReason::MaxDuration) => stats.downstream_cx_max_duration_reached.inc(),
            Some(EndReason::MaxRequests) => stats.downstream_cx_max_requests_reached.inc(),
            Some(EndReason::Drained) => stats.downstream_cx_drain_close.inc(),
            _ => {}
        }
    }
}

/// What the codec calls.
struct Front(Rc<Served>);

impl Handler for Front {
    fn started(&self, version: Version) {
        self.0.started(version);
    }

    fn handle(self: Rc<Self>, request: Request) -> impl Future<Output = Reply> + 'static {
        self.0.tell(|told| told.speaks(request.head.version));
        conduct::conduct(Rc::clone(&self.0), request)
    }

    fn refuse(&self, error: &ProtocolError) -> Option<Reply> {
        self.0.refuse(error)
    }
}

impl Served {
    fn started(&self, version: Version) {
        let stats = &self.hcm.stats.manager;
        if version == Version::Http2 {
            stats.downstream_cx_http2_total.inc();
            stats.downstream_cx_http2_active.inc();
        } else {
            stats.downstream_cx_http1_total.inc();
            stats.downstream_cx_http1_active.inc();
        }
        self.protocol.set(Some(version));
    }

    fn tell(&self, tell: impl FnOnce(&Told)) {
        if let Some(told) = &self.told {
            tell(told);
        }
    }

    fn refuse(self: &Rc<Self>, error: &ProtocolError) -> Option<Reply> {
        let stats = &self.hcm.stats;
        let protocol = error.kind != ProtocolErrorKind::HeadersTimeout;
        if protocol {
            stats.manager.downstream_cx_protocol_error.inc();
            self.tell(Told::breaks_protocol);
            // Envoy counts the message and what it left unread.
            stats.manager.downstream_rq_response_before_rq_complete.inc();
            stats.manager.downstream_rq_rx_reset.add(2);
        } else {
            stats.manager.downstream_rq_header_timeout.inc();
        }
        let version = self.protocol.get().unwrap_or(Version::Http11);
        stats.request(version);
        let mut cx = StreamCx::bare(self, version);
        let cause =
            Cause::Codec { status: error.status(), body: error.body(), details: error.details, protocol };
        let reply = LocalReply::from(cause);
        let now = cx.start;
        let flags = reply.flags;
        cx.details = reply.details.clone();
        // An HTTP/2 stream that broke the protocol is reset: nothing it says can be trusted.
        let answer = !(version == Version::Http2 && error.kind == ProtocolErrorKind::Malformed);
        let (mut head, body) =
            reply.render(None, |head, reply| self.hcm.replies.apply(head, reply, None, &cx));
        // Access logs know of it; `local_reply_config` does not, as in Envoy.
        cx.flags = flags;
        self.hcm.seal(&mut head, None, &self.worker, now);
        if answer {
            stats.response(head.status);
            cx.status = Some(head.status);
            cx.sent = body.len() as u64;
        }
        cx.moments.end = Some(now);
        stats.manager.downstream_rq_active.dec();
        stats.manager.downstream_rq_time.record(0);
        self.hcm.log(&cx, None, answer.then_some(&head), None);
        answer.then(|| Reply { close: Some(EndReason::Local), ..Reply::new(head, codec::Body::from(body)) })
    }
}
