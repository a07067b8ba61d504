//! The text form of our own objects: `{kind: Service, name: cart, labels: {..}, spec: {..}}`.
//!
//! Maps on [`Resource`], whose oneof `spec` holds the message of the kind. Used by `apply -f`, the file source
//! and the REST API. A kind is the name of a message in that oneof, so that a new kind needs nothing here.

use prost_reflect::{DynamicMessage, FieldDescriptor};
use serde_json::{Map, Value as Json};

use crate::descriptors;
use crate::portolan::config::v1::Resource;
use crate::text::{self, Build, Depth, Errors, Positions, Source, Step};

/// An object and where its fields stand in the text.
#[derive(Clone, Debug)]
pub struct ParsedResource {
    /// The object.
    pub resource: Resource,
    /// Places of its fields; paths are those of the text form, such as `spec.rules[0].timeout`.
    pub positions: Positions,
}

/// The kinds there are, with the field of [`Resource`] that holds each.
fn kinds() -> impl Iterator<Item = (String, FieldDescriptor)> {
    let oneof = descriptors::of::<Resource>().oneofs().find(|o| o.name() == "spec");
    let fields: Vec<FieldDescriptor> = oneof.map(|o| o.fields().collect()).unwrap_or_default();
    fields.into_iter().filter_map(|f| Some((f.kind().as_message()?.name().to_owned(), f)))
}

/// The names of all kinds, such as `Service`.
pub fn kind_names() -> Vec<String> {
    kinds().map(|(name, _)| name).collect()
}

/// The kind of an object; `None` when it has no spec.
pub fn kind(resource: &Resource) -> Option<String> {
    let dynamic = descriptors::to_dynamic(resource);
    kinds().find(|(_, field)| dynamic.has_field(field)).map(|(name, _)| name)
}

/// Reads every object out of a text: documents separated by `---`, or lists of objects.
///
/// # Errors
/// Everything wrong with the text. A text without any object is not an error.
pub fn parse(source: Source<'_>) -> Result<Vec<ParsedResource>, Errors> {
    let parsed = text::each(source, |b, node, at| {
        let message = object(b, node, at)?;
        descriptors::from_dynamic(&message).ok()
    })?;
    let both = |p: text::Parsed<Resource>| ParsedResource { resource: p.message, positions: p.positions };
    Ok(parsed.into_iter().map(both).collect())
}

/// One object: `kind` chooses the message that `spec` is read as; all else are fields of [`Resource`].
fn object(b: &mut Build<'_>, node: text::NodeId, at: text::At) -> Option<DynamicMessage> {
    let entries = b.object(node, at)?;
    let find = |b: &Build<'_>, name: &str| entries.iter().find(|e| b.key_is(e.key, name)).copied();
    let (kind, spec) = (find(b, "kind"), find(b, "spec"));

    let names = kind_names().join(", ");
    let field = match kind {
        None => {
            b.fail(at, format!("`kind` is required; it may be {names}"));
            None
        }
        Some(entry) => {
            let place = b.value_place(&entry);
            let child = b.positions.child(at, Step::Field("kind"), place);
            let wanted = b.string(entry.value, child);
            let found = wanted.and_then(|w| kinds().find(|(name, _)| name == w).map(|(_, field)| field));
            if let (Some(wanted), None) = (wanted, &found) {
                let all = kind_names();
                let near = text::suggestion(wanted, all.iter().map(String::as_str));
                let hint = if near.is_empty() { format!("; it may be {names}") } else { near };
                b.fail(child, format!("no such kind {}{hint}", text::quoted(wanted)));
            }
            found
        }
    };
    let skip = ["kind", "spec"];
    let specs: Vec<String> = kinds().map(|(_, field)| field.name().to_owned()).collect();
    for entry in &entries {
        // `service: {..}` beside the name is the protobuf form, which has no `kind`.
        if let Some(name) = specs.iter().find(|name| b.key_is(entry.key, name)) {
            b.fail(at, format!("`{name}` must stand under `spec`"));
        }
    }
    let mut twice = |name: &str, first: Option<text::Entry>| {
        let last = entries.iter().rfind(|e| b.key_is(e.key, name));
        if let (Some(first), Some(last)) = (first, last)
            && first.key != last.key
        {
            b.twice(name, last, at);
        }
    };
    twice("kind", kind);
    twice("spec", spec);
    let mut message = b.fields(&descriptors::of::<Resource>(), &entries, at, Depth::default(), &skip);

    let field = field?;
    let value = match spec {
        Some(entry) => {
            let place = b.value_place(&entry);
            let child = b.positions.child(at, Step::Field("spec"), place);
            if b.is_null(entry.value) { None } else { b.field(&field, entry.value, child, Depth::default()) }
        }
        None => None,
    };
    let empty = || prost_reflect::Value::default_value_for_field(&field);
    if let Some(message) = &mut message {
        message.set_field(&field, value.unwrap_or_else(empty));
    }
    message
}

/// An object in its text form. An object without a spec has no `kind`.
pub fn to_json(resource: &Resource) -> Json {
    let dynamic = descriptors::to_dynamic(resource);
    let Json::Object(mut fields) = text::dynamic_to_json(&dynamic) else { return Json::Null };
    let mut object = Map::new();
    let Some((kind, field)) = kinds().find(|(_, field)| dynamic.has_field(field)) else {
        return Json::Object(fields);
    };
    let spec = fields.shift_remove(field.name()).unwrap_or_default();
    object.insert("kind".to_owned(), Json::String(kind));
    object.extend(fields);
    object.insert("spec".to_owned(), spec);
    Json::Object(object)
}

/// An object in its text form.
pub fn to_yaml(resource: &Resource) -> String {
    text::json_to_yaml(&to_json(resource))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::portolan::config::v1::resource::Spec;

    const TWO: &str = "\
kind: Service
name: cart
labels: {team: shop}
spec:
  load_balancing: least_request
  connect_timeout: 2s
---
- kind: Route
  name: front
  spec:
    gateways: [edge]
    rules:
    - matches: {prefix: /cart}
      backends:
      - {service: cart, weight: 0}
- {kind: Gateway, name: edge}
";

    fn errors(text: &str) -> Vec<String> {
        match parse(Source { name: "a.yaml", text }) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.lines().collect(),
        }
    }

    #[test]
    fn documents_and_lists_give_objects() {
        let all = parse(Source { name: "a.yaml", text: TWO }).unwrap();
        let kinds: Vec<_> = all.iter().map(|p| (kind(&p.resource).unwrap(), &*p.resource.name)).collect();
        assert_eq!(
            kinds,
            [("Service".into(), "cart"), ("Route".into(), "front"), ("Gateway".into(), "edge")]
        );
        let Some(Spec::Service(service)) = &all[0].resource.spec else { panic!("a service") };
        assert_eq!(service.load_balancing, 1);
        let place = all[1].positions.locate("spec.rules[0].backends[0].weight").unwrap();
        assert_eq!((place.line, place.column), (15, 33));
    }

    #[test]
    fn an_object_comes_back_in_the_shape_it_was_written() {
        for p in parse(Source { name: "a.yaml", text: TWO }).unwrap() {
            let text = to_yaml(&p.resource);
            let again = parse(Source { name: "b.yaml", text: &text }).unwrap();
            assert_eq!(again.len(), 1);
            assert_eq!(again[0].resource, p.resource, "{text}");
        }
        let first = parse(Source { name: "a.yaml", text: TWO }).unwrap().swap_remove(0).resource;
        let expected = "kind: Service\nname: cart\nlabels:\n  team: shop\nspec:\n  load_balancing: LEAST_REQUEST\n  connect_timeout: 2s\n";
        assert_eq!(to_yaml(&first), expected);
    }

    #[test]
    fn every_error_of_every_object_is_reported() {
        assert_eq!(
            errors(
                "kind: Servise\nnam: a\nspec: {}\n---\nname: b\n---\n{kind: Service, name: c, spec: {protocol: HTTP3}}\n"
            ),
            [
                "kind: no such kind \"Servise\"; did you mean `Service`? (a.yaml:1:7)",
                "nam: no such field; did you mean `name`? (a.yaml:2:1)",
                &format!("`kind` is required; it may be {} (a.yaml:5:1)", kind_names().join(", ")),
                "spec.protocol: no such value \"HTTP3\"; did you mean `HTTP1`? (a.yaml:7:43)",
            ]
        );
        assert_eq!(
            errors("kind: Service\nname: a\nkind: Route\nservice: {}\nspec: []\n"),
            [
                "`service` must stand under `spec` (a.yaml:1:1)",
                "[\"kind\"]: is given twice (a.yaml:3:1)",
                "spec: must be an object, not a list (a.yaml:5:7)",
            ]
        );
        assert_eq!(
            errors("- kind: [a]\n- 5\n"),
            [
                "kind: must be a string, not a list (a.yaml:1:9)",
                "must be an object, not the number 5 (a.yaml:2:3)",
            ]
        );
        assert!(errors("").is_empty() && errors("---\n---\n").is_empty());
    }

    #[test]
    fn an_object_without_spec_has_the_default_one() {
        let all = parse(Source { name: "a.yaml", text: "{kind: Gateway, name: edge, spec: ~}" }).unwrap();
        assert_eq!(kind(&all[0].resource).as_deref(), Some("Gateway"));
    }
}
