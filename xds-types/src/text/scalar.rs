//! Scalars of the text to scalar fields: strings, numbers, booleans, enums, bytes.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use prost_reflect::{EnumDescriptor, Kind, Value};

use super::build::{Build, quoted};
use super::nearest::suggestion;
use super::positions::At;
use super::tree::{Data, NodeId, Scalar};

/// Enum values listed in full when none is near.
const SHORT_ENUM: usize = 8;

impl Build<'_> {
    /// A value of a scalar kind.
    pub(super) fn scalar(&mut self, kind: &Kind, node: NodeId, at: At) -> Option<Value> {
        let tree = self.tree;
        let result = match &tree.get(node).data {
            Data::Scalar(text, style) => convert(kind, text, Scalar::resolve(text, *style)),
            _ => Err(Wrong::Kind),
        };
        match result {
            Ok(value) => return Some(value),
            Err(Wrong::Kind) => {
                self.fail(at, format!("must be {}, not {}", wanted(kind), self.describe(node)))
            }
            Err(Wrong::Value(message)) => self.fail(at, message),
        }
        None
    }
}

/// Why a scalar does not fit its field.
enum Wrong {
    /// It is of another kind; the message says what was wanted and what was found.
    Kind,
    /// It is of the kind, but its value is not allowed.
    Value(String),
}

impl From<String> for Wrong {
    fn from(message: String) -> Self {
        Self::Value(message)
    }
}

/// What a kind wants, with its article.
fn wanted(kind: &Kind) -> &'static str {
    match kind {
        Kind::String => "a string",
        Kind::Bytes => "bytes in base64",
        Kind::Bool => "true or false",
        Kind::Enum(_) => "the name of an enum value",
        Kind::Double | Kind::Float => "a number",
        Kind::Message(_) => "an object",
        _ => "an integer",
    }
}

/// Converts, or says what is wrong.
fn convert(kind: &Kind, text: &str, scalar: Scalar<'_>) -> Result<Value, Wrong> {
    Ok(match kind {
        Kind::String => Value::String(string(text, scalar)?),
        Kind::Bytes => Value::Bytes(bytes(text, scalar)?.into()),
        Kind::Bool => Value::Bool(boolean(scalar)?),
        Kind::Enum(of) => Value::EnumNumber(enumeration(of, text, scalar)?),
        Kind::Double => Value::F64(float(scalar)?),
        Kind::Float => {
            let wide = float(scalar)?;
            let narrow = wide as f32;
            if wide.is_finite() && !narrow.is_finite() {
                return Err(format!("{text} is too large for a 32-bit number").into());
            }
            Value::F32(narrow)
        }
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(integer(scalar, i32::MIN, i32::MAX)?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(integer(scalar, i64::MIN, i64::MAX)?),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(integer(scalar, u32::MIN, u32::MAX)?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(integer(scalar, u64::MIN, u64::MAX)?),
        Kind::Message(_) => return Err(Wrong::Kind),
    })
}

fn string(text: &str, scalar: Scalar<'_>) -> Result<String, Wrong> {
    match scalar {
        Scalar::Plain(text) | Scalar::Quoted(text) => Ok(text.to_owned()),
        Scalar::Bool(_) => {
            Err(format!("must be a string, but an unquoted {text} is a boolean; write {text:?}").into())
        }
        Scalar::Int(_) | Scalar::Number(_) => {
            Err(format!("must be a string, but an unquoted {text} is a number; write {text:?}").into())
        }
        Scalar::Null => Err(Wrong::Kind),
    }
}

fn boolean(scalar: Scalar<'_>) -> Result<bool, Wrong> {
    match scalar {
        Scalar::Bool(value) => Ok(value),
        Scalar::Quoted("true") => Ok(true),
        Scalar::Quoted("false") => Ok(false),
        _ => Err(Wrong::Kind),
    }
}

/// Base64, standard or URL-safe, padded or not.
fn bytes(text: &str, scalar: Scalar<'_>) -> Result<Vec<u8>, Wrong> {
    if !matches!(scalar, Scalar::Plain(_) | Scalar::Quoted(_)) {
        return string(text, scalar).map(String::into_bytes);
    }
    let bare = text.trim_end_matches('=');
    let padding = text.len() - bare.len();
    let engine = if bare.contains(['-', '_']) { &URL_SAFE_NO_PAD } else { &STANDARD_NO_PAD };
    match engine.decode(bare) {
        Ok(bytes) if padding <= 2 => Ok(bytes),
        _ => Err(format!("{} is not base64", quoted(text)).into()),
    }
}

/// An integer, also written as a string or as a float without a fraction, as protobuf's JSON allows.
fn integer<T>(scalar: Scalar<'_>, min: T, max: T) -> Result<T, Wrong>
where
    T: TryFrom<i128> + std::fmt::Display,
{
    let value = match scalar {
        Scalar::Int(value) => i128::from(value),
        Scalar::Number(text) | Scalar::Plain(text) | Scalar::Quoted(text) => match whole(text) {
            Some(value) => value,
            None if number(text).is_some_and(f64::is_finite) => {
                return Err(format!("must be an integer, but {text} is not").into());
            }
            None => return Err(Wrong::Kind),
        },
        Scalar::Null | Scalar::Bool(_) => return Err(Wrong::Kind),
    };
    T::try_from(value).map_err(|_| format!("{value} is out of range: from {min} to {max}").into())
}

/// A whole number in decimal, also as `1e3` or `1.0`.
fn whole(text: &str) -> Option<i128> {
    const LONGEST: usize = 30;
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.is_empty() && digits.len() <= LONGEST && digits.bytes().all(|b| b.is_ascii_digit()) {
        return text.strip_prefix('+').unwrap_or(text).parse().ok();
    }
    let value = number(text)?;
    (value.fract() == 0.0 && value.abs() < 1e30).then_some(value as i128)
}

fn float(scalar: Scalar<'_>) -> Result<f64, Wrong> {
    match scalar {
        Scalar::Int(value) => Ok(value as f64),
        Scalar::Plain("NaN") | Scalar::Quoted("NaN") => Ok(f64::NAN),
        Scalar::Plain("Infinity") | Scalar::Quoted("Infinity") => Ok(f64::INFINITY),
        Scalar::Plain("-Infinity") | Scalar::Quoted("-Infinity") => Ok(f64::NEG_INFINITY),
        Scalar::Number(text) | Scalar::Plain(text) | Scalar::Quoted(text) => match number(text) {
            Some(value) if value.is_finite() => Ok(value),
            Some(_) => Err(format!("{text} is too large for a 64-bit number").into()),
            None => Err(Wrong::Kind),
        },
        Scalar::Null | Scalar::Bool(_) => Err(Wrong::Kind),
    }
}

/// A decimal number; infinite when too large. Rust's own reader also takes words such as `inf`.
fn number(text: &str) -> Option<f64> {
    let decimal = |b: u8| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E');
    let starts = text.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if starts && text.bytes().all(decimal) { text.parse().ok() } else { None }
}

/// An enum by name in any case, or by number (protobuf enums are open; `rules` refuses unknown ones).
fn enumeration(of: &EnumDescriptor, text: &str, scalar: Scalar<'_>) -> Result<i32, Wrong> {
    match scalar {
        Scalar::Int(number) => {
            i32::try_from(number).map_err(|_| format!("{number} is out of range for an enum").into())
        }
        Scalar::Null if of.full_name() == "google.protobuf.NullValue" => Ok(0),
        // `off` and `on` are booleans in YAML, and names of enum values here and there.
        // Envoy takes them for booleans; our own objects are for people.
        Scalar::Bool(_) if of.full_name().starts_with("portolan.") && find(of, text).is_some() => {
            find(of, text).ok_or(Wrong::Kind)
        }
        Scalar::Bool(_) if find(of, text).is_some_and(|_| !matches!(text, "true" | "false")) => {
            Err(format!("must be a name, but an unquoted {text} is a boolean; write {text:?}").into())
        }
        Scalar::Plain(name) | Scalar::Quoted(name) => {
            find(of, name).or_else(|| name.parse().ok()).ok_or_else(|| no_such_value(of, name).into())
        }
        Scalar::Null | Scalar::Bool(_) | Scalar::Number(_) => Err(Wrong::Kind),
    }
}

fn find(of: &EnumDescriptor, name: &str) -> Option<i32> {
    of.get_value_by_name(name)
        .or_else(|| of.values().find(|v| v.name().eq_ignore_ascii_case(name)))
        .map(|v| v.number())
}

fn no_such_value(of: &EnumDescriptor, name: &str) -> String {
    let names: Vec<String> = of.values().map(|v| v.name().to_owned()).collect();
    let near = suggestion(name, names.iter().map(String::as_str));
    if near.is_empty() && names.len() <= SHORT_ENUM {
        return format!("no such value {}; it may be {}", quoted(name), names.join(", "));
    }
    format!("no such value {}{near}", quoted(name))
}
