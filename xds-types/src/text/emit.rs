//! JSON values to YAML text that a person likes to read and that every YAML reader, 1.1 or 1.2, reads back.

use std::fmt::Write as _;

use serde_json::Value as Json;

use super::tree::{Scalar, Style};

/// A JSON value as block YAML, ending with a line feed.
pub fn json_to_yaml(value: &Json) -> String {
    let mut out = String::new();
    match value {
        Json::Object(o) if !o.is_empty() => block(&mut out, value, 0),
        Json::Array(a) if !a.is_empty() => block(&mut out, value, 0),
        _ => {
            inline(&mut out, value, 0);
            out.push('\n');
        }
    }
    out
}

/// Lines of a list or object that is not empty; the first line's indent is already there.
fn block(out: &mut String, value: &Json, indent: usize) {
    match value {
        Json::Object(entries) => {
            for (i, (key, value)) in entries.iter().enumerate() {
                if i > 0 {
                    pad(out, indent);
                }
                string(out, key);
                out.push(':');
                match value {
                    // A list stands at the level of its key, as in every Kubernetes and Envoy example.
                    Json::Array(a) if !a.is_empty() => {
                        out.push('\n');
                        pad(out, indent);
                        block(out, value, indent);
                    }
                    Json::Object(o) if !o.is_empty() => {
                        out.push('\n');
                        pad(out, indent + 2);
                        block(out, value, indent + 2);
                    }
                    value => {
                        out.push(' ');
                        inline(out, value, indent + 2);
                        out.push('\n');
                    }
                }
            }
        }
        Json::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    pad(out, indent);
                }
                out.push_str("- ");
                match item {
                    Json::Object(o) if !o.is_empty() => block(out, item, indent + 2),
                    Json::Array(a) if !a.is_empty() => block(out, item, indent + 2),
                    item => {
                        inline(out, item, indent + 2);
                        out.push('\n');
                    }
                }
            }
        }
        value => inline(out, value, indent),
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

/// A scalar, or an empty collection; block text takes lines indented by `indent`.
fn inline(out: &mut String, value: &Json, indent: usize) {
    match value {
        Json::Null => out.push_str("null"),
        Json::Bool(v) => _ = write!(out, "{v}"),
        Json::Number(v) => _ = write!(out, "{v}"),
        Json::String(text) if is_block_text(text) => {
            out.push_str(if text.ends_with('\n') { "|" } else { "|-" });
            for line in text.lines() {
                out.push('\n');
                if !line.is_empty() {
                    pad(out, indent);
                    out.push_str(line);
                }
            }
        }
        Json::String(text) => string(out, text),
        Json::Array(_) => out.push_str("[]"),
        Json::Object(_) => out.push_str("{}"),
    }
}

/// Whether a text reads well and safely as `|`: several lines without surprises.
fn is_block_text(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let printable = |c: char| c == '\n' || (is_printable(c) && c != '\u{feff}');
    body.contains('\n')
        && !body.starts_with([' ', '\n'])
        && !body.ends_with([' ', '\n'])
        && body.chars().all(printable)
}

fn string(out: &mut String, text: &str) {
    if is_plain(text) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if is_printable(c) && c != '\u{feff}' => out.push(c),
            c if (c as u32) < 0x1_0000 => _ = write!(out, "\\u{:04x}", c as u32),
            c => _ = write!(out, "\\U{:08x}", c as u32),
        }
    }
    out.push('"');
}

/// The printable characters of YAML 1.2 section 5.1, without line breaks and tabs.
fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Whether a text needs no quotes to be read as itself, by readers of YAML 1.1 and 1.2.
fn is_plain(text: &str) -> bool {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return super::time::parse_duration(text).is_some();
    }
    let inner = |c: char| c.is_ascii_alphanumeric() || " _-./@%+=*~()$^".contains(c) || c == ':';
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '/')
        && text.chars().all(inner)
        && !text.contains(": ")
        && !text.ends_with([':', ' '])
        && matches!(Scalar::resolve(text, Style::Plain), Scalar::Plain(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_is_written_as_block_yaml() {
        let value = json!({
            "name": "a: b", "plain": "type.googleapis.com/x", "empty": {}, "none": [], "yes": "no", "n": 5,
            "list": [{"a": 1, "b": [1, [2, 3]]}, "x", []], "text": "line one\n\n  line two\n", "odd": "\u{7f}\n",
        });
        let expected = "\
name: \"a: b\"
plain: type.googleapis.com/x
empty: {}
none: []
\"yes\": \"no\"
\"n\": 5
list:
- a: 1
  b:
  - 1
  - - 2
    - 3
- x
- []
text: |
  line one

    line two
odd: \"\\u007f\\n\"
";
        assert_eq!(json_to_yaml(&value), expected);
    }
}
