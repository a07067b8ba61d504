//! YAML text to the marked tree, over the event stream of `saphyr-parser`.
//!
//! Not over saphyr's own loader: that clones every alias's subtree, resolves scalars by YAML 1.2, and stops
//! at the first duplicate key.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::positions::Place;
use super::tree::{Data, MAX_DEPTH, NodeId, Style, SyntaxError, Tree};

/// A list or object whose end has not come yet.
struct Open {
    id: NodeId,
    /// The key whose value comes next.
    key: Option<NodeId>,
}

/// Reads every document of a text.
pub(crate) fn read(text: &str) -> Result<Tree<'_>, SyntaxError> {
    let mut tree = Tree::default();
    let mut open: Vec<Open> = Vec::new();
    let mut anchors: HashMap<usize, NodeId> = HashMap::new();
    let mut parser = Parser::new_from_str(text);
    while let Some(next) = parser.next_event() {
        let (event, span) = next.map_err(|e| SyntaxError {
            message: format!("is not YAML: {}", e.info()),
            place: place(*e.marker()),
        })?;
        let at = place(span.start);
        let (id, anchor, opens) = match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => continue,
            Event::DocumentStart(_) => {
                anchors.clear();
                continue;
            }
            Event::Alias(anchor) => {
                let Some(&id) = anchors.get(&anchor) else {
                    return Err(error("names an anchor of another document", at));
                };
                if open.iter().any(|o| o.id == id) {
                    return Err(error("is an alias of what holds it", at));
                }
                (id, 0, false)
            }
            Event::Scalar(value, style, anchor, tag) => {
                let string = tag.as_deref().is_some_and(|t| t.is_yaml_core_schema() && t.suffix == "str");
                let plain = style == ScalarStyle::Plain && !string;
                let style = if plain { Style::Plain } else { Style::Quoted };
                let id = tree.add(Data::Scalar(value, style), at);
                tree.get_mut(id).ignored = is_ignore(tag.as_deref());
                (id, anchor, false)
            }
            Event::SequenceStart(anchor, tag) => {
                let id = tree.add(Data::List(Vec::new()), at);
                tree.get_mut(id).ignored = is_ignore(tag.as_deref());
                (id, anchor, true)
            }
            Event::MappingStart(anchor, tag) => {
                let id = tree.add(Data::Map(Vec::new()), at);
                tree.get_mut(id).ignored = is_ignore(tag.as_deref());
                (id, anchor, true)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                open.pop();
                continue;
            }
        };
        if anchor != 0 {
            anchors.insert(anchor, id);
        }
        attach(&mut tree, &mut open, id);
        if opens {
            if open.len() >= MAX_DEPTH {
                return Err(error(&format!("is nested deeper than {MAX_DEPTH} levels"), at));
            }
            open.push(Open { id, key: None });
        }
    }
    Ok(tree)
}

/// Hangs a node below what is open, or makes it a document.
fn attach(tree: &mut Tree<'_>, open: &mut [Open], id: NodeId) {
    let Some(parent) = open.last_mut() else {
        tree.documents.push(id);
        return;
    };
    match &mut tree.get_mut(parent.id).data {
        Data::List(items) => items.push(id),
        Data::Map(entries) => match parent.key.take() {
            None => parent.key = Some(id),
            Some(key) => entries.push((key, id)),
        },
        Data::Scalar(..) => {}
    }
}

fn is_ignore(tag: Option<&Tag>) -> bool {
    tag.is_some_and(|t| t.handle == "!" && t.suffix == "ignore")
}

fn error(message: &str, place: Place) -> SyntaxError {
    SyntaxError { message: message.to_owned(), place }
}

fn place(marker: Marker) -> Place {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Place { line: number(marker.line()), column: number(marker.col()).saturating_add(1) }
}
