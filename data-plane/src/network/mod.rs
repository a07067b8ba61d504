//! Network filters: what serves the bytes of one connection.
//!
//! A chain is built once per filter chain of a listener and shared by all workers: gates, which let a connection on or
//! end it, then the terminal filter, which serves it. To add a filter: a file here that exports `FACTORY`, its `mod`
//! line, and its line in [`BUILTIN`].

mod connection_limit;
mod direct_response;
mod echo;
mod http;
mod relay;
mod tcp_proxy;

use crate::http::{BuildError, Connection, Deps, Worker};
use crate::stats::Scope;
use crate::transport::Stream;
use data_plane_core::config;
use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A future of this thread.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A terminal network filter, shared by workers.
pub trait NetworkFilter: Send + Sync {
    /// Serves a connection to its end. Dropping the future drops the connection.
    fn serve(&self, connection: Connection<Stream>, worker: Rc<Worker>) -> LocalBoxFuture<'static, ()>;
}

/// A network filter before the terminal one, shared by workers.
pub trait Gate: Send + Sync {
    /// Decides on a connection of which no byte is read yet.
    fn enter(&self, connection: &Connection<Stream>) -> Entry;
}

/// What a gate does with a connection.
pub enum Entry {
    /// It goes on; what is given is dropped with the connection.
    Passes(Option<Box<dyn Any>>),
    /// It is closed.
    Closes {
        /// So long after.
        after: Duration,
    },
}

/// A filter of a chain.
pub enum Built {
    /// Not the last.
    Gate(Arc<dyn Gate>),
    /// The last.
    Terminal(Arc<dyn NetworkFilter>),
}

/// A filter, or why it cannot be built.
pub type BuildResult = Result<Built, BuildError>;

/// How a kind of filter is built.
pub struct Factory {
    /// Envoy's name of the filter, for messages.
    pub name: &'static str,
    /// Builds the filter, or says that the configuration is of another kind.
    pub build: fn(&config::NetworkFilter, &Deps, &Scope) -> Option<BuildResult>,
}

/// Every kind of filter there is.
pub const BUILTIN: &[Factory] =
    &[connection_limit::FACTORY, direct_response::FACTORY, echo::FACTORY, http::FACTORY, tcp_proxy::FACTORY];

/// Builds the filters of a chain. `listener` is the scope `listener.<address>.`.
///
/// # Errors
/// The chain does not end in a terminal filter, or a filter cannot be built.
pub fn build(
    filters: &[config::NetworkFilter],
    deps: &Deps,
    listener: &Scope,
) -> Result<Arc<dyn NetworkFilter>, BuildError> {
    let one = |config| {
        BUILTIN
            .iter()
            .find_map(|factory| (factory.build)(config, deps, listener))
            .unwrap_or(Err(BuildError::UnknownFilter))
    };
    let (last, before) = filters.split_last().ok_or(BuildError::EmptyChain)?;
    let mut gates = Vec::new();
    for config in before {
        match one(config)? {
            Built::Gate(gate) => gates.push(gate),
            Built::Terminal(_) => return Err(BuildError::TerminalNotLast),
        }
    }
    match one(last)? {
        Built::Terminal(terminal) if gates.is_empty() => Ok(terminal),
        Built::Terminal(terminal) => Ok(Arc::new(Chain { gates, terminal })),
        Built::Gate(_) => Err(BuildError::NoTerminal),
    }
}

/// Gates before a terminal filter.
struct Chain {
    gates: Vec<Arc<dyn Gate>>,
    terminal: Arc<dyn NetworkFilter>,
}

impl NetworkFilter for Chain {
    fn serve(&self, mut connection: Connection<Stream>, worker: Rc<Worker>) -> LocalBoxFuture<'static, ()> {
        let mut held = Vec::new();
        for gate in &self.gates {
            match gate.enter(&connection) {
                Entry::Passes(place) => held.extend(place),
                Entry::Closes { after } => {
                    return Box::pin(async move {
                        tokio::select! {
                            () = tokio::time::sleep(after) => {}
                            () = connection.shutdown.reached(crate::task::Phase::Stopped) => {}
                        }
                    });
                }
            }
        }
        let serving = self.terminal.serve(connection, worker);
        Box::pin(async move {
            serving.await;
            drop(held);
        })
    }
}
