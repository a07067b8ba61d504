//! What the programs are told: the same work in the language of each.

pub(crate) mod backend;
pub(crate) mod envoy;
pub(crate) mod haproxy;
pub(crate) mod nginx;

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
    pub(crate) collector: u16,
    /// Folder for its files; certificates are there already.
    pub(crate) dir: PathBuf,
    /// Clusters of four endpoints each, of which the path `/` of the first listener reaches the last.
    pub(crate) clusters: usize,
}

/// Endpoints of each of [`Proxy::clusters`].
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
