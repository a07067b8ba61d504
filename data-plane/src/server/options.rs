//! What the command line says besides the bootstrap.

use super::logging::Logging;
use crate::http::FLUSH_INTERVAL;
use std::path::PathBuf;
use std::time::Duration;

/// How a draining proxy tells its clients (Envoy `--drain-strategy`). Both mean the same here: every connection is
/// told at once, and may finish what it has under way until the drain time ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrainStrategy {
    /// Envoy's default.
    #[default]
    Gradual,
    /// At once.
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
    /// Longest time that access-log lines wait to be written. Default 10 s.
    pub access_log_flush: Duration,
    /// Where the admin address is written once bound.
    pub admin_address_path: Option<PathBuf>,
    /// Serve SIGTERM, SIGINT, SIGHUP and SIGUSR1. Only one proxy of a process should.
    pub signals: bool,
    /// Log levels, for `/logging`; `None`: they cannot be changed.
    pub logging: Option<Logging>,
    /// Returns the calling thread's free memory to the system, where the allocator keeps it; default: nothing.
    /// Called by a worker when most of many connections have gone.
    pub give_back: fn(),
    /// The command line as `/server_info` shows it: Envoy's `command_line_options`.
    pub command_line: serde_json::Map<String, serde_json::Value>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            concurrency: 1,
            drain_time: Duration::from_secs(600),
            drain_strategy: DrainStrategy::default(),
            access_log_flush: FLUSH_INTERVAL,
            admin_address_path: None,
            signals: false,
            logging: None,
            give_back: || {},
            command_line: serde_json::Map::new(),
        }
    }
}
