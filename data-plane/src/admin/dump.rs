//! `/config_dump`: sections of configuration in force, written item by item.

use super::page::{Content, Page, Params, pretty};
use super::proxy::{Ignored, Proxy};
use bytes::Bytes;
use http::StatusCode;
use regex::Regex;
use serde_json::{Map, Value, json};

/// One message of `ConfigDump.configs`.
pub struct Section {
    /// Its type URL.
    pub type_url: String,
    /// Its fields that are not lists.
    pub fields: Vec<(&'static str, Value)>,
    /// Its lists.
    pub lists: Vec<List>,
}

/// A list of a section.
pub struct List {
    /// Field name, such as `dynamic_listeners`.
    pub field: &'static str,
    /// Type URL of an item.
    pub item_type: String,
    /// The items.
    pub items: Vec<Item>,
}

/// An item of a list. Made into JSON only when written.
pub struct Item {
    /// The resource's name, for `name_regex`.
    pub name: String,
    /// Makes the item, secrets redacted.
    pub render: Box<dyn Fn() -> Value>,
}

/// Names of the fields of a path, outermost first.
type FieldPath = Vec<String>;

pub(super) fn page(proxy: &dyn Proxy, params: &Params) -> Page {
    let names = match params.get("name_regex").map(Regex::new).transpose() {
        Ok(names) => names,
        Err(error) => return Page::bad(format!("Error while parsing name_regex from {error}\n")),
    };
    let mask: Vec<FieldPath> = params
        .get("mask")
        .map(|mask| mask.split(',').map(|path| path.split('.').map(Into::into).collect()).collect())
        .unwrap_or_default();
    let mut sections = proxy.dump(params.has("include_eds"));
    if let Some(names) = &names {
        for list in sections.iter_mut().flat_map(|section| &mut section.lists) {
            list.items.retain(|item| names.is_match(&item.name));
        }
    }
    if let Some(resource) = params.get("resource") {
        return one_list(sections, resource, mask);
    }
    let ignored = if params.has("include_ignored") { Some(proxy.ignored()) } else { None };
    whole(sections, mask, ignored)
}

/// `?resource=`: the items of one list, or one field, with a type each.
fn one_list(sections: Vec<Section>, resource: &str, mask: Vec<FieldPath>) -> Page {
    for section in sections {
        if let Some((_, value)) = section.fields.into_iter().find(|(name, _)| *name == resource) {
            let mut value = value;
            trim(&mut value, &mask.iter().map(Vec::as_slice).collect::<Vec<_>>());
            return Page::json(&json!({ "configs": [value] }));
        }
        if let Some(list) = section.lists.into_iter().find(|list| list.field == resource) {
            let items = list.items.into_iter().map(move |item| {
                let mut value = (item.render)();
                trim(&mut value, &mask.iter().map(Vec::as_slice).collect::<Vec<_>>());
                typed(&list.item_type, value)
            });
            return array_page(items.map(|value| indented(&value, 2)), None);
        }
    }
    let known = "{\"code\":\"NOT_FOUND\"}";
    Page::error(StatusCode::NOT_FOUND, format!("{resource} not found in config dump\n{known}\n"))
}

fn whole(sections: Vec<Section>, mask: Vec<FieldPath>, ignored: Option<Vec<Ignored>>) -> Page {
    let pieces = sections.into_iter().map(move |section| section_text(section, &mask));
    array_page(pieces, ignored)
}

fn array_page(items: impl Iterator<Item = String> + 'static, ignored: Option<Vec<Ignored>>) -> Page {
    let first = std::iter::once(Bytes::from_static(b"{\n \"configs\": ["));
    let items = items.enumerate().map(|(i, text)| {
        let comma = if i > 0 { "," } else { "" };
        Bytes::from(format!("{comma}\n  {text}"))
    });
    let mut end = String::from("\n ]");
    if let Some(ignored) = ignored {
        let list: Vec<Value> = ignored
            .into_iter()
            .map(|i| json!({ "resource": i.resource, "path": i.path, "message": i.message }))
            .collect();
        end.push_str(",\n \"ignored_fields\": ");
        end.push_str(&indented(&Value::from(list), 1));
    }
    end.push_str("\n}\n");
    Page::pieces(Content::Json, first.chain(items).chain(std::iter::once(Bytes::from(end))))
}

/// A section two levels deep, its fields in order.
fn section_text(section: Section, mask: &[FieldPath]) -> String {
    let wanted = |field: &str| -> Option<Vec<&[String]>> {
        if mask.is_empty() {
            return Some(Vec::new());
        }
        let below: Vec<&[String]> = mask.iter().filter(|p| p[0] == field).map(|p| &p[1..]).collect();
        (!below.is_empty()).then_some(below)
    };
    let mut parts = vec![format!("\"@type\": {}", Value::from(section.type_url))];
    for (field, mut value) in section.fields {
        if let Some(below) = wanted(field) {
            trim(&mut value, &below);
            parts.push(format!("\"{field}\": {}", indented(&value, 3)));
        }
    }
    for list in section.lists {
        if list.items.is_empty() || wanted(list.field).is_none() {
            continue;
        }
        let items: Vec<String> =
            list.items.iter().map(|item| format!("\n    {}", indented(&(item.render)(), 4))).collect();
        parts.push(format!("\"{}\": [{}\n   ]", list.field, items.join(",")));
    }
    format!("{{\n   {}\n  }}", parts.join(",\n   "))
}

fn typed(type_url: &str, value: Value) -> Value {
    let mut out = Map::new();
    out.insert("@type".into(), type_url.into());
    if let Value::Object(fields) = value {
        out.extend(fields);
    }
    Value::Object(out)
}

/// Keeps the masked fields only; a list below a path is kept whole. No paths, or one that ends here: all is kept.
fn trim(value: &mut Value, paths: &[&[String]]) {
    if paths.is_empty() || paths.iter().any(|path| path.is_empty()) {
        return;
    }
    let Value::Object(fields) = value else { return };
    fields.retain(|name, _| name == "@type" || paths.iter().any(|path| path[0] == *name));
    for (name, value) in fields.iter_mut() {
        let below: Vec<&[String]> = paths.iter().filter(|p| p[0] == *name).map(|p| &p[1..]).collect();
        trim(value, &below);
    }
}

/// JSON for a place `depth` levels deep: lines after the first are indented.
fn indented(value: &Value, depth: usize) -> String {
    pretty(value).replace('\n', &format!("\n{}", " ".repeat(depth)))
}
