//! The text form of our own objects: `{kind: Service, name: cart, labels: {..}, spec: {..}}`.
//!
//! Maps on [`Resource`], whose oneof `spec` holds the message of the kind. Used by `apply -f`, the file source
//! and the REST API.

use crate::portolan::config::v1::Resource;
use crate::text::{self, Errors, Positions, Source};

/// An object and where its fields stand in the text.
#[derive(Clone, Debug)]
pub struct ParsedResource {
    /// The object.
    pub resource: Resource,
    /// Places of its fields; paths are those of the text form, such as `spec.rules[0].timeout`.
    pub positions: Positions,
}

/// Reads every object out of a text: documents separated by `---`, or lists of objects.
///
/// # Errors
/// Everything wrong with the text.
pub fn parse(source: Source<'_>) -> Result<Vec<ParsedResource>, Errors> {
    let parsed = text::parse_many(source)?;
    Ok(parsed.into_iter().map(|p| ParsedResource { resource: p.message, positions: p.positions }).collect())
}

/// An object in its text form.
pub fn to_json(resource: &Resource) -> serde_json::Value {
    text::to_json(resource)
}

/// An object in its text form.
pub fn to_yaml(resource: &Resource) -> String {
    text::json_to_yaml(&to_json(resource))
}
