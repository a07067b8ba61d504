//! Formats: `SubstitutionFormatString` and the JSON shapes with formats at their leaves.

use super::field::{ignored, unsupported};
use super::{Options, data};
use crate::config::{AccessLogFormat, BodyFormat, JsonFormat};
use crate::headers::format::{Format, Missing};
use crate::path::{Diagnostics, Path, Rejected};
use xds_types::envoy::config::core::v3::substitution_format_string::Format as Kind;
use xds_types::envoy::config::core::v3::{JsonFormatOptions, SubstitutionFormatString};
use xds_types::google::protobuf::value::Kind as ValueKind;
use xds_types::google::protobuf::{ListValue, Struct, Value};

/// A compiled format and the content type asked for (empty: none).
pub(super) fn substitution(
    proto: SubstitutionFormatString,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<(AccessLogFormat, Box<str>), Rejected> {
    let SubstitutionFormatString { omit_empty_values, content_type, formatters, json_format_options, format } =
        proto;
    unsupported!(d, at, "formatter extensions are not supported"; formatters);
    if let Some(JsonFormatOptions { sort_properties }) = json_format_options {
        let at = at.field("json_format_options");
        if sort_properties {
            d.ignored(&at.field("sort_properties"), "properties are always sorted");
        }
    }
    let missing = if omit_empty_values { Missing::Empty } else { Missing::Dash };
    let format = match format {
        Some(Kind::TextFormat(text)) => {
            AccessLogFormat::Text(compile(&text, missing, &at.field("text_format"), d)?)
        }
        Some(Kind::TextFormatSource(source)) => {
            let at = at.field("text_format_source");
            let text = data::text(source, &at, d, o)?;
            AccessLogFormat::Text(compile(&text, missing, &at, d)?)
        }
        Some(Kind::JsonFormat(object)) => json(object, omit_empty_values, &at.field("json_format"), d)?,
        None => return Err(d.reject(at, "one of text_format_source, json_format, text_format is required")),
    };
    Ok((format, content_type.into()))
}

/// How a body is made.
pub(super) fn of_body(
    proto: SubstitutionFormatString,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<BodyFormat, Rejected> {
    let (format, content_type) = substitution(proto, at, d, o)?;
    let content_type = match &format {
        _ if !content_type.is_empty() => content_type,
        AccessLogFormat::Text(_) => "text/plain".into(),
        AccessLogFormat::Json { .. } => "application/json".into(),
    };
    Ok(BodyFormat { format, content_type })
}

/// A compiled format of a log, which has no content type.
pub(super) fn of_log(
    proto: SubstitutionFormatString,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<AccessLogFormat, Rejected> {
    let (format, content_type) = substitution(proto, at, d, o)?;
    let content_type = content_type.into_string();
    ignored!(d, at, "has no meaning in a log"; content_type);
    Ok(format)
}

/// A JSON object with formats at its leaves.
pub(super) fn json(
    proto: Struct,
    omit_empty: bool,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<AccessLogFormat, Rejected> {
    Ok(AccessLogFormat::Json { object: object(proto, at, d)?, omit_empty })
}

fn object(proto: Struct, at: &Path<'_>, d: &mut Diagnostics) -> Result<JsonFormat, Rejected> {
    let Struct { fields } = proto;
    let mut members: Vec<_> = fields.into_iter().collect();
    members.sort_by(|(a, _), (b, _)| a.cmp(b));
    let members: Vec<_> = members
        .into_iter()
        .map(|(key, proto)| {
            let value = value(proto, &at.key(&key), d)?;
            Ok((key, value))
        })
        .collect();
    Ok(JsonFormat::Object(members.into_iter().collect::<Result<_, _>>()?))
}

fn value(proto: Value, at: &Path<'_>, d: &mut Diagnostics) -> Result<JsonFormat, Rejected> {
    let Value { kind } = proto;
    match kind {
        Some(ValueKind::StringValue(text)) => Ok(JsonFormat::Text(compile(&text, Missing::Dash, at, d)?)),
        Some(ValueKind::NumberValue(number)) => Ok(JsonFormat::Literal(number_text(number))),
        Some(ValueKind::BoolValue(value)) => Ok(JsonFormat::Literal(value.to_string())),
        Some(ValueKind::NullValue(_)) | None => Ok(JsonFormat::Literal("null".into())),
        Some(ValueKind::StructValue(proto)) => object(proto, at, d),
        Some(ValueKind::ListValue(ListValue { values })) => {
            let elements: Vec<_> =
                values.into_iter().enumerate().map(|(i, proto)| value(proto, &at.index(i), d)).collect();
            Ok(JsonFormat::Array(elements.into_iter().collect::<Result<_, _>>()?))
        }
    }
}

/// A number as JSON writes it: without a fraction when it is whole.
pub(super) fn number_text(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 1e15 { format!("{number:.0}") } else { number.to_string() }
}

fn compile(text: &str, missing: Missing, at: &Path<'_>, d: &mut Diagnostics) -> Result<Format, Rejected> {
    Format::compile(text, missing).map_err(|e| d.reject(at, e))
}
