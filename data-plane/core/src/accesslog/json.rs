//! JSON log lines: members in the order of their names, numbers as numbers, `null` for what is missing.

use crate::config::JsonFormat;
use crate::headers::Record;
use crate::headers::format::{Format, write_json_string};

/// A compiled JSON line.
#[derive(Clone, Debug)]
pub(super) struct Json {
    value: Value,
    /// Leave out what is missing, and objects that are empty by that.
    omit_empty: bool,
}

#[derive(Clone, Debug)]
enum Value {
    Format(Format),
    /// Written as is.
    Literal(Box<[u8]>),
    /// Members with their names as JSON, colon included.
    Object(Box<[(Box<[u8]>, Value)]>),
    Array(Box<[Value]>),
}

impl Json {
    pub(super) fn new(format: &JsonFormat, omit_empty: bool) -> Self {
        Self { value: Value::new(format), omit_empty }
    }

    /// Appends the line without its end. Envoy: a line is an object even if nothing is left of it.
    pub(super) fn render(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        if !self.value.write(record, self.omit_empty, out) {
            out.extend_from_slice(b"{}");
        }
    }
}

impl Value {
    fn new(format: &JsonFormat) -> Self {
        match format {
            JsonFormat::Text(format) => Self::Format(format.clone()),
            JsonFormat::Literal(text) => Self::Literal(text.as_bytes().into()),
            JsonFormat::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                members.sort_by(|(a, _), (b, _)| a.cmp(b));
                let members = members.into_iter().map(|(name, format)| {
                    let mut key = Vec::with_capacity(name.len() + 3);
                    write_json_string(name.as_bytes(), &mut key);
                    key.push(b':');
                    (key.into(), Self::new(format))
                });
                Self::Object(members.collect())
            }
            JsonFormat::Array(elements) => Self::Array(elements.iter().map(Self::new).collect()),
        }
    }

    /// Appends the value and returns true; or, where it is missing and `omit` is set, appends nothing.
    fn write(&self, record: &Record<'_>, omit: bool, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        match self {
            Self::Format(format) => {
                if !format.render_json(record, out) && omit {
                    out.truncate(start);
                    return false;
                }
            }
            Self::Literal(text) if omit && **text == *b"null" => return false,
            Self::Literal(text) => out.extend_from_slice(text),
            Self::Object(members) => {
                out.push(b'{');
                let mut any = false;
                for (key, value) in members {
                    let before = out.len();
                    if any {
                        out.push(b',');
                    }
                    out.extend_from_slice(key);
                    if value.write(record, omit, out) {
                        any = true;
                    } else {
                        out.truncate(before);
                    }
                }
                if omit && !any {
                    out.truncate(start);
                    return false;
                }
                out.push(b'}');
            }
            Self::Array(elements) => {
                out.push(b'[');
                let mut any = false;
                for element in elements {
                    let before = out.len();
                    if any {
                        out.push(b',');
                    }
                    if element.write(record, omit, out) {
                        any = true;
                    } else {
                        out.truncate(before);
                    }
                }
                if omit && !any {
                    out.truncate(start);
                    return false;
                }
                out.push(b']');
            }
        }
        true
    }
}
