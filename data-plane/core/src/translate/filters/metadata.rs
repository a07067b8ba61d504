//! Filters that say something of a stream: `header_to_metadata`, `set_metadata`.

use super::super::field::{self, ignored, unsupported};
use super::super::{edits, matcher, runtime};
use crate::config::{HeaderRule, HeaderSource, HeaderToMetadata, MetadataValue, SetMetadata};
use crate::path::{Diagnostics, Path, Rejected};
use xds_types::envoy::extensions::filters::http::header_to_metadata::v3::Config;
use xds_types::envoy::extensions::filters::http::header_to_metadata::v3::config::{
    KeyValuePair, Rule, ValueEncode, ValueType,
};
use xds_types::envoy::extensions::filters::http::set_metadata::v3 as set_proto;

/// Where values go that name no namespace.
const NAMESPACE: &str = "envoy.filters.http.header_to_metadata";

/// `envoy.filters.http.header_to_metadata`.
pub(super) fn header_to_metadata(
    proto: Config,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<HeaderToMetadata, Rejected> {
    let Config { request_rules, response_rules, stat_prefix } = proto;
    ignored!(d, at, "no stats of it are kept"; stat_prefix);
    Ok(HeaderToMetadata {
        request: field::each(request_rules, &at.field("request_rules"), d, rule),
        response: field::each(response_rules, &at.field("response_rules"), d, rule),
    })
}

fn rule(proto: Rule, at: &Path<'_>, d: &mut Diagnostics) -> Result<HeaderRule, Rejected> {
    let Rule { header, cookie, on_header_present, on_header_missing, remove } = proto;
    let source = match (header.is_empty(), cookie.is_empty()) {
        (false, true) => {
            edits::name(&header, &at.field("header"), d)?;
            HeaderSource::Header(header.to_ascii_lowercase().into())
        }
        (true, false) => HeaderSource::Cookie(cookie.into()),
        (false, false) => {
            return Err(d.reject(&at.field("cookie"), "header and cookie exclude each other"));
        }
        (true, true) => return Err(d.reject(at, "one of header, cookie is required")),
    };
    if matches!(source, HeaderSource::Cookie(_)) {
        unsupported!(d, at, "cookies cannot be removed"; remove);
    }
    if on_header_present.is_none() && on_header_missing.is_none() {
        return Err(d.reject(at, "one of on_header_present, on_header_missing is required"));
    }
    let present_at = at.field("on_header_present");
    let missing_at = at.field("on_header_missing");
    let missing = on_header_missing.map(|proto| value(proto, &missing_at, d)).transpose()?;
    if missing.as_ref().is_some_and(|missing| missing.value.is_empty()) {
        return Err(d.reject(&missing_at.field("value"), "is required"));
    }
    let present = on_header_present.map(|proto| value(proto, &present_at, d)).transpose()?;
    Ok(HeaderRule { source, present, missing, remove })
}

fn value(proto: KeyValuePair, at: &Path<'_>, d: &mut Diagnostics) -> Result<MetadataValue, Rejected> {
    let KeyValuePair { metadata_namespace, key, value, regex_value_rewrite, r#type, encode } = proto;
    let rewrite_at = at.field("regex_value_rewrite");
    if regex_value_rewrite.is_some() && !value.is_empty() {
        return Err(d.reject(&rewrite_at, "value and regex_value_rewrite exclude each other"));
    }
    let type_at = at.field("type");
    let number = match field::variant(r#type, &type_at, d)? {
        ValueType::String => false,
        ValueType::Number => true,
        ValueType::ProtobufValue => return Err(d.reject(&type_at, "packed values are not supported")),
    };
    let base64 = match field::variant(encode, &at.field("encode"), d)? {
        ValueEncode::None => false,
        ValueEncode::Base64 => true,
    };
    Ok(MetadataValue {
        namespace: if metadata_namespace.is_empty() { NAMESPACE.into() } else { metadata_namespace.into() },
        key: key.into(),
        value: value.into(),
        rewrite: regex_value_rewrite.map(|proto| matcher::substitution(proto, &rewrite_at, d)).transpose()?,
        number,
        base64,
    })
}

/// `envoy.filters.http.set_metadata`.
pub(super) fn set_metadata(
    proto: set_proto::Config,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Vec<SetMetadata>, Rejected> {
    let set_proto::Config { metadata_namespace, value, metadata } = proto;
    let mut all = Vec::new();
    match value {
        // Deprecated: the one value there was before there was a list, which merges.
        Some(value) if !metadata_namespace.is_empty() => all.push(SetMetadata {
            namespace: metadata_namespace.into(),
            overwrite: true,
            value: runtime::json_object(value),
        }),
        Some(_) => _ = d.reject(&at.field("metadata_namespace"), "is required with value"),
        None => ignored!(d, at, "there is no value for it"; metadata_namespace),
    }
    all.extend(field::each(metadata, &at.field("metadata"), d, |proto, at, d| {
        let set_proto::Metadata { metadata_namespace, allow_overwrite, value, typed_value } = proto;
        unsupported!(d, at, "no filter reads typed metadata"; typed_value);
        Ok(SetMetadata {
            namespace: metadata_namespace.into(),
            overwrite: allow_overwrite,
            value: value.map(runtime::json_object).unwrap_or_default(),
        })
    }));
    Ok(all)
}
