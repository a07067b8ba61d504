//! YAML and JSON to messages and back.
//!
//! `text -> marked tree -> descriptor-guided build -> message`. Accepts what Envoy accepts (case-insensitive
//! enums, a single value for a repeated field, `!ignore`, YAML 1.1 booleans, lowerCamel and snake names) and
//! reports every error at once with its field path, line and column. Bootstrap, file xDS and the control
//! plane's own objects all come through here. Never validates meaning: [`crate::rules`] and translation do,
//! and get the places of their errors from [`Positions`].

mod errors;
mod positions;

use prost::{Message, Name};
use prost_reflect::{DynamicMessage, MessageDescriptor};

pub use errors::{Error, Errors, MAX_ERRORS};
pub use positions::{Place, Positions};

use crate::descriptors;

/// A text and the name it goes by in errors.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// File name, or where the text came from, such as `--config-yaml`. `.json` at the end makes it strict JSON.
    pub name: &'a str,
    /// YAML or JSON.
    pub text: &'a str,
}

/// A message and where each of its fields stands in the text.
#[derive(Clone, Debug)]
pub struct Parsed<M> {
    /// The message.
    pub message: M,
    /// Places of its fields.
    pub positions: Positions,
}

/// Reads one message out of a text with one document. An empty text is the default message.
///
/// # Errors
/// Everything wrong with the text.
pub fn parse<M: Message + Name + Default>(source: Source<'_>) -> Result<Parsed<M>, Errors> {
    let Parsed { message, positions } = parse_dynamic(source, &descriptors::of::<M>())?;
    typed(source, message, positions)
}

/// [`parse`] for a type known only by its descriptor.
///
/// # Errors
/// Everything wrong with the text.
pub fn parse_dynamic(source: Source<'_>, of: &MessageDescriptor) -> Result<Parsed<DynamicMessage>, Errors> {
    let _ = of;
    let mut errors = Errors::new(source.name);
    errors.push(String::new(), "the reader is being built".into(), None);
    Err(errors)
}

/// Reads every message out of a text: one for each document (`---`), and one for each element of a document
/// that is a list. Empty documents count for nothing.
///
/// # Errors
/// Everything wrong with the text.
pub fn parse_many<M: Message + Name + Default>(source: Source<'_>) -> Result<Vec<Parsed<M>>, Errors> {
    Ok(vec![parse(source)?])
}

fn typed<M: Message + Name + Default>(
    source: Source<'_>,
    message: DynamicMessage,
    positions: Positions,
) -> Result<Parsed<M>, Errors> {
    match descriptors::from_dynamic(&message) {
        Ok(message) => Ok(Parsed { message, positions }),
        Err(e) => Err(positions.explain(source.name, [("", e.to_string())])),
    }
}

/// Merges `overlay` into `base` as protobuf does: scalars replace, messages merge, lists append, map entries
/// replace. Envoy's `--config-yaml` over `-c`.
///
/// # Errors
/// When the merged message is nested deeper than protobuf allows (100 levels).
pub fn merge<M: Message + Name + Default>(base: &M, overlay: &M) -> Result<M, prost::DecodeError> {
    let mut bytes = base.encode_to_vec();
    overlay.encode(&mut bytes).expect("INVARIANT: a vector grows");
    M::decode(&*bytes)
}

/// A message as JSON: proto field names, defaults left out, `Any` expanded, as Envoy's `/config_dump` prints.
pub fn to_json<M: Message + Name>(message: &M) -> serde_json::Value {
    dynamic_to_json(&descriptors::to_dynamic(message))
}

/// [`to_json`] for a dynamic message.
pub fn dynamic_to_json(message: &DynamicMessage) -> serde_json::Value {
    let options = prost_reflect::SerializeOptions::new().use_proto_field_name(true);
    message.serialize_with_options(serde_json::value::Serializer, &options).unwrap_or_default()
}

/// A message as YAML text, in the same shape as [`to_json`].
pub fn to_yaml<M: Message + Name>(message: &M) -> String {
    json_to_yaml(&to_json(message))
}

/// A JSON value as YAML text. (JSON is YAML.)
pub fn json_to_yaml(value: &serde_json::Value) -> String {
    format!("{value:#}")
}
