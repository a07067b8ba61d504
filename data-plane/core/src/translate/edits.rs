//! Header edits: `*_headers_to_add` and `*_headers_to_remove`.

use super::field::{self, required};
use crate::headers::edit::{AppendAction, HeaderAdd, HeaderEdits, is_modifiable};
use crate::headers::format::{Format, Missing};
use crate::path::{Diagnostics, Path, Rejected};
use xds_types::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use xds_types::envoy::config::core::v3::{HeaderValue, HeaderValueOption};

/// Which way the edited message goes: names the fields.
#[derive(Clone, Copy)]
pub(super) enum Direction {
    Request,
    Response,
}

/// The edits of the message at `at`.
pub(super) fn edits(
    direction: Direction,
    add: Vec<HeaderValueOption>,
    remove: Vec<String>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> HeaderEdits {
    let (to_add, to_remove) = match direction {
        Direction::Request => ("request_headers_to_add", "request_headers_to_remove"),
        Direction::Response => ("response_headers_to_add", "response_headers_to_remove"),
    };
    HeaderEdits {
        add: field::each(add, &at.field(to_add), d, added),
        remove: field::each(remove, &at.field(to_remove), d, removed),
    }
}

/// Additions alone, of the list at `at`.
pub(super) fn additions(add: Vec<HeaderValueOption>, at: &Path<'_>, d: &mut Diagnostics) -> HeaderEdits {
    HeaderEdits { add: field::each(add, at, d, added), remove: Vec::new() }
}

fn added(proto: HeaderValueOption, at: &Path<'_>, d: &mut Diagnostics) -> Result<HeaderAdd, Rejected> {
    let HeaderValueOption { header, append, append_action, keep_empty_value } = proto;
    let action_at = at.field("append_action");
    let action = match (append, field::variant(append_action, &action_at, d)?) {
        (None, HeaderAppendAction::AppendIfExistsOrAdd) => AppendAction::AppendOrAdd,
        (None, HeaderAppendAction::AddIfAbsent) => AppendAction::AddIfAbsent,
        (None, HeaderAppendAction::OverwriteIfExistsOrAdd) => AppendAction::OverwriteOrAdd,
        (None, HeaderAppendAction::OverwriteIfExists) => AppendAction::OverwriteIfExists,
        (Some(append), HeaderAppendAction::AppendIfExistsOrAdd) if append.value => AppendAction::AppendOrAdd,
        (Some(_), HeaderAppendAction::AppendIfExistsOrAdd) => AppendAction::OverwriteOrAdd,
        (Some(_), _) => {
            return Err(d.reject(&action_at, "append (deprecated) and append_action exclude each other"));
        }
    };
    let at = at.field("header");
    let (key, value) = pair(required(header, &at, d)?, &at, d)?;
    if !is_modifiable(&key) {
        return Err(d.reject(&at.field("key"), ":-prefixed or host headers may not be modified"));
    }
    let value = Format::compile(&value, Missing::Empty).map_err(|e| d.reject(&at.field("value"), e))?;
    Ok(HeaderAdd { name: key.to_ascii_lowercase().into(), value, action, keep_empty_value })
}

/// A header's name and value.
pub(super) fn pair(
    proto: HeaderValue,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<(String, String), Rejected> {
    let HeaderValue { key, value, raw_value } = proto;
    let value = match (value.is_empty(), raw_value.is_empty()) {
        (_, true) => value,
        (true, false) => {
            let at = at.field("raw_value");
            String::from_utf8(raw_value)
                .map_err(|_| d.reject(&at, "values that are not UTF-8 are not supported"))?
        }
        (false, false) => {
            return Err(d.reject(&at.field("raw_value"), "value and raw_value exclude each other"));
        }
    };
    name(&key, &at.field("key"), d)?;
    if value.bytes().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
        return Err(d.reject(&at.field("value"), "must not hold line ends or NUL"));
    }
    Ok((key, value))
}

fn removed(key: String, at: &Path<'_>, d: &mut Diagnostics) -> Result<Box<str>, Rejected> {
    name(&key, at, d)?;
    if !is_modifiable(&key) {
        return Err(d.reject(at, ":-prefixed or host headers may not be removed"));
    }
    Ok(key.to_ascii_lowercase().into())
}

/// A header name: a token of RFC 9110 5.6.2, with a colon before a pseudo-header.
pub(super) fn name(key: &str, at: &Path<'_>, d: &mut Diagnostics) -> Result<(), Rejected> {
    let token = key.strip_prefix(':').unwrap_or(key);
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if token.is_empty() || !token.bytes().all(legal) {
        return Err(d.reject(at, format_args!("{key:?} is not a header name")));
    }
    Ok(())
}
