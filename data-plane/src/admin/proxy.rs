//! The proxy as the admin interface sees it.

use super::dump::Section;
use crate::export::Report;
use crate::listener::{Afterwards, Direction};
use crate::runtime::Runtime;
use crate::stats::Registry;
use crate::{listener, upstream};
use serde_json::{Map, Value};
use std::time::Duration;

/// Whether the proxy serves (Envoy `ServerInfo.State`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// Serving.
    Live,
    /// Told to fail health checks, or going down.
    Draining,
    /// Static clusters are warming up.
    PreInitializing,
    /// Waiting for dynamic configuration.
    Initializing,
}

impl ServerState {
    /// Envoy's name of the state.
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
            Self::PreInitializing => "PRE_INITIALIZING",
            Self::Initializing => "INITIALIZING",
        }
    }

    /// Envoy's number, as the gauge `server.state` shows it.
    pub fn number(self) -> u64 {
        match self {
            Self::Live => 0,
            Self::Draining => 1,
            Self::PreInitializing => 2,
            Self::Initializing => 3,
        }
    }
}

/// What a lever does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `/healthcheck/fail`: not ready any more; serving goes on, and each client that asks is told to leave.
    FailHealthCheck,
    /// `/healthcheck/ok`: takes that back.
    PassHealthCheck,
    /// `/drain_listeners`: no new connections.
    StopListeners(Direction),
    /// `/drain_listeners?graceful`: clients are told to leave, and no new connections after the drain time.
    DrainListeners(Direction, Afterwards),
    /// `/quitquitquit`: the process ends.
    Quit,
    /// Runtime values were changed.
    RuntimeChanged,
}

/// What does not change while the proxy runs, and how long that has been.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Build version, as Envoy writes it: `revision/version/status/build/tls`.
    pub version: String,
    /// Envoy's `command_line_options`.
    pub command_line: Map<String, Value>,
    /// The node as told to control planes.
    pub node: Value,
    /// Time since the start.
    pub uptime: Duration,
}

/// Memory of the process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Private pages in use.
    pub allocated: u64,
    /// Private address space.
    pub heap: u64,
    /// All pages in use.
    pub physical: u64,
}

/// A field that was set and has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// `bootstrap`, or kind and name of a resource.
    pub resource: String,
    /// Path of the field.
    pub path: String,
    /// What that means.
    pub message: String,
}

/// The proxy as the admin interface sees it. All of it is called on the control thread.
pub trait Proxy: 'static {
    /// Metrics, gauges brought up to date.
    fn metrics(&self) -> &Registry;
    /// Clusters.
    fn clusters(&self) -> Vec<upstream::ClusterInfo>;
    /// Listeners.
    fn listeners(&self) -> Vec<listener::Info>;
    /// Runtime values.
    fn runtime(&self) -> &Runtime;
    /// Whether it serves.
    fn state(&self) -> ServerState;
    /// Build, command line, node, uptime.
    fn about(&self) -> About;
    /// Memory of the process.
    fn memory(&self) -> Memory;
    /// The configuration in force, in Envoy's order of sections. `endpoints`: those too.
    fn dump(&self, endpoints: bool) -> Vec<Section>;
    /// Fields that were set and have no effect.
    fn ignored(&self) -> Vec<Ignored>;
    /// Certificates in use, as Envoy's `admin.v3.Certificates`.
    fn certificates(&self) -> Value;
    /// What is still waited for: type and name.
    fn unready(&self) -> Vec<(String, String)>;
    /// Components that log, and their levels.
    fn log_levels(&self) -> Vec<(&'static str, String)>;
    /// Exporters of spans and logs.
    fn telemetry(&self) -> Vec<Report>;
    /// Sets the level of one component, or of all.
    ///
    /// # Errors
    /// Why not, in words.
    fn set_log_level(&self, component: Option<&str>, level: &str) -> Result<(), String>;
    /// Pulls a lever.
    fn act(&self, action: Action);
}
