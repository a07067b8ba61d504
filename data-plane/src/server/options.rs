//! What the command line says besides the bootstrap.

use super::logging::Logging;
use crate::http::FLUSH_INTERVAL;
use crate::task::Pace;
use crate::xds::UnknownFields;
use std::path::PathBuf;
use std::time::Duration;

/// The part of the drain time within which a gradual drain tells everyone: who is told last has the rest to finish.
/// As Envoy spreads what it tells connections that are idle.
const TOLD_WITHIN: u32 = 4;

/// How clients are told to leave removed listeners and chains, and on `/drain_listeners?graceful` (Envoy
/// `--drain-strategy`). They may finish what is under way until the drain time ends. When the process is to end, which
/// someone waits for, all are told at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrainStrategy {
    /// Each at a moment of its own in the first quarter of the drain time. Envoy's default.
    #[default]
    Gradual,
    /// All at once.
    Immediate,
}

/// What the command line says besides the bootstrap.
#[derive(Clone, Debug)]
pub struct Options {
    /// Worker threads; at least one.
    pub concurrency: usize,
    /// Longest wait for connections to end when draining. Default 600 s.
    pub drain_time: Duration,
    /// What becomes of xDS resources with fields that are not known here.
    pub unknown_dynamic_fields: UnknownFields,
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

impl Options {
    /// How fast clients are told.
    pub(super) fn pace(&self) -> Pace {
        match self.drain_strategy {
            DrainStrategy::Immediate => Pace::AtOnce,
            DrainStrategy::Gradual => Pace::Within(self.drain_time / TOLD_WITHIN),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            concurrency: 1,
            drain_time: Duration::from_secs(600),
            unknown_dynamic_fields: UnknownFields::default(),
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
