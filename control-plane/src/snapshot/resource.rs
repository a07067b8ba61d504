//! One resource: encoded once, shared by every stream that sends it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use prost::{Message, Name};
use xds_types::ResourceType;
use xds_types::google::protobuf::Any;
use xxhash_rust::xxh64::{Xxh64, xxh64};

use super::canonical;
use crate::model::ObjectKey;

/// Hash of content. Two replicas, and one that restarted, give the same content the same version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(u64);

impl Version {
    /// The version of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxh64(bytes, 0))
    }

    /// The version of a sequence of named versions.
    pub fn of_all<'a>(parts: impl IntoIterator<Item = (&'a str, Version)>) -> Self {
        let mut hash = Xxh64::new(0);
        for (name, version) in parts {
            hash.update(name.as_bytes());
            hash.update(&[0]); // no name holds a NUL, so that ("ab", ..) and ("a", "b..") differ
            hash.update(&version.0.to_le_bytes());
        }
        Self(hash.digest())
    }

    /// Reads what `Display` wrote; `None` for what another control plane may have written.
    pub fn parse(text: &str) -> Option<Self> {
        let wrote = |v: &Self| v.to_string() == text;
        u64::from_str_radix(text, 16).ok().map(Self).filter(wrote)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A resource that another one names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Its type.
    pub kind: ResourceType,
    /// Its name.
    pub name: Arc<str>,
}

impl Reference {
    /// A reference to a resource by type and name.
    pub fn new(kind: ResourceType, name: impl Into<Arc<str>>) -> Self {
        Self { kind, name: name.into() }
    }
}

/// One resource, encoded.
pub struct Resource {
    /// Type.
    pub kind: ResourceType,
    /// Name, unique for the type.
    pub name: Arc<str>,
    /// Hash of its content.
    pub version: Version,
    /// The `google.protobuf.Any` that holds it, encoded.
    pub any: Bytes,
    /// Resources that it names, sorted.
    pub references: Box<[Reference]>,
    /// Objects that it was made of, sorted: the ones to blame when a client refuses it.
    pub origin: Box<[ObjectKey]>,
}

impl Resource {
    /// Encodes a message. Equal messages give equal bytes, whatever the order of their maps.
    ///
    /// # Panics
    /// When `M` is not the message of `kind`: a bug of the caller.
    pub fn encode<M: Message + Name>(
        kind: ResourceType,
        name: impl Into<Arc<str>>,
        message: &M,
        mut references: Vec<Reference>,
        mut origin: Vec<ObjectKey>,
    ) -> Self {
        assert_eq!(M::full_name(), kind.full_name(), "INVARIANT: the message is of the resource's type");
        let mut value = message.encode_to_vec();
        // Endpoints are most of all resources and have no maps.
        if kind != ResourceType::ClusterLoadAssignment {
            value = canonical(&xds_types::descriptors::of::<M>(), &value);
        }
        references.sort();
        references.dedup();
        origin.sort();
        origin.dedup();
        let version = Version::of(&value);
        let any = Any { type_url: kind.type_url().to_owned(), value };
        Self {
            kind,
            name: name.into(),
            version,
            any: any.encode_to_vec().into(),
            references: references.into(),
            origin: origin.into(),
        }
    }

    /// The message again, for checks and tests.
    ///
    /// # Errors
    /// When `M` is another type.
    pub fn decode<M: Message + Name + Default>(&self) -> Result<M, xds_types::any::Error> {
        let any = Any::decode(self.any.clone()).expect("INVARIANT: it was encoded here");
        xds_types::any::unpack(&any)
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}@{} ({} B)", self.kind, self.name, self.version, self.any.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xds_types::envoy::config::cluster::v3::Cluster;
    use xds_types::google::protobuf::{Struct, Value, value::Kind};

    fn with_metadata(order: &[&str]) -> Resource {
        let mut cluster = Cluster { name: "a".into(), ..Cluster::default() };
        let metadata = cluster.metadata.get_or_insert_default();
        let fields = |s: &mut Struct| {
            for key in order {
                s.fields.insert((*key).into(), Value { kind: Some(Kind::StringValue("x".into())) });
            }
        };
        for key in order {
            fields(metadata.filter_metadata.entry((*key).into()).or_default());
        }
        Resource::encode(ResourceType::Cluster, "a", &cluster, vec![], vec![])
    }

    #[test]
    fn equal_messages_have_equal_versions_whatever_the_order_of_their_maps() {
        let keys = ["k1", "k2", "k3", "k4", "k5", "k6", "k7"];
        let mut reversed = keys;
        reversed.reverse();
        for _ in 0..20 {
            let (a, b) = (with_metadata(&keys), with_metadata(&reversed));
            assert_eq!((a.version, &a.any), (b.version, &b.any));
        }
    }

    #[test]
    fn a_version_reads_back_and_foreign_ones_do_not() {
        let v = Version::of(b"x");
        assert_eq!(Version::parse(&v.to_string()), Some(v));
        for foreign in ["", "1", "v1", "00000000000000ZZ", "+000000000000001"] {
            assert_eq!(Version::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn the_bytes_hold_the_message() {
        let cluster = Cluster { name: "a".into(), ..Cluster::default() };
        let r = Resource::encode(ResourceType::Cluster, "a", &cluster, vec![], vec![]);
        assert_eq!(r.decode::<Cluster>().unwrap(), cluster);
    }
}
