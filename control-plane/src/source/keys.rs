//! Where things lie in every store, and how an instance is written there.
//!
//! | key | value |
//! |---|---|
//! | `/portolan/v1/config/KIND/NAME` | an object: YAML or JSON of `{kind, name, labels, spec}` |
//! | `/portolan/v1/instances/SERVICE/ID` | JSON of `{address, port, weight, zone, labels, health}` |
//! | `/portolan/v1/releases/N` | a record of the release N, ten digits; see [`crate::release`] |
//!
//! KIND is lowercase. Consul's keys have no slash in front.

use crate::model::{Health, Instance, InstanceId, InvalidInstance, InvalidName, Kind, ObjectKey, ObjectName};
use crate::model::{ServiceName, UnknownKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// Everything of ours.
pub const ROOT: &str = "/portolan/v1/";
/// Objects. In the order of keys nothing of ours stands between these and [`INSTANCES`]: one range has both.
pub const CONFIG: &str = "/portolan/v1/config/";
/// Instances.
pub const INSTANCES: &str = "/portolan/v1/instances/";
/// Records of releases.
pub const RELEASES: &str = "/portolan/v1/releases/";

/// What a key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// An object.
    Object(ObjectKey),
    /// An instance.
    Instance(ServiceName, InstanceId),
    /// The record of a release.
    Release(u64),
}

impl From<ObjectKey> for Key {
    fn from(key: ObjectKey) -> Self {
        Self::Object(key)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(key) => write!(f, "{key}"),
            Self::Instance(service, id) => write!(f, "instance {id} of {service}"),
            Self::Release(number) => write!(f, "release {number}"),
        }
    }
}

/// Why a key or an instance in a store is not understood.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Malformed {
    /// The key is not one of ours.
    #[error("key is neither config/KIND/NAME nor instances/SERVICE/ID nor releases/N")]
    Key,
    /// The kind in the key.
    #[error(transparent)]
    Kind(#[from] UnknownKind),
    /// A name in the key.
    #[error("name in the key {0}")]
    Name(#[from] InvalidName),
    /// The value is not the JSON of an instance.
    #[error("value is not an instance: {0}")]
    Value(String),
    /// The instance cannot be connected to.
    #[error(transparent)]
    Instance(#[from] InvalidInstance),
}

impl Key {
    /// Reads a key, with or without the slash in front.
    ///
    /// # Errors
    /// The key is not one of ours.
    pub fn parse(key: &str) -> Result<Self, Malformed> {
        let rest = key.strip_prefix('/').unwrap_or(key).strip_prefix(&ROOT[1..]).ok_or(Malformed::Key)?;
        let (area, rest) = rest.split_once('/').ok_or(Malformed::Key)?;
        if area == "releases" {
            return rest.parse().map(Self::Release).map_err(|_| Malformed::Key);
        }
        let (first, second) = rest.split_once('/').ok_or(Malformed::Key)?;
        match area {
            "config" => Ok(Self::Object(ObjectKey::new(first.parse::<Kind>()?, ObjectName::new(second)?))),
            "instances" => Ok(Self::Instance(ServiceName::new(first)?, InstanceId::new(second)?)),
            _ => Err(Malformed::Key),
        }
    }
}

/// The key, as stores have it.
pub fn path(key: &Key) -> String {
    match key {
        Key::Object(key) => object_key(key),
        Key::Instance(service, id) => instance_key(service, id),
        Key::Release(number) => format!("{RELEASES}{number:010}"), // so that they stand in order
    }
}

/// The key of an object.
pub fn object_key(key: &ObjectKey) -> String {
    format!("{CONFIG}{}/{}", key.kind.as_str().to_ascii_lowercase(), key.name)
}

/// The key of an instance.
pub fn instance_key(service: &ServiceName, id: &InstanceId) -> String {
    format!("{INSTANCES}{service}/{id}")
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Value {
    address: IpAddr,
    port: u16,
    #[serde(default = "one")]
    weight: u32,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    zone: Box<str>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<Box<str>, Box<str>>,
    #[serde(default)]
    health: HealthValue,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum HealthValue {
    #[default]
    Healthy,
    Unhealthy,
    Draining,
}

fn one() -> u32 {
    1
}

/// Reads an instance.
///
/// # Errors
/// The value is not the JSON of an instance, or nobody could connect to it.
pub fn read_instance(service: ServiceName, id: InstanceId, value: &[u8]) -> Result<Instance, Malformed> {
    let value: Value = serde_json::from_slice(value).map_err(|e| Malformed::Value(e.to_string()))?;
    let health = match value.health {
        HealthValue::Healthy => Health::Healthy,
        HealthValue::Unhealthy => Health::Unhealthy,
        HealthValue::Draining => Health::Draining,
    };
    let Value { address, port, weight, zone, labels, .. } = value;
    Ok(Instance { service, id, address, port, weight, zone, labels, health }.checked()?)
}

/// Writes an instance; its service and id are in the key.
pub fn write_instance(instance: &Instance) -> String {
    let Instance { service: _, id: _, address, port, weight, zone, labels, health } = instance.clone();
    let health = match health {
        Health::Healthy => HealthValue::Healthy,
        Health::Unhealthy => HealthValue::Unhealthy,
        Health::Draining => HealthValue::Draining,
    };
    serde_json::to_string(&Value { address, port, weight, zone, labels, health })
        .expect("INVARIANT: strings and numbers are JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_with_and_without_the_slash() {
        let object = ObjectKey::new(Kind::Route, ObjectName::new("shop").unwrap());
        assert_eq!(object_key(&object), "/portolan/v1/config/route/shop");
        for key in ["/portolan/v1/config/route/shop", "portolan/v1/config/Route/shop"] {
            assert_eq!(Key::parse(key).unwrap(), Key::Object(object.clone()), "{key}");
        }
        let (service, id) = (ServiceName::new("web").unwrap(), InstanceId::new("10.0.0.1:80").unwrap());
        let key = instance_key(&service, &id);
        assert_eq!(Key::parse(&key).unwrap(), Key::Instance(service, id));
        assert_eq!(path(&Key::Release(42)), "/portolan/v1/releases/0000000042");
        assert_eq!(Key::parse(&path(&Key::Release(42))).unwrap(), Key::Release(42));
    }

    #[test]
    fn foreign_keys_are_refused_with_a_reason() {
        for (key, reason) in [
            ("/other/x", "neither"),
            ("/portolan/v1/config/route", "neither"),
            ("/portolan/v1/config/cluster/x", "unknown kind"),
            ("/portolan/v1/config/route/a/b", "must not contain"),
            ("/portolan/v1/secrets/a/b", "neither"),
        ] {
            let error = Key::parse(key).unwrap_err().to_string();
            assert!(error.contains(reason), "{key}: {error}");
        }
    }

    #[test]
    fn instances_read_back_and_bad_ones_say_why() {
        let (service, id) = (ServiceName::new("web").unwrap(), InstanceId::new("a").unwrap());
        let read = |value: &str| read_instance(service.clone(), id.clone(), value.as_bytes());
        let full = r#"{"address": "::1", "port": 80, "weight": 3, "zone": "z", "labels": {"v": "2"}, "health": "draining"}"#;
        let instance = read(full).unwrap();
        assert_eq!(read(&write_instance(&instance)).unwrap(), instance);
        assert_eq!(read(r#"{"address": "10.0.0.1", "port": 80}"#).unwrap().weight, 1);
        for (value, reason) in [
            ("", "EOF"),
            (r#"{"address": "web", "port": 80}"#, "invalid IP"),
            (r#"{"address": "10.0.0.1", "port": 0}"#, "port must be"),
            (r#"{"address": "10.0.0.1", "port": 80, "wieght": 2}"#, "unknown field `wieght`"),
        ] {
            let error = read(value).unwrap_err().to_string();
            assert!(error.contains(reason), "{value}: {error}");
        }
    }
}
