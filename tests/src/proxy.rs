//! Our own proxy, as a process.

use crate::envoy::{Envoy, Until};
use crate::process::built;
use anyhow::Result;

/// Starts `portolan-proxy` on a bootstrap whose admin port may be 0, and waits until `/ready` says LIVE.
///
/// # Errors
/// It is not built or does not get ready.
pub async fn start(bootstrap: &str) -> Result<Envoy> {
    Envoy::launch("proxy", &built("portolan-proxy")?, bootstrap, &[]).await
}

/// Starts it and waits only until its admin interface answers: it may not be ready yet.
///
/// # Errors
/// It is not built or ends.
pub async fn start_unready(bootstrap: &str) -> Result<Envoy> {
    start_unready_with(bootstrap, &[]).await
}

/// [`start_unready`] with further arguments.
///
/// # Errors
/// As there.
pub async fn start_unready_with(bootstrap: &str, args: &[&str]) -> Result<Envoy> {
    Envoy::launch_until("proxy", &built("portolan-proxy")?, bootstrap, args, Until::Answers).await
}
