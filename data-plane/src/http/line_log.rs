//! An access log of lines: what is logged, how, and where to.

use super::access_log::Sink;
use super::{BuildError, Deps};
use data_plane_core::accesslog::{Filter, Renderer};
use data_plane_core::config::{self, AccessLogSink};
use data_plane_core::headers::Record;
use data_plane_core::matcher::Runtime;
use std::sync::Arc;

/// One access log.
pub(super) struct LineLog {
    filter: Option<Filter>,
    renderer: Renderer,
    sink: Arc<Sink>,
}

impl LineLog {
    /// Opens its sink, unless it is open.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(super) fn open(config: &config::AccessLog, deps: &Deps) -> Result<Self, BuildError> {
        let sink = deps.access_logs.open(&config.sink).map_err(|source| BuildError::AccessLog {
            path: match &config.sink {
                AccessLogSink::File(path) => path.display().to_string(),
                AccessLogSink::Stdout => "stdout".into(),
                AccessLogSink::Stderr => "stderr".into(),
            },
            source,
        })?;
        let renderer = Renderer::new(&config.format);
        Ok(Self { filter: config.filter.as_ref().map(Filter::new), renderer, sink })
    }

    /// Appends the line of `record`, if it is to be logged. `random` is the stream's.
    pub(super) fn append(
        &self,
        worker: usize,
        record: &Record<'_>,
        random: u64,
        runtime: Option<Runtime<'_>>,
    ) {
        if self.filter.as_ref().is_none_or(|filter| filter.passes(record, random, runtime)) {
            self.sink.append(worker, |out| self.renderer.render(record, out));
        }
    }
}
