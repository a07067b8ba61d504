//! What the programs are told: the same work in the language of each.

pub(crate) mod backend;
pub(crate) mod envoy;
pub(crate) mod haproxy;
pub(crate) mod nginx;

use crate::machine::Cores;
use anyhow::Result;
use std::path::PathBuf;

/// How a listener chooses the backend. A rule names `up`; all lead to the one backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Routes {
    /// So many path prefixes.
    Prefixes(usize),
    /// So many regular expressions.
    Regexes(usize),
    /// So many hosts by name.
    Hosts(usize),
}

impl Routes {
    /// What all paths and hosts take.
    pub(crate) const ONE: Self = Self::Prefixes(1);

    /// How many there are.
    pub(crate) fn count(self) -> usize {
        match self {
            Self::Prefixes(n) | Self::Regexes(n) | Self::Hosts(n) => n,
        }
    }

    /// The path that only rule `i` takes.
    pub(crate) fn path(self, i: usize) -> String {
        match self {
            Self::Prefixes(1) | Self::Hosts(_) => "/".to_owned(),
            Self::Prefixes(_) => format!("/r{i:05}/"),
            Self::Regexes(_) => format!("/x{i:05}/42/end"),
        }
    }

    /// The host that only rule `i` takes.
    pub(crate) fn host(self, i: usize) -> String {
        match self {
            Self::Hosts(_) => format!("h{i:05}.example.com"),
            Self::Prefixes(_) | Self::Regexes(_) => "localhost".to_owned(),
        }
    }

    /// The expression of rule `i`.
    pub(crate) fn regex(i: usize) -> String {
        format!("/x{i:05}/[0-9]+/end")
    }
}

/// What a listener does beside routing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Extra {
    /// Nothing.
    None,
    /// TLS, nothing asked of the client.
    Tls,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// A line for each request in a file.
    AccessLog,
    /// OTLP spans over HTTP of one request in a hundred.
    Tracing,
    /// A local rate limit that refuses nobody.
    RateLimit,
}

/// One listener of a proxy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Listener {
    pub(crate) port: u16,
    pub(crate) routes: Routes,
    pub(crate) extra: Extra,
}

/// What a proxy is to be.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub(crate) listeners: Vec<Listener>,
    /// Of the admin interface, where there is one.
    pub(crate) admin: u16,
    pub(crate) backend: u16,
    /// Answers `changed`.
    pub(crate) other: u16,
    pub(crate) collector: u16,
    /// Folder for its files; certificates are there already.
    pub(crate) dir: PathBuf,
    /// Clusters from a file, of which the first listener reaches the last.
    pub(crate) clusters: usize,
    /// Of each of them; of the last one as many as the backend listens on, at most.
    pub(crate) endpoints: usize,
    /// Whether the first listener has its routes from a file; where files are read while running.
    pub(crate) routes_file: bool,
    pub(crate) workers: usize,
    pub(crate) cores: Cores,
}

impl Proxy {
    /// Addresses of the endpoints of a cluster. Only those of the last one are ever asked.
    pub(crate) fn addresses(&self, cluster: usize) -> impl Iterator<Item = String> {
        let most = if cluster + 1 == self.clusters { ENDPOINTS } else { usize::MAX };
        (0..self.endpoints.min(most)).map(|at| format!("127.0.{}.{}", at / 250, at % 250 + 1))
    }

    /// Endpoints of all clusters.
    pub(crate) fn hosts(&self) -> usize {
        (0..self.clusters).map(|cluster| self.addresses(cluster).count()).sum()
    }
}

/// Addresses that the backend listens on, and usually endpoints of a cluster.
pub(crate) const ENDPOINTS: usize = 4;

/// Self-signed certificate and key, P-256, as `cert.pem`, `key.pem` and `both.pem`.
pub(crate) fn certificates(dir: &std::path::Path) -> Result<Vec<u8>> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    std::fs::write(dir.join("cert.pem"), &cert)?;
    std::fs::write(dir.join("key.pem"), &key)?;
    std::fs::write(dir.join("both.pem"), cert + &key)?;
    Ok(made.cert.der().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn proxy(clusters: usize, endpoints: usize) -> Proxy {
        Proxy {
            listeners: Vec::new(),
            admin: 0,
            backend: 0,
            other: 0,
            collector: 0,
            dir: PathBuf::new(),
            clusters,
            endpoints,
            routes_file: false,
            workers: 1,
            cores: Cores::Proxy,
        }
    }

    #[test]
    fn endpoints_of_a_cluster_differ_and_those_of_the_last_are_where_the_backend_listens() {
        let large = proxy(3, 600);
        assert_eq!(large.addresses(0).collect::<BTreeSet<_>>().len(), 600);
        assert_eq!(large.addresses(2).last().as_deref(), Some("127.0.0.4"));
        assert_eq!((large.hosts(), proxy(3, 1).hosts(), proxy(0, 4).hosts()), (1_204, 3, 0));
    }
}
