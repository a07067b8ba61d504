//! What the command line says besides the bootstrap.

use std::path::PathBuf;
use std::time::Duration;

/// How a draining proxy tells its clients (Envoy `--drain-strategy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrainStrategy {
    /// A growing share of requests is answered with `connection: close` over the drain time.
    #[default]
    Gradual,
    /// Every connection is told at once.
    Immediate,
}

/// What the command line says besides the bootstrap.
#[derive(Clone, Debug)]
pub struct Options {
    /// Worker threads; at least one.
    pub concurrency: usize,
    /// Longest wait for connections to end when draining. Default 600 s.
    pub drain_time: Duration,
    /// See [`DrainStrategy`].
    pub drain_strategy: DrainStrategy,
    /// Where the admin address is written once bound.
    pub admin_address_path: Option<PathBuf>,
    /// Serve SIGTERM, SIGINT, SIGHUP and SIGUSR1. Only one proxy of a process should.
    pub signals: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            concurrency: 1,
            drain_time: Duration::from_secs(600),
            drain_strategy: DrainStrategy::default(),
            admin_address_path: None,
            signals: false,
        }
    }
}
