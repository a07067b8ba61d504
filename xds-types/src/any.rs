//! Packing messages into `Any` and taking them out, with the type checked.

use std::borrow::Cow;
use std::fmt::Write as _;

use prost::{Message, Name};
use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};

use crate::google::protobuf::Any;
use crate::text::{self, Errors, map_key_text, push_field};
use crate::type_url::PREFIX;
use crate::typed_struct::{TypedStruct, is_typed_struct};
use crate::{canonical, descriptors};

/// Why an `Any` does not give the message asked for.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The type URL is absent or has no `/`.
    #[error("type URL `{0}` is not of the form `type.googleapis.com/<message>`")]
    BadTypeUrl(String),
    /// It holds another type.
    #[error("holds `{found}`, not `{wanted}`")]
    WrongType {
        /// Full name of the type asked for.
        wanted: String,
        /// Full name of the type found.
        found: String,
    },
    /// No message of that name is known here.
    #[error("no message type `{0}` is known")]
    UnknownType(String),
    /// A `TypedStruct` whose value is not the message it names.
    #[error("is not a `{name}`: {errors}")]
    TypedStruct {
        /// Full name of the message named.
        name: String,
        /// Everything wrong with it.
        errors: Errors,
    },
    /// The bytes are not that message.
    #[error("the bytes are not a `{name}`")]
    Malformed {
        /// Full name of the type.
        name: String,
        /// What the decoder said.
        #[source]
        source: prost::DecodeError,
    },
}

/// Packs a message, into the same bytes each time.
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: format!("{PREFIX}{}", M::full_name()), value: canonical::encode(message) }
}

/// Packs a dynamic message.
pub fn pack_dynamic(message: &DynamicMessage) -> Any {
    let type_url = format!("{PREFIX}{}", message.descriptor().full_name());
    Any { type_url, value: canonical::encode_dynamic(message) }
}

/// The full message name in a type URL: what follows the last `/`.
///
/// # Errors
/// [`Error::BadTypeUrl`] when there is no `/` or nothing after it.
pub fn type_name(type_url: &str) -> Result<&str, Error> {
    match type_url.rsplit_once('/') {
        Some((_, name)) if !name.is_empty() => Ok(name),
        _ => Err(Error::BadTypeUrl(type_url.to_owned())),
    }
}

/// Full name of the message that an `Any` stands for: that of its type URL, or the one that a `TypedStruct`
/// in it names.
///
/// # Errors
/// When a type URL is not well formed, or the bytes are not the `TypedStruct`.
pub fn payload_name(any: &Any) -> Result<Cow<'_, str>, Error> {
    let name = type_name(&any.type_url)?;
    if !is_typed_struct(name) {
        return Ok(Cow::Borrowed(name));
    }
    let inner = typed_struct(name, &any.value)?;
    Ok(Cow::Owned(type_name(&inner.type_url)?.to_owned()))
}

/// Whether an `Any` stands for a message of this type.
pub fn is<M: Name>(any: &Any) -> bool {
    payload_name(any).is_ok_and(|name| name == M::full_name())
}

/// Takes out a message of a known type. A `TypedStruct` that names the type is read as the message.
///
/// # Errors
/// When it holds another type, or bytes that are not the message.
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Result<M, Error> {
    let found = type_name(&any.type_url)?;
    let wanted = M::full_name();
    let malformed = |source| Error::Malformed { name: M::full_name(), source };
    if found == wanted {
        return M::decode(&*any.value).map_err(malformed);
    }
    if !is_typed_struct(found) {
        return Err(Error::WrongType { wanted, found: found.to_owned() });
    }
    let inner = typed_struct(found, &any.value)?;
    let found = type_name(&inner.type_url)?;
    if found != wanted {
        return Err(Error::WrongType { wanted, found: found.to_owned() });
    }
    descriptors::from_dynamic(&from_typed_struct(&inner)?).map_err(malformed)
}

/// Takes out whatever it stands for, through the descriptors; a `TypedStruct` becomes the message it names.
///
/// # Errors
/// When its type is not known here, or the bytes are not the message.
pub fn unpack_dynamic(any: &Any) -> Result<DynamicMessage, Error> {
    let name = type_name(&any.type_url)?;
    if is_typed_struct(name) {
        return from_typed_struct(&typed_struct(name, &any.value)?);
    }
    decode(&any.type_url, &any.value)
}

/// Fields of a message that its type does not have here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFields {
    /// Where the message stands in the one that was looked at; empty: it is that one.
    pub path: String,
    /// Full name of its type.
    pub message: String,
    /// Their numbers.
    pub numbers: Vec<u32>,
}

/// Messages with unknown fields that are told of one message.
const MAX_UNKNOWN: usize = 32;

/// The unknown fields in `bytes`, which `message` was decoded from; what is packed within is not looked into.
///
/// Costs next to nothing where there are none: the message is as long as its bytes then, and what was dropped in
/// decoding makes it shorter. Only if the lengths differ are the bytes decoded once more, with what is not known.
pub fn unknown_fields<M: Message + Name>(bytes: &[u8], message: &M) -> Vec<UnknownFields> {
    let mut found = Vec::new();
    if message.encoded_len() != bytes.len()
        && let Ok(whole) = DynamicMessage::decode(descriptors::of::<M>(), bytes)
    {
        gather_unknown(&whole, &mut String::new(), &mut found);
    }
    found
}

fn gather_unknown(message: &DynamicMessage, path: &mut String, found: &mut Vec<UnknownFields>) {
    let mut numbers: Vec<u32> = message.unknown_fields().map(|field| field.number()).collect();
    numbers.dedup();
    if !numbers.is_empty() && found.len() < MAX_UNKNOWN {
        let of = message.descriptor();
        found.push(UnknownFields { path: path.clone(), message: of.full_name().to_owned(), numbers });
    }
    let length = path.len();
    for (field, value) in message.fields() {
        push_field(path, field.name());
        match value {
            Value::Message(inner) => gather_unknown(inner, path, found),
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    let Value::Message(inner) = item else { break };
                    let length = path.len();
                    _ = write!(path, "[{index}]");
                    gather_unknown(inner, path, found);
                    path.truncate(length);
                }
            }
            Value::Map(entries) => {
                for (key, value) in entries {
                    let Value::Message(inner) = value else { break };
                    let length = path.len();
                    _ = write!(path, "[{:?}]", map_key_text(key));
                    gather_unknown(inner, path, found);
                    path.truncate(length);
                }
            }
            _ => {}
        }
        path.truncate(length);
    }
}

/// What an `Any` of this type URL and these bytes holds; a `TypedStruct` stays one.
pub(crate) fn decode(type_url: &str, bytes: &[u8]) -> Result<DynamicMessage, Error> {
    let name = type_name(type_url)?;
    let of = descriptors::message(name).ok_or_else(|| Error::UnknownType(name.to_owned()))?;
    DynamicMessage::decode(of, bytes).map_err(|source| Error::Malformed { name: name.to_owned(), source })
}

/// The message that the bytes of a `TypedStruct` stand for.
pub(crate) fn typed_struct_message(name: &str, bytes: &[u8]) -> Result<DynamicMessage, Error> {
    from_typed_struct(&typed_struct(name, bytes)?)
}

/// The two packages' messages have the same fields.
fn typed_struct(name: &str, bytes: &[u8]) -> Result<TypedStruct, Error> {
    TypedStruct::decode(bytes).map_err(|source| Error::Malformed { name: name.to_owned(), source })
}

fn from_typed_struct(inner: &TypedStruct) -> Result<DynamicMessage, Error> {
    let name = type_name(&inner.type_url)?;
    let of = descriptors::message(name).ok_or_else(|| Error::UnknownType(name.to_owned()))?;
    let Some(value) = &inner.value else { return Ok(DynamicMessage::new(of)) };
    text::from_struct(&descriptors::to_dynamic(value), &of)
        .map_err(|errors| Error::TypedStruct { name: name.to_owned(), errors })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::config::cluster::v3::Cluster;
    use crate::envoy::config::core::v3::Node;
    use crate::google::protobuf::{Duration, Struct};

    fn typed(text: &str) -> Any {
        let structure: Struct = text::from_yaml(text).unwrap();
        let type_url = <Cluster as Name>::type_url();
        pack(&TypedStruct { type_url, value: Some(structure) })
    }

    #[test]
    fn what_is_packed_comes_out_again() {
        let node = Node { id: "a".into(), ..Node::default() };
        let any = pack(&node);
        assert_eq!(any.type_url, "type.googleapis.com/envoy.config.core.v3.Node");
        assert!(is::<Node>(&any) && !is::<Cluster>(&any));
        assert_eq!(unpack::<Node>(&any), Ok(node.clone()));
        assert_eq!(pack_dynamic(&unpack_dynamic(&any).unwrap()), any);
        let elsewhere = Any { type_url: "example.com/types/envoy.config.core.v3.Node".into(), ..any };
        assert_eq!(unpack::<Node>(&elsewhere), Ok(node), "only what follows the last slash counts");
    }

    #[test]
    fn errors_say_what_is_there_instead() {
        let text = |e: Error| e.to_string();
        let any = pack(&Node::default());
        assert_eq!(
            text(unpack::<Cluster>(&any).unwrap_err()),
            "holds `envoy.config.core.v3.Node`, not `envoy.config.cluster.v3.Cluster`"
        );
        let of = |url: &str| Any { type_url: url.into(), value: vec![0xff] };
        assert_eq!(
            text(unpack_dynamic(&of("")).unwrap_err()),
            "type URL `` is not of the form `type.googleapis.com/<message>`"
        );
        assert_eq!(text(unpack_dynamic(&of("a/b.C")).unwrap_err()), "no message type `b.C` is known");
        assert_eq!(
            text(unpack::<Node>(&of("a/envoy.config.core.v3.Node")).unwrap_err()),
            "the bytes are not a `envoy.config.core.v3.Node`"
        );
    }

    #[test]
    fn a_typed_struct_is_the_message_it_names() {
        let any = typed(
            "{name: a, connect_timeout: 1.5s, lbPolicy: least_request, per_connection_buffer_limit_bytes: 5}",
        );
        let cluster = unpack::<Cluster>(&any).unwrap();
        assert_eq!(cluster.name, "a");
        assert_eq!(cluster.connect_timeout, Some(Duration { seconds: 1, nanos: 500_000_000 }));
        assert_eq!(cluster.lb_policy, 1);
        assert_eq!(unpack_dynamic(&any).unwrap().descriptor().name(), "Cluster");
        assert!(is::<Cluster>(&any));
    }

    #[test]
    fn a_typed_struct_that_is_not_its_message_says_where() {
        assert_eq!(
            unpack::<Cluster>(&typed("{nam: a}")).unwrap_err().to_string(),
            "is not a `envoy.config.cluster.v3.Cluster`: nam: no such field; did you mean `name`?"
        );
    }
}
