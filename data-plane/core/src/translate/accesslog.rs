//! Access logs: sinks, formats and filters.

use super::extension;
use super::field::{self, ignored, required};
use super::{Options, format, fraction, matcher};
use crate::accesslog::DEFAULT_FORMAT;
use crate::config::{
    AccessLog, AccessLogFilter, AccessLogFormat, AccessLogSink, Comparison, RuntimeFraction,
};
use crate::headers::ResponseFlags;
use crate::headers::format::{Format, Missing};
use crate::path::{Diagnostics, Path, Rejected};
use xds_types::envoy::config::accesslog::v3 as proto;
use xds_types::envoy::config::accesslog::v3::access_log::ConfigType;
use xds_types::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier as Kind;
use xds_types::envoy::config::accesslog::v3::comparison_filter::Op;
use xds_types::envoy::config::core::v3::RuntimeUInt32;
use xds_types::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use xds_types::envoy::extensions::access_loggers::stream::v3::{
    StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log,
};

/// The access logs in the field `at`.
pub(super) fn logs(
    list: Vec<proto::AccessLog>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Vec<AccessLog> {
    field::each(list, at, d, |proto, at, d| log(proto, at, d, o))
}

/// A file log in the default format (`admin.access_log_path`).
pub(super) fn plain_file(path: String) -> AccessLog {
    AccessLog { sink: AccessLogSink::File(path.into()), format: default_format(), filter: None }
}

pub(super) fn log(
    proto: proto::AccessLog,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<AccessLog, Rejected> {
    let proto::AccessLog { name, filter: filter_proto, config_type } = proto;
    let filter = filter_proto.map(|proto| filter(proto, &at.field("filter"), d));
    let packed = config_type.map(|ConfigType::TypedConfig(packed)| packed);
    let packed = extension::packed(packed.as_ref(), at, d)?;
    let at = at.field("typed_config");
    let (sink, format) = if extension::is::<FileAccessLog>(packed) {
        file(extension::open(packed, &at, d)?, &at, d, o)?
    } else if extension::is::<StdoutAccessLog>(packed) {
        let StdoutAccessLog { access_log_format } = extension::open(packed, &at, d)?;
        let format = access_log_format.map(|stdout_access_log::AccessLogFormat::LogFormat(format)| format);
        (AccessLogSink::Stdout, log_format(format, &at, d, o)?)
    } else if extension::is::<StderrAccessLog>(packed) {
        let StderrAccessLog { access_log_format } = extension::open(packed, &at, d)?;
        let format = access_log_format.map(|stderr_access_log::AccessLogFormat::LogFormat(format)| format);
        (AccessLogSink::Stderr, log_format(format, &at, d, o)?)
    } else {
        return Err(extension::unknown("access log", &name, packed, &at, d));
    };
    Ok(AccessLog { sink, format, filter: filter.transpose()? })
}

fn file(
    proto: FileAccessLog,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<(AccessLogSink, AccessLogFormat), Rejected> {
    use file_access_log::AccessLogFormat as Kind;
    let FileAccessLog { path, access_log_format } = proto;
    if path.is_empty() {
        d.reject(&at.field("path"), "is required");
    }
    let format = match access_log_format {
        Some(Kind::LogFormat(proto)) => log_format(Some(proto), at, d, o)?,
        // The other three are deprecated in favour of log_format.
        Some(Kind::Format(text)) if text.is_empty() => default_format(),
        Some(Kind::Format(text)) => match Format::compile(&text, Missing::Dash) {
            Ok(format) => AccessLogFormat::Text(format),
            Err(e) => return Err(d.reject(&at.field("format"), e)),
        },
        Some(Kind::JsonFormat(object)) => format::json(object, false, &at.field("json_format"), d)?,
        Some(Kind::TypedJsonFormat(object)) => {
            format::json(object, false, &at.field("typed_json_format"), d)?
        }
        None => default_format(),
    };
    Ok((AccessLogSink::File(path.into()), format))
}

fn log_format(
    proto: Option<xds_types::envoy::config::core::v3::SubstitutionFormatString>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<AccessLogFormat, Rejected> {
    match proto {
        Some(proto) => format::of_log(proto, &at.field("log_format"), d, o),
        None => Ok(default_format()),
    }
}

fn default_format() -> AccessLogFormat {
    let format = Format::compile(DEFAULT_FORMAT, Missing::Dash);
    AccessLogFormat::Text(format.expect("INVARIANT: the default format compiles; a test holds it"))
}

/// Which requests.
pub(super) fn filter(
    proto: proto::AccessLogFilter,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<AccessLogFilter, Rejected> {
    let proto::AccessLogFilter { filter_specifier } = proto;
    match required(filter_specifier, at, d)? {
        Kind::StatusCodeFilter(proto::StatusCodeFilter { comparison: proto }) => {
            let (op, value) = comparison(proto, &at.field("status_code_filter").field("comparison"), d)?;
            Ok(AccessLogFilter::Status(op, value))
        }
        Kind::DurationFilter(proto::DurationFilter { comparison: proto }) => {
            let (op, value) = comparison(proto, &at.field("duration_filter").field("comparison"), d)?;
            Ok(AccessLogFilter::Duration(op, value.into()))
        }
        Kind::NotHealthCheckFilter(proto::NotHealthCheckFilter {}) => Ok(AccessLogFilter::NotHealthCheck),
        Kind::TraceableFilter(proto::TraceableFilter {}) => Ok(AccessLogFilter::Traceable),
        Kind::RuntimeFilter(proto) => runtime_filter(proto, &at.field("runtime_filter"), d),
        Kind::AndFilter(proto::AndFilter { filters }) => Ok(AccessLogFilter::And(field::each(
            filters,
            &at.field("and_filter").field("filters"),
            d,
            filter,
        ))),
        Kind::OrFilter(proto::OrFilter { filters }) => {
            Ok(AccessLogFilter::Or(field::each(filters, &at.field("or_filter").field("filters"), d, filter)))
        }
        Kind::HeaderFilter(proto::HeaderFilter { header }) => {
            let at = at.field("header_filter");
            let at = at.field("header");
            Ok(AccessLogFilter::Header(matcher::header(required(header, &at, d)?, &at, d)?))
        }
        Kind::ResponseFlagFilter(proto::ResponseFlagFilter { flags }) => {
            let at = at.field("response_flag_filter");
            let flags = field::each(flags, &at.field("flags"), d, |flag, at, d| {
                match ResponseFlags::from_short(&flag) {
                    Some(_) => Ok(flag.into()),
                    None => Err(d.reject(at, format_args!("{flag:?} is not a response flag"))),
                }
            });
            Ok(AccessLogFilter::ResponseFlag(flags))
        }
        Kind::GrpcStatusFilter(proto::GrpcStatusFilter { statuses, exclude }) => {
            let at = at.field("grpc_status_filter");
            let codes = field::each(statuses, &at.field("statuses"), d, |status, at, d| {
                let status = field::variant::<proto::grpc_status_filter::Status>(status, at, d)?;
                Ok(u8::try_from(i32::from(status)).unwrap_or_default())
            });
            Ok(AccessLogFilter::GrpcStatus { codes, exclude })
        }
        Kind::ExtensionFilter(_) => Err(d.reject(&at.field("extension_filter"), "not supported")),
        Kind::MetadataFilter(_) => Err(d.reject(&at.field("metadata_filter"), "not supported")),
        Kind::LogTypeFilter(_) => Err(d.reject(&at.field("log_type_filter"), "not supported")),
    }
}

fn comparison(
    proto: Option<proto::ComparisonFilter>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<(Comparison, u32), Rejected> {
    let proto::ComparisonFilter { op, value } = required(proto, at, d)?;
    let op = match field::variant(op, &at.field("op"), d)? {
        Op::Eq => Comparison::Eq,
        Op::Ge => Comparison::Ge,
        Op::Le => Comparison::Le,
        Op::Ne => Comparison::Ne,
    };
    let at = at.field("value");
    let RuntimeUInt32 { default_value, runtime_key } = required(value, &at, d)?;
    ignored!(d, at, "runtime does not override comparisons of access log filters"; runtime_key);
    Ok((op, default_value))
}

fn runtime_filter(
    proto: proto::RuntimeFilter,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<AccessLogFilter, Rejected> {
    let proto::RuntimeFilter { runtime_key, percent_sampled, use_independent_randomness } = proto;
    ignored!(d, at, "samples are drawn independently of x-request-id"; use_independent_randomness);
    let percent = percent_sampled.unwrap_or_default();
    let default = fraction::fractional(percent, &at.field("percent_sampled"), d)?;
    Ok(AccessLogFilter::Runtime(RuntimeFraction { default, key: runtime_key.into() }))
}
