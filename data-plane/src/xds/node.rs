//! Who this proxy says it is.

use crate::network;
use data_plane_core::config;
use xds_types::envoy::config::core::v3 as proto;
use xds_types::envoy::r#type::v3::SemanticVersion;
use xds_types::google::protobuf::{ListValue, Struct, Value, value};

/// The proxy's name among xDS clients.
pub const USER_AGENT: &str = "portolan";

/// Wrapped resources are understood in SotW responses too (xRFC TP1 and others). TTLs are not claimed: they are
/// not acted on.
const CLIENT_FEATURES: &[&str] = &["xds.config.resource-in-sotw"];

/// The node of discovery requests.
pub fn node(node: &config::Node) -> proto::Node {
    let config::Locality { region, zone, sub_zone } = node.locality.clone();
    let metadata = (!node.metadata.is_empty()).then(|| object(&node.metadata));
    let extension = |name: &str| proto::Extension {
        name: name.into(),
        category: "envoy.filters.network".into(),
        ..proto::Extension::default()
    };
    proto::Node {
        id: node.id.clone(),
        cluster: node.cluster.clone(),
        locality: (node.locality != config::Locality::default()).then_some(proto::Locality {
            region,
            zone,
            sub_zone,
        }),
        metadata,
        user_agent_name: USER_AGENT.into(),
        user_agent_version_type: Some(proto::node::UserAgentVersionType::UserAgentBuildVersion(
            build_version(),
        )),
        client_features: CLIENT_FEATURES.iter().map(|f| f.to_string()).collect(),
        extensions: network::BUILTIN.iter().map(|factory| extension(factory.name)).collect(),
        ..proto::Node::default()
    }
}

/// This build's version.
fn build_version() -> proto::BuildVersion {
    let mut parts = env!("CARGO_PKG_VERSION").split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    let version = SemanticVersion { major_number: next(), minor_number: next(), patch: next() };
    proto::BuildVersion { version: Some(version), metadata: None }
}

fn object(map: &serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct { fields: map.iter().map(|(key, value)| (key.clone(), self::value(value))).collect() }
}

fn value(value: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match value {
        Json::Null => value::Kind::NullValue(0),
        Json::Bool(b) => value::Kind::BoolValue(*b),
        Json::Number(n) => value::Kind::NumberValue(n.as_f64().unwrap_or(f64::NAN)),
        Json::String(s) => value::Kind::StringValue(s.clone()),
        Json::Array(list) => {
            value::Kind::ListValue(ListValue { values: list.iter().map(self::value).collect() })
        }
        Json::Object(map) => value::Kind::StructValue(object(map)),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_carries_identity_metadata_and_this_build() {
        let metadata = serde_json::json!({ "role": "edge", "ports": [80, 443] });
        let config = config::Node {
            id: "n1".into(),
            cluster: "web".into(),
            locality: config::Locality { zone: "a".into(), ..config::Locality::default() },
            metadata: metadata.as_object().unwrap().clone(),
        };
        let node = node(&config);
        assert_eq!((&*node.id, &*node.cluster, &*node.user_agent_name), ("n1", "web", "portolan"));
        assert_eq!(node.locality.unwrap().zone, "a");
        let fields = node.metadata.unwrap().fields;
        assert_eq!(fields["role"].kind, Some(value::Kind::StringValue("edge".into())));
        assert!(node.user_agent_version_type.is_some());
    }
}
