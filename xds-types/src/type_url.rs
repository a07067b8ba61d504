//! The resource types of xDS: one table of type URLs and short names.
//!
//! Used wherever a stream, a snapshot or a diagnostic must say which resources it means.

use std::fmt;

/// The prefix of every type URL that Envoy writes.
pub const PREFIX: &str = "type.googleapis.com/";

macro_rules! resource_types {
    ($($(#[$doc:meta])* $name:ident, $short:literal, $full_name:literal;)*) => {
        /// A type of resource that travels over xDS.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ResourceType {
            $($(#[$doc])* $name,)*
        }

        impl ResourceType {
            /// All of them, in the order in which a control plane should send additions
            /// (clusters and endpoints before the listeners and routes that name them).
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Full protobuf name, such as `envoy.config.cluster.v3.Cluster`.
            pub const fn full_name(self) -> &'static str {
                match self { $(Self::$name => $full_name,)* }
            }

            /// Type URL, such as `type.googleapis.com/envoy.config.cluster.v3.Cluster`.
            pub const fn type_url(self) -> &'static str {
                match self { $(Self::$name => concat!("type.googleapis.com/", $full_name),)* }
            }

            /// Name of the discovery service, such as `CDS`.
            pub const fn short_name(self) -> &'static str {
                match self { $(Self::$name => $short,)* }
            }
        }
    };
}

resource_types! {
    /// `Secret`: certificates, keys, validation contexts.
    Secret, "SDS", "envoy.extensions.transport_sockets.tls.v3.Secret";
    /// `Cluster`.
    Cluster, "CDS", "envoy.config.cluster.v3.Cluster";
    /// `ClusterLoadAssignment`: the endpoints of a cluster.
    ClusterLoadAssignment, "EDS", "envoy.config.endpoint.v3.ClusterLoadAssignment";
    /// `TypedExtensionConfig`: a filter's configuration.
    ExtensionConfig, "ECDS", "envoy.config.core.v3.TypedExtensionConfig";
    /// `Listener`.
    Listener, "LDS", "envoy.config.listener.v3.Listener";
    /// `ScopedRouteConfiguration`.
    ScopedRoute, "SRDS", "envoy.config.route.v3.ScopedRouteConfiguration";
    /// `RouteConfiguration`.
    RouteConfiguration, "RDS", "envoy.config.route.v3.RouteConfiguration";
    /// `VirtualHost`, delivered on demand.
    VirtualHost, "VHDS", "envoy.config.route.v3.VirtualHost";
    /// `Runtime` layer.
    Runtime, "RTDS", "envoy.service.runtime.v3.Runtime";
    /// `RateLimitConfig` of the rate-limit service.
    RateLimitConfig, "RLS", "ratelimit.config.ratelimit.v3.RateLimitConfig";
}

impl ResourceType {
    /// The type of a type URL; `None` for types that are not resources.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::from_full_name(url.strip_prefix(PREFIX)?)
    }

    /// The type of a full protobuf name.
    pub fn from_full_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|t| t.full_name() == name)
    }

    /// The type of a short name in any case, such as `cds`.
    pub fn from_short_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|t| t.short_name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_a_type_leads_back_to_it() {
        for &t in ResourceType::ALL {
            assert_eq!(ResourceType::from_type_url(t.type_url()), Some(t));
            assert_eq!(ResourceType::from_full_name(t.full_name()), Some(t));
            assert_eq!(ResourceType::from_short_name(&t.short_name().to_lowercase()), Some(t));
        }
    }

    #[test]
    fn a_message_that_is_not_a_resource_has_no_type() {
        assert_eq!(ResourceType::from_type_url("type.googleapis.com/envoy.config.core.v3.Address"), None);
        assert_eq!(
            ResourceType::from_type_url("envoy.config.cluster.v3.Cluster"),
            None,
            "prefix is required"
        );
    }

    #[test]
    fn every_resource_type_has_a_descriptor() {
        for t in ResourceType::ALL.iter().filter(|t| **t != ResourceType::RateLimitConfig) {
            assert!(crate::descriptors::message(t.full_name()).is_some(), "{t} has no descriptor");
        }
    }
}
