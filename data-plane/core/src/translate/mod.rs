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
//! entries of this module turn any rejection into [`Rejected`]. They also run the API's own `validate.rules` first.

use crate::config;
use crate::path::{Diagnostics, Path, Rejected};
use std::collections::BTreeSet;
use std::sync::Arc;
use xds_types::envoy::config::{
    bootstrap::v3 as bootstrap_proto, cluster::v3 as cluster_proto, endpoint::v3 as endpoint_proto,
    listener::v3 as listener_proto, route::v3 as route_proto,
};
use xds_types::google::protobuf::Any;

/// Reads what a `DataSource` points at.
pub trait DataLoader {
    /// The content of a file.
    ///
    /// # Errors
    /// Why it cannot be read, in words.
    fn file(&self, path: &std::path::Path) -> Result<Vec<u8>, String>;

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
}

impl<'a> Options<'a> {
    /// References are not checked.
    pub fn new(data: &'a dyn DataLoader) -> Self {
        Self { data, sources: None, clusters: None }
    }
}

/// What config sources may refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The bootstrap has an `ads_config`.
    pub ads: bool,
    /// Static clusters, by which management servers are reached.
    pub clusters: BTreeSet<Box<str>>,
}

impl Sources {
    /// What `bootstrap` offers.
    pub fn of(bootstrap: &config::Bootstrap) -> Self {
        Self {
            ads: bootstrap.dynamic.ads.is_some(),
            clusters: bootstrap.clusters.iter().map(|c| c.name.clone()).collect(),
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
}

impl Resource {
    /// The name it is known by on the wire.
    pub fn name(&self) -> &str {
        match self {
            Self::Listener(listener) => &listener.name,
            Self::Cluster(cluster) => &cluster.name,
            Self::RouteConfig(routes) => &routes.name,
            Self::Assignment(assignment) => &assignment.name,
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
    let _ = (proto, options);
    Err(d.reject(at, "being built"))
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
    let _ = (proto, options);
    Err(d.reject(at, "being built"))
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
    let _ = (proto, options);
    Err(d.reject(at, "being built"))
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
    let _ = (proto, options);
    Err(d.reject(at, "being built"))
}

/// A set of endpoints received by EDS.
///
/// # Errors
/// Something in it was rejected; `d` says what.
pub fn assignment(
    proto: endpoint_proto::ClusterLoadAssignment,
    at: &Path<'_>,
    d: &mut Diagnostics,
    options: &Options<'_>,
) -> Result<config::Assignment, Rejected> {
    let _ = (proto, options);
    Err(d.reject(at, "being built"))
}

/// A packed resource of the type `type_url`.
///
/// # Errors
/// It is of another type, does not decode, or something in it was rejected; `d` says what.
pub fn resource(
    type_url: &str,
    packed: &Any,
    at: &Path<'_>,
    d: &mut Diagnostics,
    options: &Options<'_>,
) -> Result<Resource, Rejected> {
    let _ = (type_url, packed, options);
    Err(d.reject(at, "being built"))
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
