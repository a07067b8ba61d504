//! Field path -> line and column, so that whatever finds an error later can still say where it is.
//!
//! A trie in one vector: 28 bytes a value of the text. Built by the parser while it walks the tree, and used
//! by it to print the path of an error.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::errors::Errors;

/// A place in a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

/// One step of a field path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    Field(&'a str),
    Index(u32),
    Key(&'a str),
}

/// [`Step`] with its text interned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    Root,
    Field(u32),
    Index(u32),
    Key(u32),
}

/// A node of the trie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct At(u32);

#[derive(Clone, Copy, Debug)]
struct Node {
    step: Stored,
    place: Place,
    parent: u32,
    last_child: u32,
    previous: u32,
}

const NONE: u32 = u32::MAX;

/// Where each field of a parsed message stands in its text.
#[derive(Clone, Debug)]
pub struct Positions {
    nodes: Vec<Node>,
    names: Vec<Box<str>>,
    ids: HashMap<Box<str>, u32>,
}

impl Default for Positions {
    fn default() -> Self {
        Self::new(Place { line: 1, column: 1 })
    }
}

impl Positions {
    /// Only the root, at a place.
    pub(crate) fn new(root: Place) -> Self {
        let node = Node { step: Stored::Root, place: root, parent: NONE, last_child: NONE, previous: NONE };
        Self { nodes: vec![node], names: Vec::new(), ids: HashMap::new() }
    }

    /// Where the value at a field path begins; the nearest enclosing value when the text does not hold it.
    ///
    /// `None` only when not even the first step of the path is in the text.
    pub fn locate(&self, path: &str) -> Option<Place> {
        let mut at = At::default();
        let mut found = false;
        for step in steps(path) {
            match self.find(at, step.borrowed()) {
                Some(next) => (at, found) = (next, true),
                None => break,
            }
        }
        (found || path.is_empty()).then(|| self.place(at))
    }

    /// [`Self::locate`] where texts were merged in this order ([`super::merge`]): which of them holds the value, and
    /// where. Lists of a text follow those of the ones before it; of a single value the last text counts.
    pub fn locate_merged(texts: &[&Self], path: &str) -> Option<(usize, Place)> {
        // Where we are in each text that holds the path so far.
        let mut at: Vec<(usize, At)> = (0..texts.len()).map(|text| (text, At::default())).collect();
        let mut found = None;
        for step in steps(path) {
            let step = step.borrowed();
            let mut next = Vec::new();
            let mut before = 0;
            for &(text, parent) in &at {
                let positions = texts[text];
                let step = match step {
                    Step::Index(index) => match index.checked_sub(before) {
                        Some(index) => Step::Index(index),
                        None => break,
                    },
                    other => other,
                };
                next.extend(positions.find(parent, step).map(|at| (text, at)));
                before += positions.elements(parent);
            }
            found = next.last().copied().or(found);
            if next.is_empty() {
                break;
            }
            at = next;
        }
        found.map(|(text, at)| (text, texts[text].place(at)))
    }

    /// How many elements a list has; 0 for everything else.
    fn elements(&self, list: At) -> u32 {
        let mut elements = 0;
        let mut id = self.nodes[list.0 as usize].last_child;
        while id != NONE {
            let node = &self.nodes[id as usize];
            if let Stored::Index(index) = node.step {
                elements = elements.max(index + 1);
            }
            id = node.previous;
        }
        elements
    }

    /// Errors found later, such as those of [`crate::rules`] or of translation, with their places here.
    pub fn explain<P, M>(&self, source: &str, findings: impl IntoIterator<Item = (P, M)>) -> Errors
    where
        P: AsRef<str>,
        M: Into<String>,
    {
        let mut errors = Errors::new(source);
        for (path, message) in findings {
            let place = self.locate(path.as_ref());
            errors.push(path.as_ref().to_owned(), message.into(), place);
        }
        errors
    }

    pub(crate) fn child(&mut self, parent: At, step: Step<'_>, place: Place) -> At {
        let step = match step {
            Step::Field(name) => Stored::Field(self.intern(name)),
            Step::Index(index) => Stored::Index(index),
            Step::Key(key) => Stored::Key(self.intern(key)),
        };
        let id = self.nodes.len() as u32;
        let previous = std::mem::replace(&mut self.nodes[parent.0 as usize].last_child, id);
        self.nodes.push(Node { step, place, parent: parent.0, last_child: NONE, previous });
        At(id)
    }

    pub(crate) fn place(&self, at: At) -> Place {
        self.nodes[at.0 as usize].place
    }

    /// The field path of a node.
    pub(crate) fn path(&self, at: At) -> String {
        let mut chain = Vec::new();
        let mut id = at.0;
        while id != NONE {
            let node = &self.nodes[id as usize];
            chain.push(node.step);
            id = node.parent;
        }
        let mut path = String::new();
        for step in chain.into_iter().rev() {
            match step {
                Stored::Root => {}
                Stored::Field(name) => push_field(&mut path, &self.names[name as usize]),
                Stored::Index(index) => _ = write!(path, "[{index}]"),
                Stored::Key(key) => _ = write!(path, "[{:?}]", self.names[key as usize]),
            }
        }
        path
    }

    fn intern(&mut self, name: &str) -> u32 {
        if let Some(&id) = self.ids.get(name) {
            return id;
        }
        let id = self.names.len() as u32;
        self.names.push(name.into());
        self.ids.insert(name.into(), id);
        id
    }

    fn find(&self, parent: At, step: Step<'_>) -> Option<At> {
        let wanted = match step {
            Step::Field(name) => Stored::Field(*self.ids.get(name)?),
            Step::Index(index) => Stored::Index(index),
            Step::Key(key) => Stored::Key(*self.ids.get(key)?),
        };
        let mut id = self.nodes[parent.0 as usize].last_child;
        while id != NONE {
            let node = &self.nodes[id as usize];
            if node.step == wanted {
                return Some(At(id));
            }
            id = node.previous;
        }
        None
    }
}

/// Appends `.name`, or `name` at the beginning.
pub(crate) fn push_field(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// Appends a whole path, which may begin with an index.
pub(crate) fn push_path(path: &mut String, more: &str) {
    if more.starts_with('[') {
        path.push_str(more)
    } else if !more.is_empty() {
        push_field(path, more)
    }
}

/// The steps of a printed path, up to the first one that is not well formed.
fn steps(path: &str) -> impl Iterator<Item = OwnedStep> + '_ {
    let mut rest = path;
    std::iter::from_fn(move || {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if let Some(inner) = rest.strip_prefix('[') {
            if inner.starts_with('"') {
                let end = closing_quote(inner)?;
                let key = serde_json::from_str(&inner[..=end]).unwrap_or_else(|_| inner[1..end].to_owned());
                rest = inner[end + 1..].strip_prefix(']')?;
                return Some(OwnedStep::Key(key));
            }
            let (index, after) = inner.split_once(']')?;
            rest = after;
            return Some(OwnedStep::Index(index.parse().ok()?));
        }
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after;
        (!name.is_empty()).then(|| OwnedStep::Field(name.to_owned()))
    })
}

/// Index of the quote that ends the string which begins at 0.
fn closing_quote(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut i = 1;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 2,
            b'"' => return Some(i),
            _ => i += 1,
        }
    }
    None
}

enum OwnedStep {
    Field(String),
    Index(u32),
    Key(String),
}

impl OwnedStep {
    fn borrowed(&self) -> Step<'_> {
        match self {
            Self::Field(name) => Step::Field(name),
            Self::Index(index) => Step::Index(*index),
            Self::Key(key) => Step::Key(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Positions {
        let at = |line, column| Place { line, column };
        let mut p = Positions::new(at(1, 1));
        let clusters = p.child(At::default(), Step::Field("clusters"), at(2, 3));
        for i in 0..3 {
            let cluster = p.child(clusters, Step::Index(i), at(3 + i, 5));
            let options = p.child(cluster, Step::Field("options"), at(3 + i, 9));
            p.child(options, Step::Key("a.\"b\"[0]"), at(3 + i, 20));
        }
        p
    }

    #[test]
    fn a_printed_path_leads_back_to_its_place() {
        let p = sample();
        for id in 1..p.nodes.len() as u32 {
            assert_eq!(p.locate(&p.path(At(id))), Some(p.place(At(id))), "{}", p.path(At(id)));
        }
        assert_eq!(p.locate("clusters[1].options[\"a.\\\"b\\\"[0]\"]"), Some(Place { line: 4, column: 20 }));
    }

    #[test]
    fn a_path_that_the_text_does_not_hold_falls_back_to_what_encloses_it() {
        let p = sample();
        assert_eq!(p.locate("clusters[2].options.name.value"), Some(Place { line: 5, column: 9 }));
        assert_eq!(p.locate("clusters[7].name"), Some(Place { line: 2, column: 3 }));
        assert_eq!(p.locate("listeners[0]"), None);
        assert_eq!(p.locate(""), Some(Place { line: 1, column: 1 }));
        for broken in ["clusters[", "clusters[x]", "clusters[\"", "..", "[\"a\"", "clusters[99999999999]"] {
            p.locate(broken);
        }
    }
}
