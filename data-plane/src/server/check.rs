//! Whether a configuration can be had: everything is built as at a start, but nothing is bound, written or connected
//! to.

use super::data::SystemData;
use super::sinks::Sinks;
use super::{Boot, Options, StartError, deps};
use crate::export::Exporters;
use crate::http::AccessLogs;
use crate::runtime::Runtime;
use crate::stats::Registry;
use crate::transport::tls::slot::SecretSlots;
use crate::{admin, listener, xds};
use std::sync::Arc;

impl Boot {
    /// Builds what a start would build (`--mode validate`).
    ///
    /// # Errors
    /// What a start would fail with, but for addresses in use.
    pub fn check(&self) -> Result<(), StartError> {
        let system = |what| move |source| StartError::System { what, source };
        let config = &self.config;
        let registry = Registry::new(1);
        let runtime = Runtime::new(&config.runtime, config.runtime_admin_layer);
        let secrets = SecretSlots::default();
        let access_logs = AccessLogs::idle(&registry);
        let exporters = Exporters::idle(&registry, &runtime);
        let deps = deps::of(&config.node, &registry, &runtime, &secrets, &access_logs, &exporters);
        if let Some(admin) = &config.admin {
            admin::Logs::open(&admin.access_log, &access_logs)
                .map_err(system("cannot open the admin access log"))?;
        }
        Sinks::open(&config.stats, &deps.node, &exporters).map_err(system("cannot open a stats sink"))?;
        let defaults = Options::default();
        let (listeners, _) = listener::Manager::new(listener::Options {
            workers: 1,
            registry: registry.clone(),
            drain_time: defaults.drain_time,
            pace: defaults.pace(),
            ports: listener::Ports::Imagined,
            deps,
        });
        xds::check(config, &listeners, &secrets, &registry, Arc::new(SystemData)).map_err(StartError::Static)
    }
}
