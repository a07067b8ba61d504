//! `patch:`: fragments of Envoy's API merged at the end into what an object emits.
//!
//! A JSON merge patch (RFC 7396) on the message's JSON form, read back through its descriptor, so that a
//! fragment that does not fit the protos is an error with its path and never reaches a proxy.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use prost::{Message, Name};
use serde_json::{Map, Number, Value};
use xds_types::google::protobuf::{ListValue, Struct, Value as ProtoValue, value::Kind};
use xds_types::text::{self, Source};

use super::names;
use crate::model::{ObjectKey, ObjectName, Problems, ServiceName};

/// The patches of one object, by type.
pub(super) struct Patches<'a> {
    object: &'a ObjectKey,
    by_type: &'a HashMap<String, Struct>,
}

impl<'a> Patches<'a> {
    pub(super) fn new(object: &'a ObjectKey, by_type: &'a HashMap<String, Struct>) -> Self {
        Self { object, by_type }
    }

    /// Reports keys that nothing is emitted for.
    pub(super) fn check_keys(&self, known: &[&str], found: &mut Problems) {
        let mut keys: Vec<&String> = self.by_type.keys().filter(|k| !known.contains(&k.as_str())).collect();
        keys.sort();
        for key in keys {
            let message = format!(
                "nothing of this type is emitted for {}; known: {}",
                self.object.kind,
                known.join(", ")
            );
            found.error(self.object, format!("spec.patch[\"{key}\"]"), message);
        }
    }

    /// The message with the patch of this type merged in. When it does not fit, the message as it was, and
    /// the reasons.
    pub(super) fn apply<M: Message + Name + Default>(
        &self,
        kind: &str,
        message: M,
        found: &mut Problems,
    ) -> M {
        let Some(patch) = self.by_type.get(kind) else { return message };
        let mut json = text::to_json(&message);
        merge(&mut json, &object(patch));
        match text::parse::<M>(Source { name: "", text: &json.to_string() }) {
            Ok(parsed) => parsed.message,
            Err(errors) => {
                for e in errors.list {
                    let path = if e.path.is_empty() { String::new() } else { format!(".{}", e.path) };
                    found.error(self.object, format!("spec.patch[\"{kind}\"]{path}"), e.message);
                }
                message
            }
        }
    }
}

/// Clusters that the fragment of a type names, as far as they can be those of services: collectors, services that are asked, and
/// where routes lead.
pub(super) fn clusters(by_type: &HashMap<String, Struct>, kind: &str) -> BTreeSet<Arc<str>> {
    let mut found = BTreeSet::new();
    if let Some(patch) = by_type.get(kind) {
        collect(&object(patch), &mut found);
    }
    found
}

/// By the names of the fields of Envoy's API that hold one (`EnvoyGrpc`, `HttpUri`, `ZipkinConfig`, `RouteAction`, `TcpProxy`).
fn collect(value: &Value, found: &mut BTreeSet<Arc<str>>) {
    match value {
        Value::Array(list) => list.iter().for_each(|one| collect(one, found)),
        Value::Object(members) => {
            for (field, value) in members {
                match (field.as_str(), value) {
                    (
                        "cluster" | "cluster_name" | "clusterName" | "collector_cluster" | "collectorCluster",
                        Value::String(name),
                    ) if can_be_service(name) => drop(found.insert(name.as_str().into())),
                    ("weighted_clusters" | "weightedClusters", Value::Object(weighted)) => {
                        let all = weighted.get("clusters").and_then(Value::as_array);
                        let names = all.into_iter().flatten().filter_map(|c| c.get("name")?.as_str());
                        found.extend(names.filter(|name| can_be_service(name)).map(Arc::from));
                    }
                    _ => collect(value, found),
                }
            }
        }
        _ => {}
    }
}

/// The control plane itself is in every bootstrap.
fn can_be_service(cluster: &str) -> bool {
    let (service, subset) = names::service_and_subset(cluster);
    cluster != names::CONTROL
        && ServiceName::new(service).is_ok()
        && (subset.is_empty() || ObjectName::new(subset).is_ok())
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

fn object(s: &Struct) -> Value {
    Value::Object(s.fields.iter().map(|(k, v)| (k.clone(), value(v))).collect())
}

fn value(v: &ProtoValue) -> Value {
    match &v.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(b)) => Value::Bool(*b),
        Some(Kind::StringValue(s)) => Value::String(s.clone()),
        Some(Kind::NumberValue(n)) => number(*n),
        Some(Kind::ListValue(list)) => Value::Array(list.values.iter().map(value).collect()),
        Some(Kind::StructValue(s)) => object(s),
    }
}

/// A JSON object as a proto `Struct`; anything else is an empty one.
pub(super) fn to_struct(json: &Value) -> Struct {
    let Value::Object(members) = json else { return Struct::default() };
    Struct { fields: members.iter().map(|(k, v)| (k.clone(), to_value(v))).collect() }
}

fn to_value(json: &Value) -> ProtoValue {
    let kind = match json {
        Value::Null => Kind::NullValue(0),
        Value::Bool(b) => Kind::BoolValue(*b),
        Value::Number(n) => Kind::NumberValue(n.as_f64().unwrap_or_default()),
        Value::String(s) => Kind::StringValue(s.clone()),
        Value::Array(list) => Kind::ListValue(ListValue { values: list.iter().map(to_value).collect() }),
        Value::Object(_) => Kind::StructValue(to_struct(json)),
    };
    ProtoValue { kind: Some(kind) }
}

/// Whole numbers without a fraction, as integer fields want them.
#[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
fn number(n: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if n.fract() == 0.0 && n.abs() <= EXACT {
        Value::Number((n as i64).into())
    } else {
        Number::from_f64(n).map_or(Value::Null, Value::Number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kind as ObjectKind, ObjectName};
    use serde_json::json;
    use xds_types::envoy::config::cluster::v3::Cluster;

    fn parsed_struct(v: &Value) -> Struct {
        let text = json!({ "fields": v.as_object().unwrap().iter().map(|(k, v)| (k.clone(), v.clone())).collect::<Map<_, _>>() });
        text::parse::<Struct>(Source { name: "", text: &text["fields"].to_string() }).unwrap().message
    }

    fn patched(patch: &Value) -> (Cluster, Problems) {
        let key = ObjectKey::new(ObjectKind::Service, ObjectName::new("cart").unwrap());
        let by_type = [("cluster".to_owned(), parsed_struct(patch))].into();
        let cluster = Cluster { name: "cart".into(), alt_stat_name: "stat".into(), ..Cluster::default() };
        let mut found = Problems::default();
        let cluster = Patches::new(&key, &by_type).apply("cluster", cluster, &mut found);
        (cluster, found)
    }

    #[test]
    fn members_replace_null_removes_and_the_rest_stays() {
        let (cluster, found) = patched(&json!({
            "alt_stat_name": null,
            "circuit_breakers": {"thresholds": [{"max_connections": 7}]},
        }));
        assert!(found.list.is_empty(), "{found}");
        assert_eq!((cluster.name.as_str(), cluster.alt_stat_name.as_str()), ("cart", ""));
        assert_eq!(cluster.circuit_breakers.unwrap().thresholds[0].max_connections.unwrap().value, 7);
    }

    #[test]
    fn a_fragment_that_does_not_fit_the_protos_is_named_with_its_path() {
        let (cluster, found) = patched(&json!({"circuit_breaker": {}, "dns_lookup_family": "V9"}));
        let paths: Vec<&str> = found.errors().map(|p| p.path.as_str()).collect();
        assert!(paths.contains(&"spec.patch[\"cluster\"].circuit_breaker"), "{found}");
        assert!(paths.contains(&"spec.patch[\"cluster\"].dns_lookup_family"), "{found}");
        assert_eq!(cluster.alt_stat_name, "stat", "the message stays as it was");
    }

    #[test]
    fn a_fragment_says_which_clusters_it_names() {
        let grpc = |name: &str| json!({"envoy_grpc": {"cluster_name": name}});
        let by_type = [(
            "http_connection_manager".to_owned(),
            parsed_struct(&json!({
                "access_log": [{"typed_config": {"common_config": {"grpc_service": grpc("logs")}}}],
                "tracing": {"provider": {"typed_config": {"collectorCluster": "zipkin"}}},
                "http_filters": [{"typed_config": {"grpc_service": grpc("portolan_control")}}],
                "route_config": {"virtual_hosts": [{"routes": [
                    {"route": {"cluster": "cart/v2"}},
                    {"route": {"weighted_clusters": {"clusters": [{"name": "a", "weight": 1}, {"name": "b"}]}}},
                ]}]},
                "format": {"cluster": "%UPSTREAM_CLUSTER%"},
            })),
        )]
        .into();
        let found = clusters(&by_type, "http_connection_manager");
        let found: Vec<&str> = found.iter().map(|name| &**name).collect();
        assert_eq!(found, ["a", "b", "cart/v2", "logs", "zipkin"]);
        assert!(clusters(&by_type, "listener").is_empty());
    }
}
