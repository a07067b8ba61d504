//! Access logs that go to a gRPC service, beside those of lines.

use super::extension;
use super::field::{ignored, required};
use super::{Options, accesslog, duration, source, tracing};
use crate::config::{AccessLog, AccessLogFilter, ConnectionLogs, GrpcAccessLog, HttpGrpcAccessLog};
use crate::path::{Diagnostics, Path, Rejected};
use prost::Name;
use std::time::Duration;
use xds_types::envoy::config::accesslog::v3 as proto;
use xds_types::envoy::config::accesslog::v3::access_log::ConfigType;
use xds_types::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig,
};

/// Envoy's default of `buffer_flush_interval`.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// Envoy's default of `buffer_size_bytes`.
const BATCH_BYTES: u32 = 16 << 10;

/// The access logs of a connection manager: lines, and those that go to a gRPC service.
pub(super) fn http_logs(
    list: Vec<proto::AccessLog>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> (Vec<AccessLog>, Vec<HttpGrpcAccessLog>) {
    logs::<HttpGrpcAccessLogConfig, _>(list, at, d, o, http)
}

/// The access logs of connections.
pub(super) fn connection_logs(
    list: Vec<proto::AccessLog>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> ConnectionLogs {
    let (lines, entries) = logs::<TcpGrpcAccessLogConfig, _>(list, at, d, o, tcp);
    ConnectionLogs { lines, entries }
}

/// Logs of the kind `P`, and those of lines. What is wrong is told; the others are looked at still.
fn logs<P: Name, T>(
    list: Vec<proto::AccessLog>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
    entry: fn(proto::AccessLog, &Path<'_>, &mut Diagnostics, &Options<'_>) -> Result<T, Rejected>,
) -> (Vec<AccessLog>, Vec<T>) {
    let (mut lines, mut entries) = (Vec::new(), Vec::new());
    for (index, proto) in list.into_iter().enumerate() {
        let at = at.index(index);
        let is_entry = matches!(&proto.config_type, Some(ConfigType::TypedConfig(packed))
            if extension::is::<P>(packed));
        if is_entry {
            entries.extend(entry(proto, &at, d, o));
        } else {
            lines.extend(accesslog::log(proto, &at, d, o));
        }
    }
    (lines, entries)
}

fn http(
    proto: proto::AccessLog,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<HttpGrpcAccessLog, Rejected> {
    let (proto, filter) = opened::<HttpGrpcAccessLogConfig>(proto, at, d);
    let at = at.field("typed_config");
    let HttpGrpcAccessLogConfig {
        common_config,
        additional_request_headers_to_log,
        additional_response_headers_to_log,
        additional_response_trailers_to_log,
    } = proto?;
    let names = |list: Vec<String>| list.into_iter().map(|name| name.to_ascii_lowercase().into()).collect();
    Ok(HttpGrpcAccessLog {
        common: common(common_config, filter, &at, d, o)?,
        request_headers: names(additional_request_headers_to_log),
        response_headers: names(additional_response_headers_to_log),
        response_trailers: names(additional_response_trailers_to_log),
    })
}

fn tcp(
    proto: proto::AccessLog,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<GrpcAccessLog, Rejected> {
    let (proto, filter) = opened::<TcpGrpcAccessLogConfig>(proto, at, d);
    let TcpGrpcAccessLogConfig { common_config } = proto?;
    common(common_config, filter, &at.field("typed_config"), d, o)
}

/// Whether there is a filter, and which.
type Filter = Result<Option<AccessLogFilter>, Rejected>;

fn opened<P: prost::Message + Name + Default>(
    proto: proto::AccessLog,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> (Result<P, Rejected>, Filter) {
    let proto::AccessLog { name: _, filter, config_type } = proto;
    let filter = filter.map(|proto| accesslog::filter(proto, &at.field("filter"), d)).transpose();
    let packed = config_type.map(|ConfigType::TypedConfig(packed)| packed);
    let opened = extension::packed(packed.as_ref(), at, d)
        .and_then(|packed| extension::open(packed, &at.field("typed_config"), d));
    (opened, filter)
}

/// `at`: of the message that has the field `common_config`.
fn common(
    proto: Option<CommonGrpcAccessLogConfig>,
    filter: Filter,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<GrpcAccessLog, Rejected> {
    let at = at.field("common_config");
    let CommonGrpcAccessLogConfig {
        log_name,
        grpc_service,
        transport_api_version,
        buffer_flush_interval,
        buffer_size_bytes,
        filter_state_objects_to_log,
        grpc_stream_retry_policy,
        custom_tags,
    } = required(proto, &at, d)?;
    const AGAIN: &str = "batches are sent again with backoff";
    ignored!(d, at, AGAIN; grpc_stream_retry_policy);
    ignored!(d, at, "there is no filter state"; filter_state_objects_to_log);
    source::version(transport_api_version, source::Missing::Allowed, &at.field("transport_api_version"), d);
    let service_at = at.field("grpc_service");
    let target = required(grpc_service, &service_at, d)
        .and_then(|proto| source::grpc_service(proto, AGAIN, &service_at, d));
    let interval_at = at.field("buffer_flush_interval");
    Ok(GrpcAccessLog {
        log_name: log_name.into(),
        flush_interval: duration::positive_or(buffer_flush_interval, FLUSH_INTERVAL, &interval_at, d),
        batch_bytes: buffer_size_bytes.map_or(BATCH_BYTES, |v| v.value),
        custom_tags: tracing::tags(custom_tags, &at.field("custom_tags"), d, o),
        target: target?,
        filter: filter?,
    })
}
