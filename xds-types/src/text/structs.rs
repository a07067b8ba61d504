//! A `google.protobuf.Struct` read as the message it stands for: the payload of a `TypedStruct`.

use prost_reflect::{DynamicMessage, MessageDescriptor, Value};

use super::positions::Place;
use super::tree::{Data, MAX_DEPTH, NodeId, Style, Tree};
use super::wkt::is_special;
use super::{Errors, Options, build_one, whole_text};
use crate::text::{Source, build::Depth};

/// Reads a struct as a message, with all the leniency of a text.
///
/// # Errors
/// Everything in it that is not the message. Places mean nothing.
pub(crate) fn from_struct(
    structure: &DynamicMessage,
    of: &MessageDescriptor,
) -> Result<DynamicMessage, Errors> {
    let source = Source { name: "", text: "" };
    let mut tree = Tree::default();
    let root =
        map(&mut tree, structure, 0).ok_or_else(|| whole_text(source, "is nested too deeply", None))?;
    let node = if is_special(of) { member(&tree, root, "value").unwrap_or(root) } else { root };
    build_one(&tree, node, source, Options::default(), |b, node, at| {
        b.message(of, node, at, Depth::default())
    })
    .map(|parsed| parsed.message)
    .map_err(|mut errors| {
        errors.list.iter_mut().for_each(|e| e.place = None);
        errors
    })
}

fn member(tree: &Tree<'_>, map: NodeId, name: &str) -> Option<NodeId> {
    let Data::Map(entries) = &tree.get(map).data else { return None };
    let is = |key: NodeId| matches!(&tree.get(key).data, Data::Scalar(text, _) if text == name);
    entries.iter().find(|(key, _)| is(*key)).map(|(_, value)| *value)
}

/// The entries of a struct; `None` when it is nested too deeply.
fn map(tree: &mut Tree<'_>, structure: &DynamicMessage, depth: usize) -> Option<NodeId> {
    let mut entries = Vec::new();
    if let Some(fields) = structure.get_field_by_name("fields") {
        for (key, field) in fields.as_map().into_iter().flatten() {
            let key = key.as_str().unwrap_or_default().to_owned();
            let key = tree.add(Data::Scalar(key.into(), Style::Quoted), Place::default());
            let child = value(tree, field.as_message()?, depth + 1)?;
            entries.push((key, child));
        }
    }
    Some(tree.add(Data::Map(entries), Place::default()))
}

fn value(tree: &mut Tree<'_>, message: &DynamicMessage, depth: usize) -> Option<NodeId> {
    if depth > MAX_DEPTH {
        return None;
    }
    let set = message.fields().next().map(|(field, value)| (field.name().to_owned(), value));
    let (text, style) = match set.as_ref().map(|(name, value)| (name.as_str(), *value)) {
        Some(("struct_value", Value::Message(child))) => return map(tree, child, depth),
        Some(("list_value", Value::Message(list))) => {
            let values = list.get_field_by_name("values")?;
            let children: Option<Vec<NodeId>> =
                values.as_list()?.iter().map(|v| value(tree, v.as_message()?, depth + 1)).collect();
            return Some(tree.add(Data::List(children?), Place::default()));
        }
        Some(("string_value", Value::String(text))) => (text.clone(), Style::Quoted),
        Some(("bool_value", Value::Bool(value))) => (value.to_string(), Style::Json),
        Some(("number_value", Value::F64(number))) => (number.to_string(), Style::Json),
        _ => ("null".to_owned(), Style::Json),
    };
    Some(tree.add(Data::Scalar(text.into(), style), Place::default()))
}
