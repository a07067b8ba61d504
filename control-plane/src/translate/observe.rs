//! What a Gateway tells of requests -> access logs, tracing, and headers that become metadata.

use prost::{Message, Name};
use xds_types::any::pack;
use xds_types::envoy::config::accesslog::v3::{AccessLog, access_log};
use xds_types::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use xds_types::envoy::config::core::v3::substitution_format_string::Format;
use xds_types::envoy::config::core::v3::{
    ApiVersion, DataSource, GrpcService, SubstitutionFormatString, data_source::Specifier,
};
use xds_types::envoy::config::trace::v3::{OpenTelemetryConfig, tracing::Http, tracing::http};
use xds_types::envoy::extensions::access_loggers::file::v3::{
    FileAccessLog, file_access_log::AccessLogFormat,
};
use xds_types::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig,
};
use xds_types::envoy::extensions::filters::http::header_to_metadata::v3::Config as HeaderToMetadata;
use xds_types::envoy::extensions::filters::http::header_to_metadata::v3::config::{KeyValuePair, Rule};
use xds_types::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing as EnvoyTracing;
use xds_types::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, LocalReplyConfig, http_filter,
};
use xds_types::envoy::r#type::tracing::v3::{CustomTag, custom_tag};
use xds_types::envoy::r#type::v3::Percent;
use xds_types::google::protobuf::{DoubleValue, Struct};
use xds_types::portolan::config::v1::{AccessLog as Log, Gateway, HeaderMetadata, LocalReplies, Tracing};

use super::names;
use crate::model::check::HEADER_METADATA;

/// Services that a gateway tells things by gRPC: where it names them, and their names.
pub(super) fn services(spec: &Gateway) -> impl Iterator<Item = (&'static str, &str)> {
    let log = spec.access_log.as_ref().map(|log| ("spec.access_log.service", log.service.as_str()));
    let tracing = spec.tracing.as_ref().map(|tracing| ("spec.tracing.service", tracing.service.as_str()));
    log.into_iter().chain(tracing).filter(|(_, name)| !name.is_empty())
}

/// The access logs of connections that carry bytes on a gateway.
pub(super) fn connection_logs(gateway: &str, log: &Log) -> Vec<AccessLog> {
    let entries = service(gateway, log).map(|common_config| {
        let config = TcpGrpcAccessLogConfig { common_config: Some(common_config) };
        access_log("envoy.access_loggers.tcp_grpc", &config)
    });
    file(log).into_iter().chain(entries).collect()
}

/// The access logs of requests on a gateway.
pub(super) fn request_logs(gateway: &str, log: &Log) -> Vec<AccessLog> {
    let entries = service(gateway, log).map(|common_config| {
        let common_config = Some(common_config);
        let config = HttpGrpcAccessLogConfig { common_config, ..HttpGrpcAccessLogConfig::default() };
        access_log("envoy.access_loggers.http_grpc", &config)
    });
    file(log).into_iter().chain(entries).collect()
}

fn service(gateway: &str, log: &Log) -> Option<CommonGrpcAccessLogConfig> {
    let Log { path: _, format: _, json: _, service, log_name } = log;
    let log_name = if log_name.is_empty() { gateway } else { log_name };
    (!service.is_empty()).then(|| CommonGrpcAccessLogConfig {
        log_name: log_name.to_owned(),
        grpc_service: grpc(service),
        transport_api_version: ApiVersion::V3.into(),
        ..CommonGrpcAccessLogConfig::default()
    })
}

fn access_log<M: Message + Name>(name: &str, config: &M) -> AccessLog {
    AccessLog {
        name: name.to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(pack(config))),
        ..AccessLog::default()
    }
}

fn file(log: &Log) -> Option<AccessLog> {
    let Log { path, format, json, service: _, log_name: _ } = log;
    // Envoy's formats end their own lines.
    let end = if format.is_empty() || format.ends_with('\n') { "" } else { "\n" };
    let format = formatted(&format!("{format}{end}"), json.as_ref()).map(|f| {
        AccessLogFormat::LogFormat(SubstitutionFormatString { format: Some(f), ..Default::default() })
    });
    let file = FileAccessLog { path: path.clone(), access_log_format: format };
    (!path.is_empty()).then(|| access_log("envoy.access_loggers.file", &file))
}

fn formatted(text: &str, json: Option<&Struct>) -> Option<Format> {
    let text = (!text.is_empty()).then(|| {
        let specifier = Some(Specifier::InlineString(text.to_owned()));
        Format::TextFormatSource(DataSource { specifier, ..DataSource::default() })
    });
    json.map(|json| Format::JsonFormat(json.clone())).or(text)
}

/// What the proxy's own answers say.
pub(super) fn local_replies(replies: &LocalReplies) -> LocalReplyConfig {
    let LocalReplies { format, json, content_type } = replies;
    let body_format = Some(SubstitutionFormatString {
        format: formatted(format, json.as_ref()),
        content_type: content_type.clone(),
        ..SubstitutionFormatString::default()
    });
    LocalReplyConfig { body_format, ..LocalReplyConfig::default() }
}

fn grpc(service: &str) -> Option<GrpcService> {
    let cluster_name = names::cluster(service, "").to_string();
    Some(GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name,
            ..EnvoyGrpc::default()
        })),
        ..GrpcService::default()
    })
}

/// How requests on a gateway are traced.
pub(super) fn tracing(gateway: &str, tracing: &Tracing) -> EnvoyTracing {
    let Tracing { service, service_name, sampling_percent, client_percent, overall_percent, tags } = tracing;
    let percent = |p: &Option<DoubleValue>| Some(Percent { value: p.as_ref().map_or(100.0, |p| p.value) });
    let name = if service_name.is_empty() { gateway } else { service_name };
    let provider = OpenTelemetryConfig {
        grpc_service: grpc(service),
        service_name: name.to_owned(),
        ..OpenTelemetryConfig::default()
    };
    let mut custom_tags: Vec<CustomTag> = tags
        .iter()
        .map(|(tag, format)| CustomTag {
            tag: tag.clone(),
            r#type: Some(custom_tag::Type::Value(format.clone())),
        })
        .collect();
    custom_tags.sort_by(|a, b| a.tag.cmp(&b.tag)); // a proto map has no order
    EnvoyTracing {
        client_sampling: percent(client_percent),
        random_sampling: percent(sampling_percent),
        overall_sampling: percent(overall_percent),
        custom_tags,
        provider: Some(Http {
            name: "envoy.tracers.opentelemetry".to_owned(),
            config_type: Some(http::ConfigType::TypedConfig(pack(&provider))),
        }),
        ..EnvoyTracing::default()
    }
}

/// The filter that makes metadata of headers, before those that read it.
pub(super) fn header_metadata(all: &[HeaderMetadata]) -> Option<HttpFilter> {
    let rule = |one: &HeaderMetadata| {
        let HeaderMetadata { header, namespace, key, default, remove } = one;
        let named = |text: &str, default: &str| if text.is_empty() { default } else { text }.to_owned();
        let to = KeyValuePair {
            metadata_namespace: named(namespace, HEADER_METADATA),
            key: named(key, header),
            ..KeyValuePair::default()
        };
        Rule {
            header: header.to_ascii_lowercase(),
            on_header_missing: (!default.is_empty())
                .then(|| KeyValuePair { value: default.clone(), ..to.clone() }),
            on_header_present: Some(to),
            remove: *remove,
            ..Rule::default()
        }
    };
    let config =
        HeaderToMetadata { request_rules: all.iter().map(rule).collect(), ..HeaderToMetadata::default() };
    (!all.is_empty()).then(|| HttpFilter {
        name: "portolan.header_metadata".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(&config))),
        ..HttpFilter::default()
    })
}
