//! The proxy as the admin interface sees it.

use super::control::Control;
use super::{dump, gauges};
use crate::admin::{About, Action, Ignored, Memory, Proxy, Section, ServerState};
use crate::export::Report;
use crate::runtime::Runtime;
use crate::stats::Registry;
use crate::xds::{Phase, USER_AGENT};
use crate::{listener, upstream};
use serde_json::Value;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use xds_types::text;

impl Proxy for Control {
    fn metrics(&self) -> &Registry {
        self.refresh();
        &self.registry
    }

    fn clusters(&self) -> Vec<upstream::ClusterInfo> {
        self.upstream.infos()
    }

    fn listeners(&self) -> Vec<listener::Info> {
        self.listeners.infos()
    }

    fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn state(&self) -> ServerState {
        if self.fails_health_checks.load(Relaxed) {
            return ServerState::Draining;
        }
        match *self.xds.phase().borrow() {
            Phase::Begin => ServerState::PreInitializing,
            Phase::Clusters | Phase::Listeners => ServerState::Initializing,
            Phase::Live => ServerState::Live,
        }
    }

    fn about(&self) -> About {
        About {
            version: version(),
            command_line: self.options.command_line.clone(),
            node: text::to_json(self.xds.node()),
            uptime: Duration::from_secs(self.gauges.uptime_secs()),
        }
    }

    fn memory(&self) -> Memory {
        let gauges::Memory { anonymous, heap, physical } = gauges::memory();
        Memory { allocated: anonymous, heap, physical }
    }

    fn telemetry(&self) -> Vec<Report> {
        self.exporters.reports()
    }

    fn dump(&self, endpoints: bool) -> Vec<Section> {
        dump::sections(&self.taken.borrow(), &self.xds, &self.upstream, endpoints)
    }

    fn ignored(&self) -> Vec<Ignored> {
        dump::ignored(&self.taken.borrow(), &self.xds)
    }

    fn certificates(&self) -> Value {
        self.certificates.page(&self.xds)
    }

    fn unready(&self) -> Vec<(String, String)> {
        let unready = self.xds.unready().into_iter();
        unready.map(|(kind, name)| (kind.resource_type().to_string(), name.to_string())).collect()
    }

    fn log_levels(&self) -> Vec<(&'static str, String)> {
        let levels = self.options.logging.iter().flat_map(|logging| logging.levels());
        levels.map(|(component, level)| (component, level.to_string())).collect()
    }

    fn set_log_level(&self, component: Option<&str>, level: &str) -> Result<(), String> {
        let logging = self.options.logging.as_ref().ok_or("levels cannot be changed here")?;
        let level = level.parse().map_err(|e| format!("{e}"))?;
        match component {
            None => logging.set_all(level),
            Some(component) => logging.set(component, level).map_err(|e| e.to_string())?,
        }
        Ok(())
    }

    fn act(&self, action: Action) {
        match action {
            Action::FailHealthCheck => self.fails_health_checks.store(true, Relaxed),
            Action::PassHealthCheck => self.fails_health_checks.store(self.is_ending(), Relaxed),
            Action::StopListeners(direction) => self.listeners.stop(direction, self.options.pace()),
            Action::DrainListeners(direction, afterwards) => self.listeners.discourage(direction, afterwards),
            Action::Quit => self.stop(),
            Action::RuntimeChanged => self.gauges.runtime_changed(&self.runtime),
        }
        self.refresh();
    }
}

/// `revision/version/status/build/tls`, as Envoy writes it.
pub(super) fn version() -> String {
    let build = if cfg!(debug_assertions) { "DEBUG" } else { "RELEASE" };
    format!("{USER_AGENT}/{}/Clean/{build}/rustls", env!("CARGO_PKG_VERSION"))
}
