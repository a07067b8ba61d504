//! A line for each admin request, where the bootstrap asks for it.

use crate::http::{AccessLogs, Sink};
use data_plane_core::accesslog::{Filter, Record, Renderer};
use data_plane_core::config;
use data_plane_core::headers::{
    self, ByteCounts, Downstream, HeaderList, RequestHead, ResponseHead, Scheme, Version,
};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// The control thread's buffer of a sink.
const SHARED_BUFFER: usize = 0;

/// The admin server's logs.
#[derive(Clone)]
pub struct Logs(Rc<[Log]>);

struct Log {
    renderer: Renderer,
    filter: Option<Filter>,
    sink: Arc<Sink>,
}

impl Logs {
    /// Opens what `configured` names.
    ///
    /// # Errors
    /// A file cannot be opened.
    pub fn open(configured: &[config::AccessLog], sinks: &AccessLogs) -> io::Result<Self> {
        let open = |log: &config::AccessLog| {
            Ok(Log {
                renderer: Renderer::new(&log.format),
                filter: log.filter.as_ref().map(Filter::new),
                sink: sinks.open(&log.sink)?,
            })
        };
        configured.iter().map(open).collect::<io::Result<Vec<_>>>().map(|logs| Self(logs.into()))
    }

    /// A request has come; `None` when nothing is logged.
    pub(super) fn begin(
        &self,
        head: &http::request::Parts,
        peer: SocketAddr,
        local: SocketAddr,
    ) -> Option<Entry> {
        if self.0.is_empty() {
            return None;
        }
        let fields = || head.headers.iter().filter(|(name, _)| **name != http::header::HOST);
        let mut list = HeaderList::default();
        fields().for_each(|(name, value)| list.append(name.as_str().as_bytes(), value.as_bytes()));
        let authority = head.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
        let version = if head.version == http::Version::HTTP_10 { Version::Http10 } else { Version::Http11 };
        Some(Entry {
            logs: self.clone(),
            request: RequestHead {
                method: headers::method(head.method.as_str()),
                path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
                authority: authority.unwrap_or_default().into(),
                scheme: Scheme::Http,
                version,
                headers: list,
            },
            response: ResponseHead::new(0),
            start: SystemTime::now(),
            began: Instant::now(),
            downstream: Downstream {
                remote: peer,
                direct_remote: peer,
                local,
                direct_local: local,
                server_name: None,
                connection_id: 0,
                handshake: None,
                transport_failure: None,
                tls: None,
            },
            sent: 0,
        })
    }
}

/// A request being answered; its line is written when it is dropped, after the last byte or with the connection.
pub(super) struct Entry {
    logs: Logs,
    request: RequestHead,
    response: ResponseHead,
    start: SystemTime,
    began: Instant,
    downstream: Downstream,
    sent: u64,
}

impl Entry {
    pub(super) fn answered(&mut self, status: u16) {
        self.response.status = status;
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let elapsed = self.began.elapsed();
        let mut record = Record {
            request: Some(&self.request),
            response: Some(&self.response),
            protocol: Some(self.request.version),
            status: Some(self.response.status),
            now: elapsed,
            downstream_bytes: ByteCounts { body_sent: self.sent, ..ByteCounts::ZERO },
            downstream: Some(&self.downstream),
            stream_id: fastrand::u128(..),
            ..Record::new(self.start)
        };
        record.timing.end = Some(elapsed);
        for log in self.logs.0.iter() {
            if log.filter.as_ref().is_none_or(|filter| filter.passes(&record, fastrand::u64(..), None)) {
                log.sink.append(SHARED_BUFFER, |out| log.renderer.render(&record, out));
            }
        }
    }
}
