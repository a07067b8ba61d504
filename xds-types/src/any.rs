//! Packing messages into `Any` and taking them out, with the type checked.

use prost::{Message, Name};
use prost_reflect::DynamicMessage;

use crate::descriptors;
use crate::google::protobuf::Any;
use crate::type_url::PREFIX;

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

/// Packs a message.
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: format!("{PREFIX}{}", M::full_name()), value: message.encode_to_vec() }
}

/// Packs a dynamic message.
pub fn pack_dynamic(message: &DynamicMessage) -> Any {
    use prost_reflect::ReflectMessage as _;
    Any { type_url: format!("{PREFIX}{}", message.descriptor().full_name()), value: message.encode_to_vec() }
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

/// Whether an `Any` holds a message of this type.
pub fn is<M: Name>(any: &Any) -> bool {
    type_name(&any.type_url).is_ok_and(|name| name == M::full_name())
}

/// Takes out a message of a known type. A `TypedStruct` that names the type is read as the message.
///
/// # Errors
/// When it holds another type, or bytes that are not the message.
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Result<M, Error> {
    let found = type_name(&any.type_url)?;
    let wanted = M::full_name();
    if found != wanted {
        return Err(Error::WrongType { wanted, found: found.to_owned() });
    }
    M::decode(&*any.value).map_err(|source| Error::Malformed { name: wanted, source })
}

/// Takes out whatever it holds, through the descriptors.
///
/// # Errors
/// When its type is not known here, or the bytes are not the message.
pub fn unpack_dynamic(any: &Any) -> Result<DynamicMessage, Error> {
    let name = type_name(&any.type_url)?;
    let of = descriptors::message(name).ok_or_else(|| Error::UnknownType(name.to_owned()))?;
    DynamicMessage::decode(of, &*any.value)
        .map_err(|source| Error::Malformed { name: name.to_owned(), source })
}
