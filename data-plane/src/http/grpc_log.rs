//! Access logs that go to a gRPC service (Envoy's ALS), by the way of `export`: nobody waits for it.
//!
//! Each batch is a stream of its own with one message, so that the service's answer says that it was taken.

mod common;
mod connection;
mod request;

use super::{BuildError, Deps};
use crate::export::{Encode, Item, Queue, Target};
use bytes::Bytes;
use data_plane_core::accesslog::Filter;
use data_plane_core::config::GrpcAccessLog;
use data_plane_core::headers::Record;
use data_plane_core::matcher::Runtime;
use prost::Message;
use std::marker::PhantomData;
use xds_types::envoy::data::accesslog::v3::{HttpAccessLogEntry, TcpAccessLogEntry};
use xds_types::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use xds_types::envoy::service::accesslog::v3::stream_access_logs_message::{Identifier, LogEntries};

/// The method.
const PATH: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";

/// A log of requests.
pub(super) type RequestLog = GrpcLog<HttpAccessLogEntry>;

/// A log of connections.
pub(super) type ConnectionLog = GrpcLog<TcpAccessLogEntry>;

/// What is logged.
pub(super) trait Entry: Message + Clone + Sized + 'static {
    /// The configuration of a log of such.
    type Config: Clone;

    /// What logs of all kinds have.
    fn common(config: &Self::Config) -> &GrpcAccessLog;

    /// One of what there is to tell.
    fn new(record: &Record<'_>, config: &Self::Config) -> Self;

    /// Many, as they are sent.
    fn together(entries: Vec<Self>) -> LogEntries;
}

/// One such log.
pub(super) struct GrpcLog<E: Entry> {
    filter: Option<Filter>,
    config: E::Config,
    queue: Queue<Waiting<E>>,
}

impl<E: Entry> GrpcLog<E> {
    /// Opens it.
    pub(super) fn open(config: &E::Config, deps: &Deps) -> Result<Self, BuildError> {
        let GrpcAccessLog { log_name, target, flush_interval, batch_bytes, custom_tags: _, filter } =
            E::common(config);
        let identifier = Identifier { node: Some((*deps.node).clone()), log_name: log_name.to_string() };
        let target = Target::grpc(target, PATH);
        let encoder = Encoder { identifier, entries: PhantomData };
        let batch_bytes = *batch_bytes as usize;
        let queue = deps.exporters.open("access_log", target, encoder, |knobs| {
            knobs.flush_interval = *flush_interval;
            knobs.batch_bytes = batch_bytes.max(1);
            // So many entries wait in one queue before they are sent ahead of the interval; about half a KiB each.
            knobs.batch_entries = knobs.batch_entries.min((batch_bytes / 512).max(1));
        });
        Ok(Self {
            filter: filter.as_ref().map(Filter::new),
            config: config.clone(),
            queue: queue.map_err(BuildError::Export)?,
        })
    }

    /// Logs what a record says, from worker `worker`.
    pub(super) fn append(
        &self,
        worker: usize,
        record: &Record<'_>,
        random: u64,
        runtime: Option<Runtime<'_>>,
    ) {
        if self.filter.as_ref().is_none_or(|filter| filter.passes(record, random, runtime)) {
            self.queue.push(worker, Waiting(Box::new(E::new(record, &self.config))));
        }
    }
}

/// An entry that waits.
struct Waiting<E>(Box<E>);

impl<E: Entry> Item for Waiting<E> {
    fn bytes(&self) -> usize {
        self.0.encoded_len() + size_of::<E>()
    }
}

struct Encoder<E> {
    identifier: Identifier,
    entries: PhantomData<fn(E)>,
}

impl<E: Entry> Encode<Waiting<E>> for Encoder<E> {
    fn encode(&self, items: &[Waiting<E>]) -> Bytes {
        let entries = E::together(items.iter().map(|Waiting(entry)| (**entry).clone()).collect());
        StreamAccessLogsMessage { identifier: Some(self.identifier.clone()), log_entries: Some(entries) }
            .encode_to_vec()
            .into()
    }
}
