//! Which route a request takes, and what that does to it.
//!
//! [`RouteTable`] is built once for a route configuration and shared; asking it allocates nothing on the plain
//! path. Envoy's order holds: the first route of the virtual host whose whole match holds is taken. The cost does
//! not grow with the number of routes: see `paths`.

mod explain;
mod hash;
mod hosts;
mod matched;
mod paths;
mod redirect;
#[cfg(test)]
mod tests;

pub use explain::{Explanation, Verdict};
pub use hash::{HashPeer, Hashed, address as hash_address};
pub use matched::{Answer, Matched, RouteId, WithRecord};

use crate::config::{
    Action, ClusterChoice, HashPolicy, Redirect, RequireTls, Route, RouteConfig, RouteMatch, VirtualHost,
    WeightedClusters,
};
use crate::headers::format::is_grpc;
use crate::headers::{HeaderId, RequestHead};
use crate::matcher::Runtime;
use hosts::HostIndex;
use paths::PathIndex;
use std::sync::Arc;

/// What is asked.
#[derive(Clone, Copy)]
pub struct RouteQuery<'a> {
    /// The request.
    pub head: &'a RequestHead,
    /// The stream's random number: decides fractions and weighted clusters.
    pub random: u64,
    /// The connection is encrypted. x-forwarded-proto, when present, decides instead.
    pub is_tls: bool,
    /// The request comes from inside.
    pub internal: bool,
    /// Overrides of fractions; `None`: none.
    pub runtime: Option<Runtime<'a>>,
    /// Whose request it is, where weighted clusters go by the request's hash; `None`: they go by chance.
    pub peer: Option<HashPeer>,
}

/// A route configuration, indexed.
#[derive(Debug)]
pub struct RouteTable {
    config: Arc<RouteConfig>,
    hosts: HostIndex,
    /// One for each virtual host.
    paths: Vec<PathIndex>,
    to_https: Route,
    overrides_filters: bool,
}

impl RouteTable {
    /// Indexes a configuration.
    pub fn build(config: Arc<RouteConfig>) -> Self {
        let hosts = HostIndex::build(&config);
        let paths = config.virtual_hosts.iter().map(|host| PathIndex::build(&host.routes)).collect();
        let overrides_filters = overrides_filters(&config);
        Self { config, hosts, paths, to_https: to_https(), overrides_filters }
    }

    /// What it was built from.
    pub fn config(&self) -> &Arc<RouteConfig> {
        &self.config
    }

    /// Whether any of its levels says anything of filters.
    pub fn overrides_filters(&self) -> bool {
        self.overrides_filters
    }

    /// The route a request takes.
    pub fn route<'a>(&'a self, query: &RouteQuery<'_>) -> Option<Matched<'a>> {
        let at = self.hosts.find(&query.head.authority)?;
        let host = &self.config.virtual_hosts[at as usize];
        if query.must_move_to_https(host) {
            return Some(self.matched(RouteId { virtual_host: at, route: RouteId::TO_HTTPS, cluster: 0 }));
        }
        let path = matched_path(&self.config, &query.head.path)?;
        let route = self.paths[at as usize]
            .candidates(path.as_bytes())
            .find(|route| query.satisfies(&host.routes[*route as usize].matches))?;
        let cluster = query.choose_cluster(&host.routes[route as usize]);
        Some(self.matched(RouteId { virtual_host: at, route, cluster }))
    }

    /// What an id of this table stands for.
    ///
    /// # Panics
    /// When the id is another table's and out of range here.
    pub fn matched(&self, id: RouteId) -> Matched<'_> {
        let virtual_host = &self.config.virtual_hosts[id.virtual_host as usize];
        let route = match id.route {
            RouteId::TO_HTTPS => &self.to_https,
            route => &virtual_host.routes[route as usize],
        };
        Matched { config: &self.config, virtual_host, route, id }
    }

    /// Why a request takes the route it takes: every route of its virtual host up to the chosen one.
    pub fn explain(&self, query: &RouteQuery<'_>) -> Explanation {
        explain::explain(self, query)
    }
}

fn overrides_filters(config: &RouteConfig) -> bool {
    let by_weight = |route: &Route| match &route.action {
        Action::Forward(forward) => match &forward.cluster {
            ClusterChoice::Weighted(weighted) => weighted.clusters.iter().any(|c| !c.overrides.is_empty()),
            ClusterChoice::Named(_) | ClusterChoice::Header(_) => false,
        },
        Action::Redirect(_) | Action::Direct(_) => false,
    };
    let by_route = |route: &Route| !route.overrides.is_empty() || by_weight(route);
    let by_host = |host: &VirtualHost| !host.overrides.is_empty() || host.routes.iter().any(by_route);
    !config.overrides.is_empty() || config.virtual_hosts.iter().any(by_host)
}

/// The part of a path that path conditions see; `None` when there is no path (CONNECT).
fn matched_path<'a>(config: &RouteConfig, path: &'a str) -> Option<&'a str> {
    if path.is_empty() {
        return None;
    }
    let end = if config.ignore_path_parameters {
        path.find(['?', '#', ';'])
    } else {
        memchr::memchr2(b'?', b'#', path.as_bytes())
    };
    Some(&path[..end.unwrap_or(path.len())])
}

impl RouteQuery<'_> {
    /// Whether the virtual host wants this request to come back over TLS.
    fn must_move_to_https(&self, host: &VirtualHost) -> bool {
        let wanted = match host.require_tls {
            RequireTls::No => false,
            RequireTls::External => !self.internal,
            RequireTls::All => true,
        };
        wanted && !self.is_https()
    }

    fn is_https(&self) -> bool {
        match self.head.headers.get_id(HeaderId::XForwardedProto) {
            Some(proto) => proto == b"https",
            None => self.is_tls,
        }
    }

    /// Whether all conditions but the path's hold.
    fn satisfies(&self, matches: &RouteMatch) -> bool {
        let RouteMatch { path: _, case_sensitive: _, fraction, headers, query, grpc } = matches;
        fraction.as_ref().is_none_or(|fraction| fraction.takes(self.random, self.runtime))
            && (!grpc || is_grpc(self.head))
            && headers.iter().all(|matcher| matcher.matches(self.head))
            && query.iter().all(|matcher| matcher.matches(&self.head.path))
    }

    fn choose_cluster(&self, route: &Route) -> u32 {
        match &route.action {
            Action::Forward(forward) => match &forward.cluster {
                ClusterChoice::Weighted(weighted) => self.weigh(weighted, &forward.hash_policy),
                ClusterChoice::Named(_) | ClusterChoice::Header(_) => 0,
            },
            Action::Redirect(_) | Action::Direct(_) => 0,
        }
    }

    /// A cluster by weight. A cluster of weight zero is never chosen.
    fn weigh(&self, weighted: &WeightedClusters, hash_policy: &[HashPolicy]) -> u32 {
        let given = weighted.random_value_header.as_ref().and_then(|name| {
            // Envoy: a header with several values, or without a number, is as good as none.
            let mut values = self.head.headers.get_all(name.as_bytes());
            let value = values.next().filter(|_| values.next().is_none())?;
            std::str::from_utf8(value).ok()?.parse::<u64>().ok()
        });
        let hash = self.peer.filter(|_| weighted.use_hash_policy);
        let given = given.or_else(|| hash::hash(hash_policy, self.head, &hash?).hash);
        let total: u64 = weighted.clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
        let mut left = given.unwrap_or(self.random) % total.max(1);
        for (at, cluster) in weighted.clusters.iter().enumerate() {
            match left.checked_sub(u64::from(cluster.weight)) {
                Some(rest) => left = rest,
                None => return at as u32,
            }
        }
        0
    }
}

/// The answer to plaintext requests of virtual hosts that require TLS.
fn to_https() -> Route {
    Route {
        name: "".into(),
        matches: RouteMatch {
            path: crate::config::PathMatch::Prefix("".into()),
            case_sensitive: true,
            fraction: None,
            headers: Vec::new(),
            query: Vec::new(),
            grpc: false,
        },
        action: Action::Redirect(Box::new(Redirect {
            scheme: Some("https".into()),
            host: None,
            port: None,
            path: None,
            status: 301,
            strip_query: false,
        })),
        tracing: None,
        request_edits: Default::default(),
        response_edits: Default::default(),
        overrides: Default::default(),
        metadata: Default::default(),
    }
}
