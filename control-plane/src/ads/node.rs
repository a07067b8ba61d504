//! Who a client is: from the node of the first request on a stream (point 20).

use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use xds_types::envoy::config::core::v3::Node as ProtoNode;
use xds_types::envoy::config::core::v3::node::UserAgentVersionType;

use super::session::Traits;
use crate::snapshot::Audience;

/// A client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `node.id`.
    pub id: String,
    /// Node group: `node.cluster`.
    pub group: Arc<str>,
    /// `user_agent_name`, as in `envoy`, `gRPC C-core`.
    pub user_agent: String,
    /// Its version; empty when it does not say.
    pub version: String,
}

/// Cancelled when the connection is to end, so that its client makes another, perhaps to another replica (point 29).
#[derive(Clone, Debug)]
pub struct Leaving(pub CancellationToken);

/// What the connection says of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Where it connects from.
    pub address: Option<std::net::SocketAddr>,
    /// Names in the certificate that it showed, as `URI:` and `DNS:`; `None`: none was asked for.
    pub names: Option<Arc<[String]>>,
}

impl Peer {
    /// Whether a client may be of a group. Where certificates are asked for, one must name the group:
    /// `spiffe://TRUST_DOMAIN/group/GROUP`, or the DNS name `GROUP`.
    pub fn may_be_of(&self, group: &str) -> bool {
        let Some(names) = &self.names else { return true };
        names.iter().any(|name| match name.split_once(':') {
            Some(("URI", uri)) => {
                let path = uri.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
                path.and_then(|(_, path)| path.strip_prefix("group/")).is_some_and(|named| named == group)
            }
            Some(("DNS", dns)) => dns == group,
            _ => false,
        })
    }
}

impl Node {
    /// Reads the node of a request. A client that does not say who it is has neither id nor group.
    pub fn read(node: Option<&ProtoNode>) -> Self {
        let Some(n) = node else {
            return Self {
                id: String::new(),
                group: "".into(),
                user_agent: String::new(),
                version: String::new(),
            };
        };
        let version = match &n.user_agent_version_type {
            Some(UserAgentVersionType::UserAgentVersion(text)) => text.clone(),
            Some(UserAgentVersionType::UserAgentBuildVersion(build)) => build
                .version
                .as_ref()
                .map(|v| format!("{}.{}.{}", v.major_number, v.minor_number, v.patch))
                .unwrap_or_default(),
            None => String::new(),
        };
        Self {
            id: n.id.clone(),
            group: n.cluster.as_str().into(),
            user_agent: n.user_agent_name.clone(),
            version,
        }
    }

    /// What it sees: gRPC libraries say so in their user agent.
    pub fn audience(&self) -> Audience {
        if self.user_agent.starts_with("gRPC") || self.user_agent.starts_with("grpc") {
            Audience::Grpc
        } else {
            Audience::Proxy { group: self.group.clone() }
        }
    }

    /// What is known of its ways.
    pub fn traits(&self) -> Traits {
        Traits { waits_for_missing_routes: self.user_agent == "envoy" }
    }

    /// User agent and version, for people.
    pub fn agent(&self) -> String {
        if self.version.is_empty() {
            self.user_agent.clone()
        } else {
            format!("{}/{}", self.user_agent, self.version)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(agent: &str) -> Node {
        let proto = ProtoNode {
            id: "n1".into(),
            cluster: "edge".into(),
            user_agent_name: agent.into(),
            ..ProtoNode::default()
        };
        Node::read(Some(&proto))
    }

    #[test]
    fn grpc_libraries_are_told_from_proxies_by_their_user_agent() {
        for agent in ["gRPC C-core Linux", "gRPC Go", "gRPC Java", "gRPC Node Pure JS", "grpc-node-js"] {
            assert_eq!(node(agent).audience(), Audience::Grpc, "{agent}");
        }
        for agent in ["envoy", "portolan-proxy", ""] {
            assert_eq!(node(agent).audience(), Audience::Proxy { group: "edge".into() }, "{agent}");
        }
    }

    #[test]
    fn a_certificate_must_name_the_group() {
        let peer = |names: &[&str]| Peer {
            names: Some(names.iter().map(ToString::to_string).collect()),
            ..Peer::default()
        };
        assert!(Peer::default().may_be_of("edge"), "where none is asked for, the word is taken");
        for (names, group, may) in [
            (&["URI:spiffe://t/group/edge"] as &[_], "edge", true),
            (&["DNS:edge", "DNS:pay"], "pay", true),
            (&["URI:spiffe://t/group/edge"], "pay", false),
            (&["URI:spiffe://t/service/edge"], "edge", false),
            (&["URI:spiffe://t/group/edge/x"], "edge", false),
            (&["URI:https://t/group/edge"], "edge", false),
            (&["IP:10.0.0.1"], "10.0.0.1", false),
            (&[], "", false),
        ] {
            assert_eq!(peer(names).may_be_of(group), may, "{names:?} as {group}");
        }
    }

    #[test]
    fn only_real_envoy_waits_for_routes_it_was_told_are_missing() {
        assert!(node("envoy").traits().waits_for_missing_routes);
        assert!(!node("portolan-proxy").traits().waits_for_missing_routes);
    }

    #[test]
    fn a_client_may_say_nothing_about_itself() {
        assert_eq!(&*Node::read(None).group, "");
    }
}
