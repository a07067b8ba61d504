//! Our own proxy, as a process.

use crate::envoy::Envoy;
use crate::process::built;
use anyhow::Result;

/// Starts `portolan-proxy` on a bootstrap whose admin port may be 0, and waits until `/ready` says LIVE.
///
/// # Errors
/// It is not built or does not get ready.
pub async fn start(bootstrap: &str) -> Result<Envoy> {
    Envoy::launch("proxy", &built("portolan-proxy")?, bootstrap, &[]).await
}
