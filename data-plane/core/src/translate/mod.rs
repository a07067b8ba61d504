//! Envoy's protos to [`crate::config`]: the only module of this crate that names `xds_types`.
//!
//! Called by the proxy for its bootstrap, for files and for xDS resources, and by the tool's `lint`. Never does
//! I/O: what a `DataSource` points at comes through [`DataLoader`].
//!
//! # Field policy
//! A field that is set and not implemented is **rejected** with its path when ignoring it would change routing,
//! security or bodies; **reported as ignored** when it only observes or tunes; **never silent**. Every message is
//! destructured in full, without `..`, so that an API update fails to compile until someone decides.
//!
//! Translators record every rejection and go on with a stand-in value, so that all errors are reported at once; the
//! entries of this module turn any rejection into [`Rejected`]. They also run the API's own `validate.rules`, so that
//! translators may assume them.

#![expect(deprecated, reason = "deprecated fields are decided upon like all others")]

mod accesslog;
mod action;
mod address;
mod answer;
mod bootstrap;
mod breaker;
mod chain;
mod cluster;
mod data;
mod discovery;
mod dns;
mod duration;
mod edits;
mod endpoint;
mod extension;
mod field;
mod filters;
mod format;
mod fraction;
mod grpc_log;
mod hash;
mod health;
mod http;
mod lb;
mod listener;
mod matcher;
mod metadata;
mod mirror;
mod outlier;
mod protocol;
mod proxy_protocol;
mod ratelimit;
mod retry;
mod route;
mod runtime;
mod secret;
mod sinks;
mod source;
mod tcp;
mod tls;
mod tracing;
mod upstream_http;

use crate::config;
use crate::path::{Diagnostics, Finding, Path, Rejected};
use prost::{Message, Name};
use std::collections::BTreeSet;
use std::sync::Arc;
use xds_types::any;
use xds_types::envoy::config::{
    bootstrap::v3 as bootstrap_proto, cluster::v3 as cluster_proto, endpoint::v3 as endpoint_proto,
    listener::v3 as listener_proto, route::v3 as route_proto,
};
use xds_types::envoy::extensions::transport_sockets::tls::v3 as tls_proto;
use xds_types::google::protobuf::Any;
use xds_types::rules;
use xds_types::type_url::ResourceType;

/// Reads what a `DataSource` points at.
pub trait DataLoader {
    /// The content of a file.
    ///
    /// # Errors
    /// Why it cannot be read, in words.
    fn file(&self, path: &std::path::Path) -> Result<Vec<u8>, String>;

    /// Whether there is a file or folder of this name. True where that cannot be looked at.
    fn exists(&self, path: &std::path::Path) -> bool;

    /// The value of an environment variable.
    ///
    /// # Errors
    /// Why it cannot be read, in words.
    fn variable(&self, name: &str) -> Result<String, String>;
}

/// Refuses every read: for those who must not touch the machine.
#[derive(Clone, Copy, Debug)]
pub struct NoData;

impl DataLoader for NoData {
    fn file(&self, _: &std::path::Path) -> Result<Vec<u8>, String> {
        Err("files are not read here".into())
    }

    fn exists(&self, _: &std::path::Path) -> bool {
        true
    }

    fn variable(&self, _: &str) -> Result<String, String> {
        Err("environment variables are not read here".into())
    }
}

/// What a translation must know besides the message.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Reads files and environment variables.
    pub data: &'a dyn DataLoader,
    /// What config sources may refer to; `None`: not checked. A bootstrap brings its own.
    pub sources: Option<&'a Sources>,
    /// Whether a cluster exists, asked for routes with `validate_clusters`; `None`: not checked. A bootstrap
    /// brings its own.
    pub clusters: Option<&'a dyn Fn(&str) -> bool>,
    /// Inside of a listener whose traffic goes out (`traffic_direction: OUTBOUND`). False at the start.
    pub outbound: bool,
}

impl<'a> Options<'a> {
    /// References are not checked.
    pub fn new(data: &'a dyn DataLoader) -> Self {
        Self { data, sources: None, clusters: None, outbound: false }
    }
}

/// What config sources may refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The bootstrap has an `ads_config`.
    pub ads: bool,
    /// Static clusters by which management servers may be reached: all but those that get their own endpoints
    /// from a management server.
    pub clusters: BTreeSet<Box<str>>,
    /// Static secrets.
    pub secrets: BTreeSet<(Box<str>, config::SecretType)>,
    /// How names are resolved where a cluster does not say.
    pub dns: config::DnsResolver,
}

impl Sources {
    /// What `bootstrap` offers.
    pub fn of(bootstrap: &config::Bootstrap) -> Self {
        use config::{ConfigSource, Discovery};
        let by_server = |cluster: &config::Cluster| {
            matches!(
                &cluster.discovery,
                Discovery::Eds { source: ConfigSource::Ads { .. } | ConfigSource::Grpc { .. }, .. }
            )
        };
        Self {
            ads: bootstrap.dynamic.ads.is_some(),
            clusters: bootstrap.clusters.iter().filter(|c| !by_server(c)).map(|c| c.name.clone()).collect(),
            secrets: bootstrap.secrets.iter().map(|s| (s.name.clone(), s.kind.of())).collect(),
            dns: bootstrap.dns.clone(),
        }
    }
}

/// A translated xDS resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// LDS.
    Listener(Arc<config::Listener>),
    /// CDS.
    Cluster(Arc<config::Cluster>),
    /// RDS.
    RouteConfig(Arc<config::RouteConfig>),
    /// EDS.
    Assignment(Arc<config::Assignment>),
    /// SDS.
    Secret(Arc<config::Secret>),
}

impl Resource {
    /// The name it is known by on the wire.
    pub fn name(&self) -> &str {
        match self {
            Self::Listener(listener) => &listener.name,
            Self::Cluster(cluster) => &cluster.name,
            Self::RouteConfig(routes) => &routes.name,
            Self::Assignment(assignment) => &assignment.name,
            Self::Secret(secret) => &secret.name,
        }
    }
}

/// A bootstrap.
///
/// # Errors
/// Something in it was rejected; `d` says what.
pub fn bootstrap(
    proto: bootstrap_proto::Bootstrap,
    at: &Path<'_>,
    d: &mut Diagnostics,
    options: &Options<'_>,
) -> Result<config::Bootstrap, Rejected> {
    checked(proto, at, d, |proto, at, d| bootstrap::bootstrap(proto, at, d, options.data))
}

/// A listener.
///
/// # Errors
/// Something in it was rejected; `d` says what.
pub fn listener(
    proto: listener_proto::Listener,
    at: &Path<'_>,
    d: &mut Diagnostics,
    options: &Options<'_>,
) -> Result<config::Listener, Rejected> {
    checked(proto, at, d, |proto, at, d| listener::listener(proto, at, d, options))
}

/// A cluster.
///
/// # Errors
/// Something in it was rejected; `d` says what.
pub fn cluster(
    proto: cluster_proto::Cluster,
    at: &Path<'_>,
    d: &mut Diagnostics,
    options: &Options<'_>,
) -> Result<config::Cluster, Rejected> {
    checked(proto, at, d, |proto, at, d| cluster::cluster(proto, at, d, options))
}

/// A route configuration received by RDS: its clusters are checked only if it asks for it.
///
/// # Errors
/// Something in it was rejected; `d` says what.
pub fn route_config(
    proto: route_proto::RouteConfiguration,
    at: &Path<'_>,
    d: &mut Diagnostics,
    options: &Options<'_>,
) -> Result<config::RouteConfig, Rejected> {
    checked(proto, at, d, |proto, at, d| {
        route::config(proto, route::ValidateClusters::IfAsked, at, d, options)
    })
}

/// A set of endpoints received by EDS.
///
/// # Errors
/// Something in it was rejected; `d` says what.
pub fn assignment(
    proto: endpoint_proto::ClusterLoadAssignment,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<config::Assignment, Rejected> {
    checked(proto, at, d, |proto, at, d| endpoint::assignment(proto, endpoint::Hosts::Addresses, at, d))
}

/// A secret received by SDS.
///
/// # Errors
/// Something in it was rejected; `d` says what, and never shows content.
pub fn secret(
    proto: tls_proto::Secret,
    at: &Path<'_>,
    d: &mut Diagnostics,
    options: &Options<'_>,
) -> Result<config::Secret, Rejected> {
    checked(proto, at, d, |proto, at, d| secret::secret(proto, at, d, options))
}

/// A packed resource of type `kind`.
///
/// # Errors
/// It is of another type, does not decode, or something in it was rejected; `d` says what.
pub fn resource(
    kind: ResourceType,
    packed: &Any,
    at: &Path<'_>,
    d: &mut Diagnostics,
    options: &Options<'_>,
) -> Result<Resource, Rejected> {
    match kind {
        ResourceType::Listener => {
            listener(extension::open(packed, at, d)?, at, d, options).map(|l| Resource::Listener(Arc::new(l)))
        }
        ResourceType::Cluster => {
            cluster(extension::open(packed, at, d)?, at, d, options).map(|c| Resource::Cluster(Arc::new(c)))
        }
        ResourceType::RouteConfiguration => route_config(extension::open(packed, at, d)?, at, d, options)
            .map(|r| Resource::RouteConfig(Arc::new(r))),
        ResourceType::ClusterLoadAssignment => {
            assignment(extension::open(packed, at, d)?, at, d).map(|a| Resource::Assignment(Arc::new(a)))
        }
        ResourceType::Secret => {
            secret(extension::open(packed, at, d)?, at, d, options).map(|s| Resource::Secret(Arc::new(s)))
        }
        other => Err(d.reject(at, format_args!("{other} resources are not supported"))),
    }
}

/// Runs `translate` and the API's rules; anything rejected by either makes it an error.
fn checked<P: Message + Name, T>(
    proto: P,
    at: &Path<'_>,
    d: &mut Diagnostics,
    translate: impl FnOnce(P, &Path<'_>, &mut Diagnostics) -> Result<T, Rejected>,
) -> Result<T, Rejected> {
    let before = d.rejections();
    let violations = rules::check(&proto);
    let translated = translate(proto, at, d);
    // After what translation found, so that broken rules inside of something unsupported do not crowd it out.
    for rules::Violation { path, message } in violations {
        d.reject_below(at, &path, message);
    }
    if d.rejections() > before { Err(Rejected) } else { translated }
}

/// Fields of a bootstrap's bytes that are not known here.
pub fn unknown_fields(bytes: &[u8], proto: &bootstrap_proto::Bootstrap) -> Vec<Finding> {
    let found = any::unknown_fields(bytes, proto).into_iter();
    let finding = |unknown: any::UnknownFields| Finding {
        message: extension::unknown_text(&unknown.message, &unknown.numbers),
        path: unknown.path,
    };
    found.map(finding).collect()
}

/// A protobuf struct as metadata keeps it.
pub fn fields(proto: xds_types::google::protobuf::Struct) -> crate::headers::Fields {
    runtime::json_object(proto)
}

/// What the command line says over the bootstrap's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--service-node`.
    pub node_id: Option<String>,
    /// `--service-cluster`.
    pub node_cluster: Option<String>,
    /// `--service-zone`.
    pub zone: Option<String>,
}

impl Overrides {
    /// Writes them into `proto`, before it is translated.
    pub fn apply(&self, proto: &mut bootstrap_proto::Bootstrap) {
        let Self { node_id, node_cluster, zone } = self;
        if node_id.is_none() && node_cluster.is_none() && zone.is_none() {
            return;
        }
        let node = proto.node.get_or_insert_default();
        if let Some(id) = node_id {
            node.id.clone_from(id);
        }
        if let Some(cluster) = node_cluster {
            node.cluster.clone_from(cluster);
        }
        if let Some(zone) = zone {
            node.locality.get_or_insert_default().zone.clone_from(zone);
        }
    }
}
