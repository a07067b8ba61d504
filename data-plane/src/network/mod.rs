//! Network filters: what serves the bytes of one connection.
//!
//! A chain is built once per filter chain of a listener and shared by all workers. To add a filter: a file here
//! that exports `FACTORY`, its `mod` line, and its line in [`BUILTIN`].

mod http;
mod relay;
mod tcp_proxy;

use crate::http::{BuildError, Connection, Deps, Worker};
use crate::stats::Scope;
use crate::transport::Stream;
use data_plane_core::config;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

/// A future of this thread.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A terminal network filter, shared by workers.
pub trait NetworkFilter: Send + Sync {
    /// Serves a connection to its end. Dropping the future drops the connection.
    fn serve(&self, connection: Connection<Stream>, worker: Rc<Worker>) -> LocalBoxFuture<'static, ()>;
}

/// A filter, or why it cannot be built.
pub type BuildResult = Result<Arc<dyn NetworkFilter>, BuildError>;

/// How a kind of filter is built.
pub struct Factory {
    /// Envoy's name of the filter, for messages.
    pub name: &'static str,
    /// Builds the filter, or says that the configuration is of another kind.
    pub build: fn(&config::NetworkFilter, &Deps, &Scope) -> Option<BuildResult>,
}

/// Every kind of filter there is.
pub const BUILTIN: &[Factory] = &[http::FACTORY, tcp_proxy::FACTORY];

/// Builds the filters of a chain. `listener` is the scope `listener.<address>.`.
///
/// # Errors
/// The chain is empty, or a filter cannot be built.
pub fn build(
    filters: &[config::NetworkFilter],
    deps: &Deps,
    listener: &Scope,
) -> Result<Arc<dyn NetworkFilter>, BuildError> {
    // Only terminal filters exist so far, so that a chain is its last filter.
    let terminal = filters.last().ok_or(BuildError::EmptyChain)?;
    BUILTIN
        .iter()
        .find_map(|factory| (factory.build)(terminal, deps, listener))
        .unwrap_or(Err(BuildError::UnknownFilter))
}
