//! Checks of what a Gateway tells of requests: logs, spans, metadata.

use std::collections::BTreeSet;

use super::{Checker, format, header_name};
use crate::model::ServiceName;
use xds_types::google::protobuf::{DoubleValue, Struct, Value, value::Kind};
use xds_types::portolan::config::v1::{AccessLog, HeaderMetadata, LocalReplies, Tracing};

/// Namespace of metadata out of headers, as Envoy has it by default.
pub const HEADER_METADATA: &str = "envoy.filters.http.header_to_metadata";

pub(super) fn access_log(log: &AccessLog, at: &mut Checker<'_>) {
    let AccessLog { path, format: line, json, service, log_name } = log;
    if path.is_empty() && service.is_empty() {
        at.error("spec.access_log.path", "must not be empty; `/dev/stdout` is the standard output");
    }
    if path.is_empty() && (!line.is_empty() || json.is_some()) {
        at.error("spec.access_log", "has a format for files and no path: a service gets whole entries");
    }
    if !line.is_empty() && json.is_some() {
        at.error("spec.access_log", "must not have both format and json");
    }
    if let Err(message) = format(&line.replace('\n', " ")) {
        at.error("spec.access_log.format", message);
    }
    if let Some(json) = json {
        check_json("spec.access_log.json", json, at);
    }
    if service.is_empty() {
        if !log_name.is_empty() {
            at.error("spec.access_log.log_name", "is told to a service, and there is none");
        }
        return;
    }
    service_name("spec.access_log.service", service, at);
}

pub(super) fn tracing(tracing: &Tracing, at: &mut Checker<'_>) {
    let Tracing { service, service_name: _, sampling_percent, client_percent, overall_percent, tags } =
        tracing;
    service_name("spec.tracing.service", service, at);
    let shares = [
        ("sampling_percent", sampling_percent),
        ("client_percent", client_percent),
        ("overall_percent", overall_percent),
    ];
    for (field, DoubleValue { value }) in shares.iter().filter_map(|(f, share)| Some((f, share.as_ref()?))) {
        if !(0.0..=100.0).contains(value) {
            at.error(format!("spec.tracing.{field}"), "must be 0 to 100");
        }
    }
    let mut sorted: Vec<_> = tags.iter().collect();
    sorted.sort();
    for (name, text) in sorted {
        let path = format!("spec.tracing.tags[\"{name}\"]");
        if name.is_empty() {
            at.error(&*path, "needs a name");
        }
        if text.is_empty() {
            at.error(&*path, "must not be empty");
        }
        if let Err(message) = format(text) {
            at.error(path, message);
        }
    }
}

pub(super) fn local_replies(replies: &LocalReplies, at: &mut Checker<'_>) {
    let LocalReplies { format: text, json, content_type } = replies;
    if text.is_empty() == json.is_none() {
        at.error("spec.local_replies", "must have one of format and json");
    }
    if let Err(message) = format(&text.replace('\n', " ")) {
        at.error("spec.local_replies.format", message);
    }
    if let Some(json) = json {
        check_json("spec.local_replies.json", json, at);
    }
    if content_type.bytes().any(|b| b.is_ascii_control()) {
        at.error("spec.local_replies.content_type", "is not the value of a header");
    }
}

pub(super) fn header_metadata(all: &[HeaderMetadata], at: &mut Checker<'_>) {
    let mut seen = BTreeSet::new();
    for (i, HeaderMetadata { header, namespace, key, default: _, remove: _ }) in all.iter().enumerate() {
        let path = format!("spec.metadata[{i}]");
        if let Err(message) = header_name(header) {
            at.error(format!("{path}.header"), format!("`{header}` {message}"));
        }
        let namespace = if namespace.is_empty() { HEADER_METADATA } else { namespace };
        if !seen.insert((namespace, if key.is_empty() { header } else { key })) {
            at.error(format!("{path}.key"), "is there twice");
        }
    }
}

fn service_name(path: &str, name: &str, at: &mut Checker<'_>) {
    if let Err(e) = ServiceName::new(name) {
        at.error(path, format!("`{name}` {e}"));
    }
}

fn check_json(path: &str, json: &Struct, at: &mut Checker<'_>) {
    let mut members: Vec<_> = json.fields.iter().collect();
    members.sort_by_key(|(name, _)| *name);
    for (name, value) in members {
        check_value(&format!("{path}[\"{name}\"]"), value, at);
    }
}

fn check_value(path: &str, value: &Value, at: &mut Checker<'_>) {
    match &value.kind {
        Some(Kind::StringValue(text)) => {
            if let Err(message) = format(text) {
                at.error(path, message);
            }
        }
        Some(Kind::StructValue(inner)) => check_json(path, inner, at),
        Some(Kind::ListValue(list)) => {
            for (i, v) in list.values.iter().enumerate() {
                check_value(&format!("{path}[{i}]"), v, at);
            }
        }
        Some(Kind::NumberValue(_) | Kind::BoolValue(_) | Kind::NullValue(_)) | None => {}
    }
}
