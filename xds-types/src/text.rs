//! YAML and JSON to messages and back.
//!
//! `text -> marked tree -> descriptor-guided build -> message`. Accepts what Envoy accepts (case-insensitive
//! enums, a single value for a repeated field, `!ignore`, YAML 1.1 booleans, lowerCamel and snake names) and
//! reports every error at once with its field path, line and column. Bootstrap, file xDS and the control
//! plane's own objects all come through here. Never validates meaning: [`crate::rules`] and translation do,
//! and get the places of their errors from [`Positions`].
//!
//! Stricter than Envoy where Envoy takes the last word of two: duplicate keys and further documents are
//! errors. More lenient in that `<<` merge keys work.

mod build;
mod elements;
mod emit;
mod errors;
mod json;
mod nearest;
mod positions;
mod print;
mod scalar;
mod structs;
mod time;
mod tree;
mod wkt;
mod yaml;

#[cfg(test)]
mod tests;

use prost::{Message, Name};
use prost_reflect::{DynamicMessage, MessageDescriptor};

pub use elements::{Elements, elements};
pub use emit::json_to_yaml;
pub use errors::{Error, Errors, MAX_ERRORS};
pub use positions::{Place, Positions};
pub use print::{any_to_json, dynamic_to_json};

use crate::descriptors;
use tree::{Data, Tree};

pub(crate) use build::{Build, Depth, Entry, quoted};
pub use nearest::suggestion;
pub(crate) use positions::{At, Step, push_field, push_path};
pub(crate) use print::key as map_key_text;
pub(crate) use structs::from_struct;
pub(crate) use time::format_duration;
pub(crate) use tree::NodeId;

/// A text and the name it goes by in errors.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// File name, or where the text came from, such as `--config-yaml`. With `.json` at its end, syntax errors
    /// are told in terms of JSON.
    pub name: &'a str,
    /// YAML or JSON.
    pub text: &'a str,
}

/// What to do with a field that the message does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownFields {
    /// It is an error.
    #[default]
    Refuse,
    /// It is listed in [`Parsed::ignored`] (Envoy's `--allow-unknown-static-fields`).
    Report,
}

/// How to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Fields that the message does not have.
    pub unknown_fields: UnknownFields,
}

/// A message and where each of its fields stands in the text.
#[derive(Clone, Debug)]
pub struct Parsed<M> {
    /// The message.
    pub message: M,
    /// Places of its fields.
    pub positions: Positions,
    /// Unknown fields, when [`UnknownFields::Report`] was asked for.
    pub ignored: Errors,
}

/// Reads one message out of a text with one document.
///
/// # Errors
/// Everything wrong with the text. An empty text is wrong: a file that is being rewritten looks like that.
pub fn parse<M: Message + Name + Default>(source: Source<'_>) -> Result<Parsed<M>, Errors> {
    parse_with(source, Options::default())
}

/// [`parse`] with options.
///
/// # Errors
/// Everything wrong with the text.
pub fn parse_with<M: Message + Name + Default>(
    source: Source<'_>,
    options: Options,
) -> Result<Parsed<M>, Errors> {
    typed(source, parse_dynamic(source, &descriptors::of::<M>(), options)?)
}

/// [`parse`] without the places, for texts that come from code.
///
/// # Errors
/// Everything wrong with the text.
pub fn from_yaml<M: Message + Name + Default>(text: &str) -> Result<M, Errors> {
    parse(Source { name: "", text }).map(|parsed| parsed.message)
}

/// [`parse_with`] for a type known only by its descriptor.
///
/// # Errors
/// Everything wrong with the text.
pub fn parse_dynamic(
    source: Source<'_>,
    of: &MessageDescriptor,
    options: Options,
) -> Result<Parsed<DynamicMessage>, Errors> {
    let tree = read(source)?;
    let documents = documents(&tree);
    match *documents.as_slice() {
        [document] => build_one(&tree, document, source, options, |b, node, at| {
            b.message(of, node, at, Depth::default())
        }),
        [] => Err(whole_text(source, "is empty", None)),
        [_, second, ..] => {
            let message =
                format!("holds {} documents separated by `---`; only one is allowed", documents.len());
            Err(whole_text(source, &message, Some(tree.get(second).place)))
        }
    }
}

/// Reads every message out of a text: one for each document (`---`), and one for each element of a document
/// that is a list. Empty documents count for nothing. Field paths and places are those of each element.
///
/// # Errors
/// Everything wrong with the text.
pub fn parse_many<M: Message + Name + Default>(source: Source<'_>) -> Result<Vec<Parsed<M>>, Errors> {
    let parsed = parse_many_dynamic(source, &descriptors::of::<M>())?;
    parsed.into_iter().map(|one| typed(source, one)).collect()
}

/// [`parse_many`] for a type known only by its descriptor.
///
/// # Errors
/// Everything wrong with the text.
pub fn parse_many_dynamic(
    source: Source<'_>,
    of: &MessageDescriptor,
) -> Result<Vec<Parsed<DynamicMessage>>, Errors> {
    each(source, |b, node, at| b.message(of, node, at, Depth::default()))
}

/// Builds something out of each object of a text, as [`parse_many`] finds them.
pub(crate) fn each<T>(
    source: Source<'_>,
    mut build: impl FnMut(&mut Build<'_>, NodeId, At) -> Option<T>,
) -> Result<Vec<Parsed<T>>, Errors> {
    let tree = read(source)?;
    let mut parsed = Vec::new();
    let mut errors = Errors::new(source.name);
    for document in documents(&tree) {
        let items = match &tree.get(document).data {
            Data::List(items) => items.as_slice(),
            _ => &[document],
        };
        for &item in items {
            match build_one(&tree, item, source, Options::default(), &mut build) {
                Ok(one) => parsed.push(one),
                Err(more) => errors.extend(more),
            }
        }
    }
    if errors.is_empty() { Ok(parsed) } else { Err(errors) }
}

fn build_one<T>(
    tree: &Tree<'_>,
    node: NodeId,
    source: Source<'_>,
    options: Options,
    build: impl FnOnce(&mut Build<'_>, NodeId, At) -> Option<T>,
) -> Result<Parsed<T>, Errors> {
    let mut b = Build::new(tree, tree.get(node).place, source.name, options);
    let built = build(&mut b, node, At::default());
    let Build { positions, mut errors, ignored, .. } = b;
    match built {
        Some(message) if errors.is_empty() => Ok(Parsed { message, positions, ignored }),
        _ => {
            errors.sort();
            Err(errors)
        }
    }
}

fn read(source: Source<'_>) -> Result<Tree<'_>, Errors> {
    Tree::read(source.name, source.text).map_err(|e| whole_text(source, &e.message, Some(e.place)))
}

/// The documents that are not empty.
fn documents(tree: &Tree<'_>) -> Vec<NodeId> {
    let empty = |id: &NodeId| match &tree.get(*id).data {
        Data::Scalar(text, style) => tree::Scalar::resolve(text, *style) == tree::Scalar::Null,
        _ => false,
    };
    tree.documents.iter().copied().filter(|id| !empty(id)).collect()
}

fn whole_text(source: Source<'_>, message: &str, place: Option<Place>) -> Errors {
    let mut errors = Errors::new(source.name);
    errors.push(String::new(), message.to_owned(), place);
    errors
}

fn typed<M: Message + Name + Default>(
    source: Source<'_>,
    parsed: Parsed<DynamicMessage>,
) -> Result<Parsed<M>, Errors> {
    let Parsed { message, positions, ignored } = parsed;
    match descriptors::from_dynamic(&message) {
        Ok(message) => Ok(Parsed { message, positions, ignored }),
        Err(e) => Err(whole_text(source, &e.to_string(), None)),
    }
}

/// Merges `overlay` into `base` as protobuf does: scalars replace, messages merge, lists append, map entries
/// replace. Envoy's `--config-yaml` over `-c`.
///
/// # Errors
/// When the merged message is nested deeper than protobuf allows (100 levels).
pub fn merge<M: Message + Name + Default>(base: &M, overlay: &M) -> Result<M, prost::DecodeError> {
    let mut bytes = base.encode_to_vec();
    bytes.extend(overlay.encode_to_vec());
    M::decode(&*bytes)
}

/// A message as JSON: proto field names, defaults left out, `Any` expanded, as Envoy's `/config_dump` prints.
pub fn to_json<M: Message + Name>(message: &M) -> serde_json::Value {
    dynamic_to_json(&descriptors::to_dynamic(message))
}

/// A message as YAML text, in the same shape as [`to_json`].
///
/// Envoy reads an unquoted fraction in untyped YAML (a `Struct`) as text, and so do we: `1.5` comes back as `"1.5"`.
pub fn to_yaml<M: Message + Name>(message: &M) -> String {
    json_to_yaml(&to_json(message))
}

/// A dynamic message as YAML text.
pub fn dynamic_to_yaml(message: &DynamicMessage) -> String {
    json_to_yaml(&dynamic_to_json(message))
}
