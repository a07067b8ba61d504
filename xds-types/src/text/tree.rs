//! The marked tree: what a YAML or JSON text says, with the place of every node, before any type is known.
//!
//! An arena; an alias is the id of its anchor's node, so that no text can make the tree larger than itself.

use std::borrow::Cow;

use super::positions::Place;

/// Nesting of lists and objects past which a text is refused.
pub(crate) const MAX_DEPTH: usize = 100;

/// A node of a [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeId(pub(crate) u32);

/// How a scalar was written, which decides what an untyped value such as `1.5` or `yes` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// YAML without quotes: may be null, a boolean, an integer.
    Plain,
    /// In quotes, a block scalar, or tagged `!!str`: always a string.
    Quoted,
    /// A JSON literal or number.
    Json,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum Data<'t> {
    Scalar(Cow<'t, str>, Style),
    List(Vec<NodeId>),
    /// Keys and values, in order, duplicates kept.
    Map(Vec<(NodeId, NodeId)>),
}

/// One node.
#[derive(Clone, Debug)]
pub(crate) struct Node<'t> {
    pub(crate) data: Data<'t>,
    pub(crate) place: Place,
    /// Tagged `!ignore`: as a key, Envoy drops the entry.
    pub(crate) ignored: bool,
}

/// Every document of a text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree<'t> {
    nodes: Vec<Node<'t>>,
    pub(crate) documents: Vec<NodeId>,
}

/// Why a text has no tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) message: String,
    pub(crate) place: Place,
}

impl<'t> Tree<'t> {
    pub(crate) fn get(&self, id: NodeId) -> &Node<'t> {
        &self.nodes[id.0 as usize]
    }

    pub(crate) fn get_mut(&mut self, id: NodeId) -> &mut Node<'t> {
        &mut self.nodes[id.0 as usize]
    }

    pub(crate) fn add(&mut self, data: Data<'t>, place: Place) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(Node { data, place, ignored: false });
        id
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Reads a text. What looks like JSON is read as JSON, whose escapes YAML does not all know, and only
    /// then as YAML.
    pub(crate) fn read(name: &str, text: &'t str) -> Result<Self, SyntaxError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if u32::try_from(text.len()).is_err() {
            let message = "is larger than 4 GiB".to_owned();
            return Err(SyntaxError { message, place: Place { line: 1, column: 1 } });
        }
        if !text.trim_start().starts_with(['{', '[']) {
            return super::yaml::read(text);
        }
        super::json::read(text).or_else(|json| {
            let named_json = name.ends_with(".json");
            super::yaml::read(text).map_err(|yaml| if named_json { json } else { yaml })
        })
    }
}

/// What a scalar means where no type says so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scalar<'s> {
    Null,
    Bool(bool),
    Int(i64),
    /// JSON number that is not a 64-bit integer.
    Number(&'s str),
    /// Unquoted text, floats included.
    Plain(&'s str),
    Quoted(&'s str),
}

impl<'s> Scalar<'s> {
    /// Resolves as Envoy does, through yaml-cpp: YAML 1.1 booleans, C integers (`0x50`, `010`), no floats.
    pub(crate) fn resolve(text: &'s str, style: Style) -> Self {
        match style {
            Style::Quoted => Self::Quoted(text),
            Style::Json => match text {
                "null" => Self::Null,
                "true" => Self::Bool(true),
                "false" => Self::Bool(false),
                number => number.parse().map_or(Self::Number(number), Self::Int),
            },
            Style::Plain => match text {
                "" | "~" | "null" | "Null" | "NULL" => Self::Null,
                _ => match yaml_bool(text) {
                    Some(value) => Self::Bool(value),
                    None => c_integer(text).map_or(Self::Plain(text), Self::Int),
                },
            },
        }
    }
}

/// The booleans of YAML 1.1: all lower case, all upper case or capitalised.
fn yaml_bool(text: &str) -> Option<bool> {
    if text.len() > 5 {
        return None;
    }
    let value = match text.to_ascii_lowercase().as_str() {
        "y" | "yes" | "true" | "on" => true,
        "n" | "no" | "false" | "off" => false,
        _ => return None,
    };
    let tail = &text[1..];
    let one_case =
        !tail.bytes().any(|b| b.is_ascii_uppercase()) || text.bytes().all(|b| b.is_ascii_uppercase());
    one_case.then_some(value)
}

/// An integer as C reads it: decimal, `0x` hexadecimal, leading `0` octal.
fn c_integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let magnitude = match digits.as_bytes() {
        [b'0', b'x' | b'X', hex @ ..] if !hex.is_empty() && hex.iter().all(u8::is_ascii_hexdigit) => {
            i128::from_str_radix(&digits[2..], 16)
        }
        [b'0', octal @ ..] if !octal.is_empty() && octal.iter().all(|b| (b'0'..=b'7').contains(b)) => {
            i128::from_str_radix(digits, 8)
        }
        [b'0', _, ..] => return None,
        all if all.iter().all(u8::is_ascii_digit) => digits.parse(),
        _ => return None,
    };
    let magnitude = magnitude.ok()?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_yaml_cpp_makes_of_them() {
        use Scalar::{Bool, Int, Null, Plain};
        for (text, expected) in [
            ("", Null),
            ("~", Null),
            ("NULL", Null),
            ("nULL", Plain("nULL")),
            ("y", Bool(true)),
            ("N", Bool(false)),
            ("On", Bool(true)),
            ("oFF", Plain("oFF")),
            ("yES", Plain("yES")),
            ("FALSE", Bool(false)),
            ("0x50", Int(80)),
            ("-0x10", Int(-16)),
            ("010", Int(8)),
            ("08", Plain("08")),
            ("0o17", Plain("0o17")),
            ("+5", Int(5)),
            ("1_000", Plain("1_000")),
            ("1.5", Plain("1.5")),
            ("0", Int(0)),
            ("-", Plain("-")),
            ("0x", Plain("0x")),
            ("9223372036854775808", Plain("9223372036854775808")),
            ("-9223372036854775808", Int(i64::MIN)),
        ] {
            assert_eq!(Scalar::resolve(text, Style::Plain), expected, "{text:?}");
        }
        assert_eq!(Scalar::resolve("yes", Style::Quoted), Scalar::Quoted("yes"));
        assert_eq!(Scalar::resolve("1.5", Style::Json), Scalar::Number("1.5"));
    }
}
