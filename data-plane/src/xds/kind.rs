//! The kinds of resources this proxy subscribes to.

use xds_types::ResourceType;

/// A kind of resource. Ordered as first requests are sent: clusters before what names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
    /// LDS.
    Listener,
    /// RDS.
    Route,
    /// SDS.
    Secret,
}

impl Kind {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [Self::Cluster, Self::Endpoints, Self::Listener, Self::Route, Self::Secret];

    /// The type on the wire.
    pub fn resource_type(self) -> ResourceType {
        match self {
            Self::Cluster => ResourceType::Cluster,
            Self::Endpoints => ResourceType::ClusterLoadAssignment,
            Self::Listener => ResourceType::Listener,
            Self::Route => ResourceType::RouteConfiguration,
            Self::Secret => ResourceType::Secret,
        }
    }

    /// The type URL on the wire.
    pub fn type_url(self) -> &'static str {
        self.resource_type().type_url()
    }

    /// The kind of a type URL; `None` for types this proxy never asks for.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// Whether a SotW response holds all there is, so that what it omits is gone.
    pub fn is_whole_world(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }

    /// Resources of this kind in words.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Cluster => "cluster(s)",
            Self::Endpoints => "endpoint set(s)",
            Self::Listener => "listener(s)",
            Self::Route => "route configuration(s)",
            Self::Secret => "secret(s)",
        }
    }
}
