//! Names: of services, instances, objects and sources.
//!
//! All are cheap to clone and ordered, because everything that is emitted is emitted in order.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest name of a service or an object, bytes.
const MAX_NAME: usize = 253;
/// Longest instance id, bytes.
const MAX_ID: usize = 512;

/// A text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// It is empty.
    #[error("must not be empty")]
    Empty,
    /// It is longer than allowed.
    #[error("must be at most {max} bytes long")]
    TooLong {
        /// Bytes allowed.
        max: usize,
    },
    /// A character that names do not have.
    #[error("must not contain `{0}`; allowed are letters, digits, `-`, `_` and `.`")]
    Character(char),
    /// It does not begin with a letter or digit.
    #[error("must begin with a letter or a digit")]
    Start,
}

fn check(text: &str, max: usize, extra: &[char]) -> Result<Arc<str>, InvalidName> {
    let Some(first) = text.chars().next() else { return Err(InvalidName::Empty) };
    if text.len() > max {
        return Err(InvalidName::TooLong { max });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') || extra.contains(&c);
    if let Some(bad) = text.chars().find(|c| !allowed(*c)) {
        return Err(InvalidName::Character(bad));
    }
    if !first.is_ascii_alphanumeric() && !extra.contains(&first) {
        return Err(InvalidName::Start);
    }
    Ok(text.into())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $max:expr, $extra:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks a text and makes it a name.
            ///
            /// # Errors
            /// When it is empty, too long, or has characters that names do not have.
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                check(text, $max, $extra).map(Self)
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The text, shared.
            pub fn shared(&self) -> &Arc<str> {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// Name of a service: letters, digits, `-`, `_` and `.`, at most 253 bytes. Case matters.
    ServiceName, MAX_NAME, &[]
}
name! {
    /// Name of an object, unique for its kind: letters, digits, `-`, `_` and `.`, at most 253 bytes.
    ObjectName, MAX_NAME, &[]
}
name! {
    /// Identity of an instance in its service. As names, and `:`, `[`, `]`, so that an address with its port
    /// is one; at most 512 bytes.
    InstanceId, MAX_ID, &[':', '[', ']', '/']
}

impl From<&ServiceName> for ObjectName {
    fn from(service: &ServiceName) -> Self {
        Self(service.0.clone()) // INVARIANT: both have the same alphabet and length
    }
}

impl From<&ObjectName> for ServiceName {
    fn from(object: &ObjectName) -> Self {
        Self(object.0.clone()) // INVARIANT: both have the same alphabet and length
    }
}

/// What an object says; the order is that of references (a route names gateways and services).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// How traffic to a service behaves.
    Service,
    /// Listeners on a group of proxies.
    Gateway,
    /// Which requests go where.
    Route,
    /// What is done to requests beside sending them somewhere.
    Policy,
    /// What must not be shown: certificates with keys, authorities, values.
    Secret,
    /// A token of the API, by its hash.
    AccessToken,
    /// A change that is active for one node group.
    Stage,
}

/// A kind that this control plane does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown kind `{0}`; known are {known}", known = known_kinds())]
pub struct UnknownKind(pub String);

/// Every kind, for messages.
pub(super) fn known_kinds() -> String {
    Kind::ALL.map(Kind::as_str).join(", ")
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Service,
        Self::Gateway,
        Self::Route,
        Self::Policy,
        Self::Secret,
        Self::AccessToken,
        Self::Stage,
    ];

    /// As written in `kind:`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Gateway => "Gateway",
            Self::Route => "Route",
            Self::Policy => "Policy",
            Self::Secret => "Secret",
            Self::AccessToken => "AccessToken",
            Self::Stage => "Stage",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;

    /// In any case, so that command lines and paths may be lowercase.
    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL
            .into_iter()
            .find(|k| k.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// Identity of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Kind.
    pub kind: Kind,
    /// Name, unique for the kind.
    pub name: ObjectName,
}

impl ObjectKey {
    /// The key of a kind and a name.
    pub fn new(kind: Kind, name: ObjectName) -> Self {
        Self { kind, name }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// A text is not `KIND/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// It has no slash.
    #[error("`{0}` is not KIND/NAME")]
    Shape(String),
    /// Its kind.
    #[error(transparent)]
    Kind(#[from] UnknownKind),
    /// Its name.
    #[error("name {0}")]
    Name(#[from] InvalidName),
}

impl FromStr for ObjectKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let (kind, name) = text.split_once('/').ok_or_else(|| InvalidKey::Shape(text.to_owned()))?;
        Ok(Self::new(kind.parse()?, ObjectName::new(name)?))
    }
}

/// A source of events. Ordered by rank: of two sources that hold the same object or the same instance id of a
/// service, the lower rank is in force, and the other takes over when it is gone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId {
    /// Place in the list of configured sources, from 0.
    pub rank: u8,
    /// Name for logs, metrics and status, such as `etcd`.
    pub name: Arc<str>,
}

impl SourceId {
    /// A source by its place in the configured list and its name.
    pub fn new(rank: u8, name: &str) -> Self {
        Self { rank, name: name.into() }
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_break_a_key_or_a_resource_name_are_refused() {
        for bad in ["", "a/b", "a b", "-a", ".a", "a\n", "ä", &"x".repeat(254)] {
            assert!(ServiceName::new(bad).is_err(), "{bad:?} must be refused");
        }
        for good in ["a", "A_1", "payments.v2", "0"] {
            assert!(ServiceName::new(good).is_ok(), "{good:?} must be taken");
        }
    }

    #[test]
    fn an_address_with_its_port_is_an_instance_id() {
        assert!(InstanceId::new("10.0.0.1:80").is_ok());
        assert!(InstanceId::new("[::1]:80").is_ok());
    }

    #[test]
    fn kinds_are_read_in_any_case() {
        assert_eq!("gateway".parse(), Ok(Kind::Gateway));
        assert_eq!("Cluster".parse::<Kind>(), Err(UnknownKind("Cluster".into())));
    }

    #[test]
    fn the_source_listed_first_comes_first_whatever_its_name() {
        assert!(SourceId::new(0, "zookeeper") < SourceId::new(1, "consul"));
    }
}
